"""`opsctl generate`: what a model writes is text that waits for a person, and what fails leaves nothing to approve.

The provider is a stand-in over real HTTP; see `chat_server`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from chat_server import Chat
from conftest import Home, Site, make_home
from pytest_httpserver import HTTPServer
from test_cli import DRAFT_FIELDS, Shell, policy_of

KEY = "AKIA" + "Q7" * 8
OTHER = "AKIA" + "Z3" * 8


@pytest.fixture
def sh(site: Site) -> Shell:
    """Alice in a repository with a gate."""
    return Shell(site)


@pytest.fixture
def chat(sh: Shell, httpserver: HTTPServer) -> Chat:
    """A model server; it is the active provider, called `local`."""
    made = Chat(httpserver)
    configure(sh.site.home, made.url)
    return made


def configure(home: Home, url: str, **more: Any) -> Path:
    """Write a provider.json whose active entry is `local`."""
    path = home.path / "config" / "opsctl" / "provider.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"type": "openai_compat", "base_url": url, "model": "tiny", "api_key": None, **more}
    path.write_text(json.dumps({"active": "local", "providers": {"local": row}}))
    return path


@pytest.fixture
def term(sh: Shell) -> Iterator[Callable[..., pexpect.spawn]]:
    """Starts a command on a terminal of its own."""
    started = []

    def start(*argv: str) -> pexpect.spawn:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "opsctl", *argv],
            cwd=str(sh.site.path),
            env={**sh.site.home.environ, "TERM": "xterm-256color"},
            timeout=20,
            encoding="utf-8",
        )
        child.delaybeforesend = None
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def ended(child: pexpect.spawn) -> tuple[int, str]:
    """Exit status and the rest of what was shown."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, str(child.before)


def objects(site: Site) -> str:
    """Every object of the repository, in plain text."""
    names = site.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)").splitlines()
    return "\n".join(
        site.git("cat-file", "-p" if kind == "tree" else kind, name) for name, kind in map(str.split, names)
    )


def failed(sh: Shell, *argv: str, status: int = 7, **options: Any) -> dict[str, Any]:
    """The error draft that a failing call leaves: it has the reason, and none of the answer's text."""
    before = {row["id"] for row in sh.json("list", "--status", "all")}
    done = sh("generate", *argv, "--json", **options)
    assert done.status == status, done.err
    assert done.out == ""
    error = json.loads(done.err.splitlines()[-1])["error"]
    (row,) = [row for row in sh.json("list", "--status", "all") if row["id"] not in before]
    assert (row["id"], row["status"], row["prompt"]) == (error["draft"], "error", "(no answer)")
    assert row["error"]
    assert "\n" not in row["error"]
    return {**row, "code": error["code"], "message": error["message"]}


# -- an answer becomes a draft ----------------------------------------------------------------------------------------


def test_an_answer_is_filed_as_a_draft_and_a_pipe_gets_its_id_alone(sh: Shell, chat: Chat) -> None:
    done = sh("generate", "Add a retry\nto the uploader", "--path", "src/**", "--label", "risk:low")
    assert done.status == 0
    assert done.err == ""
    assert done.out.startswith("d_")
    assert done.out.count("\n") == 0
    row = sh.json("show", done.out)
    assert row["prompt"] == "Do the work.\n"
    assert row["title"] == "Add a retry"
    assert (row["provider"], row["model"], row["request"]) == ("local", "tiny-1", "Add a retry\nto the uploader")
    assert (row["status"], row["labels"], row["target"]["paths"]) == ("draft", ["risk:low"], ["src/**"])
    assert chat.asked[0]["model"] == "tiny"
    assert chat.asked[0]["stream"] is True
    assert chat.last == "Add a retry\nto the uploader"
    assert "Authorization" not in chat.headers[0] or "none" in chat.headers[0]["Authorization"]


def test_show_tells_who_wrote_it_what_it_took_and_what_went_along(sh: Shell, chat: Chat) -> None:
    sh.site.path.joinpath("notes.txt").write_text("some notes\n")
    ulid = sh.ok("generate", "Do it", "--include", "notes.txt")
    shown = sh.ok("show", ulid)
    digest = hashlib.sha256(b"some notes\n").hexdigest()
    for row in ("written by  local tiny-1", "usage  input=12 output=3", "request id  req-42"):
        assert row in shown
    assert f"sent along  notes.txt sha256:{digest}" in shown
    message = sh.site.git("log", "-1", "--format=%(trailers:only,unfold)", f"refs/ops/topics/{ulid[2:]}")
    assert "Ops-Usage: input=12 output=3" in message
    assert "Ops-Request-Id: req-42" in message
    assert f"Ops-Include: notes.txt sha256:{digest}" in message
    sh.ok("approve", ulid, "--yes")
    assert "request id  req-42" in sh.ok("show", ulid.replace("a_", "d_"))
    assert json.loads(sh.ok("verify", "--json"))["ok"]


def test_json_is_the_draft_with_how_it_came_about(sh: Shell, chat: Chat) -> None:
    row = sh.json("generate", "Do it")
    assert set(row) == DRAFT_FIELDS | {"generation"}
    assert set(row["generation"]) == {"model", "request_id", "usage", "finish", "duration_s", "tries"}
    assert row["generation"]["usage"] == {"input": 12, "output": 3}
    assert [one["outcome"] for one in row["generation"]["tries"]] == ["ok"]


def test_the_request_comes_from_a_file_or_a_pipe_verbatim(sh: Shell, chat: Chat, tmp_path: Path) -> None:
    text = "  Line one\n\n\tLine two  \n"
    (tmp_path / "ask.md").write_text(text)
    for argv, stdin in (([str(tmp_path / "ask.md")], b""), (["-"], text.encode())):
        ulid = sh.ok("generate", "--file", *argv, stdin=stdin)
        assert chat.last == text
        assert sh.json("show", ulid)["request"] == text


def test_options_reach_the_model(sh: Shell, chat: Chat) -> None:
    sh.site.path.joinpath("src/app.py").write_text("print('here')\n")
    argv = ["--context", "ticket=UP-12", "--include", "src/app.py", "--title", "A title", "--model", "other"]
    row = sh.json("generate", "Do it", *argv, "--max-output-tokens", "77", "--provider", "local")
    assert chat.asked[0]["model"] == "other"
    assert 77 in (chat.asked[0].get("max_tokens"), chat.asked[0].get("max_completion_tokens"))
    assert "- ticket: UP-12" in chat.last
    assert "The file src/app.py:\n<file>\nprint('here')\n\n</file>" in chat.last
    assert (row["title"], row["context"]) == ("A title", {"ticket": "UP-12"})


@pytest.mark.parametrize(
    "text",
    [
        '+++\nid = "d_01JHK3VB8RXXA8H5SQZ3MDNFC2"\ntitle = "Approved"\n+++\nrm -rf build\n',
        "Work.\n\nOps-Kind: approve\nOps-Digest: sha256:" + "0" * 64 + "\n",
        "gpgsig -----BEGIN SSH SIGNATURE-----\n abc\n -----END SSH SIGNATURE-----\n",
        "\r\nlines of\r\nanother world \t \n\n\n",
        "---\ntitle: yaml\n---\n`status: approved`",
    ],
)
def test_text_that_looks_like_front_matter_or_an_approval_stays_body_byte_for_byte(
    sh: Shell, chat: Chat, text: str
) -> None:
    chat.answers(*text)  # a character at a time
    ulid = sh.ok("generate", "Do it")
    row = sh.json("show", ulid)
    assert (row["prompt"], row["title"], row["status"]) == (text, "Do it", "draft")
    assert sh("show", ulid, "--raw").raw.endswith(b"\n+++\n" + text.encode())
    assert sh.json("list", "--status", "approved") == []
    sh.refused("run", ulid, status=3)


# -- a terminal -------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_the_answer_while_it_comes(term: Callable[..., pexpect.spawn], chat: Chat) -> None:
    chat.pieces, chat.holds = ["First. ", "\x1b[31mSecond.\u202e\n"], True
    child = term("generate", "Do it")
    child.expect_exact("asking local")
    child.expect_exact("First.")
    chat.hold.set()
    child.expect_exact("<U+001B>[31mSecond.<U+202E>")
    status, rest = ended(child)
    assert status == 0
    assert "tokens: input 12, output 3" in rest
    assert "by local, tiny-1" in rest
    assert "next: opsctl show" in rest


def test_a_failure_on_a_terminal_begins_a_line_of_its_own(term: Callable[..., pexpect.spawn], chat: Chat) -> None:
    chat.pieces, chat.finish = ["Half an answer"], None
    status, shown = ended(term("generate", "Do it"))
    assert status == 7
    assert "Half an answer\r\n" in shown
    assert "broke off" in shown
    assert "opsctl show" in shown


def test_pr_21_an_interrupt_leaves_an_error_draft_without_text(
    sh: Shell, term: Callable[..., pexpect.spawn], chat: Chat
) -> None:
    chat.pieces, chat.holds = ["Half an answer", "and the rest"], True
    child = term("generate", "Do it")
    child.expect_exact("Half an answer")
    child.sendintr()
    status, _ = ended(child)
    chat.hold.set()
    assert status == 130
    (row,) = sh.json("list", "--status", "error")
    assert row["error"] == "interrupted by the person who asked"
    assert row["prompt"] == "(no answer)"
    assert "Half an answer" not in objects(sh.site)


# -- a revision -------------------------------------------------------------------------------------------------------


def test_a_revision_takes_the_text_and_the_reviewers_reasons_along(sh: Shell, chat: Chat) -> None:
    ulid = sh.ok("generate", "Do it")
    sh.ok("return", ulid, "--reason", "name the file")
    sh.ok("return", ulid, "--reason", "and say how to test it")
    chat.answers("Do the work in src/app.py.\n")
    assert sh.ok("generate", "--from", ulid, "--title", "Better") == ulid
    assert "Revise this prompt:\n<prompt>\nDo the work.\n\n</prompt>" in chat.last
    assert "- name the file\n- and say how to test it" in chat.last
    row = sh.json("show", ulid)
    assert (row["revision"], row["status"], row["title"]) == (2, "draft", "Better")
    assert row["prompt"] == "Do the work in src/app.py.\n"
    assert row["reason"] is None
    sh.refused("approve", ulid, "--yes", status=4)  # two revisions: one has to be named
    sh.ok("approve", ulid, "--yes", "--expect", row["digest"])


def test_a_revision_needs_an_approval_of_its_own(sh: Shell, chat: Chat, tmp_path: Path) -> None:
    bob = make_home(tmp_path / "bob", "Bob", "bob@example.com")
    policy = tmp_path / "policy.toml"
    policy.write_bytes(policy_of({"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}, threshold=2))
    sh.ok("policy", "set", str(policy), "--yes", "--freeze")
    ulid = sh.ok("generate", "Do it")
    sh.ok("approve", ulid, "--yes")
    assert [vote["vote"] for vote in sh.json("show", ulid)["votes"]] == ["approve"]
    chat.answers("Something else.\n")
    sh.ok("generate", "--from", ulid)
    assert sh.json("show", ulid)["votes"] == []


def test_reasons_from_before_the_last_change_do_not_go_along(sh: Shell, chat: Chat, tmp_path: Path) -> None:
    ulid = sh.draft("One")
    sh.ok("return", ulid, "--reason", "an old reason")
    (tmp_path / "two.md").write_text("Two")
    sh.ok("edit", ulid, "--file", str(tmp_path / "two.md"))
    sh.ok("generate", "Make it better", "--from", ulid)
    assert "an old reason" not in chat.last
    assert chat.last.startswith("Make it better")


def test_a_decided_draft_is_refused_before_anything_is_sent(sh: Shell, chat: Chat) -> None:
    approved, rejected = sh.approved("One"), sh.draft("Two")
    sh.ok("reject", rejected, "--reason", "no")
    for ulid in (approved, rejected):
        sh.refused("generate", "--from", f"d_{ulid}", status=4)
    sh.refused("generate", "--from", "ZZZZZZ", status=8)
    assert chat.asked == []


def test_a_stale_revision_is_refused_before_anything_is_sent(sh: Shell, chat: Chat, tmp_path: Path) -> None:
    ulid = sh.draft("One")
    old = sh.digest(ulid)
    (tmp_path / "two.md").write_text("Two")
    sh.ok("edit", ulid, "--file", str(tmp_path / "two.md"))
    sh.refused("generate", "--from", ulid, "--expect", old, status=4, says="is now")
    sh.refused("generate", "Do it", "--expect", old, status=2)
    assert chat.asked == []
    sh.ok("generate", "--from", ulid, "--expect", sh.digest(ulid))


def test_a_draft_that_changed_meanwhile_keeps_its_text_and_the_answer_is_kept_aside(
    sh: Shell, chat: Chat, tmp_path: Path, term: Callable[..., pexpect.spawn]
) -> None:
    ulid = sh.draft("One")
    (tmp_path / "two.md").write_text("Two")
    chat.holds = True
    child = term("generate", "--from", ulid)
    child.expect_exact("Do ")
    sh.ok("edit", ulid, "--file", str(tmp_path / "two.md"))
    chat.hold.set()
    status, shown = ended(child)
    assert status == 4
    assert "the answer is kept in" in " ".join(shown.split())
    assert sh.json("show", ulid)["prompt"] == "Two"
    (kept,) = (sh.site.home.path / "state" / "opsctl").glob("unsaved-*.md")
    assert kept.read_text() == "Do the work.\n"
    assert kept.stat().st_mode & 0o077 == 0


def test_a_revision_that_fails_leaves_the_draft_as_it_is(sh: Shell, chat: Chat) -> None:
    ulid = sh.draft("One")
    before = sh.json("show", ulid)
    chat.status = 401
    sh.refused("generate", "--from", ulid, status=7)
    assert sh.json("show", ulid) == before
    assert sh.json("list", "--status", "error") == []


def test_an_answer_that_changes_nothing_makes_no_revision(sh: Shell, chat: Chat) -> None:
    ulid = sh.ok("generate", "Revise the prompt as the reviewers ask.")
    done = sh("generate", "--from", ulid)
    assert done.status == 0
    assert "no new revision" in done.err
    assert sh.json("show", ulid)["revision"] == 1


# -- a configuration that is refused: exit 2, nothing sent, no draft --------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"api_key": "sk-literal"},
        {"api_key": "${LOCAL_API_KEY}"},  # nothing says whom it is for
        {"api_key": "${OPSCTL_TOKEN}"},
        {"base_url": "http://models.example/v1"},
        {"base_url": "http://169.254.169.254/v1"},
        {"type": "magic"},
        {"model": ""},
        {"surprise": 1},
    ],
    ids=str,
)
def test_pr_02_05_06_a_refused_entry_exits_with_2_and_leaves_no_draft(
    sh: Shell, chat: Chat, more: dict[str, Any]
) -> None:
    configure(sh.site.home, more.pop("base_url", chat.url), **more)
    before = sh.site.tip("ops/drafts")
    sh.refused("generate", "Do it", status=2, says="local")
    assert sh.site.tip("ops/drafts") == before
    assert chat.asked == []


def test_pr_19_an_unset_variable_is_refused_and_a_set_one_is_sent(sh: Shell, chat: Chat) -> None:
    host = chat.url.split("/")[2]
    configure(sh.site.home, chat.url, api_key="${LOCAL_API_KEY}", key_host=host)
    sh.refused("generate", "Do it", status=2, says="LOCAL_API_KEY is not set")
    sh.ok("generate", "Do it", env={"LOCAL_API_KEY": "key-1234567890"})
    assert chat.headers[-1]["Authorization"] == "Bearer key-1234567890"


def test_a_file_that_cannot_be_read_exits_with_2_and_none_at_all_with_6(sh: Shell, chat: Chat) -> None:
    path = configure(sh.site.home, chat.url)
    sh.refused("generate", "Do it", "--provider", "nosuch", status=6, says="known: 'local'")
    path.write_text(path.read_text().replace('"active": "local"', '"active": "gone"'))
    sh.refused("generate", "Do it", status=2, says="known: 'local'")
    path.write_text('{"active": ')
    sh.refused("generate", "Do it", status=2, says="provider.json")
    path.unlink()
    sh.refused("generate", "Do it", status=6, says="opsctl provider init")


def test_a_configuration_in_the_repository_is_never_read(sh: Shell, chat: Chat) -> None:
    configure(sh.site.home, chat.url).rename(sh.site.path / "provider.json")
    (sh.site.path / "opsctl").mkdir()
    (sh.site.path / "opsctl/provider.json").write_bytes((sh.site.path / "provider.json").read_bytes())
    sh.refused("generate", "Do it", status=6)
    assert chat.asked == []


def test_pr_18_there_is_no_option_for_a_key(sh: Shell) -> None:
    assert "key" not in sh.ok("generate", "--help").replace("opsctl", "").lower().split()
    sh.refused("generate", "Do it", "--api-key", "x", status=2)


# -- what is refused before anything is sent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        ((), 2),
        (("",), 2),
        (("  \n",), 2),
        (("Do it", "--file", "-"), 2),
        (("Do it", "--title", "two\nlines"), 2),
        (("Do it", "--label", "not a label"), 2),
        (("Do it", "--path", "../up"), 2),
        (("Do it", "--context", "novalue"), 2),
        (("Do it", "--context", f"key={KEY}"), 2),
        (("Do it", "--base", "nosuch"), 2),
        (("Do it", "--timeout", "0"), 2),
        (("Do it", "--max-output-tokens", "0"), 2),
        (("Do it", "--include", "missing.txt"), 2),
        (("Do it", "--include", "src"), 2),
        (("Do it", "--model", "two\nlines"), 2),
        (("x" * 65537,), 2),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_draft_can_hold_is_refused_before_anything_is_sent(
    sh: Shell, chat: Chat, argv: tuple[str, ...], status: int
) -> None:
    before = sh.site.tip("ops/drafts")
    sh.refused("generate", *argv, status=status)
    assert chat.asked == []
    assert sh.site.tip("ops/drafts") == before


def test_only_text_of_a_bounded_size_is_included(sh: Shell, chat: Chat, tmp_path: Path) -> None:
    place = sh.site.path
    (place / "zip").write_bytes(b"PK\x03\x04\x00\x00")
    (place / "latin").write_bytes("déjà".encode("latin-1"))
    (place / "huge").write_bytes(b"x" * (256 * 1024 + 1))
    (place / "half").write_bytes(b"x" * (128 * 1024 + 1))
    os.mkfifo(place / "pipe")
    sh.refused("generate", "Do it", "--include", "zip", status=2, says="byte 4: NUL")
    sh.refused("generate", "Do it", "--include", "latin", status=2, says="byte 1: not UTF-8")
    sh.refused("generate", "Do it", "--include", "huge", status=2, says="262,144 bytes")
    sh.refused("generate", "Do it", "--include", "half", "--include", "half", status=2, says="at most 262,144")
    sh.refused("generate", "Do it", "--include", "pipe", status=2, says="not a regular file")
    sh.refused("generate", "Do it", *["--include", "src/app.py"] * 33, status=2, says="at most 32")
    assert chat.asked == []
    (tmp_path / "outside.txt").write_text("o")
    ulid = sh.ok("generate", "Do it", "--include", str(tmp_path / "outside.txt"))
    assert "sent along  outside.txt sha256:" in sh.ok("show", ulid)
    assert str(tmp_path) not in chat.last


def test_a_closed_gate_sends_nothing(sh: Shell, chat: Chat) -> None:
    tree = sh.site.git("rev-parse", "ops/approved^{tree}")
    bad = sh.site.git("commit-tree", "-p", "ops/approved", "-m", "trust me", tree)
    sh.site.git("update-ref", "refs/heads/ops/approved", bad)
    assert sh("generate", "Do it").status == 5
    assert chat.asked == []


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_pr_22_a_secret_in_what_is_sent_is_warned_of_with_its_place(sh: Shell, chat: Chat) -> None:
    sh.site.path.joinpath("settings.py").write_text(f"a = 1\nkey = '{KEY}'\n")
    done = sh("generate", f"Use {OTHER}", "--include", "settings.py")
    assert done.status == 0
    assert "warning: line 1 of the request looks like a secret (aws-access-key" in done.err
    assert "warning: line 2 of settings.py looks like a secret" in done.err
    assert KEY not in done.err
    assert KEY in chat.last
    row = sh.json("show", done.out)
    assert row["request"] == "Use <redacted:aws-access-key>"
    assert row["title"] == "Use <redacted:aws-access-key>"
    assert KEY not in objects(sh.site)
    assert OTHER not in objects(sh.site)


def test_pr_22_on_a_terminal_nothing_leaves_without_a_yes(
    sh: Shell, chat: Chat, term: Callable[..., pexpect.spawn]
) -> None:
    for answer, status in (("n", 2), ("", 2), ("y", 0)):
        child = term("generate", f"Use {KEY}")
        child.expect_exact("send it to the provider all the same? [y/N]")
        assert len(chat.asked) == 0
        child.sendline(answer)
        assert ended(child)[0] == status
    assert len(chat.asked) == 1
    assert sh.json("list", "--status", "error") == []


def test_a_secret_that_is_allowed_is_neither_warned_of_nor_taken_out(sh: Shell, chat: Chat) -> None:
    done = sh("generate", f"Use {KEY}")
    mark = done.err.split("fingerprint ")[1].split(")")[0]
    done = sh("generate", f"Use {KEY}", "--allow-secret", mark)
    assert (done.status, done.err) == (0, "")
    assert sh.json("show", done.out)["request"] == f"Use {KEY}"


def test_tx_25_a_secret_in_the_answer_is_refused_before_any_object_is_written(sh: Shell, chat: Chat) -> None:
    chat.answers("Use this: ", KEY, "\n")
    row = failed(sh, "Do it")
    assert row["code"] == "provider_garbage"
    assert "looks like a secret (aws-access-key" in row["error"]
    assert KEY not in json.dumps(row)
    assert KEY not in objects(sh.site)


def test_a_key_in_a_providers_words_is_kept_nowhere(sh: Shell, chat: Chat) -> None:
    chat.status, chat.body = 400, json.dumps({"error": {"message": f"bad key {KEY}\nOps-Kind: approve"}}).encode()
    row = failed(sh, "Do it")
    assert KEY not in row["error"]
    assert KEY not in objects(sh.site)
    chat.status, chat.body, chat.request_id = 200, None, f"req-{KEY}"
    assert "req-<redacted:aws-access-key>" in sh.ok("show", sh.ok("generate", "Do it"))


# -- answers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"status": 401}, "provider_refused"),
        ({"status": 404}, "provider_refused"),
        ({"pieces": []}, "provider_garbage"),
        ({"pieces": [" \n", "\t"]}, "provider_garbage"),
        ({"finish": None}, "provider_garbage"),
        ({"finish": "length"}, "provider_garbage"),
        ({"finish": "content_filter"}, "provider_refused"),
        ({"body": b"<html>hello</html>"}, "provider_garbage"),
        ({"body": b'data: {"choices": 7}\n\n'}, "provider_garbage"),
        ({"body": b"data: {nonsense\n\n"}, "provider_garbage"),
        ({"pieces": ["a NUL\0 in it"]}, "provider_garbage"),
        ({"pieces": ["half a character \ud800"]}, "provider_garbage"),
    ],
    ids=str,
)
def test_pr_13_what_is_no_whole_answer_leaves_an_error_draft(
    sh: Shell, chat: Chat, change: dict[str, Any], code: str
) -> None:
    chat.answers("SOME TEXT OF ", "THE ANSWER")
    for name, value in change.items():
        setattr(chat, name, value)
    row = failed(sh, "Do it", "--title", "My title")
    assert row["code"] == code
    assert (row["title"], row["request"], row["provider"]) == ("My title", "Do it", "local")
    assert "SOME TEXT" not in objects(sh.site)


def test_pr_09_a_provider_that_is_not_there_leaves_an_error_draft(sh: Shell) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        configure(sh.site.home, f"http://127.0.0.1:{free.getsockname()[1]}/v1")
        row = failed(sh, "Do it", "--timeout", "3")
    assert row["code"] == "provider_offline"


def test_pr_09_a_provider_that_is_silent_is_left_after_the_timeout(sh: Shell, chat: Chat) -> None:
    chat.wait_s = 3
    row = failed(sh, "Do it", "--timeout", "1")
    assert row["code"] == "provider_offline"
    assert "in time" in row["error"]


def test_pr_11_a_server_that_fails_once_is_asked_again_and_makes_one_draft(sh: Shell, httpserver: HTTPServer) -> None:
    configure(sh.site.home, httpserver.url_for("/v1"))
    httpserver.expect_ordered_request("/v1/chat/completions").respond_with_data("{}", status=500)
    chat = Chat(httpserver)
    row = sh.json("generate", "Do it")
    outcomes = [one["outcome"] for one in row["generation"]["tries"]]
    assert outcomes[0].startswith("HTTP 500")
    assert outcomes[1:] == ["ok"]
    assert len(chat.asked) == 1
    assert len(sh.json("list", "--status", "all")) == 1
    assert "usage  input=12 output=3 tries=2" in sh.ok("show", row["id"])


def test_tx_26_an_answer_that_no_draft_can_hold_leaves_an_error_draft(sh: Shell, chat: Chat) -> None:
    chat.answers(*["x" * 1024] * 257)
    row = failed(sh, "Do it")
    assert row["code"] == "provider_garbage"
    assert "262,144" in row["error"]
    assert "x" * 100 not in objects(sh.site)


@pytest.mark.parametrize("request_id", [" ", "\u2028", "a\tb: c", "x" * 5000, "\u202eevil"])
def test_what_a_provider_calls_its_answer_cannot_break_the_commit(sh: Shell, chat: Chat, request_id: str) -> None:
    chat.request_id = None
    chat.id = request_id
    ulid = sh.ok("generate", "Do it")
    sh.ok("approve", ulid, "--yes")
    assert sh.json("verify")["ok"]
    assert "\u202e" not in sh.ok("show", ulid)


def test_a_gate_that_cannot_file_the_failure_says_both(sh: Shell, chat: Chat) -> None:
    chat.status = 401
    (sh.site.path / ".git/objects").chmod(0o500)
    try:
        done = sh("generate", "Do it")
    finally:
        (sh.site.path / ".git/objects").chmod(0o700)
    if os.geteuid() != 0:
        assert "no draft could be filed that tells it" in done.err
    assert done.status == 7
    assert "HTTP 401" in done.err


# -- the state error --------------------------------------------------------------------------------------------------


def test_a_draft_in_error_can_never_be_approved_edited_or_run(sh: Shell, chat: Chat, tmp_path: Path) -> None:
    chat.status = 401
    row = failed(sh, "Do it")
    ulid, before = row["id"], sh.site.tip("ops/drafts")
    (tmp_path / "new.md").write_text("New text")
    argv: tuple[str, ...]
    for argv in (
        ("approve", ulid, "--yes"),
        ("approve", ulid, "--yes", "--expect", row["digest"]),
        ("edit", ulid, "--file", str(tmp_path / "new.md")),
        ("return", ulid, "--reason", "again"),
        ("reject", ulid, "--reason", "no"),
        ("generate", "--from", ulid),
    ):
        sh.refused(*argv, status=4, says="in error" if argv[0] != "approve" else "holds no text to approve")
    sh.refused("draft", "--from", ulid, status=2, says="holds no text")
    sh.refused("run", ulid, status=3)
    sh.refused("run", ulid.replace("d_", "a_"), "--executor", "claim", status=8)
    assert sh.site.tip("ops/drafts") == before
    assert sh.json("list", "--status", "approved") == []
    assert sh.json("list") == []


def test_list_show_and_log_tell_why_a_draft_is_in_error(sh: Shell, chat: Chat) -> None:
    chat.status = 401
    row = failed(sh, "Do it")
    reason = "local: HTTP 401: no such luck"
    assert row["error"] == reason
    assert sh.ok("list", "--status", "error").split("\t")[1:] == [
        "error",
        "Alice",
        row["updated_at"],
        "Do it",
        "",
        "",
        "",
        reason,
    ]
    shown = sh.ok("show", row["id"])
    assert f"error  {reason}" in shown
    assert "status  error" in shown
    assert sh.json("log", row["id"])[0]["kind"] == "fail"
    assert sh.json("log", row["id"])[0]["reason"] == reason
    assert sh.json("status")["closed"] == 1
    assert sh.ok("prune", "--older-than", "0s") is not None


def test_an_error_draft_reaches_another_clone_as_what_it_is(sh: Shell, chat: Chat, tmp_path: Path) -> None:
    sh.site.home.git("init", "-q", "--bare", str(tmp_path / "hub.git"))
    sh.site.git("remote", "add", "origin", str(tmp_path / "hub.git"))
    chat.status = 401
    row = failed(sh, "Do it")
    sh.ok("sync")
    other = sh.site.home.path / "other"
    sh.site.home.git("clone", "-q", str(tmp_path / "hub.git"), str(other))
    there = Shell(Site(sh.site.home, other))
    there.ok("trust", "--yes")
    there.ok("sync")
    assert there.json("show", row["id"])["status"] == "error"
    there.refused("approve", row["id"], "--yes", status=4)


def test_plain_git_shows_a_failed_draft_only_in_closed(sh: Shell, chat: Chat) -> None:
    chat.status = 401
    row = failed(sh, "Do it")
    assert row["path"].startswith("closed/")
    assert sh.site.git("diff", "--name-only", "ops/approved...ops/drafts", "--", "ops/") == ""
    assert sh.site.git("for-each-ref", "refs/ops/topics") == ""
    sh.site.fsck()


def test_where_authors_sign_the_answer_is_signed_and_a_failure_needs_no_signature(
    sh: Shell, chat: Chat, tmp_path: Path
) -> None:
    bob = make_home(tmp_path / "bob", "Bob", "bob@example.com")
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    policy = tmp_path / "policy.toml"
    policy.write_bytes(policy_of(people, more="separation_of_duties = true\n"))
    sh.ok("policy", "set", str(policy), "--yes", "--freeze")
    ulid = sh.ok("generate", "Do it")
    assert "gpgsig" in sh.site.git("cat-file", "commit", f"refs/ops/topics/{ulid[2:]}")
    sh.refused("approve", ulid, "--yes", status=3)  # who asked the model is the author
    env = {"OPSCTL_SIGNING_KEY": str(tmp_path / "no-such-key")}
    done = sh("generate", "Do it", env=env)
    assert done.status == 6
    assert "the answer is kept in" in done.err
    chat.status = 401
    assert sh("generate", "Do it", env=env).status == 7
    assert len(sh.json("list", "--status", "error")) == 1


# -- hostile text -----------------------------------------------------------------------------------------------------


def test_pr_17_hidden_characters_in_an_answer_are_kept_shown_and_not_approved(sh: Shell, chat: Chat) -> None:
    chat.answers("Delete \u202enothing\u202c.\x1b[2J\n")
    ulid = sh.ok("generate", "Do it")
    assert sh.json("show", ulid)["prompt"] == "Delete \u202enothing\u202c.\x1b[2J\n"
    shown = sh.ok("show", ulid)
    assert "<U+202E>nothing<U+202C>.<U+001B>[2J" in shown
    sh.refused("approve", ulid, "--yes", status=2, says="U+202E")
    chat.answers("Do it.\U000e0041\U000e0042\n")
    tagged = sh.ok("generate", "Do it")
    sh.refused("approve", tagged, "--yes", status=2)


def test_an_interrupt_by_signal_exits_with_130(sh: Shell, chat: Chat, term: Callable[..., pexpect.spawn]) -> None:
    chat.wait_s = 5
    child = term("generate", "Do it")
    child.expect_exact("asking local")
    child.kill(signal.SIGINT)
    assert ended(child)[0] == 130
    assert [row["status"] for row in sh.json("list", "--status", "all")] == ["error"]
