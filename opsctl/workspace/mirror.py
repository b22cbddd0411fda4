"""What a remote has: `sync` and `trust` ask it; `refs/opsctl/<remote>/` keeps what a later command needs of that."""

from __future__ import annotations

import re

from opsctl import ids
from opsctl.git import remote as remotes
from opsctl.git.line import Line
from opsctl.git.remote import Push, Remote
from opsctl.notes import ARCHIVE, RUNS
from opsctl.store import APPROVED, DRAFTS, NOTES, TOPICS
from opsctl.workspace.base import Base

_KEPT = {APPROVED: "heads/approved", DRAFTS: "heads/drafts"} | {
    name: f"notes/{name.removeprefix(NOTES)}" for name in (RUNS, ARCHIVE)
}
"""Refs of a remote that are copied here. Topics are not: what they hold is on `ops/drafts` too."""


class Mirror:
    """One remote."""

    def __init__(self, base: Base, remote: Remote) -> None:
        self._base = base
        self._repo = base.repo
        self._store = base.store
        self._to = f"refs/opsctl/{re.sub(r'[^A-Za-z0-9_-]', '-', remote.name)}/"
        self.remote = remote
        self.topics: dict[str, str] = {}
        """Tips of topics by id, as the remote had them when it was last asked."""

    def copy(self, ref: str) -> str:
        """The name under which a ref of the remote is kept here."""
        return self._to + _KEPT[ref]

    def ref(self, ref: str) -> str | None:
        """What a ref of the remote was when it was last asked."""
        return self._repo.ref(self.copy(ref)) if ref in _KEPT else self.topics.get(ref.removeprefix(TOPICS))

    def _line(self) -> Line:
        return Line(self._repo.common, self._base.settings, self._base.environ, prompts=self._base.interactive)

    def fetch(self) -> None:
        """Ask the remote. A remote may be full of refs by anybody: only those are looked at that have a use here.

        Raises `remote_failed`, `not_adopted`.
        """
        here = [self._repo.ref(ref) for ref in _KEPT] + list(self._repo.refs(self._to).values())
        have = [oid for oid in here if oid and self._repo.exists(oid)]
        with self._line() as line:
            found = remotes.fetch(line, self.remote, (APPROVED, DRAFTS, TOPICS, RUNS), have)
        self.topics = {
            name.removeprefix(TOPICS): oid
            for name, oid in found.items()
            if name.startswith(TOPICS) and ids.is_ulid(name.removeprefix(TOPICS))
        }
        copies = {self.copy(ref): found[ref] for ref in _KEPT if ref in found}
        with self._store.lock():
            for name, old in self._repo.refs(self._to).items():
                self._store.move(name, old, copies.pop(name, None), "opsctl: fetched")
            for name, new in copies.items():
                self._store.move(name, None, new, "opsctl: fetched")

    def push(self, pushes: list[Push]) -> str | None:
        """Push all or nothing, and note what the remote has then. Returns why it refused, or None."""
        with self._line() as line:
            refusal = remotes.push(line, self.remote, pushes)
        if refusal is not None:
            return refusal
        with self._store.lock():
            for push in pushes:
                if push.ref in _KEPT:
                    self._store.move(self.copy(push.ref), self.ref(push.ref), push.new, "opsctl: pushed")
        return None
