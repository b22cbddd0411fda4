"""Use case `generate`: a provider writes the text of a draft. What it answers is text, and a person approves it or not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from opsctl import document as documents
from opsctl import secretscan
from opsctl.errors import OpsError
from opsctl.models import Draft, RunSettings
from opsctl.providers import connect
from opsctl.providers.port import DEADLINE_S, Context, Generation, Request, Try
from opsctl.providers.settings import load
from opsctl.workspace.base import Base
from opsctl.workspace.drafts import Drafts, Facts, NewDraft

SYSTEM = (
    "You write the prompt that a coding agent will receive. Answer with that prompt alone, in Markdown: what to change, "
    "where, how to check it, and what to leave alone. A person reads and approves it before it is used."
)
INCLUDE_LIMIT = 256 * 1024
"""Bytes of all included files together."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a person asks for. `revise` is the ULID of a pending draft that gets a new revision instead of a new one."""

    text: str
    provider: str | None = None
    model: str | None = None
    title: str | None = None
    labels: tuple[str, ...] = ()
    context: Mapping[str, str] = field(default_factory=dict)
    includes: tuple[tuple[str, bytes], ...] = ()
    base: str | None = None
    paths: tuple[str, ...] = ()
    run: RunSettings = RunSettings()
    revise: str | None = None
    timeout_s: float = DEADLINE_S
    max_output_tokens: int | None = None
    allow_secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears what: the text as it comes, each try, and secrets in the request, which may still say no."""

    heard: Callable[[str], None]
    tried: Callable[[Try], None]
    may_send: Callable[[list[secretscan.Secret]], bool]


@dataclass(frozen=True, slots=True)
class Generated:
    """The draft, and how its text came about."""

    draft: Draft
    generation: Generation


class Generating:
    """`ws.generating`."""

    def __init__(self, base: Base, drafts: Drafts) -> None:
        self._base = base
        self._drafts = drafts

    def generate(self, ask: Ask, listener: Listener) -> Generated:
        """Ask a provider and file its answer.

        A refused configuration raises before anything is sent. A call that fails leaves a draft in the state `error`
        with the reason and without any text of the answer, named in the error's detail; a revision that fails leaves
        its draft as it was. Raises errors of kind provider, and what filing a draft raises.
        """
        settings = load(self._base.places).get(ask.provider)
        provider = connect(settings, self._base.environ)
        before = self._drafts.require_pending(ask.revise, "revised") if ask.revise else None
        text = _composed(ask, before)
        secrets = secretscan.find(text)
        if secrets and not listener.may_send(secrets):
            raise OpsError("secret_found", "the request was not sent: it holds what looks like a secret")
        request = Request(text, SYSTEM, ask.model, ask.max_output_tokens)
        try:
            made = provider.generate(request, Context(ask.timeout_s, listener.heard, listener.tried))
            return Generated(self._filed(ask, before, settings.name, made), made)
        except KeyboardInterrupt:
            self._failed(ask, before, settings.name, "interrupted by the person who asked")
            raise
        except OpsError as error:
            if error.kind == "provider" or error.code in ("too_large", "bad_document"):
                failed = self._failed(ask, before, settings.name, error.message)
                said = OpsError("provider_garbage", error.message) if error.kind != "provider" else error
                said.detail = {**error.detail, **({"draft": f"d_{failed.ulid}"} if failed else {})}
                raise said from None
            raise

    def _filed(self, ask: Ask, before: Draft | None, name: str, made: Generation) -> Draft:
        facts = _facts(ask, made)
        if before:
            document = replace(before.document, prompt=made.text, provider=name, model=made.model, request=ask.text)
            data = documents.build(document)
            return self._drafts.edit(before.ulid, data=data, allow_secrets=ask.allow_secrets, facts=facts)[0]
        return self._drafts.create(_new(ask, name, made.model, made.text, facts))

    def _failed(self, ask: Ask, before: Draft | None, name: str, reason: str) -> Draft | None:
        """The trace of a call that failed. A draft that was to be revised stays as it is."""
        if before:
            return None
        return self._drafts.fail(_new(ask, name, ask.model, "(no answer)", Facts()), reason)


def _new(ask: Ask, name: str, model: str | None, prompt: str, facts: Facts) -> NewDraft:
    return NewDraft(
        prompt=prompt,
        title=ask.title or documents.title_from(ask.text),
        labels=ask.labels,
        context=ask.context,
        base=ask.base,
        paths=ask.paths,
        run=ask.run,
        allow_secrets=ask.allow_secrets,
        provider=name,
        model=model,
        request=ask.text,
        facts=facts,
    )


def _facts(ask: Ask, made: Generation) -> Facts:
    includes = ", ".join(f"{path}@sha256:{hashlib.sha256(data).hexdigest()[:16]}" for path, data in ask.includes)
    usage = " ".join(f"{name}={count}" for name, count in made.usage.items())
    return Facts(usage=usage, request_id=made.request_id or "", include=includes)


def _composed(ask: Ask, before: Draft | None) -> str:
    """The text that is sent: the request, what is known, the files, and for a revision the old text with its reasons."""
    parts = [ask.text]
    if ask.context:
        parts.append("Known facts:\n" + "\n".join(f"- {key}: {value}" for key, value in ask.context.items()))
    for path, data in ask.includes:
        parts.append(f"The file {path}:\n<file>\n{data.decode('utf-8', 'replace')}\n</file>")
    if before:
        parts.append(f"Revise this prompt:\n<prompt>\n{before.document.prompt}\n</prompt>")
        if before.reason:
            parts.append(f"The reviewers asked for:\n{before.reason}")
    return "\n\n".join(parts)


def read_include(root: Path, name: str) -> tuple[str, bytes]:
    """One file to send along, named as it is below the folder where possible. Raises `bad_input`, `too_large`."""
    path = Path(name)
    try:
        if not path.is_file():
            raise OpsError("bad_input", f"{name!a} is no file", hint="--include takes a file; may be repeated")
        with path.open("rb") as file:
            data = file.read(INCLUDE_LIMIT + 1)
    except OSError as error:
        raise OpsError("bad_input", f"{name!a} cannot be read", cause=error.strerror) from None
    if len(data) > INCLUDE_LIMIT:
        raise OpsError("too_large", f"{name!a} has more than {INCLUDE_LIMIT:,} bytes", hint="include a part of it")
    full = path.resolve()
    return (str(full.relative_to(root)) if full.is_relative_to(root) else path.name), data
