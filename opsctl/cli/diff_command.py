"""`opsctl diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opsctl import diffing, text
from opsctl.cli import render
from opsctl.cli.app import command
from opsctl.cli.options import OptionalId
from opsctl.cli.session import Session
from opsctl.errors import OpsError

if TYPE_CHECKING:
    from opsctl.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "diff", example="opsctl diff 4F7K --word", json=True)
    def diff(
        session: Session,
        identifier: OptionalId = None,
        word: Annotated[bool, typer.Option("--word", help="By words instead of lines.")] = False,
    ) -> None:
        """Show what is pending, or what changed in one draft.

        Without an id every pending draft against what is approved; with one its last change against the revision
        before.
        """
        workspace = session.workspace
        if identifier is None:
            pairs = [_against_nothing(workspace, draft.ulid) for draft in workspace.drafts.list()]
        else:
            pairs = [_last_change(workspace, workspace.resolve(identifier)[1])]
        if session.as_json:
            session.emit([_row(*pair) for pair in pairs])
            return
        for name, _, _, old, new in pairs:
            session.raw_line(session.paint(text.one_line(name, 200), "bold"))
            shown = render.word_diff(session, diffing.words(old, new)) if word else None
            for line in shown or render.line_diff(session, diffing.lines(old, new)):
                session.raw_line(line)


_Pair = tuple[str, str | None, str, str, str]


def _against_nothing(workspace: Workspace, ulid: str) -> _Pair:
    draft = workspace.drafts.get(ulid)
    new = workspace.drafts.text(draft.blob) if draft.digest else f"({draft.error})\n"
    return render.named(draft), None, draft.digest, "", new


def _last_change(workspace: Workspace, ulid: str) -> _Pair:
    """The last two revisions; a draft with one is shown against nothing."""
    draft = workspace.drafts.get(ulid)
    if not draft.digest:
        raise OpsError("bad_document", draft.error or "it cannot be read", hint=f"opsctl reject d_{ulid}")
    revisions = workspace.drafts.revisions(ulid)
    if len(revisions) < 2:
        return _against_nothing(workspace, ulid)
    old, new = revisions[-2], revisions[-1]
    step = f"(revision {len(revisions) - 1} to {len(revisions)}, by {new.author})"
    name = f"{render.named(workspace.drafts.get(ulid))} {step}"
    return name, old.digest, new.digest, workspace.drafts.text(old.blob), workspace.drafts.text(new.blob)


def _row(name: str, old_digest: str | None, digest: str, old: str, new: str) -> dict[str, object]:
    pieces = [{"kind": piece.kind, "text": piece.text} for piece in diffing.lines(old, new)]
    return {"name": name, "from": old_digest, "to": digest, "lines": pieces}
