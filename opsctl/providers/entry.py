"""One entry of `provider.json`: what it may say, and whom its key is for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
"""Well-known variables and the one host that each is sent to, by its usual port; `key_host` cannot change that."""


def settings_of(name: str, row: Any) -> ProviderSettings:
    """An entry, checked. Raises `bad_config`."""
    if not NAME.fullmatch(name) or not isinstance(row, dict):
        raise _bad(name, "a name has letters, digits and . _ -, and an entry is an object")
    unknown = sorted(set(row) - set(_KEYS))
    if unknown:
        raise _bad(name, f"unknown key {unknown[0][:60]!a}")
    kind, model, base_url = row.get("type"), row.get("model"), row.get("base_url")
    if not isinstance(kind, str) or kind not in ADAPTERS:
        raise _bad(name, f"type is one of {', '.join(ADAPTERS)}")
    if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable():
        raise _bad(name, "model is the name of a model")
    if base_url is None:
        base_url = VENDORS.get(kind)
    if not isinstance(base_url, str):
        raise _bad(name, "base_url is the address of the provider, as text")
    if not isinstance(row.get("proxy", False), bool):
        raise _bad(name, "proxy is true or false")
    check_base_url(name, base_url)
    key = _variable(name, host_of(base_url), row.get("api_key"))
    key_host = _key_host(name, row.get("key_host"))
    settings = ProviderSettings(name, kind, model, base_url, key, key_host, row.get("proxy", False))
    _check_key_host(settings)
    return settings


def _variable(name: str, host: str, value: Any) -> str | None:
    """The name of the variable. A literal key is refused without being shown."""
    if value is None or value == "":
        return None
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        message = "api_key is a reference of the form ${NAME}, never a key itself"
        raise _bad(name, message, hint=f"put the key into your environment and write {_line(name, host)}")
    variable = match[1]
    if not variable.endswith("_API_KEY") or variable.startswith("OPSCTL_"):
        message = f"{variable} is not sent to a provider"
        raise _bad(name, message, hint="a variable for a key ends in _API_KEY and does not begin with OPSCTL_")
    return variable


def _line(name: str, host: str) -> str:
    """What belongs into the file in place of a key."""
    known = next((variable for variable, bound in _BOUND.items() if bound == host), None)
    if known:
        return f'"api_key": "${{{known}}}"'
    plain = re.sub(r"[^A-Z0-9]", "_", name.upper()).removesuffix("_API_KEY")
    prefix = "MY_" if not plain[:1].isalpha() or plain.startswith("OPSCTL") or f"{plain}_API_KEY" in _BOUND else ""
    return f'"api_key": "${{{prefix}{plain}_API_KEY}}", "key_host": "{host}"'


def _key_host(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._:\[\]-]{1,260}", value):
        raise _bad(name, "key_host is a host, with its port where that is not the usual one")
    return value.lower()


def _check_key_host(settings: ProviderSettings) -> None:
    """A key goes to one host, whatever `base_url` says later."""
    if settings.key is None:
        return
    host = host_of(settings.base_url or "")
    bound = _BOUND.get(settings.key, settings.key_host)
    if bound is None:
        hint = f'write "key_host": "{host}" beside it, if that is whom the key is for'
        raise _bad(settings.name, f"nothing says whom {settings.key} is for", hint=hint)
    if bound != host:
        hint = f"a key for {host} needs a variable of its own, and that key_host"
        raise _bad(settings.name, f"{settings.key} is for {bound[:200]}, not for {host}", hint=hint)


def key_of(settings: ProviderSettings, environ: Mapping[str, str]) -> str | None:
    """The key itself, at the moment of the call. Raises `bad_config` where the variable is not set."""
    if settings.key is None:
        return None
    value = environ.get(settings.key, "").strip()
    if not value:
        raise _bad(settings.name, f"{settings.key} is not set", hint=f"export {settings.key}=…")
    if not re.fullmatch(r"[!-~]{4,4096}", value):
        raise _bad(settings.name, f"{settings.key} holds no key", hint="a key is one word of at least 4 plain letters")
    return value


def _bad(name: str, message: str, *, hint: str = "opsctl provider path names the file") -> OpsError:
    return OpsError("bad_config", f"provider {name[:60]!a}: {message}", hint=hint)
