"""A stand-in for a model server that speaks OpenAI's streaming chat, over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response


class Chat:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self, server: HTTPServer) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.pieces: Sequence[str] = ["Do ", "the work.\n"]
        self.finish: str | None = "stop"
        self.status = 200
        self.body: bytes | None = None
        self.wait_s = 0.0
        self.model = "tiny-1"
        self.id = "chatcmpl-1"
        self.request_id: str | None = "req-42"
        self.usage: dict[str, int] | None = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
        self.hold = threading.Event()
        """Set: whatever waits after the first piece goes on."""

        self.holds = False
        self.url = server.url_for("/v1")
        server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._chat)
        server.expect_request("/v1/models").respond_with_handler(self._models)

    def answers(self, *pieces: str) -> None:
        """What the next answers are made of."""
        self.pieces = pieces

    @property
    def last(self) -> str:
        """The user's message of the last request."""
        return str(self.asked[-1]["messages"][-1]["content"])

    def _models(self, request: Request) -> Response:
        time.sleep(self.wait_s)
        rows = [{"id": self.model, "object": "model", "created": 1, "owned_by": "me"}]
        return Response(json.dumps({"object": "list", "data": rows}), content_type="application/json")

    def _chat(self, request: Request) -> Response:
        self.asked.append(json.loads(request.get_data()))
        self.headers.append(dict(request.headers))
        time.sleep(self.wait_s)
        if self.body is not None or self.status != 200:
            body = self.body if self.body is not None else b'{"error": {"message": "no such luck"}}'
            return Response(body, status=self.status, content_type="application/json")
        answer = Response(self._events(), content_type="text/event-stream")
        if self.request_id:
            answer.headers["x-request-id"] = self.request_id
        return answer

    def _events(self) -> Iterator[bytes]:
        for number, piece in enumerate(self.pieces):
            yield self._event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
            if number == 0 and self.holds:
                self.hold.wait(30)
        if self.finish:
            yield self._event([{"index": 0, "delta": {}, "finish_reason": self.finish}])
            yield self._event([], usage=self.usage)
            yield b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": 1, "model": self.model}
        return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"
