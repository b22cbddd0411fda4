"""Loose objects, written by hand: many at once, each durable before its name is used.

One fsync a file and one a folder, as libgit2 does, but side by side: the disk then settles many with one flush, which
takes half the time of one after the other.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from opsctl.errors import OpsError
from opsctl.git import loose

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_HANDS = 4
"""Threads that wait for the disk."""

_TRIES = 5

_Staged = tuple[str, tuple[str, bytes]]
_Item = TypeVar("_Item")


class Writer:
    """Stores objects in one object folder."""

    def __init__(self, objects: Path) -> None:
        self._objects = os.fspath(objects)
        self._numbers = itertools.count()

    def write(self, staged: Mapping[str, tuple[str, bytes]]) -> None:
        """Store objects so that they survive a power cut before this returns. Raises `disk`."""
        try:
            fresh = [item for item in staged.items() if not self._is_stored(item[0])]
            for _ in range(_TRIES):
                try:
                    return self._write(fresh)
                except FileNotFoundError:
                    continue  # a `git gc` beside us removed a folder that was empty when it looked (CC-16)
            self._write(fresh)
        except OSError as error:
            raise OpsError(
                "disk",
                "objects could not be stored; nothing was changed",
                cause=error.strerror or str(error),
                hint="make room or mend the permissions, then run the command again",
            ) from None

    def _is_stored(self, oid: str) -> bool:
        """True for a sound object, whose time is renewed so that a `git gc` that runs now keeps it."""
        path = self._path(oid)
        if not os.path.exists(path):
            return False
        try:
            loose.read([self._objects], oid, None)
            os.utime(path)
        except (OpsError, FileNotFoundError):
            return False
        return True

    def _path(self, oid: str) -> str:
        return f"{self._objects}/{oid[:2]}/{oid[2:]}"

    def _write(self, fresh: Sequence[_Staged]) -> None:
        """Bytes to the disk, then names, then the folders that hold the names."""
        if not fresh:
            return
        homes = {os.path.dirname(self._path(oid)) for oid, _ in fresh}
        made = [home for home in homes if _make(home)]
        names = [
            (f"{self._path(oid)[:-38]}tmp_obj_{os.getpid()}_{next(self._numbers)}", self._path(oid)) for oid, _ in fresh
        ]
        try:
            self._share(_settle_file, [(name, data) for (name, _), (_, data) in zip(names, fresh, strict=True)])
            for temporary, target in names:
                os.rename(temporary, target)
        except BaseException:
            for temporary, _ in names:
                Path(temporary).unlink(missing_ok=True)
            raise
        self._share(sync_folder, [*homes, self._objects] if made else [*homes])

    def _share(self, work: Callable[[_Item], None], items: Sequence[_Item]) -> None:
        """Do the work on all items with several hands; the first error is raised when all are done."""
        shares = [items[start::_HANDS] for start in range(min(_HANDS, len(items)))]
        running = [self._pool.submit(_each, work, share) for share in shares]
        for fault in [done.exception() for done in running]:  # waits for all, so that nothing is written after this
            if fault:
                raise fault

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor  # reading must not pay for it

        return ThreadPoolExecutor(_HANDS)


def _each(work: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    for item in items:
        work(item)


def _make(folder: str) -> bool:
    if os.path.isdir(folder):
        return False
    try:
        os.mkdir(folder)
    except FileExistsError:
        return False
    return True


def _settle_file(item: tuple[str, tuple[str, bytes]]) -> None:
    """Write one temporary object file and wait until the disk has it."""
    name, (kind, data) = item
    descriptor = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        packed = memoryview(zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data, 1))
        while packed:
            packed = packed[os.write(descriptor, packed) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
