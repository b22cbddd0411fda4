"""`opsctl trust`."""

from __future__ import annotations

from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.options import Key, Yes
from opsctl.cli.session import Session, many
from opsctl.errors import OpsError
from opsctl.models import utc


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "trust", example="opsctl trust", json=True)
    def trust(
        session: Session,
        root: Annotated[str | None, typer.Argument(metavar="[ROOT]", help="The root commit you were told.")] = None,
        yes: Yes = False,
        remote: Annotated[str | None, typer.Option("--remote", metavar="NAME", help="Where to fetch from.")] = None,
        key: Key = None,
    ) -> None:
        """Pin the root of this clone's gate.

        Shows whose key signed it and asks. Fetches the ops branches, topics and notes where only the remote has them,
        verifies the whole history, and makes the local branches. Compare the fingerprint with what its owner tells you
        by another way.
        """
        workspace = session.open(key=key)
        found = workspace.founding.candidate(root, remote)
        founded = found.founded
        if found.pinned and found.pinned != founded.root:
            session.say(f"this clone trusts another root now: {found.pinned}")
        if found.notice:
            session.say(found.notice)
        session.say(f"root         {founded.root}")
        session.say(f"signed by    {founded.principal}, key {founded.fingerprint}")
        session.say(f"gate of      {founded.policy.audience}, {many(found.count, 'commit')}, verified to the last")
        if not yes and found.pinned != founded.root:
            session.require_person("trust", f"if that is the key: opsctl trust {founded.root} --yes")
            if not session.confirm("is that the key? trust this root in this clone?"):
                raise OpsError("no_trust", "nothing was pinned", hint="ask the owner for the fingerprint first")
        workspace.founding.trust(found)
        gate = workspace.gate()
        if session.as_json:
            session.emit(
                {"root": gate.standing.root, "tip": gate.tip, "commits": gate.count, "at": utc(workspace.now())}
            )
        else:
            session.result(gate.standing.root)
            session.say("pinned; next: opsctl status")
