"""Commit messages of the gate: subject, optional text, and the `Ops-` trailers of the last paragraph. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

TRAILERS = (
    "Ops-Kind",
    "Ops-Vote",
    "Ops-Id",
    "Ops-Digest",
    "Ops-Repo",
    "Ops-Epoch",
    "Ops-Signer",
    "Ops-Policy",
    "Ops-Seen",
    "Ops-Allowed-Chars",
    "Ops-Allowed-Secrets",
    "Ops-Reason",
    "Ops-Via",
    "Ops-Usage",
    "Ops-Request-Id",
    "Ops-Include",
)
"""Every trailer that means something here, in the order in which opsctl writes them."""

_TRAILER = re.compile(r"([A-Za-z0-9-]+): (\S(?:.*\S)?)")
_SUBJECT_LIMIT = 120


class MalformedMessage(ValueError):
    """The last paragraph has `Ops-` lines that two readers could take differently."""


def format_message(subject: str, trailers: Mapping[str, str]) -> str:
    """A message whose last paragraph is the trailers; every value is folded to one line."""
    rows = [f"{name}: {one_line(trailers[name])}" for name in TRAILERS if trailers.get(name)]
    text = one_line(subject)
    short = text if len(text) <= _SUBJECT_LIMIT else text[: _SUBJECT_LIMIT - 1] + "…"
    return "\n\n".join(part for part in (short, "\n".join(rows)) if part) + "\n"


def one_line(text: str) -> str:
    """The text with every run of white space and control characters made one space."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()


def subject(message: str) -> str:
    """The first line."""
    return message.split("\n", 1)[0]


def parse_trailers(message: str) -> dict[str, str]:
    """The `Ops-` trailers of the last paragraph.

    Raises `MalformedMessage` for one that stands twice, has another case, is unknown, is empty, or goes on in a folded
    line: git's own trailer reader would take such lines differently. Other trailers are free.
    """
    found: dict[str, str] = {}
    after_ours = False
    for line in last_paragraph(message):
        if line[:1] in (" ", "\t"):
            if after_ours:
                raise MalformedMessage("an Ops- trailer goes on in the next line")
            continue
        after_ours = line[:4].lower() == "ops-"
        if after_ours:
            name, value = _split(line)
            if name in found:
                raise MalformedMessage(f"{name} stands twice")
            found[name] = value
    return found


def last_paragraph(message: str) -> list[str]:
    """The lines after the last blank line; none when the message is a subject alone."""
    lines = message.rstrip("\n").split("\n")
    for index in range(len(lines) - 1, -1, -1):
        if not lines[index].strip(" \t\r"):  # what git calls blank, and no other white space
            return lines[index + 1 :]
    return []


def _split(line: str) -> tuple[str, str]:
    match = _TRAILER.fullmatch(line)
    if match is None or match[1] not in TRAILERS:
        raise MalformedMessage(f"unusable trailer {line[:60]!a}")
    return match[1], match[2]
