"""The provider executor: the approved prompt goes out byte for byte, and the answer is the run's result.

The provider is a stand-in over real HTTP; see `chat_server`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Chat
from conftest import Site
from pytest_httpserver import HTTPServer
from test_cli import Shell
from test_generate import KEY, configure, objects


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


def item(sh: Shell, text: str = "Say what is wrong.\n", *options: str) -> str:
    """An approved item; its id."""
    ulid = sh.draft(text, *options)
    sh.ok("approve", ulid, "--yes")
    return f"a_{ulid}"


def ended(sh: Shell, *argv: str, status: int) -> dict[str, Any]:
    """The run that a command leaves."""
    done = sh("run", *argv, "--json")
    assert done.status == status, done.err
    row: dict[str, Any] = json.loads(done.out)
    assert sh.json("runs", "show", row["id"]) == row
    return row


@pytest.fixture
def background(sh: Shell) -> Iterator[Any]:
    """Starts a run in a process of its own and waits until the model was asked."""
    started: list[subprocess.Popen[str]] = []

    def start(chat: Chat, *argv: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "opsctl", "run", *argv, "--json"],
            cwd=sh.site.path,
            env=sh.site.home.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        end = time.monotonic() + 60
        while not chat.asked and time.monotonic() < end:
            time.sleep(0.05)
        assert chat.asked
        (row,) = sh.json("runs", "list", "--status", "running")
        return process, row["id"]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_approved_prompt_goes_out_and_the_answer_is_the_result(sh: Shell, chat: Chat) -> None:
    text = "Say what is wrong.\r\n\n+++\nid = 1\n+++\n  and why \n"
    chat.answers("Nothing ", "is wrong.\n")
    row = ended(sh, item(sh, text), "--executor", "provider", status=0)
    assert chat.asked[0]["messages"] == [{"role": "user", "content": text}]
    assert (row["status"], row["executor"], row["holder"]) == ("done", "provider", "local")
    assert row["usage"] == {"input": 12, "output": 3}
    assert row["request_id"] == "req-42"
    assert row["message"] == "local, tiny-1"
    assert (row["result_ref"], row["draft_id"]) == (None, None)
    assert sh.site.git("cat-file", "blob", row["output"]) == "Nothing is wrong."
    assert sh.ok("runs", "log", row["id"]) == "Nothing is wrong."
    assert row["output_bytes"] == len("Nothing is wrong.\n")
    assert '"request_id":"req-42"' in sh.site.git("log", "-1", "--notes=ops/runs", "--format=%N", "ops/approved")


def test_the_executor_of_the_approved_file_decides(sh: Shell, chat: Chat) -> None:
    row = ended(sh, item(sh, "Say it.", "--executor", "provider"), status=0)
    assert row["executor"] == "provider"
    other = item(sh, "Do it.", "--executor", "exec")
    sh.refused("run", other, "--executor", "provider", status=3)
    assert len(chat.asked) == 1


def test_a_draft_is_never_sent(sh: Shell, chat: Chat) -> None:
    ulid = sh.draft("Say it.")
    sh.refused("run", f"d_{ulid}", "--executor", "provider", status=3)
    sh.refused("run", f"a_{ulid}", "--executor", "provider", status=8)
    revoked = item(sh)
    sh.ok("revoke", revoked, "--reason", "no")
    sh.refused("run", revoked, "--executor", "provider", status=3)
    assert chat.asked == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"status": 401}, "HTTP 401"),
        ({"finish": None}, "broke off"),
        ({"finish": "length"}, "cut off"),
        ({"pieces": []}, "empty"),
        ({"body": b"<html>"}, "nothing that could be read"),
    ],
    ids=str,
)
def test_a_call_that_fails_ends_the_run_as_error(sh: Shell, chat: Chat, change: dict[str, Any], says: str) -> None:
    chat.answers("HALF AN ANSWER")
    for name, value in change.items():
        setattr(chat, name, value)
    row = ended(sh, item(sh), "--executor", "provider", status=9)
    assert row["status"] == "error"
    assert says in row["message"]
    assert row["output"] is None
    assert "HALF AN" not in objects(sh.site)
    chat.status, chat.finish, chat.pieces, chat.body = 200, "stop", ["Better."], None
    again = json.loads(sh("runs", "retry", row["id"], "--json").out)
    assert (again["status"], again["attempt"], again["retry_of"]) == ("done", 2, row["id"])


def test_a_configuration_that_is_refused_makes_no_run_and_sends_nothing(sh: Shell, chat: Chat) -> None:
    configure(sh.site.home, chat.url, api_key="${LOCAL_API_KEY}", key_host=chat.url.split("/")[2])
    made = item(sh)
    done = sh("run", made, "--executor", "provider")
    assert (done.status, done.out) == (2, "")
    assert "LOCAL_API_KEY is not set" in done.err
    assert sh.json("runs", "list") == []
    assert chat.asked == []


def test_the_approved_time_is_the_deadline(sh: Shell, chat: Chat) -> None:
    chat.wait_s = 4
    row = ended(sh, item(sh, "Say it.", "--executor", "provider", "--timeout", "1"), status=9)
    assert row["status"] == "error"
    assert "in time" in row["message"]


def test_a_run_that_is_cancelled_before_the_answer_stays_cancelled(sh: Shell, chat: Chat, background: Any) -> None:
    chat.pieces, chat.holds = ["Half ", "an answer"], True
    process, run = background(chat, item(sh), "--executor", "provider", "--as-draft")
    sh.ok("runs", "cancel", run)
    begun = time.monotonic()
    out, _ = process.communicate(timeout=60)
    chat.hold.set()
    assert process.returncode == 9
    row = json.loads(out)
    assert (row["status"], row["output"], row["draft_id"]) == ("cancelled", None, None)
    assert time.monotonic() - begun < 25, "it did not wait for the answer"
    assert sh.json("list") == []


def test_a_run_whose_item_is_revoked_before_the_answer_is_cancelled(sh: Shell, chat: Chat, background: Any) -> None:
    chat.pieces, chat.holds = ["Half ", "an answer"], True
    made = item(sh)
    process, run = background(chat, made, "--executor", "provider")
    sh.ok("revoke", made, "--reason", "a mistake")
    chat.hold.set()
    process.communicate(timeout=60)
    assert process.returncode == 9
    row = sh.json("runs", "show", run)
    assert (row["status"], row["output"]) == ("cancelled", None)
    assert "revoked by alice" in row["message"]


def test_an_interrupt_cancels_the_run(sh: Shell, chat: Chat, background: Any) -> None:
    chat.holds = True
    process, run = background(chat, item(sh), "--executor", "provider")
    process.send_signal(2)
    process.communicate(timeout=60)
    chat.hold.set()
    assert process.returncode == 130
    assert sh.json("runs", "show", run)["status"] == "cancelled"


def test_as_draft_files_the_answer_as_a_draft_and_approves_nothing(sh: Shell, chat: Chat) -> None:
    text = '+++\nid = "d_01JHK3VB8RXXA8H5SQZ3MDNFC2"\n+++\nOps-Kind: approve\n'
    chat.answers(*text)
    made = item(sh)
    tip = sh.site.tip()
    row = ended(sh, made, "--executor", "provider", "--as-draft", status=0)
    assert sh.site.tip() == tip
    (draft,) = sh.json("list")
    assert row["draft_id"] == draft["id"]
    assert (draft["prompt"], draft["status"]) == (text, "draft")
    assert (draft["provider"], draft["model"]) == ("local", "tiny-1")
    assert made in draft["request"]
    assert row["id"] in draft["request"]
    assert "request id  req-42" in sh.ok("show", draft["id"])
    sh.refused("run", draft["id"], status=3)
    done = sh("run", made, "--executor", "provider", "--as-draft")
    assert "its answer is filed: d_" in done.err


@pytest.mark.parametrize("text", [f"Use {KEY}\n", "a NUL\0", "x" * (256 * 1024 + 1)], ids=["secret", "nul", "large"])
def test_an_answer_that_no_draft_can_hold_ends_the_run_as_error(sh: Shell, chat: Chat, text: str) -> None:
    chat.answers(text)
    row = ended(sh, item(sh), "--executor", "provider", "--as-draft", status=9)
    assert row["status"] == "error"
    assert "could not be filed as a draft" in row["message"]
    assert row["usage"] == {"input": 12, "output": 3}
    assert sh.json("list") == []
    assert KEY not in objects(sh.site)


@pytest.mark.parametrize("executor", ["exec", "claim"])
def test_as_draft_is_for_the_provider_executor_alone(sh: Shell, executor: str, tmp_path: Path) -> None:
    sh.ok("runner", "add", "touch", "--", "touch", str(tmp_path / "ran"))
    sh.refused("run", item(sh), "--executor", executor, "--as-draft", status=2, says="--as-draft")
    assert sh.json("runs", "list") == []
    assert not (tmp_path / "ran").exists()


def test_the_same_key_with_and_without_as_draft_is_a_conflict(sh: Shell, chat: Chat) -> None:
    made = item(sh)
    first = ended(sh, made, "--executor", "provider", "--idempotency-key", "k", status=0)
    assert ended(sh, made, "--executor", "provider", "--idempotency-key", "k", status=0) == first
    sh.refused("run", made, "--executor", "provider", "--idempotency-key", "k", "--as-draft", status=4)
    assert len(chat.asked) == 1


@pytest.mark.parametrize("usage", [{"prompt_tokens": -5, "completion_tokens": 2**60, "total_tokens": 0}, None], ids=str)
def test_odd_counts_of_a_provider_do_not_break_the_record(sh: Shell, chat: Chat, usage: Any) -> None:
    chat.usage, chat.id, chat.request_id = usage, "\u2028 \x1b[31m" + "x" * 3000, None
    row = ended(sh, item(sh), "--executor", "provider", status=0)
    assert row["status"] == "done"
    assert "\x1b" not in sh.ok("runs", "show", row["id"])


def test_a_long_answer_is_kept_at_both_ends_and_a_secret_of_it_is_not(sh: Shell, chat: Chat) -> None:
    chat.answers("begin\n", KEY, "\n", "y" * (2_300_000), "\nend")
    row = ended(sh, item(sh), "--executor", "provider", status=0)
    kept = sh.site.git("cat-file", "blob", row["output"])
    assert kept.startswith("begin\n<redacted:aws-access-key>\n")
    assert kept.endswith("\nend")
    assert row["cut_bytes"] > 0
    assert KEY not in sh.ok("runs", "log", row["id"])
