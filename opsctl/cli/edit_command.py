"""`opsctl edit`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import typer

from opsctl.cli import document_options as options
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
        file: options.NewFile = None,
        title: options.NewTitle = None,
        label: options.NewLabels = [],
        context: options.NewContext = [],
        path: options.NewPaths = [],
        base: options.NewBase = None,
        executor: options.NewExecutor = None,
        runner: options.NewRunner = None,
        timeout: options.Timeout = None,
        max_runs: options.MaxRuns = None,
        not_after: options.NewNotAfter = None,
        parallel: options.Parallel = None,
        expect: Expect = None,
        allow_secret: AllowSecret = [],
    ) -> None:
        """Give a pending draft a new revision.

        With no option that says what to change your editor opens with the whole file. Votes on the old revision no
        longer count.
        """
        workspace = session.workspace
        _, ulid = session.resolve_to_change(identifier)
        data = None
        wanted = {"executor": executor, "runner": runner, "not_after": not_after}
        limits = {"timeout_s": timeout, "max_runs": max_runs, "parallel": parallel}
        run = {name: value for name, value in {**wanted, **limits}.items() if value is not None}
        if file is None and title is None and base is None and not (label or context or path or run):
            session.require_person("edit", "say what to change: --file PATH, --file -, --title; opsctl edit --help")
            before = workspace.drafts.require_pending(ulid, "edited")
            expect = expect or before.digest
            data = editor.edit(workspace.drafts.content(before), suffix=".md", chosen=workspace.editor)
        if title is not None and not title.strip():
            raise OpsError("bad_input", "the title is empty")
        given = options.replacing(context)
        with editor.keeping(data, workspace.spare_folder, ".md") if data is not None else nullcontext():
            draft, changed = workspace.drafts.edit(
                ulid,
                prompt=decoded(read_file(file, limit=LIMIT)) if file is not None else None,
                title=title,
                labels=options.replacing(label),
                context=None if given is None else options.pairs(given),
                paths=options.replacing(path),
                base=base,
                run=_settings(run),
                data=data,
                expect=expect,
                allow_secrets=frozenset(allow_secret),
            )
        if session.as_json:
            session.emit(draft_json(draft))
        else:
            session.data(draft.digest)
            session.say(f"d_{ulid}: revision {draft.revision}, {short(draft.digest)}" if changed else "nothing changed")


def _settings(run: Mapping[str, str | int]) -> dict[str, str | int | None]:
    """The settings that change, as the file holds them; an empty text takes one out."""
    found: dict[str, str | int | None] = {name: None if value == "" else value for name, value in run.items()}
    if "not_after" in run:
        found["not_after"] = options.until(str(run["not_after"]))
    return found
