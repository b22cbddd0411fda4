"""`opsctl prune`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, many
from opsctl.errors import OpsError

_DEFAULT = "7d"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "prune", example="opsctl prune --older-than 30d", json=True)
    def prune(
        session: Session,
        older_than: Annotated[
            str | None, typer.Option("--older-than", metavar="7d", help="A number and s, m, h, d or w.")
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only print what would go.")] = False,
    ) -> None:
        """Clear away closed drafts, archive ended runs.

        Drafts go from ops/drafts, runs to refs/notes/ops/runs-archive. History keeps both, and decisions are never
        touched. Without --older-than runs go after OPSCTL_RUN_TTL (default: 7d), drafts after 7d.
        """
        workspace = session.workspace
        drafts_age, runs_age = duration(older_than or _DEFAULT), _run_age(older_than, os.environ)
        drafts = workspace.drafts.prune(drafts_age, dry_run=dry_run)
        runs = workspace.runs.prune(runs_age, dry_run=dry_run)
        found = [*(f"d_{ulid}" for ulid in drafts), *(f"r_{ulid}" for ulid in runs)]
        if session.as_json:
            return session.emit(found)
        for name in found:
            session.data(name)
        session.say(f"{many(len(drafts), 'closed draft')} {'would go' if dry_run else 'removed'}")
        if runs:
            session.say(f"{many(len(runs), 'run')} {'would go to the archive' if dry_run else 'archived'}")
        return None


def _run_age(given: str | None, environ: Mapping[str, str]) -> timedelta:
    """How long a run stays in the record after its end. Raises `bad_input`, `bad_config`."""
    if given:
        return duration(given)
    try:
        return duration(environ.get("OPSCTL_RUN_TTL") or _DEFAULT)
    except OpsError as error:
        raise OpsError("bad_config", f"OPSCTL_RUN_TTL: {error.message}", hint=error.hint) from None


def duration(text: str) -> timedelta:
    """A duration such as 7d. Raises `bad_input`."""
    match = re.fullmatch(r"([0-9]{1,5})([smhdw])", text)
    if match is None:
        raise OpsError("bad_input", f"not a duration: {text[:40]!a}", hint="a number and s, m, h, d or w, such as 7d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])
