"""A git directory of our own to talk to remotes from. Of the repository it has the objects and nothing else.

What a repository's configuration, conditional includes, hooks, grafts or `remotes/` files could make git run, write
or ask elsewhere is thereby not a list to keep up with: this git never reads them.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from opsctl.git import watch
from opsctl.git.command import Git, Setting, environment, settings

_FROM_A_REPOSITORY = re.compile(
    r"http\.(.*\.)?(postbuffer|lowspeed\w+|version|extraheader|sslverify|sslcainfo|maxrequests)", re.DOTALL
)
"""Settings of a repository that are carried over: they run nothing, write nothing and send the talk nowhere else."""

_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"


class Line:
    """One conversation with a remote. Use as a context: the git directory ends with it."""

    def __init__(self, common: Path, found: Sequence[Setting], environ: Mapping[str, str], *, prompts: bool) -> None:
        """`found` is git's configuration as the user's own git would see it in the repository."""
        self._packs = common / "objects" / "pack"
        self._objects = {"GIT_OBJECT_DIRECTORY": os.fspath(common / "objects")}
        self._found = found
        self._environ = environ
        self._prompts = prompts
        self._closing = ExitStack()

    def __enter__(self) -> Line:
        self._folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="opsctl-")))
        for name, text in (("HEAD", "ref: refs/heads/none\n"), ("config", _CONFIG)):
            (self._folder / name).write_text(text, encoding="utf-8")
        for name in ("refs", "objects"):
            (self._folder / name).mkdir()
        self._git = Git(self._folder, self._environ)
        native = settings(self._folder, self._folder, self._environ)
        network = self._git.network_environment(prompts=self._prompts)
        self._env = network | self._objects | _carried(self._found, native)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def has(self, commits: Iterable[str]) -> None:
        """Commits that are here, so that a remote need not send them."""
        rows = sorted((f"refs/known/{number}", oid) for number, oid in enumerate(sorted(set(commits))))
        (self._folder / "packed-refs").write_text("".join(f"{oid} {name}\n" for name, oid in rows), encoding="ascii")

    def refs(self, prefix: str) -> dict[str, str]:
        """The refs that a fetch brought below a prefix."""
        env = environment(self._environ) | self._objects
        rows = self._git.run("for-each-ref", "--format=%(objectname) %(refname)", prefix, env=env)
        pairs = (row.split(" ", 1) for row in rows.decode("utf-8", "surrogateescape").splitlines())
        return {name: oid for oid, name in pairs}

    def run(self, arguments: Sequence[str], *, guards: Sequence[str]) -> tuple[int, bytes, bytes]:
        """Run a git that fetches or pushes, under bounds. Its status, stdout and stderr."""
        argv = self._git.argv(arguments, guards=guards)
        return watch.run(argv, self._packs, self._env, prompts=self._prompts)


def _carried(found: Sequence[Setting], native: Sequence[Setting]) -> dict[str, str]:
    """What a git directory of our own does not see by itself, as variables: no other user sees those in a list.

    That is the user's settings that hold only for some folders (`includeIf`), those of the command line, and of the
    repository's own the few that are harmless.
    """
    seen = {(one.key, one.value) for one in native if one.scope != "command"}
    own = [one for one in found if one.is_own and (one.scope == "command" or (one.key, one.value) not in seen)]
    own += [one for one in found if not one.is_own and _FROM_A_REPOSITORY.fullmatch(one.key)]
    rows = [one for one in own if not one.key.startswith(("include.", "includeif."))]
    values = {"GIT_CONFIG_COUNT": str(len(rows))} if rows else {}
    for number, one in enumerate(rows):
        values |= {f"GIT_CONFIG_KEY_{number}": one.key, f"GIT_CONFIG_VALUE_{number}": one.value}
    return values
