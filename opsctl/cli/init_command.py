"""`opsctl init`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.options import Key
from opsctl.cli.session import Session
from opsctl.errors import OpsError

if TYPE_CHECKING:
    from opsctl.workspace.founding import Founded


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "init", example="opsctl init --audience acme/app", json=True)
    def init(
        session: Session,
        key: Key = None,
        generate_key: Annotated[bool, typer.Option("--generate-key", help="Make an Ed25519 key for it.")] = False,
        name: Annotated[str | None, typer.Option("--name", metavar="N", help="Your name.")] = None,
        email: Annotated[str | None, typer.Option("--email", metavar="E", help="Your address.")] = None,
        audience: Annotated[str | None, typer.Option("--audience", metavar="TEXT", help="Names this gate.")] = None,
    ) -> None:
        """Set up the gate in this repository.

        Makes the branches, a policy with you in it, and the trust pin. Name, e-mail address and key come from git's own
        settings. Running it again changes nothing.
        """
        workspace = session.open(key=key)
        made = workspace.founding.init(name=name, email=email, audience=audience, generate_key=generate_key)
        if session.as_json:
            return session.emit(
                {
                    "root": made.root,
                    "principal": made.principal,
                    "fingerprint": made.fingerprint,
                    "audience": made.policy.audience,
                    "created": made.is_new,
                }
            )
        word = "made" if made.is_new else "was here already"
        session.say(f"gate of {made.policy.audience} {word}: root {made.root[:12]}, pinned for this clone")
        if audience and not made.is_new and audience != (now := _audience(session, made)):
            session.say(f"the audience was not changed, it is {now}; to change it: opsctl policy edit")
        session.say(f"you are {made.principal}, with the key {made.fingerprint}")
        session.say("next: opsctl draft 'what an agent should do'")
        return session.result(made.root)


def _audience(session: Session, made: Founded) -> str:
    """The audience in force; while the gate is closed that of the first policy."""
    try:
        return session.workspace.governing.policy()[0].audience
    except OpsError:
        return made.policy.audience
