"""The page of cases and the tests name the same ids."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT

PAGE = ROOT / "docs/reference/cases.md"


def spread(kind: str, first: str, last: str) -> set[str]:
    """All ids of a span."""
    return {f"{kind.upper()}-{number:02}" for number in range(int(first), int(last) + 1)}


def named(path: Path) -> set[str]:
    """The ids in the names of a file's tests."""
    found: set[str] = set()
    for name in re.findall(r"def test_(\w+)", path.read_text(encoding="utf-8")):
        for kind, first, last in re.findall(r"\b([a-z]{2})_(\d\d)_to_(\d\d)", name):
            found |= spread(kind, first, last)
        start = re.match(r"(?:m\d_|[a-z]{2}_\d\d_)+", f"{name}_")
        found |= {one.upper().replace("_", "-") for one in re.findall(r"[a-z]{2}_\d\d", start[0] if start else "")}
        found |= {f"M-{one}" for one in re.findall(r"m(\d)_", start[0] if start else "")}
    return found


def test_every_case_of_the_page_has_a_test_named_after_it() -> None:
    page, listed = PAGE.read_text(encoding="utf-8"), set[str]()
    for cell in re.findall(r"^\| ([A-Z]{1,2}-\d[^|]*) \|", page, re.MULTILINE):
        for kind, first, last in re.findall(r"([A-Z]{2})-(\d\d) to [A-Z]{2}-(\d\d)", cell):
            listed |= spread(kind, first, last)
        listed |= set(re.findall(r"[A-Z]{1,2}-\d+", cell))
    assert len(listed) > 100
    tested = set().union(*(named(path) for path in (ROOT / "tests").glob("test_*.py")))
    assert sorted(listed - tested) == []
