"""The private clone that a runner's program works in, and the way of its changes back.

A work tree of the repository would share refs, configuration and drafts with the program, so it gets a repository of
its own that holds one commit. What it does to that repository is not trusted: the result is put together in a second
git directory that the program never sees, and only what passes git's own checks comes back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opsctl.errors import OpsError
from opsctl.executors import theirs, weighing
from opsctl.executors.taking import sort
from opsctl.git.command import Git
from opsctl.text import one_line

_SEALED = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "file",
}
_GUARDS = (
    *("core.protectHFS=true", "core.protectNTFS=true", "core.fileMode=true", "core.symlinks=true"),
    *("fetch.fsckObjects=true", "transfer.fsckObjects=true", "fetch.writeCommitGraph=false"),
)
_FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
_SPAWN = "--upload-pack=git-upload-pack"
_TIMEOUT_S = 300.0
_TIP = "refs/heads/result"
RESERVED = ("tmp", "prompt", "keep", "spare")
"""Names in a run's folder that are ours, as are all that end in .git."""


@dataclass(frozen=True, slots=True)
class Result:
    """The last of the commits that came of a run, None if nothing changed; `note` says what could not be kept."""

    tip: str | None
    note: str = ""


class PrivateClone:
    """One run's folder: `<name>` for the program, `result.git` for what came of it."""

    def __init__(self, folder: Path, source: Path, name: str, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.work = folder / name
        self._source = source
        self._env = {**environ, **_SEALED}
        self._own = Git(self.work / ".git", self._env)
        self._result = Git(folder / "result.git", self._env)
        self._index = (b"", (0, 0))

    def _run(self, git: Git, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        return git.run(*arguments, stdin=stdin, timeout_s=_TIMEOUT_S, guards=_GUARDS, env={**self._env, **(env or {})})

    # -- before -------------------------------------------------------------------------------------------------

    def make(self, base: str, who: tuple[str, str]) -> None:
        """Clone the one commit and check it out. Raises `git_failed`, `disk`."""
        try:
            (self.work / ".git").mkdir(parents=True, mode=0o700)
            (self.folder / "tmp").mkdir(mode=0o700)
        except OSError as error:
            raise OpsError("disk", "the run's folder could not be made", cause=str(error)) from None
        self._run(self._own, "init", "--quiet", "--template=", "--initial-branch=run", os.fspath(self.work))
        self._run(self._own, *_FETCH, "--depth=1", _SPAWN, os.fspath(self._source), base)
        self._run(self._own, f"--work-tree={self.work}", "checkout", "--quiet", "-B", "run", base)
        with (self.work / ".git" / "config").open("a", encoding="utf-8") as config:
            config.write(
                f"[user]\n\tname = {_quoted(who[0])}\n\temail = {_quoted(who[1])}\n[commit]\n\tgpgSign = false\n"
            )
        index = self.work / ".git" / "index"
        times = index.stat()
        self._index = (index.read_bytes(), (times.st_atime_ns, times.st_mtime_ns))

    def _prepare_result(self) -> None:
        """A git directory that borrows the repository's objects, with the index of the fresh checkout.

        Made only now, so that the program never saw it. The index and its time are from before: file times in it are
        ours, so unchanged files need not be read again.
        """
        place = _bare(self.folder / "result.git", f"ref: {_TIP}")
        objects = os.fsencode(self._source / "objects").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        (place / "objects/info/alternates").write_bytes(b'"' + objects.replace(b"\n", b"\\n") + b'"\n')
        if (self._source / "shallow").is_file():
            shutil.copyfile(self._source / "shallow", place / "shallow")
        data, times = self._index
        (place / "index").write_bytes(data)
        os.utime(place / "index", ns=times)

    # -- after --------------------------------------------------------------------------------------------------

    def collect(self, base: str, message: str, author: tuple[str, str], who: tuple[str, str]) -> Result:
        """The program's commits and whatever it left uncommitted, as commits on the base."""
        self._prepare_result()
        head, note = self._its_commits(base)
        if head != base:
            self._run(self._result, "read-tree", "-i", "-m", head)  # -i: the files here are not of this tree
        left = self._take_files()
        if left:
            names = ", ".join(one_line(name, 100) for name in left[:5])
            said = f"left out, because git cannot keep them, or they are too large: {names}"
            note = "; ".join(part for part in (note, said) if part)
        tree = self._run(self._result, "write-tree").decode().strip()
        if tree == self._run(self._result, "rev-parse", f"{head}^{{tree}}").decode().strip():
            return Result(None, note) if head == base else self._kept(head, note)
        return self._kept(self._commit(tree, head, message, author, who), note)

    def _commit(self, tree: str, parent: str, message: str, author: tuple[str, str], who: tuple[str, str]) -> str:
        names = {"GIT_AUTHOR_NAME": author[0], "GIT_AUTHOR_EMAIL": author[1]}
        names |= {"GIT_COMMITTER_NAME": who[0], "GIT_COMMITTER_EMAIL": who[1]}
        arguments = ("commit-tree", "--no-gpg-sign", "-p", parent, tree)
        return self._run(self._result, *arguments, stdin=message.encode(), env=names).decode().strip()

    def _kept(self, tip: str, note: str) -> Result:
        self._run(self._result, "update-ref", _TIP, tip)
        return Result(tip, note)

    def mark(self, result: Result, message: str, who: tuple[str, str]) -> Result:
        """An empty commit on top that says what is wrong, for whoever looks at the branch with plain git."""
        tip = str(result.tip)
        tree = self._run(self._result, "rev-parse", f"{tip}^{{tree}}").decode().strip()
        return self._kept(self._commit(tree, tip, message, who, who), result.note)

    def _its_commits(self, base: str) -> tuple[str, str]:
        """Where the program's own commits end, if they stand on the base and pass git's checks.

        Its objects are fetched out of a git folder with our configuration: no alternates, so a commit cannot borrow
        what the program never had, and nothing that git would run.
        """
        head = theirs.head(self.work / ".git")
        if head == base:
            return base, ""
        try:
            if head is None:
                raise OpsError("git_failed", "its git folder is not usable", cause="its git folder is not usable")
            place = _bare(self.folder / "theirs.git", head)
            (place / "shallow").write_text(f"{base}\n", encoding="utf-8")
            theirs.take_objects(self.work / ".git", place / "objects")
            self._run(self._result, "update-ref", "refs/heads/base", base)
            self._run(self._result, *_FETCH, _SPAWN, os.fspath(place), "+HEAD:refs/heads/its")
            self._run(self._result, "merge-base", "--is-ancestor", base, head)
            self._check(base, head)
        except (OpsError, OSError) as error:
            why = error.cause if isinstance(error, OpsError) else error.strerror
            return base, f"its own commits could not be used{f' ({why})' if why else ''}; its files are kept"
        return head, ""

    def _check(self, base: str, head: str) -> None:
        run = partial(self._run, self._result)
        weighing.check_history(run, base, head)
        weighing.check_trees(run, base, head)
        weighing.check_owned(run, self._alone, base, head)

    def _alone(self, *arguments: str, stdin: bytes) -> bytes:
        """Run git on the result as if the repository's objects were not there."""
        borrowed = self.folder / "result.git/objects/info/alternates"
        aside = borrowed.rename(borrowed.with_name("aside"))
        try:
            return self._run(self._result, *arguments, stdin=stdin)
        finally:
            aside.rename(borrowed)

    def _take_files(self) -> list[str]:
        """Put the files that are there into the index, ignored ones left out. Returns what git cannot keep.

        Listed and taken in one by one: `git add` would look into a repository within, by that one's configuration.
        """
        theirs.tidy(self.work)
        here = f"--work-tree={self.work}"
        new = ("--others", "--exclude-standard")
        try:
            listed = self._run(self._result, here, "ls-files", "-z", "-t", "-s", "--modified", "--deleted", *new)
            found = sort(self.work, listed)
            taken = ("update-index", "-z", "--add", "--replace", "--stdin")
            self._run(self._result, here, "update-index", "-z", "--force-remove", "--stdin", stdin=found.gone)
            self._run(self._result, here, *taken, stdin=found.there)
            left = self._run(self._result, here, "ls-files", "-z", *new) if found.there else b""
        except OpsError as error:
            raise OpsError("git_failed", "the files of the run cannot be taken over", cause=error.cause) from None
        names = {*found.out, *(name.rstrip(b"/") for name in left.split(b"\0") if name)}
        return sorted(name.decode("utf-8", "backslashreplace") for name in names)

    def changed(self, base: str, tip: str) -> list[str]:
        """The paths that any commit from base to tip changes: who merges the branch takes what lies between too."""
        commits = self._run(self._result, "rev-list", f"{base}..{tip}")
        options = ("-r", "-m", "-z", "--root", "--no-commit-id", "--name-only", "--no-renames", "--no-ext-diff")
        out = self._run(self._result, "diff-tree", "--stdin", *options, stdin=commits)
        return sorted({os.fsdecode(name) for name in out.split(b"\0") if name})

    def hand_over(self, target: Git, result: Result) -> None:
        """Bring the result's objects into the repository, checked. Nothing refers to them yet."""
        self._run(target, *_FETCH, _SPAWN, os.fspath(self.folder / "result.git"), str(result.tip))

    def remove(self) -> None:
        """Remove the run's folder; what the program made unreadable is made removable first."""
        theirs.remove(self.folder)


def changed_paths(git: Git, old: str, new: str) -> list[str]:
    """The paths of files that differ between two commits, whatever their attributes say."""
    out = git.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", old, new)
    return [os.fsdecode(name) for name in out.split(b"\0") if name]


def _bare(place: Path, head: str) -> Path:
    """A git folder with our configuration and nothing in it."""
    for folder in ("objects/info", "refs/heads"):
        (place / folder).mkdir(parents=True)
    (place / "HEAD").write_text(f"{head}\n", encoding="utf-8")
    # what is fetched stays a pack: loose objects that lie in what is borrowed would not be written
    config = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n[fetch]\n\tunpackLimit = 1\n"
    (place / "config").write_text(config, encoding="utf-8")
    return place


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
