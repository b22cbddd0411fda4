"""Decisions: signed outside the lock, judged by the trust rule, then stored and landed on `ops/approved` under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opsctl.errors import OpsError
from opsctl.models import Decision
from opsctl.policy import judge
from opsctl.standing import Judgement
from opsctl.store import APPROVED, DRAFTS
from opsctl.treediff import lookup
from opsctl.violation import Violation
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.desk import Desk
from opsctl.workspace.snapshot import Snapshot
from opsctl.workspace.topics import Topics
from opsctl.workspace.working import WorkingSide

TRIES = 3
"""New signatures at most when other decisions land first."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision ready to sign. `guard` is the path whose text must not change on `ops/drafts` meanwhile."""

    payload: bytes
    guard: str | None = None


class Decisions:
    """Lands one signed decision at a time."""

    def __init__(self, base: Base, desk: Desk, topics: Topics, working: WorkingSide) -> None:
        self._base = base
        self._desk = desk
        self._topics = topics
        self._working = working
        self._repo = base.repo
        self._store = base.store

    def decide(self, make: Callable[[Gate], Decided | None]) -> Decision | None:
        """Sign and land one decision that `make` puts together for the gate; None when there is nothing to decide.

        Signed outside the lock and judged by the trust rule before anything is stored. When another decision landed
        meanwhile it is made anew, with a new signature, at most three times. Raises `ref_conflict` after that.
        """
        for _ in range(TRIES + 1):
            self._repo.forget()
            self._working.catch_up()
            before = self._desk.now
            gate = before.require_gate()
            act = make(gate)
            if act is None:
                return None
            judgement = self.judged(act.payload, gate)
            # not gate.tip: who landed that may not have merged it yet
            merged = self._working.merged_point(gate, before.drafts)
            follow = self._working.stage_merge(judgement.standing, merged, before.drafts)
            with self._store.lock():
                if self._landed(judgement, act, before, follow):
                    return judgement.decision
        raise OpsError("ref_conflict", "other decisions kept landing first", hint="run the command again")

    def judged(self, payload: bytes, gate: Gate) -> Judgement:
        """Sign a decision and judge it by the trust rule; it is staged, not stored."""
        signature = self._base.signer.sign(payload)
        oid = self._store.stage_commit(payload, signature)
        try:
            return judge(oid, self._repo.commit(oid), gate.standing, self._repo, gate.scratch)
        except Violation as fault:
            raise refusal(fault) from None

    def _landed(self, judgement: Judgement, act: Decided, before: Snapshot, follow: str) -> bool:
        """Store and move; False if the gate moved on meanwhile, or the draft has another text now."""
        if self._repo.ref(APPROVED) != before.require_gate().tip:
            return False
        drafts = self._repo.ref(DRAFTS)
        if drafts != before.drafts and act.guard and not self._same(drafts, before.drafts, act.guard):
            return False
        self._repo.flush()
        tip = judgement.standing.tip
        self._store.move(APPROVED, before.require_gate().tip, tip, f"opsctl: {judgement.decision.kind}")
        if drafts == before.drafts:
            self._store.move(DRAFTS, drafts, follow, "opsctl: merge ops/approved")
            before.ledger.cache(f"merged:{follow}", tip, instead_of="merged:")
        self._working.catch_up_locked()
        if judgement.decision.ulid:
            self._topics.point(judgement.decision.ulid, None)
        return True

    def _same(self, one: str | None, other: str, path: str) -> bool:
        trees = [self._repo.commit(tip).tree for tip in (one, other) if tip]
        return len({lookup(self._repo, tree, path) for tree in trees}) == 1


_REFUSALS = {
    "threshold": "below_threshold",
    "votes": "vote_blocked",
    "role": "role",
    "policy": "bad_policy",
    "plan": "bad_plan",
}


def decision_trailers(kind: str, gate: Gate, signer: str) -> dict[str, str]:
    """The trailers that every decision under the policy in force carries."""
    epoch, root = str(gate.policy.epoch), gate.standing.root
    return {"Ops-Kind": kind, "Ops-Epoch": epoch, "Ops-Signer": signer, "Ops-Repo": root}


def refusal(fault: Violation) -> OpsError:
    """The trust rule's no to a decision that is about to be made."""
    hint = "`opsctl policy show` says who may sign what; `opsctl doctor` which key is used here"
    return OpsError(
        _REFUSALS.get(fault.rule, "bad_signature"), f"the decision would not count: {fault.message}", hint=hint
    )


def already(message: str, hint: str | None = None) -> OpsError:
    """The error for a decision that was taken the other way."""
    return OpsError("already_decided", message, hint=hint)
