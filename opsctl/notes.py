"""Git notes as opsctl uses them: lines on commits, whatever fan-out the tree has. Imports the store.

Libgit2's own writer never fans out (an append at 99,000 notes takes 550 ms flat, 3 ms in two-digit folders), and git's
follows its own rule; both are read here, and what is there is followed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from opsctl.errors import OpsError
from opsctl.gitobject import BLOB, FILE, Entry
from opsctl.store import NOTES, Store
from opsctl.treediff import Changes, TooManyChanges, diff, lookup

RUNS, ARCHIVE = NOTES + "runs", NOTES + "runs-archive"
KNOWN = (RUNS, ARCHIVE)
NOTE_LIMIT = 32 * 1024 * 1024
"""Bytes of one note, which holds all runs of one approval that are not archived yet."""

NOTES_LIMIT = 2_000_000
"""Notes of one ref; a few small trees can unfold to a million million of them, which nobody shall have to walk."""

_DEEPEST = 4
"""Folders within folders: git makes one of a hundred thousand notes, and two of many millions."""

_TRIES = 30
_HEX = frozenset("0123456789abcdef")
_Edits = Callable[[str | None], dict[str, Entry | None]]


class Append(NamedTuple):
    """Lines for the note of one object; the notes shall keep blobs alive: new ones, and some that are here already."""

    target: str
    lines: tuple[bytes, ...]
    objects: tuple[bytes, ...] = ()
    kept: tuple[str, ...] = ()


class Moved(NamedTuple):
    """From which commit of the notes to which a write went."""

    old: str | None
    new: str


class Notes:
    """One notes ref. Writers hold the repository's lock; plain `git notes` beside them loses nothing either."""

    def __init__(self, store: Store, ref: str) -> None:
        self._store = store
        self._repo = store.repo
        self._ref = ref

    def tip(self) -> str | None:
        """The newest commit of the notes."""
        return self._repo.ref(self._ref)

    def tree(self, tip: str | None) -> str | None:
        """The tree of a commit of the notes."""
        return self._repo.commit(tip).tree if tip else None

    def read(self, target: str, tip: str | None = None) -> bytes:
        """The note on an object; empty where there is none. It is as its writers left it: not all of it is ours."""
        entry = self._entry(self.tree(tip or self.tip()), target)
        return self.text(entry.oid) if entry else b""

    def blob(self, target: str, tip: str | None) -> str | None:
        """The note on an object by its blob."""
        entry = self._entry(self.tree(tip), target)
        return entry.oid if entry else None

    def text(self, blob: str) -> bytes:
        """A note by its blob."""
        return self._repo.read(blob, BLOB, limit=NOTE_LIMIT)

    def _entry(self, tree: str | None, target: str) -> Entry | None:
        return lookup(self._repo, tree, self._place(tree, target)) if tree else None

    def keeps(self, oid: str) -> bool:
        """True if the notes keep a blob alive, which is here: it is annotated with itself."""
        entry = self._entry(self.tree(self.tip()), oid)
        return entry == Entry(FILE, oid) and self.is_blob(oid)

    def is_blob(self, oid: str) -> bool:
        """True for a blob of this clone of the size of a note."""
        try:
            self.text(oid)
        except OpsError:
            return False
        return True

    def changes(self, old: str | None, new: str | None) -> Iterator[tuple[str, str | None]]:
        """What differs between two commits of the notes: the annotated object, and its note's blob (None: gone)."""
        seen: dict[str, str | None] = {}
        for path, (_, entry) in self._diff(self.tree(old), self.tree(new)).items():
            target = path.replace("/", "")
            if len(target) == 40 and _HEX.issuperset(target):
                seen[target] = entry.oid if entry else seen.get(target)
        yield from seen.items()

    def _diff(self, old: str | None, new: str | None) -> Changes:
        try:
            return diff(self._repo, old, new, limit=NOTES_LIMIT, depth=_DEEPEST)
        except TooManyChanges:
            hint = f"look at what was added: git log --stat {self._ref}; an older state: git update-ref {self._ref} OLD"
            raise OpsError("too_large", f"{self._ref} holds more than {NOTES_LIMIT:,} notes", hint=hint) from None

    def append(self, items: Iterable[Append], reason: str, who: tuple[str, str]) -> Moved:
        """Add lines to notes, all or none. The caller holds the lock. Raises `ref_conflict`, `disk`."""
        rows = list(items)
        return self._change(lambda tree: self._appended(tree, rows), reason, who)

    def remove(self, lines: Mapping[str, Set[bytes]], kept: Iterable[str], reason: str, who: tuple[str, str]) -> Moved:
        """Take lines out of notes, and blobs that need not be kept alive any more. The caller holds the lock.

        What somebody added meanwhile stays: the notes are those of the tree that the commit goes on from.
        """
        rows = dict(lines)
        blobs = list(kept)
        return self._change(lambda tree: self._removed(tree, rows, blobs), reason, who)

    def _removed(
        self, tree: str | None, rows: Mapping[str, Set[bytes]], kept: Iterable[str]
    ) -> dict[str, Entry | None]:
        edits: dict[str, Entry | None] = {}
        for target, gone in rows.items():
            entry = self._entry(tree, target)
            if entry:
                rest = b"\n".join(line for line in self.text(entry.oid).split(b"\n") if line not in gone)
                edits[self._place(tree, target)] = self._store.file(rest) if rest else None
        edits |= {self._place(tree, oid): None for oid in kept if self._entry(tree, oid) == Entry(FILE, oid)}
        return edits

    def _change(self, make: _Edits, reason: str, who: tuple[str, str]) -> Moved:
        """One commit; again on the new tip where a plain git was first, or wrote before ours was read back.

        Then a line may stand twice, which is the same as once.
        """
        attempts = itertools.count(1)
        while True:
            tip = self.tip()
            tree = self._store.edit_tree(self.tree(tip), make(self.tree(tip)))
            commit = self._store.stage_commit(
                self._store.payload(tree=tree, parents=(tip,) if tip else (), subject=reason, trailers={}, who=who)
            )
            try:
                self._repo.flush()
                self._store.move(self._ref, tip, commit, reason)
                return Moved(tip, commit)
            except OpsError as error:
                self._repo.forget()
                was_first = error.code == "ref_conflict" or (error.code == "disk" and self.tip() not in (tip, None))
                if not was_first or next(attempts) == _TRIES:
                    raise

    def _appended(self, tree: str | None, rows: list[Append]) -> dict[str, Entry | None]:
        edits: dict[str, Entry | None] = {}
        for row in rows:
            for data in row.objects:
                kept = self._store.file(data)
                edits[self._place(tree, kept.oid)] = kept  # a note on the object itself: git keeps and merges it
            edits |= {self._place(tree, oid): Entry(FILE, oid) for oid in row.kept}
            if not row.lines:
                continue
            place = self._place(tree, row.target)
            before = edits.get(place) or (lookup(self._repo, tree, place) if tree else None)
            text = joined(self.text(before.oid) if before else b"", row.lines)
            if len(text) > NOTE_LIMIT:
                hint = f"git notes --ref={self._ref} show {row.target}; opsctl prune archives runs that have ended"
                raise OpsError("too_large", f"the note on {row.target} has more than {NOTE_LIMIT:,} bytes", hint=hint)
            edits[place] = self._store.file(text)
        return edits

    def _place(self, tree: str | None, target: str) -> str:
        """The path of an object's note: where it is, or where the tree's own fan-out would have it."""
        folder, rest = "", target
        while tree:
            entries = self._repo.tree(tree)
            if rest in entries:
                return folder + rest
            below = entries.get(rest[:2])
            if below and below.is_folder:
                folder, rest, tree = f"{folder}{rest[:2]}/", rest[2:], below.oid
            elif folder and not all(entry.is_folder for entry in entries.values()):
                return folder + rest
            else:
                break
        return f"{folder}{rest[:2]}/{rest[2:]}"


def joined(text: bytes, lines: Iterable[bytes]) -> bytes:
    """A note with more lines."""
    text += b"" if text.endswith(b"\n") or not text else b"\n"
    return text + b"".join(line + b"\n" for line in lines)
