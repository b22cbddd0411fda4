"""Stands between opsctl and a runner's program, and sees to it that nothing of the program's tree outlives the run.

A script of its own (`python -I -S warden.py CONTROL STATUS`), standard library only. It reads one line of JSON from
CONTROL (argv, env, cwd, timeout_s, grace_s), starts the program in a session of its own, and writes one line of JSON
to STATUS. The program's tree is ended when the program ends, when its time is over, when `stop` comes, and when
CONTROL is closed, which is what happens when opsctl is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

_SUBREAPER = 36
_POLL_S = 0.05
_LAST_S = 20.0
"""After so long a tree that cannot be killed (a process that hangs in the kernel) is given up."""


def main() -> None:
    """Carry out one order."""
    control, status = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(control, False)
    os.set_inheritable(status, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for opsctl, which then says stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _adopt_orphans()
    order = json.loads(_line(control))
    report: dict[str, object]
    try:
        child = subprocess.Popen(
            order["argv"], env=order["env"], cwd=order["cwd"], start_new_session=True, preexec_fn=_fresh_signals
        )
    except OSError as error:
        report = {"reason": "not started", "error": error.strerror or str(error)}
    else:
        _let_go_of_output()
        reason = _watch(child, control, time.monotonic() + order["timeout_s"])
        killed = _end_tree(child, order["grace_s"] if reason != "ended" else min(1.0, order["grace_s"]))
        report = {"reason": reason, "status": child.returncode, "killed": killed}
    os.write(status, json.dumps(report).encode() + b"\n")


def _line(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        data = os.read(descriptor, 65536)
        if not data:
            raise SystemExit(0)
        parts.append(data)
    return b"".join(parts)


def _adopt_orphans() -> None:
    """Whoever leaves its parent by a double fork becomes a child of this process (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def _fresh_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _let_go_of_output() -> None:
    """Only the program's tree holds the pipe now, so that its end can be seen."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _watch(child: subprocess.Popen[bytes], control: int, end: float) -> str:
    while child.poll() is None:
        if time.monotonic() >= end:
            return "timeout"
        if select.select([control], [], [], _POLL_S)[0]:
            return "stopped"
    return "ended"


def _end_tree(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """TERM, a while, then KILL until nobody is left. Returns how many had to be killed."""
    _signal_all(signal.SIGTERM)
    end = time.monotonic() + grace_s
    while _tree() and time.monotonic() < end:
        _reap(child)
        time.sleep(0.02)
    killed, last = 0, time.monotonic() + _LAST_S
    while (alive := _tree()) and time.monotonic() < last:
        killed = max(killed, len(alive))
        _signal_all(signal.SIGKILL)
        _reap(child)
        time.sleep(0.01)
    _reap(child)
    return killed


def _signal_all(number: int) -> None:
    for pid in _tree():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Collect the dead: the program by its own object, which keeps its status, then whoever was left to us."""
    child.poll()
    for pid in _tree(zombies=True):
        if pid != child.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _tree(*, zombies: bool = False) -> list[int]:
    """All descendants that live; or the dead ones that wait to be collected."""
    parents: dict[int, list[tuple[int, bool]]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            parents.setdefault(int(parent), []).append((int(name), state in "ZX"))
    found, queue = [], [os.getpid()]
    while queue:
        for pid, dead in parents.get(queue.pop(), []):
            queue.append(pid)
            if dead == zombies:
                found.append(pid)
    return found


if __name__ == "__main__":
    main()
