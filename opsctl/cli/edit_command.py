"""`opsctl edit`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from opsctl.cli import editor
from opsctl.cli.app import command
from opsctl.cli.options import AllowSecret, Expect, Id, decoded, read_file
from opsctl.cli.session import Session
from opsctl.document import LIMIT, short
from opsctl.errors import OpsError
from opsctl.models import draft_json


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "edit", example="opsctl edit 4F7K --file better.md", json=True)
    def edit(
        session: Session,
        identifier: Id,
        file: Annotated[
            str | None, typer.Option("--file", "-f", metavar="PATH|-", help="The new prompt, verbatim.")
        ] = None,
        title: Annotated[str | None, typer.Option("--title", "-t", metavar="T", help="The new title.")] = None,
        expect: Expect = None,
        allow_secret: AllowSecret = [],
    ) -> None:
        """Give a pending draft a new revision. Without --file or --title your editor opens with the whole file.

        Votes on the old revision no longer count.
        """
        workspace = session.workspace
        _, ulid = workspace.resolve(identifier)
        data = None
        if file is None and title is None:
            session.require_person("edit", "give --file PATH, --file - or --title TEXT")
            before = workspace.drafts.require_pending(ulid, "edited")
            expect = expect or before.digest
            data = editor.edit(workspace.drafts.content(before), suffix=".md", chosen=workspace.editor)
        if title is not None and not title.strip():
            raise OpsError("bad_input", "the title is empty")
        with editor.keeping(data, workspace.spare_folder, ".md") if data is not None else nullcontext():
            draft, changed = workspace.drafts.edit(
                ulid,
                prompt=decoded(read_file(file, limit=LIMIT)) if file is not None else None,
                title=title,
                data=data,
                expect=expect,
                allow_secrets=frozenset(allow_secret),
            )
        if session.as_json:
            session.emit(draft_json(draft))
        else:
            session.data(draft.digest)
            session.say(f"d_{ulid}: revision {draft.revision}, {short(draft.digest)}" if changed else "nothing changed")
