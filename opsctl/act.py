"""One commit on the bench: the trailers that its kind must have, who signed it, what it changes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from opsctl.gitobject import Commit, Entry
from opsctl.message import MalformedMessage, parse_trailers, subject
from opsctl.models import Decision, Policy, Signer
from opsctl.quorum import signed_by
from opsctl.standing import Judgement, Ledger, Objects, Standing, committed_at
from opsctl.treediff import Changes
from opsctl.violation import Violation

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


@dataclass(frozen=True, slots=True)
class Act:
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
        """The policy in force before it."""
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


def judged(
    act: Act,
    signer: Signer,
    *,
    policy: Policy | None = None,
    topic: tuple[str, ...] = (),
    ulid: str | None = None,
    digest: str | None = None,
    blob: str | None = None,
    votes: tuple[Signer, ...] = (),
) -> Judgement:
    """The judgement on an act that passed."""
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


def read_trailers(commit: Commit, kind: str | None) -> dict[str, str]:
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


def only_change(act: Act, *, added: bool) -> tuple[str, Entry]:
    """The one file that the commit adds (or deletes)."""
    rows = list(act.changes.items())
    if len(rows) == 1:
        path, (old, new) = rows[0]
        if added and old is None and new is not None:
            return path, new
        if not added and new is None and old is not None:
            return path, old
    verb = "adds" if added else "deletes"
    raise Violation(act.trailers["Ops-Kind"], f"{verb} not exactly one file; changes {names_of(act.changes)}")


def names_of(changes: Changes) -> str:
    """The paths that differ, for a message."""
    return ", ".join(sorted(changes)) or "nothing"
