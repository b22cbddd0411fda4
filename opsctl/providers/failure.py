"""What goes wrong in a call, in one line: every library's error becomes a `Failed`, without its values."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping

import httpx2

from opsctl.errors import OpsError


class Failed(Exception):
    """A try that failed. `again`: another one may help; `wait_s`: how long the server asks to wait before it.

    The message may hold whatever the provider sent, the key included: only `calling` shows it, scrubbed and cut.
    """

    def __init__(self, code: str, message: str, *, again: bool = False, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.again = again
        self.wait_s = wait_s


class TooMuch(Exception):
    """The response is larger than anything that is read here, or packed in a way that could unfold."""


def from_response(status: int, body: bytes, headers: Mapping[str, str]) -> Failed:
    """The failure for a response that is no answer."""
    text = f"HTTP {status}: {_reason(body) or 'no reason given'}"
    if status == 429 or status >= 500:
        wait_s = _seconds(headers.get("retry-after"))
        asked = f" (it asks to wait {wait_s:g} s)" if wait_s else ""
        return Failed(
            "provider_refused" if status == 429 else "provider_offline", text + asked, again=True, wait_s=wait_s
        )
    if 300 <= status < 400:
        return Failed("provider_refused", f"HTTP {status}: it sends elsewhere, which is not followed")
    return Failed("provider_refused", text)


def _reason(body: bytes) -> str:
    """What an error says of itself: all three vendors have it in `error.message`, a few others just in `error`."""
    try:
        error = json.loads(body)["error"]
        message = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return message.strip() if isinstance(message, str) else ""


def _seconds(text: str | None) -> float | None:
    """Retry-After as a number of seconds; a date or nonsense counts as none."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None


def translated(error: BaseException) -> Failed | OpsError:
    """An error of ours as it is; any other one as a failure."""
    for one in _chain(error):
        if isinstance(one, OpsError):
            return Failed(one.code, one.message) if one.kind == "provider" else one
        if isinstance(one, Failed):
            return one
        if isinstance(one, TooMuch):
            return Failed("provider_garbage", str(one))
        if isinstance(one, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)):
            is_tls = any(isinstance(inner, ssl.SSLError) for inner in _chain(one))  # another try helps nobody
            return Failed("provider_offline", f"no connection: {one}", again=not is_tls)
        if isinstance(one, httpx2.TimeoutException):
            return Failed("provider_offline", "it did not answer in time")
        if isinstance(one, (httpx2.NetworkError, httpx2.ProtocolError)):
            return Failed("provider_garbage", f"the answer broke off: {one}")
    return Failed("provider_garbage", f"the answer could not be read ({type(error).__name__})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
