"""That a process of this machine carries a run out: a lock file which the system lets go of when the process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from opsctl.errors import OpsError
from opsctl.executors.theirs import remove

KEEP = "keep"
"""A file of this name beside a run's clone says that a person wants to look at it."""

SPARE = "spare"
"""What becomes that file where work would be lost."""


class Hold:
    """Held from before a run exists until its end is written down."""

    def __init__(self, folder: Path, run: str) -> None:
        self._path = _place(folder, run)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = self._taken()
        except OSError as error:
            raise OpsError("disk", f"{self._path} could not be made", cause=error.strerror) from None

    def _taken(self) -> int:
        """The locked file; once more if it was swept away between being made and being locked."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(self._path)):
                    return descriptor
            os.close(descriptor)

    def release(self) -> None:
        """The run is over; also for the second time."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def is_held(folder: Path, run: str) -> bool:
    """True while the process that carries the run out lives."""
    try:
        descriptor = os.open(_place(folder, run), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _place(folder: Path, run: str) -> Path:
    return folder / "holds" / run


def sweep(clones: Path, folder: Path) -> None:
    """Remove the clones of runs whose process is gone, but for those that a person keeps; and what those held.

    The clones of one repository lie together, whatever root its gate has; who holds them is in the folder of a root.
    """
    roots = sorted(folder.parent.glob(f"*-{folder.name.rpartition('-')[2]}"))
    for place in sorted(clones.glob("r_*")):
        if not (place / KEEP).exists() and not any(is_held(one, place.name[2:]) for one in roots):
            remove(place)
    for path in sorted((folder / "holds").glob("*")):
        with contextlib.suppress(OSError):
            _let_go(path)


def _let_go(path: Path) -> None:
    """Remove the file of a process that is gone; nobody can take it meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)
