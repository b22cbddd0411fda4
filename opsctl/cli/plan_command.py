"""`opsctl plan show|set`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.options import Reason, read_file
from opsctl.cli.session import Session
from opsctl.planfile import LIMIT, plan_json

_MARKS = {"done": "x", "doing": ">", "blocked": "!", "todo": " "}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="The active plan: tasks that point at approved items.",
        no_args_is_help=True,
        epilog="Example: opsctl plan show",
    )
    app.add_typer(group, name="plan")

    @command(group, "show", example="opsctl plan show", json=True)
    def show(
        session: Session,
        raw: Annotated[bool, typer.Option("--raw", help="The exact file.")] = False,
    ) -> None:
        """Show the plan in force."""
        plan, data = session.workspace.governing.plan()
        if session.as_json:
            return session.emit(plan_json(plan))
        if raw and not session.out_is_terminal:
            sys.stdout.buffer.write(data)
            return None
        if raw:
            return session.data(data.decode())
        session.data(f"{plan.id}  {plan.title}  ({plan.status})")
        for task in plan.tasks:
            session.data(f"  [{_MARKS[task.status]}] {task.id}  {task.title}  {task.approved_id or ''}".rstrip())
        return None

    @command(group, "set", example="opsctl plan set plan.toml", json=True)
    def set_(
        session: Session,
        file: Annotated[str, typer.Argument(metavar="FILE", help="A plan.toml, or - for standard input.")],
        reason: Reason = None,
    ) -> None:
        """Sign a new plan."""
        plan, decision = session.workspace.governing.set_plan(read_file(file, limit=LIMIT), reason=reason)
        if session.as_json:
            return session.emit(plan_json(plan) | {"commit": decision.commit if decision else None})
        return session.say(
            f"plan {plan.id}: " + (f"signed as {decision.commit[:12]}" if decision else "nothing changed")
        )
