"""Git at work on a network, under bounds: a remote may send without end, in packs, messages or names, or not at all."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from opsctl.errors import OpsError

FETCH_LIMIT = 2 * 1024**3
"""Bytes of packs that one fetch may bring."""

TALK_LIMIT = 16 * 1024**2
"""Bytes of messages that one fetch or push may bring."""

MEMORY_LIMIT = 4 * 1024**3
"""Bytes of memory that each process of git may take for what a remote sends."""

TIMEOUT_S = 600.0


def run(argv: list[str], packs: Path, env: Mapping[str, str], *, prompts: bool) -> tuple[int, bytes, bytes]:
    """Run git, and stop it when it takes too long or brings too much. Returns its status, stdout and stderr.

    Raises `remote_failed`, `not_adopted`.
    """
    known = {path.name for path in packs.glob("tmp_*")} if packs.is_dir() else set()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            argv,
            stdin=None if prompts else subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=env,
            start_new_session=not prompts,  # a terminal answers only in the session that has it
        )
        _bound(process)
        end = time.monotonic() + TIMEOUT_S
        try:
            while process.poll() is None:
                _check(time.monotonic() > end, _size(packs, known), os.fstat(stderr.fileno()).st_size)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            _check(False, _size(packs, known), 0)  # a limit of its own may have ended it first
        except BaseException:
            _stop(process, is_leader=not prompts)
            for path in packs.glob("tmp_*"):
                if path.name not in known:
                    path.unlink(missing_ok=True)
            raise
        stdout.seek(0)
        stderr.seek(0)
        return process.returncode, stdout.read(TALK_LIMIT), stderr.read(TALK_LIMIT)


def _bound(process: subprocess.Popen[bytes]) -> None:
    """Limit each process, also one that outlives git because it reads the socket itself (RM-13).

    Files may have twice the limit, so that the watch is first. Without `prlimit` (macOS) the watch is all there is.
    """
    if prlimit := getattr(resource, "prlimit", None):
        for name, most in ((resource.RLIMIT_FSIZE, 2 * FETCH_LIMIT), (resource.RLIMIT_DATA, MEMORY_LIMIT)):
            with contextlib.suppress(OSError, ValueError):  # it has ended, or may take less anyway
                prlimit(process.pid, name, (most, most))


def _check(is_late: bool, pack_bytes: int, talk_bytes: int) -> None:
    if is_late:
        raise OpsError("remote_failed", f"the remote took more than {TIMEOUT_S:g} s", hint="run `opsctl sync` again")
    if pack_bytes > FETCH_LIMIT:
        message = f"the remote sent more than {FETCH_LIMIT // 1024**2:,} MiB"
        raise OpsError("not_adopted", message, hint="look at the remote")
    if talk_bytes > TALK_LIMIT:
        raise OpsError("remote_failed", "the remote sent messages without end", hint="look at the remote")


def _size(packs: Path, known: set[str]) -> int:
    total = 0
    for path in packs.glob("tmp_*"):
        if path.name not in known:
            with contextlib.suppress(OSError):
                total += path.stat().st_size
    return total


def _stop(process: subprocess.Popen[bytes], *, is_leader: bool) -> None:
    """Kill git, and with it its children where they have a session of their own."""
    if is_leader:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
