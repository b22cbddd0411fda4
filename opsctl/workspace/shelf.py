"""Pending drafts as they were last described, so that a list need not read every topic again. Disposable.

What is kept is good for the very state that it was made for; for a later one, row by row, as long as text, topic and
policy are the same and the approved tip of then is still on the chain.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from opsctl.ledger import Ledger
from opsctl.models import Document, Draft, RunSettings, Target, Vote

_NAME, _STATE = "pending", "listed"
_LAYOUT = " ".join((*Document.__slots__, *RunSettings.__slots__, *Target.__slots__, *Draft.__slots__, *Vote.__slots__))
"""Rows of another layout are not understood, so they are not read."""

_LIMIT = 32 * 1024 * 1024


class Shelf:
    """The kept rows for one approved tip."""

    def __init__(self, ledger: Ledger, *, tip: str, upto: int, policy: str) -> None:
        self._ledger = ledger
        self._key = [tip, policy, _LAYOUT]
        kept: dict[str, Any] = json.loads(ledger.cached(_NAME) or "{}")
        place = ledger.position(kept["key"][0]) if kept else None
        is_good = place is not None and place <= upto and kept["key"][1:] == self._key[1:]
        self._kept = kept if is_good else {}

    def whole(self, drafts: str) -> list[Draft] | None:
        """All drafts, if they were kept for this very state."""
        if self._kept.get("key") == self._key and self._ledger.cached(_STATE) == drafts:
            return [_draft(row) for row in self._kept["rows"].values()]
        return None

    def one(self, ulid: str, blob: str, topic: str | None) -> Draft | None:
        """One draft, if its text and topic are what they were."""
        row = self._kept.get("rows", {}).get(ulid)
        return _draft(row) if row and topic and row[0] == [blob, topic] else None

    @staticmethod
    def clear(ledger: Ledger) -> None:
        """Forget for which state the rows were kept; each is still good for its own text and topic."""
        ledger.cache(_STATE, "", instead_of=_STATE)

    def keep(self, drafts: str, described: list[tuple[Draft, str | None]]) -> None:
        """Keep these, each with its topic's tip, in place of what was kept; not if a file could not be read."""
        if any(not draft.digest for draft, _ in described):
            return
        rows = {draft.ulid: _row(draft, topic) for draft, topic in described}
        data = json.dumps({"key": self._key, "rows": rows}, ensure_ascii=False)
        if len(data) < _LIMIT:
            self._ledger.cache(_STATE, "", instead_of=_STATE)
            self._ledger.cache(_NAME, data, instead_of=_NAME)
            self._ledger.cache(_STATE, drafts, instead_of=_STATE)


def _row(draft: Draft, topic: str | None) -> list[Any]:
    document, target, run = draft.document, draft.document.target, draft.document.run
    parts = [getattr(document, name) for name in Document.__slots__[:8]]
    votes = [[v.principal, v.vote, v.digest, v.fingerprint, v.at.isoformat(), v.reason] for v in draft.votes]
    facts = [draft.status, draft.digest, draft.blob, draft.path, draft.author, draft.updated_at.isoformat()]
    target_row = [target.base, target.branch, target.paths]
    run_row = [getattr(run, name) for name in RunSettings.__slots__]
    return [[draft.blob, topic], parts, target_row, run_row, facts, draft.revision, votes, draft.reason, draft.error]


def _draft(row: list[Any]) -> Draft:
    _, parts, (base, branch, paths), run, facts, revision, votes, reason, error = row
    ulid, title, prompt, labels, provider, model, request, context = parts
    target, settings = Target(base, branch, tuple(paths)), RunSettings(*run)
    document = Document(ulid, title, prompt, tuple(labels), provider, model, request, context, target, settings)
    status, digest, blob, path, author, at = facts
    when, cast = datetime.fromisoformat(at), tuple(_vote(*vote) for vote in votes)
    return Draft(document, status, digest, blob, path, author, when, revision, cast, reason, error)


def _vote(principal: str, vote: str, digest: str, fingerprint: str | None, at: str, reason: str | None) -> Vote:
    return Vote(principal, vote, digest, fingerprint, datetime.fromisoformat(at), reason)
