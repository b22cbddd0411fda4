"""Whatever speaks OpenAI's chat completions: OpenAI, Ollama, LM Studio, llama.cpp, and many more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opsctl.providers.calling import Piece, call
from opsctl.providers.failure import Failed
from opsctl.providers.health import health
from opsctl.providers.port import Context, Generation, Health, ProviderSettings, Request
from opsctl.providers.wire import Wire

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

LIBRARY = "openai"
_KEY_HEADER = ("authorization", "Bearer ")
_VENDOR = "https://api.openai.com/"


def make(settings: ProviderSettings, wire: Wire) -> OpenAICompat:
    """The provider of one entry."""
    return OpenAICompat(settings, wire)


class OpenAICompat:
    """One entry of the type `openai_compat`."""

    def __init__(self, settings: ProviderSettings, wire: Wire) -> None:
        self._settings = settings
        self._wire = wire
        self._url = (settings.base_url or "").rstrip("/")

    def generate(self, request: Request, context: Context) -> Generation:
        """The answer to a request."""
        return call(self._wire, lambda left_s: self._stream(request, left_s), context)

    def health(self, deadline_s: float) -> Health:
        """Ask for the list of models."""
        return health(self._wire, f"{self._url}/models", _KEY_HEADER, _names, deadline_s)

    def _stream(self, request: Request, left_s: float) -> Iterator[Piece]:
        import openai

        client = openai.OpenAI(
            api_key="unused",  # the library insists on one; the wire adds the key itself
            base_url=self._url,
            http_client=self._wire.client(left_s, *_KEY_HEADER),
            max_retries=0,
        )
        try:
            with client, client.chat.completions.create(**self._options(request)) as stream:
                request_id = stream.response.headers.get("x-request-id")
                for chunk in stream:
                    yield _piece(chunk, request_id)
        except openai.APIError as error:
            if error.body is None:  # what is behind it says more
                raise
            raise Failed("provider_refused", f"it broke off: {error.message}") from error

    def _options(self, request: Request) -> dict[str, Any]:
        system = [{"role": "system", "content": request.system}] if request.system else []
        limit = "max_completion_tokens" if f"{self._url}/".lower().startswith(_VENDOR) else "max_tokens"
        most = {} if request.max_output_tokens is None else {limit: request.max_output_tokens}
        return {
            "model": request.model or self._settings.model,
            "messages": [*system, {"role": "user", "content": request.text}],
            "stream": True,
            "stream_options": {"include_usage": True},
            **most,
        }


def _piece(chunk: ChatCompletionChunk, request_id: str | None) -> Piece:
    usage = chunk.usage
    counts = {"input": usage.prompt_tokens, "output": usage.completion_tokens} if usage else {}
    if not chunk.choices:
        return Piece("", chunk.model, request_id or chunk.id, counts)
    choice = chunk.choices[0]
    if choice.delta.refusal:
        raise Failed("provider_refused", f"the model refused: {choice.delta.refusal}")
    return Piece(choice.delta.content or "", chunk.model, request_id or chunk.id, counts, choice.finish_reason)


def _names(table: Any) -> list[str]:
    return [row["id"] for row in table["data"]]
