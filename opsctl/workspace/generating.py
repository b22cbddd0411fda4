"""Use case `generate`: a provider writes the text of a draft, which a person approves or not."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opsctl import document as documents
from opsctl.errors import OpsError
from opsctl.models import Document, Draft
from opsctl.providers import connect
from opsctl.providers.port import Context, Generation, ProviderSettings, Request, Try
from opsctl.providers.settings import load
from opsctl.secretscan import Secret
from opsctl.workspace import asking, steps
from opsctl.workspace.asking import Ask, Include, Part
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk
from opsctl.workspace.drafts import NO_ANSWER, Drafts, Facts, NewDraft, check_expected

_TEXT_CODES = ("too_large", "bad_document", "secret_found")
"""What filing refuses a text for."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears what. `may_send` gets what looks like a secret, with where it stands, and may still say no."""

    asking: Callable[[ProviderSettings], None]
    heard: Callable[[str], None]
    tried: Callable[[Try], None]
    may_send: Callable[[Sequence[tuple[str, Secret]]], bool]


@dataclass(frozen=True, slots=True)
class Generated:
    """The draft, and how its text came about. `changed` is False where a revision came back as it was."""

    draft: Draft
    generation: Generation
    changed: bool = True


@dataclass(frozen=True, slots=True)
class _Job:
    """One request with all that was looked up for it."""

    ask: Ask
    settings: ProviderSettings
    before: Draft | None
    files: Sequence[Include]
    parts: Sequence[Part]

    def new(self, prompt: str, made: Generation | None) -> NewDraft:
        """The draft with this prompt."""
        request = asking.recorded(self.ask)
        return NewDraft(
            prompt=prompt,
            title=self.ask.title if self.ask.title is not None else documents.title_from(request),
            labels=self.ask.labels,
            context=self.ask.context,
            base=self.ask.base,
            paths=self.ask.paths,
            run=self.ask.run,
            allow_secrets=self.ask.allow_secrets,
            provider=self.settings.name,
            model=made.model if made else self.ask.model or self.settings.model,
            request=request,
            facts=self.facts(made),
        )

    def facts(self, made: Generation | None) -> Facts:
        """What the commit tells of the call."""
        return Facts.of(made, ", ".join(f"{file.name} {file.digest}" for file in self.files))


class Generating:
    """`ws.generating`."""

    def __init__(self, base: Base, desk: Desk, drafts: Drafts) -> None:
        self._base = base
        self._desk = desk
        self._drafts = drafts

    def generate(self, ask: Ask, listener: Listener) -> Generated:
        """Ask a provider and file its answer.

        What is refused before anything is sent leaves nothing behind: the configuration, the draft to revise, a file,
        a title. A call that fails, and an answer that no draft can hold, leave a draft in the state `error` with the
        reason and no text of the answer, which the error's detail names; a draft that was to be revised stays as it
        is. Raises errors of kind provider for those.
        """
        settings = load(self._base.places).get(ask.provider)
        provider = connect(settings, self._base.environ)
        job = self._job(ask, settings)
        secrets = list(asking.secrets(job.parts, ask.allow_secrets))
        if secrets and not listener.may_send(secrets):
            raise OpsError("secret_found", "nothing was sent: the request holds what looks like a secret")
        text = "\n\n".join(part.sent() for part in job.parts)
        request = Request(text, asking.SYSTEM, ask.model, ask.max_output_tokens)
        try:
            listener.asking(settings)
            made = provider.generate(request, Context(ask.timeout_s, listener.heard, listener.tried))
        except KeyboardInterrupt:
            with contextlib.suppress(OpsError):
                self._fail(job, "interrupted by the person who asked")
            raise
        except OpsError as error:
            if error.kind != "provider":
                raise  # the configuration turned out to be refused only when its host was looked up
            raise self._failed(job, error) from None
        return self._file(job, made)

    # -- before anything is sent --------------------------------------------------------------------------------

    def _job(self, ask: Ask, settings: ProviderSettings) -> _Job:
        """Everything that can be refused, while it costs nothing."""
        size = len(ask.text.encode("utf-8", "surrogatepass"))
        if size > asking.REQUEST_LIMIT:
            message = f"the request has {size:,} bytes; at most {asking.REQUEST_LIMIT:,} are taken"
            raise OpsError("too_large", message, hint="put the rest into files, and send those along with --include")
        files = asking.includes(ask, self._root())
        before = self._before(ask) if ask.revise else None
        reasons = self._reasons(before.ulid) if before else []
        parts = asking.compose(ask, files, before.document.prompt if before else None, reasons)
        job = _Job(ask, settings, before, files, parts)
        if before:
            documents.build(self._revised(job, before, NO_ANSWER, ask.model or settings.model))
        self._drafts.check(job.new(NO_ANSWER, None))
        return job

    def _root(self) -> Path:
        """The folder below which a file's name says where it is."""
        common = self._base.repo.common
        return common.parent if common.name == ".git" else Path(os.path.realpath(self._base.path))

    def _before(self, ask: Ask) -> Draft:
        before = self._drafts.require_pending(ask.revise or "", "revised")
        check_expected(before, ask.expect)
        if before.error:
            raise OpsError("bad_document", before.error, hint=f"mend the whole file: opsctl edit d_{before.ulid}")
        if ask.base:
            raise OpsError("usage", "a revision keeps the base of its draft", hint="leave --base or --from out")
        return before

    def _reasons(self, ulid: str) -> list[str]:
        """What reviewers have said since the text was last changed, oldest first."""
        found: list[str] = []
        for step in steps.read(self._base.repo, self._desk, ulid):
            if step.kind in ("draft", "edit"):
                break
            if step.reason:
                found.insert(0, step.reason)
        return found

    # -- filing -------------------------------------------------------------------------------------------------

    def _file(self, job: _Job, made: Generation) -> Generated:
        try:
            if job.before is None:
                return Generated(self._drafts.create(job.new(made.text, made)), made)
            document = self._revised(job, job.before, made.text, made.model)
            draft, changed = self._drafts.edit(
                job.before.ulid,
                data=documents.build(document),
                expect=job.before.digest,
                allow_secrets=job.ask.allow_secrets,
                facts=job.facts(made),
            )
            return Generated(draft, made, changed)
        except OpsError as error:
            if error.code in _TEXT_CODES:
                said = OpsError("provider_garbage", f"the answer cannot be filed: {error.message}", hint=error.hint)
                raise self._failed(job, said) from None
            self._keep(made.text, error)
            raise

    def _revised(self, job: _Job, before: Draft, prompt: str, model: str) -> Document:
        ask, old = job.ask, before.document
        return replace(
            old,
            prompt=prompt,
            title=ask.title if ask.title is not None else old.title,
            labels=ask.labels or old.labels,
            context=ask.context or old.context,
            target=replace(old.target, paths=ask.paths or old.target.paths),
            provider=job.settings.name,
            model=model,
            request=asking.recorded(ask),
        )

    def _failed(self, job: _Job, error: OpsError) -> OpsError:
        """The error of a call that failed, with the draft that tells it."""
        try:
            failed = self._fail(job, error.message)
        except OpsError as fault:
            error.cause = f"no draft could be filed that tells it: {fault.message}"
            return error
        if failed:
            error.detail = {**error.detail, "draft": f"d_{failed.ulid}"}
            kept = f"opsctl show {failed.ulid[-6:]} keeps this"
            error.hint = f"{error.hint}; {kept}" if error.hint else kept
        return error

    def _fail(self, job: _Job, reason: str) -> Draft | None:
        """The trace of a call that failed. A draft that was to be revised stays as it is."""
        return None if job.before else self._drafts.fail(job.new(NO_ANSWER, None), reason)

    def _keep(self, answer: str, error: OpsError) -> None:
        """An answer that came and could not be filed is kept outside the repository: it may have cost something."""
        folder = self._base.places.state
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, path = tempfile.mkstemp(".md", "unsaved-", folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(answer.encode("utf-8", "replace"))
            kept = f"the answer is kept in {shlex.quote(path)}"
            error.hint = f"{error.hint}; {kept}" if error.hint else kept
