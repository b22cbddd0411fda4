"""Exact failures over real sockets, the same for every adapter: in time, in bounds, in one line, without the key."""

from __future__ import annotations

import gzip
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT
from pytest_httpserver import HTTPServer
from vendors import KEY, VENDORS, Said, Vendor, ask, head, raw_server
from werkzeug import Response

from opsctl.errors import OpsError

pytestmark = pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.type)
SSE = "text/event-stream"


def origin(server: HTTPServer) -> str:
    return server.url_for("").rstrip("/")


def fails(vendor: Vendor, at: str, *, deadline_s: float = 20.0, key: str | None = KEY) -> OpsError:
    """The error of a call, which has no trace of the key anywhere."""
    with pytest.raises(OpsError) as caught:
        ask(vendor.provider(at, key=key), deadline_s=deadline_s)
    error = caught.value
    assert error.kind == "provider"
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error.detail) + str(vars(error))
    assert KEY not in told
    assert error.__context__ is None, "an error that is told has no other behind it, which could hold the key"
    assert "\n" not in error.message
    assert len(error.message) < 500
    return error


def test_a_wrong_key_is_told_and_not_tried_again(httpserver: HTTPServer, vendor: Vendor) -> None:
    httpserver.expect_request(vendor.path).respond_with_json(vendor.error("invalid key"), status=401)
    error = fails(vendor, origin(httpserver))
    assert (error.code, error.message) == ("provider_refused", "it: HTTP 401: invalid key")
    assert len(httpserver.log) == 1
    assert len(error.detail["tries"]) == 1  # type: ignore[arg-type]


def flaky(httpserver: HTTPServer, vendor: Vendor, *responses: Response) -> None:
    """These responses in turn, then a good answer."""
    left = list(responses)

    def answer(_: object) -> Response:
        return left.pop(0) if left else Response(b"".join(vendor.stream(Said())), content_type=SSE)

    httpserver.expect_request(vendor.path).respond_with_handler(answer)


def no(vendor: Vendor, status: int, **headers: str) -> Response:
    rows = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(json.dumps(vendor.error("not now")), status, rows, content_type="application/json")


def test_pr_11_a_server_that_is_busy_once_is_asked_again(httpserver: HTTPServer, vendor: Vendor) -> None:
    flaky(httpserver, vendor, no(vendor, 500), no(vendor, 429, Retry_After="1"))
    begun = time.monotonic()
    made, heard, tries = ask(vendor.provider(origin(httpserver)))
    assert 1.4 < time.monotonic() - begun < 10
    assert made.text == "".join(heard) == "Hello, world.", "one answer"
    assert [one.outcome for one in tries] == ["HTTP 500: not now", "HTTP 429: not now (it asks to wait 1 s)", "ok"]
    assert made.tries == tuple(tries)
    assert len(httpserver.log) == 3


def test_pr_11_nobody_is_asked_more_than_three_times(httpserver: HTTPServer, vendor: Vendor) -> None:
    flaky(httpserver, vendor, *[no(vendor, 503) for _ in range(9)])
    error = fails(vendor, origin(httpserver))
    assert error.message == "it: HTTP 503: not now after 3 tries"
    assert [row["outcome"] for row in error.detail["tries"]] == ["HTTP 503: not now"] * 3  # type: ignore[attr-defined]
    assert len(httpserver.log) == 3


@pytest.mark.parametrize("asked", ["86400", "1e300", "inf", "11"])
def test_pr_11_a_wait_that_is_too_long_is_told_at_once(httpserver: HTTPServer, vendor: Vendor, asked: str) -> None:
    flaky(httpserver, vendor, no(vendor, 429, Retry_After=asked))
    begun = time.monotonic()
    error = fails(vendor, origin(httpserver))
    assert time.monotonic() - begun < 8
    assert error.code == "provider_refused"
    assert "it asks to wait" in error.message
    assert len(httpserver.log) == 1


@pytest.mark.parametrize("asked", ["-5", "nan", "soon", "", "Fri, 31 Dec 9999 23:59:59 GMT", "1\t2"])
def test_pr_11_a_wait_that_is_nonsense_counts_as_none(httpserver: HTTPServer, vendor: Vendor, asked: str) -> None:
    flaky(httpserver, vendor, no(vendor, 429, Retry_After=asked))
    made, _, tries = ask(vendor.provider(origin(httpserver)))
    assert made.text == "Hello, world."
    assert len(tries) == 2


def test_a_wait_beyond_the_deadline_is_not_begun(httpserver: HTTPServer, vendor: Vendor) -> None:
    flaky(httpserver, vendor, no(vendor, 429, Retry_After="9"))
    begun = time.monotonic()
    fails(vendor, origin(httpserver), deadline_s=5)
    assert time.monotonic() - begun < 5


def test_pr_09_nobody_listens(vendor: Vendor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    begun = time.monotonic()
    error = fails(vendor, f"http://127.0.0.1:{port}")
    assert error.code == "provider_offline"
    assert "refused" in error.message
    assert error.message.endswith("after 3 tries")
    assert time.monotonic() - begun < 8
    assert "refused" in vendor.provider(f"http://127.0.0.1:{port}").health(2.0).message


def test_pr_09_a_server_that_is_not_who_it_says_is_refused(vendor: Vendor) -> None:
    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with raw_server(answer) as raw:
        error = fails(vendor, raw.origin.replace("http:", "https:"), deadline_s=5)
    assert error.code == "provider_offline"
    assert len(error.detail["tries"]) == 1  # type: ignore[arg-type]


def test_pr_09_a_certificate_of_nobody_is_refused_and_the_key_stays_here(vendor: Vendor, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("key", "cert")}
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    line += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", files["key"], "-out", files["cert"]]
    subprocess.run(line, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    seen: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            seen.append(connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        error = fails(vendor, f"https://127.0.0.1:{listener.getsockname()[1]}", deadline_s=5)
    assert "CERTIFICATE_VERIFY_FAILED" in error.message
    assert len(error.detail["tries"]) == 1  # type: ignore[arg-type]
    assert b"".join(seen) == b""


def drip(data: bytes) -> Callable[[socket.socket, int], None]:
    """One byte a second, for ever."""

    def answer(connection: socket.socket, _: int) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(1)

    return answer


def slow_body(connection: socket.socket, _: int) -> None:
    connection.sendall(head())
    drip(b"data: " + b"x" * 100)(connection, 0)


def silent(connection: socket.socket, _: int) -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    "answer", [drip(head() + b"x" * 100), slow_body, silent], ids=["one-byte-heads", "one-byte-bodies", "silence"]
)
def test_the_deadline_holds_whatever_it_hangs_in(vendor: Vendor, answer: Callable[[socket.socket, int], None]) -> None:
    with raw_server(answer) as raw:
        vendor.provider(raw.origin).health(0.5)  # imports are done
        begun = time.monotonic()
        error = fails(vendor, raw.origin, deadline_s=2)
        took = time.monotonic() - begun
        assert took < 3.2
        assert error.code == "provider_offline"
        begun = time.monotonic()
        assert not vendor.provider(raw.origin).health(1.0).ok
        assert time.monotonic() - begun < 2.0
        assert len(raw.asked) == 3, "one try each"
        for _ in range(30):
            if not [one for one in threading.enumerate() if one.name == "opsctl-provider"]:
                break
            time.sleep(0.1)
        else:
            pytest.fail("a thread goes on waiting for the server")


def test_pr_13_a_stream_that_breaks_is_no_answer(vendor: Vendor) -> None:
    whole = vendor.stream(Said())

    def answer(connection: socket.socket, _: int) -> None:
        body = b"".join(whole)
        connection.sendall(head("200 OK", SSE, f"Content-Length: {len(body)}") + b"".join(whole[:-3]) + whole[-3][:20])

    with raw_server(answer) as raw:
        error = fails(vendor, raw.origin)
        assert error.code == "provider_garbage"
        assert len(raw.asked) == 1, "what was paid for once is not asked again"


GARBAGE = {
    "html": b"<html>hello</html>",
    "nothing": b"",
    "no-json": b"data: {nonsense\n\n",
    "no-utf8": b"data: \xff\xfe\xff\n\n",
    "number": b"data: 5\n\n",
    "null": b"data: null\n\n",
    "list": b"data: [1, [2]]\n\n",
    "text": b'data: "x"\n\n',
    "deep": b"data: " + b"[" * 100_000 + b"\n\n",
    "empty": b"data: {}\n\ndata: {}\n\n",
    "other-types": b'data: {"choices": 5, "candidates": "x", "type": 7, "model": [], "usage": "no"}\n\n',
    "wrong-text": b'event: content_block_delta\ndata: {"type": "content_block_delta", "delta": {"type": "text_delta",'
    b' "text": 5}, "choices": [{"delta": {"content": {"a": 1}}}],'
    b' "candidates": [{"content": {"parts": [{"text": 5}]}}]}\n\n',
    "wrong-counts": b'event: message_delta\ndata: {"type": "message_delta", "delta": {"stop_reason": "end_turn"},'
    b' "usage": {"output_tokens": "many", "prompt_tokens": {}}, "usageMetadata": {"promptTokenCount": "x"},'
    b' "choices": [{"delta": {"content": "x"}, "finish_reason": 3}]}\n\n',
    "error-event": b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}\n\n',
    "error-type": b'event: error\ndata: {"type": "error", "error": 5}\n\n',
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("kind", [SSE, "application/json"])
def test_pr_13_garbage_is_one_plain_error(httpserver: HTTPServer, vendor: Vendor, body: bytes, kind: str) -> None:
    httpserver.expect_request(vendor.path).respond_with_data(body, content_type=kind)
    error = fails(vendor, origin(httpserver))
    assert error.code in ("provider_garbage", "provider_refused")
    assert len(httpserver.log) == 1


@pytest.mark.parametrize("status", [200, 302, 400, 404, 418])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"5", b'{"error": 5}', b'{"error": {"message": [1]}}', b"\xff"]
)
def test_an_error_in_any_form_is_one_plain_error(
    httpserver: HTTPServer, vendor: Vendor, body: bytes, status: int
) -> None:
    httpserver.expect_request(vendor.path).respond_with_data(body, status=status, content_type="application/json")
    error = fails(vendor, origin(httpserver))
    if status >= 300:
        assert f"HTTP {status}" in error.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_and_the_key_goes_nowhere(vendor: Vendor, status: int) -> None:
    def other(connection: socket.socket, _: int) -> None:
        connection.sendall(head() + b"".join(vendor.stream(Said())))

    with raw_server(other) as elsewhere:
        places = [
            f"http://localhost:{elsewhere.port}{vendor.path}",
            "/v1/other",
            "//127.0.0.1:9/",
            "file:///etc/passwd",
        ]

        def answer(connection: socket.socket, number: int) -> None:
            connection.sendall(
                head(f"{status} Found", "text/plain", f"Location: {places[number]}", "Content-Length: 0")
            )

        with raw_server(answer) as raw:
            for number in range(len(places)):
                error = fails(vendor, raw.origin)
                assert error.code == "provider_refused"
                assert "sends elsewhere" in error.message
                assert len(raw.asked) == number + 1
        assert elsewhere.asked == []


@pytest.mark.parametrize("status", [200, 400])
def test_what_is_packed_is_not_unpacked(httpserver: HTTPServer, vendor: Vendor, status: int) -> None:
    bomb = gzip.compress(b"data: " + b"\0" * 200_000_000, 9)
    headers = {"Content-Encoding": "gzip"}
    httpserver.expect_request(vendor.path).respond_with_data(bomb, status=status, headers=headers, content_type=SSE)
    error = fails(vendor, origin(httpserver))
    assert error.code == "provider_garbage"
    assert "packed (gzip)" in error.message
    assert httpserver.log[0][0].headers["Accept-Encoding"] == "identity"


_MEASURED = """\
import resource, sys, time
sys.path.insert(0, {tests!r})
from vendors import VENDORS, ask
from opsctl.errors import OpsError
vendor = next(one for one in VENDORS if one.type == {type!r})
ask(vendor.provider({good!r}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    ask(vendor.provider({origin!r}), deadline_s=6)
except OpsError as error:
    print(error.code, error.message)
print(vendor.provider({origin!r}).health(10).message)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["one-line", "lines", "empty-events", "error"])
def test_two_gigabytes_take_neither_memory_nor_time(vendor: Vendor, kind: str) -> None:
    unit = {
        "one-line": b"x" * 65536,
        "lines": b"data: {}\n" * 7000,
        "empty-events": b"data: {}\n\n" * 6000,
        "error": b"x" * 65536,
    }[kind]

    def flood(connection: socket.socket, number: int) -> None:
        if number == 0:
            return connection.sendall(head() + b"".join(vendor.stream(Said())))
        size = 2 * 1024**3
        connection.sendall(head("400 No" if kind == "error" else "200 OK", SSE, f"Content-Length: {size}"))
        for _ in range(size // len(unit)):
            connection.sendall(unit)
        return None

    with raw_server(flood) as raw:
        values = {"tests": str(ROOT / "tests"), "type": vendor.type, "good": raw.origin, "origin": raw.origin}
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED.format(**values)],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    *said, grown = done.stdout.splitlines()
    assert len(said) == 2
    assert said[0].startswith("provider_")
    assert int(grown) < 150, "megabytes"
    assert time.monotonic() - begun < 60


def test_a_call_that_hangs_keeps_no_process_alive(vendor: Vendor, tmp_path: Path) -> None:
    code = f"""\
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
from vendors import VENDORS, ask
vendor = next(one for one in VENDORS if one.type == {vendor.type!r})
provider = vendor.provider(sys.argv[1])
provider.health(0.3)
began = time.monotonic()
try:
    ask(provider, deadline_s=1)
except Exception as error:
    print(type(error).__name__, time.monotonic() - began < 3, flush=True)
"""
    with raw_server(drip(head() + b"x" * 200)) as raw:
        done = subprocess.run(
            [sys.executable, "-c", code, raw.origin],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "OpsError True\n", "")


# -- the key, echoed ----------------------------------------------------------------------------------------------

FORMS = [KEY, KEY.upper(), KEY.lower(), b64encode(KEY.encode()).decode().rstrip("="), f"Bearer {KEY}"]


@pytest.mark.parametrize("form", FORMS, ids=["plain", "upper", "lower", "base64", "bearer"])
@pytest.mark.parametrize("before", [0, 280, 290, 60_000])
def test_a_key_that_is_echoed_in_an_error_is_not_shown(
    httpserver: HTTPServer, vendor: Vendor, form: str, before: int
) -> None:
    said = "x" * before + form + "y" * 10
    httpserver.expect_request(vendor.path).respond_with_json(vendor.error(said), status=403)
    error = fails(vendor, origin(httpserver))
    shown = error.message + str(error.detail)
    assert form.removeprefix("Bearer ")[:8] not in shown, "not a part of it either"


def split(text: str, sizes: Iterator[int]) -> tuple[str, ...]:
    found = []
    while text:
        size = next(sizes)
        found.append(text[:size])
        text = text[size:]
    return tuple(found)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 26, 27, 1000])
def test_a_key_that_is_echoed_in_an_answer_is_taken_out_also_in_pieces(
    httpserver: HTTPServer, vendor: Vendor, size: int
) -> None:
    text = f"My key is {KEY}, yes sk-test-01 {KEY}{KEY} {KEY[:-1]}"
    pieces = split(text, iter(lambda: size, 0))
    body = b"".join(vendor.stream(Said(pieces, model=f"m-{KEY}")))
    headers = {vendor.id_header: f"id-{KEY}"} if vendor.id_header else {}
    httpserver.expect_request(vendor.path).respond_with_data(body, content_type=SSE, headers=headers)
    made, heard, _ = ask(vendor.provider(origin(httpserver)))
    mark = "<redacted:key>"
    expected = f"My key is {mark}, yes sk-test-01 {mark}{mark} {KEY[:-1]}"
    assert made.text == "".join(heard) == expected
    assert made.model == f"m-{mark}"
    assert KEY not in repr(made)


def test_nothing_that_is_held_shows_the_key(vendor: Vendor) -> None:
    provider = vendor.provider("http://127.0.0.1:9")
    wire = provider._wire  # type: ignore[attr-defined]
    for one in (provider, wire, wire.secret, wire.settings, vars(provider), vars(wire)):
        assert KEY not in repr(one)
        assert KEY not in str(one)
    with pytest.raises(TypeError, match="not stored"):
        __import__("pickle").dumps(wire.secret)


def test_the_logs_of_the_libraries_never_have_the_key(vendor: Vendor) -> None:
    code = f"""\
import logging, sys
logging.basicConfig(level=logging.DEBUG)
sys.path.insert(0, {str(ROOT / "tests")!r})
from vendors import VENDORS, ask
vendor = next(one for one in VENDORS if one.type == {vendor.type!r})
print(ask(vendor.provider(sys.argv[1])))
"""

    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(head() + b"".join(vendor.stream(Said())))

    with raw_server(answer) as raw:
        done = subprocess.run(
            [sys.executable, "-c", code, raw.origin],
            env={"PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug", "ANTHROPIC_LOG": "debug"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert KEY.encode() in raw.asked[0]
    assert "DEBUG" in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert not re.search(re.escape(KEY[3:20]), done.stdout + done.stderr)
