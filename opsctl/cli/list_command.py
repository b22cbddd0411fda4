"""`opsctl list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, age
from opsctl.errors import EXIT, OpsError
from opsctl.models import STATUSES, approved_json, draft_json, utc

if TYPE_CHECKING:
    from opsctl.models import Draft

_STATUSES = (*STATUSES, "all")


def complete_status(incomplete: str) -> list[str]:
    """The statuses that begin so."""
    return [name for name in _STATUSES if name.startswith(incomplete)]


Status = Annotated[
    str,
    typer.Option("--status", "-s", metavar="S", help=f"{', '.join(_STATUSES)}.", autocompletion=complete_status),
]
Waits = Annotated[bool, typer.Option("--waiting", "-w", help="Only drafts that wait for your vote.")]
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
        waiting: Waits = False,
    ) -> int:
        """List drafts: pending ones by default, oldest first.

        The short id is enough for every command. With --waiting those that you have not voted on, that your vote
        would bring on, and that were not sent back. Where the output is no terminal each line has, between tabs: id
        (a_… of what is approved), status, author, time, title, votes as 1/2, labels with commas, `returned` of a draft
        that was sent back, and the reason of an error. The id alone: opsctl list | cut -f 1
        """
        from opsctl.workspace.drafts import Filter

        workspace, wanted = session.workspace, Filter(status, label, author, search, limit)
        if waiting and status != "draft":
            raise OpsError("usage", "--waiting is about pending drafts", hint="leave --status out")
        found = workspace.waiting.mine(wanted) if waiting else workspace.drafts.list(wanted)
        fault = workspace.fault
        if session.as_json:
            if status == "approved":
                sound = [draft.ulid for draft in found if not draft.error]
                session.emit([approved_json(workspace.approvals.get(ulid)[0]) for ulid in sound])
            else:
                session.emit([draft_json(draft) for draft in found])
        else:
            _print(session, found)
            if not found and session.out_is_terminal and not fault:
                session.say(_nothing(status, waiting))
        if fault:
            session.say(f"the gate is closed: {fault.message}; `opsctl verify` says more")
        damaged = [draft for draft in found if draft.error and draft.status in ("approved", "revoked")]
        for draft in damaged:
            session.say(f"a_{draft.ulid} is damaged: {draft.error}")
        return EXIT["integrity"] if damaged else 0


def _print(session: Session, drafts: list[Draft]) -> None:
    if not session.out_is_terminal:
        session.table({}, (_cells(session, d) for d in drafts))
        return
    suffixes = session.workspace.short_ids([draft.ulid for draft in drafts])
    colour = _COLOURS[drafts[0].status] if drafts and len({draft.status for draft in drafts}) == 1 else None
    columns = {"id": "yellow", "status": colour, "author": None, "age": "dim", "title": None}
    session.table(
        columns, ([suffixes[d.ulid], _state(session, d), d.author, age(d.updated_at), _title(d)] for d in drafts)
    )


def _cells(session: Session, draft: Draft) -> list[str]:
    """A row for a pipe; an approved item has the name that `run` takes, a draft in error its reason at the end."""
    kind = "a" if draft.status == "approved" else "d"
    tally = session.workspace.waiting.tally(draft) if draft.status == "draft" else None
    row = [f"{kind}_{draft.ulid}", draft.status, draft.author, utc(draft.updated_at), draft.document.title]
    row += [f"{len(tally.have)}/{tally.needed}" if tally else "", ",".join(draft.document.labels)]
    row.append("returned" if draft.status == "draft" and draft.reason else "")
    return [*row, draft.error or ""] if draft.status == "error" else row


def _nothing(status: str, waiting: bool) -> str:
    if waiting:
        return "nothing waits for your vote"
    return "nothing here; `opsctl draft` files a draft" if status == "draft" else f"nothing is {status}"


def _state(session: Session, draft: Draft) -> str:
    """The status; of a pending draft what it waits for."""
    if draft.status == "draft" and draft.error:
        return "unreadable"
    if draft.status == "draft" and draft.reason:
        return "changes asked"
    tally = session.workspace.waiting.tally(draft) if draft.status == "draft" else None
    if tally is None:
        return draft.status
    against = sum(vote.vote == "reject" for vote in draft.votes)
    votes = f"{len(tally.have)} of {tally.needed}" if tally.needed > 1 else ""
    return ", ".join(part for part in ("draft", votes, f"{against} no" if against else "") if part)


def _title(draft: Draft) -> str:
    labels = "".join(f" [{label}]" for label in draft.document.labels)
    reason = f" ({draft.error})" if draft.status == "error" else ""
    return draft.document.title + labels + reason
