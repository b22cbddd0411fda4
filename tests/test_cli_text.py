"""Hostile and foreign text through the command line: what is printed is inert, what is refused leaves nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from conftest import Home, Site, make_home
from test_cli import Shell, objects

from opsctl import text

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\xad\u034f\u115f\u3164\u2800\u180e\ufe0f"
CONTROLS = (
    "\x1b[31m\x1b]0;title\x07\x1b]8;;http://x\x1b\\\x1b]52;c;aGk=\x07\x1bP+q\x1b\\\x9b31m\x07\x08\x7f\x0b\x0c\x85"
)
AWS = "AKIA" + "IOSFODNN7QWERTYU"


@pytest.fixture
def sh(site: Site) -> Shell:
    """Alice in a repository with a gate."""
    return Shell(site)


def inert(output: str) -> None:
    """INR: nothing of the output can act on a terminal or hide on it."""
    for char in output:
        if char in "\n\t":
            continue
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"), f"{ord(char):04x} in {output!r}"
        assert char not in BIDI + INVISIBLE, f"{ord(char):04x} in {output!r}"


def everything(sh: Shell, ulid: str) -> str:
    """What every command that prints a draft prints, on both streams."""
    said = []
    for argv in (
        ("show", ulid),
        ("show", ulid, "--json"),
        ("list",),
        ("list", "--json"),
        ("diff",),
        ("diff", ulid),
        ("diff", ulid, "--word"),
        ("diff", "--json"),
        ("log",),
        ("log", "--json"),
        ("log", ulid),
        ("status",),
        ("status", "--json"),
        ("doctor",),
        ("verify",),
        ("config", "show", "--origin"),
        ("approve", ulid, "--yes"),
        ("approve", ulid, "--yes", "--json"),
        ("approve", ulid),
        ("edit", ulid, "--expect", "0" * 12, "--title", "x"),
    ):
        done = sh(*argv)
        assert done.status != 1, (argv, done.err)
        said += [done.out, done.err]
    return "\n".join(said)


@pytest.mark.parametrize("char", [*BIDI, *INVISIBLE])
def test_tx_01_tx_02_a_character_that_does_not_show_is_shown_refused_and_allowed_by_name(sh: Shell, char: str) -> None:
    body = f"Grant access to a{char}b."
    ulid = sh.ok("draft", "--file", "-", "--title", "Access", stdin=body.encode()).removeprefix("d_")
    label = text.label(ord(char))
    shown = sh.ok("show", ulid)
    assert f"<{label}>" in shown
    assert "1 hidden characters" in shown
    inert(shown)
    done = sh.refused("approve", ulid, "--yes", status=2, says="hidden characters")
    assert f"--allow-char {label}" in done.err
    inert(done.err)
    sh.refused("approve", ulid, "--yes", "--allow-char", "U+2061", status=2)
    sh.ok("approve", ulid, "--yes", "--allow-char", label.lower())
    assert f"Ops-Allowed-Chars: {label}\n" in sh.site.git("log", "-1", "--format=%B", "ops/approved") + "\n"
    assert sh.json("log")[0]["allowed_chars"] == label
    assert label in sh.ok("show", f"a_{ulid}")
    assert sh.json("verify")["ok"] is True


def test_tx_01_each_character_has_to_be_named_and_all_are_recorded(sh: Shell) -> None:
    ulid = sh.draft("Right \u202eto\u202c left \u200b.", "--title", "t")
    sh.refused("approve", ulid, "--yes", "--allow-char", "U+202E", status=2)
    names = ("U+202E", "U+202C", "U+200B")
    sh.ok("approve", ulid, "--yes", *(part for name in names for part in ("--allow-char", name)))
    assert sh.json("log")[0]["allowed_chars"] == "U+200B U+202C U+202E"


@pytest.mark.parametrize("name", ["U+", "202E", "U+GGGG", "U+110000", "x", "", "U+E0041", "U+202E U+202C"])
def test_tx_01_a_name_that_is_none_is_refused(sh: Shell, name: str) -> None:
    sh.refused("approve", sh.draft("x"), "--yes", "--allow-char", name, status=2)


def test_tx_03_tag_characters_are_refused_always_and_what_they_spell_is_shown(sh: Shell) -> None:
    hidden = "".join(chr(0xE0000 + ord(char)) for char in "rm -rf /")
    ulid = sh.draft(f"Tidy up.{hidden}", "--title", "t")
    shown = sh.ok("show", ulid)
    assert "tag characters spell: rm -rf /" in shown
    inert(shown)
    done = sh.refused("approve", ulid, "--yes", status=2, says="never allowed")
    assert "rm -rf /" in done.err
    sh.refused("approve", ulid, "--yes", "--allow-char", "U+E0072", status=2, says="never allowed")
    inert(everything(sh, ulid))


@pytest.mark.parametrize("where", ["title", "context", "request", "path"])
def test_tx_01_an_escape_in_the_front_matter_hides_nothing(sh: Shell, where: str) -> None:
    ulid = sh.draft("Do it.")
    raw = sh("show", ulid, "--raw").raw.decode()
    line = {
        "title": 'title = "a\\u202Eb"',
        "context": 'title = "t"\n[context]\nk = "a\\u202Eb"',
        "request": 'title = "t"\nrequest = "a\\u202Eb"',
        "path": 'title = "t"\n[target]\npaths = ["a\\u202Eb"]',
    }[where]
    put = re.sub(r'title = ".*"', lambda _: line, raw, count=1)
    from test_cli import put as put_file

    from opsctl import ids

    put_file(sh.site, ids.path_of(ulid), put.encode())
    sh.refused("approve", f"{ulid}@{sh.digest(ulid)}", "--yes", status=2, says="U+202E")
    inert(everything(sh, ulid))


def test_tx_08_controls_in_every_field_come_out_inert_everywhere(sh: Shell, tmp_path: Path) -> None:
    home = make_home(tmp_path / "mallory", "Mallory", "m@example.com")
    home.git("config", "--global", "user.name", f"Mal\x1b[31mlory{BIDI}")
    home.git("config", "--global", "user.email", "m\x9b@example.com")
    other = Shell(Site(home, sh.site.path))
    other.ok("trust", "--yes")
    body = f"{CONTROLS}{BIDI}{INVISIBLE}\r\nlone\rreturn\u2028\u2029"
    title = f"t{BIDI}{INVISIBLE}"
    ulid = other.ok("draft", "--file", "-", "--title", title, "--context", f"k={body}", stdin=body.encode())
    ulid = ulid.removeprefix("d_")
    other.ok("return", ulid, "--reason", f"why{CONTROLS}{BIDI}")
    inert(everything(sh, ulid))
    sh.ok("reject", ulid, "--reason", f"no{CONTROLS}{BIDI}")
    for argv in (("show", ulid), ("list", "--status", "all"), ("list", "--status", "rejected", "--json"), ("log",)):
        inert(sh.ok(*argv))
    assert json.loads(sh.ok("show", ulid, "--json"))["prompt"] == body, "JSON keeps the text by escapes"


def test_tx_08_revoke_and_plan_and_policy_are_inert_too(sh: Shell) -> None:
    ulid = sh.approved("Do it.")
    sh.ok("revoke", ulid, "--reason", f"why{CONTROLS}{BIDI}")
    plan = f'id = "p"\ntitle = "plan {BIDI}"\nstatus = "on {INVISIBLE}"\n'
    sh.ok("plan", "set", "-", "--reason", f"because{BIDI}", stdin=plan.encode())
    done = sh("show", f"a_{ulid}")
    for output in (
        sh.ok("log"),
        sh.ok("log", "--json"),
        sh.ok("plan", "show"),
        sh.ok("plan", "show", "--json"),
        done.err,
    ):
        inert(output)
    assert sh.json("verify")["ok"] is True


def test_tx_08_arguments_come_back_inert_in_errors(sh: Shell) -> None:
    evil = "x\x1b[31m\u202e\x9b\x07"
    for argv in (
        (evil,),
        ("show", evil),
        ("list", "--status", evil),
        ("list", evil),
        (f"--{evil}",),
        ("list", "-C", evil),
        ("draft", "--file", evil),
        ("draft", "x", "--base", evil),
        ("draft", "x", "--label", evil),
        ("draft", "x", "--context", evil),
        ("draft", "x", "--executor", evil),
        ("draft", "x", "--not-after", evil),
        ("draft", "x", "--timeout", evil),
        ("approve", f"01@{evil}", "--yes"),
        ("approve", "01", "--allow-char", evil, "--yes"),
        ("prune", "--older-than", evil),
        ("sync", evil),
        ("trust", evil, "--yes"),
        ("demo", "--folder", "/"),
    ):
        done = sh(*argv)
        assert done.status in (2, 3, 4, 6, 8), (argv, done)
        inert(done.out)
        inert(done.err)


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("p\u0430ypal", "U+0430 CYRILLIC SMALL LETTER A"),
        ("https://g\u043eogle.com/login", "U+043E CYRILLIC SMALL LETTER O"),
        ("\u0391dmin", "U+0391 GREEK CAPITAL LETTER ALPHA"),
    ],
)
def test_tx_06_a_word_that_mixes_alphabets_is_pointed_out(sh: Shell, word: str, label: str) -> None:
    ulid = sh.draft(f"Send it to {word} now.", "--title", "t")
    shown = sh.ok("show", ulid)
    assert "mixes scripts" in shown
    assert label in shown
    assert sh.ok("approve", ulid, "--yes"), "a warning, not a refusal"


@pytest.mark.parametrize(
    "body",
    [
        "Añade reintentos: ¿cuándo? ¡ahora! El pingüino y la cigüeña.",
        "アップロードに再試行を追加してください。「丁寧に」ー全角　空白",
        "أضف إعادة المحاولة إلى أداة الرفع، من فضلك.",
        "می‌خواهم",
        "क्‍ष और श्री",
        "Family 👨‍👩‍👧‍👦, flag 🇪🇸🏴‍☠️, heart ❤️, keycap 1️⃣, wave 👋🏽",
        "Привет, мир. Γειά σου Κόσμε.",
        "e\u0301 and z\u0335a\u0334lgo",
        "한국어 텍스트, עברית, ไทย, Việt Nam",
    ],
)
def test_tx_07_text_of_any_language_passes_unchanged(sh: Shell, body: str) -> None:
    ulid = sh.draft(body, "--title", body[:40])
    shown = sh.ok("show", ulid)
    assert body in shown
    assert "hidden characters" not in shown
    assert sh.ok("approve", ulid, "--yes") == f"a_{ulid}"
    assert sh.json("show", f"a_{ulid}")["prompt"] == body
    assert body.split()[0] in sh.ok("log")


@pytest.mark.parametrize("body", ["A\u200dB", "👨\u200d", "x\ufe0f", "1\ufe0f", "\u200d👨", "a\u200cb"])
def test_tx_07_a_joiner_where_no_script_needs_it_is_refused(sh: Shell, body: str) -> None:
    sh.refused("approve", sh.draft(f"x {body} y", "--title", "t"), "--yes", status=2, says="hidden")


# -- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    [
        AWS,
        "ghp_" + "a1B2" * 9,
        "sk-ant-" + "a1B2c3D4" * 5,
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----",
        "https://user:hunter2xyz@example.com/x",
    ],
    ids=["aws", "github", "anthropic", "pem", "url"],
)
def test_tx_25_nol_a_secret_is_refused_before_any_object_is_written(sh: Shell, secret: str) -> None:
    before = objects(sh.site)
    needle = secret.splitlines()[1] if "\n" in secret else secret
    needle = "hunter2xyz" if "hunter2xyz" in needle else needle
    for argv, stdin in (
        (("draft", f"Use {secret} to log in", "--title", "t"), b""),
        (("draft", "--file", "-", "--title", "t"), f"Use {secret}".encode()),
        (("draft", "x", "--title", "t", "--context", f"key={secret}"), b""),
        (("draft", f"Use {secret} to log in"), b""),
    ):
        done = sh.refused(*argv, stdin=stdin, status=2, says="looks like a secret")
        assert needle not in done.err
    assert objects(sh.site) == before
    ulid = sh.draft("x")
    before = objects(sh.site)
    done = sh.refused("edit", ulid, "--file", "-", stdin=secret.encode(), status=2)
    assert needle not in done.err
    assert objects(sh.site) == before
    done = subprocess.run(["grep", "-raF", needle, str(sh.site.path)], capture_output=True, check=False)
    assert done.stdout == b""


def test_tx_25_an_allowed_secret_is_recorded_and_approved(sh: Shell) -> None:
    done = sh.refused("draft", f"The sample key {AWS} of the manual", "--title", "t", status=2)
    mark = re.search(r"--allow-secret ([0-9a-f]{16})", done.err)
    assert mark
    ulid = sh.draft(f"The sample key {AWS} of the manual", "--title", "t", "--allow-secret", mark[1])
    assert f"Ops-Allowed-Secrets: {mark[1]}" in sh.site.git("log", "-1", "--format=%B", f"refs/ops/topics/{ulid}")
    sh.ok("edit", ulid, "--title", "u")
    assert sh.ok("approve", f"{ulid}@{sh.digest(ulid)}", "--yes")


def test_tx_25_a_secret_that_came_by_plain_git_is_refused_at_approval(sh: Shell) -> None:
    from test_cli import put

    from opsctl import ids

    ulid = sh.draft("Do it.")
    put(sh.site, ids.path_of(ulid), sh("show", ulid, "--raw").raw + AWS.encode())
    digest = sh.digest(ulid)
    done = sh.refused("approve", f"{ulid}@{digest}", "--yes", status=2, says="looks like a secret")
    mark = re.search(r"--allow-secret ([0-9a-f]{16})", done.err)
    assert mark
    sh.ok("approve", f"{ulid}@{digest}", "--yes", "--allow-secret", mark[1])
    assert f"Ops-Allowed-Secrets: {mark[1]}" in sh.site.git("log", "-1", "--format=%B", "ops/approved")


# -- the surroundings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LANG": "xx_YY.nonsense", "TZ": ":/etc/passwd"},
        {"TZ": "Asia/Kathmandu", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20"},
        {"TZ": "x" * 1000, "TERM": "", "LINES": "-1", "COLUMNS": "abc"},
    ],
    ids=["ascii", "no utf-8 mode", "odd locale", "dumb", "nonsense"],
)
def test_lm_04_lm_05_odd_surroundings_change_nothing_and_crash_nothing(site: Site, env: dict[str, str]) -> None:
    ulid = Shell(site).draft("Añade reintentos 日本", "--title", "Añade")
    for argv in (("show", ulid), ("list",), ("diff",), ("show", ulid, "--json")):
        done = site.cli(*argv, env=env)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        inert(done.stdout)
    row = json.loads(done.stdout)
    assert row["prompt"] == "Añade reintentos 日本"
    assert row["created_at"].endswith("Z")
    done = site.cli("show", "ñ", env=env)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_cr_15_a_reader_that_goes_away_ends_it_quietly(site: Site) -> None:
    sh = Shell(site)
    sh.ok("draft", "--file", "-", "--title", "t", stdin=b"line\n" * 40_000)
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "opsctl", "diff"],
        cwd=site.path,
        env=site.home.environ,
        stdout=write,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(write)
        os.read(read, 10)
        os.close(read)
        _, stderr = process.communicate(timeout=30)
    assert stderr == b""
    assert process.returncode in (0, 141)


@pytest.mark.parametrize(
    "redirect",
    [
        ">&-",
        "> /dev/full",
        "2>&-",
    ],
)
def test_cr_15_a_stream_that_is_closed_or_full_is_told_in_one_line(site: Site, redirect: str) -> None:
    Shell(site).draft("Do it.")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -m opsctl list {redirect}'],
        cwd=site.path,
        env=site.home.environ,
        capture_output=True,
        text=True,
        timeout=30,
    )
    for word in ("Traceback", "Exception ignored", "a bug in opsctl"):
        assert word not in done.stderr


@pytest.mark.parametrize("option", ["--output=x", "-rf", "-x", "--upload-pack=touch x", "-"])
def test_id_07_an_id_like_an_option_is_never_handed_to_git(sh: Shell, option: str) -> None:
    for command, *more in (("show",), ("diff",), ("log",), ("approve", "--yes"), ("reject",)):
        sh.refused(command, option, *more, status=2)
        sh.refused(command, *more, "--", option, status=2)
    assert not (sh.site.path / "x").exists()


@pytest.mark.parametrize("title", ["a\nb", "a\r\nOps-Kind: approve", "\x1b]0;x\x07", "x" * 10_000, "x" * 201])
def test_id_08_a_title_of_more_than_one_line_or_200_characters_is_refused(sh: Shell, title: str) -> None:
    sh.refused("draft", "Do it.", "--title", title, status=2, says="title must be one line")
    sh.refused("edit", sh.draft("x"), "--title", title, status=2, says="title must be one line")


@pytest.mark.parametrize(
    "title", ["a/b", "--x", "-", "Ops-Kind: revoke", "gpgsig x", "é" * 200, "Ops-Id: 1 \\n Ops-Id: 2"]
)
def test_id_08_any_other_title_makes_one_line_of_subject(sh: Shell, title: str) -> None:
    ulid = sh.ok("draft", "Do it.", f"--title={title}").removeprefix("d_")
    sh.ok("approve", ulid, "--yes")
    message = sh.site.git("log", "-1", "--format=%B", "ops/approved")
    assert message.splitlines()[0].startswith(f"approve: {title}"[:100])
    assert len(message.splitlines()[0]) <= 120
    assert message.splitlines()[1] == ""
    assert sh.json("verify")["ok"] is True


def test_id_08_a_reason_cannot_forge_a_trailer(sh: Shell) -> None:
    ulid = sh.approved("Do it.")
    sh.ok("revoke", ulid, "--reason", "x\n\nOps-Kind: approve\nOps-Digest: sha256:00\r\nOps-Id: y")
    message = sh.site.git("log", "-1", "--format=%B", "ops/approved")
    assert message.count("\nOps-Kind: ") == 1
    assert sh.json("log")[0]["kind"] == "revoke"
    assert sh.json("verify")["ok"] is True


@pytest.mark.parametrize(
    "name",
    [
        "Al <x@y> ice",
        "Alice\ngpgsig evil",
        "Alice\x00"[:5] + ">",
        "<<>>",
        "a\nparent " + "0" * 40,
        "\u202eecilA",
        "Ünï çødé",
    ],
)
def test_id_09_a_name_in_gits_settings_injects_no_header(bare_site: Site, name: str) -> None:
    (bare_site.home.path / ".gitconfig").write_text(
        "[user]\n\tname = " + json.dumps(name, ensure_ascii=False) + "\n\temail = alice@example.com\n"
        f"\tsigningkey = {bare_site.home.key('alice')}.pub\n[gpg]\n\tformat = ssh\n",
        encoding="utf-8",
    )
    sh = Shell(bare_site)
    sh.ok("init")
    sh.approved("Do it.")
    raw = bare_site.git("cat-file", "commit", "ops/approved").split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in raw if not line.startswith(" ")] == [
        *("tree", "parent", "parent", "author", "committer", "gpgsig")
    ]
    assert sh.json("verify")["ok"] is True
    inert(sh.ok("list", "--status", "all"))
    bare_site.fsck()


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "zero", "directory", "dangling link", "socket", "tty", "NUL"])
def test_id_10_a_file_that_is_no_file_is_refused_at_once(sh: Shell, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    names = {
        "zero": "/dev/zero",
        "directory": str(tmp_path),
        "tty": "/dev/tty",
        "NUL": "a\0b",
        "self": "/proc/self/mem",
    }
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "socket":
        import socket

        here = os.getcwd()
        os.chdir(tmp_path)
        socket.socket(socket.AF_UNIX).bind("thing")
        os.chdir(here)
    name = names.get(kind, str(path))
    ulid, start = sh.draft("x"), time.monotonic()
    for argv in (
        ("draft", "--file", name),
        ("edit", ulid, "--file", name),
        ("plan", "set", name),
        ("policy", "set", name),
    ):
        done = sh(*argv)
        assert done.status in (2, 6), (argv, done)
        assert done.err.startswith("error: ")
        assert "a bug" not in done.err
    assert time.monotonic() - start < 5


def test_id_10_a_large_file_is_refused_by_its_size(sh: Shell, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(4 * 1024**3)
    start = time.monotonic()
    sh.refused("draft", "--file", str(path), status=2, says="has more than 262,144 bytes")
    assert time.monotonic() - start < 2


def test_id_10_a_link_to_a_file_that_the_person_named_is_read(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "real.md").write_text("Do it.")
    (tmp_path / "link.md").symlink_to("real.md")
    assert sh.json("draft", "--file", str(tmp_path / "link.md"))["prompt"] == "Do it."


def test_tx_12_an_argument_that_is_no_utf_8_is_refused(site: Site) -> None:
    for argv in (["draft", b"caf\xe9"], ["draft", "x", "--title", b"\xff"], ["draft", "x", "--context", b"k=\xff"]):
        done = subprocess.run(
            [sys.executable, "-m", "opsctl", *argv],
            cwd=site.path,
            env=site.home.environ,
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(b"error: ")
    assert Shell(site).json("list") == []


def test_a_home_without_configuration_says_what_is_missing(bare_site: Site, tmp_path: Path) -> None:
    bare = Home(tmp_path / "empty", {**bare_site.home.environ, "HOME": str(tmp_path / "empty")})
    bare.path.mkdir()
    bare.environ["GIT_CONFIG_GLOBAL"] = str(bare.path / ".gitconfig")
    sh = Shell(Site(bare, bare_site.path))
    sh.refused("init", status=6, says="user.name")
    sh.refused("list", status=6, says="no gate")
