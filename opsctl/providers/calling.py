"""One call with what no vendor's library promises: a deadline for the whole, few tries, plain errors."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from opsctl.errors import OpsError
from opsctl.providers.bounding import bounded
from opsctl.providers.failure import Failed
from opsctl.providers.port import ANSWER_LIMIT, Context, Generation, Try
from opsctl.providers.secret import Scrubber
from opsctl.providers.wire import Wire

TRIES = 3
LONGEST_WAIT_S = 10.0
"""A server may ask for more; then the call fails at once, with what it asked for."""

GOOD_ENDS = frozenset({"stop", "end_turn", "stop_sequence", "STOP"})
"""How vendors say that an answer is whole."""

_CUT_ENDS = frozenset({"length", "max_tokens", "MAX_TOKENS", "model_context_window_exceeded"})
_REFUSALS = frozenset({"refusal", "content_filter", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII"})


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of a streamed answer: text, and facts as far as they are known by then.

    Libraries hand on what the far end sent without looking at it, so the types are checked here.
    """

    text: str = ""
    model: str | None = None
    request_id: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    finish: str | None = None

    def __post_init__(self) -> None:
        words = (self.model or "", self.request_id or "", self.finish or "")
        counts = self.usage.values()
        if not all(isinstance(one, str) for one in (self.text, *words)) or not all(type(one) is int for one in counts):
            raise Failed("provider_garbage", "the answer has another form than it should")
        if any(0xD800 <= ord(one) <= 0xDFFF for one in ("" if self.text.isascii() else self.text)):
            raise Failed("provider_garbage", "the answer is not valid text")


Stream = Callable[[float], Iterator[Piece]]
"""Starts one try with so many seconds left."""


@dataclass
class _Answer:
    """An answer as far as it came."""

    parts: list[str] = field(default_factory=list)
    size: int = 0
    has_begun: bool = False
    model: str | None = None
    request_id: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    finish: str | None = None

    def take(self, piece: Piece) -> None:
        self.has_begun = True
        self.size += len(piece.text.encode())
        if self.size > ANSWER_LIMIT:
            raise Failed("provider_garbage", f"the answer has more than {ANSWER_LIMIT // 1024**2} MiB")
        if piece.text:
            self.parts.append(piece.text)
        self.model = piece.model or self.model
        self.request_id = piece.request_id or self.request_id
        self.usage |= piece.usage
        self.finish = piece.finish or self.finish


def call(wire: Wire, start: Stream, context: Context) -> Generation:
    """Make the call. Raises `OpsError` of kind provider, or what the configuration was refused for; nothing else."""
    begun, tries = time.monotonic(), list[Try]()
    end = begun + context.deadline_s
    while True:
        started, answer, failure = time.monotonic(), _Answer(), None
        try:
            _listen(wire, start, answer, context, end)
            text = _whole(answer)
        except Failed as error:  # it may hold the key: what is raised below must not have it as its context
            failure = error
        outcome = tell(wire, failure.message) if failure else "ok"
        tries.append(Try(outcome, time.monotonic() - started))
        context.tried(tries[-1])
        if failure is None:
            return _generation(wire, wire.secret.scrub(text), answer, tries, time.monotonic() - begun)
        wait_s = None if answer.has_begun else _wait(failure, len(tries), end)
        if wait_s is None:
            raise _error(wire, failure.code, outcome, tries)
        time.sleep(wait_s)


def tell(wire: Wire, message: str) -> str:
    """What the far end said, as one line that can be shown: without the key, then cut, then printable."""
    line = " ".join(wire.secret.scrub(message).split())
    return _printable(line[:300])


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)


def _listen(wire: Wire, start: Stream, answer: _Answer, context: Context, end: float) -> None:
    """One try."""
    scrubber = Scrubber(wire.secret)
    pieces = bounded(lambda: start(max(0.1, end - time.monotonic())), end, wire.cut)
    with closing(pieces):  # type: ignore[type-var]  # a generator, though it is annotated as what it yields
        for piece in pieces:
            answer.take(piece)
            shown = scrubber.feed(piece.text)
            if shown:
                context.heard(shown)
    rest = scrubber.rest()
    if rest:
        context.heard(rest)


def _whole(answer: _Answer) -> str:
    text = "".join(answer.parts)
    if answer.finish is None:
        raise Failed("provider_garbage", "the answer broke off" if text else "nothing that could be read came back")
    if answer.finish in _CUT_ENDS:
        raise Failed("provider_garbage", "the answer was cut off at the limit of its length")
    if answer.finish in _REFUSALS:
        raise Failed("provider_refused", f"the model refused: {answer.finish}")
    if answer.finish not in GOOD_ENDS:
        raise Failed("provider_garbage", f"the answer is not whole: it ended by {answer.finish}")
    if not text.strip():
        raise Failed("provider_garbage", "the answer is empty")
    return text


def _generation(wire: Wire, text: str, answer: _Answer, tries: list[Try], duration_s: float) -> Generation:
    model = _printable(wire.secret.scrub(answer.model or wire.settings.model)[:200])
    request_id = wire.secret.scrub(answer.request_id or "")
    plain_id = "".join(one for one in request_id if one.isascii() and one.isprintable() and one != " ")[:200]
    return Generation(text, model, plain_id or None, answer.usage, answer.finish or "", duration_s, tuple(tries))


def _wait(failure: Failed, made: int, end: float) -> float | None:
    """Seconds before another try, or None where there is none."""
    if not failure.again or made >= TRIES:
        return None
    jitter = random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    asked = failure.wait_s
    wait_s = 0.5 * 2**made * jitter if asked is None else asked + jitter / 4
    is_bearable = asked is None or asked <= LONGEST_WAIT_S
    return wait_s if is_bearable and time.monotonic() + wait_s < end else None


def _error(wire: Wire, code: str, said: str, tries: list[Try]) -> OpsError:
    count = f" after {len(tries)} tries" if len(tries) > 1 else ""
    rows = [{"outcome": one.outcome, "seconds": round(one.duration_s, 3)} for one in tries]
    hint = "opsctl provider check says how the providers are"
    return OpsError(code, f"{wire.settings.name}: {said}{count}", hint=hint, detail={"tries": rows})
