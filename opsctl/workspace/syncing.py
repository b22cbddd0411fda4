"""Use case `sync`: fetch, adopt only what verifies, unite drafts and notes, push all or nothing.

Decisions that were made here while others landed on the remote are signed again on the new tip, by the person who
made them; until that is done they are kept in a small file, so that a crash forgets none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from opsctl import document as documents
from opsctl import ids, text
from opsctl.config import Seen
from opsctl.errors import OpsError
from opsctl.git import remote as remotes
from opsctl.git.command import Git
from opsctl.git.remote import Push, Remote
from opsctl.history import BrokenHistory
from opsctl.message import parse_trailers
from opsctl.models import utc
from opsctl.notes import KNOWN
from opsctl.standing import Judgement
from opsctl.store import APPROVED, DRAFTS, TOPICS
from opsctl.treediff import lookup
from opsctl.workspace.again import Again, Kept
from opsctl.workspace.approvals import Approvals
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.decisions import Decided, Decisions
from opsctl.workspace.desk import Desk
from opsctl.workspace.governing import Governing
from opsctl.workspace.mirror import Mirror
from opsctl.workspace.topics import Topics
from opsctl.workspace.union import Union
from opsctl.workspace.working import WorkingSide

TRIES = 5
_MOST_GONE = 500
"""Topics of decided drafts that one push removes from a remote."""

_SETTLED = ("already_decided", "unknown_id", "stale_revision", "diverged", "not_approved")
"""Refusals after which signing again has no sense: others decided it, or a person has to look at another text."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did."""

    remote: str
    received: int
    published: tuple[str, ...]
    """The refs that the remote has from here now; those of decided topics, which went there too, are left out."""

    closed_again: tuple[str, ...]
    left_open: tuple[str, ...]
    notices: tuple[str, ...]


class Syncing:
    """`ws.syncing`."""

    def __init__(
        self,
        base: Base,
        desk: Desk,
        topics: Topics,
        working: WorkingSide,
        decisions: Decisions,
        approvals: Approvals,
        governing: Governing,
    ) -> None:
        self._base = base
        self._desk = desk
        self._working = working
        self._decisions = decisions
        self._approvals = approvals
        self._governing = governing
        self._repo = base.repo
        self._union = Union(base, desk, topics, working, Git(base.repo.common, base.environ))

    def sync(self, name: str | None, tell: Callable[[str], None]) -> Synced:
        """Bring this clone and a remote together. Raises `not_adopted`, `not_published`, `remote_failed`.

        `tell` hears each step in one line.
        """
        remote = remotes.choose(self._base.settings, name)
        self._desk.refresh().require_gate()
        with self._kept.alone():
            return self._sync(Mirror(self._base, remote), tell)

    def _sync(self, mirror: Mirror, tell: Callable[[str], None]) -> Synced:
        remote = mirror.remote
        received, closed, left = 0, [], []
        for _ in range(TRIES):
            tell(f"fetching from {remote.name}")
            mirror.fetch()
            count, first = self._adopt(mirror)
            received += count
            done, open_ones = self._sign_again(tell)
            closed += [*first, *done]
            left = open_ones
            self._union.drafts(mirror)
            self._settle()
            self._union.notes(mirror)
            pushes = self._pushes(mirror)
            if not pushes:
                break
            tell(f"pushing to {remote.name}")
            refusal = mirror.push(pushes)
            if refusal is None:
                self._confirmed(mirror)
                refs = tuple(push.ref for push in pushes if push.new)
                return Synced(remote.name, received, refs, tuple(closed), tuple(left), tuple(self._union.notices))
            if not _lost_race(refusal):
                hint = "the decision is kept here; talk to who runs the remote, then `opsctl sync` again"
                raise OpsError("not_published", f"{remote.name} refused the push", cause=refusal, hint=hint)
        else:
            hint = "run `opsctl sync` again"
            raise OpsError("not_published", f"others kept pushing to {remote.name} first", cause=refusal, hint=hint)
        self._confirmed(mirror)
        return Synced(remote.name, received, (), tuple(closed), tuple(left), tuple(self._union.notices))

    # -- ops/approved -------------------------------------------------------------------------------------------

    def _adopt(self, mirror: Mirror) -> tuple[int, list[str]]:
        """Take over the remote's decisions if they verify. Returns how many are new, and what was signed on them."""
        remote, theirs = mirror.remote, mirror.ref(APPROVED)
        gate = self._desk.refresh().require_gate()
        if theirs is None or gate.scratch.reachable(theirs):
            self._saw(theirs)
            return 0, []
        try:
            standing, scratch = self._base.history().verify(theirs, progress=self._base.progress, keep=False)
        except BrokenHistory as broken:
            raise _not_adopted(remote, broken) from None
        common, count = scratch.upto, scratch.upto + 1 + len(scratch.chain)
        if common >= gate.scratch.upto:
            with self._base.store.lock():
                self._base.store.move(APPROVED, gate.tip, standing.tip, f"opsctl: sync {remote.name}")
            self._saw(theirs)
            return count - gate.count, []
        self._refuse_rewind(remote, common)
        return count - common - 1, self._replace(gate, Gate(standing, scratch, count))

    def _saw(self, tip: str | None) -> None:
        """Remember at once that a remote had this tip: a push that fails later must not open the way back."""
        state = self._desk.refresh()
        gate, ledger = state.require_gate(), state.ledger
        place = ledger.position(tip) if tip else None

        def raised(mark: Seen | None) -> Seen | None:
            known = ledger.position(mark.published) if mark and mark.published else None
            if place is None or (known is not None and known >= place):
                return mark
            return replace(mark or Seen(gate.standing.root, gate.tip, gate.count), published=tip)

        self._base.memory().change(raised)

    def _refuse_rewind(self, remote: Remote, common: int) -> None:
        """Only what was never published may be signed again: a remote that lost published decisions went back."""
        mark = self._base.memory().load()
        place = self._desk.now.ledger.position(mark.published) if mark and mark.published else None
        if place is not None and place > common:
            lost = mark.published if mark and mark.published else ""
            hint = "nothing was taken over; who runs the remote has to put it back: git push REMOTE ops/approved"
            raise OpsError("not_adopted", f"{remote.name} went back: it lacks {lost[:12]}, which it had", hint=hint)

    def _replace(self, gate: Gate, theirs: Gate) -> list[str]:
        """Move to the remote's line, with revocations and policies of this clone signed on it before it counts here.

        The list of what has to be signed again is kept before: a revocation that cannot be signed now holds from there.
        """
        mine = list(self._desk.now.ledger.decisions(gate.scratch.upto, newest_first=False))
        rows = [*self._kept.load(), *(Again.of(one) for one in mine[theirs.scratch.upto + 1 :])]
        rows = list(dict.fromkeys(rows))
        over, done = self._tightened(theirs, rows)
        self._kept.keep(rows)
        self._repo.flush()
        memory = self._base.memory()
        memory.begin_move(Seen(gate.standing.root, gate.tip, gate.count), theirs.tip)
        with self._base.store.lock():
            self._base.store.move(APPROVED, gate.tip, over.tip, "opsctl: sync, decisions here are signed again")
        fresh = Seen(gate.standing.root, over.tip, over.count, published=theirs.tip)
        memory.change(lambda now: replace(fresh, at=now.at) if now else fresh)
        self._kept.keep([row for row in rows if row not in done])
        self._desk.refresh()
        return [row.name for row in done]

    def _tightened(self, theirs: Gate, rows: list[Again]) -> tuple[Gate, list[Again]]:
        """The remote's line with what takes something away signed on top of it, in the order of this clone.

        Raises what kept a change of the policy from being signed, unless the policy was changed there too.
        """
        over, done = theirs, []
        for row in rows:
            try:
                judgement = self._on_top(over, row)
            except OpsError as error:
                if row.kind == "policy" and error.code != "diverged":
                    raise
                continue
            if judgement:
                over.scratch.take(judgement)
                over = Gate(judgement.standing, over.scratch, over.count + 1)
                done.append(row)
        return over, done

    def _on_top(self, over: Gate, row: Again) -> Judgement | None:
        """A revocation or a change of the policy, staged on a line; None when there is none to make there."""
        payload = None
        if row.kind == "policy":
            payload = self._governing.again(over, "policy", row.commit, row.reason)
        elif row.kind == "revoke" and row.ulid:
            entry = lookup(self._repo, over.standing.tree, ids.path_of(row.ulid))
            if entry:
                data = self._repo.blob(entry.oid)
                document, digest = documents.parse(data), documents.digest_of(data)
                if digest == row.digest:
                    payload = self._approvals.revocation(over, document, digest, row.reason or "revoked")
        if payload is None:
            return None
        self._require_me(over, row)
        return self._decisions.judged(payload, over)

    def _require_me(self, gate: Gate, row: Again) -> None:
        if self._approvals.me(gate) != row.signer:
            raise OpsError("role", f"it was signed by {row.signer}, who has to sign it again")

    def _sign_again(self, tell: Callable[[str], None]) -> tuple[list[str], list[str]]:
        """Close the kept decisions on the new tip. Returns what was done, and what a person has to look at."""
        done: list[str] = []
        left: list[str] = []
        waiting: list[Again] = []
        rest = self._kept.load()
        if rest:
            self._working.catch_up()
        while rest:
            one, *rest = rest
            try:
                if self._repeat(one, rest):
                    done.append(one.name)
                    tell(f"signed again: {one.name}")
            except OpsError as error:
                left.append(f"{one.name}: {error.message}")
                if error.code not in _SETTLED or (one.kind, error.code) == ("revoke", "not_approved"):
                    waiting.append(one)
            self._kept.keep([*waiting, *rest])
        return done, left

    def _repeat(self, one: Again, rest: list[Again]) -> bool:
        self._require_me(self._desk.refresh().require_gate(), one)
        if one.kind == "approve" and one.ulid:
            is_revoked = any(row.kind == "revoke" and row.ulid == one.ulid for row in rest)
            return not is_revoked and self._approve_again(one, one.ulid)
        if one.kind == "revoke" and one.ulid:
            return self._revoke_again(one, one.ulid)

        def make(gate: Gate) -> Decided | None:
            payload = self._governing.again(gate, one.kind, one.commit, one.reason)
            return Decided(payload) if payload else None

        return self._decisions.decide(make) is not None

    def _approve_again(self, one: Again, ulid: str) -> bool:
        said = parse_trailers(self._repo.commit(one.commit).message)
        chars = text.parse_allowed(said.get("Ops-Allowed-Chars", "").split())
        secrets = frozenset(said.get("Ops-Allowed-Secrets", "").split())
        return not self._approvals.approve(ulid, expect=one.digest, allow_chars=chars, allow_secrets=secrets).already

    def _revoke_again(self, one: Again, ulid: str) -> bool:
        last = self._desk.last_decision(ulid)
        if last is None:
            raise OpsError("not_approved", f"its approval is not there; if you still mean it: opsctl reject d_{ulid}")
        if last.digest != one.digest:
            raise OpsError("diverged", f"another text was approved there; if that is wrong too: opsctl revoke a_{ulid}")
        return self._approvals.revoke(ulid, one.reason or "revoked")[1]

    def _settle(self) -> None:
        """Forget revocations of what is neither approved nor can be: its draft was closed, or has another text."""
        rows = self._kept.load()
        self._desk.refresh()
        if any(row.kind == "revoke" for row in rows):
            self._kept.keep([row for row in rows if row.kind != "revoke" or self._has_object(row)])

    def _has_object(self, row: Again) -> bool:
        entry, last = self._desk.entry(row.ulid or ""), self._desk.last_decision(row.ulid or "")
        if last:
            return last.kind == "approve" and last.digest == row.digest
        return entry is not None and documents.digest_of(self._repo.blob(entry.oid)) == row.digest

    @cached_property
    def _kept(self) -> Kept:
        return Kept(self._base.memory())

    def waiting(self) -> int:
        """How many decisions still have to be signed again."""
        return len(self._kept.load())

    # -- publishing ---------------------------------------------------------------------------------------------

    def _pushes(self, mirror: Mirror) -> list[Push]:
        """Every ref of the gate that the remote lacks or has otherwise; topics of decided drafts go there too."""
        notes = (ref for ref in KNOWN if self._repo.ref(ref) and ref not in self._union.left_alone)
        names = [APPROVED, DRAFTS, *self._repo.refs(TOPICS), *notes]
        found = [Push(ref, self._repo.ref(ref), mirror.ref(ref)) for ref in names]
        gone = [Push(TOPICS + ulid, None, tip) for ulid, tip in mirror.topics.items() if self._is_over(ulid)]
        return [push for push in found if push.new != push.known] + gone[:_MOST_GONE]

    def _is_over(self, ulid: str) -> bool:
        """True for a draft that was decided or closed: nobody needs its topic any more."""
        return self._desk.now.require_gate().scratch.decided(ulid) or ulid in self._desk.now.closed

    def _confirmed(self, mirror: Mirror) -> None:
        """Remember when a remote last confirmed what it has; decisions may have landed here since it was asked."""
        self._saw(mirror.ref(APPROVED))
        when, gate = utc(self._base.now()), self._desk.now.require_gate()
        self._base.memory().change(
            lambda mark: replace(mark or Seen(gate.standing.root, gate.tip, gate.count), at=when)
        )

    def unpublished(self) -> Iterator[tuple[str, int]]:
        """For each remote that was synced: how many decisions it lacks."""
        gate = self._desk.now.require_gate()
        for ref, oid in self._repo.refs("refs/opsctl/").items():
            if ref.endswith("/heads/approved"):
                place = self._desk.now.ledger.position(oid)
                if place is not None:
                    yield ref.split("/")[2], gate.scratch.upto - place


def _revokes(row: Again, ulid: str) -> bool:
    return row.kind == "revoke" and row.ulid == ulid


def _lost_race(refusal: str) -> bool:
    words = (
        "fetch first",
        "non-fast-forward",
        "stale info",
        "failed to update ref",
        "cannot lock ref",
        "failed to lock",
    )
    return any(word in refusal for word in words)


def _not_adopted(remote: Remote, broken: BrokenHistory) -> OpsError:
    finding = broken.finding
    key = f" (key {finding.fingerprint})" if finding.fingerprint else ""
    where = f"commit {finding.commit[:12]}: " if finding.commit else ""
    return OpsError(
        "not_adopted",
        f"ops/approved of {remote.name} does not verify: {where}{finding.rule}: {finding.message}{key}",
        hint="nothing was taken over; tell who runs the remote",
        detail={"commit": finding.commit or "", "rule": finding.rule},
    )
