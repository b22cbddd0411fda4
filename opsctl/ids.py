"""Ids and the paths that follow from them. Pure; imports errors only.

An item is named by one ULID for its whole life: `d_<ULID>` is the draft, `a_<ULID>` what an approval made of it,
`r_<ULID>` a run. The folder of its file is the ULID's own UTC date, so a path follows from an id.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise

from opsctl.errors import OpsError

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_GIVEN = re.compile(r"(?:([dar])_)?([0-9A-HJKMNP-TV-Z]{1,26})", re.IGNORECASE)
_PATH = re.compile(r"(ops|closed)/(\d{4}/\d{2}/\d{2})/([0-7][0-9A-HJKMNP-TV-Z]{25})\.md")
_LAST_MS = 253402300799999  # 9999-12-31T23:59:59.999Z: a folder name has four digits for the year


@dataclass(frozen=True, slots=True)
class GivenId:
    """What a person typed: an optional kind (`d`, `a`, `r`) and a part of a ULID, in upper case."""

    kind: str | None
    part: str

    @property
    def is_full(self) -> bool:
        """True when the part is a whole ULID."""
        return len(self.part) == 26

    def __str__(self) -> str:
        return f"{self.kind}_{self.part}" if self.kind else self.part


def is_ulid(text: str) -> bool:
    """True for a canonical (upper-case, in range, dated before the year 10000) ULID."""
    return _ULID.fullmatch(text) is not None and milliseconds(text) <= _LAST_MS


def parse(text: str) -> GivenId:
    """Read an id, or a prefix or suffix of one, in any case. Raises `bad_id`."""
    match = _GIVEN.fullmatch(text) if text.isascii() else None
    if match is None:
        raise _bad_id(text)
    kind, part = match[1], match[2].upper()
    if len(part) == 26 and not is_ulid(part):
        raise _bad_id(text)
    return GivenId(kind.lower() if kind else None, part)


def parse_full(text: str, kind: str) -> str:
    """Read a whole id of one kind, as files and interfaces carry it, and return its ULID. Raises `bad_id`."""
    given = parse(text)
    if given.kind != kind or not given.is_full or text != str(given):
        raise _bad_id(text)
    return given.part


def _bad_id(text: str) -> OpsError:
    shown = text if len(text) <= 60 else text[:60] + "…"
    return OpsError(
        "bad_id",
        f"not an id: {shown!a}",
        hint="an id looks like d_01JDAZ3N8Q4V5W6X7Y8Z9ABCDE; its first or last letters do. `opsctl list` shows them",
    )


def milliseconds(ulid: str) -> int:
    """Milliseconds since 1970 that the ULID carries."""
    value = 0
    for letter in ulid[:10]:
        value = value * 32 + ALPHABET.index(letter)
    return value


def successor(ulid: str) -> str:
    """The next ULID, for an event that follows another one whatever the clock says."""
    value = 0
    for letter in ulid:
        value = value * 32 + ALPHABET.index(letter)
    letters: list[str] = []
    for _ in range(26):
        value, digit = divmod(value + (not letters), 32)
        letters.append(ALPHABET[digit])
    return "".join(reversed(letters))


def created_at(ulid: str) -> datetime:
    """The UTC time that the ULID carries."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds(ulid))


def path_of(ulid: str, *, top: str = "ops") -> str:
    """The file of an item: `ops/YYYY/MM/DD/<ULID>.md`, or under `closed/`."""
    when = created_at(ulid)
    return f"{top}/{when.year:04}/{when.month:02}/{when.day:02}/{ulid}.md"


@lru_cache(maxsize=65536)
def ulid_of_path(path: str, *, top: str = "ops") -> str | None:
    """The ULID of a path that is exactly where an item's file belongs, else None."""
    match = _PATH.fullmatch(path)
    if match is None or match[1] != top or not is_ulid(match[3]):
        return None
    return match[3] if path_of(match[3], top=top) == path else None


def matches(given: GivenId, ulids: Iterable[str]) -> list[str]:
    """The ULIDs that the part begins or ends."""
    if given.is_full:
        return [ulid for ulid in ulids if ulid == given.part]
    return [ulid for ulid in ulids if ulid.startswith(given.part) or ulid.endswith(given.part)]


def shortest_suffixes(wanted: Iterable[str], everyone: Iterable[str], *, least: int = 4) -> dict[str, str]:
    """For each wanted ULID the shortest suffix (of `least` letters or more) that is no part of another one.

    Everyone includes the wanted.
    """
    forward = sorted({*everyone})
    backward = sorted(ulid[::-1] for ulid in forward)
    shared: dict[str, int] = {}  # how much of its end each has in common with another: the most with a neighbour
    for one, two in pairwise(backward):
        length = next((place for place in range(26) if one[place] != two[place]), 26)
        shared[one] = max(shared.get(one, 0), length)
        shared[two] = length
    found = {}
    for ulid in wanted:
        size = max(least, shared.get(ulid[::-1], 0) + 1)
        while _begins_another(ulid[-size:], ulid, forward):
            size += 1
        found[ulid] = ulid[-size:]
    return found


def _begins_another(part: str, ulid: str, ordered: list[str]) -> bool:
    place = bisect_left(ordered, part)
    return any(other != ulid and other.startswith(part) for other in ordered[place : place + 2])
