"""Writing: topics, their merges into `ops/drafts`, and the re-merge that keeps `ops/approved` an ancestor of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opsctl import document as documents
from opsctl import ids
from opsctl.errors import OpsError
from opsctl.gitobject import Entry
from opsctl.message import subject
from opsctl.models import Decision
from opsctl.planfile import PLAN_PATH
from opsctl.policy import Judgement, Standing, judge
from opsctl.policyfile import POLICY_PATH, SIGNERS_PATH
from opsctl.store import APPROVED, DRAFTS, TOPICS, Edits
from opsctl.treediff import diff, lookup
from opsctl.violation import Violation
from opsctl.workspace import story
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.desk import Desk
from opsctl.workspace.shelf import Shelf
from opsctl.workspace.snapshot import Snapshot
from opsctl.workspace.story import Story

TRIES = 3
"""New signatures at most when other decisions land first."""

_FOLLOWS = (PLAN_PATH, POLICY_PATH, SIGNERS_PATH)


@dataclass(frozen=True, slots=True)
class Staged:
    """A change of the working side: the commit for `ops/drafts`, and the topic tip of one id (None: it goes)."""

    drafts: str
    ulid: str | None
    topic: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision ready to sign. `guard` is the path whose text must not change on `ops/drafts` meanwhile."""

    payload: bytes
    guard: str | None = None


class Clerk:
    """Stages commits and moves the working side. Callers hold the lock where it says so."""

    def __init__(self, base: Base, desk: Desk) -> None:
        self._base = base
        self._desk = desk
        self._repo = base.repo
        self._store = base.store

    # -- topics -------------------------------------------------------------------------------------------------

    def topic_commit(
        self, parent: str, edits: Edits, title: str, trailers: Mapping[str, str], *, author: str | None = None
    ) -> str:
        """Stage one commit on a topic; signed where the policy keeps authors and approvers apart."""
        tree = self._store.edit_tree(self._repo.commit(parent).tree, edits)
        kind = trailers["Ops-Kind"]
        payload = self._store.payload(
            tree=tree,
            parents=(parent,),
            subject=f"{kind}: {title}",
            trailers=trailers,
            who=self._base.who,
            author=author,
        )
        signs = self._desk.now.require_gate().policy.separation_of_duties and bool(edits)
        return self._store.stage_commit(payload, self._base.signer.sign(payload) if signs else None)

    def topic_of(self, ulid: str, entry: Entry) -> str:
        """The tip of a pending draft's topic, staged where it is missing, out of date, or cut on a lost approval.

        `ops/drafts` decides on the content, and its author is kept. A topic that is cut again has no votes.
        """
        told = self._desk.story(ulid)
        if told.error:
            raise told.error  # cutting it again would drop votes that are only out of reach
        gate = self._desk.now.require_gate()
        if told.tip and told.members and self._is_anchored(told):
            if told.final == entry:
                return told.tip
            return self._catch_up(told.tip, ulid, entry)
        return self._catch_up(gate.tip, ulid, entry, kind="draft", author=self._author_of(told))

    def _is_anchored(self, told: Story) -> bool:
        """True if the topic starts on this chain: every parent outside it is on `ops/approved`."""
        reachable = self._desk.now.reachable
        members = told.members
        return all(
            parent in members or reachable(parent) for member in members.values() for parent in member.commit.parents
        )

    def _author_of(self, told: Story) -> str | None:
        return told.content[-1].commit.author if told.content else None

    def base_for_edit(self, ulid: str, entry: Entry) -> str:
        """What a new revision is committed on. With separation of duties nobody signs what another one wrote."""
        if not self._desk.now.require_gate().policy.separation_of_duties:
            return self.topic_of(ulid, entry)
        told = self._desk.story(ulid)
        is_usable = told.tip and told.members and self._is_anchored(told)
        return told.tip if told.tip and is_usable else self._desk.now.require_gate().tip

    def _catch_up(self, parent: str, ulid: str, entry: Entry, *, kind: str = "edit", author: str | None = None) -> str:
        if self._desk.now.require_gate().policy.separation_of_duties:
            hint = f"its author signs it by an edit: opsctl edit d_{ulid}"
            raise OpsError("role", f"nobody has signed the text of d_{ulid} that is on ops/drafts", hint=hint)
        path = ids.path_of(ulid)
        author = author or self._desk.work.introduced(path, entry).author
        title = self._desk.draft(ulid).document.title
        return self.topic_commit(parent, {path: entry}, title, {"Ops-Kind": kind, "Ops-Id": ulid}, author=author)

    # -- ops/drafts ---------------------------------------------------------------------------------------------

    def merge_topic(self, tip: str, ulid: str, entry: Entry | None, title: str, trailers: Mapping[str, str]) -> str:
        """Stage the merge of a topic into `ops/drafts`, from the snapshot's tip."""
        drafts = self._desk.now.drafts
        edits: Edits = {ids.path_of(ulid): entry}
        return self.drafts_commit(edits, (drafts, tip), f"{trailers['Ops-Kind']}: {title}", trailers)

    def drafts_commit(self, edits: Edits, parents: tuple[str, ...], subject: str, trailers: Mapping[str, str]) -> str:
        """Stage a commit on `ops/drafts`."""
        tree = self._store.edit_tree(self._repo.commit(parents[0]).tree, edits)
        payload = self._store.payload(
            tree=tree, parents=parents, subject=subject, trailers=trailers, who=self._base.who
        )
        return self._store.stage_commit(payload)

    def work(self, build: Callable[[], Staged | None], *, signs: bool = False) -> None:
        """Carry out a change of the working side that `build` stages from the snapshot; None: nothing to do.

        Without a signature it is built under the lock. One that `signs` (or any, where the policy wants drafts
        signed) is built outside, for a person may take a minute, and again when `ops/drafts` moved meanwhile.
        """
        if not signs:
            with self._store.lock():
                self.catch_up_locked()
                if not self._desk.now.require_gate().policy.separation_of_duties:
                    self._repo.forget()
                    return self._land(build())
        self.catch_up_drafts()
        for attempt in range(1, TRIES + 1):
            staged = self._fresh(build)
            try:
                with self._store.lock():
                    return self._land(staged)
            except OpsError as error:
                if error.code != "ref_conflict" or attempt == TRIES:
                    raise
        return None

    def _fresh(self, build: Callable[[], Staged | None]) -> Staged | None:
        self._repo.forget()
        self._desk.refresh()
        return build()

    def _land(self, staged: Staged | None) -> None:
        """Store what was staged, move `ops/drafts`, then the topic's ref; the lock is held."""
        if staged is None:
            return
        self._repo.flush()
        before = self._desk.now
        gate = before.require_gate()
        merged = self.merged_point(gate, before.drafts)
        self._store.move(DRAFTS, before.drafts, staged.drafts, staged.reason)
        before.ledger.cache(f"merged:{staged.drafts}", merged, instead_of="merged:")
        if staged.ulid:
            self.point_topic(staged.ulid, staged.topic)
        Shelf.clear(before.ledger)  # a list that ran between the two moves may have kept what was true for a moment
        self._desk.refresh()

    def point_topic(self, ulid: str, tip: str | None) -> None:
        """Set or remove a topic's ref; it is a cache, so whatever it had is replaced."""
        name = TOPICS + ulid
        try:
            self._store.move(name, self._repo.ref(name), tip, "opsctl: topic")
        except OpsError as error:
            if tip is not None or error.kind != "environment":
                raise
            # the decision stands; `drop_topic` and doctor remove what a lock on packed-refs kept here (CC-13)

    def drop_topic(self, ulid: str) -> None:
        """Remove the topic of a decided draft, if a crash left it."""
        if self._repo.ref(TOPICS + ulid) is not None:
            with self._store.lock():
                self.point_topic(ulid, None)

    # -- decisions ----------------------------------------------------------------------------------------------

    def decide(self, make: Callable[[Gate], Decided | None]) -> Decision | None:
        """Sign and land one decision that `make` puts together for the gate; None when there is nothing to decide.

        Signed outside the lock and judged by the trust rule before anything is stored. When another decision landed
        meanwhile it is made anew, with a new signature, at most three times. Raises `ref_conflict` after that.
        """
        for _ in range(TRIES + 1):
            self._repo.forget()
            self.catch_up_drafts()
            before = self._desk.now
            gate = before.require_gate()
            act = make(gate)
            if act is None:
                return None
            judgement = self._judged(act.payload, gate)
            merged = self.merged_point(gate, before.drafts)  # not gate.tip: who landed that may not have merged it yet
            follow = self.stage_merge(judgement.standing, merged, before.drafts)
            with self._store.lock():
                if self._landed(judgement, act, before, follow):
                    return judgement.decision
        raise OpsError("ref_conflict", "other decisions kept landing first", hint="run the command again")

    def _judged(self, payload: bytes, gate: Gate) -> Judgement:
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
        self.catch_up_locked()
        if judgement.decision.ulid:
            self.point_topic(judgement.decision.ulid, None)
        return True

    def _same(self, one: str | None, other: str, path: str) -> bool:
        trees = [self._repo.commit(tip).tree for tip in (one, other) if tip]
        return len({lookup(self._repo, tree, path) for tree in trees}) == 1

    # -- after a decision ---------------------------------------------------------------------------------------

    def catch_up_drafts(self) -> None:
        """Repair what a crash left: re-merge `ops/approved` into `ops/drafts` if a decision is missing there."""
        state = self._desk.refresh()
        gate = state.require_gate()
        if self.merged_point(gate, state.drafts) != gate.tip:
            with self._store.lock():
                self.catch_up_locked()

    def catch_up_locked(self) -> None:
        """The same, for callers who hold the lock."""
        state = self._desk.refresh()
        gate = state.require_gate()
        merged = self.merged_point(gate, state.drafts)
        if merged == gate.tip:
            return
        tip = self.stage_merge(gate.standing, merged, state.drafts)
        self._repo.flush()
        self._store.move(DRAFTS, state.drafts, tip, "opsctl: merge ops/approved")
        self._desk.refresh()

    def rebuild_drafts(self) -> int:
        """Make a lost `ops/drafts` anew: the approved tip, with every topic merged on it. Returns their number."""
        with self._store.lock():
            gate = self._desk.refresh().require_gate()
            tip, count = gate.tip, 0
            for ref, topic in self._repo.refs(TOPICS).items():
                ulid = ref.removeprefix(TOPICS)
                told = (
                    story.read(self._repo, topic, ids.path_of(ulid), gate.scratch.reachable)
                    if ids.is_ulid(ulid)
                    else None
                )
                if told and told.final and not gate.scratch.decided(ulid):
                    title = documents.parse(self._repo.blob(told.final.oid)).title
                    trailers = {"Ops-Kind": "draft", "Ops-Id": ulid}
                    tip = self.drafts_commit({told.path: told.final}, (tip, topic), f"draft: {title}", trailers)
                    count += 1
            self._repo.flush()
            self._store.move(DRAFTS, None, tip, "opsctl: doctor")
            self._desk.refresh()
        return count

    def merged_point(self, gate: Gate, drafts: str) -> str:
        """The newest commit of `ops/approved` that `ops/drafts` contains, found along its first parents."""
        ledger = self._desk.now.ledger
        kept = ledger.cached(f"merged:{drafts}")
        if kept is None or not gate.scratch.reachable(kept):  # a sync may have replaced the line it was on
            kept = self._find_merged(gate, drafts)
            ledger.cache(f"merged:{drafts}", kept, instead_of="merged:")
        return kept

    def _find_merged(self, gate: Gate, oid: str) -> str:
        ledger = self._desk.now.ledger
        while True:
            parents = self._repo.commit(oid).parents
            places = [(place, one) for one in (oid, *parents) if (place := ledger.position(one)) is not None]
            places = [(place, one) for place, one in places if place <= gate.scratch.upto]
            if places:
                return max(places)[1]
            if not parents:
                return gate.standing.root
            oid = parents[0]

    def stage_merge(self, standing: Standing, merged: str, drafts: str) -> str:
        """Stage the merge of the approved tip: paths that changed there, plan and policy follow it."""
        edits = self._followed(standing.tree, merged, self._repo.commit(drafts).tree)
        title = subject(self._repo.commit(standing.tip).message)
        return self.drafts_commit(edits, (drafts, standing.tip), f"merge: {title}", {"Ops-Kind": "merge"})

    def _followed(self, approved_tree: str, merged: str, drafts_tree: str) -> Edits:
        edits: dict[str, Entry | None] = {}
        for path, (_, new) in diff(self._repo, self._repo.commit(merged).tree, approved_tree).items():
            edits[path] = new
            ulid = ids.ulid_of_path(path)
            if ulid:
                edits[ids.path_of(ulid, top="closed")] = None
        for path in _FOLLOWS:
            edits[path] = lookup(self._repo, approved_tree, path)
        return {path: entry for path, entry in edits.items() if lookup(self._repo, drafts_tree, path) != entry}


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
