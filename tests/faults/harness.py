"""Worlds that can be broken at any system call: a home and a repository at a fixed place, restored before each step.

`preload.c` counts and breaks, `worker.py` is what gets broken. Nothing here knows what a command should leave behind;
the tests say that.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Home, make_home

HERE = Path(__file__).resolve().parent
WORKER = HERE / "worker.py"
FULL = os.environ.get("OPSCTL_SWEEP") == "full"
LIMIT_S = 30.0
"""A command that takes longer hangs."""


def seed() -> int:
    """The seed of this run, printed so that a failure can be run again: `OPSCTL_SEED=…`."""
    given = os.environ.get("OPSCTL_SEED")
    chosen = int(given) if given else random.SystemRandom().randrange(1_000_000)
    print(f"OPSCTL_SEED={chosen}")
    return chosen


def sampled(total: int, count: int, randomness: random.Random) -> list[int]:
    """Numbers from 1 to `total`: all in a full sweep, else `count` of them, spread over the whole range."""
    if FULL or total <= count:
        return list(range(1, total + 1))
    edges = [1 + total * i // count for i in range(count + 1)]
    return [randomness.randrange(low, max(low + 1, high)) for low, high in itertools.pairwise(edges)]


def built(folder: Path) -> Path | str:
    """The preload library, or the reason why there is none on this machine."""
    if not sys.platform.startswith("linux"):
        return "LD_PRELOAD faults need Linux"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "no C compiler (gcc) to build the preload library with"
    library = folder / "preload.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "preload.c"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"the preload library could not be built here: {done.stderr.strip()[:300]}"
    return library


@dataclass(frozen=True)
class Fault:
    """What to do at which call; see preload.c."""

    do: str
    at: int
    number: int = errno.ENOSPC
    only: str = ""

    def environ(self) -> dict[str, str]:
        """As the library reads it."""
        rows = {"FAULT_DO": self.do, "FAULT_AT": str(self.at), "FAULT_ERRNO": str(self.number)}
        return rows | ({"FAULT_ONLY": self.only} if self.only else {})


@dataclass(frozen=True)
class Done:
    """How a command ended. `status` None: it hung; negative: a signal ended it."""

    argv: tuple[str, ...]
    status: int | None
    out: str
    err: str
    seconds: float
    calls: tuple[str, ...] = ()

    @property
    def acknowledged(self) -> dict[str, Any] | None:
        """What it said it had done; None if it did not say so to the end."""
        return json.loads(self.out.splitlines()[-1]) if self.status == 0 else None

    @property
    def value(self) -> dict[str, Any]:
        """The answer of a command that must succeed."""
        assert self.acknowledged is not None, self.told
        return self.acknowledged

    @property
    def code(self) -> str:
        """The code of the refusal; empty for success or a violent end."""
        lines = self.err.splitlines()
        return str(json.loads(lines[-1])["code"]) if lines and lines[-1].startswith("{") else ""

    @property
    def told(self) -> str:
        """For assertion messages."""
        return f"{' '.join(self.argv)}: status {self.status}, {self.seconds:.2f} s\n{self.out}\n{self.err}"

    def is_clean(self, *, killed: bool = False) -> bool:
        """True for success, one readable refusal, or (if it may be) the kill; never a traceback or a hang."""
        if self.status is None or self.status == 70:
            return False
        return self.status == 0 or bool(self.code) or (killed and self.status == -9)


@dataclass
class World:
    """A home with a repository that always stands at the same place, and templates to restore it from."""

    base: Path
    library: Path | str
    """What `built` returned; with a reason in its place, a test that needs a fault is skipped."""
    home: Home = field(init=False)
    _server: subprocess.Popen[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True)
        self.home = make_home(self.place / "home")
        (self.place / "tmp").mkdir()
        self.repo.parent.mkdir(exist_ok=True)
        self.home.git("init", "-q", str(self.repo))
        (self.repo / "app.py").write_text("print('hello')\n")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "first")

    @property
    def place(self) -> Path:
        """The folder below which every change counts."""
        return self.base / "world"

    @property
    def repo(self) -> Path:
        """The repository's work tree."""
        return self.place / "home" / "repo"

    @property
    def git_dir(self) -> Path:
        """Its git directory."""
        return self.repo / ".git"

    @property
    def environ(self) -> dict[str, str]:
        """What every command runs with."""
        return {**self.home.environ, "TMPDIR": str(self.place / "tmp"), "OPSCTL_LOCK_WAIT": "10"}

    def git(self, *arguments: str, check: bool = True, stdin: bytes | None = None) -> str:
        """Plain git in the repository."""
        return self.home.git(*arguments, cwd=self.repo, check=check, stdin=stdin)

    # -- templates ------------------------------------------------------------------------------------------------

    def keep(self, name: str) -> None:
        """Keep the world as it is now, under a name."""
        _copied(self.place, self.base / name)

    def restore(self, name: str) -> None:
        """The world as it was kept."""
        _copied(self.base / name, self.place)

    # -- commands -------------------------------------------------------------------------------------------------

    def run(
        self,
        *argv: str,
        fault: Fault | None = None,
        log: bool = False,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        limits: dict[str, int] | None = None,
        interrupt_after: float | None = None,
        limit_s: float = LIMIT_S,
    ) -> Done:
        """One command in a process of its own, with the fault if there is one."""
        variables = {**self.environ, **(env or {})}
        calls = self.base / "calls"
        calls.unlink(missing_ok=True)
        if fault or log:
            if isinstance(self.library, str):
                pytest.skip(self.library)
            (self.base / "counter").unlink(missing_ok=True)
            variables |= {"FAULT_STATE": str(self.base / "counter"), "FAULT_UNDER": str(self.place)}
            variables |= {"FAULT_LOG": str(calls)}
        request = {
            "argv": argv,
            "cwd": str(cwd or self.repo),
            "env": variables | (fault.environ() if fault else {}),
            "limits": limits or {},
            "out": str(self.base / "out"),
            "err": str(self.base / "err"),
            "limit_s": limit_s,
            "interrupt_after": interrupt_after,
        }
        ended = self._asked(request)
        out, err = ((self.base / name).read_text(errors="replace") for name in ("out", "err"))
        made = tuple(calls.read_text(errors="surrogateescape").splitlines()) if calls.exists() else ()
        return Done(argv, ended["status"], out, err, ended["seconds"], made)

    def must(self, *argv: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        """The answer of a command that has to succeed."""
        return self.run(*argv, env=env).value

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._server is None:
            preload = {"LD_PRELOAD": str(self.library)} if isinstance(self.library, Path) else {}
            self._server = subprocess.Popen(
                [sys.executable, str(WORKER), "--server"],
                env={**self.environ, **preload},
                cwd=self.base,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        ended: dict[str, Any] = json.loads(self._server.stdout.readline())
        return ended

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(10)
            self._server = None

    # -- what must hold -------------------------------------------------------------------------------------------

    def fsck(self) -> None:
        """`git fsck --strict` finds nothing but what nobody refers to."""
        fsck(self.home, self.repo)

    def pending_by_git(self) -> set[str]:
        """The ids that plain git shows as pending."""
        return pending_by_git(self.home, self.repo)

    def locks(self) -> list[str]:
        """Lock files of git that are left."""
        return sorted(str(path.relative_to(self.git_dir)) for path in self.git_dir.rglob("*.lock"))


def fsck(home: Home, repo: Path) -> None:
    """`git fsck --strict` finds nothing but what nobody refers to."""
    said = home.git("fsck", "--strict", "--no-dangling", "--no-progress", cwd=repo)
    assert not [line for line in said.splitlines() if not line.startswith(("dangling", "notice"))], said


def pending_by_git(home: Home, repo: Path) -> set[str]:
    """The ids of `git diff ops/approved...ops/drafts -- ops/`."""
    said = home.git("diff", "--name-only", "--no-renames", "ops/approved...ops/drafts", "--", "ops/", cwd=repo)
    return {Path(line).stem for line in said.splitlines()}


def _copied(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


class Resident:
    """A worker process that answers one command after another."""

    def __init__(self, environ: dict[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), "--resident"],
            env=environ,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *argv: str, at: float = 0.0) -> None:
        """Send a command, to be carried out at a moment of the monotonic clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"argv": argv, "at": at}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest command that was sent."""
        assert self._process.stdout is not None
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def must(self, *argv: str) -> dict[str, Any]:
        """The answer to a command that has to succeed."""
        self.ask(*argv)
        said = self.answer()
        assert said["status"] == 0, said
        return said

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@contextmanager
def residents(*started: Resident) -> Iterator[Sequence[Resident]]:
    """Residents that end with the block."""
    try:
        yield started
    finally:
        for one in started:
            one.close()


def together(*asked: tuple[Resident, tuple[str, ...]]) -> list[dict[str, Any]]:
    """Commands that begin at the same moment in different processes; their answers."""
    moment = time.monotonic() + 0.01
    for resident, argv in asked:
        resident.ask(*argv, at=moment)
    return [resident.answer() for resident, _ in asked]


def processes_of(environ: dict[str, str], *, other_than: Sequence[int] = ()) -> list[str]:
    """Command lines of processes that live and have this HOME."""
    marker, found = f"HOME={environ['HOME']}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            alive = marker in (entry / "environ").read_bytes().split(b"\0")
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if alive and line and int(entry.name) not in other_than:
            found.append(line)
    return found
