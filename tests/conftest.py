"""A sealed home with real git and real keys. Nothing outside the test's own folder is read or written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opsctl.workspace import Workspace

# a shell that starts the tests in the background leaves Ctrl-C ignored, in every child too
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Home:
    """One person's machine: HOME, XDG folders, git's configuration, keys by name."""

    path: Path
    environ: dict[str, str] = field(default_factory=dict)

    def key(self, name: str, *, kind: str = "ed25519", passphrase: str = "") -> Path:
        """The private key of that name, made by ssh-keygen when first asked for."""
        path = self.path / "keys" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            bits = ["-b", "256"] if kind == "ecdsa" else []
            command = ["ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-C", name, "-f", str(path)]
            subprocess.run(command, check=True, env=self.environ)
        return path

    def public(self, name: str) -> str:
        """The public key as `type base64`."""
        self.key(name)
        return " ".join((self.path / "keys" / f"{name}.pub").read_text().split()[:2])

    def git(self, *arguments: str, cwd: Path | None = None, check: bool = True, stdin: bytes | None = None) -> str:
        """Plain git, as this person would run it."""
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.path, env=self.environ, input=stdin, capture_output=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"git {arguments}: {done.stderr.decode()}")
        return done.stdout.decode("utf-8", "surrogateescape").strip("\n")


@dataclass
class Site:
    """A repository of a person, and the ways to work on it."""

    home: Home
    path: Path

    def git(self, *arguments: str, check: bool = True, stdin: bytes | None = None) -> str:
        """Plain git in this repository."""
        return self.home.git(*arguments, cwd=self.path, check=check, stdin=stdin)

    def ws(self, *, key: str | None = None, now: Callable[[], datetime] | None = None) -> Workspace:
        """A new Workspace, as a new process would open it; `key` names one of the home's keys."""
        chosen = str(self.home.key(key)) if key else None
        return Workspace(self.path, environ=self.home.environ, now=now or (lambda: datetime.now(UTC)), key=chosen)

    def cli(
        self, *arguments: str, stdin: str | bytes = "", env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command line, in a process of its own. No terminal."""
        return subprocess.run(
            [sys.executable, "-m", "opsctl", *arguments],
            cwd=cwd or self.path,
            env={**self.home.environ, **(env or {})},
            input=stdin if isinstance(stdin, str) else stdin.decode("utf-8", "surrogateescape"),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=120,
            check=False,
        )

    def ok(self, *arguments: str, **options: object) -> str:
        """The command line's output; the test fails if it exits with anything but 0."""
        done = self.cli(*arguments, **options)  # type: ignore[arg-type]
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def json(self, *arguments: str) -> object:
        """What a command prints with `--json`."""
        return json.loads(self.ok(*arguments, "--json"))

    def tip(self, branch: str = "ops/approved") -> str:
        """The commit of a branch."""
        return self.git("rev-parse", "--verify", f"refs/heads/{branch}")

    def fsck(self) -> None:
        """`git fsck --strict` must be clean."""
        self.git("fsck", "--strict", "--no-dangling")


def make_home(path: Path, name: str = "Alice", email: str = "alice@example.com") -> Home:
    """A sealed home: HOME and XDG below `path`, no system git configuration, no agent, no locale surprises."""
    path.mkdir(parents=True, exist_ok=True)
    environ = {
        "HOME": str(path),
        "PATH": os.environ["PATH"],
        "XDG_CONFIG_HOME": str(path / "config"),
        "XDG_STATE_HOME": str(path / "state"),
        "XDG_CACHE_HOME": str(path / "cache"),
        "XDG_RUNTIME_DIR": str(path),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(path / ".gitconfig"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "OPSCTL_LOCK_WAIT": "30",
    }
    for name_kept in ("LD_PRELOAD", "PYTHONDONTWRITEBYTECODE", "COVERAGE_PROCESS_START"):
        if name_kept in os.environ:
            environ[name_kept] = os.environ[name_kept]
    home = Home(path, environ)
    key = home.key(name.lower())
    (path / ".gitconfig").write_text(
        f"[user]\n\tname = {name}\n\temail = {email}\n\tsigningkey = {key}.pub\n"
        "[gpg]\n\tformat = ssh\n[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n"
    )
    return home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Alice's sealed home; this process takes its environment too, so in-process tests are sealed alike."""
    made = make_home(tmp_path / "home")
    for name in list(os.environ):
        if name not in made.environ and not name.startswith(("PYTEST", "TMP")):
            monkeypatch.delenv(name)
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def bare_site(home: Home) -> Site:
    """A fresh repository with one ordinary commit and no gate."""
    path = home.path / "repo"
    home.git("init", "-q", str(path))
    (path / "src").mkdir()
    (path / "src" / "app.py").write_text("print('hello')\n")
    home.git("add", ".", cwd=path)
    home.git("commit", "-q", "-m", "first", cwd=path)
    return Site(home, path)


@pytest.fixture
def site(bare_site: Site) -> Site:
    """A repository with a gate: Alice is approver and policy."""
    with bare_site.ws() as ws:
        ws.founding.init(name=None, email=None, audience="acme/app", generate_key=False)
    return bare_site
