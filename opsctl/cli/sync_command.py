"""`opsctl sync`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, many
from opsctl.errors import EXIT


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "sync", example="opsctl sync origin", json=True)
    def sync(
        session: Session,
        remote: Annotated[str | None, typer.Argument(metavar="[REMOTE]", help="Default: origin.")] = None,
    ) -> int:
        """Exchange decisions, drafts and notes with a remote.

        Takes only what verifies, and pushes all or nothing. An approval of yours that lost a race is signed again on
        the new tip.
        """
        done = session.workspace.syncing.sync(remote, session.say if session.out_is_terminal else lambda _line: None)
        if session.as_json:
            session.emit(
                {
                    "remote": done.remote,
                    "received": done.received,
                    "published_refs": len(done.published),
                    "signed_again": list(done.closed_again),
                    "left_open": list(done.left_open),
                    "notices": list(done.notices),
                }
            )
            return EXIT["conflict"] if done.left_open else 0
        session.data(f"{done.remote}: {many(done.received, 'decision')} received; {_published(done.published)}")
        for name in done.closed_again:
            session.say(f"signed again on the new tip: {name}")
        for line in done.notices:
            session.say(line)
        for line in done.left_open:
            session.say(f"needs you: {line}")
        return EXIT["conflict"] if done.left_open else 0


def _published(refs: Sequence[str]) -> str:
    """What was pushed, in plain words."""
    named = [name for name in ("ops/approved", "ops/drafts") if f"refs/heads/{name}" in refs]
    topics = sum(ref.startswith("refs/ops/topics/") for ref in refs)
    named += [many(topics, "topic")] if topics else []
    named += ["notes"] if any(ref.startswith("refs/notes/") for ref in refs) else []
    return f"published {', '.join(named)}" if named else "nothing to publish"
