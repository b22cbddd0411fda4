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
_LAYOUT = " ".join(
    ("2", *Document.__slots__, *RunSettings.__slots__, *Target.__slots__, *Draft.__slots__, *Vote.__slots__)
)
"""Rows of another layout are not understood, so they are not read."""

_LIMIT = 32 * 1024 * 1024
_ANYWHERE, _ANYHOW = Target(), RunSettings()


class Shelf:
    """The kept rows for one approved tip, and after them the prompts: JSON's escapes would be most of the time."""

    def __init__(self, ledger: Ledger, *, tip: str, upto: int, policy: str) -> None:
        self._ledger = ledger
        self._key = [tip, policy, _LAYOUT]
        head, _, self._prompts = (ledger.cached(_NAME) or "{}").partition("\n")
        kept: dict[str, Any] = json.loads(head)
        place = ledger.position(kept["key"][0]) if kept else None
        is_good = place is not None and place <= upto and kept["key"][1:] == self._key[1:]
        self._kept = kept if is_good else {}

    def whole(self, drafts: str) -> list[Draft] | None:
        """All drafts, if they were kept for this very state."""
        if self._kept.get("key") == self._key and self._ledger.cached(_STATE) == drafts:
            return [_draft(row, self._prompts) for row in self._kept["rows"].values()]
        return None

    def one(self, ulid: str, blob: str, topic: str | None) -> Draft | None:
        """One draft, if its text and topic are what they were."""
        row = self._kept.get("rows", {}).get(ulid)
        return _draft(row, self._prompts) if row and topic and row[0] == [blob, topic] else None

    @staticmethod
    def clear(ledger: Ledger) -> None:
        """Forget for which state the rows were kept; each is still good for its own text and topic."""
        ledger.cache(_STATE, "", instead_of=_STATE)

    def keep(self, drafts: str, described: list[tuple[Draft, str | None]]) -> None:
        """Keep these, each with its topic's tip, in place of what was kept; not if a file could not be read."""
        if any(not draft.digest for draft, _ in described):
            return
        rows, end = {}, 0
        for draft, topic in described:
            start, end = end, end + len(draft.document.prompt)
            rows[draft.ulid] = _row(draft, topic, start, end)
        head = json.dumps({"key": self._key, "rows": rows}, ensure_ascii=False)
        data = "".join([head, "\n", *(draft.document.prompt for draft, _ in described)])
        if len(data) < _LIMIT:
            self._ledger.cache(_STATE, "", instead_of=_STATE)
            self._ledger.cache(_NAME, data, instead_of=_NAME)
            self._ledger.cache(_STATE, drafts, instead_of=_STATE)


def _row(draft: Draft, topic: str | None, start: int, end: int) -> list[Any]:
    """What a draft consists of; what is as usual is None, and the prompt a place in the text after the rows."""
    document, target, run = draft.document, draft.document.target, draft.document.run
    about = [document.provider, document.model, document.request, dict(document.context)]
    votes = [[v.principal, v.vote, v.digest, v.fingerprint, v.at.isoformat(), v.reason] for v in draft.votes]
    facts = [draft.status, draft.digest, draft.blob, draft.path, draft.author]
    target_row = None if target == _ANYWHERE else [target.base, target.branch, target.paths]
    run_row = None if run == _ANYHOW else [getattr(run, name) for name in RunSettings.__slots__]
    head = [[draft.blob, topic], draft.ulid, document.title, start, end, document.labels, about, target_row, run_row]
    return [*head, facts, draft.updated_at.isoformat(), draft.revision, votes, draft.reason, draft.error]


def _draft(row: list[Any], prompts: str) -> Draft:
    _, ulid, title, start, end, labels, about, target, run, facts, at, revision, votes, reason, error = row
    provider, model, request, context = about
    status, digest, blob, path, author = facts
    aim = Target(target[0], target[1], tuple(target[2])) if target else _ANYWHERE
    settings = RunSettings(*run) if run else _ANYHOW
    prompt = prompts[start:end]
    document = Document(ulid, title, prompt, tuple(labels), provider, model, request, context, aim, settings)
    when, cast = datetime.fromisoformat(at), tuple(_vote(*vote) for vote in votes) if votes else ()
    return Draft(document, status, digest, blob, path, author, when, revision, cast, reason, error)


def _vote(principal: str, vote: str, digest: str, fingerprint: str | None, at: str, reason: str | None) -> Vote:
    return Vote(principal, vote, digest, fingerprint, datetime.fromisoformat(at), reason)
