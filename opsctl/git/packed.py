"""Packs, read by hand: libgit2 1.9.7 (and git) loop on deltas that name each other, and inflate a base of any size.

An archive or a remote may bring any pack, so each step has a bound: the deltas in a row, their bytes, the base, the sum
of what is put together for one object. Nothing that a pack says is believed: the content has to be what the name says.
"""

from __future__ import annotations

import os
import zlib

from opsctl.errors import OpsError
from opsctl.git.loose import inflate_fault
from opsctl.git.packindex import BrokenPack, PackIndex, opened
from opsctl.gitobject import BLOB, COMMIT, TREE, object_id

BASE_LIMIT = 16 * 1024 * 1024
"""Bytes of a base. Git makes no delta against one more than 32 times as large as the result: 8 MiB for a draft."""

_DEPTH = 4095
"""Deltas in a row: the most that git can be told to make (50 unless told)."""

_DELTAS = 8 * 1024 * 1024
"""Bytes of the deltas of one object. Git makes none of more than half the size of its result."""

_WORK = 256 * 1024 * 1024
"""Bytes of all the steps to one object."""

_KEPT = 16 * 1024 * 1024
_WINDOW = 2048
_FARTHEST = 1 << 62
_CHUNK = 64 * 1024
_KINDS = {1: COMMIT, 2: TREE, 3: BLOB, 4: "tag"}
_BY_OFFSET, _BY_NAME = 6, 7


class Pack:
    """One pack. Raises `BrokenPack` and `OSError`, here and when it is read."""

    def __init__(self, stem: str) -> None:
        self._descriptor = -1
        self._path = stem + ".pack"
        self.find = PackIndex(stem + ".idx").find
        self._kept: dict[int, tuple[int, bytes]] = {}
        self._room = _KEPT

    @property
    def is_open(self) -> bool:
        """True while it holds a descriptor."""
        return self._descriptor >= 0

    def close(self) -> None:
        """Give the descriptor back; the next read opens the file again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    __del__ = close

    def read(self, oid: str, offset: int, limit: int) -> tuple[str, bytes]:
        """Kind and content of the object at a place. Raises `too_large` too."""
        if self._descriptor < 0:
            self._descriptor, _ = opened(self._path)
        if offset >= _FARTHEST:
            raise BrokenPack("its index points past the end")
        try:
            number, found = self._object(oid, offset, limit)
        except zlib.error as error:
            raise BrokenPack(inflate_fault(error)) from None
        except IndexError:
            raise BrokenPack("it is cut off") from None
        kind = _KINDS.get(number)
        if kind is None or object_id(kind, found) != oid:
            raise BrokenPack("its content is not what its name says")
        return kind, found

    def _object(self, oid: str, offset: int, limit: int) -> tuple[int, bytes]:
        """Follow the deltas down to what is whole, then put them together on the way back."""
        steps: list[tuple[int, bytes]] = []
        total = 0
        while (whole := self._kept.get(offset)) is None:
            kind, size, base, first, at = self._head(offset)
            if not base:
                self._check(oid, size, None if steps else limit)
                whole = kind, self._inflated(size, first, at)
                break
            total += size
            if total > _DELTAS or len(steps) > _DEPTH:
                raise BrokenPack("its deltas are too many, too long, or name each other")
            delta = self._inflated(size, first, at)
            self._check(oid, _sizes(delta)[1], None if steps else limit)
            steps.append((offset, delta))
            offset = base
        if steps:
            return self._joined(offset, whole, steps)
        self._check(oid, len(whole[1]), limit)
        return whole

    def _joined(self, offset: int, whole: tuple[int, bytes], steps: list[tuple[int, bytes]]) -> tuple[int, bytes]:
        kind, made = whole
        work = 0
        for place, delta in reversed(steps):
            self._keep(offset, kind, made)
            made = applied(made, delta)
            work += len(made)
            if work > _WORK:
                raise BrokenPack("it takes too much work to put together")
            offset = place
        return kind, made

    @staticmethod
    def _check(oid: str, size: int, limit: int | None) -> None:
        """The object itself may have `limit` bytes, whatever it is made from (None) a fixed number."""
        if limit is not None and size > limit:
            raise OpsError("too_large", f"object {oid} has {size:,} bytes; at most {limit:,} are read")
        if size > BASE_LIMIT:
            raise BrokenPack(f"it is packed against one of {size:,} bytes")

    def _keep(self, offset: int, kind: int, made: bytes) -> None:
        """Remember a base, for neighbours in a history share theirs; the oldest ones go."""
        if offset not in self._kept:
            self._kept[offset] = kind, made
            self._room -= len(made) + 100
            while self._room < 0:
                self._room += len(self._kept.pop(next(iter(self._kept)))[1]) + 100

    def _head(self, offset: int) -> tuple[int, int, int, bytes, int]:
        """What an entry begins with: kind, inflated size, place of its base (0: it is whole), and its first bytes.

        The last number is the place where more of them stand.
        """
        data = os.pread(self._descriptor, _WINDOW, offset)
        byte = data[0]
        kind, size, shift, at = byte >> 4 & 7, byte & 15, 4, 1
        while byte & 0x80:
            byte = data[at]
            size |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            _check_length(shift)
        base = 0
        if kind == _BY_OFFSET:
            back, at = _distance(data, at)
            base = offset - back
        elif kind == _BY_NAME:
            base, at = self.find(data[at : at + 20]), at + 20
        if kind >= _BY_OFFSET and not 0 < base < _FARTHEST:
            raise BrokenPack("the base of a delta is missing")
        return kind, size, base, data[at:], offset + len(data)

    def _inflated(self, size: int, first: bytes, at: int) -> bytes:
        """The bytes of an entry, no more than it said, from no more than git could have made of them."""
        stream = zlib.decompressobj()
        head = stream.decompress(first, size + 1)
        if stream.eof and len(head) == size:
            return head
        parts, have, end = [head], len(head), at + size + (size >> 8) + _CHUNK
        while not stream.eof and have <= size:
            data = stream.unconsumed_tail
            if not data:
                data = os.pread(self._descriptor, _CHUNK, at)
                at += len(data)
            if not data or at > end:
                raise BrokenPack("it is cut off")
            parts.append(stream.decompress(data, size + 1 - have))
            have += len(parts[-1])
        if have != size:
            raise BrokenPack("it has another size than it says")
        return b"".join(parts)


def _distance(data: bytes, at: int) -> tuple[int, int]:
    """How far back a base stands, in the form that only packs have; and what follows."""
    byte = data[at]
    value = byte & 0x7F
    while byte & 0x80:
        at += 1
        byte = data[at]
        value = (value + 1 << 7) | byte & 0x7F
        _check_length(value.bit_length())
    return value, at + 1


def _check_length(bits: int) -> None:
    """No number in a pack has more; a longer one takes time, memory, and more digits than can be shown."""
    if bits > 63:
        raise BrokenPack("a number in it is too long")


def _sizes(delta: bytes) -> tuple[int, int, int]:
    """The sizes of base and result that a delta begins with; and where its steps begin."""
    found, at = [], 0
    for _ in range(2):
        value = shift = 0
        while True:
            byte = delta[at]
            value |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if byte < 0x80:
                break
            _check_length(shift)
        found.append(value)
    return found[0], found[1], at


def applied(base: bytes, delta: bytes) -> bytes:
    """What a delta makes of its base. Raises `BrokenPack` for one that is cut off or does not fit."""
    size, room, at = _sizes(delta)
    parts = []
    while at < len(delta):
        step = delta[at]
        at += 1
        if step & 0x80:
            start = count = 0
            for bit in range(4):
                if step >> bit & 1:
                    start |= delta[at] << 8 * bit
                    at += 1
            for bit in range(3):
                if step >> bit & 16:
                    count |= delta[at] << 8 * bit
                    at += 1
            count = count or 0x10000
            part = base[start : start + count]
        else:
            count = step
            part, at = delta[at : at + step], at + step
        parts.append(part)
        room -= count
        if room < 0 or not count or len(part) != count:
            raise BrokenPack("a delta does not fit")
    if size != len(base) or room:
        raise BrokenPack("a delta does not fit its base")
    return b"".join(parts)
