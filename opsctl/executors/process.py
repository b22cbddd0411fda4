"""Runs a program under a warden: bounded output, a deadline, and no process that outlives the run."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opsctl.errors import OpsError

_WARDEN = Path(__file__).with_name("warden.py")
_CHUNK = 1024 * 1024
_POLL_S = 0.2
_DRAIN_S = 1.0
GRACE_S = 5.0
"""Seconds between TERM and KILL."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run. `stdin` is a file that is open for reading; times are in seconds."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stdin: int
    timeout_s: float
    grace_s: float = GRACE_S


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: `reason` is ended, timeout, stopped, or lost where its warden was killed.

    `exit_code` is as a shell has it, 128 + n for signal n.
    """

    reason: str
    exit_code: int
    signal: int | None
    killed: int
    why: str | None = None
    """What `stop` said."""


def run(job: Job, *, output: Callable[[bytes], None], stop: Callable[[], str | None]) -> Ended:
    """Run the job to its end. `output` gets what it prints; `stop` is asked often, and a reason ends the run.

    Raises `runner_failed` when the program cannot be started. However this is left, nothing of the tree lives on.
    """
    _adopt_orphans()
    read, write = os.pipe()
    control_read, control_write = os.pipe()
    status_read, status_write = os.pipe()
    try:
        warden = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WARDEN), str(control_read), str(status_write)],
            stdin=job.stdin,
            stdout=write,
            stderr=write,
            env={},
            pass_fds=(control_read, status_write),
            start_new_session=True,
        )
    except OSError as error:
        for descriptor in (read, control_write, status_read):
            os.close(descriptor)
        raise OpsError("runner_failed", "no process could be started", cause=error.strerror) from None
    finally:
        for descriptor in (write, control_read, status_write):
            os.close(descriptor)
    try:
        order = {"argv": list(job.argv), "env": dict(job.env), "cwd": os.fspath(job.cwd)}
        times = {"timeout_s": job.timeout_s, "grace_s": job.grace_s}
        _send(control_write, json.dumps({**order, **times}).encode() + b"\n")
        why = _pump(read, status_read, control_write, output, stop)
        report = _report(status_read)
    finally:
        for descriptor in (control_write, read, status_read):
            os.close(descriptor)
        _end(warden, job.grace_s)
    return _ended(report, why)


def _send(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    with contextlib.suppress(BrokenPipeError):
        while view:
            view = view[os.write(descriptor, view) :]


def _pump(
    read: int, status: int, control: int, output: Callable[[bytes], None], stop: Callable[[], str | None]
) -> str | None:
    """Read until the warden reports; then what is left in the pipe, for a moment."""
    why: str | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(read, selectors.EVENT_READ)
        selector.register(status, selectors.EVENT_READ)
        asked = time.monotonic()
        while True:
            ready = {key.fd for key, _ in selector.select(_POLL_S)}
            if read in ready and not _take(read, output):
                selector.unregister(read)
            if status in ready:
                break
            if why is None and time.monotonic() - asked >= _POLL_S:
                asked, why = time.monotonic(), stop()
                if why is not None:
                    _send(control, b"stop\n")
        if read in selector.get_map():
            _drain(read, selector, output)
    return why


def _drain(read: int, selector: selectors.BaseSelector, output: Callable[[bytes], None]) -> None:
    selector.unregister(next(fd for fd in list(selector.get_map()) if fd != read))
    end = time.monotonic() + _DRAIN_S
    while time.monotonic() < end and selector.select(0.05) and _take(read, output):
        continue


def _take(read: int, output: Callable[[bytes], None]) -> bool:
    data = os.read(read, _CHUNK)
    if data:
        output(data)
    return bool(data)


def _report(status: int) -> dict[str, object]:
    data = b""
    while chunk := os.read(status, 65536):
        data += chunk
        if data.endswith(b"\n"):
            break
    return json.loads(data) if data else {"reason": "lost", "status": -9, "killed": 0}


def _ended(report: Mapping[str, object], why: str | None) -> Ended:
    if report["reason"] == "not started":
        message = "the runner's program could not be started"
        raise OpsError("runner_failed", message, cause=str(report["error"]), hint="opsctl runner check")
    status = int(str(report["status"]))
    number = -status if status < 0 else None
    code = 128 + number if number else status
    return Ended(str(report["reason"]), code, number, int(str(report["killed"])), why)


def _end(warden: subprocess.Popen[bytes], grace_s: float) -> None:
    """The warden ends by itself once its control is closed. What it left, if it was killed itself, is ended here."""
    try:
        warden.wait(grace_s + 25)
    except subprocess.TimeoutExpired:
        warden.kill()
        warden.wait()
    end = time.monotonic() + grace_s + 25
    while time.monotonic() < end and (left := _left()):
        for pid, is_warden in left:
            if not is_warden:  # an inner one that lives on does its work, and then reports
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def _adopt_orphans() -> None:
    """If the whole warden is killed, its tree becomes ours (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)


def _left() -> list[tuple[int, bool]]:
    """Children of ours in sessions of their own that are no warden's outer process: what a killed warden left."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
                _, parent, _, session = stat.rpartition(")")[2].split()[:4]
                is_warden = os.fsencode(_WARDEN) in Path(f"/proc/{name}/cmdline").read_bytes()
                outer = is_warden and session == name
                if int(parent) == os.getpid() and int(session) != os.getsid(0) and not outer:
                    found.append((int(name), is_warden))
    return found
