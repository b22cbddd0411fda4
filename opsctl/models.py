"""The values that pass between the layers: documents, policy, decisions, drafts. Plain data; imports ids only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from opsctl import ids


@dataclass(frozen=True, slots=True)
class Target:
    """What a draft is about: a base commit (and the branch that it came from) and path globs of the repository."""

    base: str | None = None
    branch: str | None = None
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How an approved item may be run. Times are UTC; `timeout_s` is in seconds. Absent means: not limited here."""

    executor: str | None = None
    runner: str | None = None
    max_runs: int | None = None
    not_after: str | None = None
    timeout_s: int | None = None
    network: bool | None = None
    parallel: int | None = None
    """How many runs may be active at once; absent means one."""


@dataclass(frozen=True, slots=True)
class Document:
    """One draft's file: the front matter and the prompt, exactly as an agent will receive it."""

    ulid: str
    title: str
    prompt: str
    labels: tuple[str, ...] = ()
    provider: str | None = None
    model: str | None = None
    request: str | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    target: Target = Target()
    run: RunSettings = RunSettings()


@dataclass(frozen=True, slots=True)
class Principal:
    """A person: a name, an address, roles, and one or more public keys as `type base64` lines."""

    name: str
    email: str
    roles: frozenset[str]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """More signatures for some paths or executors. An empty field matches everything."""

    paths: tuple[str, ...] = ()
    executors: tuple[str, ...] = ()
    threshold: int = 1
    approvers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may decide what. `digest` names the exact bytes of `policy.toml`."""

    epoch: int
    audience: str
    principals: tuple[Principal, ...]
    rules: tuple[Rule, ...]
    threshold: int
    separation_of_duties: bool
    reject: str
    policy_threshold: int
    require_presence: bool
    max_staleness: str
    allow_network: bool
    passkey_origins: tuple[str, ...]
    digest: str
    owners: Mapping[str, Principal]
    """Principal by key line."""

    @property
    def highest_threshold(self) -> int:
        """How many `policy` principals a change of the policy needs."""
        return max([self.policy_threshold, self.threshold, *(rule.threshold for rule in self.rules)])


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed: the principal that the policy names for the key, and the key's fingerprint."""

    principal: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One judged commit of `ops/approved`."""

    commit: str
    kind: str
    epoch: int
    signer: Signer
    at: datetime
    subject: str
    ulid: str | None = None
    digest: str | None = None
    blob: str | None = None
    votes: tuple[Signer, ...] = ()
    """Those whose vote counted, the closer included."""
    reason: str | None = None
    trailers: Mapping[str, str] = field(default_factory=dict)

    @property
    def by(self) -> str:
        """Who decided."""
        return self.signer.principal


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to an item before it was decided. Without a signer `by` is what git was told."""

    kind: str
    """draft, edit, vote, return, reject or fail."""

    at: datetime
    by: str
    commit: str | None
    digest: str | None
    signer: Signer | None = None
    word: str | None = None
    """What a vote says: approve, reject or withdraw."""

    reason: str | None = None
    usage: str | None = None
    """What a model's answer took, as its provider counts; `request_id` is the provider's name for the call."""

    request_id: str | None = None
    include: str | None = None
    """Files that went along, each with its digest."""

    @property
    def subject(self) -> str:
        """What was done, in one or two words."""
        return f"{self.kind}: {self.word}" if self.word else self.kind


@dataclass(frozen=True, slots=True)
class Finding:
    """What verification found wrong: the commit, the rule of the trust rule, a message, the key if there was one."""

    commit: str | None
    rule: str
    message: str
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """An approver's signed word on one revision, or a reviewer's unsigned remark (`return`)."""

    principal: str
    vote: str
    digest: str
    fingerprint: str | None
    at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One exact content of a draft."""

    digest: str
    blob: str
    commit: str
    author: str
    at: datetime


STATUSES = ("draft", "approved", "rejected", "error", "revoked")


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft in any state, as every face shows it. Status is one of `STATUSES`."""

    document: Document
    status: str
    digest: str
    blob: str
    path: str
    author: str
    updated_at: datetime
    revision: int
    votes: tuple[Vote, ...] = ()
    reason: str | None = None
    error: str | None = None

    @property
    def ulid(self) -> str:
        """The ULID that names the item for its whole life."""
        return self.document.ulid


@dataclass(frozen=True, slots=True)
class Approved:
    """An approved item: the document and the decision that made it so."""

    document: Document
    decision: Decision
    path: str


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One line of a run's story: when, what happened (an event's kind), and what was said."""

    at: datetime
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of an approved item, as its events tell it.

    `commit` and `digest` name the approval and the bytes that the run was made for; `last` is the newest event's ULID.
    """

    ulid: str
    item: str
    commit: str
    digest: str
    executor: str
    runner: str | None
    status: str
    attempt: int
    retry_of: str | None
    by: str
    created_at: datetime
    base: str | None
    key: str | None
    request: str | None
    last: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    holder: str | None = None
    until: str | None = None
    clone: str | None = None
    message: str = ""
    exit_code: int | None = None
    result_ref: str | None = None
    result: str | None = None
    output: str | None = None
    output_bytes: int | None = None
    cut_bytes: int | None = None
    outside: Sequence[str] = ()
    usage: Mapping[str, int] | None = None
    request_id: str | None = None
    draft: str | None = None
    argv: Sequence[str] = ()
    sandbox: str | None = None
    log: tuple[RunEntry, ...] = ()


def utc(when: datetime) -> str:
    """A time as every interface prints it: UTC, ISO 8601, seconds, `Z`."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def draft_json(draft: Draft) -> dict[str, object]:
    """The draft as `--json` and HTTP print it; a field without a value is null."""
    return {
        **_document_json(draft.document, "d"),
        "status": draft.status,
        "created_at": utc(ids.created_at(draft.ulid)),
        "updated_at": utc(draft.updated_at),
        "author": draft.author,
        "provider": draft.document.provider,
        "model": draft.document.model,
        "request": draft.document.request,
        "digest": draft.digest,
        "blob": draft.blob,
        "path": draft.path,
        "revision": draft.revision,
        "votes": [vote_json(vote) for vote in draft.votes],
        "reason": draft.reason,
        "error": draft.error,
    }


def approved_json(item: Approved) -> dict[str, object]:
    """The approved item as `--json` and HTTP print it."""
    decision = item.decision
    return {
        **_document_json(item.document, "a"),
        "draft_id": f"d_{item.document.ulid}",
        "digest": decision.digest,
        "blob": decision.blob,
        "path": item.path,
        "commit": decision.commit,
        "approved_at": utc(decision.at),
        "approved_by": decision.signer.principal,
        "signer": signer_json(decision.signer),
        "votes": [signer_json(vote) for vote in decision.votes],
    }


def run_json(run: Run) -> dict[str, object]:
    """The run as `--json` and HTTP print it."""
    return {
        "id": f"r_{run.ulid}",
        "approved_id": f"a_{run.item}",
        "commit": run.commit,
        "digest": run.digest,
        "executor": run.executor,
        "runner": run.runner,
        "status": run.status,
        "attempt": run.attempt,
        "retry_of": run.retry_of,
        "by": run.by or None,
        "created_at": utc(run.created_at),
        "started_at": utc(run.started_at) if run.started_at else None,
        "finished_at": utc(run.finished_at) if run.finished_at else None,
        "holder": run.holder,
        "lease_until": run.until,
        "base": run.base,
        "argv": list(run.argv),
        "sandbox": run.sandbox,
        "message": run.message or None,
        "exit_code": run.exit_code,
        "result_ref": run.result_ref,
        "result": run.result,
        "outside": list(run.outside),
        "output": run.output,
        "output_bytes": run.output_bytes,
        "cut_bytes": run.cut_bytes,
        "usage": dict(run.usage) if run.usage else None,
        "request_id": run.request_id,
        "draft_id": run.draft,
        "log": [{"at": utc(one.at), "event": one.kind, "message": one.message or None} for one in run.log],
    }


def decision_json(decision: Decision) -> dict[str, object]:
    """A decision as `log --json` prints it."""
    return {
        "commit": decision.commit,
        "kind": decision.kind,
        "id": f"a_{decision.ulid}" if decision.ulid else None,
        "digest": decision.digest,
        "at": utc(decision.at),
        "by": decision.by,
        "epoch": decision.epoch,
        "signer": signer_json(decision.signer),
        "votes": [signer_json(vote) for vote in decision.votes],
        "subject": decision.subject,
        "reason": decision.reason,
        "allowed_chars": decision.trailers.get("Ops-Allowed-Chars"),
        "via": decision.trailers.get("Ops-Via"),
    }


def step_json(step: Step, ulid: str) -> dict[str, object]:
    """A step as `log ID --json` prints it: the fields of a decision."""
    return {
        "commit": step.commit,
        "kind": step.kind,
        "id": f"d_{ulid}",
        "digest": step.digest,
        "at": utc(step.at),
        "by": step.by,
        "epoch": None,
        "signer": signer_json(step.signer) if step.signer else None,
        "votes": [],
        "subject": step.subject,
        "reason": step.reason,
        "allowed_chars": None,
        "via": None,
    }


def vote_json(vote: Vote) -> dict[str, object]:
    """A vote as it stands in a draft's JSON."""
    return {
        "principal": vote.principal,
        "vote": vote.vote,
        "digest": vote.digest,
        "fingerprint": vote.fingerprint,
        "at": utc(vote.at),
        "reason": vote.reason,
    }


def signer_json(signer: Signer) -> dict[str, object]:
    """A signer as it stands in other objects."""
    return {"principal": signer.principal, "fingerprint": signer.fingerprint}


def _document_json(document: Document, kind: str) -> dict[str, object]:
    target, run = document.target, document.run
    return {
        "id": f"{kind}_{document.ulid}",
        "title": document.title,
        "prompt": document.prompt,
        "context": dict(document.context),
        "labels": list(document.labels),
        "target": {"base": target.base, "branch": target.branch, "paths": list(target.paths)},
        "run": {name: getattr(run, name) for name in RunSettings.__slots__},
    }
