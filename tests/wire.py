"""Remotes on loopback that behave badly: they die in the middle, send without end, or send the client elsewhere."""

from __future__ import annotations

import os
import socket
import socketserver
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, cast

OID = b"1" * 40


def packet(data: bytes) -> bytes:
    """One line of git's protocol."""
    return b"%04x" % (len(data) + 4) + data


def _received(source: IO[bytes]) -> bytes:
    """One line of git's protocol; empty for a flush or the end."""
    size = int(source.read(4) or b"0", 16)
    return source.read(size - 4) if size else b""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    @property
    def url(self) -> str:
        """Where any repository of it is."""
        return f"git://127.0.0.1:{self.server_address[1]}"


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- one that dies ------------------------------------------------------------------------------------------------


class Mortal(_Server):
    """A git server that breaks a push off: after so many bytes from the client, or so many to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _MortalTalk)
        self.up: int | None = None
        self.down: int | None = None
        self.heard = 0
        self.said = 0


class _MortalTalk(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = cast(Mortal, self.server)
        service, _, rest = _received(self.rfile).partition(b" ")
        program = ["git", service.decode().removeprefix("git-"), rest.split(b"\0")[0].decode()]
        is_push = service == b"git-receive-pack"
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as git:
            assert git.stdin
            assert git.stdout

            def end() -> None:
                git.kill()
                self.connection.shutdown(socket.SHUT_RDWR)

            def speak() -> None:
                said = _pump(cast(IO[bytes], git.stdout), self.wfile, server.down if is_push else None, end)
                server.said = said if is_push else server.said

            down = threading.Thread(target=speak, daemon=True)
            down.start()
            heard = _pump(cast(IO[bytes], self.rfile), git.stdin, server.up if is_push else None, end)
            down.join()
            if is_push:
                server.heard = heard


def _pump(source: IO[bytes], target: IO[bytes], most: int | None, end: Callable[[], None]) -> int:
    """Copy until the end, or until `most` bytes have gone; then everything dies at once."""
    done = 0
    try:
        while most is None or done < most:
            data = cast(bytes, source.read1(65536 if most is None else most - done))  # type: ignore[attr-defined]
            if not data:
                target.close()
                return done
            target.write(data)
            target.flush()
            done += len(data)
        end()
    except (OSError, ValueError):
        pass  # the other side is gone
    return done


@contextmanager
def mortal() -> Iterator[Mortal]:
    """Serve every repository of this machine at `url` + its path, until told to die."""
    server = Mortal()
    with _serving(server):
        yield server


# -- one that never ends ------------------------------------------------------------------------------------------


class Endless(_Server):
    """A git server that offers one branch, and answers with something that has no end. `sent` counts its bytes."""

    def __init__(self, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _EndlessTalk)
        self.kind = kind
        self.sent = 0
        self.left = threading.Event()
        """Set once nobody is there to take more."""


class _EndlessTalk(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = cast(Endless, self.server)
        try:
            for data in _stream(server.kind, cast(IO[bytes], self.rfile)):
                self.wfile.write(data)
                server.sent += len(data)
        except OSError:
            server.left.set()


def _stream(kind: str, source: IO[bytes]) -> Iterator[bytes]:
    _received(source)
    can = b"side-band-64k " if kind in ("pack in a band", "messages") else b""
    yield packet(OID + b" refs/heads/ops/approved\0" + can + b"agent=git/2\n")
    if kind == "names":
        rows = [packet(OID + b" refs/heads/ops/%020d\n" % number) for number in range(2000)]
        while True:
            yield b"".join(rows)
    yield b"0000"
    while _received(source):
        pass
    _received(source)
    yield packet(b"NAK\n")
    if kind == "nothing":
        while source.read(1):
            pass
        raise OSError
    if kind == "messages":
        while True:
            yield packet(b"\2" + b"wait for it\n" * 5000)
    for data in _pack():
        yield packet(b"\1" + data) if can else data


def _pack() -> Iterator[bytes]:
    """One blob of a tebibyte, in stored blocks of random bytes."""
    size, head = 1 << 40, bytearray()
    byte, size = 3 << 4 | size & 15, size >> 4
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    yield b"PACK" + struct.pack(">II", 2, 1) + bytes(head) + b"\x78\x01"
    block = os.urandom(60_000)
    while True:
        yield b"\0" + struct.pack("<HH", len(block), len(block) ^ 0xFFFF) + block


@contextmanager
def endless(kind: str) -> Iterator[Endless]:
    """Serve without end: a `pack`, a `pack in a band`, `messages`, `names`, or `nothing` at all."""
    server = Endless(kind)
    with _serving(server):
        yield server


# -- one that points elsewhere ------------------------------------------------------------------------------------


@dataclass
class Web:
    """An HTTP server of one repository. `asked` holds method, path and headers of each request."""

    repo: Path
    login: str | None = None
    """The `Authorization` header that it wants."""
    elsewhere: str | None = None
    """The server that it sends everybody to, once they have logged in."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def authorizations(self) -> list[str]:
        """Every `Authorization` that somebody sent."""
        return [value for _, _, headers in self.asked for name, value in headers.items() if name == "authorization"]


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Talk(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if web.login and self.headers.get("Authorization") != web.login:
                self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'})
            elif web.elsewhere:
                self._answer(302, {"Location": web.elsewhere + self.path})
            else:
                self._git(body)

        do_POST = do_GET

        def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _git(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(web.repo.parent),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REMOTE_USER": "somebody",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            }
            if self.headers.get("Content-Encoding"):
                env["HTTP_CONTENT_ENCODING"] = self.headers["Content-Encoding"]
            done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=env, check=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self._answer(int(headers.pop("Status", "200").split()[0]), headers, content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    return Talk


@contextmanager
def web(served: Web, host: str) -> Iterator[Web]:
    """Serve over HTTP under this name of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    served.url = f"http://{host}:{server.server_address[1]}"
    with _serving(server):
        yield served
