"""What libgit2 and git read of a repository, looked at before they do: whoever opens a FIFO or a device waits for ever.

An archive may bring either in place of any file, or a file that takes all memory. Imports errors alone.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from opsctl.errors import OpsError

_SMALL = 64 * 1024
_CONFIG = 4 * 1024 * 1024
_LARGE = 256 * 1024 * 1024
_ANY = 1 << 62
_OWN_FILES = {"HEAD": _SMALL, "commondir": _SMALL, "gitdir": _SMALL, "config.worktree": _CONFIG}
_COMMON_FILES = {
    "config": _CONFIG,
    "packed-refs": _LARGE,
    "shallow": _LARGE,
    "info/grafts": _LARGE,
    "objects/info/alternates": _SMALL,
    "objects/info/commit-graph": _ANY,
    "objects/info/commit-graphs/commit-graph-chain": _ANY,
    "objects/pack/multi-pack-index": _ANY,
}
"""Files of one work tree and of the repository, and how many bytes git could honestly have put there."""

_MOST_INCLUDES = 32
_BLANK = re.compile(rb"[ \t]*(?:[#;].*)?", re.DOTALL)
_INCLUDE = re.compile(rb"\[[ \t]*include", re.IGNORECASE)
_HEADER = re.compile(rb'[ \t]*\[([A-Za-z0-9.-]+)(?:[ \t]+"(?:[^"\\]|\\.)*")?\][ \t]*')
_PATH = re.compile(rb'[ \t]*path[ \t]*=[ \t]*(?:"([^"\\%][^"\\]*)"|([^"\\#;% \t\r][^"\\#;\r]*?))[ \t]*', re.IGNORECASE)


def check_place(path: str) -> None:
    """Before a repository is looked for: what is read on the way, in this folder and those above it."""
    while True:
        marker = f"{path}/.git"
        is_there = os.access(marker, os.F_OK)
        for place in (path, *([_named(marker)] if is_there else [])):
            for name in ("commondir", "gitdir"):
                check_file(f"{place}/{name}", _SMALL)
        above = os.path.dirname(path)
        if is_there or above == path:
            return
        path = above


def _named(marker: str) -> str:
    """The git directory that `.git` is, or that the file of this name says."""
    if os.path.isdir(marker):
        return marker
    check_file(marker, _SMALL)
    try:
        with open(marker, "rb") as file:
            said = file.read(_SMALL).strip().removeprefix(b"gitdir: ")
    except OSError:
        return marker
    return os.path.join(os.path.dirname(marker), os.fsdecode(said))


def check_repository(git_dir: Path, common: Path) -> None:
    """Before a repository is opened. Raises `unsupported_repository`."""
    for folder, names in ((git_dir, _OWN_FILES), (common, _COMMON_FILES)):
        for name, most in names.items():
            check_file(f"{folder}/{name}", most)
    left = [_MOST_INCLUDES]
    for path in {f"{common}/config", f"{common}/config.worktree", f"{git_dir}/config.worktree"}:
        if os.access(path, os.F_OK):
            _check_includes(path, left)


def check_file(path: str, most: int, *, is_own: bool = False) -> None:
    """Refuse what is there but is no regular file of at most so many bytes; or a link, if it must be its own."""
    try:
        if not is_own and not os.access(path, os.F_OK):  # most are missing, and an exception takes longer
            return
        found = os.stat(path, follow_symlinks=not is_own)
    except (OSError, ValueError):
        return  # whoever opens it is told the same
    if not stat.S_ISREG(found.st_mode):
        raise _odd(path, "is not a regular file")
    if found.st_size > most:
        raise _odd(path, f"has {found.st_size:,} bytes; at most {most:,} are read")


def check_ref(common: Path | str, name: str) -> None:
    """Before a ref is read: its file may be missing, a folder, or a small file."""
    path = f"{common}/{name}"
    try:
        if not os.access(path, os.F_OK) or stat.S_ISDIR(os.stat(path).st_mode):
            return
    except (OSError, ValueError):
        return  # whoever opens it is told the same
    check_file(path, _SMALL)


def check_log(common: Path, name: str) -> None:
    """Before a ref is moved: its log gets a line, so it must be a file of its own."""
    path = f"{common}/logs/{name}"
    if not os.path.isdir(path):
        check_file(path, _ANY, is_own=True)


def _check_includes(path: str, left: list[int]) -> None:
    """Follow what a configuration includes, whatever the condition: no file twice for free, none that is special."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        data = os.read(descriptor, min(os.fstat(descriptor).st_size, _CONFIG))
    finally:
        os.close(descriptor)
    if _INCLUDE.search(data) is None:
        return
    for value in _included(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise _odd(path, f"leads to more than {_MOST_INCLUDES} included files")
        target = os.path.join(os.path.dirname(path), os.path.expanduser(os.fsdecode(value)))
        check_file(target, _CONFIG)
        _check_includes(target, left)


def _included(path: str, data: bytes) -> Iterator[bytes]:
    """The paths in sections that include. Only plain spellings are understood; any other one is refused."""
    inside = False
    for line in data.split(b"\n"):
        line = line.removesuffix(b"\r")
        header = _HEADER.match(line)
        if header:
            inside, line = header[1].lower().startswith(b"include"), line[header.end() :]
        value = _PATH.fullmatch(line)
        if _INCLUDE.search(line) or (inside and not value and not _BLANK.fullmatch(line)):
            raise _odd(path, f"includes other files in a way that is not read here: {line[:60]!a}")
        if inside and value:
            yield value[1] or value[2]


def _odd(path: str, what: str) -> OpsError:
    hint = "git writes no such file; do not trust this repository before you know where it comes from"
    return OpsError("unsupported_repository", f"{path!a} {what}", hint=hint)
