"""The use cases. Every face opens one `Workspace` for a command or request, calls it once, and renders the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from opsctl.history import Progress
from opsctl.workspace.approvals import Approvals
from opsctl.workspace.base import Base
from opsctl.workspace.clerk import Clerk
from opsctl.workspace.desk import Desk
from opsctl.workspace.doctor import Doctor
from opsctl.workspace.drafts import Drafts
from opsctl.workspace.founding import Founding
from opsctl.workspace.governing import Governing
from opsctl.workspace.syncing import Syncing
from opsctl.workspace.verification import Verification


class Workspace(Base):
    """One repository with everything that can be done in it."""

    def __init__(
        self,
        path: Path,
        *,
        environ: Mapping[str, str],
        now: Callable[[], datetime],
        interactive: bool = False,
        progress: Progress | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(path, environ=environ, now=now, interactive=interactive, progress=progress, key=key)
        self.desk = Desk(self)
        self.clerk = Clerk(self, self.desk)
        self.drafts = Drafts(self, self.desk, self.clerk)
        self.approvals = Approvals(self, self.desk, self.clerk, self.drafts)
        self.governing = Governing(self, self.desk, self.clerk, self.approvals)
        self.founding = Founding(self)
        self.verification = Verification(self)
        self.syncing = Syncing(self, self.desk, self.clerk, self.approvals, self.governing)
        self.doctor = Doctor(self, self.desk, self.clerk)

    def __enter__(self) -> Workspace:
        return self
