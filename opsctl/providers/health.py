"""Whether a provider answers, by its list of models; asked without the vendor's library, whose import takes seconds."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2

from opsctl.errors import OpsError
from opsctl.providers.bounding import bounded
from opsctl.providers.calling import tell
from opsctl.providers.failure import Failed
from opsctl.providers.port import Health
from opsctl.providers.wire import Wire

LIST_LIMIT = 4 * 1024 * 1024
"""Bytes of a list of models."""

_DATED = r"(-[0-9]{8}|-[0-9]{4}-[0-9]{2}-[0-9]{2}|:latest)?"
"""What a vendor may put behind the name under which a model is asked for."""


def health(
    wire: Wire, url: str, key_header: Sequence[str], names: Callable[[Any], list[str]], deadline_s: float
) -> Health:
    """Ask for the list of models; `names` finds them in what came back. Never raises for what the far end does."""
    begun = time.monotonic()

    def ask() -> Iterator[list[str]]:
        with wire.client(deadline_s, *key_header) as client:
            yield _models(client, url, names)

    try:
        known = next(iter(bounded(ask, begun + deadline_s, wire.cut)))
    except (Failed, OpsError) as fault:
        return Health(False, time.monotonic() - begun, None, tell(wire, fault.message))
    wanted = re.compile(re.escape(wire.settings.model) + _DATED)
    has = any(wanted.fullmatch(one) for one in known)
    others = f"; it has {', '.join(known[:3])}" if known else ""
    said = "" if has else tell(wire, f"it has no model {wire.settings.model}{others}")
    safe = tuple(one for one in known if tell(wire, one) == one)
    return Health(True, time.monotonic() - begun, has, said, safe)


def _models(client: httpx2.Client, url: str, names: Callable[[Any], list[str]]) -> list[str]:
    headers = {"accept": "application/json", "anthropic-version": "2023-06-01"}  # others ignore the second one
    with client.stream("GET", url, headers=headers) as response:
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > LIST_LIMIT:
                raise Failed("provider_garbage", "its list of models is too long")
        try:
            return [str(one)[:200] for one in names(json.loads(body))]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Failed("provider_garbage", "what answers there has no list of models") from None
