"""`opsctl runner list|check|add`."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session
from opsctl.errors import OpsError

if TYPE_CHECKING:
    from opsctl.runners import Runner

Name = Annotated[str, typer.Argument(metavar="NAME", help="claude, codex, aider, or a name of yours.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Programs of yours that carry out approved items.",
        no_args_is_help=True,
        epilog="Example: opsctl runner add claude && opsctl runner check claude",
    )
    app.add_typer(group, name="runner")

    @command(group, "list", example="opsctl runner list", json=True)
    def list_(session: Session) -> None:
        """List the runners of your configuration."""
        from opsctl.runners import load

        runners = load(session.places)
        if session.as_json:
            return session.emit([_row(runners.chosen, one) for one in runners.known.values()])
        if not runners.known and session.out_is_terminal:
            return session.say(
                "no runners; opsctl runner add claude, or a program of yours: opsctl runner add NAME -- CMD"
            )
        columns = {"name": "yellow", "default": None, "network": None, "found": None, "command": None}
        rows = ([str(cell) for cell in _cells(runners.chosen, one)] for one in runners.known.values())
        return session.table(columns, rows)

    @command(group, "add", example="opsctl runner add check -- python3 agent.py", json=True)
    def add(
        session: Session,
        name: Name,
        argv: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND…]", help="Of a runner of yours.")] = None,
        env: Annotated[list[str], typer.Option("--env", metavar="NAME", help="A variable it gets too.")] = [],
        writes: Annotated[list[str], typer.Option("--writes", metavar="DIR", help="A folder it may write.")] = [],
        network: Annotated[bool, typer.Option("--network", help="It needs the network.")] = False,
        timeout: Annotated[int | None, typer.Option("--timeout", metavar="S", min=1, help="Seconds at most.")] = None,
        force: Annotated[bool, typer.Option("--force", help="In place of one of that name.")] = False,
    ) -> None:
        """Write a runner into your configuration.

        A preset, or a command of yours after --.
        """
        from opsctl.runners import DEFAULT_ENV, PRESETS, Runner, add

        preset = PRESETS.get(name)
        if preset is None and not argv:
            known = ", ".join(PRESETS)
            hint = f"opsctl runner add {name} -- COMMAND ARGUMENTS"
            raise OpsError("usage", f"no preset {name[:40]!a} (there are {known}), and no command after --", hint=hint)
        runner = preset or Runner(name, tuple(argv or ()), DEFAULT_ENV)
        runner = replace(runner, command=tuple(argv)) if argv else runner
        runner = replace(
            runner,
            env=tuple(dict.fromkeys((*runner.env, *env))),
            writes=(*runner.writes, *writes),
            network=runner.network or network,
            timeout_s=timeout or runner.timeout_s,
        )
        runners = add(session.places, runner, replace=force)
        if session.as_json:
            return session.emit(_row(runners.chosen, runners.known[name]))
        session.result(name)
        session.say(f"{name} is in {runners.path}; try it: opsctl runner check {name}")
        if runner.network:
            session.say("it needs the network: opsctl draft --network, and allow_network = true in the policy")
        return None

    @command(group, "check", example="opsctl runner check claude", json=True)
    def check(
        session: Session,
        name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: the default runner.")] = None,
        timeout: Annotated[
            int, typer.Option("--timeout", metavar="S", min=1, max=3600, help="Seconds it may take.")
        ] = 180,
        sandbox: Annotated[bool | None, typer.Option("--sandbox/--no-sandbox", show_default=False)] = None,
    ) -> int:
        """Let a runner do one real small edit.

        In a scratch repository; says whether it did.
        """
        from opsctl.executors.trial import trial
        from opsctl.runners import load

        runner = load(session.places).get(name)
        session.say(f"{runner.name} is asked to write one file; this takes as long as it takes")
        hides = _repository(session)
        found = trial(runner, os.environ, session.places, timeout_s=timeout, sandbox=sandbox, hides=hides)
        if session.as_json:
            session.emit(found.as_json())
        else:
            session.data(f"{'ok' if found.ok else 'failed'}\t{runner.name}\t{found.seconds:.1f} s\t{found.message}")
        return 0 if found.ok else 9


def _repository(session: Session) -> list[Path]:
    """What a run from here would not see either: the git folder of the repository, where this is one."""
    with contextlib.suppress(OpsError):
        return [session.workspace.git_folder]
    return []


def _cells(chosen: str | None, runner: Runner) -> list[object]:
    return [
        runner.name,
        "default" if runner.name == chosen else "",
        "network" if runner.network else "",
        _program(runner) or "not found",
        " ".join(runner.command),
    ]


def _row(chosen: str | None, runner: Runner) -> dict[str, object]:
    row = {name: getattr(runner, name) for name in type(runner).__slots__}
    return row | {"default": runner.name == chosen, "program": _program(runner)}


def _program(runner: Runner) -> str | None:
    """Where the program is; of a line for a shell the one that it is named after, as in `sh -c LINE aider`."""
    command = runner.command
    return shutil.which(command[3] if command[:2] == ("sh", "-c") and len(command) > 3 else command[0])
