"""`opsctl runs list|show|log|claim|report|cancel|retry`."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from opsctl import text
from opsctl.cli.app import command
from opsctl.cli.options import RunId, read_file
from opsctl.cli.prune_command import duration
from opsctl.cli.run_command import ENDED_OTHERWISE, AsDraft, AtBase, Keep, Sandbox, tell
from opsctl.cli.session import Session, age
from opsctl.models import run_json, utc

if TYPE_CHECKING:
    from opsctl.models import Run

_COLOURS = {"done": "green", "error": "red", "lost": "red", "cancelled": "dim", "expired": "dim", "running": "yellow"}
_POLL_S = 0.3
_TOKEN_LIMIT = 4096


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Runs: look, follow, claim, report, cancel, retry.",
        no_args_is_help=True,
        epilog="Example: opsctl runs list --status running",
    )
    app.add_typer(group, name="runs")
    _looking(group)
    _agents(group)
    _ending(group)


def _looking(group: typer.Typer) -> None:
    @command(group, "list", example="opsctl runs list --status running", json=True)
    def list_(
        session: Session,
        status: Annotated[str | None, typer.Option("--status", "-s", metavar="S", help="Of this status.")] = None,
        archived: Annotated[bool, typer.Option("--archived", help="Those that prune moved away.")] = False,
        limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="At most.")] = 50,
        before: Annotated[str | None, typer.Option("--before", metavar="ID", help="Older than this run.")] = None,
    ) -> None:
        """List runs, newest first."""
        runs = session.workspace.runs
        older = runs.resolve(before) if before else None
        found = runs.page(status=status, before=older, limit=limit, archived=archived)
        if session.as_json:
            return session.emit([run_json(run) for run in found])
        if not session.out_is_terminal:
            rows = ([f"r_{r.ulid}", r.status, r.executor, utc(r.created_at), f"a_{r.item}", r.message] for r in found)
            return session.table({}, rows)
        if not found:
            return session.say("no runs; `opsctl run a_…` makes one")
        return _table(session, found)

    @command(group, "show", example="opsctl runs show r_4F7K", json=True)
    def show(session: Session, identifier: RunId) -> None:
        """Show one run: what it was made of, how it stands, and every event."""
        run = session.workspace.runs.get(session.workspace.runs.resolve(identifier))
        if session.as_json:
            return session.emit(run_json(run))
        for name, value in _facts(run):
            if value:
                session.raw_line(f"{session.paint(f'{name:>10}', 'dim')}  {text.one_line(value, 500)}")
        for entry in run.log:
            session.data(f"{utc(entry.at)}  {entry.kind:<9}  {text.one_line(entry.message, 300)}".rstrip())
        return None

    @command(group, "log", example="opsctl runs log -f r_4F7K")
    def log(
        session: Session,
        identifier: RunId,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    ) -> int:
        """Print what a run printed.

        Live on the machine that carries it out, else what was kept.
        """
        return _log(session, identifier, follow=follow)


def _table(session: Session, found: list[Run]) -> None:
    suffixes = session.workspace.runs.suffixes(found)
    columns = {"id": "yellow", "status": None, "executor": None, "age": "dim", "item": None, "message": None}
    rows = (
        [suffixes[r.ulid], r.status, r.runner or r.executor, age(r.created_at), f"a_…{r.item[-6:]}", r.message]
        for r in found
    )
    session.table(columns, rows)


def _facts(run: Run) -> list[tuple[str, str]]:
    ended = f", {utc(run.finished_at)}" if run.finished_at else ""
    code = f", exit {run.exit_code}" if run.exit_code is not None else ""
    return [
        ("id", f"r_{run.ulid}"),
        ("of", f"a_{run.item}, {run.digest}"),
        ("approval", run.commit),
        ("status", f"{run.status}{code}{ended}"),
        ("executor", " ".join(part for part in (run.executor, run.runner or "") if part)),
        ("attempt", f"{run.attempt}{f', after {run.retry_of}' if run.retry_of else ''}"),
        ("by", run.by),
        (
            "holder",
            f"{run.holder}{f', until {run.until}' if run.until and not run.finished_at else ''}" if run.holder else "",
        ),
        ("command", " ".join(run.argv)),
        ("sandbox", run.sandbox or ""),
        ("base", run.base or ""),
        ("result", f"{run.result_ref}, {run.result}" if run.result_ref else ""),
        ("outside", ", ".join(run.outside)),
        ("usage", ", ".join(f"{name} {count:,}" for name, count in (run.usage or {}).items())),
        ("draft", run.draft or ""),
        ("output", f"{run.output_bytes:,} bytes" + (f", {run.cut_bytes:,} cut out" if run.cut_bytes else ""))
        if run.output_bytes is not None
        else ("output", ""),
        ("message", run.message),
    ]


def _log(session: Session, identifier: str, *, follow: bool) -> int:
    runs = session.workspace.runs
    ulid = runs.resolve(identifier)
    path, seen = runs.live_log(ulid), 0
    while True:
        run = runs.get(ulid)
        over = run.status not in ("pending", "claimed", "running")
        if path.is_file() and not path.is_symlink():
            seen += _print_from(session, path, seen)
        elif over:
            kept = runs.output(run)
            _print_kept(session, kept)
            if not kept:
                session.say(f"nothing that r_{ulid} printed was kept")
        if over or not follow:
            break
        if runs.is_elsewhere(run):
            session.say(
                f"r_{ulid} is {run.status} in another clone ({run.clone or 'unnamed'}); `opsctl sync` brings news"
            )
            return ENDED_OTHERWISE
        time.sleep(_POLL_S)
    if follow:
        session.say(f"r_{ulid} {run.status}{f': {run.message}' if run.message else ''}")
        return 0 if run.status == "done" else ENDED_OTHERWISE
    return 0


def _print_from(session: Session, path: object, start: int) -> int:
    with open(str(path), "rb") as file:
        file.seek(start)
        data = file.read(1024 * 1024)
    if data:
        _print_kept(session, data)
        return len(data) + _print_from(session, path, start + len(data))
    return 0


def _print_kept(session: Session, data: bytes) -> None:
    del session
    sys.stdout.write(text.visible(data.decode("utf-8", "replace")))
    sys.stdout.flush()


def _agents(group: typer.Typer) -> None:
    @command(group, "claim", example="opsctl runs claim --lease 10m", json=True)
    def claim(
        session: Session,
        identifier: Annotated[
            str | None, typer.Argument(metavar="[ID]", help="Default: the oldest that waits.")
        ] = None,
        lease: Annotated[str, typer.Option("--lease", metavar="60s", help="How long until the next report.")] = "60s",
        holder: Annotated[str | None, typer.Option("--holder", metavar="NAME", help="Who takes it.")] = None,
    ) -> None:
        """Take a pending run. Prints its id and a token, once; whoever has the token reports on the run."""
        runs = session.workspace.runs
        ulid = runs.resolve(identifier) if identifier else None
        taken = runs.claim(ulid, seconds=duration(lease).total_seconds(), holder=holder)
        if session.as_json:
            run = run_json(taken.run)
            return session.emit({"run": run, "lease_token": taken.token, "lease_until": taken.run.until})
        session.data(f"r_{taken.run.ulid}\t{taken.token}")
        session.say(f"of a_{taken.run.item}; its prompt: opsctl show a_{taken.run.item} --raw")
        return session.say(f"report before {taken.run.until}: opsctl runs report r_{taken.run.ulid} --token …")

    @command(group, "report", example="opsctl runs report r_4F7K --token T --status done --result out.txt", json=True)
    def report(
        session: Session,
        identifier: RunId,
        token: Annotated[str, typer.Option("--token", metavar="T", help="What claim printed; - reads it from stdin.")],
        status: Annotated[str | None, typer.Option("--status", metavar="S", help="running, done or error.")] = None,
        message: Annotated[str | None, typer.Option("--message", "-m", metavar="M", help="One line.")] = None,
        result: Annotated[
            str | None, typer.Option("--result", metavar="FILE", help="What came of it; -: stdin.")
        ] = None,
    ) -> None:
        """Report on a claimed run. Every report renews the lease."""
        from opsctl.workspace.runs import RESULT_LIMIT

        secret = _first_line() if token == "-" else token  # noqa: S105
        data = read_file(result, limit=RESULT_LIMIT) if result else None
        runs = session.workspace.runs
        run = runs.report(runs.resolve(identifier), secret, status=status, message=_line(message), result=data)
        if session.as_json:
            return session.emit(run_json(run))
        return session.say(
            f"r_{run.ulid} {run.status}{f', lease until {run.until}' if run.finished_at is None else ''}"
        )


def _first_line() -> str:
    """A token from stdin; the bytes after it are left there, as they may be the result."""
    return sys.stdin.buffer.readline(_TOKEN_LIMIT).decode("utf-8", "replace").strip()


def _line(message: str | None) -> str | None:
    """A message is one line; a secret does not go into the record."""
    from opsctl.secretscan import redact

    return redact(re.sub(r"\s+", " ", message)).strip()[:500] if message else None


def _ending(group: typer.Typer) -> None:
    @command(group, "cancel", example="opsctl runs cancel r_4F7K", json=True)
    def cancel(
        session: Session,
        identifier: RunId,
        reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; it is kept.")] = None,
    ) -> None:
        """End a run. A cancelled run never becomes done."""
        runs = session.workspace.runs
        ulid = runs.resolve(identifier)
        before = runs.get(ulid)
        run = before if before.status == "cancelled" else runs.cancel(ulid, reason=_line(reason))
        if session.as_json:
            return session.emit(run_json(run))
        return session.say(f"r_{ulid} is cancelled" + (" already" if run is before else ""))

    @command(group, "retry", example="opsctl runs retry r_4F7K", json=True)
    def retry(
        session: Session,
        identifier: RunId,
        keep: Keep = False,
        as_draft: AsDraft = False,
        at_base: AtBase = False,
        sandbox: Sandbox = None,
    ) -> int:
        """Make a new run in place of one that went wrong.

        One that was lost, cancelled or ended in error. The old token stays dead. Its options are not taken over.
        """
        from opsctl.cli.run_command import carry_out, tell_made
        from opsctl.workspace.executing import Settings

        runs = session.workspace.runs
        made, hold = runs.retry(runs.resolve(identifier), at_base=at_base, as_draft=as_draft, sandbox=sandbox)
        if hold is None:
            return tell_made(session, made)
        ended = carry_out(session, made, hold, Settings(keep=keep, sandbox=sandbox, as_draft=as_draft))
        tell(session, ended)
        return 0 if ended.status == "done" else ENDED_OTHERWISE
