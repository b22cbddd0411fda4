"""`opsctl prune`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, many
from opsctl.errors import OpsError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "prune", example="opsctl prune --older-than 30d", json=True)
    def prune(
        session: Session,
        older_than: Annotated[
            str, typer.Option("--older-than", metavar="7d", help="A number and s, m, h, d or w.")
        ] = "7d",
        dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only print what would go.")] = False,
    ) -> None:
        """Remove closed drafts from ops/drafts. History keeps them; decisions are never touched."""
        gone = session.workspace.drafts.prune(duration(older_than), dry_run=dry_run)
        if session.as_json:
            return session.emit([f"d_{ulid}" for ulid in gone])
        for ulid in gone:
            session.data(f"d_{ulid}")
        return session.say(f"{many(len(gone), 'closed draft')} {'would go' if dry_run else 'removed'}")


def duration(text: str) -> timedelta:
    """A duration such as 7d. Raises `bad_input`."""
    match = re.fullmatch(r"([0-9]{1,5})([smhdw])", text)
    if match is None:
        raise OpsError("bad_input", f"not a duration: {text[:40]!a}", hint="a number and s, m, h, d or w, such as 7d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])
