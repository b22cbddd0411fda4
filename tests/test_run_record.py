"""The fold of event lines, as a property: whatever order they come in, and whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from opsctl import ids
from opsctl.models import Run
from opsctl.runrecord import (
    ACTIVE,
    CANCELLED,
    LINE_LIMIT,
    TERMINAL,
    Event,
    fold,
    format_event,
    parse_event,
    parse_note,
)

RUN, ITEM, COMMIT = "01JDAZ3N8Q4V5W6X7Y8Z9ABCDE", "01JDAZ3N8Q4V5W6X7Y8Z9ABCDF", "c" * 40
START = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = {"item": f"a_{ITEM}", "digest": "sha256:" + "a" * 64, "executor": "claim"}
KINDS = ("message", "claimed", "running", *sorted(TERMINAL))

steps = st.lists(st.tuples(st.sampled_from(KINDS), st.text(max_size=5)), max_size=12)


def told(number: int, kind: str, **facts: object) -> str:
    """The line of the event of that number."""
    ulid = RUN[:20] + ids.ALPHABET[number // 32] + ids.ALPHABET[number % 32] + "AAAA"
    return format_event(Event(ulid, RUN, kind, START + timedelta(seconds=number), facts))


def lines_of(rows: Sequence[tuple[str, str]], *, first: int = 1, step: int = 1) -> list[str]:
    """Lines that one clone writes after the run was made."""
    return [told(first + at * step, kind, message=message) for at, (kind, message) in enumerate(rows)]


def folded(lines: Sequence[str]) -> Run:
    """The run that a note of these lines tells of."""
    run = fold(parse_note("\n".join(lines))[RUN], COMMIT)
    assert run is not None
    return run


@given(rows=steps, chance=st.randoms(use_true_random=False))
def test_the_order_and_the_number_of_lines_do_not_matter(rows: list[tuple[str, str]], chance: object) -> None:
    lines = [told(0, "created", **CREATED), *lines_of(rows)]
    mixed = [*lines, *lines[: len(lines) // 2], "no event", '{"id":"x"}']
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert folded(mixed) == folded(lines) == folded(sorted(set(lines)))


@given(ours=steps, theirs=steps)
def test_two_clones_that_unite_agree_and_a_cancelled_run_is_never_done(
    ours: list[tuple[str, str]], theirs: list[tuple[str, str]]
) -> None:
    made = told(0, "created", **CREATED)
    one, two = lines_of(ours, first=1, step=2), lines_of(theirs, first=2, step=2)
    united = folded([made, *one, *two])
    assert united == folded([made, *two, *one])
    kinds = [kind for kind, _ in (*ours, *theirs)]
    if CANCELLED in kinds:
        assert united.status == CANCELLED
    elif TERMINAL.isdisjoint(kinds):
        assert united.status in ACTIVE
    else:
        assert united.status in TERMINAL
    assert len(united.log) == len({made, *one, *two})


@given(rows=steps, later=steps)
def test_what_has_ended_stays_so_whatever_comes_later_but_a_cancellation(
    rows: list[tuple[str, str]], later: list[tuple[str, str]]
) -> None:
    lines = [told(0, "created", **CREATED), *lines_of(rows)]
    before = folded(lines)
    after = folded([*lines, *lines_of(later, first=len(lines))])
    if before.status in TERMINAL:
        cancelled = CANCELLED in [kind for kind, _ in later]
        assert after.status == (CANCELLED if cancelled else before.status)
        assert (after.finished_at, after.exit_code) == (before.finished_at, before.exit_code)
        why = [message for kind, message in later if kind == CANCELLED]
        assert after.message == (why[0] if why and before.status != CANCELLED else before.message)


texts = st.text(max_size=4000) | st.text(alphabet="\U0001f600\udcff\0\x1b", max_size=3000)


@given(message=texts, holder=texts, argv=st.lists(texts, max_size=30), outside=st.lists(texts, max_size=30))
def test_every_line_that_is_written_is_read_again(
    message: str, holder: str, argv: list[str], outside: list[str]
) -> None:
    facts = {"message": message, "holder": holder, "argv": argv, "outside": outside, "exit_code": 1}
    line = format_event(Event(RUN, RUN, "error", START, facts))
    assert len(line) <= LINE_LIMIT
    assert line.isascii()
    event = parse_event(line)
    assert event is not None
    assert event.facts["exit_code"] == 1
    assert format_event(event) == line


@given(
    argv=st.lists(st.text(max_size=3), min_size=150, max_size=450) | st.lists(st.just(""), min_size=300, max_size=3000)
)
def test_however_many_arguments_a_program_has_its_line_is_read_again(argv: list[str]) -> None:
    line = format_event(Event(RUN, RUN, "running", START, {"argv": argv}))
    event = parse_event(line)
    assert event is not None
    assert event.facts["argv"] == argv if len(argv) <= 200 else event.facts["argv"][-1] == "…"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(row=st.dictionaries(st.sampled_from(["run", "event", "at", *CREATED, "usage", "exit_code"]), json_values))
def test_lines_of_any_other_form_are_no_events(row: dict[str, object]) -> None:
    line = json.dumps({"id": RUN, **row}, separators=(",", ":"))
    event = parse_event(line)
    assert event is None or parse_event(format_event(event)) == event


@given(text=st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_any_text_at_all_is_a_note(text: str) -> None:
    assert parse_note(text) == {}
    assert fold([], COMMIT) is None
