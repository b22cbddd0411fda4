"""`opsctl doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from opsctl import text
from opsctl.cli.app import command
from opsctl.cli.session import Session
from opsctl.errors import EXIT

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "doctor", example="opsctl doctor --fix", json=True)
    def doctor(
        session: Session,
        fix: Annotated[bool, typer.Option("--fix", help="Mend what needs no decision of a person.")] = False,
    ) -> int:
        """Look for what is wrong, and name the way out.

        Looks at versions, locks, refs, drift, policy and objects, and names the last good tip.
        """
        checks = session.workspace.doctor.examine(fix=fix)
        if session.as_json:
            session.emit([{"level": c.level, "name": c.name, "message": c.message, "hint": c.hint} for c in checks])
        for check in [] if session.as_json else checks:
            level = session.paint(f"{check.level:<7}", _COLOURS[check.level])
            session.raw_line(f"{level}  {check.name}: {text.one_line(check.message, 600)}")
            if check.hint and check.level != "ok":
                session.raw_line(f"         hint: {text.one_line(check.hint, 600)}")
        return EXIT["integrity"] if any(check.level == "problem" for check in checks) else 0
