"""The lock that every writer of this project takes, and the removal of ref locks that dead processes left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from opsctl.errors import OpsError

POLL_S = 0.01
NOTICE_S = 1.0
"""Who waits longer than this is told for whom."""

STALE_S = 5.0
"""A ref lock younger than this may belong to a git that was just started and is not listed yet."""

STALE_UNSEEN_S = 60.0
"""The same where the system cannot say which processes live (no /proc)."""


class RepoLock:
    """An exclusive `flock` in the common directory, waited for up to `wait_s` seconds. Raises `lock_busy`, `disk`.

    `tell` hears once, after `NOTICE_S`, who holds it. While it is held its file names the holder; a holder that was
    killed leaves that mark, and the next one then clears the ref locks that the dead one may have left (CR-01).
    """

    def __init__(
        self,
        common: Path,
        *,
        wait_s: float,
        tell: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._common = common
        self._path = common / "opsctl" / "lock"
        self._wait_s = wait_s
        self._tell = tell
        self._clock = clock
        self._descriptor = -1

    def __enter__(self) -> RepoLock:
        try:
            self._path.parent.mkdir(exist_ok=True)
            self._descriptor = _opened(self._path)
            self._wait()
            if os.pread(self._descriptor, 1, 0):
                clear_ref_locks(self._common, least_age_s=0.0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            self._close()
            hint = "mend the permissions of the repository's git directory, or make room on the disk"
            raise OpsError("disk", "the lock could not be taken", cause=f"{error}", hint=hint) from None
        except BaseException:
            self._close()
            raise
        return self

    def _wait(self) -> None:
        begin, tell = self._clock(), self._tell
        while True:
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = self._clock() - begin
                if waited >= self._wait_s:
                    raise self._busy(self._holder()) from None
                if tell and waited >= NOTICE_S:
                    tell(self._holder())
                    tell = None
                time.sleep(POLL_S)

    def _holder(self) -> str:
        holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
        return f"process {holder}" if holder.isdigit() else "another process"

    def _busy(self, who: str) -> OpsError:
        hint = "wait for it and run the command again; OPSCTL_LOCK_WAIT sets the seconds to wait"
        return OpsError("lock_busy", f"{who} holds {self._path} for more than {self._wait_s:g} s", hint=hint)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # after an error the mark stays: the next holder then looks for locks that it left
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _opened(path: Path) -> int:
    """Open the lock file; a link or a special file in its place, as an archive may bring, is refused."""
    if path.parent.is_symlink():
        raise OSError(f"{path.parent} is a symbolic link")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o644)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(f"{path} is no file of its own")
    return descriptor


def ref_locks(common: Path) -> list[Path]:
    """Lock files that could block a decision: of the refs of the gate, and of packed-refs."""
    found = [common / "packed-refs.lock"] if (common / "packed-refs.lock").exists() else []
    for folder in ("refs/heads/ops", "refs/ops", "refs/notes/ops", "refs/opsctl"):
        found += sorted((common / folder).rglob("*.lock"))
    return found


def clear_ref_locks(common: Path, *, least_age_s: float | None = None) -> list[Path]:
    """Remove the ref locks that no live process owns; the caller holds `RepoLock`. Returns what was removed."""
    removed = []
    for path in ref_locks(common):
        if is_stale(common, path, least_age_s=least_age_s):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def is_stale(common: Path, path: Path, *, least_age_s: float | None = None) -> bool:
    """True if the lock file is old enough and no git that lives works in this repository or has the file open."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    alive = _git_at_work(common, path)
    if alive is None:
        return age > STALE_UNSEEN_S
    return not alive and age >= (STALE_S if least_age_s is None else least_age_s)


def _git_at_work(common: Path, path: Path) -> bool | None:
    """True if some process could own the lock, None if the system does not say."""
    processes = [entry for entry in Path("/proc").glob("[0-9]*") if entry.name != str(os.getpid())]
    if not processes:
        return None
    return any(_works_in(process, common, path) for process in processes)


def _works_in(process: Path, common: Path, path: Path) -> bool:
    try:
        is_git = (process / "comm").read_text(encoding="utf-8", errors="replace").startswith("git")
    except OSError:
        return False
    try:
        if any(os.path.realpath(link) == str(path) for link in (process / "fd").iterdir()):
            return True
        place = Path(os.readlink(process / "cwd"))
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ended while it was looked at
    except OSError:
        return is_git  # another user's process: be careful with what cannot be seen
    return is_git and (place == common or common in place.parents or common.parent in [place, *place.parents])
