"""Whether commits that a program made can be used: what their trees unfold to, and where their objects come from.

A few small trees that name each other unfold to more files than any memory holds, and every git that reads them into
an index unfolds them. And where git borrows objects, a commit can name what its author never had.
"""

from __future__ import annotations

from collections.abc import Callable

from opsctl.errors import OpsError

ENTRIES_LIMIT = 1_000_000
PATHS_LIMIT = 256 * 1024 * 1024
COMMITS_LIMIT = 10_000
_DEEPEST = 1000

Run = Callable[..., bytes]
"""Runs git on the repository that holds the commits: arguments, and `stdin`."""

_Entry = tuple[int, str | None]
"""Length of a name, and the tree that it names, if it is one."""


def check_history(run: Run, base: str, head: str) -> None:
    """Refuse more commits than anybody reads, and one that does not stand on the base. Raises `git_failed`."""
    between = f"{base}..{head}"
    counted = int(run("rev-list", "--count", between))
    if counted > COMMITS_LIMIT:
        raise _refusal(f"they are {counted:,}")
    if int(run("rev-list", "--count", "--ancestry-path", between)) != counted:
        raise _refusal("they do not all stand on the base")


def check_trees(run: Run, base: str, head: str) -> None:
    """Refuse trees that unfold to more than an index can hold. Raises `git_failed`."""
    lines = run("rev-list", "--format=%T", f"{base}..{head}").decode().splitlines()
    rows = lines[1::2]  # between them the commits themselves
    known: dict[str, list[_Entry]] = {}
    wanted = set(rows)
    total = 0
    for _ in range(_DEEPEST):
        found = _read(run, sorted(wanted))
        total += sum(len(entries) for entries in found.values())
        if total > 4 * ENTRIES_LIMIT:
            raise _refusal("they name too many files")
        known |= found
        wanted = {oid for entries in found.values() for _, oid in entries if oid} - known.keys()
        if not wanted:
            break
    else:
        raise _refusal("their folders are too deep")
    weights: dict[str, tuple[int, int]] = {}
    for row in rows:
        entries, size = _weight(row, known, weights)
        if entries > ENTRIES_LIMIT or size > PATHS_LIMIT:
            raise _refusal("they name too many files")


def check_owned(run: Run, alone: Run, base: str, head: str) -> None:
    """Refuse objects that did not come with the commits. `alone` sees only those that did. Raises `git_failed`."""
    listed = run("rev-list", "--objects", "--no-object-names", f"{base}..{head}")
    if b" missing\n" in alone("cat-file", "--batch-check=%(objectname)", stdin=listed):
        raise _refusal("they name what the program did not have")


def _refusal(why: str) -> OpsError:
    return OpsError("git_failed", "its own commits cannot be used", cause=why)


def _read(run: Run, oids: list[str]) -> dict[str, list[_Entry]]:
    data = run("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in oids).encode())
    found, at = {}, 0
    for oid in oids:
        end = data.index(b"\n", at)
        fields = data[at:end].split()
        if len(fields) != 3 or fields[1] != b"tree":
            raise _refusal("a tree is missing")
        at = end + 1 + int(fields[2])
        found[oid] = _entries(data[end + 1 : at])
        at += 1
    return found


def _entries(tree: bytes) -> list[_Entry]:
    found: list[_Entry] = []
    at = 0
    while at < len(tree):
        name, end = tree.index(b" ", at) + 1, tree.index(b"\0", at)
        oid = tree[end + 1 : end + 21].hex() if tree[at:name].lstrip(b"0") == b"40000 " else None
        found.append((end - name, oid))
        at = end + 21
    return found


def _weight(top: str, known: dict[str, list[_Entry]], weights: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """How many files a tree unfolds to, and the bytes of their paths; every tree is counted once."""
    stack = [top]
    while stack:
        oid = stack[-1]
        missing = {sub for _, sub in known[oid] if sub and sub not in weights}
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        entries = size = 0
        for length, sub in known[oid]:
            below, paths = weights[sub] if sub else (1, 0)
            entries += below
            size += paths + below * (length + 1)
        weights[oid] = (min(entries, 2**62), min(size, 2**62))
    return weights[top]
