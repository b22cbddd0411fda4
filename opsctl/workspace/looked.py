"""Which revision of each draft this person saw last, kept beside the verification memory; a convenience only."""

from __future__ import annotations

import json

from opsctl.config import write_file
from opsctl.models import Draft
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk


class Looked:
    """`ws.looked`."""

    def __init__(self, base: Base, desk: Desk) -> None:
        self._path = base.memory().folder / "looked.json"
        self._desk = desk

    def last(self, ulid: str) -> tuple[str, str] | None:
        """Digest and blob of the revision that was seen last, or None."""
        row = self._load().get(ulid)
        return (row[0], row[1]) if row else None

    def remember(self, draft: Draft) -> None:
        """Note the revision; drafts that are decided are forgotten."""
        pending = self._desk.now.pending
        rows = {ulid: row for ulid, row in self._load().items() if ulid in pending}
        rows[draft.ulid] = [draft.digest, draft.blob]
        write_file(self._path, json.dumps(rows).encode())

    def _load(self) -> dict[str, list[str]]:
        try:
            found: dict[str, list[str]] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found
