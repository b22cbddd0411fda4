"""Google's Gemini. Needs the extra `gemini`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opsctl.providers.calling import Piece, call
from opsctl.providers.failure import Failed
from opsctl.providers.health import health
from opsctl.providers.port import Context, Generation, Health, ProviderSettings, Request
from opsctl.providers.wire import Wire

if TYPE_CHECKING:
    from google.genai import types

LIBRARY = "google.genai"
_KEY_HEADER = ("x-goog-api-key",)
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
        self._url = (settings.base_url or "").rstrip("/").removesuffix(f"/{_VERSION}")  # the library adds it

    def generate(self, request: Request, context: Context) -> Generation:
        """The answer to a request."""
        return call(self._wire, lambda left_s: self._stream(request, left_s), context)

    def health(self, deadline_s: float) -> Health:
        """Ask for the list of models."""
        return health(self._wire, f"{self._url}/{_VERSION}/models?pageSize=1000", _KEY_HEADER, _names, deadline_s)

    def _stream(self, request: Request, left_s: float) -> Iterator[Piece]:
        from google import genai
        from google.genai import errors, types

        options = types.HttpOptions(
            base_url=self._url,
            api_version=_VERSION,
            timeout=int(left_s * 1000),
            httpx_client=self._wire.client(left_s, *_KEY_HEADER),
        )
        config = types.GenerateContentConfig(
            system_instruction=request.system or None,
            max_output_tokens=request.max_output_tokens,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        # the library insists on a key, the wire adds the true one; the stream does not keep the client alive
        client = genai.Client(api_key="unused", vertexai=False, http_options=options)
        model = request.model or self._settings.model
        try:
            for chunk in client.models.generate_content_stream(model=model, contents=request.text, config=config):
                yield _piece(chunk)
        except errors.APIError as error:  # a chunk of the stream
            raise Failed("provider_refused", f"it broke off: {error.message}") from error
        finally:
            client.close()


def _piece(chunk: types.GenerateContentResponse) -> Piece:
    blocked = chunk.prompt_feedback.block_reason if chunk.prompt_feedback else None
    if blocked:
        raise Failed("provider_refused", f"the request was blocked: {blocked.value}")
    candidate = chunk.candidates[0] if chunk.candidates else None
    parts = (candidate.content.parts or []) if candidate and candidate.content else []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    finish = candidate.finish_reason.value if candidate and candidate.finish_reason else None
    found = chunk.usage_metadata
    counts = {"input": found.prompt_token_count, "output": found.candidates_token_count} if found else {}
    usage = {name: count for name, count in counts.items() if count is not None}
    return Piece(text, chunk.model_version, chunk.response_id, usage, finish)


def _names(table: Any) -> list[str]:
    return [row["name"].removeprefix("models/") for row in table["models"]]
