"""The record of runs: events in git notes, the index over them, and what is written down for those that nobody ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from opsctl import ids, runrecord, runterms
from opsctl.errors import OpsError
from opsctl.git.command import Git
from opsctl.leases import Leases, Spent
from opsctl.models import Approved, Document, Run
from opsctl.notes import ARCHIVE, NOTE_LIMIT, RUNS, Append, Moved, Notes, joined
from opsctl.runindex import RunIndex
from opsctl.runrecord import ACTIVE, CLAIMED, EXPIRED, LOST, PENDING, RUNNING, TERMINAL, Event
from opsctl.workspace.base import Base
from opsctl.workspace.chain import Chain
from opsctl.workspace.desk import Desk
from opsctl.workspace.hold import is_held, sweep

OUTPUT_LIMIT = 8 * 1024 * 1024
"""Bytes of an output that are read."""

_ALL = 2**31


class Runbook:
    """Reads and writes the record. Writers hold the lock where it says so."""

    def __init__(self, base: Base, desk: Desk) -> None:
        self._base = base
        self._desk = desk
        self.folder = base.memory().folder
        self._chain = Chain(base)

    @property
    def clone(self) -> str:
        """Names this clone in the record: whose processes and leases a run hangs on."""
        return self.folder.name[-16:]

    @cached_property
    def notes(self) -> Notes:
        """The record."""
        return Notes(self._base.store, RUNS)

    @cached_property
    def _archive(self) -> Notes:
        return Notes(self._base.store, ARCHIVE)

    @cached_property
    def _live(self) -> RunIndex:
        return RunIndex(self.folder / "runs.sqlite", self.notes, self._chain, archive=self._old)

    @cached_property
    def _old(self) -> RunIndex:
        return RunIndex(self.folder / "runs-archive.sqlite", self._archive, self._chain)

    @property
    def live(self) -> RunIndex:
        """Runs that are not archived, as the record has them now."""
        self._live.follow()
        return self._live

    @property
    def archived(self) -> RunIndex:
        """Runs that are archived."""
        self._old.follow()
        return self._old

    @cached_property
    def leases(self) -> Leases:
        """What this machine knows of its workers."""
        return Leases(self.folder / "leases.sqlite", now=self._base.now, uptime=self._base.uptime)

    @cached_property
    def _spent(self) -> Spent:
        return Spent(self._base.places.spent(self._base.root()))

    # -- reading ------------------------------------------------------------------------------------------------

    def run(self, ulid: str) -> Run:
        """One run, archived or not. Raises `unknown_id`."""
        found = self.live.get(ulid) or self.archived.get(ulid)
        if found is None:
            raise unknown(f"r_{ulid}")
        return found

    def of_item(self, item: str) -> list[Run]:
        """Every run of an item."""
        rows = {run.ulid: run for run in (*self.archived.of_item(item), *self.live.of_item(item))}
        return list(rows.values())

    def made(self, document: Document, *, before: Run | None = None) -> int:
        """How many runs of an item were made, by its notes and by what this machine remembers of all its clones.

        Notes can be lost, or deleted by whoever wants one run more. With `before`: other runs, older than that one
        where only the notes tell of them.
        """
        if document.run.max_runs is None:
            return 0
        noted = {run.ulid for run in self.of_item(document.ulid)}
        if before is None:
            return len(noted | self._spent.runs(document.ulid))
        noted = {ulid for ulid in noted if ulid < before.ulid}
        return len((noted | self._spent.runs(document.ulid)) - {before.ulid})

    def spend(self, approved: Approved, ulid: str) -> None:
        """Remember a run of an item whose runs are counted, and those that the notes tell of."""
        document = approved.document
        if document.run.max_runs is not None:
            self._spent.add(document.ulid, {ulid, *(run.ulid for run in self.of_item(document.ulid))})

    def alike(self, ulids: Sequence[str]) -> set[str]:
        """Ids that a short form of one of these could mean."""
        return self.live.alike(ulids) | self.archived.alike(ulids)

    def with_key(self, key: str) -> Run | None:
        """The run that an idempotency key made."""
        return self.live.with_key(key) or self.archived.with_key(key)

    def matching(self, part: str) -> set[str]:
        """Ids that a part begins or ends."""
        return {*self.live.matching(part), *self.archived.matching(part)}

    def output(self, run: Run) -> bytes:
        """What was kept of a run's output. Raises `corrupt_object`."""
        return self._base.repo.read(run.output, "blob", limit=OUTPUT_LIMIT) if run.output else b""

    # -- writing ------------------------------------------------------------------------------------------------

    def new_ulid(self, after: str = "") -> str:
        """A new ULID, later than another one whatever the clock says (RN-16)."""
        fresh = self._base.new_ulid()
        if fresh <= after and ids.is_ulid(later := ids.successor(after)):
            return later
        return fresh  # also where a stranger's line claims the end of time

    def write(
        self, commit: str, run: str, kind: str, facts: dict[str, Any], *, after: str, objects: tuple[bytes, ...] = ()
    ) -> None:
        """Add an event; the caller holds the lock and has looked at the run under it."""
        event = Event(self.new_ulid(after), run, kind, self._base.now(), facts)
        line = runrecord.format_event(event).encode()
        moved = self.notes.append([Append(commit, (line,), objects)], f"runs: r_{run} {kind}", self._base.who)
        self._wrote(moved)

    def add(self, run: Run, kind: str, facts: dict[str, Any], *, objects: tuple[bytes, ...] = ()) -> None:
        """Add an event to a run that goes on. The caller holds the lock."""
        self.write(run.commit, run.ulid, kind, facts, after=run.last, objects=objects)

    def _wrote(self, moved: Moved) -> None:
        with suppress(OpsError):  # best effort: the record is the notes
            self.leases.wrote(*moved)

    # -- what nobody ends ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Write down what became of runs whose lease ran out, whose process died, or whose time is over.

        Reading must not wait: while another process holds the lock nothing is written, and the next command does it.
        Where what this machine knows of its workers cannot be used, runs are shown as the record has them.
        """
        with self._if_free():
            self._settle_all()

    def _settle_all(self) -> None:
        self._reunite()
        dead = [run for run in self.leases.processes() if not is_held(self.folder, run)]
        ours = self.live.active_of(self.clone, {*self.leases.held(), *dead})
        checked: dict[str, str | None] = {}
        fates = {run.ulid: fate for run in ours if (fate := self._fate(run, dead, checked))}
        if not fates and not dead:
            return
        with self._base.store.lock(wait_s=0):
            self._settle(fates, dead)
        sweep(self._base.places.clones(self._base.repo.common), self.folder)  # may take long: not under the lock

    @contextmanager
    def _if_free(self) -> Iterator[None]:
        try:
            yield
        except OpsError as error:
            if error.code not in ("lock_busy", "disk", "checked_out", "no_identity", "git_failed"):
                raise

    def _reunite(self) -> None:
        """Bring back what a plain `git notes` beside us wrote over.

        It reads the notes, and then makes its commit on whatever the ref says by then: what came in between is in its
        history and not in its tree. Whoever puts the ref back to an older commit, or removes a note, is left alone.
        """
        tip = self.notes.tip()
        if tip is None or all(ours == tip for ours, _ in self.leases.written()):
            return
        with self._if_free(), self._base.store.lock(wait_s=0):
            for ours, base in self.leases.written():
                tip = self.notes.tip()
                if tip not in (None, ours):
                    self._bring_back(base, ours, str(tip))

    def _bring_back(self, base: str | None, ours: str, tip: str) -> None:
        git = Git(self._base.repo.common, self._base.environ)
        is_here = self._base.repo.exists(ours) and (base is None or self._base.repo.exists(base))
        put_back = is_here and git.run("merge-base", ours, tip, good=(0, 1)).decode().strip() == tip
        if is_here and not put_back:
            missing = [row for row in self._missing(base, ours, tip) if row.lines or row.kept]
            if missing:
                moved = self.notes.append(missing, "runs: bring back what was written over", self._base.who)
                self._wrote(moved)
        self.leases.settled(ours)

    def _missing(self, base: str | None, ours: str, tip: str) -> Iterator[Append]:
        """What was written between two commits of the notes, as far as a third one, which goes on from it, lacks it."""
        for target, blob in self.notes.changes(base, ours):
            try:
                there = self.notes.read(target, tip)
                if blob == target and not there and self.notes.is_blob(blob):
                    yield Append(target, (), kept=(blob,))
                elif blob and blob != target:
                    has, before = set(there.split(b"\n")), self.notes.read(target, base) if base else b""
                    added = (line for line in self.notes.text(blob).split(b"\n") if line not in has)
                    yield Append(target, tuple(added) if has.issuperset(before.split(b"\n")) else ())
            except OpsError:  # a stranger's note that is too large or no file hides itself, and no other
                continue

    def _settle(self, fates: dict[str, tuple[str, str]], dead: list[str]) -> None:
        for ulid, (status, message) in fates.items():
            run = self.run(ulid)
            if run.status in ACTIVE:
                self.add(run, status, {"message": message})
        for ulid in {*fates, *dead}:
            self.leases.forget(ulid)

    def _fate(self, run: Run, dead: list[str], checked: dict[str, str | None]) -> tuple[str, str] | None:
        ours = run.clone == self.clone
        if run.ulid in dead or (ours and run.executor != "claim" and not is_held(self.folder, run.ulid)):
            return LOST, "the process that carried it out is gone"
        lease = self.leases.find(run.ulid)
        if run.status in (CLAIMED, RUNNING) and run.executor == "claim":
            if lease and lease.ended:
                return LOST, f"nothing was heard of {run.holder} for {lease.seconds:g} s"
            if ours and lease is None:
                return LOST, f"this machine has forgotten the lease of {run.holder}"
        if run.status == PENDING and run.executor == "claim":
            if run.item not in checked:
                checked[run.item] = self._over(run.item)
            over = checked[run.item]
            return (EXPIRED, over) if over else None
        return None

    def _over(self, item: str) -> str | None:
        """That the time of an item is over; None where it is not, or the item is not approved."""
        try:
            runterms.check_time(self._desk.approved(item)[0].document, self._base.now())
        except OpsError as error:
            return error.message if error.code == "expired" else None
        return None

    # -- keeping ------------------------------------------------------------------------------------------------

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Move runs that ended so long ago to the archive. Returns their ids."""
        self.settle()
        edge = self._base.now() - older_than
        with self._base.store.lock(branches=False):
            old = [run for run in self._ended() if run.finished_at and run.finished_at < edge]
            if old and not dry_run:
                old = self._move(old)
        return [run.ulid for run in old]

    def _ended(self) -> Iterator[Run]:
        for status in sorted(TERMINAL):
            yield from self.live.page(status=status, limit=_ALL)

    def _move(self, old: list[Run]) -> list[Run]:
        """First into the archive, then out of the record: a crash in between doubles runs, which read the same.

        Lines of others stay as they are, byte for byte. A note that cannot be moved keeps its runs, and no other's.
        """
        parts = [part for note in sorted({run.commit for run in old}) if (part := self._parted(note, old))]
        moved = [run for part in parts for run in part.runs]
        gone = {run.ulid for run in moved}
        staying = {run.output for run in self.live.page(limit=_ALL) if run.ulid not in gone}
        lines = {part.archive.target: part.lines for part in parts}
        kept = {oid for part in parts for oid in part.archive.kept if oid not in staying}
        if parts:
            self._archive.append([part.archive for part in parts], "runs: archive", self._base.who)
            self._wrote(self.notes.remove(lines, kept, "runs: archive", self._base.who))
        for ulid in gone:
            live_log(self._base.repo.common, ulid).unlink(missing_ok=True)
        return moved

    def _parted(self, note: str, old: list[Run]) -> _Parted | None:
        runs = [run for run in old if run.commit == note]
        gone = {run.ulid for run in runs}
        try:
            lines, archived = self.notes.read(note).split(b"\n"), self._archive.read(note)
        except OpsError:  # a stranger made it too large, or no file
            return None
        moving = {line for line in lines if _run_of(line) in gone}
        there = set(archived.split(b"\n"))
        added = tuple(line for line in dict.fromkeys(lines) if line in moving and line not in there)
        if len(joined(archived, added)) > NOTE_LIMIT:
            return None
        kept = tuple({run.output for run in runs if run.output and self.notes.keeps(run.output)})
        return _Parted(runs, Append(note, added, kept=kept), moving)


def _run_of(line: bytes) -> str | None:
    event = runrecord.parse_event(line.decode("utf-8", "replace"))
    return event.run if event else None


class _Parted(NamedTuple):
    """What of one note goes to the archive: what the archive lacks, and all that goes away here."""

    runs: list[Run]
    archive: Append
    lines: set[bytes]


def live_log(common: Path, ulid: str) -> Path:
    """The local file that a run's output goes to while it runs; it grants nothing and may be removed."""
    return common / "opsctl" / "logs" / f"r_{ulid}.log"


def unknown(text: str) -> OpsError:
    """No run and no approved item has this id."""
    return OpsError("unknown_id", f"no run or approved item {text[:60]}", hint="`opsctl runs list` shows the runs")
