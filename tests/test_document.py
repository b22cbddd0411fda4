"""The draft's file: what goes in comes out to the byte, and everything that is not one is named and refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from opsctl import document as documents
from opsctl.errors import OpsError
from opsctl.models import Document, RunSettings, Target

_T = TypeVar("_T")
ITEM = "01JHK3VB8RXXA8H5SQZ3MDNFC2"
HEAD = f'id = "d_{ITEM}"\ntitle = "A title"\n'


def file(head: str = HEAD, prompt: str = "Do the work.\n") -> bytes:
    return f"+++\n{head}+++\n{prompt}".encode()


def refusal(data: bytes) -> OpsError:
    with pytest.raises(OpsError) as caught:
        documents.parse(data)
    assert "\n" not in caught.value.message, caught.value.message
    return caught.value


def attempt(read: Callable[[], _T], *codes: str) -> _T | None:
    """The outcome, or None where it was refused with one of the codes; any other exception is a failure."""
    try:
        return read()
    except OpsError as error:
        found = error.code
    assert found in (codes or ("bad_document",))
    return None


# -- round trip ---------------------------------------------------------------------------------------------------

_ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_SHOWN = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
texts = st.text(_ANY, max_size=80)
lines = st.text(_SHOWN, min_size=1, max_size=200).filter(str.strip)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+@:/-]{0,63}", fullmatch=True)
globs = st.lists(st.text("abc*?-{}[]ñ日", min_size=1, max_size=8), min_size=1, max_size=4).map("/".join)
counts = st.integers(1, 1_000_000)
targets = st.builds(
    Target,
    base=st.none() | st.from_regex(r"[0-9a-f]{40}", fullmatch=True),
    branch=st.none() | st.sampled_from(["main", "feature/x", "ñ", "a.b", 'with"quote']),
    paths=st.lists(globs, max_size=4).map(tuple),
)
runs = st.builds(
    RunSettings,
    executor=st.none() | st.sampled_from(["claim", "provider", "exec"]),
    runner=st.none() | names,
    max_runs=st.none() | counts,
    not_after=st.none() | st.datetimes().map(lambda when: f"{when:%Y}".rjust(4, "0") + f"{when:-%m-%dT%H:%M:%SZ}"),
    timeout_s=st.none() | counts,
    network=st.none() | st.booleans(),
)
made = st.builds(
    Document,
    ulid=st.just(ITEM),
    title=lines,
    prompt=texts.filter(str.strip),
    labels=st.lists(names, max_size=5).map(tuple),
    provider=st.none() | lines,
    model=st.none() | lines,
    request=st.none() | texts.filter(bool),
    context=st.dictionaries(names, texts, max_size=5),
    target=targets,
    run=runs,
)


@given(made)
def test_tx_21_what_is_written_is_read_back_exactly(document: Document) -> None:
    data = documents.build(document)
    assert documents.parse(data) == document
    assert documents.build(documents.parse(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "mixed\r\nline\nends\rand a tab\t",
        "no newline at the end",
        "\n\n  leading blank lines",
        "+++\nid = 'another header'\n+++\n",
        "```\n+++\n```\n",
        'quotes " \' \\ """ \'\'\' \\" \\u0041',
        "DEL \x7f, ESC \x1b[31m, BEL \a, C1 \x9b, NEL \x85",
        "Español, 日本語, العربية, 👩‍👩‍👧‍👦 🇪🇸 e\u0301",
        "\ufeffa byte order mark that belongs to the text",
        "\u202eright to left\u2069 \u200b \U000e0041",
        "trailing spaces   \n   \n",
        "\U0010ffff \ufffe \ue000",
    ],
)
def test_tx_13_the_prompt_is_kept_to_the_byte(text: str) -> None:
    document = Document(ITEM, "A title", text, request=text, context={"key": text})
    data = documents.build(document)
    assert data.endswith(b"+++\n" + text.encode())
    assert documents.parse(data) == document
    assert documents.digest_of(data) == documents.digest_of(documents.build(documents.parse(data)))


def test_tx_13_line_ends_make_another_digest() -> None:
    one, other = (documents.build(Document(ITEM, "A title", text)) for text in ("a\nb\n", "a\r\nb\r\n"))
    assert documents.digest_of(one) != documents.digest_of(other)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", documents.digest_of(one))
    assert documents.digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.binary(max_size=400))
def test_any_bytes_are_a_document_or_a_readable_refusal(data: bytes) -> None:
    for candidate in (data, b"+++\n" + data, b"+++\n" + data + b"\n+++\nx", file()[:-20] + data):
        attempt(partial(documents.parse, candidate), "bad_document", "too_large")


@given(made, st.data())
def test_a_document_with_one_byte_changed_is_a_document_or_a_readable_refusal(
    document: Document, data: st.DataObject
) -> None:
    whole = bytearray(documents.build(document))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    found = attempt(partial(documents.parse, bytes(whole)))
    if found is not None and found.request != "":
        assert documents.parse(documents.build(found)) == found


@given(st.text(max_size=60))
def test_any_value_of_a_field_is_kept_or_refused(value: str) -> None:
    for document in (
        Document(ITEM, value, "x"),
        Document(ITEM, "t", value),
        Document(ITEM, "t", "x", labels=(value,)),
        Document(ITEM, "t", "x", context={value: value}),
        Document(ITEM, "t", "x", target=Target(paths=(value,))),
        Document(ITEM, "t", "x", target=Target(branch=value)),
        Document(ITEM, "t", "x", run=RunSettings(runner=value)),
        Document(ITEM, "t", "x", run=RunSettings(not_after=value)),
        Document(ITEM, "t", "x", provider=value or None),
    ):
        data = attempt(partial(documents.build, document))
        assert data is None or documents.parse(data) == document


# -- the rules of the format --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "byte 0: the file must begin"),
        (b"Do the work.\n", "byte 0: the file must begin"),
        (b"---\nid: d\n---\n", "byte 0: the file must begin"),
        (b"\n" + file(), "byte 0: the file must begin"),
        (b" +++\n", "byte 0: the file must begin"),
        (b"++++\nx\n+++\n", "byte 0: the file must begin"),
        (b"+++", "byte 0: the file must begin"),
        (file().replace(b"\n", b"\r\n"), "byte 0: the file must begin"),
        (b"\xef\xbb\xbf" + file(), "byte 0: the file must begin"),
        (b"+++\n", "line 1: the front matter is not closed"),
        (b"+++\n" + HEAD.encode(), "line 1: the front matter is not closed"),
        (b"+++\n" + HEAD.encode() + b"+++", "line 1: the front matter is not closed"),
        (b"+++\n" + HEAD.encode() + b" +++\nx\n", "line 1: the front matter is not closed"),
        (file(prompt=""), "the prompt is empty"),
        (file(prompt=" \n\t\r\n"), "the prompt is empty"),
        (file(HEAD + "colour = 1\n"), "unknown key 'colour'"),
        (file(HEAD + "status = 'approved'\n"), "unknown key 'status'"),
        (file(HEAD + '"a\\nb" = 1\n'), "unknown key"),
        (file(HEAD + "[target]\nref = 'x'\n"), "unknown key target.'ref'"),
        (file(HEAD + "[run]\ncommand = 'sh'\n"), "unknown key run.'command'"),
        (file(HEAD + "x = \n"), "(line 4, column 5)"),
        (file(HEAD + f'id = "d_{ITEM}"\n'), "front matter:"),
        (file(HEAD + "[run]\n[run]\n"), "front matter:"),
        (file(HEAD.replace('"A title"', '"A\ntitle"')), "front matter:"),
    ],
)
def test_tx_19_a_file_that_breaks_the_format_is_refused_with_the_line_or_byte(data: bytes, said: str) -> None:
    error = refusal(data)
    assert said in error.message
    assert (error.code, error.exit_code) == ("bad_document", 2)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"\0", "NUL"),
        (b"\xff", "not UTF-8"),
        (b"\x80", "not UTF-8"),
        (b"\xc3", "not UTF-8"),
        (b"\xc0\xaf", "not UTF-8"),
        (b"\xe0\x80\xaf", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"\xf4\x90\x80\x80", "not UTF-8"),
        ("año".encode("latin-1"), "not UTF-8"),
    ],
)
@pytest.mark.parametrize("place", ["prompt", "front matter"])
def test_tx_12_bytes_that_are_no_text_are_named_by_offset(bad: bytes, said: str, place: str) -> None:
    data = file() + b"caf\xc3\xa9 " + bad if place == "prompt" else file().replace(b"A title", b"A " + bad)
    error = refusal(data)
    at = next(index for index in range(len(data)) if _breaks(data, index))
    assert error.message.startswith(f"byte {at}: ")
    assert said in error.message


def _breaks(data: bytes, index: int) -> bool:
    """True for the first byte that is NUL or where decoding fails, asked of the standard library only."""
    if data[index : index + 1] == b"\0":
        return True
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return index == error.start
    return False


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_tx_12_utf_16_and_32_are_refused(codec: str) -> None:
    assert refusal(file().decode().encode(codec)).message.startswith("byte ")


@pytest.mark.parametrize(
    "value",
    [
        "0123",
        "123",
        "1e3",
        "1.5",
        "true",
        "on",
        "yes",
        "2025-01-15",
        "2025-01-15T10:00:00Z",
        "10:00:00",
        "[]",
        "{}",
        "['a']",
        "inf",
        "nan",
        "null",
        "~",
        "d_x",
    ],
)
@pytest.mark.parametrize("key", ["id", "title", "provider", "model", "request", "context.key", "run.runner"])
def test_tx_21_only_strings_are_strings(key: str, value: str) -> None:
    head = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith(f"{key} "))
    error = refusal(file(f"{head}{key} = {value}\n"))
    assert error.code == "bad_document"
    assert key in error.message or "front matter: " in error.message


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("labels = 'x'\n", "labels must be a list"),
        ("labels = [1]\n", "labels must be a string"),
        ("labels = ['']\n", "labels: ''"),
        ("labels = ['a b']\n", "labels: 'a b'"),
        ("labels = ['-x']\n", "labels: '-x'"),
        ("labels = ['ñ']\n", "labels: '\\xf1'"),
        (f"labels = ['{'a' * 65}']\n", "labels:"),
        ("labels = [" + "'a', " * 65 + "]\n", "at most 64"),
        ("context = 1\n", "context must be a table"),
        ("context = ['a']\n", "context must be a table"),
        ("[[context]]\na = '1'\n", "context must be a table"),
        ("[context]\na = 1\n", "context.a must be a string"),
        ("[context]\na.b = 'x'\n", "context.a must be a string"),
        ("[context]\n'a b' = 'x'\n", "context: 'a b'"),
        ("target = 'src'\n", "target must be a table"),
        ("[target]\nbase = 'main'\n", "40 hex digits"),
        (f"[target]\nbase = '{'A' * 40}'\n", "40 hex digits"),
        (f"[target]\nbase = '{'a' * 41}'\n", "40 hex digits"),
        ("[target]\nbranch = '-x'\n", "not the name of a branch"),
        ("[target]\nbranch = 'a..b'\n", "not the name of a branch"),
        ("[target]\nbranch = 'a b'\n", "not the name of a branch"),
        ("[target]\nbranch = 'a.lock'\n", "not the name of a branch"),
        ("[target]\nbranch = 'a@{1}'\n", "not the name of a branch"),
        ("[target]\nbranch = '/a'\n", "not the name of a branch"),
        ("[target]\nbranch = 'a/'\n", "not the name of a branch"),
        ("[target]\nbranch = ''\n", "not the name of a branch"),
        ("[target]\npaths = 'src'\n", "paths must be a list"),
        ("[target]\npaths = ['/etc']\n", "relative path"),
        ("[target]\npaths = ['../x']\n", "relative path"),
        ("[target]\npaths = ['a/../b']\n", "relative path"),
        ("[target]\npaths = ['a//b']\n", "relative path"),
        ("[target]\npaths = ['./a']\n", "relative path"),
        ("[target]\npaths = ['a\\b']\n", "relative path"),
        ("[target]\npaths = ['']\n", "one line"),
        ('[target]\npaths = ["a\\nb"]\n', "one line"),
        ("[run]\nexecutor = 'root'\n", "one of claim, provider, exec"),
        ("[run]\nexecutor = ['exec']\n", "one of claim, provider, exec"),
        ("[run]\nmax_runs = 0\n", "whole number"),
        ("[run]\nmax_runs = -1\n", "whole number"),
        ("[run]\nmax_runs = 1000001\n", "whole number"),
        ("[run]\nmax_runs = true\n", "whole number"),
        ("[run]\nmax_runs = 1.0\n", "whole number"),
        ("[run]\nmax_runs = '1'\n", "whole number"),
        ("[run]\ntimeout_s = 1e3\n", "whole number"),
        ("[run]\ntimeout_s = nan\n", "whole number"),
        ("[run]\nnetwork = 'yes'\n", "true or false"),
        ("[run]\nnetwork = 1\n", "true or false"),
        ("[run]\nnot_after = 2030-01-31T12:00:00Z\n", "must be a string"),
        ("[run]\nnot_after = '2030-01-31'\n", "UTC time"),
        ("[run]\nnot_after = '2030-02-31T12:00:00Z'\n", "UTC time"),
        ("[run]\nnot_after = '2030-01-31T12:00:00+02:00'\n", "UTC time"),
        ("[run]\nnot_after = '２０３０-01-31T12:00:00Z'\n", "UTC time"),
        ("[run]\nrunner = 'a b'\n", "run.runner"),
    ],
)
def test_tx_21_a_value_of_another_type_or_form_is_refused_by_name(head: str, said: str) -> None:
    assert said in refusal(file(HEAD + head)).message


@pytest.mark.parametrize(
    "title",
    [
        '""',
        '"  "',
        '"a\\nb"',
        '"a\\rb"',
        '"a\\u0000b"',
        '"a\\u001bb"',
        '"a\\u0085b"',
        '"a\\u2028b"',
        "'" + "a" * 201 + "'",
    ],
)
def test_id_08_a_title_is_one_line_of_200_characters_at_most(title: str) -> None:
    assert "one line of 1 to 200" in refusal(file(f'id = "d_{ITEM}"\ntitle = {title}\n')).message


@pytest.mark.parametrize(
    "value",
    [
        ITEM,
        "a_" + ITEM,
        "d_" + ITEM.lower(),
        "D_" + ITEM,
        "d_" + ITEM[:-1],
        "d_" + ITEM + "0",
        "d_8" + "Z" * 25,
        "d_",
        "",
        "d_../../etc/passwd",
        "d_" + ITEM[:-1] + "U",
        "d_" + "１" * 26,
    ],
)
def test_id_04_the_id_of_a_file_is_the_canonical_one(value: str) -> None:
    assert "26 upper-case letters" in refusal(file(f'id = "{value}"\ntitle = "t"\n')).message


@pytest.mark.parametrize("missing", ["id", "title"])
def test_id_and_title_are_needed(missing: str) -> None:
    head = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith(missing))
    assert missing in refusal(file(head)).message


# -- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        f"request = {'[' * 3000}{']' * 3000}\n",
        f"context = {'{a=' * 3000}1{'}' * 3000}\n",
        f"[{'.'.join(['a'] * 3000)}]\n",
        f"run.max_runs = {'1' * 5000}\n",
        f"run.max_runs = {'1_' * 5000}1\n",
        f"run.max_runs = 0x{'f' * 5000}\n",
        f"run.timeout_s = 1e{'9' * 5000}\n",
        "labels = [" + "'a', " * 40_000 + "]\n",
        "".join(f"[c{number}]\n" for number in range(20_000)),
        "!!python/object/apply:os.system ['touch /tmp/marker']\n",
        "a: &a [*a, *a]\n",
    ],
    ids=["arrays", "tables", "dots", "digits", "underscores", "hex", "exponent", "list", "headings", "tag", "alias"],
)
def test_tx_22_deep_long_and_clever_front_matter_is_refused_at_once(head: str) -> None:
    start = time.monotonic()
    assert refusal(file(HEAD + head)).code == "bad_document"
    assert time.monotonic() - start < 5


@pytest.mark.timeout(60)
def test_tx_14_a_key_of_many_dots_takes_no_longer_than_other_text() -> None:
    start = time.monotonic()
    assert refusal(file(f"{HEAD}{'.'.join(['a'] * 12_000)} = 1\n")).code == "bad_document"
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("size", [documents.LIMIT, documents.LIMIT + 1])
@pytest.mark.parametrize("letter", ["a", "é", "\n"])
def test_tx_26_a_file_has_at_most_256_kib(size: int, letter: str) -> None:
    prompt = "x" + letter * ((size - len(file(prompt="")) - 1) // len(letter.encode()))
    data = file(prompt=prompt)
    data += b"x" * (size - len(data))
    assert len(data) == size
    if size == documents.LIMIT:
        assert documents.parse(data).ulid == ITEM
    else:
        error = refusal(data)
        assert error.code == "too_large"
        assert "262,145" in error.message


def test_tx_26_the_limit_is_of_the_file_and_not_of_the_prompt() -> None:
    with pytest.raises(OpsError) as caught:
        documents.build(Document(ITEM, "t", "x" * documents.LIMIT))
    assert caught.value.code == "too_large"


# -- details ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("Add retry\nto the uploader", "Add retry"),
        ("\n\n  \n# Heading\ntext", "Heading"),
        ("> * - quoted", "quoted"),
        ("a\tb\x1b[31mc", "a b [31mc"),
        ("x" * 72, "x" * 72),
        ("x" * 73, "x" * 71 + "…"),
        ("***\nreal", "real"),
    ],
)
def test_a_title_comes_from_the_first_line_that_says_something(prompt: str, title: str) -> None:
    assert documents.title_from(prompt) == title


@given(texts)
def test_the_title_of_any_prompt_is_a_title_or_a_refusal(prompt: str) -> None:
    assume(prompt.strip())
    title = attempt(partial(documents.title_from, prompt))
    assert title is None or documents.parse(documents.build(Document(ITEM, title, prompt))).title == title


def test_absent_and_empty_are_not_written() -> None:
    assert documents.build(Document(ITEM, "t", "x")) == f'+++\nid = "d_{ITEM}"\ntitle = "t"\n+++\nx'.encode()


@pytest.mark.parametrize(
    "change",
    [lambda: "\ud800", lambda: "a\udcffb", lambda: "x\0y"],
    ids=["surrogate", "escaped byte", "NUL"],
)
def test_tx_12_text_that_no_file_can_hold_is_refused(change: Callable[[], str]) -> None:
    with pytest.raises(OpsError) as caught:
        documents.build(Document(ITEM, "t", change()))
    assert caught.value.code == "bad_document"


def test_the_short_form_of_a_digest_is_twelve_hex_digits() -> None:
    digest = documents.digest_of(b"x")
    assert documents.short(digest) == digest[7:19]
