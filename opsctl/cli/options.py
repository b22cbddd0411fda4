"""Arguments and options that several commands share, and completion of ids without any heavy import."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from opsctl.errors import OpsError

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_PACKED = re.compile(r"^[0-9a-f]{40} refs/ops/topics/([0-7][0-9A-HJKMNP-TV-Z]{25})$", re.MULTILINE)


def complete_id(incomplete: str) -> list[str]:
    """Ids of pending drafts that begin or end so, from the names of their topics alone.

    A key press must not wait for imports, and must not run git: a hostile clone could make it fetch.
    """
    prefix, part = (incomplete[:2], incomplete[2:]) if incomplete[:2] in ("d_", "a_") else ("", incomplete)
    part = part.upper()
    found = sorted(_topics(Path.cwd()), reverse=True)
    return [prefix + ulid for ulid in found if ulid.startswith(part) or (part and ulid.endswith(part))][:50]


def _topics(folder: Path) -> set[str]:
    """The ULIDs of the topics, loose and packed, of the repository that holds a folder."""
    for place in (folder, *folder.parents):
        git = place / ".git" if (place / ".git").exists() else place
        try:
            if git.is_file():
                git = place / git.read_text(encoding="utf-8")[:4096].removeprefix("gitdir:").strip()
            if (git / "commondir").is_file():
                git = git / (git / "commondir").read_text(encoding="utf-8")[:4096].strip()
            if (git / "objects").is_dir():
                names = {entry.name for entry in os.scandir(git / "refs/ops/topics")} if _has(git) else set()
                packed = git / "packed-refs"
                text = packed.read_text(encoding="utf-8", errors="replace") if packed.is_file() else ""
                return {name for name in names if _ULID.fullmatch(name)} | set(_PACKED.findall(text))
        except (OSError, ValueError):
            return set()
    return set()


def _has(git: Path) -> bool:
    return (git / "refs/ops/topics").is_dir()


Id = Annotated[str, typer.Argument(metavar="ID", help="An id, or a unique part.", autocompletion=complete_id)]
Ids = Annotated[
    list[str], typer.Argument(metavar="ID", help="Ids, or unique parts; ID@DIGEST.", autocompletion=complete_id)
]
OptionalId = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="An id, or a unique part.", autocompletion=complete_id)
]
Expect = Annotated[str | None, typer.Option("--expect", metavar="DIGEST", help="The revision you mean.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in git.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AllowSecret = Annotated[
    list[str], typer.Option("--allow-secret", metavar="FINGERPRINT", help="This is no secret; recorded.")
]
Key = Annotated[str | None, typer.Option("--key", metavar="PATH", help="The SSH key to sign with.")]


def read_file(name: str, *, limit: int) -> bytes:
    """The bytes of a regular file, or of standard input for `-`. Raises `bad_input`, `too_large`.

    Folders, devices and pipes by name are refused: a draft must not hang on /dev/zero or a FIFO.
    """
    import stat
    import sys

    if name == "-":
        data = sys.stdin.buffer.read(limit + 1)
    else:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise OpsError("bad_input", f"{name!a} cannot be read", cause=reason) from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OpsError("bad_input", f"{name!a} is not a regular file", hint="pipe its content in: --file -")
            data = file.read(limit + 1)
    if len(data) > limit:
        raise OpsError("too_large", f"{Path(name).name!a} has more than {limit:,} bytes", hint="split it up")
    return data


def decoded(data: bytes) -> str:
    """Text of a file that a person named. Raises `bad_document` naming the byte."""
    from opsctl.document import check_bytes

    check_bytes(data)
    return data.decode()
