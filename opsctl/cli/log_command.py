"""`opsctl log`."""

from __future__ import annotations

from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.options import OptionalId
from opsctl.cli.session import Session
from opsctl.models import decision_json, utc


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "log", example="opsctl log --limit 20", json=True)
    def log(
        session: Session,
        identifier: OptionalId = None,
        limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")] = None,
    ) -> None:
        """Every decision, newest first: when, who, what, with which key. Of one item only, if an id is given."""
        workspace = session.workspace
        ulid = workspace.resolve(identifier)[1] if identifier is not None else None
        decisions = workspace.approvals.log(ulid)[:limit]
        if session.as_json:
            session.emit([decision_json(decision) for decision in decisions])
            return
        columns = {"commit": "yellow", "when": "dim", "who": None, "key": "dim", "id": "yellow", "what": None}
        rows = []
        for decision in decisions:
            reason = f" ({decision.reason})" if decision.reason else ""
            others = [vote.principal for vote in decision.votes if vote != decision.signer]
            who = decision.signer.principal + (f" +{','.join(others)}" if others else "")
            what = f"{decision.subject}{reason}"
            key = decision.signer.fingerprint
            shown = f"{key[:15]}…" if session.out_is_terminal else key
            item = (decision.ulid[-8:] if session.out_is_terminal else f"a_{decision.ulid}") if decision.ulid else "-"
            rows.append([decision.commit[:12], utc(decision.at), who, shown, item, what])
        session.table(columns, rows)
