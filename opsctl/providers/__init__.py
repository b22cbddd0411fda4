"""Models behind an API that write the text of drafts, and carry out runs of the executor `provider`."""

from __future__ import annotations

ADAPTERS: dict[str, str] = {
    "openai_compat": "opsctl.providers.openai_compat",
    "anthropic": "opsctl.providers.anthropic",
    "gemini": "opsctl.providers.gemini",
}
"""The module of each type; it is imported when one of that type is called, for the SDKs take seconds.

A new type is one module with a function `make(settings, wire) -> Provider`, and one line here.
"""
