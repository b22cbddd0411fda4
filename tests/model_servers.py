"""Model servers of one script, on the loopback: each asks the agent for one edit, then ends the talk.

They speak as much of three interfaces as the agents of the presets need: Anthropic's Messages, OpenAI's Responses and
OpenAI's chat completions. No model is behind them.
"""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any

Event = tuple[str, dict[str, Any]]


@dataclass
class Script:
    """The edit that is asked for, and every request that came."""

    path: str = "opsctl-check.txt"
    text: str = "ok\n"
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def prompts(self) -> str:
        """All that the agents sent, as one text."""
        return "\n".join(json.dumps(body, ensure_ascii=False) for _, body in self.seen)


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Serve on the loopback; gives the address without a path."""

    class Handler(_Handler):
        told = script

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    told: Script
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.told.seen.append((self.path, {}))
        self._send("application/json", b'{"object": "list", "data": [], "models": []}')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self._body()
        place = self.path.partition("?")[0]
        self.told.seen.append((place, body))
        if place.endswith("/messages"):
            self._answer(body, message(self.told, body), of_messages)
        elif place.endswith("/responses"):
            self._send("text/event-stream", _stream(of_responses(self.told, body)))
        elif place.endswith("/chat/completions"):
            self._send("application/json", json.dumps(completion(self.told, body)).encode())
        else:
            self._send("application/json", b'{"input_tokens": 1}')

    def _body(self) -> dict[str, Any]:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            found = json.loads(data)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _answer(self, body: dict[str, Any], whole: dict[str, Any], events: Any) -> None:
        if body.get("stream"):
            self._send("text/event-stream", _stream(events(whole)))
        else:
            self._send("application/json", json.dumps(whole).encode())

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal of the tests."""


def _stream(events: Iterator[Event]) -> bytes:
    return b"".join(f"event: {name}\ndata: {json.dumps({'type': name, **rest})}\n\n".encode() for name, rest in events)


# -- Anthropic Messages -----------------------------------------------------------------------------------------------


def message(script: Script, body: dict[str, Any]) -> dict[str, Any]:
    """The whole answer: the edit by the tool Write where there is one and it was not used yet, else the end."""
    tools = {tool.get("name") for tool in body.get("tools", [])}
    used = '"tool_result"' in json.dumps(body.get("messages", []))
    content: list[dict[str, Any]] = [{"type": "text", "text": "Done."}]
    if "Write" in tools and not used:
        place = re.search(r"[Ww]orking directory: (/[^\n\"\\]*)", json.dumps(body))
        path = str(PurePosixPath(place[1] if place else "/") / script.path)
        given = {"file_path": path, "content": script.text}
        content = [{"type": "tool_use", "id": "toolu_1", "name": "Write", "input": given}]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "scripted"),
        "content": content,
        "stop_reason": "tool_use" if content[0]["type"] == "tool_use" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


def of_messages(whole: dict[str, Any]) -> Iterator[Event]:
    """A whole message as the events of a stream."""
    yield "message_start", {"message": {**whole, "content": [], "stop_reason": None}}
    for index, block in enumerate(whole["content"]):
        tool = block["type"] == "tool_use"
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block.get("input"))}
        delta = delta if tool else {"type": "text_delta", "text": block["text"]}
        start = {**block, "input": {}} if tool else {**block, "text": ""}
        yield "content_block_start", {"index": index, "content_block": start}
        yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"delta": delta, "usage": {"output_tokens": 5}}
    yield "message_stop", {}


# -- OpenAI Responses -------------------------------------------------------------------------------------------------


def of_responses(script: Script, body: dict[str, Any]) -> Iterator[Event]:
    """The events of an answer: the edit by the shell tool where there is one and it was not used yet, else the end."""
    used = any(item.get("type") == "function_call_output" for item in body.get("input", []))
    call = None if used else _shell_call(script, body.get("tools", []))
    item = call or {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Done.", "annotations": []}],
    }
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    answer = {"id": "resp_1", "object": "response", "model": body.get("model"), "output": [item], "usage": usage}
    yield "response.created", {"response": {**answer, "status": "in_progress", "output": []}}
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield "response.completed", {"response": {**answer, "status": "completed"}}


def _shell_call(script: Script, tools: list[dict[str, Any]]) -> dict[str, Any] | None:
    line = f"printf %s {shlex.quote(script.text)} > {shlex.quote(script.path)}"
    arguments = {
        "shell": {"command": ["bash", "-lc", line]},
        "shell_command": {"command": line},
        "exec_command": {"cmd": line},
    }
    name = next((tool["name"] for tool in tools if tool.get("name") in arguments), None)
    if name is None:
        return None
    fields = {"id": "fc_1", "call_id": "call_1", "name": name, "arguments": json.dumps(arguments[name])}
    return {"type": "function_call", "status": "completed", **fields}


# -- OpenAI chat completions ------------------------------------------------------------------------------------------


def completion(script: Script, body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer that holds the file in the form that aider calls `whole`."""
    text = f"Here it is.\n\n{script.path}\n```\n{script.text}```\n"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body.get("model", "scripted"),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
