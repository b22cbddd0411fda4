"""The git program, for what libgit2 is not used for: settings, network, diffs for the eye. Hooks never run.

The user's environment is handed in, by the face; this package reads no other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opsctl.errors import OpsError

_GUARDS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.pager=cat",
    "core.askPass=",
    "core.alternateRefsCommand=true",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
)
_KEPT = ("HOME", "PATH", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
_FOLDERS = ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "TMPDIR")
_CONFIG = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
_NETWORK = (
    "SSH_AUTH_SOCK",
    "SSH_ASKPASS",
    "GIT_ASKPASS",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "GIT_SSL_CAINFO",
    "SSL_CERT_FILE",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "all_proxy",
    "no_proxy",
    "NO_PROXY",
)
_OWN_SCOPES = ("system", "global", "command")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of git's configuration: where it was written, and whether that place is the user's own."""

    key: str
    value: str
    scope: str
    origin: str

    @property
    def is_own(self) -> bool:
        """True for the user's or the machine's configuration, false for the repository's."""
        return self.scope in _OWN_SCOPES


def program(name: str, environ: Mapping[str, str]) -> str:
    """The absolute path of a program in PATH. Raises `unsupported_version` when there is none."""
    places = [place for place in environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(place)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise OpsError("unsupported_version", f"{name} is not installed", hint=f"install {name} and try again")
    return found


def expanded(path: str, environ: Mapping[str, str]) -> str:
    """The path with a leading `~` spelled out."""
    home = environ.get("HOME")
    if home and (path == "~" or path.startswith("~/")):
        return home.rstrip("/") + path[1:] or "/"
    return os.path.expanduser(path)


def environment(environ: Mapping[str, str], extra: Sequence[str] = (), **values: str) -> dict[str, str]:
    """A small environment: nothing that points git at another repository, index, or object folder (GT-12).

    No transport is allowed either: a git that does not know GIT_NO_LAZY_FETCH would fetch a missing object, by a
    program that the repository's configuration may name.
    """
    kept = {name: environ[name] for name in (*_KEPT, *_CONFIG, *extra) if name in environ}
    for name in _FOLDERS:
        if not os.path.isabs(kept.get(name, "/")):  # git would look below the folder that it works in
            del kept[name]
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    return kept | fixed | {"GIT_ALLOW_PROTOCOL": ""} | values


class Git:
    """Runs git on one repository with a fixed set of guards."""

    def __init__(self, git_dir: Path, environ: Mapping[str, str]) -> None:
        self._git_dir = git_dir
        self._environ = environ
        self._program = program("git", environ)

    def argv(self, arguments: Sequence[str], *, guards: Sequence[str] = ()) -> list[str]:
        """The whole command line."""
        options = [part for guard in (*_GUARDS, *guards) for part in ("-c", guard)]
        head = [self._program, f"--git-dir={os.fspath(self._git_dir)}", "--no-pager", "--no-replace-objects"]
        return [*head, *options, *arguments]

    def run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        timeout_s: float = 30,
        guards: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        good: Sequence[int] = (0,),
    ) -> bytes:
        """Standard output. Raises `git_failed` with git's last line, or when it takes longer than `timeout_s`."""
        try:
            done = subprocess.run(
                self.argv(arguments, guards=guards),
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                env=dict(env) if env is not None else environment(self._environ),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OpsError("git_failed", f"git {arguments[0]} took more than {timeout_s:g} s") from None
        except OSError as error:
            raise OpsError("git_failed", f"git {arguments[0]} could not be started", cause=str(error)) from None
        if done.returncode not in good:
            raise failed(arguments[0], done.stderr)
        return done.stdout

    def network_environment(self, *, prompts: bool) -> dict[str, str]:
        """What git needs to reach a remote as the user would; prompts only where a person can answer."""
        values = environment(self._environ, _NETWORK, GIT_TERMINAL_PROMPT="1" if prompts else "0")
        values.pop("GIT_ALLOW_PROTOCOL")
        return values | {name: self._environ[name] for name in ("GIT_ALLOW_PROTOCOL",) if name in self._environ}


def failed(verb: str, stderr: bytes) -> OpsError:
    """The error for a git that ended badly, with the line that says why."""
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "!"))] or lines
    return OpsError("git_failed", f"git {verb} failed", cause=telling[0][:300] if telling else None)


def settings(git_dir: Path | None, cwd: Path, environ: Mapping[str, str]) -> list[Setting]:
    """Every value of git's configuration in git's order, with scope and origin. Later values win."""
    where = [f"--git-dir={os.fspath(git_dir)}"] if git_dir else []
    extra = [name for name in environ if name.startswith(("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"))]
    env = environment(environ, ["GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS", *extra])
    command = [program("git", environ), *where, "config", "--list", "-z", "--show-scope", "--show-origin"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, env=env, cwd=cwd, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OpsError("git_failed", "git config could not be read", cause=str(error)) from None
    if done.returncode != 0:
        raise failed("config", done.stderr)
    parts = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    found = []
    for scope, origin, pair in zip(parts[0::3], parts[1::3], parts[2::3], strict=False):
        key, is_given, value = pair.partition("\n")
        found.append(Setting(key, value if is_given else "true", scope, origin))  # `[a] b` alone means true
    return found
