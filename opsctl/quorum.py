"""Enough people: who signed, which votes count, and whether they reach what the policy asks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from unicodedata import normalize

from opsctl import sshsig, topic
from opsctl.gitobject import Commit
from opsctl.message import MalformedMessage, parse_trailers
from opsctl.models import Document, Policy, Rule, Signer
from opsctl.violation import Violation

_OID = re.compile(r"[0-9a-f]{40}")
_WILD = "*?[{!\\"
_NEEDS_PRESENCE = frozenset({"approver", "policy"})


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a vote must name to count: the revision, the repository, the epoch and the policy in force."""

    digest: str
    repo: str
    epoch: int
    policy: str
    ulid: str | None
    """None for a vote on a new policy, whose digest is that of `policy.toml`."""

    def trailers(self) -> dict[str, str]:
        """The trailers that a vote for this ballot carries, but for vote, signer and tip seen."""
        item = {"Ops-Id": self.ulid} if self.ulid else {}
        names = {"Ops-Digest": self.digest, "Ops-Repo": self.repo, "Ops-Epoch": str(self.epoch)}
        return {"Ops-Kind": "vote", **item, **names, "Ops-Policy": self.policy}


@dataclass(frozen=True, slots=True)
class Need:
    """So many of these principals have to sign; the rule that asks for it, or None for the threshold of all."""

    threshold: int
    eligible: frozenset[str]
    rule: Rule | None = None

    def reason(self, document: Document) -> str:
        """Which rule asks, and for want of what in the draft; empty where it is the threshold of all drafts."""
        if self.rule is None:
            return ""
        wanted = [*self.rule.paths, *(f"executor {name}" for name in self.rule.executors)]
        lacks = ["path"] if self.rule.paths and not document.target.paths else []
        lacks += ["executor"] if self.rule.executors and not document.run.executor else []
        why = f": this draft names no {' and no '.join(lacks)}" if lacks else ""
        return f"rule {', '.join(wanted) or 'for every draft'}{why}"


def signed_by(commit: Commit, policy: Policy) -> tuple[Signer, frozenset[str]]:
    """Who signed, by the key alone, and with which roles in effect. Raises `Violation`.

    Under `require_presence` a key without a touch has neither the approver's nor the policy role.
    """
    if commit.gpgsig is None:
        raise Violation("signature", "the commit is not signed")
    try:
        signature = sshsig.parse_signature(commit.gpgsig)
    except sshsig.SignatureFormatError as error:
        raise Violation("signature", f"no SSH signature that counts: {error}") from None
    fingerprint = signature.key.fingerprint
    owner = policy.owners.get(signature.key.line)
    if owner is None:
        raise Violation("signature", f"the key {fingerprint} belongs to no principal of the policy", fingerprint)
    try:
        verified = sshsig.verify(signature, commit.payload, origins=policy.passkey_origins)
    except sshsig.BadSignature as error:
        raise Violation("signature", f"the signature by {owner.name} does not count: {error}", fingerprint) from None
    application = signature.key.application
    if application is not None and not application.startswith("ssh:") and verified.origin is None:
        # the key of a web page, reached around the browser: then nothing vouches for the page that asked
        raise Violation("signature", f"the passkey of {owner.name} signed outside a browser", fingerprint)
    weak = policy.require_presence and not verified.presence
    return Signer(owner.name, fingerprint), owner.roles - _NEEDS_PRESENCE if weak else owner.roles


def signing_key(commit: Commit) -> str | None:
    """The fingerprint that a commit's signature claims, for a message; None where it cannot be read."""
    try:
        return sshsig.parse_signature(commit.gpgsig or b"").key.fingerprint
    except sshsig.SignatureFormatError:
        return None


@dataclass(frozen=True, slots=True)
class Quorum:
    """What a decision needs under a policy."""

    policy: Policy
    role: str
    needs: tuple[Need, ...]

    @classmethod
    def for_document(cls, policy: Policy, document: Document) -> Quorum:
        """The policy's threshold and every matching rule's, over the approvers."""
        everyone = _holders(policy, "approver")
        rules = [rule for rule in policy.rules if _applies(rule, document)]
        needs = [Need(policy.threshold, everyone)]
        needs += [Need(rule.threshold, everyone & set(rule.approvers or everyone), rule) for rule in rules]
        return cls(policy, "approver", tuple(needs))

    @classmethod
    def for_policy(cls, policy: Policy) -> Quorum:
        """As many `policy` principals as the policy's highest threshold."""
        return cls(policy, "policy", (Need(policy.highest_threshold, _holders(policy, "policy")),))

    def decide(self, members: topic.Topic, ballot: Ballot, closer: Signer) -> tuple[Signer, ...]:
        """Those who count, the closer included. Raises `Violation` when they are too few or someone is against."""
        yes, no = self.count(members, ballot)
        yes[closer.principal] = closer
        against = no - {closer.principal}
        if against and self.policy.reject == "block":
            raise Violation("votes", f"{', '.join(sorted(against))} voted against this revision")
        counted = {name: signer for name, signer in yes.items() if name not in self.authors(members)}
        for need in self.missing(counted):
            have = len(need.eligible & counted.keys())
            raise Violation("threshold", f"{have} of {need.threshold} ({', '.join(sorted(need.eligible))} may sign)")
        return tuple(counted[name] for name in sorted(counted))

    def missing(self, names: Iterable[str]) -> list[Need]:
        """The needs that these principals do not meet."""
        return [need for need in self.needs if len(need.eligible & set(names)) < need.threshold]

    def count(self, members: topic.Topic, ballot: Ballot) -> tuple[dict[str, Signer], set[str]]:
        """Those whose last word is yes, and those whose last word is no.

        A vote counts when it names the ballot, is by a principal with the role, changes nothing, and has every
        change of content among its ancestors. Of one person's votes those stand that no later one follows; where
        two lines of the topic disagree, the cautious reading holds.
        """
        votes = self._valid_votes(members, ballot)
        superseded: dict[str, int] = {}
        for member, signer, _ in votes:
            superseded[signer.principal] = superseded.get(signer.principal, 0) | member.ancestors
        standing: dict[str, set[str]] = {}
        signers: dict[str, Signer] = {}
        for member, signer, word in votes:
            if not superseded[signer.principal] >> member.index & 1:
                standing.setdefault(signer.principal, set()).add(word)
                signers[signer.principal] = signer
        yes = {name: signers[name] for name, words in standing.items() if words == {"approve"}}
        return yes, {name for name, words in standing.items() if "reject" in words}

    def authors(self, members: topic.Topic) -> set[str]:
        """Who wrote or edited the text, where the policy keeps that apart; then those commits must be signed."""
        if not self.policy.separation_of_duties or self.role != "approver":
            return set()
        names = set()
        for member in members.values():
            if member.changed:
                try:
                    names.add(signed_by(member.commit, self.policy)[0].principal)
                except Violation as fault:
                    message = f"who wrote {member.oid[:12]} is not proven: {fault.message}"
                    raise Violation("author", message, fault.fingerprint) from None
        return names

    def _valid_votes(self, members: topic.Topic, ballot: Ballot) -> list[tuple[topic.Member, Signer, str]]:
        content = topic.changes_of(members)
        found = []
        for member in members.values():
            if member.changed or len(member.commit.parents) != 1 or content & ~member.ancestors:
                continue
            trailers = _vote_trailers(member.commit, ballot)
            if trailers is None:
                continue
            try:
                signer, roles = signed_by(member.commit, self.policy)
            except Violation:
                continue  # a vote that does not verify is no vote; it spoils nothing else
            word = trailers["Ops-Vote"]
            weak = word == "approve" and self.role not in roles
            if signer.principal == trailers["Ops-Signer"] and self._is_holder(signer.principal) and not weak:
                found.append((member, signer, word))
        return found

    def _is_holder(self, name: str) -> bool:
        return name in _holders(self.policy, self.role)


def _vote_trailers(commit: Commit, ballot: Ballot) -> Mapping[str, str] | None:
    """The trailers of a vote for this ballot, or None."""
    try:
        trailers = parse_trailers(commit.message)
    except MalformedMessage:
        return None
    expected = ballot.trailers()
    rest = {name: value for name, value in trailers.items() if name not in expected}
    if any(trailers.get(name) != value for name, value in expected.items()):
        return None
    if (
        not {"Ops-Vote", "Ops-Signer", "Ops-Seen"}
        <= rest.keys()
        <= {"Ops-Vote", "Ops-Signer", "Ops-Seen", "Ops-Reason"}
    ):
        return None
    is_formed = trailers["Ops-Vote"] in ("approve", "reject", "withdraw") and _OID.fullmatch(trailers["Ops-Seen"])
    return trailers if is_formed else None


def _holders(policy: Policy, role: str) -> frozenset[str]:
    return frozenset(who.name for who in policy.principals if role in who.roles)


def _applies(rule: Rule, document: Document) -> bool:
    """A draft that names no path or executor matches every rule that asks for one."""
    executor, paths = document.run.executor, document.target.paths
    if rule.executors and executor and executor not in rule.executors:
        return False
    if not rule.paths or not paths:
        return True
    return any(_may_overlap(one, other) for one in rule.paths for other in paths)


def _may_overlap(one: str, other: str) -> bool:
    """False only when the literal beginnings of two globs exclude each other; case is ignored, to be cautious."""
    first, second = _literal(one), _literal(other)
    return first.startswith(second) or second.startswith(first)


def _literal(glob: str) -> str:
    end = min((place for mark in _WILD if (place := glob.find(mark)) >= 0), default=len(glob))
    return normalize("NFC", normalize("NFC", glob[:end]).casefold())  # one folder on macOS, however it is spelled
