"""Use cases of runs: make, claim, report, cancel, retry, look. Only approved bytes decide what may run, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opsctl import ids, runrecord, runterms
from opsctl.errors import OpsError
from opsctl.executors.clone import changed_paths
from opsctl.executors.output import KEPT, Output
from opsctl.git.command import Git
from opsctl.gitobject import BLOB, object_id
from opsctl.leases import LONGEST_S, SHORTEST_S
from opsctl.message import one_line
from opsctl.models import Approved, Run, utc
from opsctl.runners import load
from opsctl.runrecord import ACTIVE, CANCELLED, CLAIMED, DONE, ERROR, EXPIRED, PENDING, RUNNING, TERMINAL
from opsctl.runterms import Terms, Wish
from opsctl.secretscan import redact
from opsctl.store import RESULTS
from opsctl.workspace import readiness
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk
from opsctl.workspace.hold import Hold
from opsctl.workspace.runbook import Runbook, live_log, unknown

RESULT_LIMIT = 2 * KEPT
"""Bytes of a result that a worker may hand in: all of it is kept."""

LAND_S = 60.0
"""Seconds at least that the end of a run waits for the lock: what the run took longer for would be lost."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that was taken, with the token that is shown once."""

    run: Run
    token: str


class Runs:
    """`ws.runs`."""

    def __init__(self, base: Base, desk: Desk, book: Runbook) -> None:
        self._base = base
        self._desk = desk
        self._repo = base.repo
        self._book = book

    # -- looking ------------------------------------------------------------------------------------------------

    def page(
        self, *, status: str | None = None, before: str | None = None, limit: int = 50, archived: bool = False
    ) -> list[Run]:
        """Runs, newest first; older than the run `before`. Raises `bad_input` for a status that there is not."""
        if status is not None and status not in runrecord.STATUSES:
            raise OpsError("bad_input", f"no status {status[:40]!a}", hint=f"one of {', '.join(runrecord.STATUSES)}")
        self._book.settle()
        if not archived:
            return self._book.live.page(status=status, before=before, limit=limit)
        found = self._book.archived.page(status=status, before=before, limit=limit)
        now = [self._book.live.get(run.ulid) or run for run in found]  # more may have come since it was archived
        return [run for run in now if status in (None, run.status)]

    def get(self, ulid: str) -> Run:
        """One run, archived or not. Raises `unknown_id`."""
        self._book.settle()
        return self._book.run(ulid)

    def resolve(self, text: str) -> str:
        """The ULID of the run that an id or a part of one names. Raises `bad_id`, `unknown_id`, `ambiguous_id`."""
        given = ids.parse(text)
        if given.kind not in (None, "r"):
            hint = "a run's id begins with r_: `opsctl runs list`"
            raise OpsError("bad_id", f"{text[:60]!a} is no run's id", hint=hint)
        found = self._book.matching(given.part)
        if len(found) > 1:
            raise OpsError("ambiguous_id", f"{text} fits {len(found)} runs", hint="give more letters")
        if not found:
            raise unknown(text)
        return found.pop()

    def suffixes(self, runs: Iterable[Run]) -> dict[str, str]:
        """The shortest unambiguous ending of each run's id."""
        ulids = [run.ulid for run in runs]
        return ids.shortest_suffixes(ulids, {*ulids, *self._book.alike(ulids)})

    def output(self, run: Run) -> bytes:
        """What the program printed, as far as it was kept, or the result that a worker handed in."""
        return self._book.output(run)

    # -- making -------------------------------------------------------------------------------------------------

    def create(
        self, item: str, wish: Wish, *, key: str | None = None, by: str | None = None, retry: Run | None = None
    ) -> tuple[Run, Hold | None]:
        """Make a run of an approved item, or return the one that the same key made before (then without a hold).

        A run that is carried out here comes with a hold, which says that its process lives. Raises `not_approved`,
        `revoked`, `expired`, `used_up`, `run_active`, `stale_base`, `wider_than_approved`, `key_reused`.
        """
        request = _request(item, wish, retry)
        self._check_key(key)
        self._book.settle()
        before = self._with_key(key, request)
        if before:
            return before, None
        looked_at = self._looked_at(item, wish)
        with self._base.store.lock(branches=False):
            before = self._with_key(key, request)
            if before:
                return before, None
            approved, terms = self._allowed(item, wish)
            if terms != looked_at:
                raise OpsError("ref_conflict", "what is allowed changed meanwhile", hint="run the command again")
            runterms.check_count(approved.document, self._book.made(approved.document))
            runterms.check_active(approved.document, self._book.of_item(item))
            ulid = self._book.new_ulid()
            facts = {
                "item": f"a_{item}",
                "digest": approved.decision.digest,
                "executor": terms.executor,
                "runner": terms.runner,
                "base": terms.target.base,
                "by": by or self._base.who[0],
                "clone": self._book.clone,
                "key": key,
                "request": request if key else None,
                "attempt": min(retry.attempt + 1, runrecord.MOST_COUNTED) if retry else 1,
                "retry_of": f"r_{retry.ulid}" if retry else None,
            }
            hold = self._held(ulid) if terms.executor != "claim" else None
            try:
                self._book.write(approved.decision.commit, ulid, "created", facts, after=ulid)
                self._book.spend(approved, ulid)
                self._book.leases.note_made(ulid, terms.executor, terms.runner)
            except BaseException:
                if hold:
                    hold.release()
                raise
        return self._book.run(ulid), hold

    def _held(self, ulid: str) -> Hold:
        """The hold comes before the run: there is no moment at which a run that died looks alive."""
        hold = Hold(self._book.folder, ulid)
        self._book.leases.note_process(ulid)
        return hold

    def _check_key(self, key: str | None) -> None:
        if key is not None and not runrecord.is_key(key):
            hint = "1 to 128 letters, digits and . _ : / -"
            raise OpsError("bad_input", f"not an idempotency key: {key[:60]!a}", hint=hint)

    def _with_key(self, key: str | None, request: str) -> Run | None:
        found = self._book.with_key(key) if key else None
        if found and found.request != request:
            message = f"the key {key} made r_{found.ulid} of another request"
            raise OpsError("key_reused", message, hint="give this request a key of its own")
        return found

    def _allowed(self, item: str, wish: Wish) -> tuple[Approved, Terms]:
        approved = self.approved(item)
        document, policy = approved.document, self._desk.now.require_gate().policy
        self._check_fresh()
        runterms.check_time(document, self._base.now())
        terms = runterms.terms(document, policy, wish, default_runner=load(self._base.places).chosen)
        return approved, terms

    def _looked_at(self, item: str, wish: Wish) -> Terms:
        """What takes its time, before the lock: whether this machine can do it, and how far its branch has moved."""
        approved, terms = self._allowed(item, wish)
        runterms.check_count(approved.document, self._book.made(approved.document))
        readiness.check(self._base, terms, wish.sandbox)
        if terms.executor != "provider":
            self._check_base(terms, at_base=wish.at_base)
        return terms

    def approved(self, item: str) -> Approved:
        """The approved item, verified now. Raises `not_approved`, `revoked`, `unknown_id`, or what closes the gate."""
        self._desk.refresh().require_gate()
        decision = self._desk.last_decision(item)
        if decision is None:
            if self._desk.entry(item) or item in self._desk.now.closed:
                raise not_approved(item)
            raise unknown(f"a_{item}")
        if decision.kind != "approve":
            message = f"a_{item} was revoked by {decision.signer.principal}: {decision.reason or 'no reason given'}"
            raise OpsError("revoked", message, hint=f"`opsctl log {item}` shows the decisions")
        return self._desk.approved(item)[0]

    def _check_fresh(self) -> None:
        mark = self._base.memory().load()
        confirmed = datetime.fromisoformat(mark.at) if mark and mark.at else None
        runterms.check_fresh(self._desk.now.require_gate().policy, confirmed, self._base.now())

    def is_elsewhere(self, run: Run) -> bool:
        """True for a run that goes on, and not here: what it prints and how it ends comes with a sync."""
        waits = run.status == PENDING and run.executor == "claim"
        return run.status in ACTIVE and not waits and run.clone != self._book.clone

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Move runs that ended so long ago to the archive. Returns their ids."""
        return self._book.prune(older_than, dry_run=dry_run)

    def live_log(self, ulid: str) -> Path:
        """Where the output of a run appears while it goes on."""
        return live_log(self._repo.common, ulid)

    def _check_base(self, terms: Terms, *, at_base: bool) -> None:
        target = terms.target
        if target.base and not self._repo.exists(target.base):
            hint = "git fetch, or fetch the branch that it was drafted on"
            raise OpsError("stale_base", f"the base {target.base} is not in this clone", hint=hint)
        tip = self._repo.resolve(target.branch) if target.branch else None
        if at_base or not target.base or tip is None or tip == target.base:
            return
        changed = changed_paths(Git(self._repo.common, self._base.environ), target.base, tip)
        stale = [path for path in changed if runterms.is_within(path, target.paths)]
        if stale:
            message = f"{target.branch} has changed {len(stale)} of the item's files, such as {stale[0]}"
            hint = "--at-base runs it on the approved base all the same; or have it drafted anew on the new tip"
            raise OpsError("stale_base", message, hint=hint, detail={"changed": stale[:20]})

    def retry(
        self, ulid: str, *, at_base: bool = False, as_draft: bool = False, sandbox: bool | None = None
    ) -> tuple[Run, Hold | None]:
        """A new run in place of one that ended otherwise than done; its old token stays dead. Raises `run_active`.

        With which executor and runner is what was asked for here. Of a run that another clone made only its notes
        tell, and they choose no program (`usage`).
        """
        run = self.get(ulid)
        if run.status in ACTIVE:
            hint = f"opsctl runs cancel r_{ulid}, if it does not come to an end"
            raise OpsError("run_active", f"r_{ulid} is {run.status}", hint=hint)
        if run.status == DONE:
            raise OpsError("run_ended", f"r_{ulid} is done", hint=f"another run of the item: opsctl run a_{run.item}")
        executor, runner = self._asked(run)
        return self.create(run.item, Wish(executor, runner, at_base, as_draft, sandbox), retry=run)

    def _asked(self, run: Run) -> tuple[str | None, str | None]:
        made_here = self._book.leases.made_with(run.ulid)
        if made_here:
            return made_here
        if run.executor == "claim":  # starts nothing here
            return run.executor, None
        settings = self.approved(run.item).document.run
        if (run.executor, run.runner) != (settings.executor or "exec", settings.runner):
            program = " ".join(filter(None, (run.executor, run.runner)))
            hint = f"choose it: opsctl run a_{run.item} --executor E --runner R"
            raise OpsError("usage", f"r_{run.ulid} was not made here, and only its notes say {program}", hint=hint)
        return settings.executor, settings.runner

    # -- outside agents -----------------------------------------------------------------------------------------

    def claim(self, ulid: str | None, *, seconds: float = 60, holder: str | None = None) -> Claimed:
        """Take a pending run, the oldest if none is named, for so many seconds; every report renews them.

        Raises `run_active`, `run_ended`, `unknown_id`, and whatever forbids to run the item now.
        """
        if not SHORTEST_S <= seconds <= LONGEST_S:
            raise OpsError("bad_input", f"a lease lasts {SHORTEST_S} to {LONGEST_S} seconds", hint="--lease 10m")
        self._book.settle()
        with self._base.store.lock(branches=False):
            run = self._claimable(ulid)
            self._may_start(run)
            token = self._book.leases.grant(run.ulid, seconds)
            facts = {"holder": holder or self._base.who[0], "until": self._until(seconds)}
            self._book.add(run, CLAIMED, facts | {"clone": self._book.clone})
        return Claimed(self._book.run(run.ulid), token)

    def _may_start(self, run: Run) -> None:
        """Notes are anybody's claims: what they ask for is held against the approved bytes, as if it was made now."""
        approved = self._still_allowed(run, starting=True)
        document, policy = approved.document, self._desk.now.require_gate().policy
        self._check_fresh()
        runterms.terms(document, policy, Wish(run.executor, run.runner), default_runner=None)
        runterms.check_count(document, self._book.made(document, before=run))
        begun = [one for one in self._book.of_item(run.item) if one.status != PENDING and one.ulid != run.ulid]
        runterms.check_active(document, begun)
        self._book.spend(approved, run.ulid)

    def _until(self, seconds: float) -> str:
        return utc(self._base.now() + timedelta(seconds=seconds))

    def _claimable(self, ulid: str | None) -> Run:
        if ulid is None:
            active = self._book.live.active()
            waiting = [run for run in active if run.status == PENDING and run.executor == "claim"]
            if not waiting:
                hint = "opsctl run a_… --executor claim makes one"
                raise OpsError("unknown_id", "no run waits for an agent", hint=hint)
            return waiting[0]
        run = self._book.run(ulid)
        _refuse_ended(run)
        hint = f"opsctl runs show r_{ulid}"
        if run.executor != "claim":
            message = f"r_{ulid} is carried out by its {run.executor}, not by an agent from outside"
            raise OpsError("run_active", message, hint=hint)
        if run.status != PENDING:
            raise OpsError("run_active", f"r_{ulid} is {run.status} by {run.holder}", hint=hint)
        return run

    def _still_allowed(self, run: Run, *, starting: bool = False) -> Approved:
        """The item as it is approved now, which must be what the run was made for; else the run ends here.

        The time that a file names is the last one to start at: work that began in time may be reported later.
        """
        try:
            approved = self.approved(run.item)
            if starting:
                runterms.check_time(approved.document, self._base.now())
            if (approved.decision.digest, approved.decision.commit) != (run.digest, run.commit):
                raise OpsError("revoked", f"a_{run.item} is not what r_{run.ulid} was made for")
        except OpsError as error:
            if error.code in ("revoked", "expired"):
                status = EXPIRED if error.code == "expired" else CANCELLED
                self._book.add(run, status, {"message": error.message})
                self._book.leases.forget(run.ulid)
            raise
        return approved

    def report(
        self,
        ulid: str,
        token: str,
        *,
        status: str | None = None,
        message: str | None = None,
        result: bytes | None = None,
    ) -> Run:
        """Say how a claimed run goes on: running, done or error. Raises `stale_lease`, `run_ended`, `revoked`."""
        if status not in (None, RUNNING, DONE, ERROR):
            hint = "--status done"
            raise OpsError("bad_input", f"a worker reports running, done or error, not {status[:40]!a}", hint=hint)
        if result is not None and len(result) > RESULT_LIMIT:
            raise OpsError("too_large", f"a result has at most {RESULT_LIMIT:,} bytes", hint="report a summary of it")
        self._book.settle()
        with self._base.store.lock(branches=False):
            run = self._book.run(ulid)
            _refuse_ended(run)
            if not self._book.leases.holds(ulid, token):
                hint = f"opsctl runs show r_{ulid}; a run that was lost is retried by a person"
                raise OpsError("stale_lease", f"the token does not hold r_{ulid}", hint=hint)
            self._still_allowed(run)
            self._book.leases.renew(ulid)
            lease = self._book.leases.find(ulid)
            said = _clean(message, token) if message else None
            facts: dict[str, Any] = {"message": said, "until": self._until(lease.seconds if lease else 0)}
            kept, objects = _kept(result.replace(token.encode(), b"<token>") if result else result)
            self._book.add(run, status or "message", facts | kept, objects=objects)
            if status in TERMINAL:
                self._book.leases.forget(ulid)
        return self._book.run(ulid)

    # -- ending -------------------------------------------------------------------------------------------------

    def cancel(self, ulid: str, *, by: str | None = None, reason: str | None = None) -> Run:
        """End a run; what carries it out here is stopped. Raises `run_ended`."""
        self._book.settle()
        with self._base.store.lock(branches=False):
            run = self._book.run(ulid)
            _refuse_ended(run)
            said = f"cancelled by {by or self._base.who[0]}" + (f": {_clean(reason)}" if reason else "")
            self._book.add(run, CANCELLED, {"message": said, "by": by})
            if run.executor == "claim":
                self._book.leases.forget(ulid)
        return self._book.run(ulid)

    def tell(self, ulid: str, kind: str, facts: dict[str, Any]) -> None:
        """Add an event to a run that is carried out here. Raises `run_ended`."""
        with self._base.store.lock(branches=False):
            run = self._book.run(ulid)
            _refuse_ended(run)
            self._book.add(run, kind, facts)

    def finish(self, ulid: str, status: str, facts: dict[str, Any], *, output: bytes | None = None) -> Run:
        """End a run that is carried out here; one that has ended meanwhile stays as it is."""
        with self._base.store.lock(least_s=LAND_S, branches=False):
            self._end(ulid, status, {**self._landed(ulid), **facts}, output)
        self._book.leases.forget(ulid)
        return self._book.run(ulid)

    def land(
        self, made: Run, status: str, facts: dict[str, Any], *, output: bytes | None = None, tip: str | None = None
    ) -> Run:
        """End a run that is carried out here, and let the branch of its result appear, under one lock.

        It is looked once more whether it goes on and is approved: else it leaves no branch, and never is done.
        """
        with self._base.store.lock(least_s=LAND_S, branches=False):
            goes_on = self._book.run(made.ulid).status not in TERMINAL
            why = self.unwanted(made) if goes_on else None
            if why:
                status, facts, output, tip = CANCELLED, {"message": why}, None, None
            if tip and goes_on:
                name = result_ref(made.ulid)
                self._base.store.move(name, None, tip, f"opsctl: result of r_{made.ulid}")
                facts = {**facts, "result": tip, "result_ref": name}
            self._end(made.ulid, status, facts, output)
        self._book.leases.forget(made.ulid)
        return self._book.run(made.ulid)

    def unwanted(self, made: Run) -> str | None:
        """Why a run may not go on: its item is no longer what was approved. A fault of the machine is raised."""
        try:
            if self.approved(made.item).decision.digest != made.digest:
                return "the approval changed meanwhile"
        except OpsError as error:
            if error.kind in ("environment", "internal"):
                raise
            return error.message
        return None

    def _end(self, ulid: str, status: str, facts: dict[str, Any], output: bytes | None) -> None:
        run = self._book.run(ulid)
        if run.status not in TERMINAL:
            kept = {"output": object_id(BLOB, output)} if output is not None else {}
            self._book.add(run, status, facts | kept, objects=(output,) if output is not None else ())

    def _landed(self, ulid: str) -> dict[str, Any]:
        """The branch of a run whose event could not be written after it appeared."""
        name = result_ref(ulid)
        tip = self._repo.ref(name)
        return {"result": tip, "result_ref": name} if tip else {}


def result_ref(ulid: str) -> str:
    """The branch of what came of a run."""
    return f"{RESULTS}r_{ulid}"


def _kept(result: bytes | None) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """A worker's result as the record keeps it: bounded, and without known secrets."""
    if result is None:
        return {}, ()
    output = Output(None)
    output.feed(result)
    data, cut = output.finish()
    return {"output": object_id(BLOB, data), "output_bytes": len(result), "cut_bytes": cut}, (data,)


def _clean(message: str, token: str = "") -> str:
    """One line without known secrets, and without the token of the lease (or a message could give it away)."""
    line = one_line(redact(message))
    return line.replace(token, "<token>") if token else line


def not_approved(item: str) -> OpsError:
    """The refusal for a draft: its form alone says that it cannot be run."""
    hint = f"read it with `opsctl review`, and approve it: opsctl approve d_{item}"
    return OpsError("not_approved", f"d_{item} is not approved, so it cannot be run", hint=hint)


def _refuse_ended(run: Run) -> None:
    if run.status in TERMINAL:
        way = "show" if run.status == DONE else "retry"
        hint = f"opsctl runs {way} r_{run.ulid}"
        raise OpsError("run_ended", f"r_{run.ulid} is {run.status}", hint=hint, detail={"status": run.status})


def _request(item: str, wish: Wish, retry: Run | None) -> str:
    body = [item, wish.executor, wish.runner, wish.at_base, retry.ulid if retry else None]
    body += ["as_draft"] if wish.as_draft else []
    return "sha256:" + hashlib.sha256(json.dumps(body).encode()).hexdigest()
