"""Whatever speaks OpenAI's chat completions: OpenAI, Ollama, LM Studio, llama.cpp, and many more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai

from opsctl.providers.calling import Failed, Piece, call, from_status, health
from opsctl.providers.port import Context, Generation, Health, ProviderSettings, Request
from opsctl.providers.wire import Wire


def make(settings: ProviderSettings, wire: Wire) -> OpenAICompat:
    """The provider of one entry."""
    return OpenAICompat(settings, wire)


class OpenAICompat:
    """One entry of the type `openai_compat`."""

    def __init__(self, settings: ProviderSettings, wire: Wire) -> None:
        self._settings = settings
        self._wire = wire

    def generate(self, request: Request, context: Context) -> Generation:
        """The answer to a request."""
        return call(self._wire, lambda left_s: self._stream(request, left_s), context)

    def health(self, deadline_s: float) -> Health:
        """Ask for the list of models."""
        return health(self._wire, lambda left_s: self._models(left_s), deadline_s)

    def _client(self, left_s: float) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=self._wire.secret.reveal() or "none",  # the library insists on one; local servers ignore it
            base_url=self._settings.base_url,
            http_client=self._wire.client(left_s),
            max_retries=0,
            organization="",
            project="",
        )

    def _stream(self, request: Request, left_s: float) -> Iterator[Piece]:
        system = [{"role": "system", "content": request.system}] if request.system else []
        options: dict[str, Any] = {}
        if request.max_output_tokens is not None:
            is_openai = (self._settings.base_url or "").startswith("https://api.openai.com")
            options["max_completion_tokens" if is_openai else "max_tokens"] = request.max_output_tokens
        try:
            with (
                self._client(left_s) as client,
                client.chat.completions.create(
                    model=request.model or self._settings.model,
                    messages=[*system, {"role": "user", "content": request.text}],  # type: ignore[list-item]
                    stream=True,
                    stream_options={"include_usage": True},
                    **options,
                ) as stream,
            ):
                request_id = stream.response.headers.get("x-request-id")
                for chunk in stream:
                    yield _piece(chunk, request_id)
        except openai.OpenAIError as error:
            raise _failed(error) from error

    def _models(self, left_s: float) -> list[str]:
        try:
            with self._client(left_s) as client:
                return [model.id for model in client.models.list().data]
        except openai.OpenAIError as error:
            raise _failed(error) from error


def _piece(chunk: Any, request_id: str | None) -> Piece:
    choice = chunk.choices[0] if chunk.choices else None
    usage = {}
    if chunk.usage:
        usage = {"input": int(chunk.usage.prompt_tokens or 0), "output": int(chunk.usage.completion_tokens or 0)}
    text = (choice.delta.content or "") if choice and choice.delta else ""
    refusal = getattr(choice.delta, "refusal", None) if choice and choice.delta else None
    if refusal:
        raise Failed("provider_refused", f"the model refused: {refusal}")
    return Piece(text, chunk.model, request_id or chunk.id, usage, choice.finish_reason if choice else None)


def _failed(error: openai.OpenAIError) -> Failed:
    if isinstance(error, openai.APITimeoutError):
        return Failed("provider_offline", "it did not answer in time", again=True)
    if isinstance(error, openai.APIConnectionError):
        return Failed("provider_offline", f"no connection: {error.__cause__ or error}", again=True)
    if isinstance(error, openai.APIStatusError):
        return from_status(error.status_code, _said(error), error.response.headers.get("retry-after"))
    return Failed("provider_garbage", "the answer could not be read")


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return message if isinstance(message, str) else ""
