"""`opsctl return`, `reject` and `revoke`: the ways to say no, each with a reason that git keeps."""

from __future__ import annotations

from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.options import Expect, Id, Reason
from opsctl.cli.session import Session
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
        draft = workspace.drafts.give_back(workspace.resolve(identifier)[1], reason)
        if session.as_json:
            return session.emit(draft_json(draft))
        session.say(f"d_{draft.ulid}: changes asked for")
        return session.result(f"d_{draft.ulid}")

    @command(app, "reject", example="opsctl reject 4F7K --reason 'we do this by hand'", json=True)
    def reject(session: Session, identifier: Id, reason: Reason = None, expect: Expect = None) -> None:
        """Close a pending draft. Its file moves to closed/ until `opsctl prune`; history keeps it."""
        workspace = session.workspace
        draft, changed = workspace.drafts.reject(workspace.resolve(identifier)[1], reason, expect=expect)
        if session.as_json:
            return session.emit(draft_json(draft))
        session.say(f"d_{draft.ulid}: {'rejected' if changed else 'was rejected already'}")
        return session.result(f"d_{draft.ulid}")

    @command(app, "revoke", example="opsctl revoke a_01JDAZ3N8Q4V5W6X7Y8Z9ABCDE --reason 'found a bug'", json=True)
    def revoke(session: Session, identifier: Id, reason: NeededReason) -> None:
        """Take an approved item out of use, by a signed commit. The id never returns; history keeps it."""
        workspace = session.workspace
        decision, is_new = workspace.approvals.revoke(workspace.resolve(identifier)[1], reason)
        if session.as_json:
            return session.emit(decision_json(decision))
        word = "revoked" if is_new else f"was revoked already by {decision.signer.principal}"
        session.say(f"a_{decision.ulid}: {word} ({decision.commit[:12]})")
        return session.result(f"a_{decision.ulid}")
