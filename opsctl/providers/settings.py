"""`provider.json` of the user's configuration: which providers there are, and which one is active. Never of a repository.

The file is the user's: it is edited in its own order, and holds no key, only the names of environment variables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsctl.config import Places, write_file
from opsctl.errors import OpsError
from opsctl.providers import ADAPTERS
from opsctl.providers.address import check_base_url, host_of
from opsctl.providers.port import ProviderSettings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REFERENCE = re.compile(r"\$\{([A-Z][A-Z0-9_]{0,120})\}")
_KEYS = ("type", "base_url", "model", "api_key", "key_host", "proxy")
VENDORS = {"anthropic": "https://api.anthropic.com", "gemini": "https://generativelanguage.googleapis.com"}
"""Where a type goes that has a vendor of its own."""

_BOUND = {
    "OPENAI_API_KEY": "api.openai.com",
    "ANTHROPIC_API_KEY": "api.anthropic.com",
    "GEMINI_API_KEY": "generativelanguage.googleapis.com",
    "GOOGLE_API_KEY": "generativelanguage.googleapis.com",
    "MISTRAL_API_KEY": "api.mistral.ai",
    "GROQ_API_KEY": "api.groq.com",
    "OPENROUTER_API_KEY": "openrouter.ai",
    "DEEPSEEK_API_KEY": "api.deepseek.com",
    "XAI_API_KEY": "api.x.ai",
    "TOGETHER_API_KEY": "api.together.xyz",
}
"""Well-known variables and the one host that each is sent to."""

DEFAULT = {
    "active": "local_ollama",
    "providers": {
        "local_ollama": {
            "type": "openai_compat",
            "base_url": "http://localhost:11434/v1",
            "model": "qwen2.5-coder:7b",
            "api_key": None,
        },
        "lm_studio": {
            "type": "openai_compat",
            "base_url": "http://localhost:1234/v1",
            "model": "qwen2.5-coder-7b-instruct",
            "api_key": None,
        },
        "llama_cpp": {
            "type": "openai_compat",
            "base_url": "http://localhost:8080/v1",
            "model": "default",
            "api_key": None,
        },
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

    def get(self, name: str | None) -> ProviderSettings:
        """An entry, the active one if none is named. Raises `no_provider`, `bad_config`."""
        wanted = name or self.active
        if wanted in self.faults:
            raise self.faults[wanted]
        if wanted is None or wanted not in self.providers:
            known = ", ".join([*self.providers, *self.faults]) or "none"
            said = f"no provider {wanted[:60]!a} is configured" if wanted else "no provider is configured"
            raise OpsError("no_provider", f"{said}; known: {known}", hint="opsctl provider init, opsctl provider list")
        return self.providers[wanted]


def path_of(places: Places) -> Path:
    """Where the file is."""
    return places.config / "provider.json"


def load(places: Places) -> ProviderFile:
    """Read the file; where there is none, nothing is configured. Raises `bad_config` for one that is no such file."""
    path = path_of(places)
    try:
        table = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
        rows = table["providers"]
        unknown = set(table) - {"active", "providers"}
        if not isinstance(rows, dict) or not isinstance(table.get("active"), str) or unknown:
            raise ValueError(f"it has `active` and `providers`, and nothing else{_listed(unknown)}")
    except FileNotFoundError:
        return ProviderFile(path, None, {}, {}, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = "mend the file, or move it away and run `opsctl provider init`"
        raise OpsError("bad_config", f"{path} cannot be used", cause=str(error), hint=hint) from None
    providers: dict[str, ProviderSettings] = {}
    faults: dict[str, OpsError] = {}
    for name, row in rows.items():
        try:
            providers[name] = _settings(name, row)
        except OpsError as fault:
            faults[name] = fault
    return ProviderFile(path, table["active"], providers, faults, table)


def _listed(names: set[str]) -> str:
    return f": {sorted(names)[0][:60]!a}" if names else ""


def use(places: Places, name: str) -> ProviderFile:
    """Make an entry the active one; nothing else of the file changes. Raises `no_provider`, `bad_config`, `disk`."""
    file = load(places)
    file.get(name)
    save(places, {**file.table, "active": name})
    return load(places)


def save(places: Places, table: Mapping[str, Any]) -> None:
    """Write the file so that a crash leaves the old or the new one. Raises `disk`."""
    path = path_of(places)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(path, (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise OpsError("disk", f"{path} could not be written", cause=error.strerror) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands twice")
    return row


def _settings(name: str, row: Any) -> ProviderSettings:
    if not NAME.fullmatch(name) or not isinstance(row, dict):
        raise _bad(name, "a name has letters, digits and . _ -, and an entry is an object")
    unknown = sorted(set(row) - set(_KEYS))
    if unknown:
        raise _bad(name, f"unknown key {unknown[0][:60]!a}")
    kind, model, base_url = row.get("type"), row.get("model"), row.get("base_url")
    if kind not in ADAPTERS:
        raise _bad(name, f"type is one of {', '.join(ADAPTERS)}")
    if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable():
        raise _bad(name, "model is the name of a model")
    if base_url is None:
        base_url = VENDORS.get(kind)
    if not isinstance(base_url, str):
        raise _bad(name, "base_url is missing")
    if not isinstance(row.get("proxy", False), bool):
        raise _bad(name, "proxy is true or false")
    check_base_url(name, base_url)
    key = _key(name, row.get("api_key"))
    settings = ProviderSettings(name, kind, model, base_url, key, row.get("key_host"), row.get("proxy", False))
    _check_key_host(settings)
    return settings


def _key(name: str, value: Any) -> str | None:
    """The name of the variable. A literal key is refused without being shown."""
    if value is None or value == "":
        return None
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        variable = f"{re.sub(r'[^A-Z0-9]', '_', name.upper())}_API_KEY"
        hint = f'put the key into your environment and write "api_key": "${{{variable}}}"'
        raise OpsError("bad_config", f"provider {name}: api_key is no reference of the form ${{NAME}}", hint=hint)
    variable = match[1]
    if not variable.endswith("_API_KEY") or variable.startswith("OPSCTL_"):
        hint = "a variable for a key ends in _API_KEY and does not begin with OPSCTL_"
        raise OpsError("bad_config", f"provider {name}: {variable} is not sent to a provider", hint=hint)
    return variable


def _check_key_host(settings: ProviderSettings) -> None:
    """A key goes to one host, whatever `base_url` says later."""
    if settings.key is None:
        return
    host = host_of(settings.base_url or "")
    bound = _BOUND.get(settings.key) or settings.key_host
    if not isinstance(bound, str):
        hint = f'write "key_host": "{host}" beside it, if that is who the key is for'
        raise OpsError("bad_config", f"provider {settings.name}: nothing says whom {settings.key} is for", hint=hint)
    if bound != host and bound != host.rpartition(":")[0]:
        hint = f"a key of another host needs a variable of its own, with a key_host of {host}"
        raise OpsError("bad_config", f"provider {settings.name}: {settings.key} is for {bound}, not {host}", hint=hint)


def _bad(name: str, message: str) -> OpsError:
    return OpsError("bad_config", f"provider {name[:60]!a}: {message}", hint="opsctl provider path names the file")


def key_of(settings: ProviderSettings, environ: Mapping[str, str]) -> str | None:
    """The key itself, at the moment of the call. Raises `bad_config` where the variable is not set."""
    if settings.key is None:
        return None
    value = environ.get(settings.key, "").strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        hint = f"export {settings.key}=…"
        raise OpsError("bad_config", f"provider {settings.name}: {settings.key} is not set", hint=hint)
    return value
