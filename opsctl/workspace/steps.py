"""Use case `log ID`: everything that happened to one item, from its first text to its last decision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from opsctl import document as documents
from opsctl import ids
from opsctl.git.repo import Repo
from opsctl.gitobject import Commit, Entry
from opsctl.message import parse_trailers
from opsctl.models import Decision, Policy, Signer, Step
from opsctl.quorum import signed_by
from opsctl.standing import committed_at
from opsctl.violation import Violation
from opsctl.workspace.desk import Desk, unknown
from opsctl.workspace.story import Story, kind_of, person
from opsctl.workspace.worklog import Event


def read(repo: Repo, desk: Desk, ulid: str) -> list[Step | Decision]:
    """The steps of an item in any state, newest first; those of `ops/approved` are decisions.

    Raises `unknown_id`. Only what has a signer is proven: names in other steps are what git was told.
    """
    told, gate, entry = desk.story(ulid), desk.now.gate, desk.entry(ulid)
    found: list[Step | Decision] = [*_of_topic(repo, told, gate.policy if gate else None)]
    if entry is None and ulid not in desk.now.closed:
        decided = list(desk.now.ledger.decisions(desk.now.require_gate().scratch.upto, ulid=ulid))
        if not decided:
            raise unknown(ulid)
        return [*decided, *reversed(found)]
    if entry is not None and told.final != entry:
        found.append(_by_hand(repo, desk, ulid, entry, "edit" if found else "draft"))
    event = desk.now.work.event(ulid) if entry is None and gate else None
    return [*([_closing(event)] if event else []), *reversed(found)]


def _of_topic(repo: Repo, told: Story, policy: Policy | None) -> Iterator[Step]:
    """What the commits of the topic did, oldest first."""
    digest, is_first = None, True
    for member in told.members.values():
        step = _step(member.commit, policy, member.oid)
        if member.changed:
            entry = member.changed.get(told.path)
            digest = documents.digest_of(repo.blob(entry.oid)) if entry else None
            yield replace(step, kind="draft" if is_first else "edit", digest=digest, word=None)
            is_first = False
        elif step.kind == "vote":
            yield step  # with the digest that the vote itself names
        elif step.kind == "return":
            yield replace(step, digest=digest)


def _step(commit: Commit, policy: Policy | None, oid: str) -> Step:
    kind, signer = kind_of(commit), _signer(commit, policy)
    trailers = parse_trailers(commit.message) if kind else {}
    return Step(
        kind=kind or "",
        at=committed_at(commit),
        by=signer.principal if signer else person(commit.author),
        commit=oid,
        digest=trailers.get("Ops-Digest"),
        signer=signer,
        word=trailers.get("Ops-Vote"),
        reason=trailers.get("Ops-Reason"),
        usage=trailers.get("Ops-Usage"),
        request_id=trailers.get("Ops-Request-Id"),
        include=trailers.get("Ops-Include"),
    )


def _signer(commit: Commit, policy: Policy | None) -> Signer | None:
    """Who signed, as the policy in force knows the key."""
    if policy is None or commit.gpgsig is None:
        return None
    try:
        return signed_by(commit, policy)[0]
    except Violation:
        return None


def _by_hand(repo: Repo, desk: Desk, ulid: str, entry: Entry, kind: str) -> Step:
    """The text that somebody put on `ops/drafts` with plain git."""
    commit = desk.now.work.introduced(ids.path_of(ulid))
    digest = documents.digest_of(repo.blob(entry.oid))
    return Step(kind, committed_at(commit), person(commit.author), None, digest)


def _closing(event: Event) -> Step:
    return Step(event.kind, datetime.fromisoformat(event.at), event.by, None, None, reason=event.reason)
