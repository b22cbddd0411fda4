"""Uniting two working sides: every draft of both, every vote of both, and the notes of both."""

from __future__ import annotations

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.git.command import Git
from opsctl.git.repo import Repo
from opsctl.gitobject import Entry
from opsctl.models import Policy
from opsctl.notes import KNOWN
from opsctl.planfile import PLAN_PATH
from opsctl.policyfile import POLICY_PATH, SIGNERS_PATH
from opsctl.quorum import signed_by
from opsctl.store import DRAFTS, TOPICS
from opsctl.topic import Topic
from opsctl.treediff import TooManyChanges, diff, lookup
from opsctl.violation import Violation
from opsctl.workspace import story
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk
from opsctl.workspace.mirror import Mirror
from opsctl.workspace.shelf import Shelf
from opsctl.workspace.snapshot import MOST
from opsctl.workspace.topics import Topics
from opsctl.workspace.working import WorkingSide

_MOST_READ = 20_000
"""Commits of a remote's topics that one sync reads; the lock is held meanwhile, and anybody may have pushed them."""

_LEAST = 10
"""What a topic of few commits costs of that: a ref."""

_DEEPEST = 4
"""Folders within folders on `ops/drafts`; among notes there are two at most."""


def refuse_unreadable(repo: Repo, git: Git, ours: str, theirs: str) -> None:
    """What this program could not read again must not become the working side of a clone. Raises `not_adopted`."""
    try:
        rows = git.run("rev-list", "--max-count=20000", theirs, "--not", ours, timeout_s=60).decode().split()
        for oid in rows:
            repo.commit(oid)
        _look_through(repo, repo.commit(ours).tree, theirs)
    except OpsError as error:
        hint = "nothing was taken over; who runs the remote has to put its ops/drafts back"
        message = f"ops/drafts of the remote cannot be read: {error.message}"
        raise OpsError("not_adopted", message, cause=error.cause, hint=hint) from None


def is_record(repo: Repo, ours: str | None, theirs: str) -> bool:
    """True if a remote's notes can be read here."""
    try:
        _look_through(repo, repo.commit(ours).tree if ours else None, theirs)
    except OpsError:
        return False
    return True


def _look_through(repo: Repo, known: str | None, tip: str) -> None:
    """Read what a commit has and a known tree lacks. A few small trees can unfold to more than fits anywhere."""
    changes = diff(repo, known, repo.commit(tip).tree, limit=MOST, depth=_DEEPEST)
    if any(path.endswith("/") for path in changes):
        raise TooManyChanges


class Union:
    """Brings what a mirror holds into this clone's working side."""

    def __init__(self, base: Base, desk: Desk, topics: Topics, working: WorkingSide, git: Git) -> None:
        self._base = base
        self._desk = desk
        self._topics = topics
        self._working = working
        self._repo = base.repo
        self._store = base.store
        self._git = git
        self._budget = _MOST_READ
        self.notices: list[str] = []
        """What happened to drafts that both sides had touched, for the person who syncs."""
        self.left_alone: set[str] = set()
        """Notes refs that were not united: they are not pushed either, or what the remote has would be lost."""

    def drafts(self, mirror: Mirror) -> None:
        """Unite `ops/drafts` with the mirror's, then each topic; the approved tip is merged again after."""
        theirs = mirror.ref(DRAFTS)
        self._budget = _MOST_READ
        with self._store.lock():
            state = self._desk.refresh()
            if theirs and theirs != state.drafts and not self._is_ancestor(theirs, state.drafts):
                self._unite(state.drafts, theirs)
            self._working.catch_up_locked()
            for ulid in list(self._desk.now.pending):
                self._topic(ulid, mirror.topics.get(ulid), theirs)
            Shelf.clear(self._desk.now.ledger)
            for ref in self._repo.refs(TOPICS):
                if ref.removeprefix(TOPICS) not in self._desk.now.pending:
                    self._store.move(ref, self._repo.ref(ref), None, "opsctl: topic")

    def _unite(self, ours: str, theirs: str) -> None:
        refuse_unreadable(self._repo, self._git, ours, theirs)
        if self._is_ancestor(ours, theirs):
            tip = theirs
        else:
            edits = self._edits(ours, theirs)
            trailers = {"Ops-Kind": "sync"}
            tip = self._working.commit(edits, (ours, theirs), "sync: unite drafts", trailers)
            self._repo.flush()
        self._store.move(DRAFTS, ours, tip, "opsctl: sync")
        self._desk.refresh()

    def _edits(self, ours: str, theirs: str) -> dict[str, Entry | None]:
        """What the other side changed since the common commit; where both changed a file, ours is the newer revision.

        A draft that one side closed and the other one edited stays pending: nothing that was written is lost.
        """
        base = self._merge_base(ours, theirs)
        base_tree = self._repo.commit(base).tree if base else None
        our_tree, their_tree = self._repo.commit(ours).tree, self._repo.commit(theirs).tree
        mine = diff(self._repo, base_tree, our_tree, limit=MOST)
        edits: dict[str, Entry | None] = {}
        for path, (_, new) in diff(self._repo, base_tree, their_tree, limit=MOST).items():
            if path not in mine or (mine[path][1] is None and new is not None and path.startswith("ops/")):
                edits[path] = new
        for path in {*mine, *edits}:
            ulid = ids.ulid_of_path(path)
            if ulid and edits.get(path, lookup(self._repo, our_tree, path)) is not None:
                if (
                    lookup(self._repo, our_tree, ids.path_of(ulid, top="closed"))
                    or ids.path_of(ulid, top="closed") in edits
                ):
                    self.notices.append(f"d_{ulid} was closed on one side and changed on the other: it stays pending")
                edits[ids.path_of(ulid, top="closed")] = None
        self._follow_decisions(edits)
        return edits

    def _follow_decisions(self, edits: dict[str, Entry | None]) -> None:
        """What was decided is as the decision left it, whatever either working side made of it."""
        gate = self._desk.now.require_gate()
        for path in list(edits):
            ulid = ids.ulid_of_path(path) or ids.ulid_of_path(path, top="closed")
            if ulid and gate.scratch.decided(ulid):
                edits[ids.path_of(ulid)] = lookup(self._repo, gate.standing.tree, ids.path_of(ulid))
                edits[ids.path_of(ulid, top="closed")] = None
            elif not ulid and path in (PLAN_PATH, POLICY_PATH, SIGNERS_PATH):
                edits[path] = lookup(self._repo, gate.standing.tree, path)

    def _topic(self, ulid: str, theirs: str | None, their_drafts: str | None) -> None:
        """Unite one topic: the longer line, a join of equal texts, or one text as a new revision on the other.

        A topic that does not hold what its own `ops/drafts` shows is no topic: it must not cost the votes here.
        """
        ours = self._repo.ref(TOPICS + ulid)
        if theirs and theirs != ours and not self._is_topic(ulid, theirs, their_drafts):
            theirs = None
        tip = self._chosen(ulid, ours, theirs)
        if tip is None or tip == ours:
            return
        if tip != theirs:  # a commit of our own: it lives on ops/drafts too, not in a ref alone
            entry, title = self._desk.pending_entry(ulid), self._desk.draft(ulid).document.title
            drafts = self._working.merge_topic(tip, ulid, entry, title, {"Ops-Kind": "edit", "Ops-Id": ulid})
            self._repo.flush()
            self._store.move(DRAFTS, self._desk.now.drafts, drafts, "opsctl: sync")
            self._desk.refresh()
        self._store.move(TOPICS + ulid, ours, tip, "opsctl: sync")

    def _is_topic(self, ulid: str, theirs: str, their_drafts: str | None) -> bool:
        """True if a remote's topic holds the text that its working side shows; looked at in bounded time."""
        try:
            shown = self._entry(their_drafts or theirs, ulid)
            if shown is None or self._entry(theirs, ulid) != shown:
                return False  # told by two trees, before a commit of the line is read
        except OpsError:
            return False
        if self._budget <= 0:
            return False
        told = story.read(self._repo, theirs, ids.path_of(ulid), self._desk.now.reachable)
        self._budget -= _LEAST + (len(told.members) or story.LIMIT)
        if self._budget <= 0:
            self.notices.append("the remote has too many or too long topics: the next sync looks at the others")
        return told.final == shown

    def _chosen(self, ulid: str, ours: str | None, theirs: str | None) -> str | None:
        if ours is None or theirs is None or ours == theirs:
            return ours or theirs
        if self._is_ancestor(theirs, ours):
            return ours
        if self._is_ancestor(ours, theirs):
            return theirs
        if self._repo.commit(ours).tree == self._repo.commit(theirs).tree:
            return self._join(ulid, ours, theirs)
        if self._text(theirs, ulid) == self._desk.pending_entry(ulid):
            return self._on_top(ulid, theirs, ours, "there") or theirs
        if self._text(ours, ulid) == self._desk.pending_entry(ulid):
            return self._on_top(ulid, ours, theirs, "here") or ours
        return theirs

    def _entry(self, tip: str, ulid: str) -> Entry | None:
        return lookup(self._repo, self._repo.commit(tip).tree, ids.path_of(ulid))

    def _text(self, topic: str, ulid: str) -> Entry | None:
        return story.read(self._repo, topic, ids.path_of(ulid), self._desk.now.reachable).final

    def _on_top(self, ulid: str, newer: str, older: str, where: str) -> str | None:
        """The text of one line as a revision on the other, by its own author.

        With separation of duties that is a signature on the text, so all that is new in it must be by my own key: an
        author's line is only a claim. Otherwise None, and the other line stays in the history of `ops/drafts` alone.
        """
        path, gate = ids.path_of(ulid), self._desk.now.require_gate()
        told, entry = story.read(self._repo, newer, path, gate.scratch.reachable), self._desk.pending_entry(ulid)
        if told.final != entry or not told.content:
            return None
        author = told.content[-1].commit.author
        other = story.read(self._repo, older, path, gate.scratch.reachable).members
        if not other:
            return None
        if gate.policy.separation_of_duties and not self._is_mine(told, other, gate.policy):
            self.notices.append(
                f"d_{ulid} was changed on both sides: the text from {where} is in force as it was signed"
            )
            return None
        title = self._desk.draft(ulid).document.title
        self.notices.append(f"d_{ulid} was changed on both sides: the text from {where} is now the newer revision")
        trailers = {"Ops-Kind": "edit", "Ops-Id": ulid}
        return self._topics.commit(older, {path: entry}, title, trailers, author=author)

    def _is_mine(self, told: story.Story, other: Topic, policy: Policy) -> bool:
        """True if every commit that changed the text and that the other line lacks is signed by me."""
        try:
            me = policy.owners.get(self._base.signer.key.line)
            signers = {signed_by(one.commit, policy)[0].principal for one in told.content if one.oid not in other}
        except (Violation, OpsError):
            return False
        return me is not None and signers == {me.name}

    def _join(self, ulid: str, ours: str, theirs: str) -> str:
        payload = self._store.payload(
            tree=self._repo.commit(ours).tree,
            parents=(ours, theirs),
            subject=f"join: {self._desk.draft(ulid).document.title}",
            trailers={"Ops-Kind": "join", "Ops-Id": ulid},
            who=self._base.who,
        )
        return self._store.stage_commit(payload)

    def notes(self, mirror: Mirror) -> None:
        """Unite the records of runs: events are lines, so the union of lines is the merge.

        Notes are anybody's: what cannot be united is left alone, here and there, and stops nothing else.
        """
        self.left_alone.clear()
        for ref in KNOWN:
            try:
                self._unite_notes(ref, mirror)
            except OpsError as error:
                if error.code not in ("git_failed", "too_large", "corrupt_object"):
                    raise
                self._leave(ref, f"could not be united ({error.message})")

    def _unite_notes(self, ref: str, mirror: Mirror) -> None:
        ours, theirs = self._repo.ref(ref), mirror.ref(ref)
        if theirs is None or ours == theirs:
            return None
        base = self._merge_base(ours, theirs) if ours and self._is_history(theirs) else None
        if not all(is_record(self._repo, old, theirs) for old in {ours, base}):
            return self._leave(ref, "is no record of runs")
        with self._store.lock():
            ours = self._repo.ref(ref)
            if ours is None:
                self._store.move(ref, None, theirs, "opsctl: sync")
            elif not self._is_ancestor(theirs, ours):
                self._merge_notes(ref, mirror.copy(ref))
        return None

    def _is_history(self, oid: str) -> bool:
        try:
            self._repo.commit(oid)
        except OpsError:
            return False
        return True

    def _leave(self, ref: str, why: str) -> None:
        self.left_alone.add(ref)
        notice = f"{ref} of the remote {why}, and was left alone"
        if notice not in self.notices:
            self.notices.append(notice)

    def _merge_notes(self, ref: str, theirs: str) -> None:
        who = [f"user.name={self._base.who[0]}", f"user.email={self._base.who[1]}", "i18n.commitEncoding=UTF-8"]
        self._git.run("notes", f"--ref={ref}", "merge", "-q", "-s", "cat_sort_uniq", theirs, guards=who)

    def _is_ancestor(self, old: str, new: str) -> bool:
        try:
            self._git.run("merge-base", "--is-ancestor", old, new, timeout_s=60)
        except OpsError as error:
            if error.cause:
                raise
            return False
        return True

    def _merge_base(self, one: str, other: str) -> str | None:
        return self._git.run("merge-base", one, other, timeout_s=60, good=(0, 1)).decode().strip() or None
