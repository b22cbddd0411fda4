"""Built repositories, kept between runs, and throw-away copies of them to write to."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from opsctl import act, ledger, models, policy, standing
from opsctl.workspace import Workspace
from tests.bench import build
from tests.bench.build import Clock


@dataclass(frozen=True)
class Site:
    """A repository with a sealed home. A site that is written to keeps one clock, so that times only go forward."""

    path: Path
    environ: dict[str, str]
    clock: Clock
    tokens: list[str] = field(default_factory=list)
    """What a case wants to remember of it."""

    def ws(self) -> Workspace:
        """A new Workspace, as a command opens it."""
        return Workspace(self.path, environ=self.environ, now=self.clock)

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Plain git."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=self.environ, input=stdin, capture_output=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.decode()}")
        return done.stdout

    def tree_of_tip(self) -> str:
        """The tree of the approved tip: an object that nothing else notes."""
        return self.tree("ops/approved").decode().strip()

    def tree(self, branch: str) -> bytes:
        """The tree of a branch."""
        return self.git("rev-parse", "--verify", f"{branch}^{{tree}}")


class Lab:
    """Where the repositories of a run are, and the sealed home they share. Use as a context: the copies go with it."""

    def __init__(self, keep: Path, say: Callable[[str], None]) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        self._keep = keep.resolve()
        self._say = say
        self._scratch = tempfile.TemporaryDirectory(prefix="run-", dir=self._keep)
        self.folder = Path(self._scratch.name)
        self.environ = build.seal(self.folder / "home")
        self._before = dict(os.environ)
        self._rule = _rule()

    def __enter__(self) -> Lab:
        _become(self.environ)
        return self

    def __exit__(self, *_: object) -> None:
        _become(self._before)
        self._scratch.cleanup()

    def copy(self, size: int, *, pending: int) -> Site:
        """A copy of the repository of this size that may be written to; its packs are shared with the kept one."""
        kept, memory = self._built(size, pending)
        place = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(kept / "repo", place / "repo", copy_function=_link_packs)
        site = Site(place / "repo", self.environ, Clock())
        root = (kept / "root").read_text()
        with site.ws() as ws:
            shutil.copytree(memory, ws.memory(root).folder)
            ws.pins.set(ws.repo.common, root, None)
            ws.gate()
        return site

    def _built(self, size: int, pending: int) -> tuple[Path, Path]:
        """The kept repository and what is remembered of it, made when they are not there yet."""
        folder = self._keep / f"v{build.VERSION}-{size}-{pending}"
        memory = folder / f"memory-{self._rule}"
        started = time.monotonic()
        if not folder.exists():
            rough = Path(tempfile.mkdtemp(dir=self.folder))
            build.build(rough, self.environ, size, pending, partial(self._tell, size))
            rough.rename(folder)
            self._tell(size, f"built in {time.monotonic() - started:.0f} s")
        if not memory.exists():
            self._tell(size, "verifying every commit")
            root, rough = (folder / "root").read_text(), self.folder / f"memory-{size}-{pending}"
            build.remember(folder / "repo", root, self.environ, size, pending, rough)
            rough.rename(memory)
            self._tell(size, f"ready after {time.monotonic() - started:.0f} s")
        return folder, memory

    def _tell(self, size: int, text: str) -> None:
        self._say(f"{size:,} items: {text}")


def _rule() -> str:
    """Names the rule and the memory: with other code of either, the history is verified again."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (ledger, models, policy, act, standing))
    return hashlib.sha256(sources).hexdigest()[:12]


def _become(environ: dict[str, str]) -> None:
    """Take an environment: what runs in process is sealed as what runs beside it."""
    os.environ.clear()
    os.environ.update(environ)


def _link_packs(source: str, target: str) -> None:
    if f"{os.sep}objects{os.sep}" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
