"""Use case `sync`: fetch, adopt only what verifies, unite drafts and notes, push all or nothing.

Decisions that were made here while others landed on the remote are signed again on the new tip, by the person who
made them; until that is done they are kept in a small file, so that a crash forgets none.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from opsctl import text
from opsctl.config import Seen, write_file
from opsctl.errors import OpsError
from opsctl.git import remote as remotes
from opsctl.git.command import Git
from opsctl.git.remote import Push, Remote
from opsctl.history import BrokenHistory
from opsctl.message import parse_trailers
from opsctl.models import Decision, utc
from opsctl.planfile import PLAN_PATH
from opsctl.store import APPROVED, DRAFTS, NOTES, TOPICS
from opsctl.treediff import lookup
from opsctl.workspace.approvals import Approvals
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.desk import Desk
from opsctl.workspace.governing import Governing
from opsctl.workspace.topics import Topics
from opsctl.workspace.union import Union
from opsctl.workspace.working import WorkingSide

TRIES = 5
_LIST = "sign-again.json"
_SETTLED = ("already_decided", "unknown_id", "stale_revision", "diverged", "not_approved")
"""Refusals after which signing again has no sense: others decided it, or a person has to look at another text."""


@dataclass(frozen=True, slots=True)
class Again:
    """A decision that has to be signed again on a new tip."""

    kind: str
    ulid: str | None
    digest: str | None
    reason: str | None
    commit: str
    signer: str


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
        approvals: Approvals,
        governing: Governing,
    ) -> None:
        self._base = base
        self._desk = desk
        self._working = working
        self._approvals = approvals
        self._governing = governing
        self._repo = base.repo
        self._git = Git(base.repo.common, base.environ)
        self._union = Union(base, desk, topics, working, self._git)

    def sync(self, name: str | None, tell: Callable[[str], None]) -> Synced:
        """Bring this clone and a remote together. Raises `not_adopted`, `not_published`, `remote_failed`.

        `tell` hears each step in one line.
        """
        remote = remotes.choose(self._base.settings, name)
        received, closed, left = 0, [], []
        for _ in range(TRIES):
            tell(f"fetching from {remote.name}")
            remotes.fetch(self._git, self._repo.common, remote, prompts=self._base.interactive)
            received += self._adopt(remote)
            done, open_ones = self._sign_again(tell)
            closed += done
            left = open_ones
            self._union.drafts(remotes.mirror(remote))
            self._union.notes(remotes.mirror(remote))
            pushes = self._pushes(remote)
            if not pushes:
                break
            tell(f"pushing to {remote.name}")
            refusal = remotes.push(self._git, self._repo.common, remote, pushes, prompts=self._base.interactive)
            if refusal is None:
                self._mirror(remote, pushes)
                self._confirmed()
                refs = tuple(push.ref for push in pushes if push.new)
                return Synced(remote.name, received, refs, tuple(closed), tuple(left), tuple(self._union.notices))
            if not _lost_race(refusal):
                hint = "the decision is kept here; talk to who runs the remote, then `opsctl sync` again"
                raise OpsError("not_published", f"{remote.name} refused the push", cause=refusal, hint=hint)
        else:
            hint = "run `opsctl sync` again"
            raise OpsError("not_published", f"others kept pushing to {remote.name} first", cause=refusal, hint=hint)
        self._confirmed()
        return Synced(remote.name, received, (), tuple(closed), tuple(left), tuple(self._union.notices))

    # -- ops/approved -------------------------------------------------------------------------------------------

    def _adopt(self, remote: Remote) -> int:
        """Take over the remote's decisions if they verify. Returns how many are new here."""
        theirs = self._repo.ref(f"{remotes.mirror(remote)}heads/approved")
        gate = self._desk.refresh().require_gate()
        if theirs is None or gate.scratch.reachable(theirs):
            self._saw(theirs)
            return 0
        try:
            standing, scratch = self._base.history().verify(theirs, progress=self._base.progress, keep=False)
        except BrokenHistory as broken:
            raise _not_adopted(remote, broken) from None
        count = scratch.upto + 1 + len(scratch.chain)
        if scratch.upto >= gate.scratch.upto:
            with self._base.store.lock():
                self._base.store.move(APPROVED, gate.tip, standing.tip, f"opsctl: sync {remote.name}")
            self._saw(theirs)
            return count - gate.count
        self._refuse_rewind(remote, scratch.upto)
        self._replace(gate, theirs, count, scratch.upto)
        return count - scratch.upto - 1

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

    def _replace(self, gate: Gate, theirs: str, count: int, common: int) -> None:
        """Move to the remote's line, keeping a list of the decisions here that have to be signed again."""
        mine = list(self._desk.now.ledger.decisions(gate.scratch.upto, newest_first=False))[common + 1 :]
        self._keep([*self._kept(), *(_again(one) for one in mine)])
        memory = self._base.memory()
        memory.begin_move(Seen(gate.standing.root, gate.tip, gate.count), theirs)
        with self._base.store.lock():
            self._base.store.move(APPROVED, gate.tip, theirs, "opsctl: sync, decisions here are signed again")
        fresh = Seen(gate.standing.root, theirs, count, published=theirs)
        memory.change(lambda now: replace(fresh, at=now.at) if now else fresh)
        self._desk.refresh()

    def _sign_again(self, tell: Callable[[str], None]) -> tuple[list[str], list[str]]:
        """Close the kept decisions on the new tip. Returns what was done, and what a person has to look at."""
        done: list[str] = []
        left: list[str] = []
        waiting: list[Again] = []
        rest = self._kept()
        if rest:
            self._working.catch_up()
        while rest:
            one, *rest = rest
            name = f"{one.kind} {f'd_{one.ulid}' if one.ulid else one.commit[:12]}"
            try:
                if self._repeat(one):
                    done.append(name)
                    tell(f"signed again: {name}")
            except OpsError as error:
                left.append(f"{name}: {error.message}")
                if error.code not in _SETTLED:
                    waiting.append(one)
            self._keep([*waiting, *rest])
        return done, left

    def _repeat(self, one: Again) -> bool:
        gate = self._desk.refresh().require_gate()
        if self._approvals.me(gate) != one.signer:
            raise OpsError("role", f"it was signed by {one.signer}, who has to sign it again")
        if one.kind == "approve" and one.ulid:
            said = parse_trailers(self._repo.commit(one.commit).message)
            chars = text.parse_allowed(said.get("Ops-Allowed-Chars", "").split())
            secrets = frozenset(said.get("Ops-Allowed-Secrets", "").split())
            outcome = self._approvals.approve(one.ulid, expect=one.digest, allow_chars=chars, allow_secrets=secrets)
            return not outcome.already
        if one.kind == "revoke" and one.ulid:
            return self._approvals.revoke(one.ulid, one.reason or "revoked")[1]
        if one.kind == "plan":
            entry = lookup(self._repo, self._repo.commit(one.commit).tree, PLAN_PATH)
            data = self._repo.blob(entry.oid) if entry else b""
            return self._governing.set_plan(data, reason=one.reason)[1] is not None
        raise OpsError("diverged", "the policy was changed on both sides; set it again by hand")

    def _kept(self) -> list[Again]:
        path = self._base.memory().folder / _LIST  # outside the clone: what is in it will be signed
        try:
            return [Again(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise OpsError(
                "bad_config", f"{path} cannot be read", cause=str(error), hint=f"rm {shlex.quote(str(path))}"
            ) from None

    def waiting(self) -> int:
        """How many decisions still have to be signed again."""
        return len(self._kept())

    def _keep(self, rows: list[Again]) -> None:
        path = self._base.memory().folder / _LIST
        if rows:
            write_file(path, json.dumps([asdict(row) for row in rows]).encode())
        else:
            path.unlink(missing_ok=True)

    # -- publishing ---------------------------------------------------------------------------------------------

    def _pushes(self, remote: Remote) -> list[Push]:
        """Every ref of the gate that the remote lacks or has otherwise; topics of decided drafts go there too."""
        to = remotes.mirror(remote)
        pairs = [(APPROVED, f"{to}heads/approved"), (DRAFTS, f"{to}heads/drafts")]
        names = {ref.removeprefix(TOPICS) for ref in self._repo.refs(TOPICS)}
        names |= {ref.removeprefix(f"{to}topics/") for ref in self._repo.refs(f"{to}topics/")}
        pairs += [(TOPICS + name, f"{to}topics/{name}") for name in sorted(names)]
        pairs += [(ref, f"{to}notes/{ref.removeprefix(NOTES)}") for ref in self._repo.refs(NOTES)]
        found = [Push(ref, self._repo.ref(ref), self._repo.ref(copy)) for ref, copy in pairs]
        return [push for push in found if push.new != push.known]

    def _mirror(self, remote: Remote, pushes: list[Push]) -> None:
        """Note what the remote has now."""
        to = remotes.mirror(remote)
        with self._base.store.lock():
            for push in pushes:
                copy = _copy_of(push.ref, to)
                self._base.store.move(copy, self._repo.ref(copy), push.new, "opsctl: pushed")

    def _confirmed(self) -> None:
        """Remember when a remote last confirmed the tip."""
        gate, when = self._desk.refresh().require_gate(), utc(self._base.now())
        self._base.memory().change(
            lambda mark: replace(mark or Seen(gate.standing.root, gate.tip, gate.count), at=when, published=gate.tip)
        )

    def unpublished(self) -> Iterator[tuple[str, int]]:
        """For each remote that was synced: how many decisions it lacks."""
        gate = self._desk.now.require_gate()
        for ref, oid in self._repo.refs("refs/opsctl/").items():
            if ref.endswith("/heads/approved"):
                place = self._desk.now.ledger.position(oid)
                if place is not None:
                    yield ref.split("/")[2], gate.scratch.upto - place


def _copy_of(ref: str, to: str) -> str:
    for prefix, folder in (("refs/heads/ops/", "heads/"), (TOPICS, "topics/"), (NOTES, "notes/")):
        if ref.startswith(prefix):
            return to + folder + ref.removeprefix(prefix)
    raise ValueError(ref)


def _again(one: Decision) -> Again:
    return Again(one.kind, one.ulid, one.digest, one.reason, one.commit, one.signer.principal)


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
