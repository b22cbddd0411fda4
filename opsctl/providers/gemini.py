"""Google's Gemini. Needs the extra `gemini`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google import genai
from google.genai import errors, types

from opsctl.providers.calling import Failed, Piece, call, from_status, health
from opsctl.providers.port import Context, Generation, Health, ProviderSettings, Request
from opsctl.providers.wire import Wire

_VERSION = "v1beta"
"""System instructions are not in `v1`."""


def make(settings: ProviderSettings, wire: Wire) -> Gemini:
    """The provider of one entry."""
    return Gemini(settings, wire)


class Gemini:
    """One entry of the type `gemini`."""

    def __init__(self, settings: ProviderSettings, wire: Wire) -> None:
        self._settings = settings
        self._wire = wire

    def generate(self, request: Request, context: Context) -> Generation:
        """The answer to a request."""
        return call(self._wire, lambda left_s: self._stream(request, left_s), context)

    def health(self, deadline_s: float) -> Health:
        """Ask for the list of models."""
        return health(self._wire, lambda left_s: self._models(left_s), deadline_s)

    def _client(self, left_s: float) -> genai.Client:
        options = types.HttpOptions(
            base_url=self._settings.base_url,
            api_version=_VERSION,
            timeout=int(left_s * 1000),
            httpx_client=self._wire.client(left_s),
        )
        return genai.Client(api_key=self._wire.secret.reveal() or "none", vertexai=False, http_options=options)

    def _stream(self, request: Request, left_s: float) -> Iterator[Piece]:
        config = types.GenerateContentConfig(
            system_instruction=request.system or None,
            max_output_tokens=request.max_output_tokens,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        client = self._client(left_s)  # kept alive here: the stream does not hold it
        try:
            for chunk in client.models.generate_content_stream(
                model=request.model or self._settings.model, contents=request.text, config=config
            ):
                yield _piece(chunk)
        except errors.APIError as error:
            raise _failed(error) from error
        finally:
            client.close()

    def _models(self, left_s: float) -> list[str]:
        client = self._client(left_s)
        try:
            return [(model.name or "").removeprefix("models/") for model in client.models.list()]
        except errors.APIError as error:
            raise _failed(error) from error
        finally:
            client.close()


def _piece(chunk: types.GenerateContentResponse) -> Piece:
    blocked = chunk.prompt_feedback.block_reason if chunk.prompt_feedback else None
    if blocked:
        raise Failed("provider_refused", f"the request was blocked: {getattr(blocked, 'value', blocked)}")
    candidate = chunk.candidates[0] if chunk.candidates else None
    parts: list[Any] = list(candidate.content.parts or []) if candidate and candidate.content else []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    finish = candidate.finish_reason if candidate else None
    usage = {}
    if chunk.usage_metadata:
        found = chunk.usage_metadata
        usage = {"input": int(found.prompt_token_count or 0), "output": int(found.candidates_token_count or 0)}
    word = str(getattr(finish, "value", finish)) if finish else None
    return Piece(text, chunk.model_version, chunk.response_id, usage, word)


def _failed(error: errors.APIError) -> Failed:
    headers = getattr(error.response, "headers", None) or {}
    return from_status(int(error.code or 0), str(error.message or ""), headers.get("retry-after"))
