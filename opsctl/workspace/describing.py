"""A draft as a person sees it, in each state: put together from its file, its topic's story and its decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from opsctl import document as documents
from opsctl import ids
from opsctl.errors import OpsError
from opsctl.git.repo import Repo
from opsctl.gitobject import Entry
from opsctl.models import Decision, Document, Draft, Vote
from opsctl.workspace import story
from opsctl.workspace.snapshot import Snapshot
from opsctl.workspace.story import Story
from opsctl.workspace.worklog import Event


def pending(state: Snapshot, ulid: str, entry: Entry, told: Story) -> Draft:
    """A draft that waits for a decision."""
    path = ids.path_of(ulid)
    document, digest, error = _document(state.repo, ulid, entry)
    is_current = told.final == entry
    gate = state.gate
    return Draft(
        document=document,
        status="draft",
        digest=digest,
        blob=entry.oid,
        path=path,
        author=told.author or story.person(state.work.introduced(path).author),
        updated_at=told.updated_at or ids.created_at(ulid),
        revision=len(told.content) + (not is_current),
        votes=told.votes(gate.standing, ulid, digest, document) if gate and is_current and not error else (),
        reason=told.asked_for() if is_current else None,
        error=error,
    )


def closed(repo: Repo, ulid: str, entry: Entry, told: Story, event: Event | None) -> Draft:
    """A draft that was rejected, or that failed; `event` is the last thing that happened to it."""
    document, digest, error = _document(repo, ulid, entry)
    failed = event is not None and event.kind == "fail"
    return Draft(
        document=document,
        status="error" if failed else "rejected",
        digest=digest,
        blob=entry.oid,
        path=ids.path_of(ulid, top="closed"),
        author=told.author or (event.by if event else "unknown"),
        updated_at=datetime.fromisoformat(event.at) if event else ids.created_at(ulid),
        revision=max(1, len(told.content)),
        reason=event.reason if event and not failed else None,
        error=event.reason if event and failed else error,
    )


def decided(decision: Decision, told: Story, document: Document, error: str | None, *, is_live: bool) -> Draft:
    """A draft that was approved, or approved and revoked."""
    digest = decision.digest or ""
    return Draft(
        document=document,
        error=error,
        status="approved" if is_live else "revoked",
        digest=digest,
        blob=decision.blob or "",
        path=told.path,
        author=told.author or "unknown",
        updated_at=decision.at,
        revision=max(1, len(told.content)),
        votes=tuple(Vote(v.principal, "approve", digest, v.fingerprint, decision.at) for v in decision.votes),
        reason=decision.reason,
    )


def _document(repo: Repo, ulid: str, entry: Entry) -> tuple[Document, str, str | None]:
    """The document and digest of a file that anybody may have written, or what is wrong with it."""
    try:
        data = repo.blob(entry.oid)
    except OpsError as fault:
        return Document(ulid, "(unreadable)", ""), "", fault.message
    digest = documents.digest_of(data)
    try:
        document = documents.parse(data)
    except OpsError as fault:
        return Document(ulid, "(unreadable)", data.decode("utf-8", "replace")), digest, fault.message
    if document.ulid != ulid:
        said = f"the file says it is d_{document.ulid}, its path says d_{ulid}"
        return replace(document, ulid=ulid), digest, said
    return document, digest, None
