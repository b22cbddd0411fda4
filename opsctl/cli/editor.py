"""The person's editor, on a temporary file outside the repository."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsctl.errors import OpsError

LIMIT = 1024 * 1024


@contextmanager
def keeping(data: bytes, folder: Path, suffix: str) -> Iterator[None]:
    """Keep what a person typed in a file of `folder` when what follows fails, and say where."""
    try:
        yield
    except OpsError as error:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, path = tempfile.mkstemp(suffix, "unsaved-", folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        kept = f"your text is kept in {shlex.quote(path)}"
        error.hint = f"{error.hint}; {kept}" if error.hint else kept
        raise


def edit(content: bytes, *, suffix: str, chosen: str | None = None) -> bytes:
    """Let the person edit the content and return what was saved. Raises `no_editor`.

    The editor is GIT_EDITOR, else `core.editor` of the user's own configuration, else VISUAL, else EDITOR, else vi.
    """
    program = os.environ.get("GIT_EDITOR") or chosen or os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="opsctl-edit-") as folder:
        path = os.path.join(folder, f"draft{suffix}")
        with open(path, "wb") as file:
            file.write(content)
        try:
            done = subprocess.run([*shlex.split(program), path], check=False)
        except (OSError, ValueError) as error:
            hint = "set EDITOR to a program that waits until you are done"
            raise OpsError("no_editor", f"{program!a} could not be started", cause=str(error), hint=hint) from None
        if done.returncode != 0:
            raise OpsError("no_editor", f"{program!a} ended with {done.returncode}; nothing was changed")
        with open(path, "rb") as file:
            return file.read(LIMIT)
