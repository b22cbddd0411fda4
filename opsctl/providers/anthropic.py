"""Anthropic's messages, and whatever speaks them (llama.cpp does)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic

from opsctl.providers.calling import Failed, Piece, call, from_status, health
from opsctl.providers.port import Context, Generation, Health, ProviderSettings, Request
from opsctl.providers.wire import Wire

_MOST_TOKENS = 8192
"""The messages interface wants a number."""


def make(settings: ProviderSettings, wire: Wire) -> Anthropic:
    """The provider of one entry."""
    return Anthropic(settings, wire)


class Anthropic:
    """One entry of the type `anthropic`."""

    def __init__(self, settings: ProviderSettings, wire: Wire) -> None:
        self._settings = settings
        self._wire = wire

    def generate(self, request: Request, context: Context) -> Generation:
        """The answer to a request."""
        return call(self._wire, lambda left_s: self._stream(request, left_s), context)

    def health(self, deadline_s: float) -> Health:
        """Ask for the list of models."""
        return health(self._wire, lambda left_s: self._models(left_s), deadline_s)

    def _client(self, left_s: float) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            api_key=self._wire.secret.reveal() or "none",
            base_url=self._settings.base_url,
            http_client=self._wire.client(left_s),
            max_retries=0,
        )

    def _stream(self, request: Request, left_s: float) -> Iterator[Piece]:
        options: dict[str, Any] = {"system": request.system} if request.system else {}
        try:
            with (
                self._client(left_s) as client,
                client.messages.create(
                    model=request.model or self._settings.model,
                    max_tokens=request.max_output_tokens or _MOST_TOKENS,
                    messages=[{"role": "user", "content": request.text}],
                    stream=True,
                    **options,
                ) as stream,
            ):
                request_id = stream.response.headers.get("request-id")
                for event in stream:
                    yield _piece(event, request_id)
        except anthropic.AnthropicError as error:
            raise _failed(error) from error

    def _models(self, left_s: float) -> list[str]:
        try:
            with self._client(left_s) as client:
                return [model.id for model in client.models.list(limit=1000).data]
        except anthropic.AnthropicError as error:
            raise _failed(error) from error


def _piece(event: Any, request_id: str | None) -> Piece:
    if event.type == "message_start":
        usage = {"input": int(event.message.usage.input_tokens or 0)}
        return Piece("", event.message.model, request_id or event.message.id, usage)
    if event.type == "content_block_delta" and event.delta.type == "text_delta":
        return Piece(event.delta.text, request_id=request_id)
    if event.type == "message_delta":
        usage = {"output": int(event.usage.output_tokens or 0)}
        return Piece("", request_id=request_id, usage=usage, finish=event.delta.stop_reason)
    return Piece(request_id=request_id)


def _failed(error: anthropic.AnthropicError) -> Failed:
    if isinstance(error, anthropic.APITimeoutError):
        return Failed("provider_offline", "it did not answer in time", again=True)
    if isinstance(error, anthropic.APIConnectionError):
        return Failed("provider_offline", f"no connection: {error.__cause__ or error}", again=True)
    if isinstance(error, anthropic.APIStatusError):
        return from_status(error.status_code, _said(error), error.response.headers.get("retry-after"))
    return Failed("provider_garbage", "the answer could not be read")


def _said(error: anthropic.APIStatusError) -> str:
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return message if isinstance(message, str) else ""
