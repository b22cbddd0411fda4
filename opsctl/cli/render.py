"""How a draft, an approved item and differences look in a terminal. Every outside text is made visible here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opsctl import risk, text
from opsctl.cli.session import Session, age, now
from opsctl.diffing import Piece
from opsctl.document import short
from opsctl.models import Step, utc

if TYPE_CHECKING:
    from opsctl.models import Approved, Decision, Document, Draft

_DONE = {
    "edit": "edited",
    "return": "returned",
    "reject": "rejected",
    "fail": "failed",
    "approve": "approved",
    "revoke": "revoked",
}
_SETTINGS = ("executor", "runner", "timeout_s", "max_runs", "not_after", "network", "parallel")
_NEAR = timedelta(days=1)
_MARKS = {"+": "green", "-": "red", "@": "blue"}


def draft_lines(session: Session, draft: Draft, content: bytes, steps: Sequence[Step | Decision]) -> list[str]:
    """A draft as a reviewer reads it: facts, warnings, then the whole file with nothing hidden."""
    document = draft.document
    written = next((step.at for step in reversed(steps) if step.kind == "draft"), draft.updated_at)
    facts = [
        ("id", f"d_{draft.ulid}"),
        ("title", document.title),
        ("status", draft.status),
        ("author", _by(draft.author, written)),
        *_last_steps(draft, steps),
        ("revision", f"{draft.revision}, {draft.digest}"),
        *_document_facts(document),
        *_written(steps),
        ("votes", ", ".join(f"{vote.principal}: {vote.vote}" for vote in draft.votes)),
        ("signatures", _signatures(session, draft)),
        ("asked for" if draft.status == "draft" else "reason", draft.reason or ""),
        ("error", draft.error or ""),
    ]
    rows = [_fact(session, name, value) for name, value in facts if value]
    decoded = content.decode("utf-8", "replace")
    return [*rows, *warnings(session, decoded, document), *_body(session, decoded)]


def _signatures(session: Session, draft: Draft) -> str:
    """How many count and how many are needed, where one is not enough."""
    tally = session.workspace.waiting.tally(draft)
    return str(tally) if tally and tally.needed > 1 else ""


def _last_steps(draft: Draft, steps: Sequence[Step | Decision]) -> Iterator[tuple[str, str]]:
    """Who edited, returned or closed it last, and when; a return counts until the text is another one."""
    last = {step.kind: step for step in reversed(steps)}
    for kind, word in _DONE.items():
        step = last.get(kind)
        if step and (kind != "return" or (draft.status == "draft" and draft.reason)):
            yield word, _by(step.by, step.at)


def _written(steps: Sequence[Step | Decision]) -> Iterator[tuple[str, str]]:
    """What a provider said of the call that the newest text came from; it proves nothing."""
    last = next((step for step in steps if isinstance(step, Step) and step.kind in ("draft", "edit")), None)
    if last:
        yield "usage", last.usage or ""
        yield "request id", last.request_id or ""
        yield "sent along", last.include or ""


def _by(who: str, when: datetime) -> str:
    return f"{who}, {utc(when)} ({age(when)} ago)"


def approved_lines(session: Session, item: Approved, content: bytes) -> list[str]:
    """An approved item: who approved it, and the bytes that were signed."""
    decision = item.decision
    facts = [
        ("id", f"a_{item.document.ulid}"),
        ("title", item.document.title),
        ("approved", f"by {decision.signer.principal}, {utc(decision.at)}"),
        ("key", decision.signer.fingerprint),
        ("votes", ", ".join(vote.principal for vote in decision.votes)),
        ("commit", decision.commit),
        ("digest", decision.digest or ""),
        ("allowed", decision.trailers.get("Ops-Allowed-Chars", "")),
        *_document_facts(item.document),
    ]
    rows = [_fact(session, name, value) for name, value in facts if value]
    return [*rows, *_body(session, content.decode("utf-8", "replace"))]


def _document_facts(document: Document) -> list[tuple[str, str]]:
    target, run = document.target, document.run
    settings = [(name, getattr(run, name)) for name in _SETTINGS]
    base = f"{target.base[:12]}{f' ({target.branch})' if target.branch else ''}" if target.base else ""
    return [
        ("labels", ", ".join(document.labels)),
        ("written by", " ".join(part for part in (document.provider, document.model) if part)),
        ("request", document.request or ""),
        ("base", base),
        ("paths", ", ".join(target.paths)),
        ("run", ", ".join(f"{name}={value}" for name, value in settings if value is not None)),
    ]


def _fact(session: Session, name: str, value: str) -> str:
    return f"{session.paint(f'{name:>10}', 'dim')}  {text.one_line(value, 500)}"


def warnings(session: Session, content: str, document: Document) -> list[str]:
    """What a reviewer should look at: hidden characters, mixed scripts, risky words."""
    rows = []
    hidden = text.hidden(content)
    if hidden:
        labels = ", ".join(dict.fromkeys(char.label for char in hidden))
        rows.append(f"{len(hidden)} hidden characters: {labels}; first in line {hidden[0].line}")
    if tags := text.decoded_tags(content):
        rows.append(f"tag characters spell: {text.one_line(tags, 200)}")
    for word in text.mixed_script(content)[:10]:
        points = ", ".join(f"{text.label(point)} {text.name(point)}" for point in word.codepoints[:4])
        rows.append(f"line {word.line}: {text.one_line(word.word, 60)} mixes scripts: {points}")
    if late := too_late(document):
        rows.append(late)
    for hint in risk.hints(document.prompt, document.target.paths):
        rows.append(f"line {hint.line}: {hint.kind.replace('_', ' ')}: {text.one_line(hint.text, 80)}")
    return [session.paint(f"         !  {row}", "yellow") for row in rows]


def too_late(document: Document) -> str | None:
    """What to say where the last moment for a run is over, or less than a day away."""
    last = document.run.not_after
    left = datetime.fromisoformat(last) - now() if last else _NEAR
    if left >= _NEAR:
        return None
    end = datetime.fromisoformat(last or "")
    said = "that time is over" if left <= timedelta() else f"that is in {age(now(), at=end)}"
    return f"no run after {last}: {said}"


def _body(session: Session, content: str) -> list[str]:
    lines = text.visible(content).removesuffix("\n").split("\n")
    head = f"---------- {len(lines)} lines, {len(content.encode('utf-8', 'replace')):,} bytes"
    return [session.paint(head, "dim"), *lines, session.paint("----------", "dim")]


def line_diff(session: Session, pieces: list[Piece]) -> list[str]:
    """A line diff with one mark a line."""
    rows = []
    for piece in pieces:
        mark = "" if piece.kind == "@" else piece.kind
        row = mark + text.visible(piece.text.rstrip("\r\n"), keep_newlines=True)
        if piece.kind in "+-" and not piece.text.endswith("\n"):
            row += " (no newline at the end)"
        rows.append(session.paint(row, _MARKS[piece.kind]) if piece.kind in _MARKS else row)
    return rows


def word_diff(session: Session, pieces: list[Piece]) -> list[str]:
    """A word diff in one text, with [-removed-] and {+added+} as git writes it."""
    parts = []
    for piece in pieces:
        shown = text.visible(piece.text)
        if piece.kind == "-":
            shown = session.paint(f"[-{shown}-]", "red")
        elif piece.kind == "+":
            shown = session.paint(f"{{+{shown}+}}", "green")
        parts.append(shown)
    return "".join(parts).split("\n")


def named(draft: Draft) -> str:
    """A draft in one short line."""
    return f"d_{draft.ulid} {short(draft.digest)} {draft.document.title}"
