"""Models behind an API that write the text of drafts, and carry out runs of the executor `provider`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsctl.providers.port import Provider, ProviderSettings

ADAPTERS: dict[str, str] = {
    "openai_compat": "opsctl.providers.openai_compat",
    "anthropic": "opsctl.providers.anthropic",
    "gemini": "opsctl.providers.gemini",
}
"""The module of each type; it is imported when one of that type is called, for the SDKs take seconds.

A new type is one module with a function `make(settings, wire) -> Provider`, and one line here.
"""


def connect(settings: ProviderSettings, environ: Mapping[str, str]) -> Provider:
    """The provider of one entry, its key resolved now. Raises `bad_config`, or `no_provider` without its library."""
    from opsctl.errors import OpsError
    from opsctl.providers.wire import wire_for

    wire = wire_for(settings, environ)
    try:
        module = import_module(ADAPTERS[settings.type])
    except ModuleNotFoundError as error:
        message = f"provider {settings.name}: the library {error.name} is not installed"
        raise OpsError("no_provider", message, hint=f"pip install 'opsctl[{settings.type}]'") from None
    made: Provider = module.make(settings, wire)
    return made
