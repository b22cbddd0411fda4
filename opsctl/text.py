"""Text from outside: what of it does not show, and how to show it. Imports only errors of the package."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from opsctl.errors import OpsError

TAGS = range(0xE0000, 0xE0080)
"""Tag characters: a hidden copy of ASCII. They are never allowed, not even by name."""

# The patterns are compiled at first use: most commands show plain ASCII and need only the short one.
_ASCII = r"[\x00-\x08\x0b-\x1f\x7f]"
# The last two code points of planes 1 to 14; planes 15 and 16 are private use as a whole.
_NONCHARACTERS = "".join(f"\\U{plane:04x}fffe\\U{plane:04x}ffff" for plane in range(1, 15))
_CLASS = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
    + _NONCHARACTERS
    + "]"
)
_BASE = (
    r"[\xa9\xae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf\u23e9-\u23f3\u23f8-\u23fa"
    r"\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55"
    r"\u3030\u303d\u3297\u3299\U0001f004\U0001f0cf\U0001f170-\U0001f19a\U0001f201-\U0001f251"
    r"\U0001f300-\U0001f6ff\U0001f7e0-\U0001f7f0\U0001f900-\U0001f9ff\U0001fa70-\U0001faff]"
)
_PART = _BASE + r"[\ufe0f\U0001f3fb-\U0001f3ff]?"
# No emoji joins more than five parts, so a longer chain is a place to hide bits.
_SCAN = rf"[0-9#*]\ufe0f\u20e3|{_BASE}\ufe0e|{_PART}(?:\u200d{_PART}){{0,4}}|({_CLASS})"

# Scripts whose spelling needs ZWJ or ZWNJ, each as a class: both neighbours of the joiner have to be of the same one.
_BLOCKS = (*range(0x0980, 0x0E00, 0x80), 0x1780, 0x1800, 0x1B00, 0x1B80, 0xA840, 0xA980)
_JOINING = (
    r"\u0600-\u06ff\u0750-\u077f\u0870-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    r"\u0900-\u097f\ua8e0-\ua8ff",
    r"\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f",
    r"\u0700-\u074f\u0860-\u086f",
    *(f"\\u{low:04x}-\\u{low + 0x7F:04x}" for low in _BLOCKS),
)
_JOINED = "|".join(rf"[{script}][\u200c\u200d][{script}]" for script in _JOINING)
_CONTROLS = {0: "NULL", 7: "BELL", 8: "BACKSPACE", 0x0D: "CARRIAGE RETURN", 0x1B: "ESCAPE", 0x7F: "DELETE"}
_NAMELESS = {"Cc": "CONTROL", "Cs": "SURROGATE", "Co": "PRIVATE USE", "Cn": "UNASSIGNED"}

_ALLOWED = r"[Uu]\+([0-9A-Fa-f]{4,6})"
_FOREIGN = r"[\u0370-\u0373\u0376-\u037d\u037f-\u03ff\u0400-\u052f\u1c80-\u1c8a\u1f00-\u1fff\ua640-\ua69d]"
_LATIN = r"[A-Za-z\xaa\xba\xc0-\xd6\xd8-\xf6\xf8-\u02af\u1d00-\u1d25\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]"
_MARKS = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_WORD = rf"(?<=://)[^\s/?#<>\"'()]+|[\w{_MARKS}]+"
# A unit or a formula of up to three letters with a Greek letter that no Latin letter looks like: a k and an omega.
_FORMULA = r"\d*(?=[^\W\d_]{1,3}\d*$)[A-Za-z]*[ΓΔΘΛΞΠΣΦΨΩδθλμξπφψ]+[A-Za-z]*\d*"
_CUT = "\u200c\u200d\ufe0e\ufe0f"


@dataclass(frozen=True)
class Hidden:
    """A character that does not show: line and column count from 1, offset counts characters from 0."""

    codepoint: int
    name: str
    line: int
    column: int
    offset: int

    @property
    def label(self) -> str:
        """The code point as a person writes it: U+202E."""
        return label(self.codepoint)


@dataclass(frozen=True)
class MixedWord:
    """A word or URL host of Latin letters with letters of another alphabet that may pass for Latin ones."""

    word: str
    line: int
    codepoints: tuple[int, ...]


def label(codepoint: int) -> str:
    """The code point as a person writes it: U+202E."""
    return f"U+{codepoint:04X}"


def name(codepoint: int) -> str:
    """The Unicode name, or what sort of nameless code point it is."""
    char = chr(codepoint)
    sort = _NAMELESS.get(unicodedata.category(char), "UNNAMED")
    return _CONTROLS.get(codepoint, "") or unicodedata.name(char, sort)


def is_tag(codepoint: int) -> bool:
    """Whether this is a tag character."""
    return codepoint in TAGS


def _letter(char: str) -> bool:
    # An escaped neighbour must not excuse a joiner, or the shown text would itself hold a hidden character.
    return unicodedata.category(char)[0] in "LM" and not re.match(_CLASS, char)


def _fits(text: str, at: int) -> bool:
    if text[at] == "\r":
        return text[at + 1 : at + 2] == "\n"
    around = text[max(at - 1, 0) : at + 2]
    return re.fullmatch(_JOINED, around) is not None and all(map(_letter, around[::2]))


def _positions(text: str) -> list[int]:
    if not re.search(_ASCII if text.isascii() else _CLASS, text):
        return []
    return [at.start() for at in re.finditer(_SCAN, text) if at[1] and not _fits(text, at.start())]


def visible(text: str, *, keep_newlines: bool = True) -> str:
    """The text, safe for a terminal: each character that does not show is written as `<U+202E>`.

    CRLF comes out as a newline. Without `keep_newlines`, newline and tab are written out too.
    """
    parts, last = [], 0
    for at in _positions(text):
        parts += [text[last:at], f"<{label(ord(text[at]))}>"]
        last = at + 1
    shown = ("".join(parts) + text[last:]).replace("\r\n", "\n")
    return shown if keep_newlines else shown.replace("\n", "<U+000A>").replace("\t", "<U+0009>")


def hidden(text: str) -> list[Hidden]:
    """Every character that `visible` writes out in a text of many lines, in order."""
    found, line, start, last = [], 1, 0, 0
    for at in _positions(text):
        line += text.count("\n", last, at)
        start = max(start, text.rfind("\n", last, at) + 1)
        found.append(Hidden(ord(text[at]), name(ord(text[at])), line, at - start + 1, at))
        last = at
    return found


def decoded_tags(text: str) -> str:
    """The ASCII that the tag characters of the text spell."""
    return "".join(chr(ord(char) - TAGS.start) for char in text if 0xE0020 <= ord(char) <= 0xE007E)


def parse_allowed(names: Iterable[str]) -> frozenset[int]:
    """The code points of names such as `U+200D`. Tag characters and anything else are refused."""
    return frozenset(_parse(each) for each in names)


def _parse(written: str) -> int:
    match = re.fullmatch(_ALLOWED, written)
    codepoint = int(match[1], 16) if match else -1
    if not 0 <= codepoint <= 0x10FFFF:
        raise OpsError("bad_input", f"not a code point: {one_line(written, 40)}", hint="write it as U+200D")
    if is_tag(codepoint):
        raise OpsError("bad_input", f"{label(codepoint)} is a tag character; those are never allowed")
    return codepoint


def format_allowed(codepoints: Iterable[int]) -> str:
    """The names of the code points in order, as `parse_allowed` reads them one by one."""
    return " ".join(label(each) for each in sorted(set(codepoints)))


def refused(text: str, allowed: frozenset[int]) -> list[Hidden]:
    """The hidden characters that were not allowed by name; tag characters always."""
    return [each for each in hidden(text) if each.codepoint not in allowed or is_tag(each.codepoint)]


def mixed_script(text: str) -> list[MixedWord]:
    """Words and URL hosts that mix Latin with Cyrillic or Greek letters, which may be there to deceive."""
    found, line, last = [], 1, 0
    for match in re.finditer(_WORD, text) if re.search(_FOREIGN, text) else ():
        word, foreign = match[0], set(re.findall(_FOREIGN, match[0]))
        if foreign and re.search(_LATIN, word) and not re.fullmatch(_FORMULA, word):
            line, last = line + text.count("\n", last, match.start()), match.start()
            found.append(MixedWord(word, line, tuple(sorted(map(ord, foreign)))))
    return found


def one_line(text: str, limit: int) -> str:
    """The text on one line, safe for a terminal, at most `limit` characters; an ellipsis stands for the rest."""
    shown = visible(text, keep_newlines=False)
    # A joiner or selector at the cut has lost what it belonged to.
    return shown if len(shown) <= limit else (shown[: max(limit - 1, 0)].rstrip(_CUT) + "…")[: max(limit, 0)]


def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf", "Cc") or "\u1160" <= char <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def width(text: str) -> int:
    """Terminal cells of one line: wide characters take two, marks and controls none."""
    return len(text) if text.isascii() and text.isprintable() else sum(map(_cells, text))


def cut(text: str, cells: int) -> str:
    """The text in at most `cells` terminal cells; an ellipsis stands for what was left off."""
    if width(text) <= cells:
        return text
    left, end = cells - 1, 0
    while end < len(text) and (left := left - _cells(text[end])) >= 0:
        end += 1
    return text[:end].rstrip(_CUT) + "…" * (cells > 0)
