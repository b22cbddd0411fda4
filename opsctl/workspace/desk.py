"""Reading: both branches at one moment, and every draft or approved item as it stands then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial

from opsctl import document as documents
from opsctl import ids
from opsctl.errors import OpsError
from opsctl.gitobject import FILE, Entry
from opsctl.ledger import Ledger
from opsctl.models import Approved, Decision, Document, Draft, Vote
from opsctl.store import APPROVED, DRAFTS, TOPICS
from opsctl.treediff import diff, files, lookup
from opsctl.workspace import story
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.shelf import Shelf
from opsctl.workspace.snapshot import Snapshot, no_drafts
from opsctl.workspace.story import Story
from opsctl.workspace.worklog import WorkLog

MOST = 200_000
"""Files that may differ on ops/drafts; a bound on what a stranger's tree can make this process do."""


class Desk:
    """What the reading commands ask, of one snapshot that `refresh` renews."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._repo = base.repo

    @cached_property
    def now(self) -> Snapshot:
        """The state when it was first asked for."""
        return self._snapshot()

    def refresh(self) -> Snapshot:
        """The state now."""
        self.__dict__.pop("now", None)
        self.__dict__.pop("work", None)
        self.__dict__.pop("closed_entries", None)
        return self.now

    @cached_property
    def work(self) -> WorkLog:
        """The events of the working side."""
        return WorkLog(self._repo, self.now.ledger, self.now.reachable, self.now.drafts)

    def _snapshot(self) -> Snapshot:
        gate, fault = self._gate()
        if gate:
            ledger, reachable = gate.scratch.ledger, gate.scratch.reachable
        else:
            ledger = Ledger(None, "") if fault and fault.code == "no_trust" else self._base.history().ledger
            reachable = partial(ledger.reachable, upto=ledger.count)

        def sort_out(drafts: str) -> tuple[dict[str, Entry], dict[str, str]]:
            approved = gate.standing.tree if gate else self._last_good_tree(fault)
            return self._sorted_out(gate, approved, self._repo.commit(drafts).tree)

        return Snapshot(gate, fault, ledger, reachable, self._repo.ref(DRAFTS), sort_out)

    def _gate(self) -> tuple[Gate | None, OpsError | None]:
        try:
            return self._base.gate(), None
        except OpsError as error:
            if error.kind != "integrity" and error.code != "no_trust":
                raise
            return None, error

    def _last_good_tree(self, fault: OpsError | None) -> str | None:
        """What pending is measured against while the gate is closed: drafts are readable all the same."""
        good = fault.detail.get("good") if fault else None
        tip = str(good) if good else self._repo.ref(APPROVED)
        try:
            return self._repo.commit(tip).tree if tip else None
        except OpsError:
            return None

    def _sorted_out(
        self, gate: Gate | None, approved: str | None, drafts: str
    ) -> tuple[dict[str, Entry], dict[str, str]]:
        """Files of `ops/drafts` that `ops/approved` lacks: drafts by id, and what else differs there by path."""
        pending: dict[str, Entry] = {}
        drift: dict[str, str] = {}
        old_folder, new_folder = self._folder(approved), self._folder(drafts)
        for inner, (old, new) in diff(self._repo, old_folder, new_folder, limit=MOST, depth=3).items():
            path = f"ops/{inner}"
            ulid = ids.ulid_of_path(path)
            if ulid is None:
                drift[path] = "no draft belongs there"
            elif old is not None or (gate and gate.scratch.decided(ulid)):
                drift[path] = "is missing" if new is None else "is not what was decided"
            elif new is None or new.mode != FILE:
                drift[path] = f"has mode {new.mode if new else None}, not {FILE}"
            else:
                pending[ulid] = new
        return dict(sorted(pending.items())), drift

    def _folder(self, tree: str | None) -> str | None:
        entry = lookup(self._repo, tree, "ops") if tree else None
        return entry.oid if entry and entry.is_folder else None

    @cached_property
    def closed_entries(self) -> dict[str, Entry]:
        """Files of rejected and failed drafts, by id."""
        top = lookup(self._repo, self._repo.commit(self.now.drafts).tree, "closed")
        if top is None or not top.is_folder:
            return {}
        rows = [
            (ids.ulid_of_path(f"closed/{path}", top="closed"), entry)
            for path, entry in files(self._repo, top.oid).items()
        ]
        return {ulid: entry for ulid, entry in sorted(rows, key=str) if ulid and entry.mode == FILE}

    # -- which one ----------------------------------------------------------------------------------------------

    def resolve(self, text: str) -> tuple[str | None, str]:
        """The kind that was named (or None) and the ULID of the one item that fits.

        Raises `bad_id`, `unknown_id`, `ambiguous_id`; while the gate is closed what is approved is not looked for.
        """
        given, state = ids.parse(text), self.now
        found: set[str] = set()
        if given.kind != "a" and state.drafts_tip:
            found = {*ids.matches(given, state.pending), *ids.matches(given, self.closed_entries)}
        if state.gate:
            found |= {
                *state.ledger.ulids(state.gate.scratch.upto, given.part),
                *ids.matches(given, state.gate.scratch.ulids),
            }
        if len(found) > 1:
            shown = ", ".join(sorted(found)[:5]) + (" …" if len(found) > 5 else "")
            raise OpsError("ambiguous_id", f"{text} fits {len(found)} items: {shown}", hint="give more letters")
        if not found and (state.fault or not state.drafts_tip):
            raise state.fault or no_drafts()
        if not found:
            raise unknown(text)
        return given.kind, found.pop()

    def all_ulids(self) -> set[str]:
        """Every id that is known here: pending, closed, ever approved."""
        gate = self.now.gate
        decided = self.now.ledger.ulids(gate.scratch.upto) if gate else []
        return {*self.now.pending, *self.closed_entries, *decided}

    # -- drafts -------------------------------------------------------------------------------------------------

    def pending(self) -> list[Draft]:
        """All pending drafts, oldest first. A file that cannot be read as a draft has its fault in `error`."""
        state = self.now
        if state.gate is None:
            return [self._pending_draft(ulid, entry) for ulid, entry in state.pending.items()]
        gate = state.gate
        shelf = Shelf(state.ledger, tip=gate.tip, upto=gate.scratch.upto, policy=gate.policy.digest)
        kept = shelf.whole(state.drafts)
        if kept is not None:
            return kept
        described = []
        for ulid, entry in state.pending.items():
            topic = self._repo.ref(TOPICS + ulid)
            described.append((shelf.one(ulid, entry.oid, topic) or self._pending_draft(ulid, entry), topic))
        shelf.keep(state.drafts, described)
        return [draft for draft, _ in described]

    def entry(self, ulid: str) -> Entry | None:
        """The file of a pending draft, or None where the id is not pending."""
        gate, path = self.now.gate, ids.path_of(ulid)
        if gate is None:
            return self.now.pending.get(ulid)
        found = lookup(self._repo, self._repo.commit(self.now.drafts).tree, path)
        if found is None or found.mode != FILE or gate.scratch.decided(ulid):
            return None
        return found if lookup(self._repo, gate.standing.tree, path) is None else None

    def pending_entry(self, ulid: str) -> Entry:
        """The file of a draft that is pending. Raises `unknown_id`."""
        found = self.entry(ulid)
        if found is None:
            raise unknown(f"d_{ulid}")
        return found

    def closed(self) -> list[Draft]:
        """Drafts that were rejected or failed and are not pruned yet, oldest first."""
        return [self._closed_draft(ulid, entry) for ulid, entry in self.closed_entries.items()]

    def decided(self, status: str) -> Iterator[Draft]:
        """Drafts that are approved (or revoked), newest decision first."""
        seen: set[str] = set()
        for decision in self.now.ledger.decisions(self.now.require_gate().scratch.upto):
            if decision.ulid and decision.ulid not in seen:
                seen.add(decision.ulid)
                if (decision.kind == "approve") == (status == "approved"):
                    yield self._decided_draft(decision)

    def draft(self, ulid: str) -> Draft:
        """One draft in any state. Raises `unknown_id`, or what closes the gate if it may have been decided."""
        entry = self.entry(ulid)
        if entry:
            return self._pending_draft(ulid, entry)
        if ulid in self.closed_entries:
            return self._closed_draft(ulid, self.closed_entries[ulid])
        decision = self.last_decision(ulid)
        if decision is None:
            raise unknown(ulid)
        return self._decided_draft(decision)

    def last_decision(self, ulid: str) -> Decision | None:
        """The newest decision on an id: its approval or its revocation."""
        return next(self.now.ledger.decisions(self.now.require_gate().scratch.upto, ulid=ulid), None)

    def is_approved(self, ulid: str) -> bool:
        """True if the id is approved now; False also while the gate is closed."""
        decision = self.last_decision(ulid) if self.now.gate else None
        return decision is not None and decision.kind == "approve"

    def approved(self, ulid: str) -> tuple[Approved, bytes]:
        """An approved item with its exact bytes, each checked again against what was signed.

        Raises `unknown_id` for a draft or an unknown id, `already_decided` for a revoked one, `corrupt_object`.
        """
        decision = self.last_decision(ulid)
        if decision is None:
            raise unknown(f"a_{ulid}")
        if decision.kind != "approve":
            message = f"a_{ulid} was revoked by {decision.signer.principal}: {decision.reason or 'no reason given'}"
            raise OpsError("already_decided", message, hint=f"`opsctl log {ulid}` shows the decisions")
        data = self.signed_bytes(decision)
        return Approved(documents.parse(data), decision, ids.path_of(ulid)), data

    def signed_bytes(self, decision: Decision) -> bytes:
        """The bytes that a decision names; of an approved item, those that the verified tip has at its path."""
        path = ids.path_of(decision.ulid or "")
        if decision.kind == "approve":
            entry = lookup(self._repo, self.now.require_gate().standing.tree, path)
            if entry is None or entry.oid != decision.blob:
                raise OpsError(
                    "bad_history", f"{path} is not what {decision.commit[:12]} approved", hint="opsctl doctor"
                )
        try:
            data = self._repo.blob(decision.blob or "")
        except OpsError as fault:
            message = f"a_{decision.ulid} cannot be read: {fault.message}"
            raise OpsError("corrupt_object", message, cause=fault.cause, hint=fault.hint) from None
        if documents.digest_of(data) != decision.digest:
            raise OpsError("corrupt_object", f"{path} does not have the digest that was signed", hint="opsctl doctor")
        return data

    # -- one draft's story --------------------------------------------------------------------------------------

    def topic_tip(self, ulid: str) -> str | None:
        """The tip of a draft's topic: the ref, else what the working side's history remembers of it."""
        tip = self._repo.ref(TOPICS + ulid)
        if tip is None and self.now.gate:
            event = self.work.event(ulid)
            tip = event.topic if event else None
        return tip

    def story(self, ulid: str) -> Story:
        """The story of a draft in any state."""
        path = ids.path_of(ulid)
        if self.entry(ulid) or ulid in self.closed_entries:
            return story.read(self._repo, self.topic_tip(ulid), path, self.now.reachable)
        merged = [
            d for d in self.now.ledger.decisions(self.now.require_gate().scratch.upto, ulid=ulid) if d.kind == "approve"
        ]
        if not merged:
            return Story(path, None, {})
        before = (self.now.ledger.position(merged[0].commit) or 0) - 1
        tip = self._repo.commit(merged[0].commit).parents[1]
        return story.read(self._repo, tip, path, lambda oid: self.now.ledger.reachable(oid, before))

    def _pending_draft(self, ulid: str, entry: Entry) -> Draft:
        path, told = ids.path_of(ulid), self.story(ulid)
        document, digest, error = self._document(ulid, entry)
        is_current = told.final == entry
        gate = self.now.gate
        return Draft(
            document=document,
            status="draft",
            digest=digest,
            blob=entry.oid,
            path=path,
            author=told.author or story.person(self.work.introduced(path, entry).author),
            updated_at=told.updated_at or ids.created_at(ulid),
            revision=len(told.content) + (not is_current),
            votes=told.votes(gate.standing, ulid, digest, document) if gate and is_current and not error else (),
            reason=told.asked_for() if is_current else None,
            error=error,
        )

    def _document(self, ulid: str, entry: Entry) -> tuple[Document, str, str | None]:
        """The document and digest of a file that anybody may have written, or what is wrong with it."""
        try:
            data = self._repo.blob(entry.oid)
        except OpsError as fault:
            return Document(ulid, "(unreadable)", ""), "", fault.message
        digest = documents.digest_of(data)
        try:
            document = documents.parse(data)
        except OpsError as fault:
            return Document(ulid, "(unreadable)", data.decode("utf-8", "replace")), digest, fault.message
        if document.ulid != ulid:
            said = f"the file says it is d_{document.ulid}, its path says d_{ulid}"
            return replace(document, ulid=ulid), digest, said
        return document, digest, None

    def _closed_draft(self, ulid: str, entry: Entry) -> Draft:
        event = self.work.event(ulid) if self.now.gate else None
        document, digest, error = self._document(ulid, entry)
        told = self.story(ulid)
        failed = event is not None and event.kind == "fail"
        return Draft(
            document=document,
            status="error" if failed else "rejected",
            digest=digest,
            blob=entry.oid,
            path=ids.path_of(ulid, top="closed"),
            author=told.author or (event.by if event else "unknown"),
            updated_at=datetime.fromisoformat(event.at) if event else ids.created_at(ulid),
            revision=max(1, len(told.content)),
            reason=event.reason if event and not failed else None,
            error=event.reason if event and failed else error,
        )

    def _decided_draft(self, decision: Decision) -> Draft:
        ulid, told = decision.ulid or "", self.story(decision.ulid or "")
        digest, error = decision.digest or "", None
        try:
            document = documents.parse(self.signed_bytes(decision))
        except OpsError as fault:  # one damaged item must not hide the others (CR-22)
            document, error = Document(ulid, "(unreadable)", ""), fault.message
        return Draft(
            document=document,
            error=error,
            status="approved" if decision.kind == "approve" else "revoked",
            digest=digest,
            blob=decision.blob or "",
            path=ids.path_of(ulid),
            author=told.author or "unknown",
            updated_at=decision.at,
            revision=max(1, len(told.content)),
            votes=tuple(Vote(v.principal, "approve", digest, v.fingerprint, decision.at) for v in decision.votes),
            reason=decision.reason,
        )


def unknown(text: str) -> OpsError:
    """The error for an id that names nothing here."""
    return OpsError("unknown_id", f"no item has the id {text}", hint="`opsctl list --status all` shows what there is")
