"""`opsctl draft`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from opsctl import text
from opsctl.cli import document_options as options
from opsctl.cli import editor
from opsctl.cli.app import command
from opsctl.cli.options import AllowSecret, decoded, read_file, typed
from opsctl.cli.session import Session
from opsctl.errors import OpsError
from opsctl.models import Document, RunSettings, draft_json

if TYPE_CHECKING:
    from opsctl.models import Draft

_LIMIT = 256 * 1024
_Text = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The prompt.")]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "draft", example="opsctl draft --file task.md --label risk:low --path 'src/**'", json=True)
    def draft(
        session: Session,
        prompt: _Text = None,
        title: options.Title = None,
        file: options.File = None,
        label: options.Labels = [],
        context: options.Context = [],
        base: options.Base = None,
        path: options.Paths = [],
        executor: options.Executor = None,
        runner: options.Runner = None,
        timeout: options.Timeout = None,
        network: options.Network = False,
        max_runs: options.MaxRuns = None,
        not_after: options.NotAfter = None,
        parallel: options.Parallel = None,
        allow_secret: AllowSecret = [],
        source: options.Source = None,
    ) -> None:
        """File a draft: a prompt that waits for approval. Prints its id.

        Without text on a terminal your editor opens; from a pipe the text is read.
        """
        from opsctl.workspace.drafts import NewDraft

        before = _source(session, source) if source is not None else None
        until, limits = options.until(not_after), {"timeout_s": timeout, "parallel": parallel}
        run = RunSettings(executor, runner, max_runs, until, network=network or None, **limits)
        written = _prompt(session, prompt, file, before.prompt if before else None)
        new = NewDraft(
            prompt=written,
            title=title if title is not None or before is None else before.title,
            labels=tuple(label) or (before.labels if before else ()),
            context=options.pairs(context) or (before.context if before else {}),
            base=base or (before.target.base if before else None),
            paths=tuple(path) or (before.target.paths if before else ()),
            run=run if run != RunSettings() or before is None else before.run,
            allow_secrets=frozenset(allow_secret),
        )
        edited = prompt is None and file is None and source is None
        with editor.keeping(written.encode(), session.workspace.spare_folder, ".md") if edited else nullcontext():
            _tell(session, session.workspace.drafts.create(new))


def _tell(session: Session, made: Draft) -> None:
    if session.as_json:
        session.emit(draft_json(made))
    elif session.out_is_terminal:
        name = session.paint(f"d_{made.ulid}", "yellow")
        session.raw_line(f"{name}  {text.one_line(made.document.title, 200)}")
        session.say(f"next: opsctl review, or opsctl approve {made.ulid[-6:]}")
    else:
        session.data(f"d_{made.ulid}")


def _source(session: Session, identifier: str) -> Document:
    """The document of a draft in any state, such as one that was rejected by mistake."""
    draft = session.workspace.drafts.get(session.workspace.resolve(identifier)[1])
    if draft.error and not draft.document.prompt:
        raise OpsError("bad_document", draft.error)
    if draft.status == "error":
        hint = f"ask again: opsctl generate; `opsctl show d_{draft.ulid}` has the request"
        raise OpsError("bad_document", f"d_{draft.ulid} holds no text: {draft.error}", hint=hint)
    return draft.document


def _prompt(session: Session, prompt: str | None, file: str | None, before: str | None) -> str:
    if prompt is not None and file is not None:
        raise OpsError("usage", "give the text or --file, not both", hint="opsctl draft --help")
    if file is not None:
        return decoded(read_file(file, limit=_LIMIT))
    if prompt is not None:
        return typed(prompt)
    if before is not None:
        return before
    piped = b"" if sys.stdin.isatty() else read_file("-", limit=_LIMIT)
    if piped.strip():
        return decoded(piped)
    if not session.person_is_here:
        hint = "give the text, --file PATH, or pipe it in"
        raise OpsError("usage", "nothing to draft: no text, and no terminal to write it in", hint=hint)
    written = editor.edit(b"", suffix=".md", chosen=session.workspace.editor)
    if not written.strip():
        raise OpsError("bad_input", "nothing was written, so nothing was drafted")
    return decoded(written)
