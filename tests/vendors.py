"""Three vendors' streaming protocols over real HTTP, and a server for what no library would send."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from opsctl.providers import connect
from opsctl.providers.entry import settings_of
from opsctl.providers.port import Context, Generation, Provider, Request, Try

KEY = "sk-test-0123456789abcdefXYZ"
VARIABLE = "TEST_API_KEY"


@dataclass(frozen=True)
class Said:
    """What a model says, whoever serves it."""

    pieces: tuple[str, ...] = ("Hello", ", ", "world.")
    end: str | None = "whole"
    model: str = "served-model-1"
    tokens: tuple[int, int] = (7, 3)


@dataclass(frozen=True)
class Vendor:
    """How one vendor's interface looks from outside."""

    type: str
    base: str
    path: str
    models_path: str
    key_header: str
    id_header: str | None
    ends: dict[str, str]
    events: Callable[[Vendor, Said], list[bytes]]
    error: Callable[[str], dict[str, object]]
    models: Callable[[list[str]], dict[str, object]]
    system: Callable[[dict[str, object]], object]
    limit: Callable[[dict[str, object]], object]

    def stream(self, said: Said) -> list[bytes]:
        """The answer as the pieces of a body."""
        return self.events(self, said)

    def provider(self, origin: str, *, key: str | None = KEY, **more: object) -> Provider:
        """An adapter that speaks to a server of this machine."""
        host = origin.removeprefix("https://").removeprefix("http://").partition("/")[0]
        secret = {"api_key": f"${{{VARIABLE}}}", "key_host": host} if key else {}
        row = {"type": self.type, "base_url": origin + self.base, "model": "asked-model", **secret, **more}
        return connect(settings_of("it", row), {VARIABLE: key} if key else {})


def ask(
    provider: Provider, text: str = "Say hello.", *, deadline_s: float = 20.0, **options: object
) -> tuple[Generation, list[str], list[Try]]:
    """The answer, the pieces that were heard, and the tries."""
    heard: list[str] = []
    tries: list[Try] = []
    request = Request(text, **options)  # type: ignore[arg-type]
    return provider.generate(request, Context(deadline_s, heard.append, tries.append)), heard, tries


def _sse(row: object, event: str | None = None) -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(row)}\n\n".encode()


def _openai(vendor: Vendor, said: Said) -> list[bytes]:
    def chunk(delta: dict[str, str], finish: str | None, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": said.model}
        return _sse({**frame, "choices": [choice], **more})

    found = [chunk({"role": "assistant", "content": ""}, None), *(chunk({"content": one}, None) for one in said.pieces)]
    if said.end:
        found.append(chunk({}, vendor.ends[said.end]))
        usage = {"prompt_tokens": said.tokens[0], "completion_tokens": said.tokens[1], "total_tokens": 10}
        frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": said.model}
        found += [_sse({**frame, "choices": [], "usage": usage}), b"data: [DONE]\n\n"]
    return found


def _anthropic(vendor: Vendor, said: Said) -> list[bytes]:
    usage = {"input_tokens": said.tokens[0], "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": said.model, "content": []}
    begun = {
        "type": "message_start",
        "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage},
    }
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    found = [_sse(begun, "message_start"), _sse(block, "content_block_start")]
    for one in said.pieces:
        row = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": one}}
        found.append(_sse(row, "content_block_delta"))
    if said.end:
        delta = {"stop_reason": vendor.ends[said.end], "stop_sequence": None}
        last = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": said.tokens[1]}}
        found += [_sse(last, "message_delta"), _sse({"type": "message_stop"}, "message_stop")]
    return found


def _gemini(vendor: Vendor, said: Said) -> list[bytes]:
    def chunk(text: str, **more: object) -> bytes:
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
        usage = {"promptTokenCount": said.tokens[0], "candidatesTokenCount": said.tokens[1], "totalTokenCount": 10}
        frame = {"modelVersion": said.model, "responseId": "resp-1", "usageMetadata": usage}
        return _sse({"candidates": [candidate], **frame})

    found = [chunk(one) for one in said.pieces]
    return [*found, chunk("", finishReason=vendor.ends[said.end])] if said.end else found


def _dig(row: object, *path: str | int) -> object:
    for step in path:
        if isinstance(row, dict):
            row = row.get(step)
        elif isinstance(row, list) and isinstance(step, int) and step < len(row):
            row = row[step]
        else:
            return None
    return row


OPENAI = Vendor(
    *("openai_compat", "/v1", "/v1/chat/completions", "/v1/models", "authorization", "x-request-id"),
    {"whole": "stop", "length": "length", "refusal": "content_filter"},
    _openai,
    lambda text: {"error": {"message": text, "type": "invalid_request_error", "code": None, "param": None}},
    lambda names: {"object": "list", "data": [{"id": one, "object": "model"} for one in names]},
    lambda body: _dig(body, "messages", 0, "content") if _dig(body, "messages", 0, "role") == "system" else None,
    lambda body: _dig(body, "max_tokens"),
)
ANTHROPIC = Vendor(
    *("anthropic", "", "/v1/messages", "/v1/models", "x-api-key", "request-id"),
    {"whole": "end_turn", "length": "max_tokens", "refusal": "refusal"},
    _anthropic,
    lambda text: {"type": "error", "error": {"type": "invalid_request_error", "message": text}},
    lambda names: {"data": [{"id": one, "type": "model", "display_name": one} for one in names], "has_more": False},
    lambda body: _dig(body, "system"),
    lambda body: _dig(body, "max_tokens"),
)
GEMINI = Vendor(
    *("gemini", "", "/v1beta/models/asked-model:streamGenerateContent", "/v1beta/models", "x-goog-api-key", None),
    {"whole": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"},
    _gemini,
    lambda text: {"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}},
    lambda names: {"models": [{"name": f"models/{one}"} for one in names]},
    lambda body: _dig(body, "systemInstruction", "parts", 0, "text"),
    lambda body: _dig(body, "generationConfig", "maxOutputTokens"),
)
VENDORS = (OPENAI, ANTHROPIC, GEMINI)


@dataclass
class Raw:
    """A server that answers each connection as it is told, byte by byte, and keeps what was asked."""

    port: int
    asked: list[bytes] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def raw_server(answer: Callable[[socket.socket, int], None], host: str = "127.0.0.1") -> Iterator[Raw]:
    """Serve connections one after the other; `answer` gets each one, its request read, with its number from 0."""
    listener = socket.create_server((host, 0))
    raw = Raw(listener.getsockname()[1])
    gone = threading.Event()

    def serve() -> None:
        while not gone.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                raw.asked.append(b"")
                threading.Thread(target=one, args=(connection, len(raw.asked) - 1), daemon=True).start()

    def one(connection: socket.socket, number: int) -> None:
        with connection, suppress(OSError):
            raw.asked[number] = _request(connection)
            answer(connection, number)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield raw
    finally:
        gone.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and not data.startswith(b"\x16"):  # that would be TLS
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < size:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def head(status: str = "200 OK", kind: str = "text/event-stream", *lines: str) -> bytes:
    """The head of a response that ends when the connection does."""
    rows = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *lines]
    return "\r\n".join([*rows, "", ""]).encode()
