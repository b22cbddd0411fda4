"""What came of a program: its status, its output, and its changes as a branch. Or the run was not wanted any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opsctl import runterms
from opsctl.executors.clone import PrivateClone, Result
from opsctl.executors.output import Output
from opsctl.executors.process import Ended
from opsctl.git.command import Git
from opsctl.message import format_message
from opsctl.models import Approved, Run
from opsctl.runners import Runner
from opsctl.runrecord import CANCELLED, DONE, ERROR
from opsctl.runterms import Terms
from opsctl.text import one_line
from opsctl.workspace.base import Base
from opsctl.workspace.runs import Runs, result_ref


@dataclass(frozen=True, slots=True)
class Work:
    """One run with all that it needs."""

    run: Run
    approved: Approved
    terms: Terms
    runner: Runner
    clone: PrivateClone
    base: str

    @property
    def limit_s(self) -> int:
        """Seconds that it may take: the user's configuration may only narrow what was approved."""
        return min(self.terms.timeout_s, self.runner.timeout_s or self.terms.timeout_s)


class HandingBack:
    """The end of an exec run."""

    def __init__(self, base: Base, runs: Runs) -> None:
        self._base = base
        self._runs = runs
        self._git = Git(base.repo.common, base.environ)

    def concluded(self, work: Work, ended: Ended, output: Output, stop: Callable[[], str | None]) -> tuple[Run, bool]:
        """End the run. False where its work is neither handed over nor unwanted, so that the clone has to stay."""
        data, cut = output.finish()
        facts: dict[str, object] = {"exit_code": ended.exit_code, "output_bytes": output.total, "cut_bytes": cut}
        why = ended.why or stop()
        if why:
            return self._runs.finish(work.run.ulid, CANCELLED, {**facts, "message": why}, output=data), True
        status, message = _judged(ended, work, output)
        result = work.clone.collect(work.base, self._message(work), self._author(work), self._base.who)
        message = "; ".join(part for part in (message, result.note) if part)
        if result.tip:
            result, status, message, found = self._taken(work, result, status, message)
            facts |= found
        run = self._runs.land(work.run, status, {**facts, "message": message}, output=data, tip=result.tip)
        is_there = self._base.repo.ref(result_ref(run.ulid)) == result.tip
        return run, is_there or run.status == CANCELLED

    def _taken(
        self, work: Work, result: Result, status: str, message: str
    ) -> tuple[Result, str, str, dict[str, object]]:
        """Changes outside the target make it an error, and mark the branch that the changes become."""
        changed = work.clone.changed(work.base, str(result.tip))
        outside = [one_line(path, 200) for path in changed if not runterms.is_within(path, work.terms.target.paths)]
        if outside:
            more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
            said = f"changed outside target.paths: {', '.join(outside[:5])}{more}"
            status, message = ERROR, "; ".join(part for part in (message, said) if part)
            result = work.clone.mark(result, _warning(outside), self._base.who)
        work.clone.hand_over(self._git, result)
        return result, status, message, {"outside": outside[:50]}

    def _author(self, work: Work) -> tuple[str, str]:
        return f"{work.runner.name} (opsctl run)", self._base.who[1]

    def _message(self, work: Work) -> str:
        rows = f"Ops-Run: r_{work.run.ulid}\nOps-Approved: a_{work.run.item}\nOps-Digest: {work.run.digest}\n"
        return format_message(work.approved.document.title, {}) + "\n" + rows


def _judged(ended: Ended, work: Work, output: Output) -> tuple[str, str]:
    if ended.reason == "timeout":
        return ERROR, f"it took more than {work.limit_s} s"
    if ended.reason == "lost":
        return ERROR, "what watched over its program was killed"
    if ended.signal:
        return ERROR, f"ended by signal {ended.signal}"
    if ended.exit_code:
        return ERROR, f"exit {ended.exit_code}: {output.last_line}"
    return DONE, f"the live log could not be written: {output.fault}" if output.fault else ""


def _warning(outside: list[str]) -> str:
    rows = "\n".join(f"  {path}" for path in outside[:200])
    return f"DO NOT MERGE: files outside the approved target were changed\n\n{rows}\n"
