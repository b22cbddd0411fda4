"""What the trust rule is asked with and what it answers: readers of objects and chain, standing, judgement. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from opsctl import policyfile
from opsctl.errors import OpsError
from opsctl.gitobject import Commit, Entry
from opsctl.models import Decision, Policy
from opsctl.treediff import lookup


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
    entry = lookup(objects, commit.tree, policyfile.POLICY_PATH)
    if entry is None:
        raise OpsError("corrupt_object", f"{oid[:12]} has no policy file")
    return Standing(root, oid, commit.tree, policyfile.parse(objects.blob(entry.oid)))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a commit decided, what is in force after it, and the topic commits that it made reachable."""

    decision: Decision
    standing: Standing
    topic: tuple[str, ...] = ()


def committed_at(commit: Commit) -> datetime:
    """The committer's time, which proves nothing: it is shown, never judged. Out of range: the year 9999."""
    seconds = int(commit.committer.rsplit(" ", 2)[1])
    return datetime.fromtimestamp(min(seconds, 253402300799), UTC)
