"""Differences of two texts, computed here from the blobs: git's diff drivers and attributes can lie. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_MOST = 4000
"""Lines (or tokens) of a changed region that are compared one by one; more are shown as replaced: time is bounded."""

CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text: `kind` is " " for both, "-" for the old text alone, "+" for the new one, "@" for a gap."""

    kind: str
    text: str


def lines(old: str, new: str) -> list[Piece]:
    """A line diff with three lines of context and a heading for each gap."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    found: list[Piece] = []
    for group in _groups(_opcodes(before, after)):
        first, last = group[0], group[-1]
        found.append(Piece("@", f"@@ -{_span(first[1], last[2])} +{_span(first[3], last[4])} @@"))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                found += [Piece(" ", line) for line in before[i1:i2]]
            else:
                found += [Piece("-", line) for line in before[i1:i2]]
                found += [Piece("+", line) for line in after[j1:j2]]
    return found


def words(old: str, new: str) -> list[Piece]:
    """The whole new text with removed and added words marked."""
    before, after = _TOKEN.findall(old), _TOKEN.findall(new)
    found: list[Piece] = []
    for tag, i1, i2, j1, j2 in _opcodes(before, after):
        if tag == "equal":
            found.append(Piece(" ", "".join(before[i1:i2])))
            continue
        if i2 > i1:
            found.append(Piece("-", "".join(before[i1:i2])))
        if j2 > j1:
            found.append(Piece("+", "".join(after[j1:j2])))
    return found


_Opcode = tuple[str, int, int, int, int]


def _opcodes(before: list[str], after: list[str]) -> list[_Opcode]:
    """Edit steps, with the common head and tail taken off first."""
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    one, two = before[head : len(before) - tail], after[head : len(after) - tail]
    steps: list[_Opcode] = [("equal", 0, head, 0, head)] if head else []
    steps += [(tag, i1 + head, i2 + head, j1 + head, j2 + head) for tag, i1, i2, j1, j2 in _middle(one, two)]
    if tail:
        steps.append(("equal", len(before) - tail, len(before), len(after) - tail, len(after)))
    return steps


def _middle(one: list[str], two: list[str]) -> list[_Opcode]:
    if not one and not two:
        return []
    if max(len(one), len(two)) > _MOST:
        return [("replace", 0, len(one), 0, len(two))]
    return list(SequenceMatcher(None, one, two).get_opcodes())


def _groups(steps: list[_Opcode]) -> Iterator[list[_Opcode]]:
    """Steps with their context, cut where more than twice the context is equal."""
    group: list[_Opcode] = []
    for index, (tag, i1, i2, j1, j2) in enumerate(steps):
        if tag != "equal":
            group.append((tag, i1, i2, j1, j2))
            continue
        if group:
            size = min(CONTEXT, i2 - i1)
            group.append((tag, i1, i1 + size, j1, j1 + size))
            if i2 - i1 <= 2 * CONTEXT and index + 1 < len(steps):
                group[-1] = (tag, i1, i2, j1, j2)
                continue
            yield group
            group = []
        if index + 1 < len(steps):
            size = min(CONTEXT, i2 - i1)
            group = [(tag, i2 - size, i2, j2 - size, j2)]
    if any(step[0] != "equal" for step in group):
        yield group


def _span(start: int, end: int) -> str:
    return f"{start + 1 if end > start else start},{end - start}"
