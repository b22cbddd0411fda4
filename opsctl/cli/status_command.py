"""`opsctl status`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, age, many
from opsctl.errors import EXIT

if TYPE_CHECKING:
    from opsctl.workspace.status import Status


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "status", example="opsctl status", json=True)
    def status(session: Session) -> int:
        """The gate at a glance.

        Open or closed, what waits, who you are here, what is not published.
        """
        found = session.workspace.status()
        if session.as_json:
            session.emit(found.as_json())
        else:
            for name, value in _rows(found):
                if value not in (None, "", 0):
                    session.data(f"{name:<18} {value}")
        return 0 if found.gate == "open" else EXIT["integrity"]


def _rows(found: Status) -> Iterable[tuple[str, object]]:
    """What a person reads, empty values included."""
    for name, value in found.as_json().items():
        yield name.replace("_", " "), _spoken(found).get(name, value)


def _spoken(found: Status) -> dict[str, str]:
    """The values that need more words than they have in JSON."""
    lacking = [f"{many(count, 'decision')} ({name})" for name, count in found.not_published or ()]
    behind = f"another clone here has seen {found.behind} more decisions; opsctl sync"
    return {
        "drift": "; ".join(found.drift),
        "last_decision": f"{age(datetime.fromisoformat(found.last_decision))} ago" if found.last_decision else "",
        "last_sync": f"{age(datetime.fromisoformat(found.last_sync))} ago" if found.last_sync else "",
        "not_published": "; ".join(lacking),
        "revoked_unsigned": ", ".join(found.revoked_unsigned or ()),
        "behind": behind if found.behind else "",
    }
