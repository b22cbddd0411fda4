"""One real small edit by a runner, in a scratch repository with no gate: does it work on this machine?"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from opsctl.config import Places
from opsctl.errors import OpsError
from opsctl.executors.clone import PrivateClone
from opsctl.executors.output import Output
from opsctl.executors.process import Job, run
from opsctl.executors.sandbox import walled
from opsctl.executors.theirs import remove
from opsctl.git.command import Git, environment
from opsctl.runners import Runner

_PROMPT = "Create a file named opsctl-check.txt in the current folder that holds the single word ok. Do nothing else.\n"
_PREFIX = "opsctl-check-"
_OLD_S = 86400.0
"""No check takes so long."""

_WHO = ("opsctl", "opsctl@localhost")


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it. `seconds` is wall time."""

    ok: bool
    seconds: float
    message: str
    sandbox: str

    def as_json(self) -> dict[str, object]:
        """As `--json` prints it."""
        return asdict(self)


def trial(
    runner: Runner,
    environ: Mapping[str, str],
    places: Places,
    *,
    timeout_s: float,
    sandbox: bool | None,
    hides: Sequence[Path] = (),
) -> Trial:
    """Let the runner write one file. Raises `no_sandbox`, `runner_failed`."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_room(places)) as folder:
        base, source = _scratch(Path(folder), environ)
        clone = PrivateClone(Path(folder) / "run", source, "check", environment(environ))
        clone.make(base, _WHO)
        argv, walls = walled(runner, environ, places, clone, asked=sandbox, network=runner.network, hides=hides)
        output = Output(None, runner.secrets(environ))
        (Path(folder) / "prompt").write_text(_PROMPT, encoding="utf-8")
        with (Path(folder) / "prompt").open("rb") as stdin:
            env = runner.environment(environ) | {"TMPDIR": str(clone.folder / "tmp"), "PWD": str(clone.work)}
            job = Job(argv, env, clone.work, stdin.fileno(), timeout_s)
            ended = run(job, output=output.feed, stop=lambda: None)
        result = clone.collect(base, "check", _WHO, _WHO)
        changed = clone.changed(base, result.tip) if result.tip else []
    seconds = time.monotonic() - started
    last = f": {output.last_line}" if output.last_line else ""
    if ended.reason == "timeout":
        return Trial(False, seconds, f"it took more than {timeout_s:g} s{last}, sandbox: {walls}", walls)
    if ended.exit_code:
        return Trial(False, seconds, f"exit {ended.exit_code}{last}, sandbox: {walls}", walls)
    if "opsctl-check.txt" not in changed:
        return Trial(False, seconds, f"it wrote no file{last}, sandbox: {walls}", walls)
    return Trial(True, seconds, f"it edited a file, sandbox: {walls}", walls)


def _room(places: Places) -> Path:
    """Beside the clones of real runs, so that a sandbox treats it alike."""
    room = places.cache / "runs"
    try:
        room.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OpsError("disk", f"{room} could not be made", cause=error.strerror) from None
    for left in room.glob(f"{_PREFIX}*"):  # of a check that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > _OLD_S:
                remove(left)
    return room


def _scratch(folder: Path, environ: Mapping[str, str]) -> tuple[str, Path]:
    """A bare repository with one commit; returns the commit and the place."""
    source = folder / "source.git"
    git = Git(source, environ)
    env = environment(environ) | {
        f"GIT_{role}_{part}": "opsctl" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
    }
    git.run("init", "--quiet", "--bare", "--template=", os.fspath(source), env=env)
    tree = git.run("hash-object", "-t", "tree", "-w", "--stdin", stdin=b"", env=env).decode().strip()
    return git.run("commit-tree", "--no-gpg-sign", tree, stdin=b"scratch\n", env=env).decode().strip(), source
