"""Carries out a run of the executor `provider`: the approved prompt goes out, the answer comes back."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opsctl.errors import OpsError
from opsctl.executors.output import Output
from opsctl.message import one_line
from opsctl.models import Approved, Run
from opsctl.providers import connect
from opsctl.providers.port import Context, Generation, Provider, ProviderSettings, Request
from opsctl.providers.settings import load
from opsctl.runrecord import CANCELLED, DONE, ERROR, RUNNING
from opsctl.runterms import Terms
from opsctl.workspace.base import Base
from opsctl.workspace.drafts import Drafts, Facts, NewDraft
from opsctl.workspace.runbook import live_log
from opsctl.workspace.runs import Runs

_LOOK_S = 0.25
"""Seconds between two looks at whether the run is still wanted."""

Stop = Callable[[], str | None]
"""Says why a run is to end now, if it is."""


@dataclass(frozen=True, slots=True)
class Order:
    """One run: what was approved, on which terms, whether the answer becomes a draft, and who watches."""

    run: Run
    approved: Approved
    terms: Terms
    as_draft: bool
    stop: Stop
    watch: Callable[[str], None]


class _Unwanted(Exception):
    """The run ended while its answer was on the way."""


class Answering:
    """`ws.answering`."""

    def __init__(self, base: Base, runs: Runs, drafts: Drafts) -> None:
        self._base = base
        self._runs = runs
        self._drafts = drafts

    def carry_out(self, order: Order) -> Run:
        """Send exactly the approved prompt, and return the run in its terminal state.

        The deadline is that of the approved file. A run that is cancelled, or whose item is no longer what was
        approved, ends as cancelled at once, and keeps nothing of the answer. Raises what the configuration is refused
        for, and what the provider failed by.
        """
        settings = load(self._base.places).get(None)
        provider = connect(settings, self._base.environ)
        ulid = order.run.ulid
        self._runs.tell(ulid, RUNNING, {"holder": settings.name})
        log = live_log(self._base.repo.common, ulid)
        output = Output(None if log.parent.is_symlink() else log)
        try:
            made = _asked(provider, order, output)
            _check(order)
        except _Unwanted as unwanted:
            return self._runs.finish(ulid, CANCELLED, {"message": str(unwanted)})
        finally:
            output.finish()
        return self._concluded(order, settings, made)

    def _concluded(self, order: Order, settings: ProviderSettings, made: Generation) -> Run:
        kept = Output(None)
        kept.feed(made.text.encode("utf-8", "replace"))
        data, cut = kept.finish()
        status, message, draft = DONE, f"{settings.name}, {one_line(made.model)[:200]}", None
        if order.as_draft:
            try:
                draft = f"d_{self._filed(order, settings, made)}"
            except OpsError as fault:
                status, message = ERROR, f"the answer could not be filed as a draft: {fault.message}"
        facts: dict[str, object] = {
            "message": message,
            "usage": _counts(made.usage),
            "request_id": Facts.of(made).request_id,
            "output_bytes": kept.total,
            "cut_bytes": cut,
            "draft": draft,
        }
        ended = self._runs.land(order.run, status, facts, output=data)
        if draft and ended.draft != draft:
            self._unfiled(draft)
        return ended

    def _unfiled(self, draft: str) -> None:
        """The run was cancelled, or its item revoked, while its answer was filed: nothing of it is kept open."""
        with contextlib.suppress(OpsError):
            self._drafts.reject(draft.removeprefix("d_"), "the run that made it was cancelled")

    def _filed(self, order: Order, settings: ProviderSettings, made: Generation) -> str:
        """The answer as a new draft, which waits for approval like any other one."""
        document = order.approved.document
        new = NewDraft(
            prompt=made.text,
            provider=settings.name,
            model=made.model,
            request=f"the approved prompt of a_{document.ulid}, {order.run.digest}, by r_{order.run.ulid}",
            facts=Facts.of(made),
        )
        return self._drafts.create(new).ulid


def _asked(provider: Provider, order: Order, output: Output) -> Generation:
    """The answer. The call goes on in a thread of its own, so that it never takes long to see that nobody wants it."""
    box: queue.Queue[str | Generation | BaseException] = queue.Queue()
    gone = threading.Event()

    def heard(piece: str) -> None:
        if gone.is_set():
            raise _Unwanted
        box.put(piece)

    def work() -> None:
        try:
            context = Context(float(order.terms.timeout_s), heard)
            box.put(provider.generate(Request(order.approved.document.prompt), context))
        except BaseException as error:  # it is raised again by the one who waits
            box.put(error)

    threading.Thread(target=work, name="opsctl-answer", daemon=True).start()
    look = time.monotonic()
    try:
        while True:
            found = _next(box)
            if isinstance(found, Generation):
                return found
            if isinstance(found, BaseException):
                raise found
            output.feed((found or "").encode("utf-8", "replace"))
            if time.monotonic() >= look:
                order.watch(output.last_line)
                _check(order)
                look = time.monotonic() + _LOOK_S
    finally:
        gone.set()


def _next(box: queue.Queue[str | Generation | BaseException]) -> str | Generation | BaseException | None:
    try:
        return box.get(timeout=_LOOK_S)
    except queue.Empty:
        return None


def _check(order: Order) -> None:
    why = order.stop()
    if why:
        raise _Unwanted(why)


def _counts(usage: Mapping[str, int]) -> dict[str, int]:
    """What the record takes of a provider's numbers: a line with others could not be read back."""
    return {name: count for name, count in list(usage.items())[:20] if 0 <= count <= 2**53}
