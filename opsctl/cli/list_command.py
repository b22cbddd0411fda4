"""`opsctl list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, age
from opsctl.errors import EXIT
from opsctl.models import approved_json, draft_json, utc

if TYPE_CHECKING:
    from opsctl.models import Draft

Status = Annotated[
    str, typer.Option("--status", "-s", metavar="S", help="draft, approved, rejected, error, revoked, all.")
]
Label = Annotated[str | None, typer.Option("--label", "-l", metavar="L", help="With this label.")]
Author = Annotated[str | None, typer.Option("--author", "-a", metavar="A", help="By an author whose name holds this.")]
Search = Annotated[str | None, typer.Option("--search", metavar="TEXT", help="With this text in title or prompt.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")]
_COLOURS = {"draft": "yellow", "approved": "green", "rejected": "red", "error": "dim", "revoked": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "list", example="opsctl list --status approved --search retry", json=True)
    def list_(
        session: Session,
        status: Status = "draft",
        label: Label = None,
        author: Author = None,
        search: Search = None,
        limit: Limit = None,
    ) -> int:
        """List drafts: pending ones by default, oldest first. The short id is enough for every command."""
        from opsctl.workspace.drafts import Filter

        workspace = session.workspace
        found = workspace.drafts.list(Filter(status, label, author, search, limit))
        fault = workspace.fault
        if session.as_json:
            if status == "approved":
                sound = [draft.ulid for draft in found if not draft.error]
                session.emit([approved_json(workspace.approvals.get(ulid)[0]) for ulid in sound])
            else:
                session.emit([draft_json(draft) for draft in found])
        else:
            _print(session, found)
            if not found and session.out_is_terminal:
                session.say(
                    "nothing here; `opsctl draft` files a draft" if status == "draft" else f"nothing is {status}"
                )
        if fault:
            session.say(f"the gate is closed: {fault.message}; `opsctl verify` says more")
        damaged = [draft for draft in found if draft.error and draft.status in ("approved", "revoked")]
        for draft in damaged:
            session.say(f"a_{draft.ulid} is damaged: {draft.error}")
        return EXIT["integrity"] if damaged else 0


def _print(session: Session, drafts: list[Draft]) -> None:
    if not session.out_is_terminal:
        session.table({}, ([f"d_{d.ulid}", d.status, d.author, utc(d.updated_at), d.document.title] for d in drafts))
        return
    suffixes = session.workspace.short_ids([draft.ulid for draft in drafts])
    colour = _COLOURS[drafts[0].status] if drafts and len({draft.status for draft in drafts}) == 1 else None
    columns = {"id": "yellow", "status": colour, "author": None, "age": "dim", "title": None}
    session.table(columns, ([suffixes[d.ulid], _state(d), d.author, age(d.updated_at), _title(d)] for d in drafts))


def _state(draft: Draft) -> str:
    if draft.status == "draft" and draft.error:
        return "unreadable"
    if draft.status == "draft" and draft.reason:
        return "changes asked"
    votes = sum(vote.vote == "approve" for vote in draft.votes)
    return f"draft, {votes} yes" if draft.status == "draft" and votes else draft.status


def _title(draft: Draft) -> str:
    labels = "".join(f" [{label}]" for label in draft.document.labels)
    return draft.document.title + labels
