"""The verified history: walks `ops/approved`, applies the trust rule to what is new, and remembers the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from opsctl.errors import OpsError
from opsctl.gitobject import MalformedObject
from opsctl.ledger import Ledger
from opsctl.models import Finding
from opsctl.policy import judge, judge_root
from opsctl.quorum import signing_key
from opsctl.standing import Judgement, Objects, Standing, standing_at
from opsctl.violation import Violation

if TYPE_CHECKING:
    from opsctl.ahead import Crew


class Chain(Objects, Protocol):
    """Objects, and a quick way along first parents."""

    def first_parent(self, oid: str) -> str | None:
        """The first parent of a commit of which nothing else is checked; None where that takes a closer look."""


Progress = Callable[[int, int], None]
"""Called with how many commits are done and how many there are."""

LONG = 2000
"""Commits for which helper processes are worth their start."""

_PAGE = 2000


class BrokenHistory(Exception):
    """The chain is not what the rule allows; `good` is the newest commit up to which it is, if any."""

    def __init__(self, finding: Finding, good: str | None) -> None:
        super().__init__(finding.message)
        self.finding = finding
        self.good = good


@dataclass
class Scratch:
    """A ledger for the rule: what is remembered up to a position, and what was judged since."""

    ledger: Ledger
    upto: int
    at: str | None
    """The remembered commit at that position."""

    ulids: set[str] = field(default_factory=set)
    commits: set[str] = field(default_factory=set)
    chain: list[str] = field(default_factory=list)
    """Judged commits of the chain itself that are not in the ledger, oldest first."""

    def decided(self, ulid: str) -> bool:
        """True if the chain ever approved the id."""
        return ulid in self.ulids or self.ledger.decided(ulid, self.upto)

    def reachable(self, oid: str) -> bool:
        """True if the commit is on the chain or merged into it."""
        return oid in self.commits or self.ledger.reachable(oid, self.upto)

    def take(self, judgement: Judgement) -> None:
        """Count a judged commit in."""
        self.chain.append(judgement.decision.commit)
        self.commits.update(judgement.topic, (judgement.decision.commit,))
        if judgement.decision.kind == "approve" and judgement.decision.ulid:
            self.ulids.add(judgement.decision.ulid)


class History:
    """One chain, from its pinned root."""

    def __init__(self, objects: Chain, ledger: Ledger, root: str, *, common: Path | None = None) -> None:
        """With `common`, the repository's common directory, helper processes may judge a long new history ahead."""
        self._objects = objects
        self._common = common
        self.ledger = ledger
        self.root = root

    def verify(self, tip: str, *, progress: Progress | None = None, keep: bool = True) -> tuple[Standing, Scratch]:
        """Judge every commit up to `tip` that is not remembered. Raises `BrokenHistory`.

        With `keep` the outcome is remembered; without, nothing is written (for what a remote offers). The scratch
        ledger stands at `tip`. What is remembered past `tip` stays: another process may be ahead of this one.
        """
        fresh, base = self._fresh(tip)
        scratch = Scratch(self.ledger, base, self.ledger.commit_at(base) if base >= 0 else None)
        standing = standing_at(self.root, self.ledger.commit_at(base), self._objects) if base >= 0 else None
        pending: list[Judgement] = []
        with self._crew(fresh, base) as crew:
            for done, oid in enumerate(fresh, 1):
                ahead = crew.judgement(done - 1, standing, scratch) if crew and standing else None
                judgement = ahead or self._judged(oid, standing, scratch, pending if keep else [])
                standing = judgement.standing
                scratch.take(judgement)
                pending.append(judgement)
                if keep and (len(pending) == _PAGE or done == len(fresh)):
                    self._remember(scratch, pending)
                if progress:
                    progress(done, len(fresh))
        if standing is None:
            raise RuntimeError("a chain has at least its root")
        return standing, scratch

    def _crew(self, fresh: Sequence[str], base: int) -> AbstractContextManager[Crew | None]:
        """Helpers for a long history of which nothing is remembered, else none."""
        if self._common is None or base >= 0 or len(fresh) < LONG:
            return nullcontext()
        from opsctl.ahead import Crew  # a short history must not pay for it

        return Crew(self._common, fresh)

    def _remember(self, scratch: Scratch, pending: list[Judgement]) -> None:
        """Move judged commits from the scratch sets into the ledger, if it takes them."""
        if pending:
            self.ledger.append(scratch.upto + 1, pending, after=scratch.at)
            scratch.at = pending[-1].decision.commit
            scratch.upto += len(pending)
            scratch.ulids.clear()
            scratch.commits.clear()
            scratch.chain.clear()
            pending.clear()

    def _judged(self, oid: str, before: Standing | None, scratch: Scratch, pending: list[Judgement]) -> Judgement:
        try:
            commit = self._objects.commit(oid)
            if before is None:
                return judge_root(oid, commit, self._objects)
            return judge(oid, commit, before, self._objects, scratch)
        except Violation as fault:
            finding = Finding(oid, fault.rule, fault.message, fault.fingerprint or signing_key(commit))
        except MalformedObject as error:
            finding = Finding(oid, "form", str(error))
        except OpsError as error:
            if error.kind == "environment":
                raise
            finding = Finding(oid, "object", f"{error.message}{f' ({error.cause})' if error.cause else ''}")
        self._remember(scratch, pending)
        raise BrokenHistory(finding, before.tip if before else None)

    def _fresh(self, tip: str) -> tuple[list[str], int]:
        """The commits to judge, oldest first, and the position of the remembered commit below them (-1: none)."""
        fresh: list[str] = []
        oid, is_empty = tip, self.ledger.count == 0
        while is_empty or (place := self.ledger.position(oid)) is None:
            fresh.append(oid)
            if oid == self.root:
                return fresh[::-1], -1
            oid = self._first_parent(oid)
        return fresh[::-1], place

    def _first_parent(self, oid: str) -> str:
        try:
            found = self._objects.first_parent(oid)
            if found:
                return found
            parents = self._objects.commit(oid).parents
        except MalformedObject as error:
            raise BrokenHistory(Finding(oid, "form", str(error)), None) from None
        except OpsError as error:
            if error.kind == "environment":
                raise
            message = f"history incomplete: {error.message}"
            raise BrokenHistory(Finding(oid, "history", message), None) from None
        if not parents:
            message = f"the history begins with {oid[:12]}, not with the pinned root {self.root[:12]}"
            raise BrokenHistory(Finding(oid, "root", message), None)
        return parents[0]
