"""Ids and paths: every spelling that is one, and every spelling that only looks like one."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opsctl import ids
from opsctl.errors import OpsError

LAST = int(datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC).timestamp() * 1000)
ITEM = "01JHK3VB8RXXA8H5SQZ3MDNFC2"


def encode(milliseconds: int, rest: int) -> str:
    """A ULID, spelled without the code under test."""
    value = milliseconds << 80 | rest
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[value >> 5 * place & 31] for place in reversed(range(26)))


ulids = st.builds(encode, st.integers(0, LAST), st.integers(0, 2**80 - 1))
cased = st.lists(st.booleans(), min_size=28, max_size=28)
kinds = st.sampled_from(["", "d_", "a_", "r_", "D_", "A_", "R_"])


def in_case(text: str, upper: list[bool]) -> str:
    return "".join(one.upper() if up else one.lower() for one, up in zip(text, upper, strict=False))


@given(ulids, kinds, cased)
def test_an_id_in_any_case_reads_as_its_one_canonical_form(ulid: str, kind: str, upper: list[bool]) -> None:
    given_id = ids.parse(in_case(kind + ulid, upper))
    assert given_id.part == ulid
    assert given_id.kind == (kind[:1].lower() or None)
    assert given_id.is_full
    assert str(given_id) == kind.lower() + ulid


@given(ulids, st.sampled_from("dar"))
def test_files_and_interfaces_carry_the_canonical_form_only(ulid: str, kind: str) -> None:
    assert ids.parse_full(f"{kind}_{ulid}", kind) == ulid
    lower = f"{kind}_{ulid.lower()}"
    for other in (ulid, f"{kind.upper()}_{ulid}", f"{kind}_{ulid[:-1]}", f"{kind}_{ulid} ", f"{kind}_{ulid}\n"):
        with pytest.raises(OpsError, match="not an id"):
            ids.parse_full(other, kind)
    if lower != f"{kind}_{ulid}":
        with pytest.raises(OpsError, match="not an id"):
            ids.parse_full(lower, kind)
    with pytest.raises(OpsError, match="not an id"):
        ids.parse_full(f"{kind}_{ulid}", {"d": "a", "a": "r", "r": "d"}[kind])


@given(ulids)
@example(encode(0, 0))
@example(encode(LAST, 2**80 - 1))
def test_a_path_follows_from_an_id_and_the_id_from_the_path(ulid: str) -> None:
    for top, other in (("ops", "closed"), ("closed", "ops")):
        path = ids.path_of(ulid, top=top)
        when = ids.created_at(ulid)
        assert path == f"{top}/{when:%Y}".replace(f"{when:%Y}", f"{when.year:04}") + f"/{when:%m}/{when:%d}/{ulid}.md"
        assert ids.ulid_of_path(path, top=top) == ulid
        assert ids.ulid_of_path(path, top=other) is None


@given(st.integers(0, LAST), st.integers(0, 2**80 - 1))
def test_the_time_of_an_id_is_the_time_that_was_put_in(milliseconds: int, rest: int) -> None:
    ulid = encode(milliseconds, rest)
    assert ids.milliseconds(ulid) == milliseconds
    assert ids.is_ulid(ulid)
    assert ids.created_at(ulid).tzinfo is UTC


@pytest.mark.parametrize(
    "path",
    [
        f"ops/2025/01/15/{ITEM}.md",
        f"ops/2025/1/14/{ITEM}.md",
        f"ops/2025/01/14/{ITEM.lower()}.md",
        f"ops/2025/01/14/{ITEM}.MD",
        f"ops/2025/01/14/{ITEM}",
        f"ops/2025/01/14/{ITEM}.md\n",
        f"ops/2025/01/14/{ITEM}.md/x",
        f"/ops/2025/01/14/{ITEM}.md",
        f"OPS/2025/01/14/{ITEM}.md",
        f"x/ops/2025/01/14/{ITEM}.md",
        f"ops//2025/01/14/{ITEM}.md",
        f"ops/２０２５/01/14/{ITEM}.md",
        f"ops/2025/01/14/d_{ITEM}.md",
        "ops/2025/01/14/.md",
        "ops/README.md",
        "",
    ],
)
def test_gt_05_any_other_path_belongs_to_no_id(path: str) -> None:
    assert ids.ulid_of_path(path) is None


def test_gt_05_the_right_path_of_the_sample_is_found() -> None:
    assert ids.ulid_of_path(f"ops/2025/01/14/{ITEM}.md") == ITEM


@given(st.text(max_size=60))
def test_gt_05_no_text_is_taken_for_a_path_unless_it_is_exactly_one(path: str) -> None:
    ulid = ids.ulid_of_path(path)
    assert ulid is None or ids.path_of(ulid) == path


@pytest.mark.parametrize(
    "text",
    [
        "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "80000000000000000000000000",
        "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "7ZZZZZZZZZZZZZZZZZZZZZZZZZ",  # in range for a ULID, after the year 9999
        ITEM + "A",
        "d_" + ITEM + "A",
        "１" * 26,
        ITEM.replace("0", "０"),
        ITEM[:-1] + "U",
        ITEM[:-1] + "I",
        ITEM[:-1] + "L",
        ITEM[:-1] + "O",
        ITEM[:-1] + "u",
        "U",
        "O",
        ITEM.replace("K", "\u212a"),  # the Kelvin sign, which folds to k
        "\u017f",  # the long s, which folds to s
        "-" + ITEM,
        "--output=x",
        "-rf",
        "d-" + ITEM,
        "d_",
        "_" + ITEM,
        "x_" + ITEM,
        "dd_" + ITEM,
        "d_d_" + ITEM,
        "",
        " ",
        ITEM + " ",
        " " + ITEM,
        ITEM + "\n",
        ITEM + "\0",
        "../../etc/passwd",
        "..%2f",
        "%2e%2e/",
        "..\\",
        "refs/heads/main",
        "@{-1}",
        "a" * 100_000,
        "\ud800",
    ],
)
def test_id_04_what_is_no_id_is_refused_in_one_readable_line(text: str) -> None:
    with pytest.raises(OpsError) as caught:
        ids.parse(text)
    assert caught.value.code == "bad_id"
    assert caught.value.exit_code == 2
    assert caught.value.message.isascii()
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 800
    assert "opsctl list" in (caught.value.hint or "")


@given(st.one_of(st.text(max_size=30), st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefUILO_-d", max_size=30)))
def test_id_04_any_text_is_either_refused_or_comes_back_the_same(text: str) -> None:
    try:
        found = ids.parse(text)
    except OpsError:
        return
    assert str(found).lower() == text.lower()
    assert ids.parse(str(found)) == found
    assert set(found.part) <= set(ids.ALPHABET)


@pytest.mark.parametrize("size", [1, 4, 25])
def test_a_part_of_an_id_is_one_too(size: int) -> None:
    for part in (ITEM[:size], ITEM[-size:]):
        found = ids.parse(part.lower())
        assert (found.part, found.is_full) == (part, False)
        assert ids.matches(found, [ITEM, encode(0, 1)]) in ([ITEM], [ITEM, encode(0, 1)])


@given(st.lists(ulids, min_size=1, max_size=20, unique=True), st.data())
def test_matches_are_the_ids_that_begin_or_end_so_and_a_whole_id_is_itself(
    everyone: list[str], data: st.DataObject
) -> None:
    ulid = data.draw(st.sampled_from(everyone))
    size = data.draw(st.integers(1, 25))
    assert ids.matches(ids.parse(ulid), everyone) == [ulid]
    for part in (ulid[:size], ulid[-size:]):
        found = ids.matches(ids.parse(part), everyone)
        assert found == [one for one in everyone if one.startswith(part) or one.endswith(part)]
        assert ulid in found


@given(st.integers(0, LAST), st.lists(st.integers(0, 2**80 - 1), max_size=30, unique=True), st.integers(1, 8))
def test_the_shortest_suffix_of_each_id_fits_that_id_alone(milliseconds: int, rest: list[int], least: int) -> None:
    head = encode(milliseconds, 0)[:10]
    everyone = [ulid for one in rest if head not in (ulid := encode(milliseconds, one))[10:]]
    found = ids.shortest_suffixes(everyone, everyone, least=least)
    assert sorted(found) == sorted(everyone)
    for ulid, suffix in found.items():
        assert ulid.endswith(suffix)
        assert len(suffix) >= least
        assert sum(one.endswith(suffix) for one in everyone) == 1
        if len(suffix) > least:
            assert len(ids.matches(ids.GivenId(None, suffix[1:]), everyone)) > 1, "a shorter one would do"


def test_ids_that_differ_in_the_first_letter_only_get_their_whole_ulid() -> None:
    tail = "0" * 25
    assert ids.shortest_suffixes(["0" + tail, "1" + tail], ["0" + tail, "1" + tail]) == {
        "0" + tail: "0" + tail,
        "1" + tail: "1" + tail,
    }


def test_a_suffix_is_not_the_shortest_while_another_id_begins_with_it() -> None:
    one, other = "0" * 22 + "01JH", "01JH" + "0" * 22
    assert ids.shortest_suffixes([one], [one, other]) == {one: "001JH"}


def test_a_longer_suffix_too_is_not_one_that_another_id_begins_with() -> None:
    wanted, same_end, same_head = "0" * 21 + "51JHK", "0" * 21 + "21JHK", "51JHK" + "0" * 21
    everyone = [wanted, same_end, same_head]
    suffix = ids.shortest_suffixes([wanted], everyone)[wanted]
    assert ids.matches(ids.GivenId(None, suffix), everyone) == [wanted]


@given(st.integers(0, LAST), st.lists(st.integers(0, 2**80 - 1), min_size=2, max_size=10, unique=True))
def test_ids_of_one_moment_differ_in_their_suffix(milliseconds: int, rest: list[int]) -> None:
    everyone = sorted(encode(milliseconds, one) for one in rest)
    suffixes = ids.shortest_suffixes(everyone, everyone)
    assert len(set(suffixes.values())) == len(everyone)
    assert all(one < other for one, other in pairwise(everyone))
