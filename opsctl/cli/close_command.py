"""`opsctl return`, `reject` and `revoke`: the ways to say no, each with a reason that git keeps."""

from __future__ import annotations

from typing import Annotated

import typer

from opsctl import text
from opsctl.cli.app import command
from opsctl.cli.options import Expect, Id, Reason, Yes
from opsctl.cli.session import Session
from opsctl.errors import OpsError
from opsctl.models import decision_json, draft_json

NeededReason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in git.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "return", example="opsctl return 4F7K --reason 'name the files it may touch'", json=True)
    def give_back(session: Session, identifier: Id, reason: NeededReason) -> None:
        """Ask the author of a draft for changes.

        It stays pending and shows the reason.
        """
        workspace = session.workspace
        draft = workspace.drafts.give_back(session.resolve_to_change(identifier)[1], reason)
        if session.as_json:
            return session.emit(draft_json(draft))
        session.say(f"d_{draft.ulid}: changes asked for")
        return session.result(f"d_{draft.ulid}")

    @command(app, "reject", example="opsctl reject 4F7K --reason 'we do this by hand'", json=True)
    def reject(
        session: Session, identifier: Id, reason: Reason = None, expect: Expect = None, yes: Yes = False
    ) -> None:
        """Close a pending draft.

        Its file moves to closed/ until `opsctl prune`; history keeps it. On a terminal it shows the title and asks.
        """
        workspace, (_, ulid) = session.workspace, session.resolve_to_change(identifier)
        if session.person_is_here and not yes:
            shown = workspace.drafts.get(ulid)
            if shown.status == "draft":
                _agreed(session, f"d_{ulid}", shown.document.title, "reject")
                expect = expect or shown.digest
        draft, changed = workspace.drafts.reject(ulid, reason, expect=expect)
        if session.as_json:
            return session.emit(draft_json(draft))
        session.say(f"d_{draft.ulid}: {'rejected' if changed else 'was rejected already'}")
        return session.result(f"d_{draft.ulid}")

    @command(app, "revoke", example="opsctl revoke a_01JDAZ3N8Q4V5W6X7Y8Z9ABCDE --reason 'found a bug'", json=True)
    def revoke(session: Session, identifier: Id, reason: NeededReason, yes: Yes = False) -> None:
        """Take an approved item out of use, by a signed commit.

        The id never returns; history keeps it. On a terminal it shows the title and asks.
        """
        workspace, (_, ulid) = session.workspace, session.resolve_to_change(identifier)
        if session.person_is_here and not yes and workspace.is_approved(ulid):
            _agreed(session, f"a_{ulid}", workspace.drafts.get(ulid).document.title, "revoke")
        decision, is_new = workspace.approvals.revoke(ulid, reason)
        if session.as_json:
            return session.emit(decision_json(decision))
        word = "revoked" if is_new else f"was revoked already by {decision.signer.principal}"
        session.say(f"a_{decision.ulid}: {word} ({decision.commit[:12]})")
        return session.result(f"a_{decision.ulid}")


def _agreed(session: Session, name: str, title: str, verb: str) -> None:
    """Show which one it is, and ask. Raises `needs_confirmation` for a no."""
    session.say(f"{name}  {text.one_line(title, 200)}")
    if not session.confirm(f"{verb} it?"):
        raise OpsError("needs_confirmation", f"{name} was left as it is")
