"""Options that say what is in a draft, shared by `draft` and `edit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from opsctl.cli.session import now
from opsctl.document import EXECUTORS
from opsctl.errors import OpsError
from opsctl.models import utc


def complete_executor(incomplete: str) -> list[str]:
    """The executors that begin so."""
    return [name for name in EXECUTORS if name.startswith(incomplete)]


Title = Annotated[str | None, typer.Option("--title", "-t", metavar="T", help="Default: the first line.")]
File = Annotated[str | None, typer.Option("--file", "-f", metavar="PATH|-", help="The prompt, verbatim.")]
Labels = Annotated[list[str], typer.Option("--label", "-l", metavar="L", help="Sorts; may be repeated.")]
Context = Annotated[list[str], typer.Option("--context", metavar="K=V", help="May be repeated.")]
Base = Annotated[str | None, typer.Option("--base", metavar="REV", help="Branch, tag or commit to start at.")]
Paths = Annotated[list[str], typer.Option("--path", metavar="GLOB", help="What it may touch; may be repeated.")]
Executor = Annotated[
    str | None,
    typer.Option("--executor", metavar="E", help="claim, provider or exec.", autocompletion=complete_executor),
]
Runner = Annotated[str | None, typer.Option("--runner", metavar="NAME", help="A runner of yours.")]
Timeout = Annotated[int | None, typer.Option("--timeout", metavar="S", help="Seconds a run may take.")]
Network = Annotated[bool, typer.Option("--network", help="Ask for the network in the sandbox.")]
MaxRuns = Annotated[int | None, typer.Option("--max-runs", metavar="N", help="How often it may run.")]
NotAfter = Annotated[
    str | None, typer.Option("--not-after", metavar="TIME", help="No run later: a UTC time, a date, +2d, +12h.")
]
Parallel = Annotated[int | None, typer.Option("--parallel", metavar="N", help="How many runs at once; else one.")]
Source = Annotated[str | None, typer.Option("--from", metavar="ID", help="Begin with what it has.")]

NewTitle = Annotated[str | None, typer.Option("--title", "-t", metavar="T", help="The new title.")]
NewFile = Annotated[str | None, typer.Option("--file", "-f", metavar="PATH|-", help="The new prompt, verbatim.")]
NewLabels = Annotated[
    list[str], typer.Option("--label", "-l", metavar="L", help="In place of all labels; '' for none.")
]
NewContext = Annotated[list[str], typer.Option("--context", metavar="K=V", help="In place of all; '' for none.")]
NewBase = Annotated[str | None, typer.Option("--base", metavar="REV", help="The new base; '' for none.")]
NewExecutor = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="E", help="claim, provider or exec; '' for any.", autocompletion=complete_executor
    ),
]
NewRunner = Annotated[str | None, typer.Option("--runner", metavar="NAME", help="The new runner; '' for none.")]
NewNotAfter = Annotated[str | None, typer.Option("--not-after", metavar="TIME", help="As in draft; '' for no limit.")]
NewPaths = Annotated[list[str], typer.Option("--path", metavar="GLOB", help="In place of all paths; '' for none.")]


def until(given: str | None) -> str | None:
    """The last moment as the file holds it; nothing for nothing. Raises `bad_input`."""
    from opsctl.workspace.drafts import last_moment

    return utc(last_moment(given, now())) if given else None


def replacing(values: Sequence[str]) -> tuple[str, ...] | None:
    """What an edit puts in place of the old values: None for nothing, empty for one empty value."""
    if list(values) == [""]:
        return ()
    return tuple(values) or None


def pairs(items: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE items as a mapping. Raises `usage`."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise OpsError("usage", f"--context takes KEY=VALUE, not {item[:60]!a}", hint="opsctl draft --help")
        found[key] = value
    return found
