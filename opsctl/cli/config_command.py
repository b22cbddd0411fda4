"""`opsctl config show`."""

from __future__ import annotations

from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session


def register(app: typer.Typer) -> None:
    """Add the command."""
    group = typer.Typer(
        help="What opsctl goes by here, and where it comes from.",
        no_args_is_help=True,
        epilog="Example: opsctl config show --origin",
    )
    app.add_typer(group, name="config")

    @command(group, "show", example="opsctl config show --origin", json=True)
    def show(
        session: Session,
        origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    ) -> None:
        """Show every setting in force."""
        rows = session.workspace.configuration()
        if session.as_json:
            return session.emit([{"name": row.name, "value": row.value, "origin": row.origin} for row in rows])
        if origin:
            columns = {"name": None, "value": "bold", "origin": "dim"}
            return session.table(columns, ((row.name, row.value, row.origin) for row in rows))
        return session.table({"name": None, "value": "bold"}, ((row.name, row.value) for row in rows))
