"""The repository: objects read strictly, refs moved only by compare-and-set. The only importer of pygit2."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pygit2

from opsctl.errors import OpsError
from opsctl.git import lock, loose, vetting
from opsctl.git.packs import Packs
from opsctl.git.storing import Writer
from opsctl.gitobject import (
    BLOB,
    COMMIT,
    TREE,
    Commit,
    Entry,
    first_parent,
    format_tree,
    object_id,
    parse_commit,
    parse_tree,
)

LEAST_LIBGIT2 = (1, 9, 7)
BLOB_LIMIT = 256 * 1024
_META_LIMIT = 16 * 1024 * 1024
_COMMIT_LIMIT = 256 * 1024
_TAGS = 8
_TAGGED = re.compile(rb"object ([0-9a-f]{40})\n")


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One move of a ref: from the value it must have (None: must not exist) to a new one (None: deleted)."""

    name: str
    old: str | None
    new: str | None


class Repo:
    """One open repository. Objects that are staged can be read at once and are stored by `flush`."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the repository that holds `path`. Raises `no_repository`, `unsafe_owner`, `unsupported_repository`."""
        _check_library()
        self._git = _open(path)
        self.git_dir = Path(os.path.realpath(self._git.path))
        self.common = _common_dir(self.git_dir)
        self._packed_seen = self._packed_refs()
        self.is_bare: bool = self._git.is_bare
        self._writer = Writer(self.common / "objects")
        self._loose = [os.fspath(folder) for folder in loose.folders(self.common / "objects")]
        self._packs = Packs(self._loose)
        self._staged: dict[str, tuple[str, bytes]] = {}
        self._clock = clock
        self.commit: Callable[[str], Commit] = lru_cache(maxsize=256)(self._commit)
        self.tree: Callable[[str], Mapping[str, Entry]] = lru_cache(maxsize=512)(self._tree)

    # -- objects ------------------------------------------------------------------------------------------------

    def read(self, oid: str, kind: str, *, limit: int = _META_LIMIT) -> bytes:
        """The bytes of an object whose content was checked against its name. Raises `corrupt_object`, `too_large`."""
        found = self._staged.get(oid) or self._stored(oid, limit)
        if found[0] != kind:
            raise loose.damaged(oid, f"it is a {found[0]}, not a {kind}")
        return found[1]

    def _stored(self, oid: str, limit: int) -> tuple[str, bytes]:
        packs = self._packs
        found = (packs.read(oid, limit) if packs.are_few else None) or loose.read(self._loose, oid, limit)
        if found is None:
            # a gc beside us may have moved it to another pack, or out of one
            packs.refresh()
            found = packs.read(oid, limit) or loose.read(self._loose, oid, limit)
        if found is None and oid in packs.faults:
            raise loose.damaged(oid, packs.faults[oid])
        if found is None:
            hint = "`opsctl doctor` names what is affected; fetch it again or restore a backup"
            cause = next(iter(packs.faults.values()), None)
            raise OpsError("corrupt_object", f"object {oid} is missing", cause=cause, hint=hint)
        return found

    def blob(self, oid: str) -> bytes:
        """The bytes of a blob of at most 256 KiB, the largest a draft, policy or plan may be."""
        return self.read(oid, BLOB, limit=BLOB_LIMIT)

    def _commit(self, oid: str) -> Commit:
        return parse_commit(self._meta(oid, COMMIT, _COMMIT_LIMIT))

    def first_parent(self, oid: str) -> str | None:
        """The first parent of a commit of which nothing else is checked; None where that takes a closer look."""
        return first_parent(self._meta(oid, COMMIT, _COMMIT_LIMIT))

    def _tree(self, oid: str) -> Mapping[str, Entry]:
        return parse_tree(self._meta(oid, TREE, _META_LIMIT))

    def _meta(self, oid: str, kind: str, limit: int) -> bytes:
        """A commit or tree; one that is larger is no honest object."""
        try:
            return self.read(oid, kind, limit=limit)
        except OpsError as error:
            if error.code != "too_large":
                raise
            raise loose.damaged(oid, error.message) from None

    def exists(self, oid: str) -> bool:
        """True if the object is there; says nothing about its content."""
        return oid in self._staged or loose.has(self._loose, oid) or self._packs.has(oid)

    def stage(self, kind: str, data: bytes) -> str:
        """Prepare an object; nothing is written before `flush`."""
        oid = object_id(kind, data)
        self._staged[oid] = (kind, data)
        return oid

    def stage_tree(self, entries: Mapping[str, Entry]) -> str:
        """Prepare a tree."""
        return self.stage(TREE, format_tree(entries))

    def flush(self) -> None:
        """Store all staged objects durably. Raises `disk`."""
        self._writer.write(self._staged)
        self._staged.clear()

    def forget(self) -> None:
        """Drop what was staged."""
        self._staged.clear()

    # -- refs ---------------------------------------------------------------------------------------------------

    def ref(self, name: str) -> str | None:
        """The commit that a ref names. Only direct refs count: a symbolic one raises `ref_conflict`."""
        found = self._reference(name)
        if found is None:
            return None
        if found.type != pygit2.enums.ReferenceType.DIRECT:
            hint = f"`opsctl doctor` shows it; remove it with `git symbolic-ref -d {shlex.quote(name)}`"
            raise OpsError("ref_conflict", f"{name} is a symbolic ref; only direct refs are used", hint=hint)
        return str(found.target)

    def _reference(self, name: str) -> pygit2.Reference | None:
        """A ref as it is now (CC-16).

        A `git pack-refs` beside us moves refs from files of their own into packed-refs, of which libgit2 1.9.7 keeps
        an old view when size and second are the same. What was read across such a move may be old: it is read anew.
        """
        vetting.check_ref(self.common, name)
        while True:
            packed = self._packed_refs()
            try:
                if packed != self._packed_seen:
                    self._git, self._packed_seen = pygit2.Repository(self._git.path), packed
                found = self._git.references.get(name)
            except (pygit2.GitError, ValueError) as error:
                raise OpsError("corrupt_object", f"{name} cannot be read", cause=str(error)) from None
            if self._packed_refs() == packed:
                return found

    def _packed_refs(self) -> tuple[int, int, int] | None:
        """What tells one packed-refs file from another."""
        try:
            found = os.stat(self.common / "packed-refs")
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def refs(self, prefix: str) -> dict[str, str]:
        """All direct refs below a prefix."""
        names = [name for name in self._names() if name.startswith(prefix)]
        return {name: oid for name in names if (oid := self._direct(name))}

    def symbolic_refs(self, prefix: str) -> list[str]:
        """Names below a prefix that are symbolic."""
        return [name for name in self._names() if name.startswith(prefix) and self._direct(name) is None]

    def _names(self) -> Iterator[str]:
        for raw in self._git.raw_listall_references():
            yield raw.decode("utf-8", "surrogateescape")

    def _direct(self, name: str) -> str | None:
        try:
            return self.ref(name)
        except OpsError:
            return None

    def update(self, updates: Sequence[RefUpdate], *, wait_s: float, reason: str) -> None:
        """Move refs, each only from the value it must have; done when this returns, and read back.

        The caller holds `RepoLock`. A ref lock of a live git is waited for, one of a dead process removed (CC-13,
        CC-16). Raises `ref_conflict` when a ref has another value, `lock_busy`, `disk`.
        """
        deadline = self._clock() + wait_s
        rest = list(updates)
        while rest:
            try:
                self._transact(rest, reason)
                cause = "the new value was not stored"
            except pygit2.GitError as error:
                cause = str(error)
            rest = [update for update in rest if self.ref(update.name) != update.new]
            if rest:
                self._wait_for(rest, cause, late=self._clock() >= deadline)
        for update in updates:
            _take_leftover(self.common / update.name)

    def _wait_for(self, rest: Sequence[RefUpdate], cause: str, *, late: bool) -> None:
        """Before another try: what may be in the way goes, or time passes; raises when there is nothing to wait for."""
        paths = [self.common / f"{update.name}.lock" for update in rest] + [self.common / "packed-refs.lock"]
        held = [path for path in paths if path.exists()]
        for path in held:
            if lock.is_stale(self.common, path):
                path.unlink(missing_ok=True)
        was_held = bool(held) or "lock" in cause  # it may be gone by now: gc and pack-refs hold it for a moment
        if late or not was_held:
            raise _held(held[0]) if held else _not_moved(rest, cause)
        time.sleep(lock.POLL_S)
        self._git = pygit2.Repository(self._git.path)  # libgit2 1.9.7 keeps a stale view of packed-refs after a failure

    def _transact(self, updates: Sequence[RefUpdate], reason: str) -> None:
        for update in updates:
            vetting.check_log(self.common, update.name)
        with self._git.transaction() as transaction:
            for update in updates:
                transaction.lock_ref(update.name)
            for update in updates:
                found = self.ref(update.name)
                if found != update.old:
                    raise moved(update.name, update.old, found)
            for update in updates:
                if update.new is None:
                    if update.old is not None:
                        transaction.remove(update.name)
                else:
                    transaction.set_target(update.name, update.new, None, reason)

    def checked_out(self, branches: Sequence[str]) -> list[tuple[str, Path]]:
        """Those of some branches that a work tree has checked out, with the folder of that work tree."""
        heads = [] if self.is_bare else [self.common / "HEAD"]
        heads += sorted((self.common / "worktrees").glob("*/HEAD"))
        found = []
        for head in heads:
            try:
                name = os.fsdecode(loose.read_small(head)).strip().removeprefix("ref: ")
            except OSError:
                continue
            if name in branches:
                found.append((name, _work_tree(head.parent)))
        return found

    def default_branch(self) -> tuple[str, str] | None:
        """Name and tip of the branch that work starts from: origin's, as far as this clone knows it, else HEAD's."""
        found = self._reference("refs/remotes/origin/HEAD")
        names = [str(found.target).removeprefix("refs/remotes/origin/")] if found is not None else []
        try:
            head = os.fsdecode(loose.read_small(self.common / "HEAD")).strip()
        except OSError:
            head = ""
        names += [head.removeprefix("ref: refs/heads/")] if head.startswith("ref: refs/heads/") else []
        for name in (*names, "main", "master"):
            tip = self.ref(f"refs/heads/{name}") or self.ref(f"refs/remotes/origin/{name}")
            if tip and not name.startswith("ops/"):
                return name, tip
        return None

    def resolve(self, name: str) -> str | None:
        """The commit of a branch, tag or full oid that a person named; never a revision expression."""
        if len(name) == 40 and all(letter in "0123456789abcdef" for letter in name):
            return name if self.exists(name) else None
        for full in (f"refs/heads/{name}", f"refs/tags/{name}", f"refs/remotes/{name}"):
            try:
                found = self._reference(full)
                if found is not None and found.type != pygit2.enums.ReferenceType.DIRECT:
                    found = self._reference(str(found.target))
            except OpsError:
                return None
            if found is not None:
                return self._peeled(str(found.target))
        return None

    def _peeled(self, oid: str) -> str | None:
        """The commit that an object is, or that a tag names."""
        for _ in range(_TAGS):
            kind, data = self._stored(oid, _COMMIT_LIMIT)
            if kind == COMMIT:
                return oid
            named = _TAGGED.match(data)
            if kind != "tag" or named is None:
                return None
            oid = named[1].decode()
        return None


def _take_leftover(path: Path) -> None:
    """libgit2 renames by link and unlink: an error in between leaves the lock as a second name of the very ref.

    Only such a one goes. Any other lock may be a living git's, and without it a pack-refs could drop what we wrote.
    """
    leftover = path.with_name(path.name + ".lock")
    try:
        if os.path.samefile(leftover, path):
            leftover.unlink(missing_ok=True)
    except OSError:
        return


def moved(name: str, old: str | None, found: str | None) -> OpsError:
    """The error for a ref that has another value than expected."""
    said, now = (old or "nothing")[:12], (found or "nothing")[:12]
    hint = "nothing was changed; run the command again"
    return OpsError("ref_conflict", f"{name} moved: expected {said}, found {now}", hint=hint)


def library_versions() -> dict[str, str]:
    """pygit2 and libgit2."""
    from importlib.metadata import version

    return {"pygit2": version("pygit2"), "libgit2": pygit2.LIBGIT2_VERSION}


def _check_library() -> None:
    found = tuple(int(part) for part in pygit2.LIBGIT2_VERSION.split(".")[:3])
    if found < LEAST_LIBGIT2:
        least = ".".join(map(str, LEAST_LIBGIT2))
        message = f"libgit2 {pygit2.LIBGIT2_VERSION} is too old; {least} or newer is needed"
        raise OpsError("unsupported_version", message, hint="pip install -U pygit2")
    pygit2.settings.enable_fsync_gitdir(True)
    pygit2.settings.enable_strict_hash_verification(True)
    # refs are set on objects that this module read itself: libgit2 need not open (and maybe hang on) a loose one
    pygit2.settings.enable_strict_object_creation(False)


def _open(path: Path) -> pygit2.Repository:
    try:
        vetting.check_place(os.path.abspath(path))
        found = pygit2.discover_repository(os.fspath(path))
        if found is None:
            hint = "run it inside a repository, name one with -C DIR, or make one with `git init`"
            raise OpsError("no_repository", f"{os.fspath(path)!a} is not in a git repository", hint=hint)
        vetting.check_repository(Path(found), _common_dir(Path(found)))
        return pygit2.Repository(found)
    except (pygit2.GitError, KeyError, ValueError, UnicodeError) as error:
        raise _unopened(path, str(error)) from None


def _unopened(path: Path, cause: str) -> OpsError:
    if "owner" in cause or "owned by" in cause:
        hint = f"if you trust it: git config --global --add safe.directory {shlex.quote(os.path.realpath(path))}"
        return OpsError("unsafe_owner", "the repository belongs to another user", cause=cause, hint=hint)
    if "extension" in cause or "object format" in cause or "version" in cause or "oid type" in cause:
        message = "this repository uses a format that opsctl does not read (SHA-256, reftable or a partial clone)"
        return OpsError("unsupported_repository", message, cause=cause, hint="use a SHA-1 repository with file refs")
    return OpsError("no_repository", f"{os.fspath(path)!a} could not be opened", cause=cause, hint="see `git status`")


def _work_tree(git_dir: Path) -> Path:
    """The folder in which a person works, of a main or a linked git directory."""
    try:
        return Path(os.fsdecode(loose.read_small(git_dir / "gitdir").strip())).parent
    except OSError:
        return git_dir.parent


def _common_dir(git_dir: Path) -> Path:
    try:
        relative = loose.read_small(git_dir / "commondir").strip()
    except OSError:
        return git_dir
    return Path(os.path.realpath(git_dir / os.fsdecode(relative)))


def _not_moved(updates: Sequence[RefUpdate], cause: str) -> OpsError:
    names = ", ".join(update.name for update in updates)
    hint = "run the command again: it finds out whether the change was stored, and goes on from there"
    return OpsError("disk", f"{names} could not be moved", cause=cause.splitlines()[0][:300], hint=hint)


def _held(path: Path) -> OpsError:
    try:
        age = f"{time.time() - path.stat().st_mtime:.0f} s old"
    except OSError:
        age = "gone by now"
    hint = f"a git process may be at work; if none is: rm {shlex.quote(os.fspath(path))}"
    return OpsError("lock_busy", f"{os.fspath(path)!a} is locked ({age})", hint=hint)
