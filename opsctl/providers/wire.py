"""How bytes go to a provider and come back: a checked address, no redirects, bounded answers, our own headers."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

import httpx2

from opsctl.errors import OpsError
from opsctl.providers.address import host_of, resolved
from opsctl.providers.failure import TooMuch, from_response
from opsctl.providers.port import ProviderSettings
from opsctl.providers.secret import Secret

RAW_LIMIT = 64 * 1024 * 1024
"""Bytes of one response; streaming wraps each token in a few hundred bytes of JSON."""

EVENT_LIMIT = 8 * 1024 * 1024
"""Bytes between two blank lines, which libraries gather whole before they look at them."""

ERROR_LIMIT = 64 * 1024
"""Bytes that are read of a response that is no answer; the rest is left where it is."""

_SENT = frozenset({"host", "connection", "content-length", "content-type", "accept", "accept-encoding"})
_SENT_TOO = frozenset({"user-agent", "transfer-encoding", "anthropic-version"})
"""Libraries add what they find in the environment, other keys too: nothing leaves but these, and our own key."""


class _Bounded(httpx2.SyncByteStream):
    """The body of a response, not more of it than is good, and not longer."""

    def __init__(self, inner: httpx2.SyncByteStream, end: float) -> None:
        self._inner = inner
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        total = event = 0
        last = b""
        for chunk in self._inner:
            total += len(chunk)
            window = last + chunk
            ended = max(window.rfind(blank) for blank in (b"\n\n", b"\n\r\n", b"\r\r"))
            event = len(window) - ended if ended >= 0 else event + len(chunk)
            last = window[-2:]
            if total > RAW_LIMIT or event > EVENT_LIMIT:
                raise TooMuch("more came back than is read")
            if time.monotonic() > self._end:
                raise httpx2.ReadTimeout("the deadline passed")
            yield chunk

    def close(self) -> None:
        self._inner.close()


class _Guard(httpx2.BaseTransport):
    """Connects to an address that was checked, so that a second lookup cannot give another one (DNS rebinding).

    A response that is no answer is raised as the `Failed` that it is; the libraries pass it on as a cause.
    """

    def __init__(self, wire: Wire, timeout_s: float, key_header: str, before_key: str) -> None:
        self._wire = wire
        self._key_header = key_header
        self._before_key = before_key
        self._end = time.monotonic() + timeout_s
        self._inner = httpx2.HTTPTransport(retries=0, trust_env=False, proxy=wire.proxy)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        name, base_url = self._wire.settings.name, self._wire.settings.base_url or ""
        url = request.url
        if url.scheme != httpx2.URL(base_url).scheme or host_of(str(url)) != host_of(base_url) or url.userinfo:
            raise OpsError("bad_config", f"provider {name}: a request was made for another host than base_url names")
        if time.monotonic() > self._end:
            raise httpx2.ConnectTimeout("the deadline passed")
        self._strip(request)
        request.extensions = {**request.extensions, "sni_hostname": url.host, "trace": self._wire.saw}
        if self._wire.proxy:  # the person asked for it: the proxy resolves names, and is trusted to
            return self._checked(self._inner.handle_request(request))
        is_http = url.scheme == "http"
        addresses = resolved(name, url.host, url.port or (80 if is_http else 443), is_http=is_http)
        for address in addresses[:-1]:
            request.url = url.copy_with(host=address)
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return self._checked(self._inner.handle_request(request))
        request.url = url.copy_with(host=addresses[-1])
        return self._checked(self._inner.handle_request(request))

    def _strip(self, request: httpx2.Request) -> None:
        for header in set(request.headers) - _SENT - _SENT_TOO:
            del request.headers[header]
        request.headers["Accept-Encoding"] = "identity"
        key = self._wire.secret.reveal()
        if key is not None:
            request.headers[self._key_header] = self._before_key + key

    def _checked(self, response: httpx2.Response) -> httpx2.Response:
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            response.close()
            raise TooMuch(f"the answer is packed ({re.sub(r'[^a-z0-9-]', '', packed)[:20]}), which was not asked for")
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Bounded(response.stream, self._end)
        if response.status_code != 200:
            raise from_response(response.status_code, _beginning(response), response.headers)
        return response

    def close(self) -> None:
        self._inner.close()


def _beginning(response: httpx2.Response) -> bytes:
    body = b""
    with closing(response):
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > ERROR_LIMIT:
                break
    return body[:ERROR_LIMIT]


class Wire:
    """What an adapter gets besides its settings: a client that is safe to use."""

    def __init__(self, settings: ProviderSettings, secret: Secret, proxy: str | None = None) -> None:
        self.settings = settings
        self.secret = secret
        self.proxy = proxy
        self._streams: list[Any] = []

    def client(self, timeout_s: float, key_header: str, before_key: str = "") -> httpx2.Client:
        """An HTTP client for one try. It adds the key to each request: the libraries that use it never know it."""
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0))
        guard = _Guard(self, timeout_s, key_header, before_key)
        return httpx2.Client(transport=guard, trust_env=False, follow_redirects=False, timeout=timeout)

    def saw(self, event: str, info: Mapping[str, Any]) -> None:
        """Told of each step of a connection."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(info["return_value"])

    def cut(self) -> None:
        """End what is still open, so that no thread waits for a server that drips."""
        for stream in self._streams:
            found = stream.get_extra_info("socket")
            with suppress(OSError):  # closed already, or given to TLS, whose own socket is here too
                socket.socket.shutdown(found, socket.SHUT_RDWR)
        self._streams.clear()


def wire_for(settings: ProviderSettings, key: str | None, environ: Mapping[str, str]) -> Wire:
    """The wire of a provider. Raises `bad_config`."""
    return Wire(settings, Secret(key), _proxy(settings, environ))


def _proxy(settings: ProviderSettings, environ: Mapping[str, str]) -> str | None:
    """The proxy of the environment, where the entry asks for it; what stays on this machine never takes one."""
    base_url = settings.base_url or ""
    names = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    found = next((environ[name] for name in names if environ.get(name)), None)
    if not settings.proxy or not base_url.lower().startswith("https:") or found is None:
        return None
    excepted = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").lower().replace(" ", "").split(",")
    host = f".{host_of(base_url)}"
    if "*" in excepted or any(one and host.endswith("." + one.lstrip(".")) for one in excepted):
        return None
    if not re.fullmatch(r"https?://([^/\s@]*@)?[^/\s@]+/?", found):
        raise OpsError(
            "bad_config", f"provider {settings.name}: the proxy of the environment is not http:// or https://"
        )
    return found
