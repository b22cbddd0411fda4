"""Both branches at one moment, and what is pending, adrift or closed on the working side then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.git.repo import Repo
from opsctl.gitobject import FILE, Entry
from opsctl.ledger import Ledger
from opsctl.store import APPROVED, DRAFTS
from opsctl.treediff import diff, files, lookup
from opsctl.workspace.again import Again, Kept
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.worklog import WorkLog

MOST = 200_000
"""Files that may differ on ops/drafts; a bound on what a stranger's tree can make this process do."""


@dataclass(eq=False)
class Snapshot:
    """Both branches at one moment. `gate` is None while the gate is closed; then `fault` says why.

    The working side is looked at only when it is asked for: whatever is wrong there keeps nobody from what is approved.
    """

    repo: Repo
    gate: Gate | None
    fault: OpsError | None
    ledger: Ledger
    reachable: Callable[[str], bool]
    drafts_tip: str | None
    revoked: Mapping[str, Again] = field(default_factory=dict)
    """Revocations by id that were confirmed here and wait to be signed again: they hold like those on the line."""

    def moved(self, drafts: str) -> Snapshot:
        """The state after `ops/drafts` alone was moved, by a writer who holds the lock."""
        return replace(self, drafts_tip=drafts)

    def require_gate(self) -> Gate:
        """The gate, or the fault that closes it."""
        if self.gate is None:
            raise self.fault or OpsError("bad_history", "the gate is closed")
        return self.gate

    @property
    def drafts(self) -> str:
        """The tip of `ops/drafts`. Raises what closes the gate, if anything, else `no_gate`, when it is missing."""
        if self.drafts_tip is None:
            raise self.fault or no_drafts()
        return self.drafts_tip

    @property
    def pending(self) -> dict[str, Entry]:
        """Files of pending drafts by id, oldest first."""
        return self._sorted[0]

    @property
    def drift(self) -> dict[str, str]:
        """Paths below `ops/` that are no drafts, and what is wrong with them."""
        return self._sorted[1]

    @cached_property
    def closed(self) -> dict[str, Entry]:
        """Files of rejected and failed drafts by id, oldest first."""
        top = lookup(self.repo, self.repo.commit(self.drafts).tree, "closed")
        if top is None or not top.is_folder:
            return {}
        rows = [
            (ids.ulid_of_path(f"closed/{path}", top="closed"), entry)
            for path, entry in files(self.repo, top.oid, limit=MOST, depth=3).items()
        ]
        return {ulid: entry for ulid, entry in sorted(rows, key=str) if ulid and entry.mode == FILE}

    @cached_property
    def work(self) -> WorkLog:
        """The events of the working side."""
        return WorkLog(self.repo, self.ledger, self.reachable, self.drafts)

    @cached_property
    def _sorted(self) -> tuple[dict[str, Entry], dict[str, str]]:
        """Files of `ops/drafts` that `ops/approved` lacks: drafts by id, and what else differs there by path."""
        pending: dict[str, Entry] = {}
        drift: dict[str, str] = {}
        new_folder = self._folder(self.repo.commit(self.drafts).tree)
        old_folder = self._folder(self.gate.standing.tree if self.gate else self._last_good_tree())
        for inner, (old, new) in diff(self.repo, old_folder, new_folder, limit=MOST, depth=3).items():
            path = f"ops/{inner}"
            ulid = ids.ulid_of_path(path)
            if ulid is None:
                drift[path] = "no draft belongs there"
            elif old is not None or (self.gate and self.gate.scratch.decided(ulid)):
                drift[path] = "is missing" if new is None else "is not what was decided"
            elif new is None or new.mode != FILE:
                drift[path] = f"has mode {new.mode if new else None}, not {FILE}"
            else:
                pending[ulid] = new
        return dict(sorted(pending.items())), drift

    def _last_good_tree(self) -> str | None:
        """What pending is measured against while the gate is closed: drafts are readable all the same."""
        good = self.fault.detail.get("good") if self.fault else None
        tip = str(good) if good else self.repo.ref(APPROVED)
        try:
            return self.repo.commit(tip).tree if tip else None
        except OpsError:
            return None

    def _folder(self, tree: str | None) -> str | None:
        entry = lookup(self.repo, tree, "ops") if tree else None
        return entry.oid if entry and entry.is_folder else None


def take(base: Base) -> Snapshot:
    """The state now. A closed gate is part of it; what else goes wrong is raised."""
    revoked = Kept(base.memory()).revoked() if base.pin else {}  # before the tip: who signs one takes it out after
    try:
        gate = base.gate()
    except OpsError as fault:
        if fault.kind != "integrity" and fault.code != "no_trust":
            raise
        ledger = Ledger(None, "") if fault.code == "no_trust" else base.history().ledger
        return Snapshot(base.repo, None, fault, ledger, partial(ledger.reachable, upto=ledger.count), _drafts(base))
    return Snapshot(base.repo, gate, None, gate.scratch.ledger, gate.scratch.reachable, _drafts(base), revoked)


def _drafts(base: Base) -> str | None:
    return base.repo.ref(DRAFTS)


def no_drafts() -> OpsError:
    """The error for a missing working side."""
    hint = "`opsctl doctor --fix` makes it anew from ops/approved and the topics"
    return OpsError("no_gate", "the branch ops/drafts is missing", hint=hint)
