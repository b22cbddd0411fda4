"""A topic as the trust rule reads it: the commits that a merge brings, each of which may touch one thing only. Pure.

The set is what is reachable from the topic's tip and not from the first parent. Every member has one parent and
changes nothing but the given paths, or joins members whose trees are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from opsctl.gitobject import FILE, Commit, Entry, MalformedObject
from opsctl.treediff import TooManyChanges, diff
from opsctl.violation import Violation

LIMIT = 10_000
"""Commits of one topic; a bound on the work that a hostile merge can ask for."""


class Objects(Protocol):
    """The objects that reading a topic needs."""

    def commit(self, oid: str) -> Commit:
        """A commit, in strict form."""

    def tree(self, oid: str) -> Mapping[str, Entry]:
        """The entries of a tree."""


@dataclass(frozen=True, slots=True)
class Member:
    """One commit of a topic. `ancestors` is a bit set of members, by `index`; `changed` is the files it touched."""

    oid: str
    commit: Commit
    index: int
    ancestors: int
    changed: Mapping[str, Entry | None]


Topic = dict[str, Member]
"""Members by commit id, every one after its ancestors; the tip is last."""


def read(
    tip: str, objects: Objects, reachable: Callable[[str], bool], paths: frozenset[str], *, limit: int | None = None
) -> Topic:
    """The topic that ends in `tip`. Raises `Violation` if a commit touches anything but `paths`, or past the limit."""
    members: Topic = {}
    for oid, commit in _in_order(tip, objects, reachable, LIMIT if limit is None else limit):
        inside = [members[parent] for parent in commit.parents if parent in members]
        changed = _changed(oid, commit, inside, objects, paths)
        ancestors = 0
        for parent in inside:
            ancestors |= parent.ancestors | (1 << parent.index)
        members[oid] = Member(oid, commit, len(members), ancestors, changed)
    if not members:
        raise Violation("topic", "the second parent brings no commit of its own")
    return members


def final(members: Topic, path: str) -> Entry | None:
    """The file as the last commits that touched it left it, or None where no member did or they differ."""
    touching = [member for member in members.values() if path in member.changed]
    covered = 0
    for member in touching:
        covered |= member.ancestors
    last = [member.changed[path] for member in touching if not covered >> member.index & 1]
    return last[0] if last and all(entry == last[0] for entry in last) else None


def changes_of(members: Topic) -> int:
    """The bit set of the members that changed content."""
    return sum(1 << member.index for member in members.values() if member.changed)


def _in_order(tip: str, objects: Objects, reachable: Callable[[str], bool], limit: int) -> list[tuple[str, Commit]]:
    """Members with parents before children, by an iterative depth-first walk."""
    commits: dict[str, Commit] = {}
    done: dict[str, Commit] = {}
    stack = [tip]
    while stack:
        oid = stack[-1]
        if oid in done or (oid not in commits and reachable(oid)):
            stack.pop()
            continue
        if oid not in commits:
            commits[oid] = _commit(oid, objects)
            stack += [parent for parent in commits[oid].parents if parent not in commits]
        else:
            done[oid] = commits[stack.pop()]
        if len(commits) > limit:
            raise Violation("topic", f"a topic has at most {limit} commits")
    return list(done.items())


def _commit(oid: str, objects: Objects) -> Commit:
    try:
        commit = objects.commit(oid)
    except MalformedObject as error:
        raise Violation("topic", f"topic commit {oid[:12]}: {error}") from None
    if not commit.parents:
        raise Violation("topic", f"topic commit {oid[:12]} has no parent: it is another history")
    return commit


def _changed(
    oid: str, commit: Commit, inside: list[Member], objects: Objects, paths: frozenset[str]
) -> dict[str, Entry | None]:
    """The files that a member changed; a join changes none."""
    if len(commit.parents) > 1:
        if len(inside) != len(commit.parents) or any(parent.commit.tree != commit.tree for parent in inside):
            raise Violation("topic", f"topic commit {oid[:12]} is a merge of more than this topic")
        return {}
    parent = inside[0].commit if inside else objects.commit(commit.parents[0])
    try:
        changes = diff(objects, parent.tree, commit.tree, limit=len(paths))
    except TooManyChanges:
        raise Violation("topic", f"topic commit {oid[:12]} touches more than its own file") from None
    for path, (_, new) in changes.items():
        if path not in paths:
            raise Violation("topic", f"topic commit {oid[:12]} touches {path}")
        if new is not None and new.mode != FILE:
            raise Violation("topic", f"topic commit {oid[:12]}: {path} has mode {new.mode}, not {FILE}")
    return {path: new for path, (_, new) in changes.items()}
