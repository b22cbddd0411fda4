"""`opsctl draft`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from opsctl import text
from opsctl.cli import editor
from opsctl.cli.app import command
from opsctl.cli.options import AllowSecret, decoded, read_file
from opsctl.cli.session import Session
from opsctl.errors import OpsError
from opsctl.models import Document

_LIMIT = 256 * 1024


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "draft", example="opsctl draft --file task.md --label risk:low --path 'src/**'", json=True)
    def draft(
        session: Session,
        prompt: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The prompt.")] = None,
        title: Annotated[
            str | None, typer.Option("--title", "-t", metavar="T", help="Default: the first line.")
        ] = None,
        file: Annotated[
            str | None, typer.Option("--file", "-f", metavar="PATH|-", help="The prompt, verbatim.")
        ] = None,
        label: Annotated[list[str], typer.Option("--label", "-l", metavar="L", help="Sorts; may be repeated.")] = [],
        context: Annotated[list[str], typer.Option("--context", metavar="K=V", help="May be repeated.")] = [],
        base: Annotated[
            str | None, typer.Option("--base", metavar="REV", help="Branch, tag or commit to start at.")
        ] = None,
        path: Annotated[
            list[str], typer.Option("--path", metavar="GLOB", help="What it may touch; may be repeated.")
        ] = [],
        executor: Annotated[
            str | None, typer.Option("--executor", metavar="E", help="claim, provider or exec.")
        ] = None,
        runner: Annotated[str | None, typer.Option("--runner", metavar="NAME", help="A runner of yours.")] = None,
        timeout: Annotated[int | None, typer.Option("--timeout", metavar="S", help="Seconds a run may take.")] = None,
        max_runs: Annotated[int | None, typer.Option("--max-runs", metavar="N", help="How often it may run.")] = None,
        not_after: Annotated[
            str | None, typer.Option("--not-after", metavar="TIME", help="No run later (UTC).")
        ] = None,
        allow_secret: AllowSecret = [],
        source: Annotated[str | None, typer.Option("--from", metavar="ID", help="Begin with what it has.")] = None,
    ) -> None:
        """File a draft: a prompt that waits for approval. Prints its id.

        Without text on a terminal your editor opens.
        """
        from opsctl.models import RunSettings, draft_json, utc
        from opsctl.workspace.drafts import NewDraft, utc_time

        run = RunSettings(
            executor=executor,
            runner=runner,
            timeout_s=timeout,
            max_runs=max_runs,
            not_after=utc(utc_time(not_after)) if not_after else None,
        )
        before = _source(session, source) if source is not None else None
        written = _prompt(session, prompt, file, before.prompt if before else None)
        new = NewDraft(
            prompt=written,
            title=title if title is not None or before is None else before.title,
            labels=tuple(label) or (before.labels if before else ()),
            context=dict(_pair(item) for item in context) or (before.context if before else {}),
            base=base or (before.target.base if before else None),
            paths=tuple(path) or (before.target.paths if before else ()),
            run=run if run != RunSettings() or before is None else before.run,
            allow_secrets=frozenset(allow_secret),
        )
        typed = prompt is None and file is None and source is None
        with editor.keeping(written.encode(), session.workspace.spare_folder, ".md") if typed else nullcontext():
            made = session.workspace.drafts.create(new)
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
    return draft.document


def _prompt(session: Session, prompt: str | None, file: str | None, before: str | None) -> str:
    if prompt is not None and file is not None:
        raise OpsError("usage", "give the text or --file, not both", hint="opsctl draft --help")
    if file is not None:
        return decoded(read_file(file, limit=_LIMIT))
    if prompt is not None:
        return _clean(prompt)
    if before is not None:
        return before
    if not session.person_is_here:
        hint = "give the text, --file PATH, or --file - to read it from a pipe"
        raise OpsError("usage", "nothing to draft: no text, and no terminal to write it in", hint=hint)
    written = editor.edit(b"", suffix=".md", chosen=session.workspace.editor)
    if not written.strip():
        raise OpsError("bad_input", "nothing was written, so nothing was drafted")
    return decoded(written)


def _clean(prompt: str) -> str:
    """Arguments that are not UTF-8 arrive as surrogates."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise OpsError("bad_document", f"character {error.start} of the text is not UTF-8") from None
    return prompt


def _pair(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise OpsError("usage", f"--context takes KEY=VALUE, not {item[:60]!a}", hint="opsctl draft --help")
    return key, value
