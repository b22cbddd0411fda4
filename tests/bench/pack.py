"""A pack of whole objects, written as they come; `git index-pack` checks every one of them afterwards."""

from __future__ import annotations

import hashlib
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

_TYPES = {"commit": 1, "tree": 2, "blob": 3}


class PackWriter:
    """Writes one pack into an object folder."""

    def __init__(self, objects: Path) -> None:
        self._path = objects / "pack" / "tmp_bench.pack"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w+b", buffering=1 << 20)
        self._file.write(b"PACK" + (2).to_bytes(4, "big") + bytes(4))
        self._seen: set[bytes] = set()

    def add(self, kind: str, data: bytes) -> bytes:
        """Append an object that is not in the pack yet. Returns its raw SHA-1."""
        oid = hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).digest()
        if oid not in self._seen:
            self._seen.add(oid)
            self._file.write(_head(_TYPES[kind], len(data)) + zlib.compress(data, 1))
        return oid

    def close(self, environ: Mapping[str, str]) -> int:
        """Finish the pack and index it. Returns how many objects it holds."""
        self._file.seek(8)
        self._file.write(len(self._seen).to_bytes(4, "big"))
        self._file.flush()
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha1").digest()
        self._file.seek(0, 2)
        self._file.write(digest)
        self._file.close()
        final = self._path.with_name(f"pack-{digest.hex()}.pack")
        self._path.rename(final)
        subprocess.run(["git", "index-pack", str(final)], check=True, env=dict(environ), stdout=subprocess.DEVNULL)
        return len(self._seen)


def _head(number: int, size: int) -> bytes:
    byte, size = number << 4 | size & 15, size >> 4
    head = bytearray()
    while size:
        head.append(byte | 128)
        byte, size = size & 127, size >> 7
    return bytes([*head, byte])
