"""Decisions that a sync took off the line and that have to be signed again: kept in a file until that is done.

It lies outside the clone, for what is in it will be signed. A revocation in it holds as if it stood on the line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from opsctl.config import Memory, write_file
from opsctl.errors import OpsError
from opsctl.models import Decision


@dataclass(frozen=True, slots=True)
class Again:
    """A decision that has to be signed again on a new tip."""

    kind: str
    ulid: str | None
    digest: str | None
    reason: str | None
    commit: str
    signer: str

    @classmethod
    def of(cls, one: Decision) -> Again:
        """The row of a decision that is on the line now."""
        return cls(one.kind, one.ulid, one.digest, one.reason, one.commit, one.signer.principal)

    @property
    def name(self) -> str:
        """How it is called before a person."""
        return f"{self.kind} {f'd_{self.ulid}' if self.ulid else self.commit[:12]}"


class Kept:
    """`sign-again.json` of one clone."""

    def __init__(self, memory: Memory) -> None:
        self._folder = memory.folder
        self._path = memory.folder / "sign-again.json"

    def load(self) -> list[Again]:
        """The decisions that wait, oldest first. Raises `bad_config`."""
        try:
            return [Again(**row) for row in json.loads(self._path.read_text(encoding="utf-8"))]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError, TypeError) as error:
            hint = f"it holds decisions that nobody has signed again; make them again, then: rm {self._path}"
            raise OpsError("bad_config", f"{self._path} cannot be read", cause=str(error), hint=hint) from None

    def revoked(self) -> dict[str, Again]:
        """Revocations that wait, by the id of the item. They were confirmed to a person, so they hold."""
        return {row.ulid: row for row in self.load() if row.kind == "revoke" and row.ulid}

    def keep(self, rows: list[Again]) -> None:
        """Keep exactly these, durably: a branch is moved next. The caller is `alone`. Raises `disk`."""
        try:
            if rows:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_file(self._path, json.dumps([asdict(row) for row in rows]).encode())
            else:
                self._path.unlink(missing_ok=True)
            if self._folder.is_dir():
                _flush(self._folder)
        except OSError as error:
            raise OpsError("disk", f"{self._path} could not be written", cause=str(error)) from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other sync of this clone meanwhile: two of them would forget what the other one keeps. `lock_busy`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._folder / "sync.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OpsError("disk", f"{self._folder} could not be written", cause=str(error)) from None
        try:
            _take(descriptor)
            yield
        finally:
            os.close(descriptor)


def _take(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OpsError("lock_busy", "another sync of this clone is at work", hint="wait for it") from None


def _flush(folder: os.PathLike[str]) -> None:
    """Make a rename in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
