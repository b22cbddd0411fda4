"""`opsctl show`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from opsctl.cli import render
from opsctl.cli.app import command
from opsctl.cli.options import Id
from opsctl.cli.session import Session
from opsctl.models import approved_json, draft_json


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "show", example="opsctl show 4F7K", json=True)
    def show(
        session: Session,
        identifier: Id,
        raw: Annotated[bool, typer.Option("--raw", help="The exact file; on a terminal with nothing hidden.")] = False,
    ) -> None:
        """Show a draft or an approved item.

        Everything hidden in it is made visible.
        """
        workspace = session.workspace
        kind, ulid = workspace.resolve(identifier)
        if kind == "a" or (kind is None and workspace.is_approved(ulid)):
            item, content = workspace.approvals.get(ulid)
            lines, value = render.approved_lines(session, item, content), approved_json(item)
        else:
            draft = workspace.drafts.get(ulid)
            content = workspace.drafts.content(draft)
            lines, value = render.draft_lines(session, draft, content, workspace.steps(ulid)), draft_json(draft)
        if session.as_json:
            session.emit(value)
        elif raw and not session.out_is_terminal:
            sys.stdout.buffer.write(content)
        elif raw:
            session.data(content.decode("utf-8", "replace"))
        else:
            for line in lines:
                session.raw_line(line)
