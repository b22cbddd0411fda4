"""The events of `ops/drafts`, read from its history once and remembered as far as they were read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opsctl.git.repo import Repo
from opsctl.gitobject import Commit
from opsctl.ledger import Ledger
from opsctl.message import parse_trailers
from opsctl.standing import committed_at
from opsctl.treediff import TooManyChanges, diff
from opsctl.workspace.story import kind_of, person

EVENTS = ("draft", "edit", "vote", "return", "reject", "fail")
_MOST = 200_000
_ROOM = 1_000_000
"""Paths that one commit may change, and all that are looked at; what is older is the work of the first commit."""

_ONE_SIDED = (*EVENTS, "merge", "prune")


@dataclass(frozen=True, slots=True)
class Event:
    """The last thing that happened to an id on the working side. `topic` is the topic's tip at that time."""

    kind: str
    by: str
    at: str
    topic: str | None
    reason: str | None


class WorkLog:
    """Reads the working side up to one tip."""

    def __init__(self, repo: Repo, ledger: Ledger, reachable: Callable[[str], bool], tip: str) -> None:
        self._repo = repo
        self._ledger = ledger
        self._reachable = reachable
        self._tip = tip
        self._place: Commit | None = None
        self._brought: dict[str, Commit] = {}
        """The newest commit that changed a path, for the commits from the tip down to the one that is next."""

        self._room = _ROOM

    def event(self, ulid: str) -> Event | None:
        """The last event of an id, or None."""
        if not self._ledger.worked(self._tip):
            self._read_on()
        row = self._ledger.work(ulid)
        return Event(**row) if row else None

    def _read_on(self) -> None:
        """Take in the commits that are new since the last time, newest first."""
        events: dict[str, dict[str, str | None]] = {}
        seen: dict[str, None] = {}
        queue = [self._tip]
        while queue:
            oid = queue.pop()
            if oid in seen or self._ledger.worked(oid) or self._reachable(oid):
                continue
            seen[oid] = None
            commit = self._repo.commit(oid)
            ulid, event = _event_of(commit)
            if ulid and event:
                events.setdefault(ulid, event)
            one_sided = kind_of(commit) in _ONE_SIDED
            queue += commit.parents[:1] if one_sided else reversed(commit.parents)
        self._ledger.add_work(seen, events)

    def introduced(self, path: str) -> Commit:
        """The commit that brought the content that a file has at the tip, by first parents."""
        after = self._place or self._repo.commit(self._tip)
        while path not in self._brought and after.parents:
            before = self._repo.commit(after.parents[0])
            self._compare(before, after)
            after = before
        self._place = after
        return self._brought.get(path, after)

    def _compare(self, before: Commit, after: Commit) -> None:
        if self._room <= 0 or before.tree == after.tree:
            return
        try:
            changed = diff(self._repo, before.tree, after.tree, limit=_MOST, depth=4)
        except TooManyChanges:
            self._room = 0
            return
        self._room -= len(changed)
        for path in changed:
            self._brought.setdefault(path, after)


def _event_of(commit: Commit) -> tuple[str | None, dict[str, str | None] | None]:
    kind = kind_of(commit)
    if kind not in EVENTS:
        return None, None
    trailers = parse_trailers(commit.message)
    return trailers.get("Ops-Id"), {
        "kind": kind,
        "by": person(commit.author),
        "at": committed_at(commit).isoformat(),
        "topic": commit.parents[1] if len(commit.parents) > 1 else None,
        "reason": trailers.get("Ops-Reason"),
    }
