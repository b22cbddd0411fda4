"""`opsctl log`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.options import OptionalId
from opsctl.cli.session import Session
from opsctl.document import short
from opsctl.models import Decision, Step, decision_json, step_json, utc


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "log", example="opsctl log --limit 20", json=True)
    def log(
        session: Session,
        identifier: OptionalId = None,
        limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")] = None,
    ) -> None:
        """Every decision: when, who, what, with which key.

        Of one item, if an id is given, everything that happened to it: written, edited, voted on, sent back, decided.
        Newest first. Without a key nothing proves the name.
        """
        workspace = session.workspace
        ulid = workspace.resolve(identifier)[1] if identifier is not None else None
        rows: Sequence[Step | Decision] = workspace.steps(ulid) if ulid else workspace.approvals.log()
        rows = rows[:limit]
        if session.as_json:
            session.emit(
                [decision_json(one) if isinstance(one, Decision) else step_json(one, ulid or "") for one in rows]
            )
            return
        column = "revision" if ulid else "id"
        columns = {"commit": "yellow", "when": "dim", "who": None, "key": "dim", column: "yellow", "what": None}
        session.table(columns, (_row(session, one, of_one=ulid is not None) for one in rows))


def _row(session: Session, one: Step | Decision, *, of_one: bool) -> list[str]:
    """Whole values for a pipe, short ones for a terminal."""
    is_wide = not session.out_is_terminal
    key = one.signer.fingerprint if one.signer else "-"
    reason = f" ({one.reason})" if one.reason else ""
    about = _revision(one, is_wide) if of_one else _item(one, is_wide)
    shown = key if is_wide or key == "-" else f"{key[:15]}…"
    return [(one.commit or "-")[:12], utc(one.at), _who(one), shown, about, f"{one.subject}{reason}"]


def _who(one: Step | Decision) -> str:
    if isinstance(one, Step):
        return one.by
    others = [vote.principal for vote in one.votes if vote != one.signer]
    return one.signer.principal + (f" +{','.join(others)}" if others else "")


def _item(one: Step | Decision, is_wide: bool) -> str:
    ulid = one.ulid if isinstance(one, Decision) else None
    return "-" if ulid is None else f"a_{ulid}" if is_wide else ulid[-8:]


def _revision(one: Step | Decision, is_wide: bool) -> str:
    return "-" if one.digest is None else one.digest if is_wide else short(one.digest)
