"""Runs a program under a warden: bounded output, a deadline, and no process that outlives the run."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opsctl.errors import OpsError

_WARDEN = Path(__file__).with_name("warden.py")
_CHUNK = 1024 * 1024
_POLL_S = 0.2
_DRAIN_S = 1.0
_REPORT_S = 5.0
_REPORT_LIMIT = 64 * 1024
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
    with _orphans_are_ours():
        return _run(job, output, stop)


def _run(job: Job, output: Callable[[bytes], None], stop: Callable[[], str | None]) -> Ended:
    before = _children()
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
    inner = None
    _WARDENS.add(warden.pid)
    try:
        inner = _inner(status_read)
        order = {"argv": list(job.argv), "env": dict(job.env), "cwd": os.fspath(job.cwd)}
        times = {"timeout_s": job.timeout_s, "grace_s": job.grace_s}
        _send(control_write, json.dumps({**order, **times}).encode() + b"\n")
        why = _pump(read, status_read, control_write, output, stop)
        report = _report(status_read)
    finally:
        for descriptor in (control_write, read, status_read):
            os.close(descriptor)
        _end(warden, inner, before, job.grace_s)
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
    """The warden's last line. One that is no report counts as none: somebody else wrote into the pipe."""
    data, end = b"", time.monotonic() + _REPORT_S
    os.set_blocking(status, False)
    while len(data) < _REPORT_LIMIT and not data.endswith(b"\n") and (left := end - time.monotonic()) > 0:
        if select.select([status], [], [], left)[0]:
            chunk = os.read(status, 4096)
            if not chunk:
                break
            data += chunk
    with contextlib.suppress(ValueError, RecursionError):
        report = json.loads(data)
        if isinstance(report, dict) and report.get("reason") == "not started" and isinstance(report.get("error"), str):
            return report
        if isinstance(report, dict) and report.get("reason") in ("ended", "timeout", "stopped"):
            numbers = (report.get("status"), report.get("killed"))
            if all(type(number) is int and abs(number) < 2**31 for number in numbers):
                return report
    return {"reason": "lost", "status": -9, "killed": 0}


def _ended(report: Mapping[str, object], why: str | None) -> Ended:
    if report["reason"] == "not started":
        message = "the runner's program could not be started"
        raise OpsError("runner_failed", message, cause=str(report["error"]), hint="opsctl runner check")
    status = int(str(report["status"]))
    number = -status if status < 0 else None
    code = 128 + number if number else status
    return Ended(str(report["reason"]), code, number, int(str(report["killed"])), why)


def _inner(status: int) -> _Process | None:
    """The warden's inner process, which names itself first; by its time of birth too, as numbers are used again."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = os.read(status, 1)
        if not chunk or len(data) > 20:
            return None
        data += chunk
    pid = int(data) if data.strip().isdigit() else 0
    row = _stat(pid)
    return (pid, row[2]) if row else None


def _end(warden: subprocess.Popen[bytes], inner: _Process | None, before: set[_Process], grace_s: float) -> None:
    """The warden ends by itself once its control is closed, and its tree with it.

    Only where it was killed itself something is left, and is ours now: that is ended here.
    """
    try:
        warden.wait(grace_s + 25)
    except subprocess.TimeoutExpired:
        warden.kill()
        warden.wait()
    finally:
        _WARDENS.discard(warden.pid)
    end = time.monotonic() + grace_s + 25
    while warden.returncode and time.monotonic() < end and (left := _children() - before):
        for process in left:
            if process != inner:  # an inner one that lives on does its work, and then reports
                with contextlib.suppress(OSError):
                    os.kill(process[0], signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.waitpid(process[0], os.WNOHANG)
        time.sleep(0.02)


@contextlib.contextmanager
def _orphans_are_ours() -> Iterator[None]:
    """While runs go on: if a whole warden is killed, its tree becomes ours (Linux). Then as it was before."""
    with _RUNS.lock:
        if not _RUNS.count:
            _RUNS.was = _reaper(None)
            _reaper(1)
        _RUNS.count += 1
    try:
        yield
    finally:
        with _RUNS.lock:
            _RUNS.count -= 1
            if not _RUNS.count:
                _reaper(_RUNS.was)


class _Runs:
    """Those that this process carries out now, and what it was before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.was = 0


_RUNS = _Runs()
_WARDENS: set[int] = set()
"""Outer processes of the runs that go on now. A process is known by its number: its command line is its own to say."""

_Process = tuple[int, int]
"""Number, and time of birth."""


def _reaper(value: int | None) -> int:
    """Set whether orphans become ours, or with None look whether they do (prctl 36 and 37)."""
    found = ctypes.c_int(0)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if value is None:
            libc.prctl(37, ctypes.byref(found), 0, 0, 0)
        else:
            libc.prctl(36, value, 0, 0, 0)
    return found.value


def _children() -> set[_Process]:
    """Children of ours in sessions of their own that nobody here started: what killed wardens left.

    A process that another thread started, say for another request, is listed with that thread; an orphan is not.
    """
    found = set()
    others = _of_other_threads()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        row = _stat(int(name)) if name.isdigit() else None
        if row and row[0] == os.getpid() and row[1] != os.getsid(0) and int(name) not in others | _WARDENS:
            found.add((int(name), row[2]))
    return found


def _of_other_threads() -> set[int]:
    """Children that threads other than the first and this one started, where the system says so."""
    found: set[int] = set()
    for name in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else []:
        if int(name) not in (os.getpid(), threading.get_native_id()):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/self/task/{name}/children").read_text(encoding="ascii")
                found.update(int(pid) for pid in text.split())
    return found


def _stat(pid: int) -> tuple[int, int, int] | None:
    """Parent, session, and time of birth of a process."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        row = stat.rpartition(")")[2].split()
        return int(row[1]), int(row[3]), int(row[19])
    return None
