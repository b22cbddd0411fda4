"""A gate with runners that carry the prompt out as a script: whatever an agent could do, a prompt here does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Site

from opsctl.models import Run, RunSettings
from opsctl.runterms import Wish
from opsctl.workspace.drafts import NewDraft
from opsctl.workspace.executing import Settings

AGENTS = Path(__file__).with_name("agents")
BWRAP = (
    shutil.which("bwrap") is not None
    and not subprocess.run(
        ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"], capture_output=True, check=False
    ).returncode
)
WALLS = [
    pytest.param(False, id="no-sandbox"),
    pytest.param(True, id="bwrap", marks=pytest.mark.skipif(not BWRAP, reason="no bubblewrap that works here")),
]


@dataclass
class Rig:
    """One repository with a gate, two runners (`sh`, `py`), and whether runs are walled in."""

    site: Site
    walls: bool

    def runners(self, text: str) -> None:
        """Replace the configuration of runners."""
        path = self.site.home.path / "config" / "opsctl" / "runners.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def item(
        self,
        prompt: str,
        *,
        runner: str | None = "sh",
        paths: tuple[str, ...] = (),
        base: str | None = None,
        timeout_s: int | None = None,
        network: bool | None = None,
    ) -> str:
        """The ULID of a newly approved item."""
        settings = RunSettings(executor="exec", runner=runner, timeout_s=timeout_s, network=network)
        with self.site.ws() as ws:
            ulid = ws.drafts.create(NewDraft(prompt, title="a task", base=base, paths=paths, run=settings)).ulid
            ws.approvals.approve(ulid)
        return ulid

    def carry_out(self, item: str, *, keep: bool = False) -> Run:
        """Run an item in this process."""
        with self.site.ws() as ws:
            made, hold = ws.runs.create(item, Wish())
            assert hold
            return ws.executing.carry_out(made, hold, Settings(keep=keep, sandbox=self.walls), lambda _: None)

    def run(self, prompt: str, *, keep: bool = False, **settings: object) -> Run:
        """Approve a prompt and run it."""
        return self.carry_out(self.item(prompt, **settings), keep=keep)  # type: ignore[arg-type]

    def start(self, item: str, *options: str) -> subprocess.Popen[str]:
        """`opsctl run` in a process group of its own, as a shell starts it in the foreground."""
        wall = "--sandbox" if self.walls else "--no-sandbox"
        return subprocess.Popen(
            [sys.executable, "-m", "opsctl", "run", f"a_{item}", wall, *options],
            cwd=self.site.path,
            env=self.site.home.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def text(self, run: Run) -> str:
        """What the run printed."""
        with self.site.ws() as ws:
            return ws.runs.output(ws.runs.get(run.ulid)).decode()

    def only(self) -> Run:
        """The newest run, as the next command sees it."""
        with self.site.ws() as ws:
            return ws.runs.page()[0]

    def files(self, run: Run) -> dict[str, str]:
        """Path to content of the run's branch."""
        assert run.result, run.message
        names = self.site.git("ls-tree", "-r", "-z", "--name-only", run.result).split("\0")
        return {name: self.site.git("cat-file", "blob", f"{run.result}:{name}") for name in names if name}

    def changes(self, run: Run) -> list[str]:
        """`git diff --name-status` of base and branch."""
        assert run.base
        assert run.result, run.message
        return self.site.git("diff", "--no-renames", "--name-status", run.base, run.result).splitlines()

    def clones(self) -> list[Path]:
        """Private clones that are left."""
        return list((self.site.home.path / "cache" / "opsctl" / "runs").glob("*/r_*"))


def make_rig(site: Site, *, walls: bool) -> Rig:
    """The rig, with its two runners."""
    rig = Rig(site, walls)
    python = json.dumps([sys.executable, "-I", "-S", "-"])
    rig.runners(f'[runner.sh]\ncommand = ["/bin/sh"]\n[runner.py]\ncommand = {python}\n')
    return rig


def eventually(true: Callable[[], object], seconds: float = 20) -> None:
    """Wait until it is true; fail when it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def running(mark: str) -> list[int]:
    """Processes whose argument list holds the mark: nothing of a run may be among them afterwards."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in line.split(b"\0"):
                found.append(int(name))
    return found
