"""`opsctl config show`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session
from opsctl.errors import OpsError


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
        rows = _rows(session)
        if session.as_json:
            return session.emit([{"name": name, "value": value, "origin": where} for name, value, where in rows])
        if origin:
            return session.table({"name": None, "value": "bold", "origin": "dim"}, rows)
        return session.table({"name": None, "value": "bold"}, (row[:2] for row in rows))


def _rows(session: Session) -> list[tuple[str, str, str]]:
    workspace = session.workspace
    rows = [
        ("repository", str(workspace.repo.common), "-C or the current folder"),
        ("config_home", str(workspace.places.config), "XDG_CONFIG_HOME or HOME"),
        ("state_home", str(workspace.places.state), "XDG_STATE_HOME or HOME"),
        _env("lock_wait_s", "OPSCTL_LOCK_WAIT", "10"),
        _env("sign_timeout_s", "OPSCTL_SIGN_TIMEOUT", "90 at a terminal, else 5"),
    ]
    pin = workspace.pin
    if pin:
        pinned = workspace.pins.find(workspace.repo.common) is not None
        rows.append(("trust_root", pin.root, str(workspace.pins.path) if pinned else "OPSCTL_TRUST_ROOT"))
    try:
        identity = workspace.signer.identity
        rows.append(("signing_key", identity.key.fingerprint, identity.source))
    except OpsError as error:
        rows.append(("signing_key", "none", error.message))
    for setting in workspace.settings:
        if setting.key.startswith(("user.", "gpg.", "opsctl.")):
            rows.append((setting.key, setting.value, f"{setting.scope} {setting.origin}"))
    return rows


def _env(name: str, variable: str, default: str) -> tuple[str, str, str]:
    value = os.environ.get(variable)
    return (name, value, variable) if value else (name, default, "default")
