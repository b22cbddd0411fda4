"""`opsctl approve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opsctl import text
from opsctl.cli import render
from opsctl.cli.app import command
from opsctl.cli.options import AllowSecret, Expect, Ids, Yes
from opsctl.cli.session import Session
from opsctl.document import short
from opsctl.errors import OpsError
from opsctl.models import approved_json, draft_json

if TYPE_CHECKING:
    from opsctl.models import Draft
    from opsctl.workspace.approvals import Outcome

AllowChar = Annotated[
    list[str], typer.Option("--allow-char", metavar="U+XXXX", help="A hidden character that may stay; recorded.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "approve", example="opsctl approve 4F7K", json=True)
    def approve(
        session: Session,
        identifiers: Ids,
        expect: Expect = None,
        yes: Yes = False,
        allow_char: AllowChar = [],
        allow_secret: AllowSecret = [],
    ) -> None:
        """Approve drafts by signed merge commits.

        One each, or a signed vote while more approvers are needed. Shows each draft and asks. Without a terminal give
        --yes and, for a draft that was edited, --expect.
        """
        if expect and len(identifiers) > 1:
            raise OpsError(
                "usage", "--expect is for a single id", hint="for several: opsctl approve ID@DIGEST ID@DIGEST"
            )
        if not yes:
            session.require_person("approve", "if you have read it: opsctl approve ID --expect DIGEST --yes")
        allowed = text.parse_allowed(allow_char)
        wanted = [_named(session, one, expect, yes) for one in identifiers]
        done, declined = [], []
        for draft, digest in wanted:
            if draft.status == "draft" and not yes and not _agreed(session, draft):
                declined.append(f"d_{draft.ulid}")
                continue
            if yes and draft.status == "draft" and (late := render.too_late(draft.document)):
                session.say(f"d_{draft.ulid}: {late}")
            outcome = session.workspace.approvals.approve(
                draft.ulid, expect=digest, allow_chars=allowed, allow_secrets=frozenset(allow_secret)
            )
            done.append(outcome)
            if not session.as_json:
                tell(session, outcome)
        if session.as_json:
            session.emit([_json(session, outcome) for outcome in done])
        if declined:
            were = "was" if len(declined) == 1 else "were"
            raise OpsError("needs_confirmation", f"{', '.join(declined)} {were} not approved")


def _named(session: Session, argument: str, expect: str | None, yes: bool) -> tuple[Draft, str]:
    """The draft that an argument names, and the digest that the approval will be bound to."""
    identifier, at, digest = argument.partition("@")
    wanted = digest if at else expect
    _, ulid = session.resolve_to_change(identifier)
    draft = session.workspace.drafts.get(ulid)
    if wanted is None and yes and draft.status == "draft" and draft.revision > 1 and draft.digest:
        raise OpsError(
            "expect_required",
            f"d_{ulid} had {draft.revision} revisions; --yes needs the one that you read",
            hint=f"opsctl show {ulid[-8:]}, then: opsctl approve {ulid[-8:]} --yes --expect {draft.digest}",
        )
    return draft, draft.digest if wanted is None else wanted


def _agreed(session: Session, draft: Draft) -> bool:
    """Show the draft as it is and ask; the approval is bound to what was shown."""
    content, steps = session.workspace.drafts.content(draft), session.workspace.steps(draft.ulid)
    for line in render.draft_lines(session, draft, content, steps):
        session.raw_line(line)
    return session.confirm(f"approve revision {short(draft.digest)}?")


def tell(session: Session, outcome: Outcome) -> None:
    """Say what an approval did and what comes next."""
    if outcome.item is None:
        tally = outcome.tally
        if tally is None:
            return
        said = "you had voted already" if outcome.already else "your vote is recorded"
        session.say(f"d_{outcome.ulid}: {said}; {tally}, waiting for {', '.join(tally.waiting_for)}")
        session.result(f"d_{outcome.ulid}")
        return
    decision, name = outcome.item.decision, f"a_{outcome.ulid}"
    word = "was approved already" if outcome.already else "approved"
    who = f"{decision.signer.principal} with {decision.signer.fingerprint}"
    session.result(name)
    session.say(f"{name} {word}: {decision.commit[:12]}, signed by {who}")
    session.say(f"next: opsctl run {name}")


def _json(session: Session, outcome: Outcome) -> dict[str, object]:
    tally = outcome.tally
    return {
        "approved": approved_json(outcome.item) if outcome.item else None,
        "draft": None if outcome.item else draft_json(session.workspace.drafts.get(outcome.ulid)),
        "have": list(tally.have) if tally else None,
        "needed": tally.needed if tally else None,
        "waiting_for": list(tally.waiting_for) if tally else None,
        "already": outcome.already,
    }
