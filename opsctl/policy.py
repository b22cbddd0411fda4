"""The trust rule: which commits of `ops/approved` count. Pure over a reader of objects; no IO, no clock, no config.

`judge_root` and `judge` either return what the commit decided or raise `Violation`. A policy is always the one in
the tree of the commit's first parent, and who signed follows from the key alone. The rule is versioned because what
was judged under another version has to be judged again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from opsctl import document as documents
from opsctl import ids, policyfile, topic
from opsctl.errors import OpsError
from opsctl.gitobject import FILE, Commit, Entry
from opsctl.message import MalformedMessage, parse_trailers, subject
from opsctl.models import Decision, Document, Policy, Signer
from opsctl.planfile import PLAN_PATH
from opsctl.planfile import parse as parse_plan
from opsctl.policyfile import POLICY_PATH, SIGNERS_PATH
from opsctl.quorum import Ballot, Quorum, signed_by
from opsctl.treediff import Changes, TooManyChanges, diff, lookup
from opsctl.violation import Violation

VERSION = 1

_COMMON = frozenset({"Ops-Kind", "Ops-Epoch", "Ops-Signer", "Ops-Repo"})
_ITEM = _COMMON | {"Ops-Id", "Ops-Digest"}
_FORMS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "init": (_COMMON - {"Ops-Repo"}, frozenset()),
    "approve": (_ITEM, frozenset({"Ops-Allowed-Chars", "Ops-Allowed-Secrets", "Ops-Reason", "Ops-Via"})),
    "revoke": (_ITEM, frozenset({"Ops-Reason", "Ops-Via"})),
    "plan": (_COMMON, frozenset({"Ops-Reason", "Ops-Via"})),
    "policy": (_COMMON, frozenset({"Ops-Reason", "Ops-Via"})),
}
"""The trailers that a kind must have, and those that it may have."""

_CHARS = re.compile(r"U\+[0-9A-F]{4,6}(?: U\+[0-9A-F]{4,6})*")


class Objects(Protocol):
    """The objects of a repository, read strictly."""

    def commit(self, oid: str) -> Commit:
        """A commit. Raises `MalformedObject`, or `OpsError` when it is missing or damaged."""

    def tree(self, oid: str) -> Mapping[str, Entry]:
        """The entries of a tree."""

    def blob(self, oid: str) -> bytes:
        """The bytes of a blob of at most 256 KiB."""


class Ledger(Protocol):
    """What the chain up to the first parent holds."""

    def decided(self, ulid: str) -> bool:
        """True if any commit of the chain ever approved this id."""

    def reachable(self, oid: str) -> bool:
        """True if the commit is on the chain or was merged into it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in force after a commit of the chain."""

    root: str
    tip: str
    tree: str
    policy: Policy


def standing_at(root: str, oid: str, objects: Objects) -> Standing:
    """What is in force after a commit that was judged before, read from its tree."""
    commit = objects.commit(oid)
    entry = lookup(objects, commit.tree, POLICY_PATH)
    if entry is None:
        raise OpsError("corrupt_object", f"{oid[:12]} has no policy file")
    return Standing(root, oid, commit.tree, policyfile.parse(objects.blob(entry.oid)))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a commit decided, what is in force after it, and the topic commits that it made reachable."""

    decision: Decision
    standing: Standing
    topic: tuple[str, ...] = ()


def judge_root(oid: str, commit: Commit, objects: Objects) -> Judgement:
    """The root: no parent, exactly the two policy files, epoch 1, signed by one of its own `policy` principals."""
    if commit.parents:
        raise Violation("root", "the root commit has a parent")
    try:
        changes = diff(objects, None, commit.tree, limit=2)
    except TooManyChanges:
        raise Violation("root", "the root's tree holds more than the two policy files") from None
    policy = _new_policy(changes, objects)
    if policy.epoch != 1:
        raise Violation("root", f"the root's policy has epoch {policy.epoch}, not 1")
    trailers = _trailers(commit, "init")
    act = _Act(oid, commit, trailers, changes, Standing(oid, oid, commit.tree, policy), objects, None)
    return _judged(act, act.require("policy"), policy=policy)


def judge(oid: str, commit: Commit, before: Standing, objects: Objects, ledger: Ledger) -> Judgement:
    """Judge the commit after `before`, its first parent. Raises `Violation`; `OpsError` for a damaged object."""
    if commit.gpgsig is None:
        raise Violation("signature", "the commit is not signed")
    if not 1 <= len(commit.parents) <= 2:
        raise Violation("form", f"{len(commit.parents)} parents; a decision has one or two")
    if commit.parents[0] != before.tip:
        raise Violation("form", "the first parent is not the commit before it")
    try:
        changes = diff(objects, before.tree, commit.tree, limit=4)
    except TooManyChanges:
        raise Violation("kind", "changes more than any decision may") from None
    trailers = _trailers(commit, None)
    act = _Act(oid, commit, trailers, changes, before, objects, ledger)
    if trailers["Ops-Repo"] != before.root:
        raise Violation("form", f"made for the repository {trailers['Ops-Repo'][:12]}, not {before.root[:12]}")
    return _KINDS[trailers["Ops-Kind"]](act)


@dataclass(frozen=True, slots=True)
class _Act:
    """One commit on the bench, with all that its judges look at."""

    oid: str
    commit: Commit
    trailers: Mapping[str, str]
    changes: Changes
    before: Standing
    objects: Objects
    ledger: Ledger | None

    @property
    def policy(self) -> Policy:
        return self.before.policy

    def signed(self) -> tuple[Signer, frozenset[str]]:
        """Who signed and with which roles in effect; the trailer must say the same name."""
        signer, roles = signed_by(self.commit, self.policy)
        if signer.principal != self.trailers["Ops-Signer"]:
            said = self.trailers["Ops-Signer"]
            raise Violation("signer", f"signed by {signer.principal}, but says {said}", signer.fingerprint)
        return signer, roles

    def require(self, *roles: str) -> Signer:
        """Who signed, if one of these roles is theirs."""
        signer, theirs = self.signed()
        if not theirs & set(roles):
            message = f"{signer.principal} is none of: {', '.join(roles)}"
            if self.policy.require_presence:
                message += " (the policy demands a hardware key or passkey with a touch)"
            raise Violation("role", message, signer.fingerprint)
        return signer

    def parents(self, count: int) -> None:
        """Refuse another number of parents."""
        if len(self.commit.parents) != count:
            kind = self.trailers["Ops-Kind"]
            raise Violation("kind", f"{kind} has {len(self.commit.parents)} parents, not {count}")

    def epoch(self, expected: int) -> None:
        """Refuse another epoch."""
        if self.trailers["Ops-Epoch"] != str(expected):
            raise Violation("epoch", f"says epoch {self.trailers['Ops-Epoch']}; in force is {expected}")


def _approve(act: _Act) -> Judgement:
    act.parents(2)
    act.epoch(act.policy.epoch)
    path, entry = _only_change(act, added=True)
    ulid = ids.ulid_of_path(path)
    if ulid is None or act.trailers["Ops-Id"] != ulid:
        raise Violation("approve", f"adds {path}, which is not the file of {act.trailers['Ops-Id']}")
    if entry.mode != FILE:
        raise Violation("approve", f"{path} has mode {entry.mode}, not {FILE}")
    if act.ledger is None or act.ledger.decided(ulid):
        raise Violation("approve", f"{ulid} was approved before; an id never returns")
    data = act.objects.blob(entry.oid)
    ballot = _ballot(act, documents.digest_of(data), ulid)
    merged = topic.read(act.commit.parents[1], act.objects, act.ledger.reachable, frozenset({path}))
    if topic.final(merged, path) != entry:
        raise Violation("approve", "the approved text is not the topic's")
    quorum = Quorum.for_document(act.policy, _parsed(data, ulid))
    signer = act.require("approver")
    counted = quorum.decide(merged, ballot, signer)
    return _judged(act, signer, topic=tuple(merged), ulid=ulid, digest=ballot.digest, blob=entry.oid, votes=counted)


def _revoke(act: _Act) -> Judgement:
    act.parents(1)
    act.epoch(act.policy.epoch)
    path, entry = _only_change(act, added=False)
    ulid = ids.ulid_of_path(path)
    if ulid is None or act.trailers["Ops-Id"] != ulid:
        raise Violation("revoke", f"deletes {path}, which is not the file of {act.trailers['Ops-Id']}")
    digest = documents.digest_of(act.objects.blob(entry.oid))
    if act.trailers["Ops-Digest"] != digest:
        raise Violation("revoke", f"names {act.trailers['Ops-Digest']}, deletes {digest}")
    signer = act.require("approver", "policy", "auditor")
    return _judged(act, signer, ulid=ulid, digest=digest, blob=entry.oid)


def _plan(act: _Act) -> Judgement:
    act.parents(1)
    act.epoch(act.policy.epoch)
    new = act.changes.get(PLAN_PATH, (None, None))[1]
    if set(act.changes) != {PLAN_PATH} or new is None or new.mode != FILE:
        raise Violation("plan", f"must change {PLAN_PATH} and nothing else; changes {_names(act.changes)}")
    try:
        parse_plan(act.objects.blob(new.oid))
    except OpsError as error:
        raise Violation("plan", error.message) from None
    return _judged(act, act.require("approver", "policy"))


def _policy(act: _Act) -> Judgement:
    fresh = _new_policy(act.changes, act.objects, before=act.before)
    needed = act.policy.highest_threshold
    act.parents(2 if needed > 1 else 1)
    act.epoch(act.policy.epoch + 1)
    if fresh.epoch != act.policy.epoch + 1:
        raise Violation("epoch", f"the policy's epoch is {fresh.epoch}; after {act.policy.epoch} comes one more")
    signer = act.require("policy")
    if needed == 1:
        return _judged(act, signer, policy=fresh, votes=(signer,))
    reachable = act.ledger.reachable if act.ledger else lambda _oid: False
    merged = topic.read(act.commit.parents[1], act.objects, reachable, frozenset({POLICY_PATH, SIGNERS_PATH}))
    for path, (_, new) in act.changes.items():
        if topic.final(merged, path) != new:
            raise Violation("policy", f"{path} is not the topic's")
    ballot = Ballot(fresh.digest, act.before.root, act.policy.epoch, act.policy.digest, None)
    counted = Quorum.for_policy(act.policy).decide(merged, ballot, signer)
    return _judged(act, signer, policy=fresh, topic=tuple(merged), votes=counted)


_KINDS: dict[str, Callable[[_Act], Judgement]] = {
    "approve": _approve,
    "revoke": _revoke,
    "plan": _plan,
    "policy": _policy,
}


def _trailers(commit: Commit, kind: str | None) -> dict[str, str]:
    """The trailers, checked against what their kind must and may have."""
    try:
        trailers = parse_trailers(commit.message)
    except MalformedMessage as error:
        raise Violation("form", str(error)) from None
    said = trailers.get("Ops-Kind", "")
    if said not in _FORMS or (said == "init") != (kind == "init"):
        raise Violation("kind", f"Ops-Kind {said!a} is not a decision here")
    must, may = _FORMS[said]
    for name in sorted(must ^ (trailers.keys() - may)):
        raise Violation("form", f"{said}: {name} is {'missing' if name in must else 'not for this kind'}")
    if "Ops-Allowed-Chars" in trailers and not _CHARS.fullmatch(trailers["Ops-Allowed-Chars"]):
        raise Violation("form", "Ops-Allowed-Chars is not a list of U+XXXX")
    if said == "init" and trailers["Ops-Epoch"] != "1":
        raise Violation("epoch", "the root's epoch is 1")
    return trailers


def _only_change(act: _Act, *, added: bool) -> tuple[str, Entry]:
    """The one file that the commit adds (or deletes)."""
    rows = list(act.changes.items())
    if len(rows) == 1:
        path, (old, new) = rows[0]
        if added and old is None and new is not None:
            return path, new
        if not added and new is None and old is not None:
            return path, old
    verb = "adds" if added else "deletes"
    raise Violation(act.trailers["Ops-Kind"], f"{verb} not exactly one file; changes {_names(act.changes)}")


def _names(changes: Changes) -> str:
    return ", ".join(sorted(changes)) or "nothing"


def _ballot(act: _Act, digest: str, ulid: str) -> Ballot:
    if act.trailers["Ops-Digest"] != digest:
        raise Violation("approve", f"names {act.trailers['Ops-Digest']}, adds {digest}")
    return Ballot(digest, act.before.root, act.policy.epoch, act.policy.digest, ulid)


def _parsed(data: bytes, ulid: str) -> Document:
    try:
        document = documents.parse(data)
    except OpsError as error:
        raise Violation("document", error.message) from None
    if document.ulid != ulid:
        raise Violation("document", f"the file says it is d_{document.ulid}, its path says {ulid}")
    return document


def _new_policy(changes: Changes, objects: Objects, before: Standing | None = None) -> Policy:
    """The policy that a commit brings, if it touches the two policy files alone and they agree."""
    if not set(changes) <= {POLICY_PATH, SIGNERS_PATH} or POLICY_PATH not in changes:
        raise Violation("policy", f"must change the policy and nothing else; changes {_names(changes)}")
    new = {path: entry for path, (_, entry) in changes.items() if entry and entry.mode == FILE}
    if len(new) != len(changes):
        raise Violation("policy", "a policy file is deleted or has another mode than 100644")
    try:
        policy = policyfile.parse(objects.blob(new[POLICY_PATH].oid))
    except OpsError as error:
        raise Violation("policy", error.message) from None
    follows = policyfile.allowed_signers(policy)
    carried = objects.blob(new[SIGNERS_PATH].oid) if SIGNERS_PATH in new else None
    if carried is None and before is not None:
        carried = policyfile.allowed_signers(before.policy)
    if carried != follows:
        raise Violation("policy", "allowed_signers is not what follows from the policy")
    return policy


def _judged(
    act: _Act,
    signer: Signer,
    *,
    policy: Policy | None = None,
    topic: tuple[str, ...] = (),
    ulid: str | None = None,
    digest: str | None = None,
    blob: str | None = None,
    votes: tuple[Signer, ...] = (),
) -> Judgement:
    decision = Decision(
        commit=act.oid,
        kind=act.trailers["Ops-Kind"],
        epoch=int(act.trailers["Ops-Epoch"]),
        signer=signer,
        at=committed_at(act.commit),
        subject=subject(act.commit.message),
        ulid=ulid,
        digest=digest,
        blob=blob,
        votes=votes or (signer,),
        reason=act.trailers.get("Ops-Reason"),
        trailers=dict(act.trailers),
    )
    after = Standing(act.before.root, act.oid, act.commit.tree, policy or act.policy)
    return Judgement(decision, after, topic)


def committed_at(commit: Commit) -> datetime:
    """The committer's time, which proves nothing: it is shown, never judged. Out of range: the year 9999."""
    seconds = int(commit.committer.rsplit(" ", 2)[1])
    return datetime.fromtimestamp(min(seconds, 253402300799), UTC)
