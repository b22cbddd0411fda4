"""Carries out a run on this machine: its prompt goes to a runner's program, and what came of it comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opsctl import runrecord, runterms
from opsctl.errors import OpsError
from opsctl.executors.clone import RESERVED, PrivateClone
from opsctl.executors.output import Output
from opsctl.executors.process import Ended, Job, run
from opsctl.executors.sandbox import walled
from opsctl.git.command import environment, expanded
from opsctl.models import Approved, Run
from opsctl.runners import load
from opsctl.runrecord import CANCELLED, ERROR, RUNNING
from opsctl.runterms import Terms, Wish
from opsctl.secretscan import redact
from opsctl.store import APPROVED
from opsctl.workspace.answering import Answering, Order
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk
from opsctl.workspace.handing_back import HandingBack, Work
from opsctl.workspace.hold import KEEP, SPARE, Hold, sweep
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


class Executing:
    """`ws.executing`."""

    def __init__(self, base: Base, desk: Desk, runs: Runs, book: Runbook, answering: Answering) -> None:
        self._base = base
        self._desk = desk
        self._runs = runs
        self._book = book
        self._answering = answering
        self._repo = base.repo
        self._back = HandingBack(base, runs)

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
            return self._failed(made, error)
        finally:
            hold.release()

    def _failed(self, made: Run, error: OpsError) -> Run:
        """Write down a fault. One from before the program started, or that cannot be written down, is raised."""
        status = CANCELLED if error.kind in ("refused", "integrity") else ERROR
        try:
            ended = self._runs.finish(made.ulid, status, {"message": _told(error)})
        except OpsError:
            raise error from None
        if ended.started_at is None:
            raise error
        return ended

    # -- exec ---------------------------------------------------------------------------------------------------

    def _exec(self, made: Run, approved: Approved, terms: Terms, settings: Settings, watch: Watch) -> Run:
        runner = load(self._base.places).get(terms.runner)
        clones = self._base.places.clones(self._repo.common)
        clones.mkdir(parents=True, exist_ok=True, mode=0o700)  # a sandbox can only hide what is there
        sweep(clones, self._base.memory().folder)
        sealed = environment(self._base.environ)
        clone = PrivateClone(clones / f"r_{made.ulid}", self._repo.common, self._name(), sealed)
        work = Work(made, approved, terms, runner, clone, terms.target.base or self._default_base())
        keep = settings.keep
        try:
            places, hides = self._base.places, [self._repo.common, *self._keys()]
            argv, walls = walled(
                runner, self._base.environ, places, clone, asked=settings.sandbox, network=terms.network, hides=hides
            )
            clone.make(work.base, self._base.who)
            (clone.folder / (KEEP if keep else SPARE)).touch()
            facts = {
                "base": work.base,
                "argv": [redact(one) for one in runner.argv()],
                "sandbox": walls,
                "holder": self._base.who[0],
            }
            self._runs.tell(made.ulid, RUNNING, facts)
            keep = True  # from here on there is work that could be lost
            ended, is_safe = self._worked(work, argv, watch)
            keep = settings.keep or not is_safe
            return ended
        except KeyboardInterrupt:
            keep = settings.keep
            raise
        except OpsError as error:
            keep = settings.keep or (keep and error.code != "runner_failed")
            raise
        finally:
            if keep:
                _keep(clone)
            else:
                clone.remove()

    def _worked(self, work: Work, argv: list[str], watch: Watch) -> tuple[Run, bool]:
        """Run the program and hand back what came of it; False where its work is only in the clone."""
        try:
            ended, output = self._supervised(work, argv, watch)
            return self._back.concluded(work, ended, output, self._stop(work.run))
        except OSError as error:
            fault = OpsError("disk", "a file of the run could not be used", cause=error.strerror or str(error))
            raise _kept(fault, work.clone) from None
        except OpsError as error:
            raise error if error.code == "runner_failed" else _kept(error, work.clone) from None

    def _default_base(self) -> str:
        found = self._repo.default_branch()
        if found is None:
            raise OpsError("bad_input", "there is no branch to start from", hint="draft it with --base BRANCH")
        return found[1]

    def _keys(self) -> list[Path]:
        """The files of the keys that this person signs with, wherever they lie."""
        named = [one.value for one in self._base.settings if one.key == "user.signingkey"]
        pin = self._base.pins.find(self._repo.common)
        named += [str(one) for one in (self._base.environ.get("OPSCTL_SIGNING_KEY"), pin.key if pin else None) if one]
        paths = (Path(expanded(one, self._base.environ)) for one in named if "/" in one and "::" not in one)
        absolute = [self._base.path / path for path in paths if " " not in path.name]
        return [*absolute, *(path.with_suffix("") for path in absolute if path.suffix == ".pub")]

    def _name(self) -> str:
        """The name of the clone's folder: that of the repository's."""
        common = self._repo.common
        name = common.parent.name if common.name == ".git" else common.name.removesuffix(".git")
        ours = name.casefold() in RESERVED or name.casefold().endswith(".git")  # some disks fold case
        return name if name and not ours else "work"

    def _supervised(self, work: Work, argv: list[str], watch: Watch) -> tuple[Ended, Output]:
        log = live_log(self._repo.common, work.run.ulid)
        output = Output(None if log.parent.is_symlink() else log, work.runner.secrets(self._base.environ))

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
                return self._runs.unwanted(made) if now[1] != before[1] else None
            except OpsError:  # a fault of this machine says nothing of the run; it is looked at again
                seen = (None, None)
                return None

        return stop


def _told(error: OpsError) -> str:
    return error.message + (f" ({error.cause})" if error.cause else "")


def _kept(error: OpsError, clone: PrivateClone) -> OpsError:
    """The same fault; it names where the work of the program is."""
    said = f"{error.message}; its work is kept in {clone.work}"
    return OpsError(error.code, said, hint=error.hint, cause=error.cause)


def _keep(clone: PrivateClone) -> None:
    """Mark the clone as one to keep; a full disk does not prevent that a file gets another name."""
    with contextlib.suppress(OSError):
        (clone.folder / SPARE).rename(clone.folder / KEEP)
