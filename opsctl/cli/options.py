"""Arguments and options that several commands share, and completion of ids without any heavy import."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from opsctl.config import Places
from opsctl.errors import OpsError

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_PACKED = re.compile(r"^[0-9a-f]{40} refs/ops/topics/([0-7][0-9A-HJKMNP-TV-Z]{25})$", re.MULTILINE)


def complete_id(incomplete: str) -> list[str]:
    """Ids that begin or end so: pending ones by the names of their topics, decided ones from what was verified here.

    A key press must not wait for imports, and must not run git: a hostile clone could make it fetch.
    """
    prefix, part = (incomplete[:2], incomplete[2:]) if incomplete[:2] in ("d_", "a_") else ("", incomplete)
    part, common = part.upper(), _common_dir(Path.cwd())
    found = sorted(_topics(common) | _decided(common), reverse=True) if common else []
    return [prefix + ulid for ulid in found if ulid.startswith(part) or (part and ulid.endswith(part))][:50]


def complete_approved(incomplete: str) -> list[str]:
    """Ids of items that were ever approved."""
    prefix, part = (incomplete[:2], incomplete[2:]) if incomplete[:2] == "a_" else ("", incomplete)
    common = _common_dir(Path.cwd())
    found = sorted(_decided(common), reverse=True) if common else []
    return [prefix + ulid for ulid in found if ulid.startswith(part.upper()) or (part and ulid.endswith(part.upper()))][
        :50
    ]


def complete_run(incomplete: str) -> list[str]:
    """Ids of runs, newest first, from the index of this machine."""
    part, common = incomplete.removeprefix("r_").upper(), _common_dir(Path.cwd())
    found = sorted(_remembered(common, "runs.sqlite", "SELECT ulid FROM run"), reverse=True) if common else []
    return ["r_" + ulid for ulid in found if ulid.startswith(part) or (part and ulid.endswith(part))][:50]


def complete_provider(incomplete: str) -> list[str]:
    """Names of provider.json."""
    import json

    try:
        rows = json.loads((Places.of(os.environ).config / "provider.json").read_bytes())["providers"]
        return [name for name in rows if name.isprintable() and name.startswith(incomplete)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _common_dir(folder: Path) -> Path | None:
    """The git directory that all work trees of the repository share, found by its files alone."""
    for place in (folder, *folder.parents):
        git = place / ".git" if (place / ".git").exists() else place
        try:
            if git.is_file():
                git = place / git.read_text(encoding="utf-8")[:4096].removeprefix("gitdir:").strip()
            if (git / "commondir").is_file():
                git = git / (git / "commondir").read_text(encoding="utf-8")[:4096].strip()
            if (git / "objects").is_dir():
                return Path(os.path.realpath(git))
        except (OSError, ValueError):
            return None
    return None


def _topics(common: Path) -> set[str]:
    """The ULIDs of the topics, loose and packed."""
    try:
        names = set(os.listdir(common / "refs/ops/topics"))
    except OSError:
        names = set()
    packed = common / "packed-refs"
    text = packed.read_text(encoding="utf-8", errors="replace") if packed.is_file() else ""
    return {name for name in names if _ULID.fullmatch(name)} | set(_PACKED.findall(text))


def _decided(common: Path) -> set[str]:
    """The ULIDs that were ever approved, as far as this machine verified them."""
    return _remembered(common, "ledger.sqlite", "SELECT DISTINCT ulid FROM chain WHERE kind = 'approve'")


def _remembered(common: Path, name: str, query: str) -> set[str]:
    import sqlite3

    found: set[str] = set()
    for folder in Places.of(os.environ).memories(common):
        try:
            database = sqlite3.connect(f"file:{folder / name}?mode=ro", uri=True, timeout=0.2)
            found |= {row[0] for row in database.execute(query)}
            database.close()
        except sqlite3.Error:
            continue  # completion offers less; every command that needs the memory says what is wrong with it
    return found


Id = Annotated[str, typer.Argument(metavar="ID", help="An id, or a unique part.", autocompletion=complete_id)]
ApprovedId = Annotated[
    str, typer.Argument(metavar="ID", help="An approved item: a_… or a unique part.", autocompletion=complete_approved)
]
RunId = Annotated[str, typer.Argument(metavar="ID", help="A run: r_… or a unique part.", autocompletion=complete_run)]
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
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OpsError("bad_input", f"{name!a} is not a regular file", hint="pipe its content in: --file -")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise OpsError("too_large", f"{Path(name).name!a} has more than {limit:,} bytes", hint="split it up")
    return data


def decoded(data: bytes) -> str:
    """Text of a file that a person named. Raises `bad_document` naming the byte."""
    from opsctl.document import check_bytes

    check_bytes(data)
    return data.decode()


def typed(prompt: str) -> str:
    """A text of the command line; arguments that are not UTF-8 arrive as surrogates. Raises `bad_document`."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise OpsError("bad_document", f"character {error.start} of the text is not UTF-8") from None
    return prompt
