"""Use cases of the working side: file a draft, edit it, send it back, reject it, read it, clear away what is closed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opsctl import document as documents
from opsctl import ids, secretscan
from opsctl.errors import OpsError
from opsctl.gitobject import Entry
from opsctl.message import one_line
from opsctl.models import STATUSES, Document, Draft, Revision, RunSettings, Target
from opsctl.workspace.base import Base
from opsctl.workspace.decisions import already
from opsctl.workspace.desk import Desk
from opsctl.workspace.topics import Topics
from opsctl.workspace.working import Staged, WorkingSide

if TYPE_CHECKING:
    from opsctl.providers.port import Generation

_AHEAD = re.compile(r"\+([0-9]{1,4})([dh])")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
NO_ANSWER = "(no answer)"
"""What stands in the file of a failed draft where the prompt belongs."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of how a model wrote a text; it stands in the commit, not in the file."""

    usage: str = ""
    request_id: str = ""
    include: str = ""

    @classmethod
    def of(cls, made: Generation | None, include: str = "") -> Facts:
        """What an answer says of itself: anybody's words, so each becomes one harmless line."""
        if made is None:
            return cls(include=include)
        tries = {"tries": len(made.tries)} if len(made.tries) > 1 else {}
        usage = " ".join(f"{name}={count}" for name, count in {**made.usage, **tries}.items())
        return cls(_line(usage), _line(made.request_id or ""), include)

    def trailers(self) -> dict[str, str]:
        """The trailers that tell it."""
        rows = {"Ops-Usage": self.usage, "Ops-Request-Id": self.request_id, "Ops-Include": self.include}
        return {name: value for name, value in rows.items() if value}


def _line(text: str) -> str:
    """Text of a provider for a trailer: one line that git can hold, without known secrets."""
    return one_line(secretscan.redact(text).encode("utf-8", "replace").decode())[:300]


@dataclass(frozen=True, slots=True)
class NewDraft:
    """What a person, or a model, gives for a draft. `base` is a branch, tag or full commit id of this repository."""

    prompt: str
    title: str | None = None
    labels: tuple[str, ...] = ()
    context: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None
    paths: tuple[str, ...] = ()
    run: RunSettings = field(default_factory=RunSettings)
    allow_secrets: frozenset[str] = frozenset()
    provider: str | None = None
    model: str | None = None
    request: str | None = None
    facts: Facts = Facts()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which drafts to list; an absent field fits everything."""

    status: str = "draft"
    label: str | None = None
    author: str | None = None
    search: str | None = None
    limit: int | None = None


class Drafts:
    """`ws.drafts`."""

    def __init__(self, base: Base, desk: Desk, topics: Topics, working: WorkingSide) -> None:
        self._base = base
        self._desk = desk
        self._topics = topics
        self._working = working
        self._repo = base.repo

    # -- writing ------------------------------------------------------------------------------------------------

    def create(self, new: NewDraft) -> Draft:
        """File a draft. Raises `bad_document`, `too_large`, `secret_found` before any object is written."""
        document, data, trailers = self._prepared(new, "draft")

        def build() -> Staged:
            entry = self._base.store.file(data)
            gate = self._desk.now.require_gate()
            path = ids.path_of(document.ulid)
            topic = self._topics.commit(gate.tip, {path: entry}, document.title, trailers)
            drafts = self._working.merge_topic(topic, document.ulid, entry, document.title, trailers)
            return Staged(drafts, document.ulid, topic, "opsctl: draft")

        self._working.change(build)
        return self._desk.draft(document.ulid)

    def check(self, new: NewDraft) -> None:
        """Raise what `create` raises for such a draft, and whatever else keeps it from being filed; write nothing."""
        self._desk.refresh().require_gate()
        _ = self._base.who
        self._prepared(new, "draft")

    def _prepared(self, new: NewDraft, kind: str) -> tuple[Document, bytes, dict[str, str]]:
        document = self._document(new)
        data = documents.build(document)
        trailers = _allowed(data, new.allow_secrets) | {"Ops-Kind": kind, "Ops-Id": document.ulid}
        return document, data, trailers | new.facts.trailers()

    def _document(self, new: NewDraft) -> Document:
        return Document(
            ulid=self._base.new_ulid(),
            title=new.title if new.title is not None else documents.title_from(new.prompt),
            prompt=new.prompt,
            labels=new.labels,
            provider=new.provider,
            model=new.model,
            request=new.request,
            context=new.context,
            target=self._target(new.base, new.paths),
            run=new.run,
        )

    def fail(self, new: NewDraft, reason: str) -> Draft:
        """File what was asked for as a closed draft in the state `error`: it holds no text that could be approved."""
        document, data, trailers = self._prepared(replace(new, prompt=NO_ANSWER), "fail")
        trailers["Ops-Reason"] = _line(reason) or "no reason was given"

        def build() -> Staged:
            edits = {ids.path_of(document.ulid, top="closed"): self._base.store.file(data)}
            drafts = self._working.commit(edits, (self._desk.now.drafts,), f"fail: {document.title}", trailers)
            return Staged(drafts, document.ulid, None, "opsctl: fail")

        self._working.change(build)
        return self._desk.draft(document.ulid)

    def edit(
        self,
        ulid: str,
        *,
        prompt: str | None = None,
        title: str | None = None,
        labels: tuple[str, ...] | None = None,
        context: Mapping[str, str] | None = None,
        paths: tuple[str, ...] | None = None,
        base: str | None = None,
        run: Mapping[str, str | int | None] | None = None,
        data: bytes | None = None,
        expect: str | None = None,
        allow_secrets: frozenset[str] = frozenset(),
        facts: Facts = Facts(),
    ) -> tuple[Draft, bool]:
        """Give a pending draft a new revision: what is given replaces what was there; `data` is a whole new file.

        An empty `base` takes the old one out; `run` holds only the settings that change, None takes one out.
        Returns the draft and whether anything changed. Raises `already_decided`, `stale_revision`, and what `create`
        raises.
        """
        changed = False
        given = {"prompt": prompt, "title": title or None, "labels": labels, "context": context}

        def build() -> Staged | None:
            nonlocal changed
            before = self.require_pending(ulid, "edited")
            check_expected(before, expect)
            new = data if data is not None else documents.build(self._revised(before, given, paths, base, run or {}))
            document = documents.parse(new)
            if document.ulid != ulid:
                raise OpsError("bad_document", f"the file's id is d_{document.ulid}; it must stay d_{ulid}")
            trailers = _allowed(new, allow_secrets | self._desk.story(ulid).allowed_secrets()) | facts.trailers()
            entry = self._base.store.file(new)
            changed = entry.oid != before.blob
            return self._staged_edit(ulid, entry, document.title, trailers) if changed else None

        self._working.change(build)
        return self._desk.draft(ulid), changed

    def _signed(self, before: Draft) -> Draft:
        """The old file that a new prompt or title goes into; with separation of duties the one that was signed."""
        if not self._desk.now.require_gate().policy.separation_of_duties:
            return before
        entry = self._topics.signed_text(before.ulid)
        if entry is None:
            hint = f"read the whole file and sign that: opsctl edit d_{before.ulid}"
            raise OpsError("role", f"nobody has signed the text of d_{before.ulid} that is on ops/drafts", hint=hint)
        return replace(before, document=documents.parse(self._repo.blob(entry.oid)), error=None)

    def _revised(
        self,
        before: Draft,
        given: Mapping[str, Any],
        paths: tuple[str, ...] | None,
        base: str | None,
        run: Mapping[str, Any],
    ) -> Document:
        """The old document with what is given in place of what was there."""
        before = self._signed(before)
        if before.error:
            raise OpsError("bad_document", before.error, hint=f"mend the whole file: opsctl edit d_{before.ulid}")
        document, target = before.document, before.document.target
        if base is not None:
            target = self._target(base or None, target.paths)
        if paths is not None:
            target = replace(target, paths=paths)
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(document, **changes, target=target, run=replace(document.run, **run))

    def _staged_edit(self, ulid: str, entry: Entry, title: str, allowed: Mapping[str, str]) -> Staged:
        trailers = {"Ops-Kind": "edit", "Ops-Id": ulid, **allowed}
        parent = self._topics.base_for_edit(ulid, self._desk.pending_entry(ulid))
        topic = self._topics.commit(parent, {ids.path_of(ulid): entry}, title, trailers)
        drafts = self._working.merge_topic(topic, ulid, entry, title, trailers)
        return Staged(drafts, ulid, topic, "opsctl: edit")

    def give_back(self, ulid: str, reason: str) -> Draft:
        """Ask the author for changes (`return`): the draft stays pending, the reason is kept on its topic."""
        if not reason.strip():
            raise OpsError("bad_input", "a reason is needed, so that the author knows what to change")

        def build() -> Staged:
            before = self.require_pending(ulid, "sent back")
            title, entry = before.document.title, self._desk.pending_entry(ulid)
            trailers = {"Ops-Kind": "return", "Ops-Id": ulid, "Ops-Reason": reason}
            topic = self._topics.commit(self._topics.tip_of(ulid, entry), {}, title, trailers)
            drafts = self._working.merge_topic(topic, ulid, entry, title, trailers)
            return Staged(drafts, ulid, topic, "opsctl: return")

        self._working.change(build)
        return self._desk.draft(ulid)

    def reject(self, ulid: str, reason: str | None, *, expect: str | None = None) -> tuple[Draft, bool]:
        """Close a pending draft; its file moves to `closed/`. False if it was rejected before."""
        changed = False

        def build() -> Staged | None:
            nonlocal changed
            before = self._desk.draft(ulid)
            check_expected(before, expect)
            changed = before.status == "draft"
            if before.status == "rejected":
                return None
            if not changed:
                raise already(f"d_{ulid} is {_spoken(before)}; it cannot be rejected", _way_on(before))
            return self._staged_reject(before, reason)

        self._working.change(build)
        return self._desk.draft(ulid), changed

    def _staged_reject(self, before: Draft, reason: str | None) -> Staged:
        ulid, entry = before.ulid, self._desk.pending_entry(before.ulid)
        trailers = {"Ops-Kind": "reject", "Ops-Id": ulid, "Ops-Reason": reason or ""}
        tip = self._desk.topic_tip(ulid)
        parents = (self._desk.now.drafts, *([tip] if tip else []))
        edits = {ids.path_of(ulid): None, ids.path_of(ulid, top="closed"): entry}
        drafts = self._working.commit(edits, parents, f"reject: {before.document.title}", trailers)
        return Staged(drafts, ulid, None, "opsctl: reject")

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Remove closed drafts that were closed longer ago from `ops/drafts`; history keeps them. Returns ULIDs."""
        gone: list[str] = []

        def build() -> Staged | None:
            limit = self._base.now() - older_than
            gone[:] = [draft.ulid for draft in self._desk.closed() if draft.updated_at < limit]
            if not gone or dry_run:
                return None
            edits = {ids.path_of(ulid, top="closed"): None for ulid in gone}
            trailers = {"Ops-Kind": "prune"}
            subject = f"prune: {len(gone)} closed drafts"
            drafts = self._working.commit(edits, (self._desk.now.drafts,), subject, trailers)
            return Staged(drafts, None, None, "opsctl: prune")

        self._working.change(build)
        return gone

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, ulid: str) -> Draft:
        """One draft in any state."""
        return self._desk.draft(ulid)

    def list(self, wanted: Filter = Filter()) -> list[Draft]:
        """Drafts of a status: pending ones oldest first, decided ones newest first."""
        if wanted.status not in (*STATUSES, "all"):
            raise OpsError("bad_input", f"status must be one of {', '.join(STATUSES)}, all")
        found: list[Draft] = []
        for draft in self._of_status(wanted.status):
            if wanted.limit is not None and len(found) >= wanted.limit:
                break
            if _fits(draft, wanted):
                found.append(draft)
        return found

    def _of_status(self, status: str) -> Iterable[Draft]:
        if status in ("draft", "all"):
            yield from self._desk.pending()
        if status in ("rejected", "error", "all"):
            yield from (draft for draft in self._desk.closed() if status in (draft.status, "all"))
        if status in ("approved", "revoked"):
            yield from self._desk.decided(status)
        if status == "all":
            yield from self._desk.decided("approved")
            yield from self._desk.decided("revoked")

    def revisions(self, ulid: str) -> Sequence[Revision]:
        """Every content that the draft had, oldest first; the last is the one in force."""
        draft = self._desk.draft(ulid)
        found = self._desk.story(ulid).revisions(self._repo)
        if not found or found[-1].blob != draft.blob:
            found.append(Revision(draft.digest, draft.blob, self._desk.now.drafts, draft.author, draft.updated_at))
        return found

    def content(self, draft: Draft) -> bytes:
        """The exact file of a draft; of a decided one, the bytes that were signed."""
        if draft.status in ("approved", "revoked"):
            decision = self._desk.last_decision(draft.ulid)
            if decision:
                return self._desk.signed_bytes(decision)
        return self._repo.blob(draft.blob)

    def text(self, blob: str) -> str:
        """The text of a revision, named by its blob as `Draft` and `Revision` do."""
        return self._repo.blob(blob).decode("utf-8", "replace")

    def require_pending(self, ulid: str, verb: str) -> Draft:
        """The draft if it is pending. Raises `already_decided`."""
        draft = self._desk.draft(ulid)
        if draft.status != "draft":
            raise already(f"d_{ulid} is {_spoken(draft)}; it cannot be {verb}", _way_on(draft))
        return draft

    # -- details ------------------------------------------------------------------------------------------------

    def _target(self, base: str | None, paths: tuple[str, ...]) -> Target:
        """A branch name is resolved now and kept beside the commit."""
        if base is None:
            return Target(paths=paths)
        commit = self._repo.resolve(base)
        if commit is None:
            hint = "give a branch, a tag or a full commit id: git for-each-ref --format='%(refname:short)'"
            raise OpsError("bad_input", f"--base: {base[:80]!a} is no branch, tag or commit here", hint=hint)
        return Target(commit, base if commit != base else None, paths)


def check_expected(draft: Draft, expect: str | None) -> None:
    """Refuse when the draft has another digest than the reviewer saw.

    At least 32 hex digits name one: two texts that share the twelve that are shown can be made in minutes.
    """
    if expect is None:
        return
    wanted = expect.removeprefix("sha256:").lower()
    if not 32 <= len(wanted) <= 64 or any(letter not in "0123456789abcdef" for letter in wanted):
        hint = "give `sha256:` and 64 hex digits: `opsctl show ID` prints them (at least 32 of them bind)"
        raise OpsError("bad_input", f"not a digest: {expect[:80]!a}", hint=hint)
    if not draft.digest.removeprefix("sha256:").startswith(wanted):
        raise OpsError(
            "stale_revision",
            f"d_{draft.ulid} is now {documents.short(draft.digest)}, not {wanted[:12]}",
            hint=f"read it again: opsctl diff d_{draft.ulid}",
            detail={"expected": expect, "digest": draft.digest},
        )


def _allowed(data: bytes, allowed: frozenset[str]) -> dict[str, str]:
    """The trailer that records allowed secrets. Raises `secret_found` for one that is not allowed."""
    found = secretscan.find(data.decode())
    open_ones = [secret for secret in found if secret.fingerprint not in allowed]
    if open_ones:
        first = open_ones[0]
        raise OpsError(
            "secret_found",
            f"line {first.line} holds what looks like a secret ({first.kind}, fingerprint {first.fingerprint})",
            hint=f"take it out; if it is none: --allow-secret {first.fingerprint}, which is recorded and shown",
            detail={"secrets": [[secret.kind, secret.line, secret.fingerprint] for secret in open_ones]},
        )
    used = sorted({secret.fingerprint for secret in found})
    return {"Ops-Allowed-Secrets": " ".join(used)} if used else {}


def _fits(draft: Draft, wanted: Filter) -> bool:
    if wanted.label and wanted.label not in draft.document.labels:
        return False
    if wanted.author and wanted.author.casefold() not in draft.author.casefold():
        return False
    text = f"{draft.document.title}\n{draft.document.prompt}".casefold()
    return not wanted.search or wanted.search.casefold() in text


def _spoken(draft: Draft) -> str:
    return "in error" if draft.status == "error" else draft.status


def _way_on(draft: Draft) -> str:
    ulid = draft.ulid
    ways = {
        "approved": f"take it out of use with `opsctl revoke a_{ulid} --reason …`, or file a new draft",
        "revoked": "a revoked id never returns; file a new draft",
        "rejected": f"file it again: opsctl draft --from d_{ulid}",
        "error": f"ask again: opsctl generate; `opsctl show d_{ulid}` has the request and the reason",
    }
    return ways.get(draft.status, "")


def last_moment(text: str, now: datetime) -> datetime:
    """The UTC time until which a person allows something: ISO 8601 with a zone, a date to its end, +2d or +12h.

    Raises `bad_input`, also for a time that is over.
    """
    when: datetime | None = None
    try:
        given = _moment(text, now)
        when = given.astimezone(UTC) if given.tzinfo else None
    except (ValueError, OverflowError):
        pass
    if when is None:
        hint = "for example 2030-01-31T12:00:00Z, 2030-01-31 (to the end of that day, UTC), +2d or +12h"
        raise OpsError("bad_input", f"not a time with a zone: {text[:60]!a}", hint=hint)
    if when <= now:
        hint = "give a later one, such as +2d; the time is UTC where no zone is named"
        raise OpsError("bad_input", f"the time is over: {text[:60]!a}", hint=hint)
    return when


def _moment(text: str, now: datetime) -> datetime:
    if ahead := _AHEAD.fullmatch(text):
        return now.replace(microsecond=0) + int(ahead[1]) * (
            timedelta(days=1) if ahead[2] == "d" else timedelta(hours=1)
        )
    if _DAY.fullmatch(text):
        return datetime.fromisoformat(f"{text}T23:59:59Z")
    return datetime.fromisoformat(text)
