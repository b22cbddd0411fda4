"""The rival: the same objects and refs by git's own plumbing, as durable, with no process that could be spared.

Trees are written with `hash-object -t tree`, not with `mktree`, which never reads `core.fsync` (git 2.39: no fsync).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from opsctl.gitobject import FILE, FOLDER, Entry, format_tree
from opsctl.store import APPROVED, DRAFTS, TOPICS

DURABLE = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync")


class Plumbing:
    """Writes to one repository."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = dict(environ)

    def create(self, file: str, data: bytes, message: str, ulid: str) -> None:
        """A draft: its topic, and the merge of that into `ops/drafts`."""
        approved, drafts = self._tips()
        blob = self._git("hash-object", "-w", "--stdin", stdin=data)
        topic = self._commit(self._put(approved, file, blob), message, approved)
        merge = self._commit(self._put(drafts, file, blob), message, drafts, topic)
        self._update((DRAFTS, merge, drafts), (TOPICS + ulid, topic, "0" * 40))

    def approve(self, file: str, message: str, again: str, ulid: str) -> None:
        """The signed merge of a topic into `ops/approved`, and the merge of that into `ops/drafts`.

        The tree of `ops/drafts` has the file already, so it is taken as it is.
        """
        approved, drafts = self._tips()
        names = (f"{DRAFTS}^{{tree}}", TOPICS + ulid, f"{TOPICS}{ulid}:{file}")
        tree, topic, blob = self._git("rev-parse", *names).split()
        merge = self._commit(self._put(approved, file, blob), message, approved, topic, sign=True)
        follow = self._commit(tree, again, drafts, merge)
        self._update((APPROVED, merge, approved), (DRAFTS, follow, drafts), (TOPICS + ulid, "0" * 40, topic))

    def _tips(self) -> list[str]:
        return self._git("rev-parse", APPROVED, DRAFTS).split()

    def _put(self, commit: str, file: str, blob: str) -> str:
        """The tree of a commit with one file more: each level is listed and made anew."""
        *folders, name = file.split("/")
        levels = [self._list(commit)]
        for folder in folders:
            entry = levels[-1].get(folder)
            levels.append(self._list(entry.oid) if entry else {})
        new = Entry(FILE, blob)
        for level, name_here in zip(reversed(levels), [name, *reversed(folders)], strict=True):
            level[name_here] = new
            new = Entry(FOLDER, self._git("hash-object", "-w", "-t", "tree", "--stdin", stdin=format_tree(level)))
        return new.oid

    def _list(self, tree: str) -> dict[str, Entry]:
        rows = [row.split("\t", 1) for row in self._run("ls-tree", "-z", tree).decode().split("\0")[:-1]]
        return {name: Entry(facts.split()[0].lstrip("0"), facts.split()[2]) for facts, name in rows}

    def _commit(self, tree: str, message: str, *parents: str, sign: bool = False) -> str:
        options = [part for parent in parents for part in ("-p", parent)]
        return self._git("commit-tree", *options, *(["-S"] if sign else []), tree, stdin=message.encode())

    def _update(self, *moves: tuple[str, str, str]) -> None:
        """All refs in one transaction."""
        self._git("update-ref", "--stdin", stdin="".join(f"update {n} {new} {old}\n" for n, new, old in moves).encode())

    def _git(self, *arguments: str, stdin: bytes = b"") -> str:
        return self._run(*arguments, stdin=stdin).decode().strip()

    def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["git", *DURABLE, *arguments]
        return subprocess.run(
            command, cwd=self._path, env=self._environ, input=stdin, capture_output=True, check=True
        ).stdout
