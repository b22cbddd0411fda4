"""Which of the files that a program left become part of the result, and how. Reads the work tree, runs nothing."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

SIZE_LIMIT = 256 * 1024 * 1024
"""Bytes of one file: git reads a file that is to be converted into memory, some times over."""


@dataclass(frozen=True, slots=True)
class Found:
    """Names, each ended by NUL: to be taken out of the index, to be put in; and what is left out."""

    gone: bytes
    there: bytes
    out: list[bytes]


def sort(work: Path, listed: bytes) -> Found:
    """What `ls-files -t -s` says, sorted by what is to be done. A name below a link is not a file of the tree."""
    gone: set[bytes] = set()
    there: set[bytes] = set()
    out: list[bytes] = []
    linked: dict[bytes, bool] = {}
    top = os.fsencode(work)
    for row in filter(None, listed.split(b"\0")):
        facts, tab, name = row.partition(b"\t")
        tracked = row[:1] != b"?" and bool(tab)
        name = name if tracked else row[2:]
        path = os.path.join(top, name)
        mode, size = _facts(path)
        if tracked and (row[:1] == b"R" or mode == 0 or _below_link(top, os.path.dirname(name), linked)):
            gone.add(name)
        elif (tracked and facts[2:8] == b"160000") or name.endswith(b"/"):
            out.append(name.rstrip(b"/"))
        elif stat.S_ISDIR(mode):
            gone.add(name)
        elif stat.S_ISREG(mode) and size > SIZE_LIMIT:
            out.append(name)
        else:
            there.add(name)
            if stat.S_ISREG(mode) and not mode & 0o400:
                os.chmod(path, 0o600)
    return Found(_ended(gone), _ended(there - gone), out)


def _ended(names: set[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in sorted(names))


def _facts(path: bytes) -> tuple[int, int]:
    """Mode and size; zeros for what is not there."""
    try:
        found = os.lstat(path)
        return found.st_mode, found.st_size
    except OSError:
        return 0, 0


def _below_link(top: bytes, folder: bytes, known: dict[bytes, bool]) -> bool:
    if not folder:
        return False
    if folder not in known:
        is_link = os.path.islink(os.path.join(top, folder))
        known[folder] = is_link or _below_link(top, os.path.dirname(folder), known)
    return known[folder]
