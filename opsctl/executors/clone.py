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
from pathlib import Path

from opsctl.errors import OpsError
from opsctl.git.command import Git

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


@dataclass(frozen=True, slots=True)
class Result:
    """The last of the commits that came of a run; `note` says what could not be kept."""

    tip: str
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
        self._prepare_result()

    def _prepare_result(self) -> None:
        """A bare git directory that borrows the repository's objects, with the index of the fresh checkout.

        The index is copied before the program starts: its file times are then ours, and unchanged files need not be
        read again.
        """
        place = self.folder / "result.git"
        for folder in ("objects/info", "refs/heads"):
            (place / folder).mkdir(parents=True)
        (place / "HEAD").write_text(f"ref: {_TIP}\n", encoding="utf-8")
        (place / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n", encoding="utf-8")
        (place / "objects/info/alternates").write_bytes(os.fsencode(self._source / "objects") + b"\n")
        shutil.copy2(self.work / ".git" / "index", place / "index")

    # -- after --------------------------------------------------------------------------------------------------

    def collect(self, base: str, message: str, author: tuple[str, str], who: tuple[str, str]) -> Result | None:
        """The program's commits and whatever it left uncommitted, as commits on the base; None if nothing changed."""
        head, note = self._its_commits(base)
        if head != base:
            self._run(self._result, "read-tree", "-m", head)
        tree = self._tree()
        if tree == self._run(self._result, "rev-parse", f"{head}^{{tree}}").decode().strip():
            return None if head == base else self._kept(head, note)
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
        tree = self._run(self._result, "rev-parse", f"{result.tip}^{{tree}}").decode().strip()
        return self._kept(self._commit(tree, result.tip, message, who, who), result.note)

    def _its_commits(self, base: str) -> tuple[str, str]:
        """Where the program's own commits end, if they stand on the base and pass git's checks."""
        if _head(self.work / ".git") == base:
            return base, ""
        try:
            self._run(self._result, *_FETCH, _SPAWN, os.fspath(self.work), "+HEAD:refs/heads/its")
            head = self._run(self._result, "rev-parse", "refs/heads/its^{commit}").decode().strip()
            self._run(self._result, "merge-base", "--is-ancestor", base, head)
        except OpsError as error:
            why = f" ({error.cause})" if error.cause else ""
            return base, f"its own commits could not be used{why}; its files are kept"
        return head, ""

    def _tree(self) -> str:
        """The tree of the files that are there, ignored ones left out.

        Listed and taken in one by one: `git add` would look into a repository within, by that one's configuration.
        """
        here = f"--work-tree={self.work}"
        options = ("-z", "--modified", "--deleted", "--others", "--exclude-standard")
        try:
            names = self._run(self._result, here, "ls-files", *options)
            self._run(
                self._result, here, "update-index", "--add", "--remove", "--replace", "-z", "--stdin", stdin=names
            )
        except OpsError as error:
            raise OpsError("git_failed", "the files of the run cannot be taken over", cause=error.cause) from None
        return self._run(self._result, "write-tree").decode().strip()

    def changed(self, base: str, tip: str) -> list[str]:
        """The paths that differ between two commits."""
        return changed_paths(self._result, base, tip)

    def hand_over(self, target: Git, result: Result) -> None:
        """Bring the result's objects into the repository, checked. Nothing refers to them yet."""
        self._run(target, *_FETCH, _SPAWN, os.fspath(self.folder / "result.git"), result.tip)

    def remove(self) -> None:
        """Remove the run's folder; what the program made unreadable is made removable first."""
        remove(self.folder)


def changed_paths(git: Git, old: str, new: str) -> list[str]:
    """The paths of files that differ between two commits, whatever their attributes say."""
    out = git.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", old, new)
    return [os.fsdecode(name) for name in out.split(b"\0") if name]


def remove(folder: Path) -> None:
    """Remove a folder with everything in it, without following links. Best effort: what stays is tried again later."""
    for place, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _head(git_dir: Path) -> str | None:
    """The commit of HEAD where it is as we left it: the branch `run`, loose."""
    try:
        for name, limit in (("HEAD", 64), ("refs/heads/run", 64)):
            descriptor = os.open(git_dir / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                data = os.read(descriptor, limit).decode("ascii", "replace").strip()
            finally:
                os.close(descriptor)
            if name == "HEAD" and data != "ref: refs/heads/run":
                return None
    except OSError:
        return None
    return data


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
