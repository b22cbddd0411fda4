"""The story of one draft, read from its topic: who wrote it, its revisions, its votes, what reviewers asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from opsctl import document as documents
from opsctl import topic
from opsctl.errors import OpsError
from opsctl.git.repo import Repo
from opsctl.gitobject import Commit, Entry, MalformedObject
from opsctl.message import MalformedMessage, parse_trailers
from opsctl.models import Document, Policy, Revision, Vote
from opsctl.quorum import Ballot, Quorum, signed_by
from opsctl.standing import Standing, committed_at
from opsctl.violation import Violation

LIMIT = 1000
"""Commits of a topic that are read on the working side, where anybody who can push may put ten thousand."""


@dataclass(frozen=True, slots=True)
class Story:
    """A topic as the rule reads it. Without members when there is none, or when it breaks the rule (`fault`)."""

    path: str
    tip: str | None
    members: topic.Topic
    fault: str | None = None
    error: OpsError | None = None
    """Why the topic could not be read at all; it may be sound."""

    @property
    def final(self) -> Entry | None:
        """The file as the topic leaves it."""
        return topic.final(self.members, self.path)

    @property
    def content(self) -> list[topic.Member]:
        """The commits that changed the text, oldest first."""
        return [member for member in self.members.values() if member.changed.get(self.path)]

    @property
    def author(self) -> str | None:
        """Who wrote the first revision."""
        return person(self.content[0].commit.author) if self.content else None

    @property
    def updated_at(self) -> datetime | None:
        """When the last commit of the topic was made."""
        return max((committed_at(member.commit) for member in self.members.values()), default=None)

    def revisions(self, repo: Repo) -> list[Revision]:
        """Every content that the draft had, oldest first."""
        return [
            Revision(
                digest=documents.digest_of(repo.blob(entry.oid)),
                blob=entry.oid,
                commit=member.oid,
                author=person(member.commit.author),
                at=committed_at(member.commit),
            )
            for member in self.content
            if (entry := member.changed[self.path])
        ]

    def asked_for(self) -> str | None:
        """The reason of the last `return`, until a change of the text follows it."""
        reason = None
        for member in self.members.values():
            if member.changed:
                reason = None
            elif kind_of(member.commit) == "return":
                reason = parse_trailers(member.commit.message).get("Ops-Reason")
        return reason

    def allowed_secrets(self) -> frozenset[str]:
        """Fingerprints that the authors allowed when they wrote the text."""
        values = [
            parse_trailers(m.commit.message).get("Ops-Allowed-Secrets", "") for m in self.content if kind_of(m.commit)
        ]
        return frozenset(" ".join(values).split())

    def votes(self, standing: Standing, ulid: str, digest: str, document: Document) -> tuple[Vote, ...]:
        """The last word of each approver on this revision, as far as it counts today."""
        if len(self.members) < 2:
            return ()
        yes, no = Quorum.for_document(standing.policy, document).count(self.members, ballot(standing, ulid, digest))
        last: dict[str, Vote] = {}
        for member in self.members.values():
            vote = _vote(member.commit, standing.policy, digest)
            if vote and ((vote.vote == "approve" and vote.principal in yes) or vote.principal in no):
                last[vote.principal] = vote
        return tuple(last[name] for name in sorted(last))


def read(repo: Repo, tip: str | None, path: str, reachable: Callable[[str], bool]) -> Story:
    """The story that ends in `tip`; one that breaks the rule is told as empty, with its fault."""
    if tip is None:
        return Story(path, None, {})
    try:
        return Story(path, tip, topic.read(tip, repo, reachable, frozenset({path}), limit=LIMIT))
    except (Violation, MalformedObject) as fault:
        return Story(path, tip, {}, fault.message)
    except OpsError as error:
        return Story(path, tip, {}, error.message, error)


def ballot(standing: Standing, ulid: str, digest: str) -> Ballot:
    """What a vote on this revision has to name under the policy in force."""
    return Ballot(digest, standing.root, standing.policy.epoch, standing.policy.digest, ulid)


def _vote(commit: Commit, policy: Policy, digest: str) -> Vote | None:
    if kind_of(commit) != "vote":
        return None
    try:
        signer, _ = signed_by(commit, policy)
    except Violation:
        return None
    trailers = parse_trailers(commit.message)
    word, reason = trailers.get("Ops-Vote", ""), trailers.get("Ops-Reason")
    return Vote(signer.principal, word, digest, signer.fingerprint, committed_at(commit), reason)


def kind_of(commit: Commit) -> str | None:
    """The `Ops-Kind` of a commit, or None where it has none that can be read."""
    try:
        return parse_trailers(commit.message).get("Ops-Kind")
    except MalformedMessage:
        return None


def person(line: str) -> str:
    """The name in an author line, else the address."""
    name, _, rest = line.partition("<")
    return name.strip() or rest.partition(">")[0].strip() or "unknown"
