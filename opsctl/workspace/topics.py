"""Topics: the commits of one draft, each signed where the policy wants that, and the ref that names the last one."""

from __future__ import annotations

from collections.abc import Mapping

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.gitobject import Entry
from opsctl.quorum import signed_by
from opsctl.store import TOPICS, Edits
from opsctl.violation import Violation
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk
from opsctl.workspace.story import Story


class Topics:
    """Stages commits on topics, and points their refs at them."""

    def __init__(self, base: Base, desk: Desk) -> None:
        self._base = base
        self._desk = desk
        self._repo = base.repo
        self._store = base.store

    def commit(
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

    def tip_of(self, ulid: str, entry: Entry) -> str:
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
            return self.tip_of(ulid, entry)
        told = self._desk.story(ulid)
        is_usable = told.tip and told.members and self._is_anchored(told)
        return told.tip if told.tip and is_usable else self._desk.now.require_gate().tip

    def signed_text(self, ulid: str) -> Entry | None:
        """The text that a draft's topic ends with, if every change of it is signed by a known key."""
        told, policy = self._desk.story(ulid), self._desk.now.require_gate().policy
        if not told.members or not self._is_anchored(told):
            return None
        try:
            for member in told.content:
                signed_by(member.commit, policy)
        except Violation:
            return None
        return told.final

    def _catch_up(self, parent: str, ulid: str, entry: Entry, *, kind: str = "edit", author: str | None = None) -> str:
        if self._desk.now.require_gate().policy.separation_of_duties:
            hint = f"its author signs it by an edit: opsctl edit d_{ulid}"
            raise OpsError("role", f"nobody has signed the text of d_{ulid} that is on ops/drafts", hint=hint)
        path = ids.path_of(ulid)
        author = author or self._desk.now.work.introduced(path).author
        title = self._desk.draft(ulid).document.title
        return self.commit(parent, {path: entry}, title, {"Ops-Kind": kind, "Ops-Id": ulid}, author=author)

    # -- refs ---------------------------------------------------------------------------------------------------

    def point(self, ulid: str, tip: str | None) -> None:
        """Set or remove a topic's ref; it is a cache, so whatever it had is replaced."""
        name = TOPICS + ulid
        try:
            self._store.move(name, self._repo.ref(name), tip, "opsctl: topic")
        except OpsError as error:
            if tip is not None or error.kind != "environment":
                raise
            # the decision stands; `drop` and doctor remove what a lock on packed-refs kept here (CC-13)

    def drop(self, ulid: str) -> None:
        """Remove the topic of a decided draft, if a crash left it."""
        if self._repo.ref(TOPICS + ulid) is not None:
            with self._store.lock():
                self.point(ulid, None)
