"""What is read of a folder that a program had to itself: no git runs in it, so none of its configuration counts.

Everything in it may be a link, a pipe or a lie by now. The program is gone, so nothing changes while we look.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

_OID = re.compile(r"[0-9a-f]{40}")
_LOOSE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{38}")
_PACK = re.compile(r"pack/pack-[0-9a-f]{40}\.(?:pack|idx)")
_REF = re.compile(r"ref: (refs/heads/[^\x00-\x20\x7f~^:?*\[\\]{1,200})")
_PACKED_LIMIT = 1024 * 1024


def head(git_dir: Path) -> str | None:
    """The commit that HEAD names: directly, or by a branch, loose or packed."""
    told = _text(git_dir, "HEAD", 512)
    if _OID.fullmatch(told):
        return told
    ref = _REF.fullmatch(told)
    if ref is None or ".." in ref[1]:
        return None
    loose = _text(git_dir, ref[1], 64)
    rows = (row.partition(" ") for row in _text(git_dir, "packed-refs", _PACKED_LIMIT).splitlines())
    found = loose or next((oid for oid, _, name in rows if name == ref[1]), "")
    return found if _OID.fullmatch(found) else None


def take_objects(git_dir: Path, place: Path) -> None:
    """Link its loose objects and packs into an object folder of ours; what git finds in them is for git to check."""
    root = git_dir / "objects"
    for folder in _folders(root):
        for name in os.listdir(root / folder):
            one = f"{folder}/{name}"
            if (_LOOSE.fullmatch(one) or _PACK.fullmatch(one)) and _is_file(root / one):
                (place / folder).mkdir(parents=True, exist_ok=True)
                os.link(root / one, place / one, follow_symlinks=False)


def _folders(root: Path) -> list[str]:
    if not _is_plain(root):
        return []
    return [name for name in os.listdir(root) if len(name) in (2, 4) and _is_plain(root / name)]


def _is_plain(path: Path) -> bool:
    """A folder that is where its name says: no link on the way from the git folder."""
    parts = (path, path.parent, path.parent.parent)
    return path.is_dir() and not any(part.is_symlink() for part in parts)


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _text(git_dir: Path, name: str, limit: int) -> str:
    """The beginning of a file, stripped; nothing where it is none, or lies elsewhere."""
    path = git_dir / name
    if os.path.realpath(path.parent) != os.path.join(os.path.realpath(git_dir.parent), ".git", *name.split("/")[:-1]):
        return ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        return os.read(descriptor, limit).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def tidy(folder: Path) -> None:
    """Make folders readable, and remove what git cannot keep but would wait for: pipes, sockets, devices."""
    queue = [os.fspath(folder)]
    while queue:
        with contextlib.suppress(OSError), os.scandir(queue.pop()) as rows:
            for row in rows:
                with contextlib.suppress(OSError):
                    if row.is_dir(follow_symlinks=False):
                        if row.stat(follow_symlinks=False).st_mode & 0o700 != 0o700:
                            os.chmod(row.path, 0o700)
                        queue.append(row.path)
                    elif not row.is_symlink() and not row.is_file(follow_symlinks=False):
                        os.unlink(row.path)


def remove(folder: Path) -> None:
    """Remove a folder with everything in it, without following links. Best effort: what stays is tried again later."""
    with contextlib.suppress(RecursionError):  # of Python's own way through a deep folder
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        tidy(folder)
        with contextlib.suppress(OSError):
            subprocess.run(["/bin/rm", "-rf", "--", os.fspath(folder)], env={}, capture_output=True, check=False)
