"""Times of two sides that take turns, and the rows of the table that follow from them."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Times:
    """Wall and CPU seconds of one side; CPU includes the processes that it started."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, action: Callable[..., T], *arguments: object, parts: int = 1) -> T:
        """Run and time an action that does `parts` equal things."""
        cpu, wall = _cpu(), time.perf_counter()
        result = action(*arguments)
        self.wall.append((time.perf_counter() - wall) / parts)
        self.cpu.append((_cpu() - cpu) / parts)
        return result

    def summary(self) -> dict[str, object]:
        """For `--json`."""
        wall, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        return {"wall_s": wall, "cpu_s": cpu, "least_wall_s": min(self.wall), "runs": len(self.wall)}

    @property
    def median(self) -> float:
        """Wall seconds."""
        return statistics.median(self.wall)


@dataclass(frozen=True)
class Plan:
    """What a run measures: repository sizes, and how often (None: as often as the case thinks right)."""

    sizes: Sequence[int]
    repeat: int | None

    def rounds(self, usual: int) -> int:
        """How many turns each side takes."""
        return self.repeat or usual

    @property
    def extremes(self) -> tuple[int, int]:
        """The smallest and the largest size."""
        return min(self.sizes), max(self.sizes)


@dataclass(frozen=True)
class Row:
    """One claim: ours beside theirs.

    With `at_least` ours must be so many times faster; with `at_most` it may take so many times theirs. With neither
    the row only informs.
    """

    name: str
    what: str
    ours: Times
    theirs: Times | None = None
    other: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is; where there is an `at_most`, how many times theirs it takes."""
        if self.theirs is None:
            return None
        if self.at_most is not None:
            return self.ours.median / self.theirs.median
        return self.theirs.median / self.ours.median

    @property
    def target(self) -> str:
        """As a person reads it."""
        if self.at_least is not None:
            return f">= {self.at_least:g}x faster"
        return f"<= {self.at_most:g}x the time" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.ratio is None or (self.at_least is None and self.at_most is None):
            return None
        return self.ratio >= self.at_least if self.at_least is not None else self.ratio <= (self.at_most or 0)

    def for_json(self) -> dict[str, object]:
        """For `--json`."""
        sides = {"ours": self.ours.summary(), "theirs": self.theirs.summary() if self.theirs else None}
        facts = {"name": self.name, "what": self.what, "other": self.other}
        return facts | sides | {"ratio": self.ratio, "target": self.target, "met": self.met}


def table(rows: list[Row]) -> str:
    """The rows for the eye."""
    head = ("case", "measured", "opsctl", "compared with", "theirs", "ratio", "target", "")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(map(_aligned, line, widths, range(len(head)))) for line in lines]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in [shown[0], rule, *shown[1:]])


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in (2, 4, 5) else cell.ljust(width)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = _ratio(row.ratio, slower=row.at_most is not None) if row.ratio is not None else ""
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    theirs = spoken(row.theirs.median) if row.theirs else ""
    return row.name, row.what, spoken(row.ours.median), row.other, theirs, ratio, row.target, verdict


def _ratio(ratio: float, *, slower: bool) -> str:
    if not slower and ratio < 1:
        ratio, slower = 1 / ratio, True
    return f"{ratio:.2f}x {'the time' if slower else 'faster'}"


def spoken(seconds: float) -> str:
    """A duration with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
