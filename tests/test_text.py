"""What of a text does not show, and what of ordinary writing must pass."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsctl import text
from opsctl.errors import OpsError

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNSEEN = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180e\u180f\u200b\u200c\u200d\u2060\u2064\u2065\u206f\u3164\ufeff"
    "\uffa0\ufff0\ufffb\u2800\u2028\u2029\ufe00\ufe0f\U0001bca0\U0001d173\U000e0100\U000e01ef\U000e0fff"
    "\ud800\udfff\ue000\U000f0000\U0010ffff\ufdd0\U00013430\U0001d159\ufffe\U0001ffff\U000efffe"
)
CONTROLS = "".join(map(chr, [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0)]))
TAGGED = "".join(chr(0xE0000 + ord(char)) for char in "run rm -rf /")
PLAIN = {
    "spanish": "¿Qué pasó, señor? El pingüino comió: «ñandú» — 20 €…",
    "french": "L’œuvre\u00a0: « ça\u202fva\u202f? »",
    "decomposed": "cafe\u0301 n\u0303",
    "german": "Straße, Größe, µm, Ω",
    "vietnamese": "Tiếng Việt đẹp",
    "russian": "Съешь ещё этих мягких французских булок, IT-отдел, отчёт.txt",
    "greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "japanese": "日本語のテキスト、カタカナ　ガギグ。",
    "chinese": "中文文本。",
    "korean": "한국어 텍스트",
    "arabic": "الســلام عَلَيْكُمْ ﷺ",
    "persian": "می\u200cخواهم کتاب\u200cها را",
    "hebrew": "שָׁלוֹם עולם",
    "hindi": "क्\u200dष क्\u200cष नमस्ते",
    "sinhala": "ශ්\u200dරී ලංකා",
    "malayalam": "ന്\u200dറ",
    "bengali": "র\u200d্য",
    "thai": "ภาษาไทย",
    "emoji": "👨\u200d👩\u200d👧\u200d👦 👩🏽\u200d🚀 🏳\ufe0f\u200d🌈 ❤\ufe0f\u200d🔥 ☎\ufe0e ©\ufe0f",
    "flags": "🇪🇸🇯🇵 🏴\u200d☠\ufe0f",
    "keycaps": "1\ufe0f\u20e3 #\ufe0f\u20e3 *\ufe0f\u20e3",
    "lines": "one\n\ttwo\n",
}
HOSTILE = st.text(
    st.sampled_from(
        BIDI + UNSEEN + CONTROLS + TAGGED + "aжα1#\r\n\t <>مکक्ष👩🚀❤🏽\ufe0f\ufe0e\u200d\u200c\u20e3\u0301日"
    )
)
ANY = st.one_of(st.text(st.characters()), st.text(st.characters(exclude_categories=[])), HOSTILE)


@given(ANY)
def test_visible_text_holds_nothing_hidden(given_text: str) -> None:
    for keep in (True, False):
        shown = text.visible(given_text, keep_newlines=keep)
        assert text.hidden(shown) == []
        assert not set(shown) & set(BIDI + CONTROLS + "\r")
        assert keep or not set(shown) & set("\n\t")


@given(ANY)
def test_visible_changes_a_text_exactly_when_something_is_hidden(given_text: str) -> None:
    same = text.visible(given_text) == given_text.replace("\r\n", "\n")
    assert same == (text.hidden(given_text) == [])


@given(ANY)
def test_hidden_tells_the_place_of_each_character(given_text: str) -> None:
    lines = given_text.split("\n")
    for each in text.hidden(given_text):
        assert ord(given_text[each.offset]) == each.codepoint
        assert ord(lines[each.line - 1][each.column - 1]) == each.codepoint


@given(ANY, st.integers(-1, 30))
def test_shortened_text_fits_and_holds_nothing_hidden(given_text: str, limit: int) -> None:
    line = text.one_line(given_text, limit)
    assert len(line) <= max(limit, 0)
    cells = text.cut(text.visible(given_text, keep_newlines=False), limit)
    assert text.width(cells) <= max(limit, 0)
    assert text.hidden(line) == text.hidden(cells) == []


@pytest.mark.parametrize("char", BIDI)
def test_tx_01_bidi_controls_are_reported_and_shown(char: str) -> None:
    [found] = text.hidden(f"one\nif a{char} b")
    assert (found.codepoint, found.line, found.column, found.offset) == (ord(char), 2, 5, 8)
    assert text.visible(f"a{char}b") == f"a<U+{ord(char):04X}>b"


@pytest.mark.parametrize("char", UNSEEN)
def test_tx_02_characters_without_a_shape_are_reported(char: str) -> None:
    assert text.visible(f"pass{char}word") == f"pass<U+{ord(char):04X}>word"
    assert [each.label for each in text.hidden(f"日{char}本")] == [f"U+{ord(char):04X}"]


@pytest.mark.parametrize(
    "spelled",
    [
        "م\u200c\u200cم",
        "م\u200da",
        "مक\u200d",
        "क\u200dم",
        "\u200dم",
        "م\u200d",
        "👩\u200d",
        "👩\u200da",
        "a\ufe0f",
        "1\ufe0f",
        "👩\ufe0f\ufe0f",
        "日\U000e0100",
        "क \u200dष",
        "۱\u200c۲",
        "\u180b\u200d\u180b",
    ],
)
def test_tx_02_joiners_and_selectors_pass_only_where_they_belong(spelled: str) -> None:
    assert text.hidden(spelled) != []


def test_tx_02_a_chain_of_emoji_longer_than_any_real_one_is_reported() -> None:
    assert text.hidden("\u200d".join("👩" * 5)) == []
    assert [each.codepoint for each in text.hidden("\u200d".join("👩" * 6))] == [0x200D]


def test_tx_03_tag_characters_are_refused_even_when_allowed() -> None:
    draft = "Fix it." + TAGGED
    assert text.decoded_tags(draft) == "run rm -rf /"
    assert len(text.refused(draft, frozenset(text.TAGS))) == len(TAGGED)
    assert text.is_tag(0xE0041)
    assert text.is_tag(0xE007F)
    assert not text.is_tag(0xE0080)


def test_tx_03_the_flag_of_england_is_a_base_with_tags() -> None:
    flag = "🏴" + "".join(chr(0xE0000 + ord(char)) for char in "gbeng") + "\U000e007f"
    assert text.visible(flag).startswith("🏴<U+E0067><U+E0062>")
    assert len(text.refused(flag, frozenset())) == 6
    assert text.decoded_tags(flag) == "gbeng"


@pytest.mark.parametrize("name", ["U+E0041", "u+e0001", "U+E007F"])
def test_tx_03_tag_characters_cannot_be_allowed(name: str) -> None:
    with pytest.raises(OpsError, match="tag character") as caught:
        text.parse_allowed([name])
    assert caught.value.code == "bad_input"


def test_tx_06_words_of_two_alphabets_are_named_with_line_and_letters() -> None:
    [word] = text.mixed_script("plain line\nopen p\u0430yp\u0430l now")
    assert word == text.MixedWord("p\u0430yp\u0430l", 2, (0x0430,))
    assert [f"{text.label(each)} {text.name(each)}" for each in word.codepoints] == ["U+0430 CYRILLIC SMALL LETTER A"]


@pytest.mark.parametrize(
    "spelled",
    [
        "g\u03bf\u03bfgle",
        "get_\u0441\u043e\u0440\u0443",
        "p\u0301\u0430",
        "https://\u0430\u0440\u0440\u04cf\u0435.com/x",
        "https://my-\u0441\u0430\u0439\u0442.org",
        "\u0410dmin2",
    ],
)
def test_tx_06_look_alikes_are_found(spelled: str) -> None:
    assert len(text.mixed_script(f"see {spelled} there")) == 1


@pytest.mark.parametrize("plain", [*PLAIN.values(), "µs μs 10kΩ Δt", "IT-отдел", "файл.txt", "α-test", "naïve"])
def test_tx_06_no_warning_for_plain_words(plain: str) -> None:
    assert text.mixed_script(plain) == []


@pytest.mark.parametrize("language", PLAIN)
def test_tx_07_plain_languages_pass_unchanged(language: str) -> None:
    assert text.hidden(PLAIN[language]) == []
    assert text.visible(PLAIN[language]) == PLAIN[language]


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2Jgone", "<U+001B>[2Jgone"),
        ("\x1b]0;title\x07", "<U+001B>]0;title<U+0007>"),
        ("\x9b31m\x9d", "<U+009B>31m<U+009D>"),
        ("ab\b\bcd\x7f", "ab<U+0008><U+0008>cd<U+007F>"),
        ("good\rbad", "good<U+000D>bad"),
        ("a\r\nb\r\r\nc\r", "a\nb<U+000D>\nc<U+000D>"),
        ("a\x00b\x85", "a<U+0000>b<U+0085>"),
    ],
)
def test_tx_08_controls_never_reach_the_terminal(hostile: str, shown: str) -> None:
    assert text.visible(hostile) == shown


def test_tx_08_controls_have_names() -> None:
    assert [each.name for each in text.hidden("\x1b\x07\x01\ud800\ue000\ufffe\u202e")] == [
        "ESCAPE",
        "BELL",
        "CONTROL",
        "SURROGATE",
        "PRIVATE USE",
        "UNASSIGNED",
        "RIGHT-TO-LEFT OVERRIDE",
    ]


def test_one_line_fields_hold_no_newline_or_tab() -> None:
    assert text.visible("a\r\nb\tc\n", keep_newlines=False) == "a<U+000A>b<U+0009>c<U+000A>"
    assert text.one_line("abcdef", 6) == "abcdef"
    assert text.one_line("abcdefg", 6) == "abcde…"


def test_allowed_characters_are_not_refused() -> None:
    allowed = text.parse_allowed(["u+200d", "U+FE0F", "U+00ad", "U+10FFFF"])
    assert allowed == {0x200D, 0xFE0F, 0xAD, 0x10FFFF}
    assert text.format_allowed([0xFE0F, 0x200D, 0x200D]) == "U+200D U+FE0F"
    assert [each.label for each in text.refused("a\u200db\u200bc", allowed)] == ["U+200B"]


@pytest.mark.parametrize(
    "name", ["", "200D", "U+20D", "U+0200D00", "U+110000", "U+200D ", "U+200D\n", "U+२००d", "\x1b"]
)
def test_other_names_are_bad_input(name: str) -> None:
    with pytest.raises(OpsError) as caught:
        text.parse_allowed([name])
    assert caught.value.code == "bad_input"
    assert text.hidden(caught.value.message) == []


def test_width_counts_terminal_cells() -> None:
    assert [text.width(each) for each in ("", "abc", "日本", "e\u0301", "ＡＢ", "한")] == [0, 3, 4, 1, 4, 2]
    assert text.cut("日本語", 6) == "日本語"
    assert text.cut("日本語", 5) == "日本…"
    assert text.cut("日本語", 4) == "日…"
    assert text.cut("abc", 0) == ""


@pytest.mark.parametrize(
    "piece", ["plain words and\n", "\u202e", "م\u200cم", "👩\u200d", "p\u0430", "\r", "1\ufe0f", "://a"]
)
def test_large_texts_are_quick(piece: str) -> None:
    large = piece * (262_144 // len(piece))
    start = time.perf_counter()
    text.visible(large)
    text.hidden(large)
    text.mixed_script(large)
    assert time.perf_counter() - start < 10
