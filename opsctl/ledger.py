"""What verification remembers of a chain: every decision, and which commits it made reachable. Disposable.

One SQLite file outside the clone, keyed by root and rule version. Deleting it costs one cold verification and changes
nothing else. Positions count from 0, the root.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from opsctl.errors import OpsError
from opsctl.models import Decision, Signer
from opsctl.policy import VERSION
from opsctl.standing import Judgement

_LAYOUT = 1
"""Raised with every change of the tables; a file of another layout is emptied, never understood."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (root TEXT, version INTEGER);
CREATE TABLE IF NOT EXISTS chain (
    position INTEGER PRIMARY KEY, oid TEXT UNIQUE, kind TEXT, ulid TEXT, live INTEGER, data TEXT);
CREATE INDEX IF NOT EXISTS chain_ulid ON chain (ulid);
CREATE TABLE IF NOT EXISTS merged (oid TEXT PRIMARY KEY, position INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS merged_position ON merged (position);
CREATE TABLE IF NOT EXISTS cached (name TEXT PRIMARY KEY, data TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS work (ulid TEXT PRIMARY KEY, data TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS worked (oid TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_TABLES = ("about", "chain", "merged", "cached", "work", "worked")


class Ledger:
    """The memory of one chain."""

    def __init__(self, path: Path | None, root: str) -> None:
        """Open the memory at `path`; None, or a file that cannot be used, keeps it in this process only."""
        self._root = root
        self._path = path
        self._database = _opened(path) if path else _connected(":memory:")
        try:
            self._prepare()
        except (sqlite3.Error, OpsError) as error:
            if not isinstance(error, sqlite3.OperationalError):  # damaged, and not merely in use
                self._remove()
            self._database = _connected(":memory:")
            self._prepare()

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query. A damaged file is removed and the command refused: the next one verifies anew."""
        try:
            yield from self._database.execute(query, values)
        except sqlite3.OperationalError as error:
            raise OpsError("lock_busy", "the verification memory is in use", cause=str(error)) from None
        except sqlite3.DatabaseError as error:
            self._remove()
            message = "the verification memory was damaged and is removed; nothing else is lost"
            raise OpsError("disk", message, cause=str(error), hint="run the command again") from None

    def _first(self, query: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        return next(self._rows(query, values), None)

    def _remove(self) -> None:
        self._database.close()
        if self._path:
            for ending in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)

    def _prepare(self) -> None:
        if self._database.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
            drops = "".join(f"DROP TABLE IF EXISTS {table};" for table in _TABLES)
            self._database.executescript(f"{drops}{_SCHEMA}PRAGMA user_version = {_LAYOUT};")
        row = self._first("SELECT root, version FROM about")
        if row != (self._root, VERSION):
            self._empty()

    def forget(self) -> None:
        """Drop everything that was remembered. A damaged file is removed and made anew."""
        try:
            self._empty()
        except sqlite3.DatabaseError:
            self._remove()
            self._database = _opened(self._path) if self._path else _connected(":memory:")
            self._prepare()

    def _empty(self) -> None:
        with self._writing():
            for table in _TABLES:
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608  the names are the literals above
            self._database.execute("INSERT INTO about VALUES (?, ?)", (self._root, VERSION))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    # -- the chain ----------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many commits of the chain are remembered."""
        row = self._first("SELECT coalesce(max(position) + 1, 0) FROM chain")
        return int(row[0]) if row else 0

    def position(self, oid: str) -> int | None:
        """Where a commit stands in the chain, or None."""
        row = self._first("SELECT position FROM chain WHERE oid = ?", (oid,))
        return int(row[0]) if row else None

    def commit_at(self, position: int) -> str:
        """The commit at a position that is remembered."""
        row = self._first("SELECT oid FROM chain WHERE position = ?", (position,))
        if row is None:
            hint = "run the command again"
            raise OpsError("ref_conflict", "another process replaced the history meanwhile", hint=hint)
        return str(row[0])

    def live(self, position: int) -> int:
        """How many items are approved, and not revoked, after the commit at a position."""
        row = self._first("SELECT live FROM chain WHERE position = ?", (position,))
        return int(row[0]) if row else 0

    def decided(self, ulid: str, upto: int) -> bool:
        """True if a commit up to this position approved the id."""
        query = "SELECT 1 FROM chain WHERE ulid = ? AND kind = 'approve' AND position <= ?"
        return self._first(query, (ulid, upto)) is not None

    def reachable(self, oid: str, upto: int) -> bool:
        """True if a commit is on the chain, or merged into it, up to this position."""
        query = (
            "SELECT 1 FROM chain WHERE oid = ? AND position <= ? "
            "UNION ALL SELECT 1 FROM merged WHERE oid = ? AND position <= ?"
        )
        return self._first(query, (oid, upto, oid, upto)) is not None

    def append(self, position: int, judgements: Iterable[Judgement], *, after: str | None) -> None:
        """Remember the commits that follow `after`, which stands before `position`, in place of whatever was there.

        A file that cannot be written (full disk, no permission) is left alone, and this process remembers by itself.
        """
        known = list(judgements)
        try:
            self._append(position, known, after)
        except sqlite3.Error:
            self._detach()
            self._append(position, known, after)

    def _append(self, position: int, judgements: Sequence[Judgement], after: str | None) -> None:
        oids = [judgement.decision.commit for judgement in judgements]
        with self._writing():
            live = self._live_below(position, after)
            kept = self._database.execute("SELECT oid FROM chain WHERE position >= ? ORDER BY position", (position,))
            if oids == [oid for (oid,) in kept.fetchmany(len(oids))]:
                return  # another process was here first, and may be further on
            self._database.execute("DELETE FROM chain WHERE position >= ?", (position,))
            self._database.execute("DELETE FROM merged WHERE position >= ?", (position,))
            rows = _chain_rows(position, judgements, live)
            self._database.executemany("INSERT INTO chain VALUES (?, ?, ?, ?, ?, ?)", rows)
            merged = [(oid, place) for place, judgement in enumerate(judgements, position) for oid in judgement.topic]
            self._database.executemany("INSERT OR REPLACE INTO merged VALUES (?, ?)", merged)

    def _live_below(self, position: int, after: str | None) -> int:
        """How many items are live before a position, if `after` stands there; asked inside the transaction."""
        query = "SELECT oid, live FROM chain WHERE position = ?"
        oid, live = self._database.execute(query, (position - 1,)).fetchone() or (None, 0)
        if position and oid != after:
            hint = "run the command again"
            raise OpsError("ref_conflict", "another process replaced the history meanwhile", hint=hint)
        return int(live)

    def _detach(self) -> None:
        """Go on with a copy in memory."""
        copy = _connected(":memory:")
        try:
            self._database.backup(copy)
        except sqlite3.Error as error:
            hint = "make room on the disk of the state folder, or remove the file"
            raise OpsError("disk", "the verification memory cannot be read", cause=str(error), hint=hint) from None
        self._database = copy

    def decisions(self, upto: int, *, ulid: str | None = None, newest_first: bool = True) -> Iterator[Decision]:
        """Decisions up to a position; of one id only, if it is given."""
        order = "DESC" if newest_first else "ASC"
        where, values = ("AND ulid = ?", (upto, ulid)) if ulid else ("", (upto,))
        query = f"SELECT data FROM chain WHERE position <= ? {where} ORDER BY position {order}"  # noqa: S608
        for (data,) in self._rows(query, values):
            yield _unpacked(data)

    def decision(self, oid: str, upto: int) -> Decision | None:
        """What a commit of the chain up to a position decided."""
        row = self._first("SELECT data FROM chain WHERE oid = ? AND position <= ?", (oid, upto))
        return _unpacked(row[0]) if row else None

    def approvals(self, after: int, upto: int) -> list[str]:
        """The commits that approve an item, past one position up to another."""
        query = "SELECT oid FROM chain WHERE kind = 'approve' AND position > ? AND position <= ?"
        return [row[0] for row in self._rows(query, (after, upto))]

    def ulids(self, upto: int, part: str | None = None) -> list[str]:
        """The ids that were ever approved; only those that a part begins or ends, if it is given."""
        query, values = "SELECT DISTINCT ulid FROM chain WHERE kind = 'approve' AND position <= ?", [str(upto)]
        if part:
            query += " AND (ulid LIKE ? OR ulid LIKE ?)"
            values += [f"{part}%", f"%{part}"]
        return [row[0] for row in self._rows(query, values)]

    # -- caches keyed by content --------------------------------------------------------------------------------

    def cached(self, name: str) -> str | None:
        """A remembered value, named by the object ids that it follows from."""
        row = self._first("SELECT data FROM cached WHERE name = ?", (name,))
        return row[0] if row else None

    def cache(self, name: str, data: str, *, instead_of: str) -> None:
        """Remember a value, in place of those whose names begin with `instead_of`."""
        try:
            with self._writing():
                self._database.execute("DELETE FROM cached WHERE name GLOB ?", (instead_of + "*",))
                self._database.execute("INSERT INTO cached VALUES (?, ?)", (name, data))
        except sqlite3.Error:
            return  # a cache that cannot be written is only slower

    def worked(self, oid: str) -> bool:
        """True if a commit of ops/drafts was taken into the work log."""
        return self._first("SELECT 1 FROM worked WHERE oid = ?", (oid,)) is not None

    def work(self, ulid: str) -> dict[str, Any] | None:
        """The last event of an id on ops/drafts."""
        row = self._first("SELECT data FROM work WHERE ulid = ?", (ulid,))
        found: dict[str, Any] | None = json.loads(row[0]) if row else None
        return found

    def add_work(self, seen: Iterable[str], events: dict[str, dict[str, str | None]]) -> None:
        """Remember commits of ops/drafts and the last event of each id in them."""
        try:
            self._add_work(seen, events)
        except sqlite3.Error:
            self._detach()
            self._add_work(seen, events)

    def _add_work(self, seen: Iterable[str], events: dict[str, dict[str, str | None]]) -> None:
        with self._writing():
            self._database.executemany("INSERT OR IGNORE INTO worked VALUES (?)", [(oid,) for oid in seen])
            rows = [(ulid, json.dumps(event)) for ulid, event in events.items()]
            self._database.executemany("INSERT OR REPLACE INTO work VALUES (?, ?)", rows)


def _opened(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        database = _connected(str(path))
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        return database
    except (sqlite3.Error, OSError):
        return _connected(":memory:")


def _connected(name: str) -> sqlite3.Connection:
    return sqlite3.connect(name, timeout=5, isolation_level=None)


def _chain_rows(position: int, judgements: Sequence[Judgement], live: int) -> Iterator[tuple[object, ...]]:
    for place, judgement in enumerate(judgements, position):
        decision = judgement.decision
        live += {"approve": 1, "revoke": -1}.get(decision.kind, 0)
        yield place, decision.commit, decision.kind, decision.ulid, live, _packed(decision)


def _packed(decision: Decision) -> str:
    return _JSON.encode(as_row(decision))


def _unpacked(data: str) -> Decision:
    return from_row(json.loads(data))


def as_row(decision: Decision) -> dict[str, Any]:
    """A decision as JSON can hold it."""
    row = {name: getattr(decision, name) for name in Decision.__slots__}
    row["at"] = decision.at.isoformat()
    row["signer"] = [decision.signer.principal, decision.signer.fingerprint]
    row["votes"] = [[vote.principal, vote.fingerprint] for vote in decision.votes]
    return row


def from_row(row: dict[str, Any]) -> Decision:
    """The decision again; the row is used up."""
    row["at"] = datetime.fromisoformat(row["at"])
    row["signer"] = Signer(*row["signer"])
    row["votes"] = tuple(Signer(*vote) for vote in row["votes"])
    return Decision(**row)
