"""What a program printed: the first and the last mebibyte, in bounded memory, with known secrets taken out."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from opsctl import secretscan, text

KEPT = 1024 * 1024
"""Bytes that are kept of the beginning, and of the end."""

LIVE_LIMIT = 16 * 1024 * 1024
"""Bytes of the live log; it is for watching, not for keeping."""

_LINE = 64 * 1024
_SHORTEST = 8
"""Characters of a value that is taken for a secret; a shorter one would be a word of any text."""

_BROKEN_START = re.compile(rb"\A[!-~]{1,512}+")
_BROKEN_END = re.compile(rb"(?<![!-~])[!-~]{1,512}+\Z|[!-~]{512}\Z")


class Output:
    """Takes bytes as they come. The live log is a local file that is written whole lines at a time.

    `secrets` are taken out wherever they stand, as is what has the known shape of one.
    """

    def __init__(self, live: Path | None, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted({one for one in secrets if len(one) >= _SHORTEST}, key=len, reverse=True)
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
        last = self._clean(bytes((self._tail or self._head)[-_LINE:])).strip().splitlines()
        return text.one_line(last[-1], 200) if last else ""

    def _clean(self, data: bytes) -> str:
        shown = data.decode("utf-8", "replace")
        for secret in self._secrets:
            shown = shown.replace(secret, "<redacted:variable>")
        return secretscan.redact(shown)

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
            end = self._whole()
            self._write(bytes(self._line[:end]))
            del self._line[:end]

    def _whole(self) -> int:
        """Where the whole lines end; a key of many lines is held back until its last one is there."""
        begun = self._line.rfind(b"-----BEGIN ")
        if begun >= 0 and len(self._line) - begun < _LINE and b"-----END " not in self._line[begun:]:
            return self._line.rfind(b"\n", 0, begun) + 1
        return self._line.rfind(b"\n") + 1 or (len(self._line) if len(self._line) > _LINE else 0)

    def _write(self, lines: bytes) -> None:
        data = self._clean(lines).encode()
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
        head, tail = bytes(self._head), bytes(self._tail[-KEPT:])
        if self.total > len(head) + len(tail):  # half a secret has no known shape any more
            head, tail = _BROKEN_END.sub(b"", head), _BROKEN_START.sub(b"", tail)
        cut = self.total - len(head) - len(tail)
        parts = [head]
        if cut:
            parts.append(b"\n[opsctl: %d bytes are left out here]\n" % cut)
        parts.append(tail)
        return self._clean(b"".join(parts)).encode(), cut
