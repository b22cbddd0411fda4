"""What a person asks a provider for, and the text that is sent for it: request, facts, files, and a draft to revise."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opsctl import secretscan
from opsctl.errors import OpsError
from opsctl.models import RunSettings
from opsctl.providers.port import DEADLINE_S

SYSTEM = (
    "You write the prompt that a coding agent will receive. Answer with that prompt alone, in Markdown: what to "
    "change, where, how to check it, and what to leave alone. A person reads and approves it before it is used."
)
REQUEST_LIMIT = 64 * 1024
"""Bytes of a request. It stands in the draft's file, beside the answer."""

INCLUDE_LIMIT = 256 * 1024
"""Bytes of all included files together."""

INCLUDES = 32
"""Files that may be included."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a person asks for. `includes` are paths with their bytes; `revise` names the ULID of a pending draft that
    gets a new revision, in place of a new draft, and `expect` its digest.
    """

    text: str
    provider: str | None = None
    model: str | None = None
    title: str | None = None
    labels: tuple[str, ...] = ()
    context: Mapping[str, str] = field(default_factory=dict)
    includes: tuple[tuple[str, bytes], ...] = ()
    base: str | None = None
    paths: tuple[str, ...] = ()
    run: RunSettings = field(default_factory=RunSettings)
    revise: str | None = None
    expect: str | None = None
    timeout_s: float = DEADLINE_S
    max_output_tokens: int | None = None
    allow_secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of what is sent, named as a person would: `the request`, a file."""

    name: str
    text: str
    head: str = ""
    tag: str = ""

    def sent(self) -> str:
        """The piece as the model reads it."""
        body = f"<{self.tag}>\n{self.text}\n</{self.tag}>" if self.tag else self.text
        return f"{self.head}\n{body}" if self.head else body


@dataclass(frozen=True, slots=True)
class Include:
    """A file that goes along: its name below the work tree (else the bare name), its text, the digest of its bytes."""

    name: str
    text: str
    digest: str


def includes(ask: Ask, root: Path) -> list[Include]:
    """The files that go along, as they are sent and recorded. Raises `bad_input`, `too_large`."""
    if len(ask.includes) > INCLUDES:
        raise OpsError("bad_input", f"{len(ask.includes)} files; at most {INCLUDES} can be included")
    total = sum(len(data) for _, data in ask.includes)
    if total > INCLUDE_LIMIT:
        message = f"the included files have {total:,} bytes; at most {INCLUDE_LIMIT:,} are sent"
        raise OpsError("too_large", message, hint="include parts of them")
    return [_include(path, data, root) for path, data in ask.includes]


def _include(path: str, data: bytes, root: Path) -> Include:
    full = Path(os.path.realpath(path))
    name = full.relative_to(root).as_posix() if full.is_relative_to(root) else full.name
    try:
        text = data.decode()
        fault = "NUL" if "\0" in text else None
        byte = text.find("\0")
    except UnicodeDecodeError as error:
        text, fault, byte = "", "not UTF-8", error.start
    if fault:
        hint = "only text can be included"
        raise OpsError("bad_input", f"{path[:200]!a} is not text: byte {byte}: {fault}", hint=hint)
    name = name.encode("utf-8", "backslashreplace").decode()  # a name need not be UTF-8
    return Include(name, text, f"sha256:{hashlib.sha256(data).hexdigest()}")


def compose(ask: Ask, files: Sequence[Include], before: str | None, reasons: Sequence[str]) -> list[Part]:
    """What is sent, in order. `before` is the prompt that is to be revised."""
    parts = [Part("the request", ask.text)]
    if ask.context:
        rows = "\n".join(f"- {key}: {value}" for key, value in ask.context.items())
        parts.append(Part("the context", rows, "Known facts:"))
    parts += [Part(file.name, file.text, f"The file {file.name}:", "file") for file in files]
    if before is not None:
        parts.append(Part("the draft", before, "Revise this prompt:", "prompt"))
    if reasons:
        parts.append(Part("the reviewers' reasons", "\n".join(f"- {one}" for one in reasons), "The reviewers say:"))
    return parts


def secrets(parts: Sequence[Part], allowed: frozenset[str]) -> Iterator[tuple[str, secretscan.Secret]]:
    """What looks like a secret and is not allowed, with the name of the part that it stands in."""
    for part in parts:
        for secret in secretscan.find(part.text):
            if secret.fingerprint not in allowed:
                yield part.name, secret


def recorded(ask: Ask) -> str:
    """The request as the draft keeps it: without what looks like a secret, unless that is allowed."""
    found = {secret.fingerprint for secret in secretscan.find(ask.text)}
    return ask.text if found <= ask.allow_secrets else secretscan.redact(ask.text)
