"""`opsctl verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from opsctl.cli.app import command
from opsctl.cli.session import Session, many
from opsctl.errors import EXIT


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "verify", example="opsctl verify --deep", json=True)
    def verify(
        session: Session,
        deep: Annotated[bool, typer.Option("--deep", help="Forget what was verified; read every object.")] = False,
    ) -> int:
        """Apply the trust rule to the whole history.

        Exit status 5 when it does not hold.
        """
        report = session.workspace.verification.verify(deep=deep)
        if session.as_json:
            session.emit(report.as_json())
            return 0 if report.ok else EXIT["integrity"]
        for finding in report.findings:
            where = f"commit {finding.commit}" if finding.commit else "the repository"
            key = f" (key {finding.fingerprint})" if finding.fingerprint else ""
            session.data(f"BAD  {where}: {finding.rule}: {finding.message}{key}")
        if report.ok:
            counts = f"{many(report.commits, 'commit')}, {many(report.approved, 'approved item')}"
            session.data(f"good: {counts}, root {report.root[:12]}, tip {report.tip[:12]}")
            if report.trusted_by != "pin":
                session.say(f"the root was taken from {report.trusted_by}; `opsctl trust` pins it for this clone")
        else:
            session.say("nothing approved is served until this is resolved; `opsctl doctor` names the way back")
        for notice in report.notices:
            session.say(notice)
        return 0 if report.ok else EXIT["integrity"]
