"""Loose objects, read by hand: libgit2 1.9.7 loops for ever on a truncated one, so those files never reach it."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from opsctl.errors import OpsError
from opsctl.gitobject import object_id

_CHUNK = 64 * 1024


def folders(objects: Path) -> list[Path]:
    """The object folder and those that its alternates name, nearest first."""
    found: list[Path] = []
    queue = [objects]
    while queue and len(found) < 16:
        folder = queue.pop(0)
        if folder in found:
            continue
        found.append(folder)
        try:
            lines = read_small(folder / "info" / "alternates").splitlines()
        except OSError:
            continue
        queue += [folder / os.fsdecode(line) for line in lines if line and not line.startswith(b"#")]
    return found


def read_small(path: Path) -> bytes:
    """A small regular file of the repository. Raises `OSError` for a device or a FIFO that stands in its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        return os.read(descriptor, _CHUNK)
    finally:
        os.close(descriptor)


def read(where: Iterable[str], oid: str, limit: int | None) -> tuple[str, bytes] | None:
    """Type and content of a loose object, or None where there is none.

    Raises `corrupt_object` for anything but a whole object of this very name, `too_large` past `limit` bytes
    (judged by the header, before the content is inflated).
    """
    for folder in where:
        try:
            descriptor = os.open(f"{folder}/{oid[:2]}/{oid[2:]}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise out_of_reach(oid, error) from None
        try:
            return _inflate(oid, os.read(descriptor, _CHUNK), lambda size: os.read(descriptor, size), limit)  # noqa: B023
        except OSError as error:
            raise out_of_reach(oid, error) from None
        finally:
            os.close(descriptor)
    return None


def has(where: Iterable[str], oid: str) -> bool:
    """True if there is a loose object of that name; says nothing about its content."""
    return any(os.path.exists(f"{folder}/{oid[:2]}/{oid[2:]}") for folder in where)


def out_of_reach(oid: str, error: OSError) -> OpsError:
    """The error for an object that cannot be opened: the machine's fault, but for an input error of the disk."""
    if error.errno == errno.EIO:
        return damaged(oid, f"it cannot be read: {error.strerror}")
    if error.errno == errno.ENOMEM:
        return OpsError("no_memory", f"object {oid} needs more memory", cause=error.strerror, hint="see `ulimit -v`")
    hint = "mend the permissions, or the limits of this process (ulimit -n)"
    return OpsError("disk", f"object {oid} cannot be opened", cause=error.strerror, hint=hint)


def _inflate(oid: str, first: bytes, more: Callable[[int], bytes], limit: int | None) -> tuple[str, bytes]:
    stream = zlib.decompressobj()
    try:
        start = stream.decompress(first, 128)
        kind, size = _header(oid, start)
        if limit is not None and size > limit:
            raise OpsError("too_large", f"object {oid} has {size:,} bytes; at most {limit:,} are read")
        parts, tail = [start], stream.unconsumed_tail
        have, whole = len(start), start.index(b"\0") + 1 + size
        left = size + (size >> 8) + _CHUNK  # blocks without content would keep us reading for as long as there are any
        while not stream.eof and have <= whole:
            data = tail or more(_CHUNK)
            left -= 0 if tail else len(data)
            if not data or left < 0:
                raise damaged(oid, "it is cut off")
            parts.append(stream.decompress(data, whole - have + 1))
            have, tail = have + len(parts[-1]), stream.unconsumed_tail
    except zlib.error as error:
        raise damaged(oid, inflate_fault(error)) from None
    content = b"".join(parts)[whole - size :]
    if len(content) != size or object_id(kind, content) != oid:
        raise damaged(oid, "its content is not what its name says")
    return kind, content


def inflate_fault(error: zlib.error) -> str:
    """What zlib says; that it got no memory is no fault of the bytes (CR-27)."""
    if str(error).startswith("Error -4 "):
        raise MemoryError(str(error))
    return str(error)


def _header(oid: str, start: bytes) -> tuple[str, int]:
    kind, _, size = start.partition(b"\0")[0].partition(b" ")
    if b"\0" not in start or kind not in (b"blob", b"tree", b"commit", b"tag") or not size.isdigit() or len(size) > 12:
        raise damaged(oid, "its header is not readable")
    return kind.decode(), int(size)


def damaged(oid: str, cause: str) -> OpsError:
    """The error for an object that is not what its name says."""
    return OpsError(
        "corrupt_object",
        f"object {oid} is damaged",
        cause=cause,
        hint="`opsctl doctor` names what is affected; fetch the object again or restore a backup",
    )
