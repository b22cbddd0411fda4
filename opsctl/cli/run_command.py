"""`opsctl run`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsctl import ids, text
from opsctl.cli.app import command
from opsctl.cli.options import ApprovedId
from opsctl.cli.session import Session
from opsctl.errors import OpsError
from opsctl.models import run_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from opsctl.models import Run
    from opsctl.workspace.executing import Settings
    from opsctl.workspace.hold import Hold

ENDED_OTHERWISE = 9
"""Exit status for a run that ended in anything but done."""

Executor = Annotated[str | None, typer.Option("--executor", metavar="E", help="claim, provider or exec.")]
RunnerName = Annotated[str | None, typer.Option("--runner", metavar="NAME", help="A runner of yours.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Go on in the background.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the private clone for you to look at.")]
IdempotencyKey = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="K", help="The same key gives the same run.")
]
AsDraft = Annotated[bool, typer.Option("--as-draft", help="File a provider's answer as a new draft.")]
AtBase = Annotated[bool, typer.Option("--at-base", help="Run on the approved base though its branch moved on.")]
Sandbox = Annotated[
    bool | None,
    typer.Option(
        "--sandbox/--no-sandbox",
        help="Default: where this machine has one. Without walls the program can do what you can.",
        show_default=False,
    ),
]
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "run", example="opsctl run a_4F7K --runner claude", json=True)
    def run(
        session: Session,
        identifier: ApprovedId,
        executor: Executor = None,
        runner: RunnerName = None,
        detach: Detach = False,
        keep: Keep = False,
        idempotency_key: IdempotencyKey = None,
        as_draft: AsDraft = False,
        at_base: AtBase = False,
        sandbox: Sandbox = None,
    ) -> int:
        """Carry out an approved item. Only the approved bytes decide what runs and how; flags may only narrow.

        Exit 0: done; 9: the run ended otherwise; 3: refused.
        """
        from opsctl.runterms import Wish
        from opsctl.workspace.executing import Settings

        if detach and not _Background.on:
            return _detached(session)
        workspace = session.workspace
        item = _item(session, identifier)
        wish = Wish(executor, runner, at_base, as_draft, sandbox)
        made, hold = workspace.runs.create(item, wish, key=idempotency_key)
        if _Background.on:
            _announce(made, goes_on=hold is not None)
        if hold is None:
            return tell_made(session, made)
        ended = carry_out(session, made, hold, Settings(keep=keep, sandbox=sandbox, as_draft=as_draft))
        tell(session, ended)
        return 0 if ended.status == "done" else ENDED_OTHERWISE


def _item(session: Session, identifier: str) -> str:
    """The ULID of the approved item; a draft's id is refused by its form (ID-05)."""
    from opsctl.workspace.runs import not_approved

    given = ids.parse(identifier)
    _, ulid = session.workspace.resolve(identifier)
    if given.kind == "d":
        refusal = not_approved(ulid)
        if session.workspace.is_approved(ulid):
            refusal = OpsError(refusal.code, "a draft's id is never run", hint=f"opsctl run a_{ulid}")
        raise refusal
    return ulid


def tell_made(session: Session, made: Run) -> int:
    """A run that waits for an agent, or that the same key made before."""
    if session.as_json:
        session.emit(run_json(made))
    else:
        session.result(f"r_{made.ulid}")
        session.say(f"r_{made.ulid} is {made.status}, {made.executor}")
        if made.status == "pending":
            session.say(f"next: an agent takes it: opsctl runs claim r_{made.ulid}")
    return 0 if made.status in ("pending", "claimed", "running", "done") else ENDED_OTHERWISE


def tell(session: Session, run: Run) -> None:
    """Say how a run ended, where its result is, and what comes next."""
    if session.as_json:
        return session.emit(run_json(run))
    name = f"r_{run.ulid}"
    session.result(name)
    said = f": {run.message}" if run.message else ""
    session.say(f"{name} {run.status}{said}")
    if run.result_ref:
        branch = run.result_ref.removeprefix("refs/heads/")
        session.say(f"result: {branch}, {(run.result or '')[:12]} on {(run.base or '')[:12]}")
        look = f"git diff {(run.base or '')[:12]} {branch}"
        session.say(f"next: {look}; git merge {branch}" if run.status == "done" else f"look before you take it: {look}")
    elif run.status == "done" and run.executor == "exec":
        session.say("it changed no files")
    if run.draft:
        session.say(f"its answer is filed: {run.draft}; next: opsctl review")
    if run.output and run.output_bytes:
        session.say(f"what it {'answered' if run.executor == 'provider' else 'printed'}: opsctl runs log {name}")
    return None


def carry_out(session: Session, made: Run, hold: Hold, settings: Settings | None = None) -> Run:
    """Carry a run out, with progress on a terminal."""
    from opsctl.workspace.executing import Settings

    with _Progress(session) as progress:
        return session.workspace.executing.carry_out(made, hold, settings or Settings(), progress.show)


class _Progress:
    """A spinner, the time, and the last line, on a terminal; nothing elsewhere."""

    def __init__(self, session: Session) -> None:
        is_plain = os.environ.get("TERM") == "dumb"
        self._on = sys.stderr.isatty() and not session.as_json and not is_plain
        self._start = time.monotonic()
        self._turn = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            sys.stderr.write("\r\x1b[K")

    @property
    def show(self) -> Callable[[str], None]:
        """What hears the last line."""
        return self._show if self._on else lambda _: None

    def _show(self, line: str) -> None:
        self._turn += 1
        passed = int(time.monotonic() - self._start)
        mark = _SPINNER[self._turn % len(_SPINNER)]
        shown = text.one_line(line, max(10, shutil.get_terminal_size().columns - 14))
        sys.stderr.write(f"\r{mark} {passed // 60}:{passed % 60:02} {shown}\x1b[K")
        sys.stderr.flush()


class _Background:
    """Whether this process was started by `--detach`."""

    on = False


_START = (
    "import sys, json; sys.path = json.loads(sys.stdin.readline()); "
    "from opsctl.cli.run_command import in_background; in_background()"
)


def in_background() -> None:
    """The command line once more, in the process that goes on. Its first line is the run."""
    _Background.on = True
    from opsctl.__main__ import main

    main()


def _detached(session: Session) -> int:
    """The same command in a session of its own; its first line is the run, then it is on its own.

    It imports what this process imports, and nothing from the current folder, whatever the environment says.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _START, *sys.argv[1:]],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    with contextlib.suppress(BrokenPipeError), process.stdin or contextlib.nullcontext() as stdin:
        if stdin:
            stdin.write(f"{json.dumps(_paths())}\n".encode())
    line = process.stdout.readline() if process.stdout else b""
    if not line.startswith(b"{"):
        told = process.stderr.read() if process.stderr else b""
        sys.stderr.write(told.decode("utf-8", "replace"))
        return process.wait()
    found = json.loads(line)
    row = found["run"]
    if not found["goes_on"]:
        return tell_made(session, session.workspace.runs.get(row["id"].removeprefix("r_")))
    if session.as_json:
        session.emit(row)
    else:
        session.data(row["id"])
        session.say(f"{row['id']} goes on in the background: opsctl runs log -f {row['id']}")
    return 0


def _paths() -> list[str]:
    """Where this process imports from, but for the current folder, which is a repository that others write."""
    own, here = os.path.realpath(Path(__file__).parents[2]), os.path.realpath(".")
    real = ((path, os.path.realpath(path)) for path in sys.path if os.path.isabs(path))
    return [path for path, place in real if place == own or place != here]


def _announce(made: Run, *, goes_on: bool) -> None:
    """Tell the run to whoever started this process, and let go of everything that ties the two together."""
    print(json.dumps({"run": run_json(made), "goes_on": goes_on}), flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
