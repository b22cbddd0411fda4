"""Where the gate's state lives in git: ref names, folders, and how commits of either branch are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from opsctl import secretscan
from opsctl.errors import OpsError
from opsctl.git.lock import RepoLock
from opsctl.git.repo import RefUpdate, Repo
from opsctl.gitobject import BLOB, COMMIT, FILE, FOLDER, Entry, format_commit, format_person, with_signature
from opsctl.message import format_message

APPROVED = "refs/heads/ops/approved"
DRAFTS = "refs/heads/ops/drafts"
TOPICS = "refs/ops/topics/"
NOTES = "refs/notes/ops/"
RESULTS = "refs/heads/ops/runs/"

Edits = Mapping[str, Entry | None]
"""Files by path; None deletes."""


class Store:
    """Writes to one repository, each write under the lock and by compare-and-set."""

    def __init__(
        self,
        repo: Repo,
        *,
        now: Callable[[], datetime],
        lock_wait_s: float,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        self.repo = repo
        self._waiting = waiting
        self._now = now
        self._wait_s = lock_wait_s

    def lock(self, *, wait_s: float | None = None, least_s: float = 0.0, branches: bool = True) -> RepoLock:
        """The lock that every writer takes; also refuses while an ops branch is checked out somewhere.

        Not where the writer touches neither `branches`. `least_s` waits longer where there is much to lose.
        """
        for name, place in self.repo.checked_out((APPROVED, DRAFTS)) if branches else ():
            short = name.removeprefix("refs/heads/")
            hint = f"switch that work tree to another branch first (for example `git switch -`): {place}"
            raise OpsError("checked_out", f"{short} is checked out in a work tree", hint=hint)
        wait_s = max(least_s, self._wait_s if wait_s is None else wait_s)
        return RepoLock(self.repo.common, wait_s=wait_s, tell=self._waiting)

    def move(self, name: str, old: str | None, new: str | None, reason: str) -> None:
        """Move one ref; the lock is held by the caller."""
        if old != new:
            self.repo.update([RefUpdate(name, old, new)], wait_s=self._wait_s, reason=reason)

    def file(self, data: bytes) -> Entry:
        """Stage a file's content."""
        return Entry(FILE, self.repo.stage(BLOB, data))

    def edit_tree(self, base: str | None, edits: Edits) -> str:
        """Stage the tree that results from edits by path; folders that become empty go."""
        entries = dict(self.repo.tree(base)) if base else {}
        below: dict[str, dict[str, Entry | None]] = {}
        for path, entry in edits.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = entry
            elif entry is None:
                entries.pop(name, None)
            else:
                entries[name] = entry
        for name, inner in below.items():
            old = entries.get(name)
            tree = self.edit_tree(old.oid if old and old.is_folder else None, inner)
            if self.repo.tree(tree):
                entries[name] = Entry(FOLDER, tree)
            else:
                entries.pop(name, None)
        return self.repo.stage_tree(entries)

    def payload(
        self,
        *,
        tree: str,
        parents: tuple[str, ...],
        subject: str,
        trailers: Mapping[str, str],
        who: tuple[str, str],
        author: str | None = None,
    ) -> bytes:
        """The unsigned bytes of a commit by `who` (name, address), now; `author` keeps somebody else's line."""
        _refuse_secret(trailers.get("Ops-Reason", ""))
        person = format_person(*who, int(self._now().timestamp()))
        message = format_message(subject, trailers)
        return format_commit(tree=tree, parents=parents, author=author or person, committer=person, message=message)

    def stage_commit(self, payload: bytes, signature: bytes | None = None) -> str:
        """Stage a commit, with its signature if there is one."""
        return self.repo.stage(COMMIT, with_signature(payload, signature) if signature else payload)


def _refuse_secret(reason: str) -> None:
    """A reason is kept for ever and cannot be edited: nothing that looks like a secret may stand in it (TX-25)."""
    for secret in secretscan.find(reason):
        hint = "say it without; whatever was committed stays in the history"
        raise OpsError("secret_found", f"the reason holds what looks like a secret ({secret.kind})", hint=hint)
