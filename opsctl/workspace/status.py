"""Use case `status`: the gate at a glance, who acts here, and how this clone stands to others."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from opsctl.errors import OpsError
from opsctl.models import utc
from opsctl.workspace.approvals import Approvals
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.desk import Desk
from opsctl.workspace.syncing import Syncing


@dataclass(frozen=True, slots=True)
class Status:
    """What there is. While the gate is closed `fault` says why, and what only an open one can tell is None."""

    gate: str
    """`open` or `closed`."""

    fault: str | None
    audience: str | None
    root: str | None
    tip: str | None
    decisions: int | None
    approved: int | None
    pending: int
    changes_asked: int
    unreadable: int
    closed: int
    drift: tuple[str, ...]
    you_are: str | None = None
    """The principal whose key signs here, or `nobody` and why."""

    last_decision: str | None = None
    """When the newest decision was made, by its signer's clock, UTC."""

    last_sync: str | None = None
    """When a remote last brought or confirmed something, UTC."""

    not_published: tuple[tuple[str, int], ...] | None = None
    """For each remote that lacks some: its name, and how many decisions."""

    to_sign_again: int | None = None
    revoked_unsigned: tuple[str, ...] | None = None
    """Items whose revocation is among those: they are not served here all the same."""

    behind: int | None = None
    """How many more decisions another clone on this machine has seen."""

    def as_json(self) -> dict[str, object]:
        """The status as `--json` and HTTP print it."""
        rows = [{"remote": name, "decisions": count} for name, count in self.not_published or ()]
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        revoked = None if self.revoked_unsigned is None else list(self.revoked_unsigned)
        plain |= {"drift": list(self.drift), "revoked_unsigned": revoked}
        return {**plain, "not_published": None if self.not_published is None else rows}


def read(base: Base, desk: Desk, approvals: Approvals, syncing: Syncing) -> Status:
    """The status now."""
    state, pending = desk.now, desk.pending()
    gate = state.gate
    status = Status(
        gate="open" if gate else "closed",
        fault=state.fault.message if state.fault else None,
        audience=gate.policy.audience if gate else None,
        root=gate.standing.root if gate else None,
        tip=gate.tip if gate else None,
        decisions=gate.count if gate else None,
        approved=state.ledger.live(gate.scratch.upto) if gate else None,
        pending=len(pending),
        changes_asked=sum(draft.reason is not None for draft in pending),
        unreadable=sum(draft.error is not None for draft in pending),
        closed=len(desk.now.closed),
        drift=tuple(f"{path} {what}" for path, what in state.drift.items()),
    )
    return _with_people(status, base, desk, gate, approvals, syncing) if gate else status


def _with_people(status: Status, base: Base, desk: Desk, gate: Gate, approvals: Approvals, syncing: Syncing) -> Status:
    """Who I am here, and how this clone stands to others."""
    try:
        me = approvals.me(gate)
    except OpsError as error:
        me = f"nobody ({error.message})"
    memory = base.memory()
    newest = next(iter(desk.now.ledger.decisions(gate.scratch.upto)), None)
    mark = memory.load()
    ahead = [one.count - gate.count for one in memory.neighbours() if one.count > gate.count]
    return replace(
        status,
        you_are=me,
        last_decision=utc(newest.at) if newest else None,
        last_sync=mark.at if mark else None,
        not_published=tuple((name, count) for name, count in syncing.unpublished() if count),
        to_sign_again=syncing.waiting(),
        revoked_unsigned=tuple(f"a_{ulid}" for ulid in desk.now.revoked),
        behind=max(ahead, default=None),
    )
