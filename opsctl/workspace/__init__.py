"""The use cases. Every face opens one `Workspace` for a command or request, calls it once, and renders the result.

Each group of use cases is imported when it is first asked for: reading a list must not pay for signing or syncing.
Faces use the groups and the methods of `Workspace` here; what `Base`, desk and clerk hold is the inside.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.models import Decision, Step
from opsctl.workspace.base import Base
from opsctl.workspace.decisions import Decisions
from opsctl.workspace.desk import Desk
from opsctl.workspace.drafts import Drafts
from opsctl.workspace.topics import Topics
from opsctl.workspace.working import WorkingSide

if TYPE_CHECKING:
    from opsctl.workspace.answering import Answering
    from opsctl.workspace.approvals import Approvals
    from opsctl.workspace.configuration import Value
    from opsctl.workspace.doctor import Doctor
    from opsctl.workspace.executing import Executing
    from opsctl.workspace.founding import Founding
    from opsctl.workspace.generating import Generating
    from opsctl.workspace.governing import Governing
    from opsctl.workspace.looked import Looked
    from opsctl.workspace.runbook import Runbook
    from opsctl.workspace.runs import Runs
    from opsctl.workspace.status import Status
    from opsctl.workspace.syncing import Syncing
    from opsctl.workspace.verification import Verification
    from opsctl.workspace.waiting import Waiting


class Workspace(Base):
    """One repository with everything that can be done in it."""

    def __enter__(self) -> Workspace:
        return self

    # -- what every face asks -----------------------------------------------------------------------------------

    def resolve(self, text: str) -> tuple[str | None, str]:
        """The kind that was named (`d`, `a`, or None) and the ULID of the one item that fits.

        Raises `bad_id`, `unknown_id`, `ambiguous_id`.
        """
        return self.desk.resolve(text)

    def is_approved(self, ulid: str) -> bool:
        """True if the id is approved now; False also while the gate is closed."""
        return self.desk.is_approved(ulid)

    def short_ids(self, ulids: Collection[str]) -> dict[str, str]:
        """For each of these the shortest end that no other id known here has."""
        return ids.shortest_suffixes(list(ulids), self.desk.all_ulids())

    @property
    def fault(self) -> OpsError | None:
        """Why the gate is closed, or None while it is open. Raises `no_gate`."""
        return self.desk.now.fault

    def steps(self, ulid: str) -> list[Step | Decision]:
        """Everything that happened to one item, newest first. Raises `unknown_id`."""
        from opsctl.workspace import steps

        return steps.read(self.repo, self.desk, ulid)

    def status(self) -> Status:
        """The gate at a glance, who acts here, and how this clone stands to others."""
        from opsctl.workspace import status

        return status.read(self, self.desk, self.approvals, self.syncing)

    def configuration(self) -> list[Value]:
        """What is gone by here, and where each value comes from."""
        from opsctl.workspace import configuration

        return configuration.read(self)

    @property
    def spare_folder(self) -> Path:
        """A folder of the user's, outside the repository, for text that could not be filed."""
        return self.places.state

    @property
    def git_folder(self) -> Path:
        """The git directory that all work trees of the repository share: what a runner's program must not see."""
        return self.repo.common

    # -- the groups of use cases --------------------------------------------------------------------------------

    @cached_property
    def drafts(self) -> Drafts:
        """File, edit, return, reject, list."""
        return Drafts(self, self.desk, self.topics, self.working)

    @cached_property
    def approvals(self) -> Approvals:
        """Approve, vote, revoke."""
        from opsctl.workspace.approvals import Approvals

        return Approvals(self, self.desk, self.topics, self.working, self.decisions, self.drafts)

    @cached_property
    def waiting(self) -> Waiting:
        """How far approvals are, and what waits for me."""
        from opsctl.workspace.waiting import Waiting

        return Waiting(self.desk, self.drafts, self.approvals)

    @cached_property
    def governing(self) -> Governing:
        """The policy and the plan."""
        from opsctl.workspace.governing import Governing

        return Governing(self, self.desk, self.decisions, self.approvals)

    @cached_property
    def founding(self) -> Founding:
        """Make a gate, or trust one."""
        from opsctl.workspace.founding import Founding

        return Founding(self)

    @cached_property
    def verification(self) -> Verification:
        """The trust rule over the whole history."""
        from opsctl.workspace.verification import Verification

        return Verification(self)

    @cached_property
    def syncing(self) -> Syncing:
        """Exchange with a remote."""
        from opsctl.workspace.syncing import Syncing

        return Syncing(self, self.desk, self.topics, self.working, self.decisions, self.approvals, self.governing)

    @cached_property
    def generating(self) -> Generating:
        """Let a provider write a draft."""
        from opsctl.workspace.generating import Generating

        return Generating(self, self.desk, self.drafts)

    @cached_property
    def runs(self) -> Runs:
        """Make, claim, report, cancel, retry, look."""
        from opsctl.workspace.runs import Runs

        return Runs(self, self.desk, self.runbook)

    @cached_property
    def runbook(self) -> Runbook:
        """The record of runs."""
        from opsctl.workspace.runbook import Runbook

        return Runbook(self, self.desk)

    @cached_property
    def executing(self) -> Executing:
        """Carry out a run on this machine."""
        from opsctl.workspace.executing import Executing

        return Executing(self, self.desk, self.runs, self.runbook, self.answering)

    @cached_property
    def answering(self) -> Answering:
        """Let a provider carry out a run."""
        from opsctl.workspace.answering import Answering

        return Answering(self, self.runs, self.drafts)

    @cached_property
    def doctor(self) -> Doctor:
        """What is wrong, and the way out."""
        from opsctl.workspace.doctor import Doctor

        return Doctor(self, self.desk, self.working)

    @cached_property
    def looked(self) -> Looked:
        """Which revisions this person saw last."""
        from opsctl.workspace.looked import Looked

        return Looked(self, self.desk)

    # -- inside -------------------------------------------------------------------------------------------------

    @cached_property
    def desk(self) -> Desk:
        """Both branches as they stand, and every item on them."""
        return Desk(self)

    @cached_property
    def topics(self) -> Topics:
        """The commits of each draft."""
        return Topics(self, self.desk)

    @cached_property
    def working(self) -> WorkingSide:
        """Changes of `ops/drafts`."""
        return WorkingSide(self, self.desk, self.topics)

    @cached_property
    def decisions(self) -> Decisions:
        """Changes of `ops/approved`."""
        return Decisions(self, self.desk, self.topics, self.working)
