"""What a provider is to the rest of opsctl. Plain data and a Protocol; imports nothing of the package but errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

DEADLINE_S = 30.0
"""Seconds for a whole call, tries and waits included, where nobody says otherwise."""

ANSWER_LIMIT = 4 * 1024 * 1024
"""Bytes of an answer's text; a longer one is refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a system text, the text itself, the model (None: the configured one), and a cap on the answer."""

    text: str
    system: str = ""
    model: str | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """How a call is made: its deadline in seconds, who hears the text as it comes, and who hears of each try."""

    deadline_s: float = DEADLINE_S
    heard: Callable[[str], None] = lambda _text: None
    tried: Callable[[Try], None] = lambda _one: None


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a call: what came of it in one line, and how long it took in seconds."""

    outcome: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer that arrived whole. `usage` counts tokens by name; `finish` is the vendor's word for how it ended."""

    text: str
    model: str
    request_id: str | None
    usage: Mapping[str, int]
    finish: str
    duration_s: float
    tries: tuple[Try, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a provider answers, and has the configured model (None: it did not tell); `models` are those it has."""

    ok: bool
    latency_s: float
    model: bool | None
    message: str
    models: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """As `--json` and HTTP print it."""
        return {"ok": self.ok, "latency_s": round(self.latency_s, 3), "model": self.model, "message": self.message}


class Provider(Protocol):
    """One configured provider."""

    def generate(self, request: Request, context: Context) -> Generation:
        """The answer. Streams underneath; raises `OpsError` of kind provider (or a refused configuration) alone."""

    def health(self, deadline_s: float) -> Health:
        """Ask it for its models, in so many seconds. Never raises for what the far end does."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One entry of provider.json, checked. `key` is the name of an environment variable, never a value."""

    name: str
    type: str
    model: str
    base_url: str | None = None
    key: str | None = None
    key_host: str | None = None
    proxy: bool = False
