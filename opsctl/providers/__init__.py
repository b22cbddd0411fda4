"""Models behind an API that write the text of drafts, and carry out runs of the executor `provider`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsctl.providers.port import Provider, ProviderSettings

ADAPTERS: dict[str, str] = {
    "openai_compat": "opsctl.providers.openai_compat",
    "anthropic": "opsctl.providers.anthropic",
    "gemini": "opsctl.providers.gemini",
}
"""The module of each type, imported when one of that type is called.

A new type is one module, and one line here. The module has `LIBRARY`, what it imports when it generates (libraries of
vendors take seconds to import), and `make(settings, wire) -> Provider`.
"""


def connect(settings: ProviderSettings, environ: Mapping[str, str]) -> Provider:
    """The provider of one entry, its key resolved now. Raises `bad_config`, or `no_provider` without its library."""
    from opsctl.errors import OpsError
    from opsctl.providers.entry import key_of
    from opsctl.providers.wire import wire_for

    module = import_module(ADAPTERS[settings.type])
    if not _is_installed(module.LIBRARY):
        message = f"provider {settings.name}: the library {module.LIBRARY} is not installed"
        raise OpsError("no_provider", message, hint=f"pip install 'opsctl[{settings.type}]'")
    made: Provider = module.make(settings, wire_for(settings, key_of(settings, environ), environ))
    return made


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False
