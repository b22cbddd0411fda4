"""Anthropic's messages, and whatever speaks them (llama.cpp does)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opsctl.providers.calling import Piece, call
from opsctl.providers.failure import Failed
from opsctl.providers.health import health
from opsctl.providers.port import Context, Generation, Health, ProviderSettings, Request
from opsctl.providers.wire import Wire

if TYPE_CHECKING:
    from anthropic.types import RawMessageStreamEvent

LIBRARY = "anthropic"
_KEY_HEADER = ("x-api-key",)
_MOST_TOKENS = 8192
"""Where nobody says otherwise: the messages interface wants a number."""


def make(settings: ProviderSettings, wire: Wire) -> Anthropic:
    """The provider of one entry."""
    return Anthropic(settings, wire)


class Anthropic:
    """One entry of the type `anthropic`."""

    def __init__(self, settings: ProviderSettings, wire: Wire) -> None:
        self._settings = settings
        self._wire = wire
        self._url = (settings.base_url or "").rstrip("/").removesuffix("/v1")  # the library adds it

    def generate(self, request: Request, context: Context) -> Generation:
        """The answer to a request."""
        return call(self._wire, lambda left_s: self._stream(request, left_s), context)

    def health(self, deadline_s: float) -> Health:
        """Ask for the list of models."""
        return health(self._wire, f"{self._url}/v1/models?limit=1000", _KEY_HEADER, _names, deadline_s)

    def _stream(self, request: Request, left_s: float) -> Iterator[Piece]:
        import anthropic

        client = anthropic.Anthropic(
            api_key="unused",  # the library insists on one; the wire adds the key itself
            base_url=self._url,
            http_client=self._wire.client(left_s, *_KEY_HEADER),
            max_retries=0,
        )
        try:
            with client, client.messages.create(**self._options(request)) as stream:
                request_id = stream.response.headers.get("request-id")
                for event in stream:
                    yield _piece(event, request_id)
        except anthropic.APIStatusError as error:  # an event of the stream
            inner = error.body.get("error") if isinstance(error.body, dict) else None
            said = inner.get("message") if isinstance(inner, dict) else None
            raise Failed("provider_refused", f"it broke off: {said}") from error

    def _options(self, request: Request) -> dict[str, Any]:
        return {
            "model": request.model or self._settings.model,
            "max_tokens": request.max_output_tokens or _MOST_TOKENS,
            "messages": [{"role": "user", "content": request.text}],
            "stream": True,
            **({"system": request.system} if request.system else {}),
        }


def _piece(event: RawMessageStreamEvent, request_id: str | None) -> Piece:
    if event.type == "message_start":
        message = event.message
        return Piece("", message.model, request_id or message.id, {"input": message.usage.input_tokens})
    if event.type == "content_block_delta" and event.delta.type == "text_delta":
        return Piece(event.delta.text)
    if event.type == "message_delta":
        return Piece(usage={"output": event.usage.output_tokens}, finish=event.delta.stop_reason)
    return Piece()


def _names(table: Any) -> list[str]:
    return [row["id"] for row in table["data"]]
