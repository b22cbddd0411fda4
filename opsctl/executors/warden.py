"""Stands between opsctl and a runner's program, and sees to it that nothing of the program's tree outlives the run.

A script of its own (`python -I -S warden.py CONTROL STATUS`), standard library only. It reads one line of JSON from
CONTROL (argv, env, cwd, timeout_s, grace_s), starts the program in a session of its own, and writes to STATUS: a line
with the number of its inner process at once, and one of JSON at the end. The program's tree is ended when the program
ends, when its time is over, when `stop` comes, and when CONTROL is closed, which is what happens when opsctl is killed.

It is two processes. The outer one only waits: should the inner one be killed, its tree falls to the outer one, which
ends it. And the program itself is killed by the kernel when the inner one dies, whatever becomes of the outer one.
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
from collections.abc import Iterator

_SUBREAPER, _DEATH_SIGNAL = 36, 1
"""Options of prctl(2): whoever loses its parent becomes a child of this process; a signal when the parent dies."""

_POLL_S = 1.0
_ROUNDS = 20
_LAST_S = 20.0
"""After so long a tree that cannot be killed (a process that hangs in the kernel) is given up."""


def main() -> None:
    """The outer process: start the inner one, wait, and end what it left."""
    control, status = int(sys.argv[1]), int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Ctrl-C is for opsctl, which then says stop
        signal.signal(number, signal.SIG_IGN)
    _prctl(_SUBREAPER, 1)
    inner = os.fork()
    if not inner:
        _prctl(_SUBREAPER, 1)
        _carry_out(control, status)
        return
    _let_go_of_output()
    os.close(control)
    os.close(status)
    _, ended = os.waitpid(inner, 0)
    if ended:
        _kill_tree(None)


def _carry_out(control: int, status: int) -> None:
    """The inner process: one order."""
    os.set_inheritable(control, False)
    os.set_inheritable(status, False)
    os.write(status, b"%d\n" % os.getpid())
    order = json.loads(_line(control))
    report: dict[str, object]
    try:
        child = subprocess.Popen(
            order["argv"], env=order["env"], cwd=order["cwd"], start_new_session=True, preexec_fn=_begin
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        report = {"reason": "not started", "error": getattr(error, "strerror", None) or str(error)}
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


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux has it
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _begin() -> None:
    """In the program's process, before it begins."""
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def _let_go_of_output() -> None:
    """Only the program's tree holds the pipe now, so that its end can be seen."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _watch(child: subprocess.Popen[bytes], control: int, end: float) -> str:
    """Wait for the program, and collect orphans that ended meanwhile."""
    ended = _told_of_ends()
    while True:
        _reap(child)
        if child.returncode is not None:
            return "ended"
        left = end - time.monotonic()
        if left <= 0:
            return "timeout"
        ready = select.select([control, ended], [], [], min(left, _POLL_S))[0]
        if control in ready:
            return "stopped"
        if ended in ready:
            os.read(ended, 65536)


def _told_of_ends() -> int:
    """A descriptor that has something to read when a child has ended."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return read


def _end_tree(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """TERM, a while, then KILL until nobody is left. Returns how many had to be killed."""
    _signal_all(signal.SIGTERM, child)
    end = time.monotonic() + grace_s
    while _tree() and time.monotonic() < end:
        _reap(child)
        time.sleep(0.02)
    return _kill_tree(child)


def _kill_tree(child: subprocess.Popen[bytes] | None) -> int:
    """First everybody is stopped, as nobody who is stopped can start another one; then killed."""
    killed, last = 0, time.monotonic() + _LAST_S
    while (alive := _tree()) and time.monotonic() < last:
        killed = max(killed, len(alive))
        for _ in range(_ROUNDS):
            _signal_all(signal.SIGSTOP, child)
            before, alive = alive, _tree()
            if {*alive} <= {*before}:
                break
        _signal_all(signal.SIGKILL, child)
        _reap(child)
        time.sleep(0.01)
    _reap(child)
    return killed


def _signal_all(number: int, child: subprocess.Popen[bytes] | None) -> None:
    """By groups first: a group gets a signal at once, however fast its processes follow each other."""
    tree = _tree()
    groups = {group for group in _tree(dead=True).values() if group != os.getpgrp()}
    if child and child.returncode is None:
        groups.add(child.pid)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for pid in tree:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap(child: subprocess.Popen[bytes] | None) -> None:
    """Collect the dead: the program by its own object, which keeps its status, then whoever was left to us."""
    if child:
        child.poll()
    if not hasattr(os, "waitid"):  # macOS, where nobody is left to us
        return
    with contextlib.suppress(ChildProcessError):
        while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if child and child.returncode is None and dead.si_pid == child.pid:  # else its number was used again
                child.poll()
            else:
                os.waitpid(dead.si_pid, 0)


def _tree(*, dead: bool = False) -> dict[int, int]:
    """All descendants that live, each with its process group; the dead too, whose group may have others in it."""
    children: dict[int, list[tuple[int, int]]] = {}
    gone = set()
    for pid, parent, group, state in _processes():
        children.setdefault(parent, []).append((pid, group))
        if state in "ZX" and not dead:
            gone.add(pid)
    found, queue = {}, [os.getpid()]
    while queue:
        for pid, group in children.get(queue.pop(), []):
            queue.append(pid)
            if pid not in gone:
                found[pid] = group
    return found


def _processes() -> Iterator[tuple[int, int, int, str]]:
    """Every process: id, parent, group, and the letter of its state."""
    if not os.path.isdir("/proc/self"):  # macOS
        listed = subprocess.run(
            ["/bin/ps", "-axo", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=False
        )
        rows = [row.split() for row in listed.stdout.splitlines()]
        yield from ((int(row[0]), int(row[1]), int(row[2]), row[3][:1]) for row in rows if len(row) == 4)
        return
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent, group = file.read().rpartition(")")[2].split()[:3]
                yield int(name), int(parent), int(group), state


if __name__ == "__main__":
    main()
