"""An index of all runs, so that a page of them costs the same at 500 and at 50,000.

Disposable, the notes are the record: it follows their ref by what differs between two of its commits. Imports the
notes and the run record.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from opsctl import runrecord
from opsctl.errors import OpsError
from opsctl.models import Run
from opsctl.notes import Notes

_LAYOUT = 6
_SCHEMA = f"""
DROP TABLE IF EXISTS about; DROP TABLE IF EXISTS run; DROP TABLE IF EXISTS homeless;
DROP TABLE IF EXISTS written;
CREATE TABLE about (tip TEXT, chain TEXT, archive TEXT);
CREATE TABLE homeless (note TEXT PRIMARY KEY, blob TEXT) WITHOUT ROWID;
CREATE TABLE run (
    ulid TEXT, note TEXT, item TEXT, status TEXT, executor TEXT, clone TEXT, key TEXT, tail TEXT, lines TEXT,
    PRIMARY KEY (ulid, note)
) WITHOUT ROWID;
CREATE INDEX run_item ON run (item, ulid);
CREATE INDEX run_note ON run (note);
CREATE INDEX run_status ON run (status, ulid);
CREATE INDEX run_tail ON run (tail, ulid);
CREATE INDEX run_key ON run (key) WHERE key IS NOT NULL;
PRAGMA user_version = {_LAYOUT};
"""
_ORDER = "ORDER BY ulid DESC"
_TRIES = 8
_TAIL = 4
_NOWHERE = ":memory:"

_Seen = tuple[str | None, str, str | None]
"""Up to where the notes, the chain and the archive of the notes were taken in."""

_Row = tuple[str, str, str, str, str, str | None, str | None, str, str]


class Approvals(Protocol):
    """The verified chain, as far as an index of runs asks for it."""

    def tip(self) -> str:
        """Up to which commit it is verified; empty where nothing is."""

    def approves(self, commit: str) -> tuple[str, str] | None:
        """The item and the digest that a commit of the chain approves; None for anything else."""

    def since(self, tip: str) -> list[str]:
        """The approvals past a commit of the chain; all of them where that is none."""


class RunIndex:
    """The runs of one notes ref."""

    def __init__(self, path: Path, notes: Notes, approvals: Approvals, *, archive: RunIndex | None = None) -> None:
        """Open the index; where the file cannot be used, this process keeps one of its own.

        With an archive: what it tells of a run counts too. A clone that was away may bring lines back that had gone
        there, and not all of them.
        """
        self._archive = archive
        self._notes = notes
        self._approvals = approvals
        self._path = path
        try:
            self._open(str(path))
        except (sqlite3.Error, OSError) as error:
            self._start_over(error)

    def _open(self, name: str) -> None:
        if name != _NOWHERE:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._database = _connected(name)
        if self._database.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
            self._database.executescript(_SCHEMA)

    def _start_over(self, error: Exception | None = None) -> None:
        """A damaged file is made anew; where it is merely in use, or the disk is full, this process goes on alone."""
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            with contextlib.suppress(sqlite3.Error, OSError):
                for ending in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
                return self._open(str(self._path))
        return self._open(_NOWHERE)

    def follow(self) -> None:
        """Take in what changed since the last time."""
        for _ in range(_TRIES):
            try:
                if self._followed():
                    return
            except sqlite3.Error as error:  # a damaged file, or a disk without room
                self._start_over(error)
        self._start_over()  # others never stop changing it
        self._followed()

    def _followed(self) -> bool:
        """False where another process changed the index at the same time."""
        tip, chain, archive = self._notes.tip(), self._approvals.tip(), self._archived()
        row = self._about()
        if row and row[1] != chain and not self._house(row, chain):
            return False
        seen = (row[0], chain, row[2]) if row else None
        now = (tip, chain, archive)
        if seen == now:
            return True
        try:
            return self._take(seen, seen, now)
        except OpsError as error:  # the commit that was indexed last is gone
            if error.code != "corrupt_object" or seen is None:
                raise
            return self._take(seen, None, now)

    def _archived(self) -> str | None:
        """The tip of the archive, up to which at least its index goes."""
        if self._archive is None:
            return None
        self._archive.follow()
        about = self._archive._about()
        return about[0] if about else None

    def _about(self) -> _Seen | None:
        row = self._database.execute("SELECT tip, chain, archive FROM about").fetchone()
        return (row[0], row[1], row[2]) if row else None

    def _changed(self, old: _Seen | None, new: _Seen) -> list[tuple[str, str | None]]:
        """The notes to read: those that changed, and those of which the archive changed."""
        if old is None:
            old = (None, "", new[2])
        changed = {target: blob for target, blob in self._notes.changes(old[0], new[0]) if blob != target}
        if self._archive and old[2] != new[2]:
            for target, _ in self._archive._notes.changes(old[2], new[2]):
                if target not in changed and (blob := self._notes.blob(target, new[0])) not in (None, target):
                    changed[target] = blob
        return list(changed.items())

    def _take(self, seen: _Seen | None, old: _Seen | None, new: _Seen) -> bool:
        changed = self._changed(old, new)
        rows, homeless = self._read(changed)
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if self._about() != seen:
                return False
            if old is None or old[0] is None:
                self._database.execute("DELETE FROM run")
                self._database.execute("DELETE FROM homeless")
            self._put([target for target, _ in changed], rows, homeless)
            self._database.execute("DELETE FROM about")
            self._database.execute("INSERT INTO about VALUES (?, ?, ?)", new)
        return True

    def _put(self, notes: list[str], rows: list[_Row], homeless: list[tuple[str, str]]) -> None:
        for table in ("run", "homeless"):
            self._database.executemany(f"DELETE FROM {table} WHERE note = ?", [(note,) for note in notes])  # noqa: S608
        self._database.executemany("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._database.executemany("INSERT OR REPLACE INTO homeless VALUES (?, ?)", homeless)

    def _house(self, seen: _Seen, chain: str) -> bool:
        """Approvals that have come into the chain may have been waited for. False as `_followed`."""
        query = "SELECT note, blob FROM homeless WHERE note = ?"
        come = [row for note in self._approvals.since(seen[1]) for row in self._database.execute(query, (note,))]
        rows, homeless = self._read(come)
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if self._about() != seen:
                return False
            self._put([note for note, _ in come], rows, homeless)
            self._database.execute("UPDATE about SET chain = ?", (chain,))
        return True

    def _read(self, changed: Iterable[tuple[str, str | None]]) -> tuple[list[_Row], list[tuple[str, str]]]:
        """The rows of notes on approvals; and the notes on anything else, which may be one that is to come.

        Runs of an item stand on its approval, a commit of the verified chain: whatever another commit says of itself,
        what is written on it is nobody's record (ID-12).
        """
        rows: list[_Row] = []
        homeless: list[tuple[str, str]] = []
        for target, blob in changed:
            approved = self._approvals.approves(target) if blob else None
            if blob and approved:
                rows += self._rows(target, blob, approved)
            elif blob:
                homeless.append((target, blob))
        return rows, homeless

    def _rows(self, target: str, blob: str, approved: tuple[str, str]) -> Iterator[_Row]:
        try:
            text = self._notes.text(blob).decode("utf-8", "replace")
        except OpsError:  # too large, missing, or no file: that note, and no other
            return
        for ulid, told in runrecord.parse_note(text).items():
            events = self._with_archive(ulid, target, told)
            run = runrecord.fold(events, target)
            if run and (run.item, run.digest) == approved:
                lines = "\n".join(map(runrecord.format_event, events))
                yield ulid, target, run.item, run.status, run.executor, run.clone, run.key, ulid[-_TAIL:], lines

    def _with_archive(self, ulid: str, note: str, events: list[runrecord.Event]) -> list[runrecord.Event]:
        old = self._archive.lines(ulid, note) if self._archive else ""
        if not old:
            return events
        return runrecord.parse_note("\n".join([old, *map(runrecord.format_event, events)]))[ulid]

    def lines(self, ulid: str, note: str) -> str:
        """The lines of a run on one note; empty where there are none."""
        rows = self._ask("SELECT lines FROM run WHERE ulid = ? AND note = ?", (ulid, note))
        return str(rows[0][0]) if rows else ""

    # -- questions ----------------------------------------------------------------------------------------------

    def page(self, *, status: str | None = None, before: str | None = None, limit: int = 50) -> list[Run]:
        """Runs, newest first; of one status, or older than a run, where that is asked for."""
        where, values = ["1"], []
        if status:
            where, values = ["status = ?"], [status]
        if before:
            where, values = [*where, "ulid < ?"], [*values, before]
        return self._runs(f"WHERE {' AND '.join(where)} {_ORDER} LIMIT ?", (*values, limit))

    def active(self) -> list[Run]:
        """Runs that have not ended, oldest first."""
        marks = ", ".join(f"'{status}'" for status in sorted(runrecord.ACTIVE))
        return self._runs(f"WHERE status IN ({marks}) ORDER BY ulid", ())

    def active_of(self, clone: str, others: Iterable[str]) -> list[Run]:
        """Those that a clone answers for, and those among others that have not ended: not a stranger's thousands."""
        marks = ", ".join(f"'{status}'" for status in sorted(runrecord.ACTIVE))
        found = self._runs(f"WHERE status IN ({marks}) AND clone = ? ORDER BY ulid", (clone,))
        known = {run.ulid for run in found}
        rest = [run for ulid in sorted(others) if ulid not in known and (run := self.get(ulid))]
        return [*found, *(run for run in rest if run.status in runrecord.ACTIVE)]

    def of_item(self, item: str) -> list[Run]:
        """Every run of an item, newest first."""
        return self._runs(f"WHERE item = ? {_ORDER}", (item,))

    def with_key(self, key: str) -> Run | None:
        """The run that was made with an idempotency key."""
        return next(iter(self._runs("WHERE key = ? ORDER BY ulid LIMIT 1", (key,))), None)

    def get(self, ulid: str) -> Run | None:
        """One run."""
        return next(iter(self._runs("WHERE ulid = ? ORDER BY note LIMIT 1", (ulid,))), None)

    def matching(self, part: str) -> list[str]:
        """The ids that a part begins or ends."""
        query = "SELECT DISTINCT ulid FROM run WHERE ulid LIKE ? OR ulid LIKE ? LIMIT 20"
        return [row[0] for row in self._ask(query, (f"{part}%", f"%{part}"))]

    def alike(self, ulids: Iterable[str]) -> set[str]:
        """Every id that ends as one of these, or begins as one of these ends: what a short form could mean too."""
        found: set[str] = set()
        for tail in {ulid[-_TAIL:] for ulid in ulids}:
            query = "SELECT ulid FROM run WHERE tail = ? UNION SELECT ulid FROM run WHERE ulid >= ? AND ulid < ?"
            found.update(row[0] for row in self._ask(query, (tail, tail, tail + "~")))
        return found

    def _ask(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:  # a file that is damaged further in
            self._start_over(error)
            self.follow()
            return self._database.execute(query, values).fetchall()

    def _runs(self, rest: str, values: Sequence[Any]) -> list[Run]:
        found = []
        for note, lines in self._ask(f"SELECT note, lines FROM run {rest}", values):  # noqa: S608
            for events in runrecord.parse_note(lines).values():
                run = runrecord.fold(events, note)
                found += [run] if run else []
        return found


def _connected(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=5, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")  # it is made anew when it is lost
    return database
