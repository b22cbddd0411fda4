"""Reading: both branches at one moment, and every draft or approved item as it stands then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from opsctl import document as documents
from opsctl import ids
from opsctl.errors import OpsError
from opsctl.gitobject import FILE, Entry
from opsctl.models import Approved, Decision, Document, Draft
from opsctl.store import TOPICS
from opsctl.treediff import lookup
from opsctl.workspace import describing, snapshot, story
from opsctl.workspace.base import Base
from opsctl.workspace.shelf import Shelf
from opsctl.workspace.snapshot import Snapshot, no_drafts
from opsctl.workspace.story import Story

_ROOM = 32 * 1024 * 1024
"""Characters of text that one list holds."""


class Desk:
    """What the reading commands ask, of one snapshot that `refresh` renews."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._repo = base.repo
        self._now: Snapshot | None = None

    @property
    def now(self) -> Snapshot:
        """The state when it was first asked for, or last renewed."""
        return self._now or self.refresh()

    def refresh(self) -> Snapshot:
        """The state now."""
        self._now = None  # what cannot be read must not leave the old one
        self._now = snapshot.take(self._base)
        return self._now

    def drafts_moved(self, tip: str) -> None:
        """Go on from a new tip of `ops/drafts` that the caller, who holds the lock, has just moved it to."""
        self._now = self.now.moved(tip)

    # -- which one ----------------------------------------------------------------------------------------------

    def resolve(self, text: str) -> tuple[str | None, str]:
        """The kind that was named (or None) and the ULID of the one item that fits.

        Raises `bad_id`, `unknown_id`, `ambiguous_id`; while the gate is closed what is approved is not looked for.
        """
        given, state = ids.parse(text), self.now
        found: set[str] = set()
        if given.kind != "a" and state.drafts_tip:
            found = {*ids.matches(given, state.pending), *ids.matches(given, self.now.closed)}
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
        return {*self.now.pending, *self.now.closed, *decided}

    # -- drafts -------------------------------------------------------------------------------------------------

    def pending(self) -> list[Draft]:
        """All pending drafts, oldest first. A file that cannot be read as a draft has its fault in `error`."""
        state = self.now
        if state.gate is None:
            return list(_lean(self._pending_draft(ulid, entry) for ulid, entry in state.pending.items()))
        gate = state.gate
        shelf = Shelf(state.ledger, tip=gate.tip, upto=gate.scratch.upto, policy=gate.policy.digest)
        kept = shelf.whole(state.drafts)
        if kept is not None:
            return kept
        topics = {ulid: self._repo.ref(TOPICS + ulid) for ulid in state.pending}
        described = list(
            _lean(
                shelf.one(ulid, entry.oid, topics[ulid]) or self._pending_draft(ulid, entry)
                for ulid, entry in state.pending.items()
            )
        )
        shelf.keep(state.drafts, [(draft, topics[draft.ulid]) for draft in described])
        return described

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
        return list(_lean(self._closed_draft(ulid, entry) for ulid, entry in self.now.closed.items()))

    def decided(self, status: str) -> Iterator[Draft]:
        """Drafts that are approved (or revoked), newest decision first."""
        seen: set[str] = set()
        for decision in self.now.ledger.decisions(self.now.require_gate().scratch.upto):
            if decision.ulid and decision.ulid not in seen:
                seen.add(decision.ulid)
                if self._is_live(decision) == (status == "approved"):
                    yield self._decided_draft(decision)

    def draft(self, ulid: str) -> Draft:
        """One draft in any state. Raises `unknown_id`, or what closes the gate if it may have been decided."""
        entry = self.entry(ulid)
        if entry:
            return self._pending_draft(ulid, entry)
        if ulid in self.now.closed:
            return self._closed_draft(ulid, self.now.closed[ulid])
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
        return decision is not None and self._is_live(decision)

    def _is_live(self, decision: Decision) -> bool:
        waiting = self.now.revoked.get(decision.ulid or "")
        return decision.kind == "approve" and (waiting is None or waiting.digest != decision.digest)

    def approved(self, ulid: str) -> tuple[Approved, bytes]:
        """An approved item with its exact bytes, each checked again against what was signed.

        Raises `unknown_id` for a draft or an unknown id, `already_decided` for a revoked one, `corrupt_object`.
        """
        last, waiting = self.last_decision(ulid), self.now.revoked.get(ulid)
        if last and waiting and last.kind == "approve" and not self._is_live(last):
            message = f"a_{ulid} was revoked by {waiting.signer}: {waiting.reason or 'no reason given'}"
            hint = "the revocation waits to be signed again: opsctl sync"
            raise OpsError("already_decided", message, hint=hint)
        return self.on_the_line(ulid)

    def on_the_line(self, ulid: str) -> tuple[Approved, bytes]:
        """The same for an item whose revocation is kept here and not on the line yet: for signing that one."""
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
            event = self.now.work.event(ulid)
            tip = event.topic if event else None
        return tip

    def story(self, ulid: str) -> Story:
        """The story of a draft in any state."""
        path = ids.path_of(ulid)
        if self.entry(ulid) or ulid in self.now.closed:
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
        return describing.pending(self.now, ulid, entry, self.story(ulid))

    def _closed_draft(self, ulid: str, entry: Entry) -> Draft:
        event = self.now.work.event(ulid) if self.now.gate else None
        return describing.closed(self._repo, ulid, entry, self.story(ulid), event)

    def _decided_draft(self, decision: Decision) -> Draft:
        ulid = decision.ulid or ""
        try:
            document, error = documents.parse(self.signed_bytes(decision)), None
        except OpsError as fault:  # one damaged item must not hide the others (CR-22)
            document, error = Document(ulid, "(unreadable)", ""), fault.message
        return describing.decided(decision, self.story(ulid), document, error, is_live=self._is_live(decision))


def _lean(drafts: Iterable[Draft]) -> Iterator[Draft]:
    """The same drafts, without the text of those that are none, and of all that come when there was too much (GT-09).

    One small blob can stand under thousands of names: what is listed is held all at once.
    """
    room = _ROOM
    for draft in drafts:
        document = draft.document
        context = sum(len(key) + len(value) for key, value in document.context.items())
        room -= len(document.prompt) + len(document.request or "") + context
        if (draft.error and draft.status == "draft") or room < 0:
            bare = replace(document, prompt="", request=None, context={})
            error = draft.error or f"too much text for one list; `opsctl show d_{draft.ulid}` has it"
            draft = replace(draft, document=bare, error=error)
        yield draft


def unknown(text: str) -> OpsError:
    """The error for an id that names nothing here."""
    return OpsError("unknown_id", f"no item has the id {text}", hint="`opsctl list --status all` shows what there is")
