"""The index of a pack, versions 1 and 2: where an object begins. Whatever it says is judged by who reads the pack."""

from __future__ import annotations

import mmap
import os
import stat
import struct
from math import isqrt

_MAGIC = b"\xfftOc\0\0\0\2"
_FAN = struct.Struct(">256I")
_WHOLE = 64 * 1024
"""Files up to this size are read at once, and hold no descriptor."""

_MANY = 64
"""Questions after which a larger one is mapped: a command that reads little does not pay for that."""


class BrokenPack(Exception):
    """A pack or its index is not what git writes; with the reason."""


def opened(path: str) -> tuple[int, int]:
    """A descriptor of a regular file, and its size. A FIFO or a device is a `BrokenPack`, and never waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found.st_size
    os.close(descriptor)
    raise BrokenPack("it is not a regular file")


class PackIndex:
    """Finds objects in one pack. Raises `OSError` or `BrokenPack` where the file cannot be used."""

    def __init__(self, path: str) -> None:
        self._whole: bytes | mmap.mmap | None = None
        self._asked = 0
        self._descriptor = -1
        self._descriptor, self._size = opened(path)
        if self._size <= _WHOLE:
            self._whole = os.pread(self._descriptor, self._size, 0)
            self.close()
        start = self._bytes(0, len(_MAGIC) + _FAN.size)
        head = len(_MAGIC) if start.startswith(_MAGIC) else 0
        if len(start) < head + _FAN.size:
            raise BrokenPack("its index is cut off")
        self._fan = fan = (0, *_FAN.unpack_from(start, head))
        self._names = head + _FAN.size + (0 if head else 4)
        self._stride = 20 if head else 24
        if self._size < head + _FAN.size + (28 if head else 24) * fan[-1] or list(fan) != sorted(fan):
            raise BrokenPack("its index is cut off or out of order")

    def close(self) -> None:
        """Give the descriptor back, if it holds one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    __del__ = close

    def find(self, name: bytes) -> int:
        """Where the entry of an object begins in the pack; 0 if the pack does not have it."""
        names, stride = self._names, self._stride
        low, high = self._fan[name[0]], self._fan[name[0] + 1]
        # names are spread evenly: nearly all stand within two deviations of where their next bytes put them
        guess, near = low + ((high - low) * int.from_bytes(name[1:4], "big") >> 24), isqrt(high - low) + 1
        first, last = max(low, guess - near), min(high, guess + near)
        rows = self._bytes(names + first * stride, (last - first) * stride)
        place, rest = divmod(rows.find(name), stride)
        if rest == 0:
            return self._offset(first + place)
        if first == low and last == high:
            return 0
        while low < high:
            middle = (low + high) // 2
            found = self._bytes(names + middle * stride, 20)
            if found == name:
                return self._offset(middle)
            low, high = (middle + 1, high) if found < name else (low, middle)
        return 0

    def _offset(self, place: int) -> int:
        if self._stride == 24:
            return self._number(_FAN.size + 24 * place, 4)
        count = self._fan[-1]
        short = self._number(self._names + 24 * count + 4 * place, 4)
        far = short - (1 << 31)
        return short if far < 0 else self._number(self._names + 28 * count + 8 * far, 8)

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._bytes(at, size), "big")

    def _bytes(self, at: int, size: int) -> bytes:
        if self._whole is None:
            self._asked += 1
            if self._asked < _MANY:
                return os.pread(self._descriptor, size, at)
            self._whole = mmap.mmap(self._descriptor, self._size, prot=mmap.PROT_READ)
            self.close()
        return self._whole[at : at + size]
