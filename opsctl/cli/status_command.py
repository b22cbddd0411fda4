"""`opsctl status`."""

from __future__ import annotations

from datetime import datetime

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, age, many
from opsctl.errors import EXIT, OpsError
from opsctl.models import utc


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "status", example="opsctl status", json=True)
    def status(session: Session) -> int:
        """The gate at a glance: open or closed, what waits for whom, what is not published."""
        row = _status(session)
        if session.as_json:
            session.emit(row)
        else:
            for name, value in row.items():
                if name in ("last_sync", "last_decision") and value:
                    value = f"{age(datetime.fromisoformat(str(value)))} ago"
                if value not in (None, [], {}, 0, ""):
                    shown = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
                    session.data(f"{name.replace('_', ' '):<18} {shown}")
        return 0 if row["gate"] == "open" else EXIT["integrity"]


def _status(session: Session) -> dict[str, object]:
    workspace = session.workspace
    state = workspace.desk.now
    pending = workspace.drafts.list()
    row: dict[str, object] = {
        "gate": "open" if state.gate else "closed",
        "fault": state.fault.message if state.fault else None,
        "audience": state.gate.policy.audience if state.gate else None,
        "root": state.gate.standing.root if state.gate else None,
        "tip": state.gate.tip if state.gate else None,
        "decisions": state.gate.count if state.gate else None,
        "approved": state.ledger.live(state.gate.scratch.upto) if state.gate else None,
        "pending": len(pending),
        "changes_asked": sum(draft.reason is not None for draft in pending),
        "unreadable": sum(draft.error is not None for draft in pending),
        "closed": len(workspace.desk.closed_entries),
        "drift": [f"{path} {what}" for path, what in state.drift.items()],
    }
    return row | (_around(session) if state.gate else {})


def _around(session: Session) -> dict[str, object]:
    """Who I am here, and how this clone stands to others."""
    workspace = session.workspace
    gate = workspace.desk.now.require_gate()
    try:
        me: str | None = workspace.approvals.me(gate)
    except OpsError as error:
        me = f"nobody ({error.message})"
    mark, ledger = workspace.memory().load(), workspace.desk.now.ledger
    newest = next(iter(ledger.decisions(gate.scratch.upto)), None)
    behind = [one.count - gate.count for one in workspace.memory().neighbours() if one.count > gate.count]
    return {
        "you_are": me,
        "last_decision": utc(newest.at) if newest else None,
        "last_sync": mark.at if mark else None,
        "not_published": [
            f"{many(count, 'decision')} ({name})" for name, count in workspace.syncing.unpublished() if count
        ],
        "to_sign_again": workspace.syncing.waiting(),
        "behind": f"another clone here has seen {max(behind)} more decisions; opsctl sync" if behind else None,
    }
