"""`opsctl generate`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from opsctl import text
from opsctl.cli.app import command
from opsctl.cli.draft_command import _clean, _pair
from opsctl.cli.options import AllowSecret, decoded, read_file
from opsctl.cli.session import Session
from opsctl.errors import OpsError
from opsctl.models import draft_json

if TYPE_CHECKING:
    from opsctl.providers.port import Try
    from opsctl.secretscan import Secret

_LIMIT = 256 * 1024

Text = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What you want.")]
File = Annotated[str | None, typer.Option("--file", "-f", metavar="PATH|-", help="The request, verbatim.")]
ProviderName = Annotated[str | None, typer.Option("--provider", "-p", metavar="NAME", help="Default: the active one.")]
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="M", help="In place of the configured one.")]
ContextPair = Annotated[list[str], typer.Option("--context", metavar="K=V", help="May be repeated.")]
Include = Annotated[list[str], typer.Option("--include", metavar="PATH", help="A file to send along; recorded.")]
Title = Annotated[str | None, typer.Option("--title", "-t", metavar="T", help="Default: the request's first line.")]
Source = Annotated[str | None, typer.Option("--from", metavar="ID", help="Revise this draft.")]
Label = Annotated[list[str], typer.Option("--label", "-l", metavar="L", help="May be repeated.")]
Glob = Annotated[list[str], typer.Option("--path", metavar="GLOB", help="What it may touch; may be repeated.")]
Base = Annotated[str | None, typer.Option("--base", metavar="REV", help="Branch, tag or commit to start at.")]
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
        label: Label = [],
        path: Glob = [],
        base: Base = None,
        timeout: Timeout = 30.0,
        max_output_tokens: MaxTokens = None,
        allow_secret: AllowSecret = [],
    ) -> None:
        """Let a model write a draft. Its answer waits for approval like any other draft.

        A call that fails leaves a draft in the state error, which can never be approved, and exits with 7.
        """
        from opsctl.workspace.generating import Ask, read_include

        workspace = session.workspace
        ask = Ask(
            text=_request(request, file, source),
            provider=provider,
            model=model,
            title=title,
            labels=tuple(label),
            context=dict(_pair(item) for item in context),
            includes=tuple(read_include(workspace.path, name) for name in include),
            base=base,
            paths=tuple(path),
            revise=workspace.desk.resolve(source)[1] if source else None,
            timeout_s=timeout,
            max_output_tokens=max_output_tokens,
            allow_secrets=frozenset(allow_secret),
        )
        live = _Live(session)
        made = workspace.generating.generate(ask, live.listener())
        live.end(made.generation.usage)
        if session.as_json:
            return session.emit(draft_json(made.draft))
        session.result(f"d_{made.draft.ulid}")
        if session.out_is_terminal:
            session.say(f"d_{made.draft.ulid} by {made.draft.document.provider}, {made.generation.model}")
            session.say(f"next: opsctl show {made.draft.ulid[-6:]}, opsctl approve {made.draft.ulid[-6:]}")
        return None


def _request(request: str | None, file: str | None, source: str | None) -> str:
    if request is not None and file is not None:
        raise OpsError("usage", "give the text or --file, not both", hint="opsctl generate --help")
    if file is not None:
        return decoded(read_file(file, limit=_LIMIT))
    if request is None and source is not None:
        return "Revise the prompt as the reviewers ask."
    if not (request or "").strip():
        raise OpsError("usage", "nothing is asked for", hint="opsctl generate 'what you want'")
    return _clean(request or "")


class _Live:
    """The answer as it comes, on a terminal; talk on stderr."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._on = sys.stderr.isatty() and not session.as_json
        self._begun = time.monotonic()

    def listener(self) -> Listener:
        """What the workspace tells."""
        from opsctl.workspace.generating import Listener

        return Listener(self._heard, self._tried, self._may_send)

    def _heard(self, piece: str) -> None:
        if self._on:
            sys.stderr.write(text.visible(piece))
            sys.stderr.flush()

    def _tried(self, one: Try) -> None:
        if one.outcome != "ok":
            self._session.say(f"try failed: {one.outcome}")

    def _may_send(self, secrets: list[Secret]) -> bool:
        for secret in secrets:
            self._session.say(f"warning: line {secret.line} of the request looks like a secret ({secret.kind})")
        return not self._session.person_is_here or self._session.confirm("send it all the same?")

    def end(self, usage: object) -> None:
        """The line under a live answer."""
        if self._on:
            counts = ", ".join(f"{name} {count:,}" for name, count in dict(usage).items()) if usage else ""  # type: ignore[call-overload]
            sys.stderr.write(f"\n({time.monotonic() - self._begun:.1f} s{f', tokens: {counts}' if counts else ''})\n")
