"""Reading how far the approval of a pending draft is, and which drafts wait for the person who asks."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from opsctl.errors import OpsError
from opsctl.models import Draft, Policy
from opsctl.quorum import Quorum
from opsctl.workspace.approvals import Approvals, Tally, reasons
from opsctl.workspace.desk import Desk
from opsctl.workspace.drafts import Drafts, Filter


class Waiting:
    """`ws.waiting`."""

    def __init__(self, desk: Desk, drafts: Drafts, approvals: Approvals) -> None:
        self._desk = desk
        self._drafts = drafts
        self._approvals = approvals

    def tally(self, draft: Draft) -> Tally | None:
        """Who counts, how many are needed, who may still sign; None while the gate is closed, or for no draft.

        When only the closing merge is missing, `waiting_for` holds everybody who may make it.
        """
        gate = self._desk.now.gate
        if gate is None or draft.status != "draft" or draft.error:
            return None
        quorum = Quorum.for_document(gate.policy, draft.document)
        authors = self._authors(gate.policy, quorum, draft)
        have = {vote.principal for vote in draft.votes if vote.vote == "approve"} - authors
        missing = quorum.missing(have)
        waiting = {name for need in missing or quorum.needs for name in need.eligible} - authors
        furthest = max(missing or quorum.needs, key=lambda need: need.threshold - len(need.eligible & have))
        counted = have & furthest.eligible
        waits = tuple(sorted(waiting - have if missing else waiting))
        return Tally(tuple(sorted(counted)), furthest.threshold, waits, reasons(missing, draft.document))

    def _authors(self, policy: Policy, quorum: Quorum, draft: Draft) -> set[str]:
        """Who wrote it and does not count; only with separation of duties the topic has to be read for it."""
        if not policy.separation_of_duties:
            return set()
        try:
            return self._approvals.authors(quorum, self._desk.story(draft.ulid).members, draft)
        except OpsError:
            return set()  # approving it says what is wrong

    def mine(self, wanted: Filter = Filter()) -> list[Draft]:
        """Pending drafts that my vote would bring on: I have not spoken on this text, and nobody asked for another.

        Raises what closes the gate, `role` when my key is no principal's, `no_signing_key`.
        """
        me = self._approvals.me(self._desk.now.require_gate())
        found = self._drafts.list(replace(wanted, status="draft", limit=None))
        return list(islice((draft for draft in found if self._waits_for(draft, me)), wanted.limit))

    def _waits_for(self, draft: Draft, me: str) -> bool:
        tally = self.tally(draft)
        is_against = any(vote.principal == me and vote.vote != "approve" for vote in draft.votes)
        return tally is not None and me in tally.waiting_for and not is_against and not draft.reason
