"""Arguments and options that several commands share, and completion of ids without any heavy import."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from opsctl.errors import OpsError

_FILE = re.compile(r"ops/\d{4}/\d{2}/\d{2}/([0-7][0-9A-HJKMNP-TV-Z]{25})\.md")


def complete_id(incomplete: str) -> list[str]:
    """Ids that begin or end so, read by plain git: a key press must not wait for imports."""
    command = ["git", "--no-pager", "ls-tree", "-r", "-z", "--name-only", "refs/heads/ops/drafts", "--", "ops/"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    prefix, part = (incomplete[:2], incomplete[2:]) if incomplete[:2] in ("d_", "a_") else ("", incomplete)
    names = (_FILE.fullmatch(name) for name in done.stdout.decode("utf-8", "replace").split("\0"))
    found = [match[1] for match in names if match]
    return [
        prefix + ulid
        for ulid in reversed(found)
        if ulid.startswith(part.upper()) or (part and ulid.endswith(part.upper()))
    ][:50]


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
