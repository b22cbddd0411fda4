"""`opsctl provider list|use|check|init|path`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.options import complete_provider
from opsctl.cli.session import Session
from opsctl.errors import EXIT, OpsError

if TYPE_CHECKING:
    from opsctl.providers.port import ProviderSettings

_CHECK_S = 3.5
"""Seconds that a provider has; starting and ending take the rest of the five."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="Which one.", autocompletion=complete_provider)]
OneOrAll = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Default: all.", autocompletion=complete_provider)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Models that write drafts: which there are, which one is active.",
        no_args_is_help=True,
        epilog="Example: opsctl provider init && opsctl provider check",
    )
    app.add_typer(group, name="provider")
    _looking(group)
    _changing(group)


def _looking(group: typer.Typer) -> None:
    @command(group, "list", example="opsctl provider list", json=True)
    def list_(session: Session) -> None:
        """List the providers of your configuration.

        Keys are never shown, only whether they are set.
        """
        from opsctl.providers.settings import load

        file = load(session.places)
        rows = [_row(file.active, settings) for settings in file.providers.values()]
        if session.as_json:
            return session.emit({"active": file.active, "providers": rows, "faults": _faults(file.faults)})
        columns = {"name": "yellow", "active": "green", "type": None, "key": None, "address": None, "model": None}
        names = ("name", "active", "type", "key", "base_url", "model")
        session.table(columns, ([_cell(row[name]) for name in names] for row in rows))
        for name, fault in _faults(file.faults).items():
            session.say(f"{name} cannot be used: {fault}")
        if not rows and not file.faults and session.out_is_terminal:
            session.say("no providers; opsctl provider init writes a file to begin with")
        return None

    @command(group, "path", example="opsctl provider path")
    def path(session: Session) -> None:
        """Print where the file is."""
        from opsctl.providers.settings import path_of

        session.data(str(path_of(session.places)))

    @command(group, "check", example="opsctl provider check", json=True)
    def check(
        session: Session,
        name: OneOrAll = None,
    ) -> int:
        """Ask all providers, side by side, whether they answer.

        Takes 5 seconds at most. Exits with 7 where none does.
        """
        from opsctl.providers.checking import check_all

        found = check_all(session.places, os.environ, name, deadline_s=_CHECK_S)
        if session.as_json:
            session.emit([{"name": one, **health.as_json()} for one, health in found.items()])
        else:
            columns = {"name": "yellow", "health": None, "latency": None, "model": None, "message": "dim"}
            rows = (
                [one, "ok" if h.ok else "down", f"{h.latency_s * 1000:.0f} ms", _has(h.model), h.message]
                for one, h in found.items()
            )
            session.table(columns, rows)
        return 0 if any(health.ok for health in found.values()) else EXIT["provider"]


def _has(model: bool | None) -> str:
    return {True: "there", False: "missing", None: "?"}[model]


def _changing(group: typer.Typer) -> None:
    @command(group, "use", example="opsctl provider use lm_studio", json=True)
    def use(session: Session, name: Name) -> None:
        """Make a provider the active one.

        Nothing else of the file changes.
        """
        from opsctl.providers.settings import use

        file = use(session.places, name)
        if session.as_json:
            return session.emit({"active": file.active})
        return session.say(f"{name} is the active provider")

    @command(group, "init", example="opsctl provider init", json=True)
    def init(session: Session) -> None:
        """Write a provider.json to begin with.

        Finds a local Ollama, LM Studio or llama.cpp by itself. A file that is there stays as it is.
        """
        from opsctl.providers.checking import begin

        file, said = begin(session.places, os.environ)
        if session.as_json:
            return session.emit({"path": str(file.path), "active": file.active, "found": said})
        session.result(str(file.path))
        for line in said:
            session.say(line)
        return session.say(f"active: {file.active}; change it with opsctl provider use NAME, or in {file.path}")


def _row(active: str | None, settings: ProviderSettings) -> dict[str, object]:
    key = settings.key
    state = "none" if key is None else f"{key} is {'set' if os.environ.get(key) else 'not set'}"
    return {
        "name": settings.name,
        "active": settings.name == active,
        "type": settings.type,
        "key": state,
        "base_url": settings.base_url,
        "model": settings.model,
    }


def _cell(value: object) -> str:
    return ("active" if value else "") if isinstance(value, bool) else str(value)


def _faults(faults: Mapping[str, OpsError]) -> dict[str, str]:
    return {name: fault.message for name, fault in faults.items()}
