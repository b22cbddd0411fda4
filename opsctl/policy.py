"""The trust rule: which commits of `ops/approved` count. Pure over a reader of objects; no IO, no clock, no config.

`judge_root` and `judge` either return what the commit decided or raise `Violation`. A policy is always the one in
the tree of the commit's first parent, and who signed follows from the key alone. The rule is versioned because what
was judged under another version has to be judged again.
"""

from __future__ import annotations

from collections.abc import Callable

from opsctl import document as documents
from opsctl import ids, policyfile, topic
from opsctl.act import Act, judged, names_of, only_change, read_trailers
from opsctl.errors import OpsError
from opsctl.gitobject import FILE, Commit
from opsctl.models import Document, Policy
from opsctl.planfile import PLAN_PATH
from opsctl.planfile import parse as parse_plan
from opsctl.policyfile import POLICY_PATH, SIGNERS_PATH
from opsctl.quorum import Ballot, Quorum
from opsctl.standing import Judgement, Ledger, Objects, Standing
from opsctl.treediff import Changes, TooManyChanges, diff
from opsctl.violation import Violation

VERSION = 1


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
    trailers = read_trailers(commit, "init")
    act = Act(oid, commit, trailers, changes, Standing(oid, oid, commit.tree, policy), objects, None)
    return judged(act, act.require("policy"), policy=policy)


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
    trailers = read_trailers(commit, None)
    act = Act(oid, commit, trailers, changes, before, objects, ledger)
    if trailers["Ops-Repo"] != before.root:
        raise Violation("form", f"made for the repository {trailers['Ops-Repo'][:12]}, not {before.root[:12]}")
    return _KINDS[trailers["Ops-Kind"]](act)


def _approve(act: Act) -> Judgement:
    act.parents(2)
    act.epoch(act.policy.epoch)
    path, entry = only_change(act, added=True)
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
    return judged(act, signer, topic=tuple(merged), ulid=ulid, digest=ballot.digest, blob=entry.oid, votes=counted)


def _revoke(act: Act) -> Judgement:
    act.parents(1)
    act.epoch(act.policy.epoch)
    path, entry = only_change(act, added=False)
    ulid = ids.ulid_of_path(path)
    if ulid is None or act.trailers["Ops-Id"] != ulid:
        raise Violation("revoke", f"deletes {path}, which is not the file of {act.trailers['Ops-Id']}")
    digest = documents.digest_of(act.objects.blob(entry.oid))
    if act.trailers["Ops-Digest"] != digest:
        raise Violation("revoke", f"names {act.trailers['Ops-Digest']}, deletes {digest}")
    signer = act.require("approver", "policy", "auditor")
    return judged(act, signer, ulid=ulid, digest=digest, blob=entry.oid)


def _plan(act: Act) -> Judgement:
    act.parents(1)
    act.epoch(act.policy.epoch)
    new = act.changes.get(PLAN_PATH, (None, None))[1]
    if set(act.changes) != {PLAN_PATH} or new is None or new.mode != FILE:
        raise Violation("plan", f"must change {PLAN_PATH} and nothing else; changes {names_of(act.changes)}")
    try:
        parse_plan(act.objects.blob(new.oid))
    except OpsError as error:
        raise Violation("plan", error.message) from None
    return judged(act, act.require("approver", "policy"))


def _policy(act: Act) -> Judgement:
    fresh = _new_policy(act.changes, act.objects, before=act.before)
    needed = act.policy.highest_threshold
    act.parents(2 if needed > 1 else 1)
    act.epoch(act.policy.epoch + 1)
    if fresh.epoch != act.policy.epoch + 1:
        raise Violation("epoch", f"the policy's epoch is {fresh.epoch}; after {act.policy.epoch} comes one more")
    signer = act.require("policy")
    if needed == 1:
        return judged(act, signer, policy=fresh, votes=(signer,))
    reachable = act.ledger.reachable if act.ledger else lambda _oid: False
    merged = topic.read(act.commit.parents[1], act.objects, reachable, frozenset({POLICY_PATH, SIGNERS_PATH}))
    for path, (_, new) in act.changes.items():
        if topic.final(merged, path) != new:
            raise Violation("policy", f"{path} is not the topic's")
    ballot = Ballot(fresh.digest, act.before.root, act.policy.epoch, act.policy.digest, None)
    counted = Quorum.for_policy(act.policy).decide(merged, ballot, signer)
    return judged(act, signer, policy=fresh, topic=tuple(merged), votes=counted)


_KINDS: dict[str, Callable[[Act], Judgement]] = {
    "approve": _approve,
    "revoke": _revoke,
    "plan": _plan,
    "policy": _policy,
}


def _ballot(act: Act, digest: str, ulid: str) -> Ballot:
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
        raise Violation("policy", f"must change the policy and nothing else; changes {names_of(changes)}")
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
