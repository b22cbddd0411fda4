"""What differs between two trees, by subtree ids: equal subtrees are never opened. Pure over a tree reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from opsctl.errors import OpsError
from opsctl.gitobject import FOLDER, Entry, Tree

EMPTY: Tree = {}


class TreeReader(Protocol):
    """Where trees come from."""

    def tree(self, oid: str) -> Tree:
        """The entries of a tree."""


DEEPEST = 16
"""Folders within folders; no tree of the gate has more than five."""


class TooManyChanges(OpsError):
    """More paths differ, or folders lie deeper, than the caller is willing to hear of."""

    def __init__(self) -> None:
        super().__init__(
            "too_large", "a tree differs in too many places to look at", hint="`git log --stat ops/drafts`"
        )


Changes = dict[str, tuple[Entry | None, Entry | None]]
"""Old and new entry of every file that differs, by path; None where there is none."""


def diff(
    reader: TreeReader, old: str | None, new: str | None, *, limit: int | None = None, depth: int = DEEPEST
) -> Changes:
    """Files that differ between two trees (None: the empty tree). Raises `TooManyChanges` past `limit`.

    A folder below `depth` is not opened but reported as one entry. Trees come from strangers: thirteen small objects
    can unfold to a million million files.
    """
    found: Changes = {}
    for path, change in _walk(reader, "", old, new, depth):
        found[path] = change
        if limit is not None and len(found) > limit:
            raise TooManyChanges
    return found


def _walk(
    reader: TreeReader, prefix: str, old: str | None, new: str | None, depth: int
) -> Iterator[tuple[str, tuple[Entry | None, Entry | None]]]:
    if old == new:
        return
    before, after = (reader.tree(old) if old else EMPTY), (reader.tree(new) if new else EMPTY)
    if new and prefix and not after:
        yield prefix, (None, Entry(FOLDER, new))  # git never writes an empty folder: let no decision carry one
    for name in sorted({name for name, _ in before.items() ^ after.items()}):
        one, two = before.get(name), after.get(name)
        if depth == 0 and (_folder(one) or _folder(two)):
            yield f"{prefix}{name}/", (one, two)
            continue
        if _folder(one) or _folder(two):
            yield from _walk(reader, f"{prefix}{name}/", _folder(one), _folder(two), depth - 1)
        one, two = _file(one), _file(two)
        if one or two:
            yield prefix + name, (one, two)


def _folder(entry: Entry | None) -> str | None:
    return entry.oid if entry and entry.is_folder else None


def _file(entry: Entry | None) -> Entry | None:
    return entry if entry and not entry.is_folder else None


def files(reader: TreeReader, tree: str | None, *, limit: int | None = None, depth: int = DEEPEST) -> dict[str, Entry]:
    """Every file below a tree, by path. Raises `TooManyChanges` past `limit`."""
    return {path: new for path, (_, new) in diff(reader, None, tree, limit=limit, depth=depth).items() if new}


def lookup(reader: TreeReader, tree: str, path: str) -> Entry | None:
    """The entry at a path, or None."""
    *folders, name = path.split("/")
    for folder in folders:
        entry = reader.tree(tree).get(folder)
        if entry is None or not entry.is_folder:
            return None
        tree = entry.oid
    return reader.tree(tree).get(name)
