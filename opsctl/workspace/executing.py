"""Carries out a run on this machine: its prompt goes to a runner's program, and what came of it comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opsctl import runrecord, runterms
from opsctl.errors import OpsError
from opsctl.executors.clone import RESERVED, PrivateClone, Result
from opsctl.executors.output import Output
from opsctl.executors.process import Ended, Job, run
from opsctl.executors.sandbox import walled
from opsctl.git.command import Git, environment
from opsctl.message import format_message
from opsctl.models import Approved, Run
from opsctl.runners import Runner, load
from opsctl.runrecord import CANCELLED, DONE, ERROR, RUNNING
from opsctl.runterms import Terms, Wish
from opsctl.secretscan import redact
from opsctl.store import APPROVED, RESULTS
from opsctl.text import one_line
from opsctl.workspace.answering import Answering, Order
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk
from opsctl.workspace.hold import KEEP, Hold, sweep
from opsctl.workspace.runbook import Runbook, live_log
from opsctl.workspace.runs import Runs

Watch = Callable[[str], None]
"""Hears the last line that the program printed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the person at this machine decides about one run: whether the clone stays, and whether a sandbox is used.

    `sandbox` None means: as the runner says, else where this machine has one.
    """

    keep: bool = False
    sandbox: bool | None = None
    as_draft: bool = False


@dataclass(frozen=True, slots=True)
class _Work:
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


class Executing:
    """`ws.executing`."""

    def __init__(self, base: Base, desk: Desk, runs: Runs, book: Runbook, answering: Answering) -> None:
        self._base = base
        self._desk = desk
        self._runs = runs
        self._book = book
        self._answering = answering
        self._repo = base.repo
        self._git = Git(base.repo.common, base.environ)

    def carry_out(self, made: Run, hold: Hold, settings: Settings, watch: Watch) -> Run:
        """Carry out a run that was just made. Returns it in its terminal state.

        The history is verified again first, and every setting is read from the approved bytes. A fault before the
        program starts is raised, a later one ends the run as `error`, an interrupt as `cancelled`; nothing of the
        program lives on.
        """
        try:
            approved = self._runs.approved(made.item)
            if approved.decision.digest != made.digest:
                raise OpsError("revoked", f"a_{made.item} is not what the run was made for")
            policy, wish = self._desk.now.require_gate().policy, Wish(made.executor, made.runner)
            terms = runterms.terms(approved.document, policy, wish, default_runner=made.runner)
            if terms.executor == "provider":
                order = Order(made, approved, terms, settings.as_draft, self._stop(made), watch)
                return self._answering.carry_out(order)
            return self._exec(made, approved, terms, settings, watch)
        except KeyboardInterrupt:
            self._runs.finish(made.ulid, CANCELLED, {"message": "interrupted by the person who ran it"})
            raise
        except OSError as error:
            cause = error.strerror or str(error)
            return self._runs.finish(made.ulid, ERROR, {"message": f"a file of the run could not be used ({cause})"})
        except OpsError as error:
            status = CANCELLED if error.kind in ("refused", "integrity") else ERROR
            ended = self._runs.finish(made.ulid, status, {"message": _told(error)})
            if ended.started_at is None:
                raise
            return ended
        finally:
            hold.release()

    # -- exec ---------------------------------------------------------------------------------------------------

    def _exec(self, made: Run, approved: Approved, terms: Terms, settings: Settings, watch: Watch) -> Run:
        runner = load(self._base.places).get(terms.runner)
        clones = self._base.places.clones(self._repo.common)
        sweep(clones, self._base.memory().folder)
        sealed = environment(self._base.environ)
        clone = PrivateClone(clones / f"r_{made.ulid}", self._repo.common, self._name(), sealed)
        work = _Work(made, approved, terms, runner, clone, terms.target.base or self._default_base())
        try:
            places, hides = self._base.places, [self._repo.common]
            argv, walls = walled(
                runner, self._base.environ, places, clone, asked=settings.sandbox, network=terms.network, hides=hides
            )
            clone.make(work.base, self._base.who)
            if settings.keep:
                (clone.folder / KEEP).touch()
            facts = {
                "base": work.base,
                "argv": [redact(one) for one in runner.argv()],
                "sandbox": walls,
                "holder": self._base.who[0],
            }
            self._runs.tell(made.ulid, RUNNING, facts)
            ended, output = self._supervised(work, argv, watch)
            return self._concluded(work, ended, output)
        finally:
            if not settings.keep:
                clone.remove()

    def _default_base(self) -> str:
        found = self._repo.default_branch()
        if found is None:
            raise OpsError("bad_input", "there is no branch to start from", hint="draft it with --base BRANCH")
        return found[1]

    def _name(self) -> str:
        """The name of the clone's folder: that of the repository's."""
        common = self._repo.common
        name = common.parent.name if common.name == ".git" else common.name.removesuffix(".git")
        ours = name.casefold() in RESERVED or name.casefold().endswith(".git")  # some disks fold case
        return name if name and not ours else "work"

    def _supervised(self, work: _Work, argv: list[str], watch: Watch) -> tuple[Ended, Output]:
        log = live_log(self._repo.common, work.run.ulid)
        output = Output(None if log.parent.is_symlink() else log)

        inner = self._stop(work.run)

        def stop() -> str | None:
            watch(output.last_line)
            return inner()

        env = work.runner.environment(self._base.environ)
        env |= {"TMPDIR": str(work.clone.folder / "tmp"), "PWD": str(work.clone.work), "GIT_TERMINAL_PROMPT": "0"}
        prompt = work.clone.folder / "prompt"
        prompt.write_bytes(work.approved.document.prompt.encode())
        with prompt.open("rb") as stdin:
            prompt.unlink()
            job = Job(argv, env, work.clone.work, stdin.fileno(), float(work.limit_s))
            return run(job, output=output.feed, stop=stop), output

    def _stop(self, made: Run) -> Callable[[], str | None]:
        """Looks whether the run was cancelled, or its item is no longer what was approved."""
        seen: tuple[str | None, str | None] = (None, None)

        def stop() -> str | None:
            nonlocal seen
            now = (self._book.notes.tip(), self._repo.ref(APPROVED))
            if now == seen:
                return None
            before, seen = seen, now
            try:
                if self._book.run(made.ulid).status in runrecord.TERMINAL:
                    return "cancelled"
                if now[1] != before[1] and self._runs.approved(made.item).decision.digest != made.digest:
                    return "the approval changed meanwhile"
            except OpsError as error:
                return error.message
            return None

        return stop

    # -- the result ---------------------------------------------------------------------------------------------

    def _concluded(self, work: _Work, ended: Ended, output: Output) -> Run:
        data, cut = output.finish()
        facts: dict[str, object] = {"exit_code": ended.exit_code, "output_bytes": output.total, "cut_bytes": cut}
        why = ended.why or self._stop(work.run)()
        if why:
            status, message = CANCELLED, why
        else:
            status, message = _judged(ended, work, output)
            result = work.clone.collect(work.base, self._message(work), self._author(work), self._base.who)
            message = "; ".join(part for part in (message, result.note) if part)
            if result.tip:
                status, message, found = self._taken(work, result, status, message)
                facts |= found
        return self._runs.finish(work.run.ulid, status, {**facts, "message": message}, output=data)

    def _taken(self, work: _Work, result: Result, status: str, message: str) -> tuple[str, str, dict[str, object]]:
        """The changes become a branch; those outside the target make it an error, and mark the branch."""
        changed = work.clone.changed(work.base, str(result.tip))
        outside = [one_line(path, 200) for path in changed if not runterms.is_within(path, work.terms.target.paths)]
        if outside:
            more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
            said = f"changed outside target.paths: {', '.join(outside[:5])}{more}"
            status, message = ERROR, "; ".join(part for part in (message, said) if part)
            result = work.clone.mark(result, _warning(outside), self._base.who)
        work.clone.hand_over(self._git, result)
        name = f"{RESULTS}r_{work.run.ulid}"
        with self._base.store.lock():
            self._base.store.move(name, None, str(result.tip), f"opsctl: result of r_{work.run.ulid}")
        return status, message, {"result": result.tip, "result_ref": name, "outside": outside[:50]}

    def _author(self, work: _Work) -> tuple[str, str]:
        return f"{work.runner.name} (opsctl run)", self._base.who[1]

    def _message(self, work: _Work) -> str:
        rows = f"Ops-Run: r_{work.run.ulid}\nOps-Approved: a_{work.run.item}\nOps-Digest: {work.run.digest}\n"
        return format_message(work.approved.document.title, {}) + "\n" + rows


def _judged(ended: Ended, work: _Work, output: Output) -> tuple[str, str]:
    if ended.reason == "timeout":
        return ERROR, f"it took more than {work.limit_s} s"
    if ended.reason == "lost":
        return ERROR, "what watched over its program was killed"
    if ended.signal:
        return ERROR, f"ended by signal {ended.signal}"
    if ended.exit_code:
        return ERROR, f"exit {ended.exit_code}: {output.last_line}"
    return DONE, f"the live log could not be written: {output.fault}" if output.fault else ""


def _told(error: OpsError) -> str:
    return error.message + (f" ({error.cause})" if error.cause else "")


def _warning(outside: list[str]) -> str:
    rows = "\n".join(f"  {path}" for path in outside[:200])
    return f"DO NOT MERGE: files outside the approved target were changed\n\n{rows}\n"
