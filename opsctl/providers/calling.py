"""One call with everything that a vendor's library does not promise: a deadline for the whole, few tries, plain errors."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from opsctl.errors import OpsError
from opsctl.providers.port import ANSWER_LIMIT, Context, Generation, Health, Try
from opsctl.providers.wire import Scrubber, TooMuch, Wire, refused_by_configuration

TRIES = 3
LONGEST_WAIT_S = 10.0
"""A server may ask for more; then the call fails at once and says so."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of a streamed answer: text, and facts as far as they are known by then."""

    text: str = ""
    model: str | None = None
    request_id: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    finish: str | None = None


class Failed(Exception):
    """What an adapter makes of its library's error. `again`: another try may help; `wait_s`: what the server asks for."""

    def __init__(self, code: str, message: str, *, again: bool = False, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.again = again
        self.wait_s = wait_s


Stream = Callable[[float], Iterator[Piece]]
"""Starts one try with so many seconds left."""

GOOD_ENDS = frozenset({"stop", "end_turn", "stop_sequence", "STOP", "completed"})
"""How vendors say that an answer is whole."""


@dataclass
class _Answer:
    """An answer as far as it came."""

    parts: list[str] = field(default_factory=list)
    size: int = 0
    model: str | None = None
    request_id: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    finish: str | None = None

    def take(self, piece: Piece) -> None:
        self.size += len(piece.text.encode("utf-8", "surrogatepass"))
        if self.size > ANSWER_LIMIT:
            raise Failed("provider_garbage", f"the answer has more than {ANSWER_LIMIT // 1024**2} MiB")
        self.parts.append(piece.text)
        self.model = piece.model or self.model
        self.request_id = piece.request_id or self.request_id
        self.usage |= piece.usage
        self.finish = piece.finish or self.finish


def call(wire: Wire, start: Stream, context: Context) -> Generation:
    """Make the call. Raises `OpsError` of kind provider, or what the configuration was refused for; nothing else."""
    begun, end, tries = time.monotonic(), time.monotonic() + context.deadline_s, list[Try]()
    while True:
        started, answer = time.monotonic(), _Answer()
        try:
            _stream(wire, start, answer, context, end)
            whole = _whole(wire, answer)
            tries.append(Try("ok", time.monotonic() - started))
            context.tried(tries[-1])
            return _generation(whole, answer, time.monotonic() - begun, tries, wire)
        except Failed as failure:
            said = wire.secret.scrub(failure.message)
            tries.append(Try(said, time.monotonic() - started))
            context.tried(tries[-1])
            wait_s = _wait(failure, len(tries), end) if not answer.parts else None
            if wait_s is None:
                raise _error(wire, failure.code, said, tries) from None
            time.sleep(wait_s)


def _generation(text: str, answer: _Answer, duration_s: float, tries: list[Try], wire: Wire) -> Generation:
    model = wire.secret.scrub(answer.model or wire.settings.model)[:200]
    request_id = wire.secret.scrub(answer.request_id)[:200] if answer.request_id else None
    return Generation(text, model, request_id, answer.usage, answer.finish or "", duration_s, tuple(tries))


def _whole(wire: Wire, answer: _Answer) -> str:
    text = wire.secret.scrub("".join(answer.parts))
    if answer.finish is None:
        raise Failed("provider_garbage", "the answer broke off" if text else "nothing that could be read came back")
    if answer.finish not in GOOD_ENDS:
        raise Failed("provider_garbage", f"the answer is not whole: it ended by {answer.finish[:40]!a}")
    if not text.strip():
        raise Failed("provider_garbage", "the answer is empty")
    return text


def _wait(failure: Failed, made: int, end: float) -> float | None:
    """Seconds before another try, or None where there is none."""
    if not failure.again or made >= TRIES:
        return None
    backoff = min(LONGEST_WAIT_S, 0.5 * 2**made) * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
    wait_s = backoff if failure.wait_s is None else failure.wait_s + random.uniform(0, 0.25)  # noqa: S311
    return wait_s if wait_s <= LONGEST_WAIT_S and time.monotonic() + wait_s < end else None


def _error(wire: Wire, code: str, said: str, tries: list[Try]) -> OpsError:
    count = f" after {len(tries)} tries" if len(tries) > 1 else ""
    detail: dict[str, object] = {
        "tries": [{"outcome": one.outcome, "seconds": round(one.duration_s, 3)} for one in tries]
    }
    hint = "opsctl provider check says how the providers are"
    return OpsError(code, f"{wire.settings.name}: {said}{count}", hint=hint, detail=detail)


def _stream(wire: Wire, start: Stream, answer: _Answer, context: Context, end: float) -> None:
    """One try, in a thread of its own: no library can be trusted to come back in time."""
    scrubber = Scrubber(wire.secret)
    for piece in bounded(lambda: start(max(0.1, end - time.monotonic())), end):
        answer.take(piece)
        shown = scrubber.feed(piece.text)
        if shown:
            context.heard(shown)
    context.heard(scrubber.rest())


class _Last:
    """The end of a stream, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def bounded(start: Callable[[], Iterator[Piece]], end: float) -> Iterator[Piece]:
    """What an iterator yields, until the deadline; then `Failed`, whatever it hangs in."""
    box: queue.Queue[Piece | _Last] = queue.Queue(maxsize=64)
    gone = threading.Event()

    def put(item: Piece | _Last) -> None:
        while not gone.is_set():
            try:
                return box.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for piece in start():
                put(piece)
                if gone.is_set():
                    return
            put(_Last(None))
        except BaseException as error:  # it is raised again by the one who waits
            put(_Last(error))

    threading.Thread(target=work, name="opsctl-provider", daemon=True).start()
    try:
        while True:
            left = end - time.monotonic()
            try:
                item = box.get(timeout=max(0.0, left)) if left > 0 else box.get_nowait()
            except queue.Empty:
                raise Failed("provider_offline", "no whole answer came in time") from None
            if isinstance(item, _Last):
                if item.error:
                    raise _translated(item.error)
                return
            yield item
    finally:
        gone.set()


def _translated(error: BaseException) -> BaseException:
    """An error of ours as it is; any other one as a failure in one line, without its values."""
    own = refused_by_configuration(error)
    if own is not None:
        return Failed(own.code, own.message) if own.kind == "provider" else own
    if isinstance(error, Failed):
        return error
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, TooMuch):
            return Failed("provider_garbage", str(found))
        found = found.__cause__ or found.__context__
    return Failed("provider_garbage", f"the answer could not be read ({type(error).__name__})")


def health(wire: Wire, models: Callable[[float], list[str]], deadline_s: float) -> Health:
    """Whether a provider answers, by its list of models."""
    begun = time.monotonic()
    known: list[str] = []

    def ask() -> Iterator[Piece]:
        known.extend(models(deadline_s))
        yield Piece()

    try:
        list(bounded(ask, begun + deadline_s))
    except (Failed, OpsError) as fault:
        return Health(False, time.monotonic() - begun, None, wire.secret.scrub(fault.message))
    has = wire.settings.model in known
    said = (
        "" if has else f"it has no model {wire.settings.model}" + (f"; it has {', '.join(known[:3])}" if known else "")
    )
    return Health(True, time.monotonic() - begun, has, said)


def from_status(status: int, message: str, retry_after: str | None) -> Failed:
    """The failure for a response that is no answer. `message` is the provider's own word, cut to one line."""
    said = " ".join(message.split())[:300] or "no reason given"
    if status == 429 or status >= 500:
        code = "provider_refused" if status == 429 else "provider_offline"
        return Failed(code, f"HTTP {status}: {said}", again=True, wait_s=_seconds(retry_after))
    if 300 <= status < 400:
        return Failed("provider_refused", f"HTTP {status}: it sends elsewhere, which is not followed")
    return Failed("provider_refused", f"HTTP {status}: {said}")


def _seconds(text: str | None) -> float | None:
    """Retry-After as a number of seconds; as a date it is taken for the longest wait."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        return LONGEST_WAIT_S
