"""The user's runners: programs that carry out approved prompts. Only `$XDG_CONFIG_HOME/opsctl/runners.toml` names them.

Nothing of it is ever read from a repository. Imports errors, toml and config.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsctl import toml
from opsctl.config import Places, write_file
from opsctl.errors import OpsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NEVER = re.compile(r"SSH_AUTH_SOCK|SSH_AGENT_PID|XDG_.*|OPSCTL_.*|GIT_.*|GPG_AGENT_INFO|LD_.*|DYLD_.*|DBUS_.*")
_LONGEST_S = 7 * 86400
DEFAULT_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "TMPDIR", "USER", "LOGNAME", "SHELL")


@dataclass(frozen=True, slots=True)
class Runner:
    """A program by argument list, and what it gets: variables by name, folders it may write, the network.

    `sandbox` None means: where this machine has one.
    """

    name: str
    command: tuple[str, ...]
    env: tuple[str, ...] = DEFAULT_ENV
    timeout_s: int | None = None
    sandbox: bool | None = None
    allow_shell: bool = False
    network: bool = False
    writes: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """The argument list; one string is given to a shell, where the user's configuration allows it."""
        return ["/bin/sh", "-c", self.command[0]] if self.allow_shell and len(self.command) == 1 else [*self.command]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The variables that the program gets. Its PATH names no folder that depends on where it is."""
        found = {name: environ[name] for name in self.env if name in environ}
        return found | ({"PATH": absolute(found["PATH"])} if "PATH" in found else {})

    def secrets(self, environ: Mapping[str, str]) -> list[str]:
        """Values of the variables that it gets beyond those of any program: none of them belongs into a record."""
        return [environ[name] for name in self.env if name in environ and name not in DEFAULT_ENV]

    def writable(self, home: Path) -> list[Path]:
        """The folders outside the clone that the program may write."""
        return [Path(os.path.abspath(home / one.removeprefix("~/"))) for one in self.writes]


def absolute(path: str) -> str:
    """PATH without the folders that depend on the current one."""
    return os.pathsep.join(place for place in path.split(os.pathsep) if os.path.isabs(place))


def located(name: str, environ: Mapping[str, str]) -> str | None:
    """The absolute path of a program, never one that depends on the current folder."""
    if "/" in name and not os.path.isabs(name):
        return None
    return shutil.which(name, path=absolute(environ.get("PATH", os.defpath)))


PRESETS: dict[str, Runner] = {
    "claude": Runner(
        "claude",
        (
            *("claude", "-p", "--permission-mode", "acceptEdits", "--output-format", "text"),
            # the repository's own settings could allow tools, name hooks and start servers
            *("--setting-sources", "user", "--strict-mcp-config", "--no-session-persistence"),
            "--settings",
            '{"env": {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}}',
        ),
        (
            *DEFAULT_ENV,
            *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL"),
            "CLAUDE_CODE_OAUTH_TOKEN",
        ),
        network=True,
    ),
    "codex": Runner(
        "codex",
        (
            # its own sandbox stays on: it keeps the model's commands out of ~/.codex, which codex itself must write
            *("codex", "exec", "--sandbox", "workspace-write", "--skip-git-repo-check", "--ephemeral"),
            *("--color", "never", "-c", "check_for_update_on_startup=false", "-c", "analytics.enabled=false"),
            # with plugins or apps it looks for them at github.com and chatgpt.com
            *("-c", "features.plugins=false", "-c", "features.apps=false", "-"),
        ),
        (*DEFAULT_ENV, "OPENAI_API_KEY", "CODEX_API_KEY"),
        network=True,
        writes=("~/.codex",),
    ),
    "aider": Runner(
        "aider",
        (
            # aider leaves a cache beside the files that it works on, and has no setting against that
            *("sh", "-c", 'aider "$@"; code=$?; rm -rf .aider.tags.cache.v*; exit $code', "aider"),
            *("--yes-always", "--no-auto-commits", "--no-dirty-commits", "--no-gitignore"),
            *("--no-stream", "--no-pretty", "--no-fancy-input", "--no-show-model-warnings"),
            *("--no-check-update", "--no-show-release-notes", "--no-analytics"),
            *("--no-detect-urls", "--no-suggest-shell-commands", "--disable-playwright"),
            *("--chat-history-file", "/dev/null", "--input-history-file", "/dev/null"),
            *("--set-env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "--message-file", "/dev/stdin"),
        ),
        (
            *DEFAULT_ENV,
            *("AIDER_MODEL", "OPENAI_API_KEY", "OPENAI_API_BASE", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"),
            *("DEEPSEEK_API_KEY", "OPENROUTER_API_KEY", "OLLAMA_API_BASE"),
        ),
        network=True,
    ),
}
"""Starting points that `runner add` writes; the file is the user's to change."""


@dataclass(frozen=True, slots=True)
class Runners:
    """What the file says."""

    path: Path
    default: str | None = None
    known: Mapping[str, Runner] = field(default_factory=dict)

    @property
    def chosen(self) -> str | None:
        """The runner where nobody names one: the default, or the only one."""
        return self.default or (next(iter(self.known)) if len(self.known) == 1 else None)

    def get(self, name: str | None) -> Runner:
        """A runner by name. Raises `no_runner`."""
        wanted = name or self.chosen
        found = self.known.get(wanted) if wanted else None
        if found is None:
            known = ", ".join(self.known) or "none"
            said = f"no runner {wanted!a} is configured here" if wanted else "no runner is named"
            raise OpsError(
                "no_runner", f"{said}; known: {known}", hint="opsctl runner add claude (or a program of yours)"
            )
        return found


def load(places: Places) -> Runners:
    """Read the file; none is no runners. Raises `bad_config`."""
    path = places.config / "runners.toml"
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        table = toml.loads(path.read_text(encoding="utf-8"))
        rows = table.get("runner", {})
        if set(table) - {"runner", "default"} or not isinstance(rows, dict):
            raise ValueError("only `default` and [runner.NAME] tables belong here")
        known = {name: _runner(name, row) for name, row in rows.items()}
        default = table.get("default")
        if default is not None and default not in known:
            raise ValueError(f"default = {default!r} names no runner")
        return Runners(path, default, known)
    except FileNotFoundError:
        return Runners(path)
    except (OSError, ValueError, TypeError) as error:
        raise OpsError(
            "bad_config", f"{path} cannot be used", cause=str(error), hint="mend the file, or move it away"
        ) from None


def add(places: Places, runner: Runner, *, replace: bool) -> Runners:
    """Write a runner into the file, beside those that are there. Raises `bad_config`, `disk`."""
    runners = load(places)
    if runner.name in runners.known and not replace:
        raise OpsError("bad_input", f"the runner {runner.name} is there already", hint="--force writes it anew")
    _runner(runner.name, _row(runner))
    known = {**runners.known, runner.name: runner}
    head = f"default = {json.dumps(runners.default)}\n\n" if runners.default else ""
    text = head + "\n".join(_format(one) for one in known.values())
    try:
        runners.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(runners.path, text.encode())
    except OSError as error:
        raise OpsError("disk", f"{runners.path} could not be written", cause=str(error)) from None
    return load(places)


def _runner(name: str, row: Any) -> Runner:
    if not _NAME.fullmatch(name) or not isinstance(row, dict):
        raise ValueError(f"[runner.{name[:60]}]: a name has letters, digits and . _ + -")
    allow_shell = _typed(name, row, "allow_shell", bool, default=False)
    given = row.get("command")
    if isinstance(given, str) and not allow_shell:
        raise ValueError(f"[runner.{name}]: command is a list of arguments; one string needs allow_shell = true")
    command = (given,) if isinstance(given, str) else _texts(name, row, "command", ())
    if not command or not command[0] or "\0" in command[0]:
        raise ValueError(f"[runner.{name}]: command is missing")
    env = _texts(name, row, "env", DEFAULT_ENV)
    bad = [one for one in env if not _VARIABLE.fullmatch(one) or _NEVER.fullmatch(one)]
    if bad:
        raise ValueError(f"[runner.{name}]: {bad[0][:60]!a} is never handed to a runner")
    unknown = set(row) - set(Runner.__slots__)
    if unknown or "name" in row:
        raise ValueError(f"[runner.{name}]: unknown key {sorted(unknown or {'name'})[0][:60]!a}")
    timeout_s = _typed(name, row, "timeout_s", int)
    if timeout_s is not None and not 1 <= timeout_s <= _LONGEST_S:
        raise ValueError(f"[runner.{name}]: timeout_s is 1 to {_LONGEST_S}")
    writes = _texts(name, row, "writes", ())
    if not all(one.startswith(("/", "~/")) for one in writes):
        raise ValueError(f"[runner.{name}]: writes names folders from / or ~/ on")
    return Runner(
        name=name,
        command=command,
        env=env,
        timeout_s=timeout_s,
        sandbox=_typed(name, row, "sandbox", bool),
        allow_shell=bool(allow_shell) and isinstance(given, str),
        network=bool(_typed(name, row, "network", bool, default=False)),
        writes=writes,
    )


def _typed(name: str, row: Mapping[str, Any], key: str, kind: type, *, default: Any = None) -> Any:
    value = row.get(key, default)
    if value is not None and type(value) is not kind:
        raise ValueError(f"[runner.{name}]: {key} is not of the right type")
    return value


def _texts(name: str, row: Mapping[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = row.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(one, str) and "\0" not in one for one in value):
        raise ValueError(f"[runner.{name}]: {key} is a list of strings")
    return tuple(value)


def _row(runner: Runner) -> dict[str, Any]:
    row: dict[str, Any] = {"command": runner.command[0] if runner.allow_shell else list(runner.command)}
    row["env"] = list(runner.env)
    for key in ("timeout_s", "sandbox", "allow_shell", "network"):
        value = getattr(runner, key)
        if value not in (None, False):
            row[key] = value
    if runner.writes:
        row["writes"] = list(runner.writes)
    return row | ({"sandbox": False} if runner.sandbox is False else {})


def _format(runner: Runner) -> str:
    rows = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in _row(runner).items()]
    return (
        f"[runner.{json.dumps(runner.name) if '.' in runner.name or '+' in runner.name else runner.name}]\n"
        + "\n".join(rows)
        + "\n"
    )
