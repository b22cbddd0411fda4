"""`provider.json` of the user's configuration, never of a repository: the providers, and which one is active.

The file is the user's: it is edited in its own order, and holds no key, only the names of environment variables.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsctl.config import Places, write_file
from opsctl.errors import OpsError
from opsctl.providers.entry import settings_of
from opsctl.providers.port import ProviderSettings

SIZE_LIMIT = 256 * 1024
_MOST = 100
"""Entries of a file."""


def _local(port: int, model: str) -> dict[str, str | None]:
    base_url = f"http://localhost:{port}/v1"
    return {"type": "openai_compat", "base_url": base_url, "model": model, "api_key": None}


DEFAULT: dict[str, Any] = {
    "active": "local_ollama",
    "providers": {
        "local_ollama": _local(11434, "qwen2.5-coder:7b"),
        "lm_studio": _local(1234, "qwen2.5-coder-7b-instruct"),
        "llama_cpp": _local(8080, "default"),
        "openai": {
            "type": "openai_compat",
            "base_url": "https://api.openai.com/v1",
            "model": "gpt-5-mini",
            "api_key": "${OPENAI_API_KEY}",
        },
        "claude_api": {"type": "anthropic", "model": "claude-sonnet-4-5", "api_key": "${ANTHROPIC_API_KEY}"},
        "gemini": {"type": "gemini", "model": "gemini-2.5-flash", "api_key": "${GEMINI_API_KEY}"},
    },
}
"""What `provider init` writes."""


@dataclass(frozen=True, slots=True)
class ProviderFile:
    """The file as it was read. `table` keeps the user's order; `faults` are entries that cannot be used, by name."""

    path: Path
    active: str | None
    providers: Mapping[str, ProviderSettings]
    faults: Mapping[str, OpsError]
    table: Mapping[str, Any]
    text: str = ""

    def get(self, name: str | None) -> ProviderSettings:
        """An entry, the active one if none is named. Raises `no_provider`, `bad_config`."""
        wanted = name or self.active
        if wanted is not None and wanted in self.faults:
            raise self.faults[wanted]
        if wanted is None or wanted not in self.providers:
            known = ", ".join(f"{one[:60]!a}" for one in [*self.providers, *self.faults]) or "none"
            said = f"no provider {wanted[:60]!a} is configured" if wanted else "no provider is configured"
            hint = "opsctl provider init, opsctl provider list"
            is_ours = name is None and wanted is not None  # the file itself names what it has not
            code = "bad_config" if is_ours else "no_provider"
            raise OpsError(code, f"{said}; known: {known[:400]}", hint=hint)
        return self.providers[wanted]


def path_of(places: Places) -> Path:
    """Where the file is."""
    return places.config / "provider.json"


def load(places: Places) -> ProviderFile:
    """Read the file; where there is none, nothing is configured. Raises `bad_config` for one that is no such file."""
    path = path_of(places)
    try:
        text = _read(path)
        table = json.loads(text, object_pairs_hook=_unique)
        rows = _rows(table)
    except FileNotFoundError:
        return ProviderFile(path, None, {}, {}, {})
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        hint = "mend the file, or move it away and run `opsctl provider init`"
        raise OpsError("bad_config", f"{path} cannot be used", cause=cause, hint=hint) from None
    providers: dict[str, ProviderSettings] = {}
    faults: dict[str, OpsError] = {}
    for name, row in rows.items():
        try:
            providers[name] = settings_of(name, row)
        except OpsError as fault:
            faults[name] = fault
    return ProviderFile(path, table["active"], providers, faults, table, text)


def _read(path: Path) -> str:
    """The text of a plain file; of a pipe or a device nothing is read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a plain file")
        data = file.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"it has more than {SIZE_LIMIT:,} bytes")
    if re.search(rb"\\u[dD][89a-fA-F]", data):
        raise ValueError("it has surrogate escapes; write the characters themselves")
    return data.decode("utf-8")


def _rows(table: Any) -> dict[str, Any]:
    if not isinstance(table, dict) or set(table) - {"active", "providers"}:
        raise ValueError("it is an object with `active` and `providers`, and nothing else")
    active, rows = table.get("active"), table.get("providers")
    if not isinstance(active, str) or not isinstance(rows, dict) or len(rows) > _MOST:
        raise ValueError(f"`active` is the name of an entry of `providers`, which are at most {_MOST}")
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return row


def use(places: Places, name: str) -> ProviderFile:
    """Make an entry the active one; nothing else of the file changes. Raises `no_provider`, `bad_config`, `disk`."""
    file = load(places)
    file.get(name)
    start, end = _active(file.text)
    save(places, file.text[:start] + json.dumps(name) + file.text[end:])
    return load(places)


def _active(text: str) -> tuple[int, int]:
    """From where to where the value of `active` stands in a file that was read before."""
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        key, at = decoder.raw_decode(text, _past(text, at, ","))
        start = _past(text, at, ":")
        _, at = decoder.raw_decode(text, start)
        if key == "active":
            return start, at


def _past(text: str, at: int, mark: str) -> int:
    while text[at].isspace() or text[at] == mark:
        at += 1
    return at


def save(places: Places, text: str) -> None:
    """Write the file so that a crash leaves the old or the new one; a link to it stays one. Raises `disk`."""
    path = path_of(places)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(path.resolve(), text.encode())
    except OSError as error:
        raise OpsError("disk", f"{path} could not be written", cause=error.strerror) from None


def written(table: Mapping[str, Any]) -> str:
    """A new file."""
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"
