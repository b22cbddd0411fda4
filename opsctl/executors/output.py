"""What a program printed: the first and the last mebibyte, in bounded memory, with known secrets taken out."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from opsctl import secretscan, text

KEPT = 1024 * 1024
"""Bytes that are kept of the beginning, and of the end."""

LIVE_LIMIT = 16 * 1024 * 1024
"""Bytes of the live log; it is for watching, not for keeping."""

_LINE = 64 * 1024


class Output:
    """Takes bytes as they come. The live log is a local file that is written whole lines at a time."""

    def __init__(self, live: Path | None) -> None:
        self.total = 0
        self.fault: str | None = None
        self._head = bytearray()
        self._tail = bytearray()
        self._line = bytearray()
        self._written = 0
        self._live = -1
        if live:
            try:
                live.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                live.unlink(missing_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._live = os.open(live, flags, 0o600)
            except OSError as error:
                self.fault = error.strerror

    @property
    def last_line(self) -> str:
        """The last line with something on it, safe to show."""
        last = (self._tail or self._head)[-4096:].decode("utf-8", "replace").strip().splitlines()
        return text.one_line(secretscan.redact(last[-1]), 200) if last else ""

    def feed(self, data: bytes) -> None:
        """More of it."""
        self.total += len(data)
        room = max(0, KEPT - len(self._head))
        self._head += data[:room]
        self._tail += data[room:][-KEPT:]
        if len(self._tail) > 2 * KEPT:
            del self._tail[:-KEPT]
        if self._live >= 0:
            self._line += data
            end = self._line.rfind(b"\n") + 1 or (len(self._line) if len(self._line) > _LINE else 0)
            self._write(bytes(self._line[:end]))
            del self._line[:end]

    def _write(self, lines: bytes) -> None:
        data = secretscan.redact(lines.decode("utf-8", "replace")).encode()
        left = LIVE_LIMIT - self._written
        self._written += len(data)
        if len(data) > left:
            data = data[:left] + b"\n[opsctl: the live log ends here; the first and last MiB are kept with the run]\n"
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._live, view) :]
        except OSError as error:  # a full disk must not end the run; the run says so (RN-10)
            self.fault = error.strerror
        if self.fault or self._written > LIVE_LIMIT:
            self._close()

    def _close(self) -> None:
        self._line.clear()
        if self._live >= 0:
            with contextlib.suppress(OSError):
                os.close(self._live)
            self._live = -1

    def finish(self) -> tuple[bytes, int]:
        """What is kept, as text without known secrets, and how many bytes were cut out of the middle."""
        if self._live >= 0:
            self._write(bytes(self._line))
        self._close()
        tail = bytes(self._tail[-KEPT:])
        cut = self.total - len(self._head) - len(tail)
        parts = [bytes(self._head)]
        if cut:
            parts.append(b"\n[opsctl: %d bytes are left out here]\n" % cut)
        parts.append(tail)
        return secretscan.redact(b"".join(parts).decode("utf-8", "replace")).encode(), cut
