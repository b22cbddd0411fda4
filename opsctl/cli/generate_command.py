"""`opsctl generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opsctl.cli import document_options as options
from opsctl.cli.app import command
from opsctl.cli.live import Live
from opsctl.cli.options import AllowSecret, Expect, complete_id, complete_provider, decoded, read_file, typed
from opsctl.cli.session import Session
from opsctl.errors import OpsError
from opsctl.models import draft_json

if TYPE_CHECKING:
    from opsctl.workspace.generating import Generated

_FILE_LIMIT = 256 * 1024

Text = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What you want.")]
File = Annotated[str | None, typer.Option("--file", "-f", metavar="PATH|-", help="The request, verbatim.")]
ProviderName = Annotated[
    str | None,
    typer.Option("--provider", "-p", metavar="NAME", help="Default: the active one.", autocompletion=complete_provider),
]
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="M", help="In place of the configured one.")]
ContextPair = Annotated[list[str], typer.Option("--context", metavar="K=V", help="A fact; may be repeated.")]
Include = Annotated[list[str], typer.Option("--include", metavar="PATH", help="A text file that goes along.")]
Title = Annotated[str | None, typer.Option("--title", "-t", metavar="T", help="Default: the request's first line.")]
Source = Annotated[
    str | None, typer.Option("--from", metavar="ID", help="Revise this draft.", autocompletion=complete_id)
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", min=1, max=3600, help="Seconds for the whole call.")]
MaxTokens = Annotated[int | None, typer.Option("--max-output-tokens", metavar="N", min=1, help="Cap on the answer.")]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "generate", example="opsctl generate 'refactor the uploader' --path 'src/**'", json=True)
    def generate(
        session: Session,
        request: Text = None,
        file: File = None,
        provider: ProviderName = None,
        model: Model = None,
        context: ContextPair = [],
        include: Include = [],
        title: Title = None,
        source: Source = None,
        expect: Expect = None,
        label: options.Labels = [],
        path: options.Paths = [],
        base: options.Base = None,
        timeout: Timeout = 30.0,
        max_output_tokens: MaxTokens = None,
        allow_secret: AllowSecret = [],
    ) -> None:
        """Let a model write a draft.

        Its answer waits for approval like any other draft. A call that fails leaves a draft in the state error, which
        can never be approved, and exits with 7.
        """
        from opsctl.workspace.asking import Ask

        if expect and source is None:
            raise OpsError("usage", "--expect names the revision of --from ID", hint="opsctl generate --help")
        ask = Ask(
            text=_request(request, file, source),
            provider=provider,
            model=model,
            title=title,
            labels=tuple(label),
            context=options.pairs(context),
            includes=tuple((name, read_file(name, limit=_FILE_LIMIT)) for name in include),
            base=base,
            paths=tuple(path),
            revise=session.workspace.resolve(source)[1] if source is not None else None,
            expect=expect,
            timeout_s=timeout,
            max_output_tokens=max_output_tokens,
            allow_secrets=frozenset(allow_secret),
        )
        with Live(session) as live:
            made = session.workspace.generating.generate(ask, live.listener())
            live.done(made.generation.usage)
        _tell(session, made)


def _tell(session: Session, made: Generated) -> None:
    draft, answer = made.draft, made.generation
    if session.as_json:
        facts: dict[str, object] = {
            "model": answer.model,
            "request_id": answer.request_id,
            "usage": dict(answer.usage),
            "finish": answer.finish,
            "duration_s": round(answer.duration_s, 3),
            "tries": [{"outcome": one.outcome, "seconds": round(one.duration_s, 3)} for one in answer.tries],
        }
        return session.emit(draft_json(draft) | {"generation": facts})
    session.result(f"d_{draft.ulid}")
    if not made.changed:
        return session.say(f"the answer is the text that d_{draft.ulid} has; there is no new revision")
    if session.out_is_terminal:
        revision = f", revision {draft.revision}" if draft.revision > 1 else ""
        session.say(f"d_{draft.ulid}{revision} by {draft.document.provider}, {answer.model}")
        session.say(f"next: opsctl show {draft.ulid[-6:]}, opsctl approve {draft.ulid[-6:]}")
    return None


def _request(request: str | None, file: str | None, source: str | None) -> str:
    if request is not None and file is not None:
        raise OpsError("usage", "give the text or --file, not both", hint="opsctl generate --help")
    text = decoded(read_file(file, limit=_FILE_LIMIT)) if file is not None else typed(request or "")
    if request is None and file is None and source is not None:
        return "Revise the prompt as the reviewers ask."
    if not text.strip():
        raise OpsError("usage", "nothing is asked for", hint="opsctl generate 'what you want'")
    return text
