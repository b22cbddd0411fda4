"""Bubblewrap around a runner's program: no network, nothing to write but the clone, secrets out of sight."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from opsctl.config import Places
from opsctl.errors import OpsError
from opsctl.executors.clone import PrivateClone
from opsctl.runners import Runner, absolute, located

_SYSTEM = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
_EMPTIED = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108  sockets and other people's files live there
_HIDDEN_AT_HOME = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".git-credentials", ".config/git/credentials"),
    *(".config/gcloud", ".config/gh", ".config/op", ".1password", ".password-store", ".local/share/keyrings"),
    *(".mozilla", ".config/google-chrome", ".config/chromium", ".vault-token", ".pypirc", ".npmrc", ".pgpass"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What the program may do: its own folders, others it may write, what is hidden, whether it has the network."""

    home: Path
    own: Sequence[Path]
    writes: Sequence[Path]
    hides: Sequence[Path]
    reads: Sequence[Path]
    network: bool


def walled(
    runner: Runner,
    environ: Mapping[str, str],
    places: Places,
    clone: PrivateClone,
    *,
    asked: bool | None,
    network: bool,
    hides: Sequence[Path] = (),
) -> tuple[list[str], str]:
    """The runner's argument list in a sandbox, and what the sandbox is: `bwrap` or `none`.

    `asked` None means: as the runner says, else where this machine has one. Walls that the runner wants cannot be
    asked away. Raises `no_sandbox`, `runner_failed` where its program is not there, and `network_refused` where it
    needs a network that was not approved, whether there is a sandbox or not.
    """
    if runner.network and not network:  # with walls or without: what was approved does not depend on them
        hint = "[run] network = true in the approved file and allow_network = true in the policy allow it"
        raise OpsError("network_refused", f"the runner {runner.name} needs the network", hint=hint)
    argv = started(runner, environ)
    wanted = True if runner.sandbox else runner.sandbox if asked is None else asked
    found = available(environ.get("PATH")) if wanted is not False else None
    if wanted and not found:
        other = "take sandbox = true out of runners.toml" if runner.sandbox else "take --no-sandbox"
        hint = f"install bubblewrap, or {other}: a program that runs as you can do what you can"
        raise OpsError("no_sandbox", "no sandbox works on this machine", hint=hint)
    if found is None:
        return argv, "none"
    cell = _cell(runner, argv, environ, places, clone, network=network, hides=hides)
    return wrapped(found, argv, cell, clone.work), "bwrap with network" if network else "bwrap"


def started(runner: Runner, environ: Mapping[str, str]) -> list[str]:
    """The runner's argument list with the absolute path of its program. Raises `runner_failed`.

    Never looked for in the current folder, which is a repository or a clone that others fill.
    """
    name, *rest = runner.argv()
    found = located(name, environ)
    if found is None:
        why = "has to be a name, or a path from / on" if "/" in name and not os.path.isabs(name) else "is not there"
        why = "is not executable" if os.path.isabs(name) and os.path.exists(name) else why
        hint = f"install it, or mend its command: opsctl runner add {runner.name} --force -- COMMAND"
        raise OpsError("runner_failed", f"the program of the runner {runner.name}, {name[:200]!a}, {why}", hint=hint)
    return [found, *rest]


def _cell(
    runner: Runner,
    argv: Sequence[str],
    environ: Mapping[str, str],
    places: Places,
    clone: PrivateClone,
    *,
    network: bool,
    hides: Sequence[Path],
) -> Cell:
    home = Path(environ.get("HOME", "/nonexistent"))
    hidden = [*hides, places.config, places.state, places.cache]
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime) != home:
        hidden.append(Path(runtime))
    if agent := environ.get("SSH_AUTH_SOCK"):  # a socket can be used through a folder that cannot be written
        hidden.append(Path(agent))
    hidden += _sockets(home)
    program = [Path(one) for one in argv if os.path.isabs(one) and os.path.exists(one)]
    reads = [*program, *(one.parent.parent for one in program[:1] if os.access(one, os.X_OK))]
    return Cell(home, [clone.work, clone.folder / "tmp"], runner.writable(home), hidden, reads, network)


def _sockets(home: Path) -> list[Path]:
    """Those at the top of the home: an agent of keys may listen there, whatever the environment says."""
    try:
        with os.scandir(home) as rows:
            return [Path(row.path) for row in rows if stat.S_ISSOCK(row.stat(follow_symlinks=False).st_mode)]
    except OSError:
        return []


@cache
def available(path: str | None) -> str | None:
    """The absolute path of a bubblewrap that works here, or None."""
    found = shutil.which("bwrap", path=absolute(path or os.defpath))
    if found is None:
        return None
    probe = [found, "--unshare-all", "--die-with-parent", *_SYSTEM, "true"]
    try:
        done = subprocess.run(
            probe, capture_output=True, timeout=10, check=False, env={"PATH": absolute(path or os.defpath)}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.path.abspath(found) if done.returncode == 0 else None


def wrapped(program: str, argv: Sequence[str], cell: Cell, cwd: Path) -> list[str]:
    """The argument list that runs `argv` in the cell. Later mounts lie over earlier ones."""
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]  # else root could unmount
    options += ["--share-net"] if cell.network else []
    options += _SYSTEM
    for folder in _EMPTIED:
        options += ["--tmpfs", folder] if os.path.isdir(folder) and not os.path.islink(folder) else []
    options += _resolver() if cell.network else []
    for place in _covered([cell.home, *cell.reads, *cell.hides]):
        options += ["--ro-bind-try", os.fspath(place), os.fspath(place)]
    for place in cell.writes:
        options += ["--bind-try", os.fspath(place), os.fspath(place)]
    for place in [*(cell.home / name for name in _HIDDEN_AT_HOME), *cell.hides]:
        options += _hide(place)
    for place in cell.own:
        options += ["--bind-try", os.fspath(place), os.fspath(place)]
    return [program, *options, "--chdir", os.fspath(cwd), "--", *argv]


def _covered(places: Iterable[Path]) -> list[Path]:
    """Those that lie below a folder that was emptied, outermost first."""
    real = {Path(os.path.realpath(place)) for place in places}
    return sorted(place for place in real if any(Path(folder) in place.parents for folder in _EMPTIED))


def _hide(place: Path) -> list[str]:
    place = Path(os.path.realpath(place))  # a link on the way could not be mounted over
    if place.is_dir():
        return ["--tmpfs", os.fspath(place)]
    return ["--ro-bind", os.devnull, os.fspath(place)] if place.exists() else []


def _resolver() -> list[str]:
    """Names are looked up by a file that may lie below /run."""
    real = os.path.realpath("/etc/resolv.conf")
    return ["--ro-bind-try", real, real] if real.startswith("/run/") else []
