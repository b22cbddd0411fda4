"""An index of all runs, so that a page of them costs the same at 500 and at 50,000.

Disposable, the notes are the record: it follows their ref by what differs between two of its commits. Imports the
notes and the run record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from opsctl import runrecord
from opsctl.errors import OpsError
from opsctl.models import Run
from opsctl.notes import Notes

_LAYOUT = 1
_SCHEMA = f"""
DROP TABLE IF EXISTS about; DROP TABLE IF EXISTS run;
CREATE TABLE about (tip TEXT);
CREATE TABLE run (
    ulid TEXT, note TEXT, item TEXT, status TEXT, executor TEXT, key TEXT, lines TEXT, PRIMARY KEY (ulid, note)
) WITHOUT ROWID;
CREATE INDEX run_item ON run (item, ulid);
CREATE INDEX run_note ON run (note);
CREATE INDEX run_status ON run (status, ulid);
CREATE INDEX run_key ON run (key) WHERE key IS NOT NULL;
PRAGMA user_version = {_LAYOUT};
"""
_ORDER = "ORDER BY ulid DESC"


class RunIndex:
    """The runs of one notes ref."""

    def __init__(self, path: Path, notes: Notes) -> None:
        """Open the index; where the file cannot be used, this process keeps one of its own."""
        self._notes = notes
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = _connected(str(path))
            self._prepare()
        except (sqlite3.Error, OSError):
            self._database = _connected(":memory:")
            self._prepare()

    def _prepare(self) -> None:
        if self._database.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
            self._database.executescript(_SCHEMA)

    def follow(self) -> None:
        """Take in what changed since the last time."""
        tip = self._notes.tip()
        row = self._database.execute("SELECT tip FROM about").fetchone()
        if row is None or row[0] != tip:
            try:
                self._take(row[0] if row else None, tip)
            except OpsError as error:  # the commit that was indexed last is gone
                if error.code != "corrupt_object" or row is None:
                    raise
                self._take(None, tip)

    def _take(self, old: str | None, new: str | None) -> None:
        changed = list(self._notes.changes(old, new))
        rows = [row for target, blob in changed if blob and blob != target for row in self._rows(target, blob)]
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if old is None:
                self._database.execute("DELETE FROM run")
            self._database.executemany("DELETE FROM run WHERE note = ?", [(target,) for target, _ in changed])
            self._database.executemany("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._database.execute("DELETE FROM about")
            self._database.execute("INSERT INTO about VALUES (?)", (new,))

    def _rows(self, target: str, blob: str) -> Iterator[tuple[object, ...]]:
        for ulid, events in runrecord.parse_note(self._notes.text(blob)).items():
            run = runrecord.fold(events, target)
            if run:
                lines = "\n".join(map(runrecord.format_event, events))
                yield ulid, target, run.item, run.status, run.executor, run.key, lines

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
        return [row[0] for row in self._database.execute(query, (f"{part}%", f"%{part}"))]

    def ulids(self) -> list[str]:
        """Every id."""
        return [row[0] for row in self._database.execute("SELECT DISTINCT ulid FROM run")]

    def _runs(self, rest: str, values: Sequence[Any]) -> list[Run]:
        found = []
        for note, lines in self._database.execute(f"SELECT note, lines FROM run {rest}", values):  # noqa: S608
            for events in runrecord.parse_note(lines).values():
                run = runrecord.fold(events, note)
                found += [run] if run else []
        return found


def _connected(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=5, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")  # it is made anew when it is lost
    return database
