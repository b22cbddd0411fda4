"""What a run's record says: event lines, and the run that they fold to. Pure; imports ids, models and errors.

An event is one line of JSON that begins with its own ULID, so that lines sorted as text are in order and two clones
are united by the union of their lines. A line of another form is skipped: notes are anybody's claims.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.models import Run, RunEntry, utc

PENDING, CLAIMED, RUNNING = "pending", "claimed", "running"
DONE, ERROR, CANCELLED, EXPIRED, LOST = "done", "error", "cancelled", "expired", "lost"
ACTIVE = frozenset({PENDING, CLAIMED, RUNNING})
TERMINAL = frozenset({DONE, ERROR, CANCELLED, EXPIRED, LOST})
STATUSES = (PENDING, CLAIMED, RUNNING, DONE, ERROR, CANCELLED, EXPIRED, LOST)
EXECUTORS = ("claim", "provider", "exec")
LINE_LIMIT = 16 * 1024
"""Bytes of one line; what is longer goes into an object of its own."""

TEXT_LIMIT = 2000
"""Characters of a message; a longer one is cut when it is written."""

MOST_COUNTED = 2**53
"""The largest number of an event, which every reader of JSON takes for itself."""

_MOST = 200
"""Texts in a list."""

_OID = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REF = re.compile(r"refs/heads/ops/runs/r_[0-9A-Z]{26}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


@dataclass(frozen=True, slots=True)
class Event:
    """One line: what happened to a run. `kind` is `created`, `message`, or the status that it led to."""

    ulid: str
    run: str
    kind: str
    at: datetime
    facts: Mapping[str, Any]


def is_key(text: str) -> bool:
    """True for what may name a request: 1 to 128 letters, digits and . _ : / -"""
    return _KEY.fullmatch(text) is not None


def format_event(event: Event) -> str:
    """The line. Facts without a value are left out, and long ones are cut until the line is one that is read again."""
    head = {"id": event.ulid, "run": f"r_{event.run}", "event": event.kind, "at": utc(event.at)}
    given = {name: value for name, value in event.facts.items() if value not in (None, "", [], {})}
    for room in (TEXT_LIMIT, 500, 100, 30):
        facts = {name: _short(value, room) if _FACTS.get(name) in _CUTTABLE else value for name, value in given.items()}
        line = json.dumps(head | facts, ensure_ascii=True, separators=(",", ":"))
        if len(line) <= LINE_LIMIT:
            break
    return line


def _short(value: Any, room: int) -> Any:
    """A text, or a list of texts, cut to so many characters; a character may take twelve in the line."""
    if isinstance(value, str):
        return value if len(value) <= room else value[: room - 1] + "…"
    if isinstance(value, (list, tuple)):
        rows: list[str] = []
        for one in value:
            rows.append(_short(one, max(room // 4, 50)))
            room -= len(rows[-1])
            if room < 0 or len(rows) > _MOST:
                return [*rows[: min(len(rows), _MOST) - 1], "…"]
        return rows
    return value


def parse_event(line: str) -> Event | None:
    """The event of a line, or None for a line that is not one."""
    if len(line) > LINE_LIMIT or not line.startswith('{"id":"'):
        return None
    try:
        row = json.loads(line, object_pairs_hook=_unique)
        ulid, run, kind, at = row.pop("id"), row.pop("run"), row.pop("event"), row.pop("at")
        row = {name: value for name, value in row.items() if name in _FACTS}  # a later version may say more
        known = kind in _KINDS and all(_FACTS[name](value) for name, value in row.items())
        if (
            not known
            or not ids.is_ulid(ulid)
            or line[7:33] != ulid
            or not all(name in row for name in _NEEDED.get(kind, ()))
        ):
            return None
        return Event(ulid, ids.parse_full(run, "r"), kind, _when(at), row)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OpsError):
        return None


def parse_note(text: str) -> dict[str, list[Event]]:
    """The events of a note by run, each in order: the order of the lines as text, whatever order they stand in."""
    found: dict[str, list[Event]] = {}
    for line in sorted(set(text.split("\n"))):
        event = parse_event(line)
        if event:
            found.setdefault(event.run, []).append(event)
    return found


def fold(events: Iterable[Event], commit: str) -> Run | None:
    """The run that the events of one run tell, in order; None where its beginning is missing.

    The first terminal event stands. Where clones that did not know of each other ended a run twice, a cancellation
    stands, so that a cancelled run is never done.
    """
    run: Run | None = None
    log: list[RunEntry] = []
    for event in events:
        if event.kind == "created":
            run = run or _created(event, commit)
        elif run:
            run = _after(run, event)
        log.append(RunEntry(event.at, event.kind, str(event.facts.get("message", ""))))
    return replace(run, log=tuple(log)) if run else None


def _created(event: Event, commit: str) -> Run:
    facts = event.facts
    return Run(
        ulid=event.run,
        item=ids.parse_full(facts["item"], "a"),
        commit=commit,
        digest=facts["digest"],
        executor=facts["executor"],
        runner=facts.get("runner"),
        status=PENDING,
        attempt=facts.get("attempt", 1),
        retry_of=facts.get("retry_of"),
        by=facts.get("by", ""),
        clone=facts.get("clone"),
        created_at=event.at,
        base=facts.get("base"),
        key=facts.get("key"),
        request=facts.get("request"),
        last=event.ulid,
    )


_CARRIED = ("exit_code", "result_ref", "result", "output_bytes", "cut_bytes", "outside", "usage")
_OF_OUTPUT = ("output", "output_bytes", "cut_bytes")
_ALWAYS = ("holder", "until", "clone", "base", "draft", "request_id", "argv", "sandbox")


def _after(run: Run, event: Event) -> Run:
    run = replace(run, last=max(run.last, event.ulid))
    facts = event.facts
    if run.status in TERMINAL:
        if event.kind != CANCELLED or run.status == CANCELLED:
            return run
        return replace(run, status=CANCELLED, message=facts.get("message", ""))
    kept = {name: facts[name] for name in _ALWAYS if name in facts}
    if "output" in facts:  # a worker may hand it in before the end
        kept |= {name: facts.get(name) for name in _OF_OUTPUT}
    if event.kind in TERMINAL:
        kept |= {name: facts[name] for name in _CARRIED if name in facts}
        before = "" if event.kind == CANCELLED else run.message
        return replace(run, status=event.kind, finished_at=event.at, message=facts.get("message") or before, **kept)
    if event.kind in (CLAIMED, RUNNING):
        kept["status"] = RUNNING if run.status == RUNNING else event.kind
        kept["started_at"] = run.started_at or event.at
    return replace(run, message=facts.get("message", run.message), **kept)


def _when(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time without a zone")
    return when.astimezone(UTC)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands twice")
    return row


def _matching(form: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and form.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LIMIT


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_COUNTED


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST and all(_is_text(one) for one in value)


def _is_usage(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= 20 and all(_is_count(one) for one in value.values())


def _is_id(kind: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value[:2] == f"{kind}_" and ids.is_ulid(value[2:])


_FACTS: dict[str, Callable[[Any], bool]] = {
    "item": _is_id("a"),
    "draft": _is_id("d"),
    "retry_of": _is_id("r"),
    "digest": _matching(_DIGEST),
    "executor": lambda value: value in EXECUTORS,
    "runner": _is_text,
    "by": _is_text,
    "holder": _is_text,
    "clone": _is_text,
    "message": _is_text,
    "until": _is_text,
    "key": _matching(_KEY),
    "request": _matching(_DIGEST),
    "request_id": _is_text,
    "base": _matching(_OID),
    "result": _matching(_OID),
    "output": _matching(_OID),
    "result_ref": _matching(_REF),
    "sandbox": _is_text,
    "argv": _is_list,
    "outside": _is_list,
    "usage": _is_usage,
    "attempt": _is_count,
    "exit_code": lambda value: type(value) is int and -256 <= value <= 256,
    "output_bytes": _is_count,
    "cut_bytes": _is_count,
}
_CUTTABLE = (_is_text, _is_list)
_KINDS = frozenset({"created", "message", CLAIMED, RUNNING, *TERMINAL})
_NEEDED = {"created": ("item", "digest", "executor")}
