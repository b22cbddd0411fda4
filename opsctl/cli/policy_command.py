"""`opsctl policy show|edit|set`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from opsctl import diffing
from opsctl.cli import editor, render
from opsctl.cli.app import command
from opsctl.cli.options import Reason, Yes, read_file
from opsctl.cli.session import Session
from opsctl.errors import OpsError
from opsctl.models import Policy
from opsctl.policyfile import LIMIT

if TYPE_CHECKING:
    from opsctl.workspace.governing import Proposal


Freeze = Annotated[
    bool,
    typer.Option(
        "--freeze", help="Sign a policy whose next change will need more signatures than opsctl can collect yet."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Who may decide what, and how many are needed.", no_args_is_help=True, epilog="Example: opsctl policy show"
    )
    app.add_typer(group, name="policy")

    @command(group, "show", example="opsctl policy show --raw > policy.toml", json=True)
    def show(
        session: Session,
        raw: Annotated[bool, typer.Option("--raw", help="The exact file.")] = False,
    ) -> None:
        """Show the policy in force."""
        policy, data = session.workspace.governing.policy()
        if session.as_json:
            return session.emit(policy_json(policy))
        if raw and not session.out_is_terminal:
            sys.stdout.buffer.write(data)
            return None
        if raw:
            return session.data(data.decode())
        return _print(session, policy)

    @command(group, "edit", example="opsctl policy edit", json=True)
    def edit(session: Session, reason: Reason = None, yes: Yes = False, freeze: Freeze = False) -> None:
        """Edit the policy in your editor and sign it.

        Shows what changes and asks. The epoch is raised for you.
        """
        session.require_person("policy edit", "opsctl policy show --raw > policy.toml; opsctl policy set policy.toml")
        workspace = session.workspace
        _, data = workspace.governing.policy()
        written = editor.edit(data, suffix=".toml", chosen=workspace.editor)
        with editor.keeping(written, workspace.spare_folder, ".toml"):
            return _sign(session, written, reason, yes=yes, freeze=freeze)

    @command(group, "set", example="opsctl policy set policy.toml --reason 'bob joins'", json=True)
    def set_(
        session: Session,
        file: Annotated[str, typer.Argument(metavar="FILE", help="A policy.toml, or - for standard input.")],
        reason: Reason = None,
        yes: Yes = False,
        freeze: Freeze = False,
    ) -> None:
        """Sign a new policy.

        Refused if its own principals could not satisfy it. On a terminal it shows what changes and asks. The epoch is
        raised for you.
        """
        return _sign(session, read_file(file, limit=LIMIT), reason, yes=yes, freeze=freeze)


def _sign(session: Session, data: bytes, reason: str | None, *, yes: bool, freeze: bool) -> None:
    proposal = session.workspace.governing.propose_policy(data)
    asks = session.person_is_here and not yes
    if proposal.freezes and not asks and not freeze:
        hint = "keep every threshold at 1, or sign it all the same with --freeze"
        raise OpsError("needs_confirmation", f"nothing was signed: {_frozen(proposal)}", hint=hint)
    if proposal.is_change and asks and not _agreed(session, proposal):
        raise OpsError("needs_confirmation", "nothing was signed", hint="opsctl policy show")
    policy, decision = proposal.after, session.workspace.governing.sign_policy(proposal, reason=reason)
    if session.as_json:
        return session.emit(policy_json(policy) | {"commit": decision.commit if decision else None})
    session.say(f"epoch {policy.epoch}: " + (f"signed as {decision.commit[:12]}" if decision else "nothing changed"))
    return None


def _agreed(session: Session, proposal: Proposal) -> bool:
    """Show what the new policy changes, and ask; what is signed is what was shown."""
    pieces = diffing.lines(proposal.file.decode(), proposal.data.decode())
    for line in render.line_diff(session, pieces):
        session.say(line) if session.as_json else session.raw_line(line)
    if not proposal.freezes:
        return session.confirm(f"sign epoch {proposal.after.epoch} of the policy?")
    session.say(f"!  {_frozen(proposal)}")
    return session.confirm(f"sign epoch {proposal.after.epoch} of the policy, and let no command change it any more?")


def _frozen(proposal: Proposal) -> str:
    needed = proposal.after.highest_threshold
    return f"the next change of this policy would need {needed} signatures, which opsctl cannot collect yet"


def policy_json(policy: Policy) -> dict[str, object]:
    """The policy as `--json` prints it."""
    plain = {name: getattr(policy, name) for name in Policy.__slots__ if name not in ("principals", "rules", "owners")}
    return {
        **plain,
        "passkey_origins": list(policy.passkey_origins),
        "principals": [
            {"name": who.name, "email": who.email, "roles": sorted(who.roles), "keys": list(who.keys)}
            for who in policy.principals
        ],
        "rules": [
            {
                "paths": list(rule.paths),
                "executors": list(rule.executors),
                "threshold": rule.threshold,
                "approvers": list(rule.approvers),
            }
            for rule in policy.rules
        ],
    }


def _print(session: Session, policy: Policy) -> None:
    from opsctl.sshsig import parse_public_key

    session.data(f"epoch {policy.epoch}, gate of {policy.audience}")
    session.data(f"approvals need {policy.threshold}, policy changes {policy.highest_threshold}")
    flags = [name for name in ("separation_of_duties", "require_presence", "allow_network") if getattr(policy, name)]
    if flags:
        session.data("on: " + ", ".join(flags))
    for who in policy.principals:
        session.data(f"{who.name} <{who.email}>: {', '.join(sorted(who.roles))}")
        for key in who.keys:
            session.data(f"    {parse_public_key(key).fingerprint} {key.split()[0]}")
    for rule in policy.rules:
        where = [*rule.paths, *(f"executor {name}" for name in rule.executors)] or ["everything"]
        who_may = f" of {', '.join(rule.approvers)}" if rule.approvers else ""
        session.data(f"rule: {', '.join(where)}: {rule.threshold}{who_may}")
