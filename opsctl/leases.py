"""Who holds a run on this machine, and which runs an item had: facts that notes may not decide. Imports errors.

Lease tokens are kept as hashes, outside every repository. A lease ends by the time since boot, which no change of the
clock moves (RN-16); after a reboot the wall clock has to do.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from opsctl.errors import OpsError

SHORTEST_S, LONGEST_S = 5, 86400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
    run TEXT PRIMARY KEY, hash TEXT, seconds REAL, boot TEXT, up REAL, wall REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS process (run TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made (run TEXT PRIMARY KEY, executor TEXT, runner TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS written (tip TEXT PRIMARY KEY, base TEXT, length INTEGER) WITHOUT ROWID;
"""
_LEASE = "run, hash, seconds, boot, up, wall"
_SPENT = "CREATE TABLE IF NOT EXISTS spent (item TEXT, run TEXT, PRIMARY KEY (item, run)) WITHOUT ROWID;"
_LATELY = 20
"""Writes during which a plain `git notes` may have been under way."""

Uptime = Callable[[], tuple[str, float]]


def uptime() -> tuple[str, float]:
    """The name of this boot, and the seconds since it; both empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return "", 0.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A hold on a run: how long one renewal lasts, and when the last one ends."""

    run: str
    seconds: float
    ended: bool


class _Local:
    """A small database outside every repository. What it says survives a crash."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = sqlite3.connect(path, timeout=10, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(schema)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> OpsError:
        hint = f"mend the permissions or make room; a damaged file can be moved away: {self._path}"
        return OpsError("disk", "what this machine knows of runs cannot be used", cause=str(error), hint=hint)

    @contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._database
        except sqlite3.Error as error:
            raise self._unusable(error) from None


class Spent(_Local):
    """Which runs were made of items whose runs are counted: for all clones of one root on this machine."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SPENT)

    def runs(self, item: str) -> set[str]:
        """The runs that are known of."""
        with self._guarded() as database:
            return {row[0] for row in database.execute("SELECT run FROM spent WHERE item = ?", (item,))}

    def add(self, item: str, runs: Iterable[str]) -> None:
        """Remember runs, whatever becomes of the notes."""
        with self._guarded() as database, database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT OR IGNORE INTO spent VALUES (?, ?)", [(item, run) for run in runs])


class Leases(_Local):
    """The workers of one clone."""

    def __init__(self, path: Path, *, now: Callable[[], datetime], uptime: Uptime) -> None:
        self._now = now
        self._uptime = uptime
        super().__init__(path, _SCHEMA)

    # -- leases of outside agents -------------------------------------------------------------------------------

    def grant(self, run: str, seconds: float) -> str:
        """A new token for a run, in place of any other. It is not kept and cannot be shown again."""
        token = "opsctl_lease_" + secrets.token_urlsafe(32)
        with self._guarded() as database:
            row = (run, _hash(token), seconds, *self._end(seconds))
            database.execute(f"INSERT OR REPLACE INTO lease ({_LEASE}) VALUES (?, ?, ?, ?, ?, ?)", row)  # noqa: S608
        return token

    def holds(self, run: str, token: str) -> bool:
        """True if the token is the run's and its time has not run out."""
        with self._guarded() as database:
            row = database.execute("SELECT hash FROM lease WHERE run = ?", (run,)).fetchone()
        lease = self.find(run)
        return bool(row and lease and not lease.ended and hmac.compare_digest(row[0], _hash(token)))

    def renew(self, run: str) -> None:
        """Start the lease's time anew."""
        lease = self.find(run)
        if lease:
            with self._guarded() as database:
                end = (*self._end(lease.seconds), run)
                database.execute("UPDATE lease SET boot = ?, up = ?, wall = ? WHERE run = ?", end)

    def find(self, run: str) -> Lease | None:
        """The lease of a run that was given on this machine."""
        with self._guarded() as database:
            query = "SELECT seconds, boot, up, wall FROM lease WHERE run = ?"
            row = database.execute(query, (run,)).fetchone()
        if row is None:
            return None
        seconds, boot, up, wall = row
        here, since = self._uptime()
        ended = since >= up if boot and boot == here else self._now().timestamp() >= wall
        return Lease(run, seconds, ended)

    def _end(self, seconds: float) -> tuple[str, float, float]:
        boot, since = self._uptime()
        return boot, since + seconds, self._now().timestamp() + seconds

    # -- processes of this machine ------------------------------------------------------------------------------

    def note_process(self, run: str) -> None:
        """Remember that a process of this machine carries the run out."""
        with self._guarded() as database:
            database.execute("INSERT OR REPLACE INTO process VALUES (?)", (run,))

    def processes(self) -> list[str]:
        """Runs that a process of this machine carries out, or did when it died."""
        with self._guarded() as database:
            return [row[0] for row in database.execute("SELECT run FROM process ORDER BY run")]

    def forget(self, run: str) -> None:
        """The run has ended."""
        with self._guarded() as database:
            database.execute("DELETE FROM process WHERE run = ?", (run,))
            database.execute("DELETE FROM lease WHERE run = ?", (run,))

    def held(self) -> set[str]:
        """Runs that somebody holds a lease of, or a process of this machine carries out."""
        with self._guarded() as database:
            return {row[0] for row in database.execute("SELECT run FROM lease UNION SELECT run FROM process")}

    # -- what was asked for here --------------------------------------------------------------------------------

    def note_made(self, run: str, executor: str, runner: str | None) -> None:
        """Remember what a person here let a run be made with: notes may not say it in their place."""
        with self._guarded() as database:
            database.execute("INSERT OR REPLACE INTO made VALUES (?, ?, ?)", (run, executor, runner))

    def made_with(self, run: str) -> tuple[str, str | None] | None:
        """The executor and the runner of a run that was made here."""
        with self._guarded() as database:
            row = database.execute("SELECT executor, runner FROM made WHERE run = ?", (run,)).fetchone()
        return (row[0], row[1]) if row else None

    # -- what this machine wrote into the record ----------------------------------------------------------------

    def written(self) -> list[tuple[str, str | None]]:
        """Commits of the notes that this clone wrote one on the other lately: the last, and what the first stood on."""
        with self._guarded() as database:
            return [(tip, base) for tip, base in database.execute("SELECT tip, base FROM written")]

    def wrote(self, old: str | None, new: str) -> None:
        """Remember such a commit."""
        with self._guarded() as database, database:
            database.execute("BEGIN IMMEDIATE")
            known = database.execute("SELECT base, length FROM written WHERE tip = ?", (old,)).fetchone()
            base, length = known if known and known[1] < _LATELY else (old, 0)
            database.execute("DELETE FROM written WHERE tip = ?", (old,))
            database.execute("INSERT OR REPLACE INTO written VALUES (?, ?, ?)", (new, base, length + 1))

    def settled(self, tip: str) -> None:
        """What that commit wrote is in the record."""
        with self._guarded() as database:
            database.execute("DELETE FROM written WHERE tip = ?", (tip,))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
