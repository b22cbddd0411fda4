"""One invocation: where it works, how it prints, whether a person is there. The lazy seam to the workspace."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from opsctl import ids, text
from opsctl.errors import OpsError

if TYPE_CHECKING:
    from opsctl.config import Places
    from opsctl.workspace import Workspace

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
_LEAST_LETTERS = 4


class Session:
    """What a command knows of its surroundings."""

    def __init__(self, directory: Path | None, *, as_json: bool) -> None:
        self.directory = directory or Path(".")
        self.as_json = as_json
        self.out_is_terminal = sys.stdout.isatty()
        self.person_is_here = sys.stdin.isatty() and (sys.stderr.isatty() or self.out_is_terminal)
        self._workspace: Workspace | None = None

    # -- the workspace ------------------------------------------------------------------------------------------

    @property
    def workspace(self) -> Workspace:
        """The workspace of the directory, opened when first asked for."""
        if self._workspace is None:
            self._workspace = self.open()
        return self._workspace

    @property
    def places(self) -> Places:
        """The user's own folders."""
        from opsctl.config import Places

        return Places.of(os.environ)

    def open(self, *, key: str | None = None) -> Workspace:
        """Open the workspace. Imports git and the rest, which a mere `--help` does not need."""
        from opsctl.workspace import Workspace

        self._workspace = Workspace(
            absolute(self.directory),
            environ=os.environ,
            now=now,
            interactive=self.person_is_here,
            progress=self._progress() if sys.stderr.isatty() else None,
            waiting=self._waiting if sys.stderr.isatty() else None,
            key=key,
        )
        return self._workspace

    def close(self) -> None:
        """Close the workspace, if one was opened."""
        if self._workspace is not None:
            self._workspace.close()

    def _progress(self) -> Callable[[int, int], None]:
        """A line on stderr for work that takes long; it wipes itself."""

        def show(done: int, total: int) -> None:
            if total >= 1000 and (done % 250 == 0 or done == total):
                end = "\r\x1b[K" if done == total else ""
                sys.stderr.write(f"\rverifying history {done:,} of {total:,} {end}")
                sys.stderr.flush()

        return show

    def _waiting(self, holder: str) -> None:
        """Said once, where a person would wonder why nothing happens."""
        self.say(f"waiting for {holder}, which is writing to this repository…")

    def resolve_to_change(self, identifier: str) -> tuple[str | None, str]:
        """What `Workspace.resolve` finds, for a command that changes it: a slip of one letter must not name an item."""
        if len(ids.parse(identifier).part) < _LEAST_LETTERS:
            message = (
                f"{identifier} is too short to change something by: give at least {_LEAST_LETTERS} letters of the id"
            )
            raise OpsError("bad_id", message, hint="`opsctl list` shows the ids")
        return self.workspace.resolve(identifier)

    # -- output -------------------------------------------------------------------------------------------------

    def data(self, line: str) -> None:
        """One line of data on stdout, made harmless."""
        print(text.visible(line))

    def result(self, line: str) -> None:
        """The bare result for a pipe; on a terminal the talk around it says the same."""
        if not self.out_is_terminal:
            self.data(line)

    def raw_line(self, line: str) -> None:
        """A line that was made harmless before and holds colours."""
        print(line)

    def say(self, line: str) -> None:
        """One line of talk on stderr, made harmless."""
        sys.stdout.flush()
        print(text.visible(line), file=sys.stderr)

    def emit(self, value: object) -> None:
        """An object as JSON: pure ASCII, so nothing in it can reach a terminal as a control character."""
        indent = 2 if self.out_is_terminal else None
        print(json.dumps(value, ensure_ascii=True, indent=indent).replace("\x7f", "\\u007f"))

    def paint(self, line: str, colour: str) -> str:
        """The text in a colour, where stdout is a terminal that takes colours."""
        if not self.colours:
            return line
        return f"\x1b[{_COLOURS[colour]}m{line}\x1b[0m"

    @property
    def colours(self) -> bool:
        """Whether stdout takes colours: a terminal, NO_COLOR unset, TERM not dumb."""
        return self.out_is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def table(self, columns: Mapping[str, str | None], rows: Iterable[Iterable[str]]) -> None:
        """Rows under headings on a terminal (cut to its width), tab-separated lines without headings elsewhere.

        `columns` maps a heading to a colour or None.
        """
        safe = [[text.one_line(cell, 10_000) for cell in row] for row in rows]
        if self.out_is_terminal:
            self._wide_table(columns, safe) if safe else None
        else:
            for row in safe:
                print("\t".join(row))

    def _wide_table(self, columns: Mapping[str, str | None], rows: list[list[str]]) -> None:
        """Aligned columns; only the last gives way to the width of the terminal. A narrow one shows first and last."""
        room = shutil.get_terminal_size().columns
        headings, colours = list(columns), list(columns.values())
        widths = _widths([headings, *rows])
        if sum(widths[:-1]) + 2 * len(widths) + 8 > room:
            headings, colours = [headings[0], headings[-1]], [colours[0], colours[-1]]
            rows = [[row[0], row[-1]] for row in rows]
            widths = _widths([headings, *rows])
        widths[-1] = max(1, room - sum(widths[:-1]) - 2 * (len(widths) - 1))
        self._row(headings, widths, ["bold"] * len(headings))
        for row in rows:
            self._row(row, widths, colours)

    def _row(self, row: list[str], widths: list[int], colours: Sequence[str | None]) -> None:
        cells = [text.cut(cell, size) for cell, size in zip(row, widths, strict=True)]
        cells[:-1] = [cell + " " * (size - text.width(cell)) for cell, size in zip(cells, widths[:-1], strict=False)]
        print("  ".join(self.paint(cell, hue) if hue else cell for cell, hue in zip(cells, colours, strict=True)))

    # -- the person ---------------------------------------------------------------------------------------------

    def confirm(self, question: str) -> bool:
        """Ask on the terminal; anything but y or yes is no, Enter alone too."""
        sys.stdout.flush()
        sys.stderr.write(f"{text.visible(question)} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def ask(self, question: str) -> str:
        """A line that the person types."""
        sys.stdout.flush()
        sys.stderr.write(f"{text.visible(question)} ")
        sys.stderr.flush()
        return sys.stdin.readline().strip()

    def require_person(self, what: str, instead: str) -> None:
        """Refuse where nobody can answer."""
        if not self.person_is_here:
            raise OpsError("needs_confirmation", f"{what} needs a person at a terminal", hint=instead)


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(text.width(cell) for cell in column) for column in zip(*rows, strict=True)]


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def absolute(path: Path) -> Path:
    """An absolute path without touching symbolic links; a folder that is gone is an error of its own."""
    try:
        return Path(os.path.abspath(path))
    except FileNotFoundError:
        raise OpsError("no_repository", "the current folder was deleted", hint="cd to an existing folder") from None


def age(when: datetime, *, at: datetime | None = None) -> str:
    """How long ago, in one unit."""
    seconds = max(0, int(((at or now()) - when).total_seconds()))
    for size, unit in ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def many(count: int, noun: str) -> str:
    """A count with its noun: 1 draft, 2 drafts."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
