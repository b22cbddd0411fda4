"""How bytes go to a provider and come back: one checked address, no redirects, bounded answers, keys never shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import httpx2

from opsctl.errors import OpsError
from opsctl.providers.address import resolved
from opsctl.providers.port import ProviderSettings

RAW_LIMIT = 64 * 1024 * 1024
"""Bytes of one response on the wire; streaming wraps each token in a few hundred bytes of JSON."""

_REDACTED = "<redacted:key>"


class TooMuch(Exception):
    """The response is larger than anything that is read here, or packed in a way that could unfold."""


class Secret:
    """A key that shows itself to nobody but `reveal`."""

    def __init__(self, value: str | None) -> None:
        self.__value = value

    def reveal(self) -> str | None:
        """The key itself, for a header."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret(…)" if self.__value else "Secret(None)"

    def scrub(self, text: str) -> str:
        """The text without the key, however it was encoded."""
        for form in self._forms():
            text = text.replace(form, _REDACTED)
        return text

    def _forms(self) -> list[str]:
        value = self.__value
        return sorted({value, quote(value, safe=""), value[::-1]}, key=len, reverse=True) if value else []

    @property
    def longest(self) -> int:
        """Characters of the longest form."""
        return max(map(len, self._forms()), default=0)


class Scrubber:
    """Takes the key out of text that comes in pieces: what could be the beginning of it is held back."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be shown now."""
        text = self._secret.scrub(self._held + piece)
        keep = max(0, self._secret.longest - 1)
        cut = len(text) - keep if keep else len(text)
        self._held = text[max(0, cut) :]
        return text[: max(0, cut)]

    def rest(self) -> str:
        """What was held back."""
        text, self._held = self._secret.scrub(self._held), ""
        return text


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        total = 0
        for chunk in self._inner:
            total += len(chunk)
            if total > RAW_LIMIT:
                raise TooMuch(f"more than {RAW_LIMIT // 1024**2} MiB came back")
            yield chunk

    def close(self) -> None:
        self._inner.close()


class _Guard(httpx2.BaseTransport):
    """Connects to the address that was checked, so that a second lookup cannot give another one."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._inner = httpx2.HTTPTransport(retries=0, trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        is_http = url.scheme == "http"
        port = url.port or (80 if is_http else 443)
        address = resolved(self._settings.name, url.host, port, is_http=is_http)
        request.headers["Accept-Encoding"] = "identity"
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        request.url = url.copy_with(host=address)
        response = self._inner.handle_request(request)
        request.url = url
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            response.close()
            raise TooMuch(f"the answer is packed ({re.sub(r'[^a-z0-9-]', '', packed)[:20]}), which was not asked for")
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Bounded(response.stream)
        return response

    def close(self) -> None:
        self._inner.close()


class Wire:
    """What an adapter gets besides its settings: a client that is safe to use, and the key."""

    def __init__(self, settings: ProviderSettings, secret: Secret) -> None:
        self.settings = settings
        self.secret = secret

    def client(self, timeout_s: float) -> httpx2.Client:
        """An HTTP client for one call; the SDKs take it as it is."""
        timeout = httpx2.Timeout(timeout_s)
        if self.settings.proxy:  # the person asked for it: the proxy resolves names, and is trusted to
            return httpx2.Client(trust_env=True, follow_redirects=False, timeout=timeout)
        return httpx2.Client(transport=_Guard(self.settings), trust_env=False, follow_redirects=False, timeout=timeout)


def wire_for(settings: ProviderSettings, environ: Mapping[str, str]) -> Wire:
    """The wire of a provider, its key resolved now. Raises `bad_config`."""
    from opsctl.providers.settings import key_of

    return Wire(settings, Secret(key_of(settings, environ)))


def refused_by_configuration(error: BaseException | None) -> OpsError | None:
    """An error of ours that an SDK wrapped."""
    while error is not None:
        if isinstance(error, OpsError):
            return error
        error = error.__cause__ or error.__context__
    return None
