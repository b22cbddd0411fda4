"""The working side: commits on `ops/drafts`, and the re-merge that keeps `ops/approved` an ancestor of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opsctl import document as documents
from opsctl import ids
from opsctl.errors import OpsError
from opsctl.gitobject import Entry
from opsctl.message import subject
from opsctl.planfile import PLAN_PATH
from opsctl.policyfile import POLICY_PATH, SIGNERS_PATH
from opsctl.standing import Standing
from opsctl.store import DRAFTS, TOPICS, Edits
from opsctl.treediff import diff, lookup
from opsctl.workspace import story
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.desk import Desk
from opsctl.workspace.shelf import Shelf
from opsctl.workspace.topics import Topics

TRIES = 3
"""Tries at most when `ops/drafts` keeps moving while somebody signs."""

_FOLLOWS = (PLAN_PATH, POLICY_PATH, SIGNERS_PATH)


@dataclass(frozen=True, slots=True)
class Staged:
    """A change of the working side: the commit for `ops/drafts`, and the topic tip of one id (None: it goes)."""

    drafts: str
    ulid: str | None
    topic: str | None
    reason: str


class WorkingSide:
    """Stages commits on `ops/drafts` and moves it. Callers hold the lock where it says so."""

    def __init__(self, base: Base, desk: Desk, topics: Topics) -> None:
        self._base = base
        self._desk = desk
        self._topics = topics
        self._repo = base.repo
        self._store = base.store

    # -- a change -----------------------------------------------------------------------------------------------

    def merge_topic(self, tip: str, ulid: str, entry: Entry | None, title: str, trailers: Mapping[str, str]) -> str:
        """Stage the merge of a topic into `ops/drafts`, from the snapshot's tip."""
        drafts = self._desk.now.drafts
        edits: Edits = {ids.path_of(ulid): entry}
        return self.commit(edits, (drafts, tip), f"{trailers['Ops-Kind']}: {title}", trailers)

    def commit(self, edits: Edits, parents: tuple[str, ...], subject: str, trailers: Mapping[str, str]) -> str:
        """Stage a commit on `ops/drafts`."""
        tree = self._store.edit_tree(self._repo.commit(parents[0]).tree, edits)
        payload = self._store.payload(
            tree=tree, parents=parents, subject=subject, trailers=trailers, who=self._base.who
        )
        return self._store.stage_commit(payload)

    def change(self, build: Callable[[], Staged | None], *, signs: bool = False) -> None:
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
        self.catch_up()
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
            self._topics.point(staged.ulid, staged.topic)
        Shelf.clear(before.ledger)  # a list that ran between the two moves may have kept what was true for a moment
        self._desk.drafts_moved(staged.drafts)

    # -- after a decision ---------------------------------------------------------------------------------------

    def catch_up(self) -> None:
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
        self._desk.drafts_moved(tip)

    def rebuild(self) -> int:
        """Make a lost or unreadable `ops/drafts` anew: the approved tip, with every readable topic merged on it.

        Returns their number.
        """
        with self._store.lock():
            gate = self._desk.refresh().require_gate()
            old, tip, count = self._repo.ref(DRAFTS), gate.tip, 0
            for ref, topic in self._repo.refs(TOPICS).items():
                ulid = ref.removeprefix(TOPICS)
                told = (
                    story.read(self._repo, topic, ids.path_of(ulid), gate.scratch.reachable)
                    if ids.is_ulid(ulid)
                    else None
                )
                title = self._title_of(told.final) if told and told.final else None
                if told and title and not gate.scratch.decided(ulid):
                    trailers = {"Ops-Kind": "draft", "Ops-Id": ulid}
                    tip = self.commit({told.path: told.final}, (tip, topic), f"draft: {title}", trailers)
                    count += 1
            self._repo.flush()
            self._store.move(DRAFTS, old, tip, "opsctl: doctor")
            self._desk.refresh()
        return count

    def _title_of(self, entry: Entry) -> str | None:
        try:
            return documents.parse(self._repo.blob(entry.oid)).title
        except OpsError:
            return None

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
        return self.commit(edits, (drafts, standing.tip), f"merge: {title}", {"Ops-Kind": "merge"})

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
