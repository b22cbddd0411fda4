"""The command line on a terminal of 80 by 24: the review desk, questions, editors, colours and interrupts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Site, make_home
from test_cli import Shell, policy_of, put

from opsctl import ids

pexpect = pytest.importorskip("pexpect")
KEYS = "a approve  r return"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


@pytest.fixture
def sh(site: Site) -> Shell:
    """Alice in a repository with a gate."""
    return Shell(site)


@pytest.fixture
def term(sh: Shell) -> Iterator[Callable[..., pexpect.spawn]]:
    """Starts a command on a terminal of its own."""
    started = []

    def start(*argv: str, size: tuple[int, int] = (24, 80), env: dict[str, str] | None = None) -> pexpect.spawn:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "opsctl", *argv],
            cwd=str(sh.site.path),
            env={**sh.site.home.environ, "TERM": "xterm-256color", **(env or {})},
            dimensions=size,
            timeout=15,
            encoding="utf-8",
        )
        child.delaybeforesend = None
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def end(child: pexpect.spawn) -> str:
    """Everything up to the end of the process."""
    child.expect(pexpect.EOF)
    child.close()
    return str(child.before)


def press(child: pexpect.spawn, key: str) -> None:
    """A key once the desk waits for one."""
    child.expect_exact(KEYS)
    child.expect_exact("q quit")
    time.sleep(0.05)  # the terminal is switched to single keys right after the line
    child.send(key)


def script(path: Path, body: str) -> str:
    """An editor that changes the file it is given."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


# -- the desk -----------------------------------------------------------------------------------------------------


def test_review_approves_after_a_and_y(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Do it with sudo rm -rf /tmp/x.", "--path", "src/**")
    child = term("review")
    child.expect_exact("=== 1 of 1 ===")
    child.expect_exact("Do it with sudo")
    press(child, "a")
    child.expect_exact(f"approve revision {sh.digest(ulid)[7:19]}")
    child.expect_exact("[y/N] ")
    child.sendline("y")
    child.expect_exact("signed by alice")
    assert "0 drafts pending" in end(child)
    assert child.exitstatus == 0
    assert sh.json("show", f"a_{ulid}")["approved_by"] == "alice"


@pytest.mark.parametrize("answer", ["", "n", "yep", "a", " ", "Y E S"])
def test_review_approves_nothing_without_a_yes(sh: Shell, term: Callable[..., pexpect.spawn], answer: str) -> None:
    ulid = sh.draft("Do it.")
    child = term("review")
    press(child, "a")
    child.expect_exact("[y/N] ")
    child.sendline(answer)
    press(child, "q")
    end(child)
    assert sh.json("show", ulid)["status"] == "draft"


def test_review_decides_nothing_by_enter_or_any_other_key(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Do it.")
    child = term("review")
    for key in ("\r", "\n", " ", "y", "A", "\x1b[A", "\t"):
        press(child, key)
    press(child, "q")
    assert "1 draft pending" in end(child)
    assert sh.json("show", ulid)["status"] == "draft"
    assert sh.site.git("rev-list", "--count", "ops/approved") == "1"


def test_review_returns_and_rejects_with_a_reason(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    one, two = sh.draft("First."), sh.draft("Second.")
    child = term("review")
    child.expect_exact("=== 1 of 2 ===")
    press(child, "r")
    child.expect_exact("what should change? ")
    child.sendline("name the files")
    child.expect_exact("=== 2 of 2 ===")
    press(child, "x")
    child.expect_exact("why?")
    child.sendline("we do this by hand")
    child.expect_exact("[y/N] ")
    child.sendline("y")
    end(child)
    assert (sh.json("show", one)["status"], sh.json("show", one)["reason"]) == ("draft", "name the files")
    assert (sh.json("show", two)["status"], sh.json("show", two)["reason"]) == ("rejected", "we do this by hand")


def test_review_returns_or_rejects_nothing_without_an_answer(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("First.")
    child = term("review")
    press(child, "r")
    child.expect_exact("what should change? ")
    child.sendline("")
    press(child, "x")
    child.expect_exact("why?")
    child.sendline("no")
    child.expect_exact("[y/N] ")
    child.sendline("")
    press(child, "q")
    end(child)
    assert (sh.json("show", ulid)["status"], sh.json("show", ulid)["reason"]) == ("draft", None)


def test_review_skips_helps_and_leaves(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    for text in ("First.", "Second.", "Third."):
        sh.draft(text)
    child = term("review")
    press(child, "?")
    child.expect_exact("leave it for later")
    press(child, "d")
    child.expect_exact("one revision")
    press(child, "s")
    child.expect_exact("=== 2 of 3 ===")
    press(child, "v")
    child.expect_exact("Second.")
    press(child, "q")
    assert "Third." not in end(child)
    assert len(sh.json("list")) == 3


def test_review_edits_with_the_editor_and_shows_the_new_revision(
    sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path
) -> None:
    ulid = sh.draft("First line.")
    child = term("review", env={"EDITOR": script(tmp_path / "ed", 'sed -i s/First/Better/ "$1"')})
    press(child, "e")
    child.expect_exact("Better line.")
    press(child, "d")
    child.expect_exact("-First line.")
    child.expect_exact("+Better line.")
    press(child, "a")
    child.expect_exact(f"approve revision {sh.digest(ulid)[7:19]}")
    child.sendline("y")
    end(child)
    assert sh.json("show", f"a_{ulid}")["prompt"] == "Better line."


def test_review_shows_what_changed_since_the_last_look(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("First line.")
    child = term("review")
    press(child, "q")
    end(child)
    sh.ok("edit", ulid, "--file", "-", stdin=b"Second line.")
    sh.ok("edit", ulid, "--file", "-", stdin=b"Third line.")
    child = term("review")
    child.expect_exact("it changed since you last looked")
    press(child, "d")
    child.expect_exact("-First line.")
    child.expect_exact("+Third line.")


def test_cc_01_review_approves_only_the_revision_that_it_showed(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Harmless.")
    shown = sh.digest(ulid)[7:19]
    child = term("review")
    child.expect_exact("Harmless.")
    child.expect_exact("q quit")
    sh.ok("edit", ulid, "--file", "-", stdin=b"Harmful.")
    time.sleep(0.05)
    child.send("a")
    child.expect_exact(f"approve revision {shown}")
    child.sendline("y")
    child.expect_exact("error:")
    child.expect_exact("is now")
    press(child, "q")
    end(child)
    assert sh.json("show", ulid)["status"] == "draft"


@pytest.mark.parametrize("first", ["a", "x"])
def test_cc_01_after_a_refusal_review_shows_the_new_revision_before_it_approves_it(
    sh: Shell, term: Callable[..., pexpect.spawn], first: str
) -> None:
    ulid = sh.draft("Harmless.")
    child = term("review")
    child.expect_exact("Harmless.")
    child.expect_exact("q quit")
    sh.ok("edit", ulid, "--file", "-", stdin=b"Harmful.")
    time.sleep(0.05)
    child.send(first)
    if first == "x":
        child.expect_exact("why?")
        child.sendline("")
    child.expect_exact("[y/N] ")
    child.sendline("y")
    child.expect_exact("is now")
    press(child, "a")
    if child.expect_exact(["Harmful.", "[y/N] "]) == 1:
        child.sendline("y")
        child.expect_exact(["signed by", "error:"])
        child.close(force=True)
    assert sh.json("show", f"d_{ulid}")["status"] == "draft"


@pytest.mark.parametrize("key", ["?", "z", "d"])
def test_cc_01_after_any_other_key_too_review_approves_only_what_it_showed(
    sh: Shell, term: Callable[..., pexpect.spawn], key: str
) -> None:
    ulid = sh.draft("Harmless.")
    child = term("review")
    child.expect_exact("Harmless.")
    child.expect_exact("q quit")
    sh.ok("edit", ulid, "--file", "-", stdin=b"Harmful.")
    time.sleep(0.05)
    child.send(key)
    press(child, "a")
    seen = child.expect_exact(["[y/N] ", "error: ", "changed", "=== "])
    if seen == 0:
        child.sendline("y")
        time.sleep(1)
    child.close(force=True)
    assert sh.json("show", ulid)["status"] == "draft"


def test_review_wants_a_long_text_read_to_its_end(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    body = "\n".join(f"line {number}" for number in range(60))
    ulid = sh.ok("draft", "--file", "-", "--title", "Long", stdin=body.encode()).removeprefix("d_")
    child = term("review")
    child.expect_exact("-- space: more, q: enough --")
    time.sleep(0.05)
    child.send("q")
    press(child, "a")
    child.expect_exact("read it to the end first")
    press(child, "v")
    for _ in range(20):
        if child.expect_exact(["-- space: more, q: enough --", KEYS]):
            break
        time.sleep(0.05)
        child.send(" ")
    assert "line 59" in str(child.before)
    time.sleep(0.05)
    child.send("a")
    child.expect_exact("[y/N] ")
    child.sendline("y")
    end(child)
    assert sh.json("show", f"a_{ulid}")


def test_review_takes_the_filters_of_list_and_says_when_nothing_waits(
    sh: Shell, term: Callable[..., pexpect.spawn]
) -> None:
    assert "nothing waits for review" in end(term("review"))
    sh.draft("One.", "--label", "a")
    sh.draft("Two.", "--label", "b")
    child = term("review", "--label", "b")
    child.expect_exact("=== 1 of 1 ===")
    child.expect_exact("Two.")
    press(child, "q")
    assert "One." not in end(child)
    assert "nothing waits" in end(term("review", "--search", "nowhere"))


def test_tx_01_review_shows_hidden_characters_and_does_not_approve_them(
    sh: Shell, term: Callable[..., pexpect.spawn]
) -> None:
    ulid = sh.draft("Do \u202eit\x1b]0;x\x07.", "--title", "t")
    child = term("review")
    child.expect_exact("<U+202E>")
    child.expect_exact("<U+001B>")
    press(child, "a")
    child.expect_exact("[y/N] ")
    child.sendline("y")
    child.expect_exact("hidden characters")
    press(child, "q")
    end(child)
    assert sh.json("show", ulid)["status"] == "draft"


@pytest.mark.parametrize("key", ["\x04", "\x03"])
def test_lm_05_leaving_the_desk_leaves_the_terminal_sane(
    sh: Shell, term: Callable[..., pexpect.spawn], key: str
) -> None:
    sh.draft("Do it.")
    child = pexpect.spawn(
        "/bin/sh", ["-i"], env={**sh.site.home.environ, "PS1": "sh> ", "TERM": "xterm"}, cwd=str(sh.site.path)
    )
    child.expect_exact("sh> ")
    child.sendline(f"'{sys.executable}' -m opsctl review; echo \"status=$?\"; stty -a | tr ';' ' '")
    child.expect_exact(b"q quit", timeout=15)
    time.sleep(0.1)
    child.send(key)
    child.expect(rb"status=(\d+)", timeout=15)
    assert child.match[1] == (b"130" if key == "\x03" else b"0")
    child.expect(rb"[^-]icanon\b", timeout=5)
    child.expect(rb"[^-]echo\b", timeout=5)
    child.close(force=True)


# -- questions ----------------------------------------------------------------------------------------------------


def test_approve_shows_the_draft_asks_and_takes_only_a_yes(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Do it.")
    for answer, status in (("", "draft"), ("no", "draft"), ("y", "approved")):
        child = term("approve", ulid[-8:])
        child.expect_exact("Do it.")
        child.expect_exact(f"approve revision {sh.digest(ulid)[7:19]}? [y/N] ")
        child.sendline(answer)
        said = end(child)
        assert child.exitstatus == (0 if status == "approved" else 3)
        assert ("was not approved" in said) == (status == "draft")
        assert sh.json("show", f"d_{ulid}")["status"] == status


def test_reject_and_revoke_show_the_title_and_take_only_a_yes(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    pending, approved = sh.draft("Pending work."), sh.approved("Approved work.")
    lines = {
        ("reject", pending): ("Pending work.", "rejected"),
        ("revoke", approved, "--reason", "x"): ("Approved work.", "revoked"),
    }
    for argv, (title, status) in lines.items():
        for answer in ("", "y"):
            child = term(*argv)
            child.expect_exact(title)
            child.expect_exact(f"{argv[0]} it? [y/N] ")
            child.sendline(answer)
            assert ("left as it is" in end(child)) == (answer == "")
            assert child.exitstatus == (0 if answer else 3)
            assert (sh.json("show", f"d_{argv[1]}")["status"] == status) == bool(answer)
    assert "[y/N]" not in end(term("reject", sh.draft("Else."), "--yes"))
    assert "[y/N]" not in end(term("revoke", sh.approved("More."), "--reason", "x", "--yes"))


def test_cc_01_approve_is_bound_to_what_it_showed(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Harmless.")
    child = term("approve", ulid)
    child.expect_exact("[y/N] ")
    sh.ok("edit", ulid, "--file", "-", stdin=b"Harmful.")
    child.sendline("y")
    said = end(child)
    assert child.exitstatus == 4
    assert "is now" in said
    assert sh.json("show", ulid)["status"] == "draft"


def test_cc_01_an_edit_by_plain_git_while_the_question_stands_is_refused_too(
    sh: Shell, term: Callable[..., pexpect.spawn]
) -> None:
    ulid = sh.draft("Harmless.")
    child = term("approve", ulid)
    child.expect_exact("[y/N] ")
    put(sh.site, ids.path_of(ulid), sh("show", ulid, "--raw").raw + b"and mail the keys\n")
    child.sendline("y")
    end(child)
    assert child.exitstatus == 4
    assert sh.json("show", ulid)["status"] == "draft"


def test_approve_of_a_draft_with_revisions_shows_the_one_in_force(
    sh: Shell, term: Callable[..., pexpect.spawn]
) -> None:
    ulid = sh.draft("One.")
    sh.ok("edit", ulid, "--file", "-", stdin=b"Two.")
    child = term("approve", ulid)
    child.expect_exact("Two.")
    child.expect_exact("[y/N] ")
    child.sendline("yes")
    end(child)
    assert sh.json("show", f"a_{ulid}")["prompt"] == "Two."


def test_trust_asks_before_it_pins(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    pins = sh.site.home.path / "config/opsctl/trust.toml"
    pins.unlink()
    child = term("trust")
    child.expect_exact("signed by    alice, key SHA256:")
    child.expect_exact("[y/N] ")
    child.sendline("")
    end(child)
    assert child.exitstatus == 3
    assert not pins.exists()
    child = term("trust")
    child.expect_exact("[y/N] ")
    child.sendline("y")
    end(child)
    assert child.exitstatus == 0
    assert pins.exists()


def test_ap_27_a_passphrase_is_asked_once_for_several_approvals(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    key = sh.site.home.key("alice")
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(key)], check=True)
    found = [sh.draft("One."), sh.draft("Two.")]
    child = term("approve", *found, "--yes")
    child.expect_exact("Enter passphrase")
    child.sendline("open sesame")
    assert "Enter passphrase" not in end(child)
    assert child.exitstatus == 0
    assert len(sh.json("list", "--status", "approved")) == 2
    ulid = sh.draft("Three.")
    child = term("approve", ulid, "--yes")
    child.expect_exact("Enter passphrase")
    child.sendcontrol("c")
    end(child)
    assert child.exitstatus in (6, 130) or child.signalstatus == signal.SIGINT
    assert sh.json("show", ulid)["status"] == "draft"


# -- editors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["EDITOR", "VISUAL", "GIT_EDITOR", "core.editor"])
def test_draft_without_text_opens_the_editor(
    sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path, variable: str
) -> None:
    program = script(tmp_path / "ed", 'printf "Written in an editor.\\n" > "$1"')
    env = {} if variable == "core.editor" else {variable: program}
    if variable == "core.editor":
        sh.site.home.git("config", "--global", "core.editor", program)
    child = term("draft", "--title", "From the editor", env={"EDITOR": "false", **env})
    assert "From the editor" in end(child)
    assert child.exitstatus == 0
    (row,) = sh.json("list")
    assert row["prompt"] == "Written in an editor.\n"


@pytest.mark.parametrize(
    ("body", "status"), [("exit 1", 6), (":", 2), ('printf "  \\n" > "$1"', 2), ("kill -9 $$", 6), ('rm "$1"', 6)]
)
def test_draft_of_an_editor_that_fails_or_writes_nothing_is_none(
    sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path, body: str, status: int
) -> None:
    child = term("draft", env={"EDITOR": script(tmp_path / "ed", body)})
    said = end(child)
    assert child.exitstatus == status, said
    assert "Traceback" not in said
    assert sh.json("list") == []


def test_an_editor_that_is_not_there_is_named(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    for name in ("no-such-editor", '"unclosed', ""):
        child = term("draft", env={"EDITOR": name, "PATH": sh.site.home.environ["PATH"] if name else "/nonexistent"})
        said = end(child)
        assert child.exitstatus == 6, said
        assert "error: " in ESCAPE.sub("", said)


def test_edit_opens_the_whole_document_and_is_bound_to_what_it_opened(
    sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path
) -> None:
    ulid = sh.draft("First.")
    child = term("edit", ulid, env={"EDITOR": script(tmp_path / "ed", 'sed -i "s/^title.*/title = \\"New\\"/" "$1"')})
    end(child)
    assert child.exitstatus == 0
    assert sh.json("show", ulid)["title"] == "New"
    flag = tmp_path / "open"
    wait = script(tmp_path / "slow", f'touch {flag}; while [ -e {flag} ]; do sleep 0.05; done; echo x >> "$1"')
    child = term("edit", ulid, env={"EDITOR": wait})
    for _ in range(200):
        if flag.exists():
            break
        time.sleep(0.05)
    sh.ok("edit", ulid, "--title", "Meanwhile")
    flag.unlink()
    end(child)
    assert child.exitstatus == 4
    assert sh.json("show", ulid)["title"] == "Meanwhile"


def test_edit_that_breaks_the_file_is_refused(sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
    ulid = sh.draft("First.")
    for body, says in (
        ('echo "no front matter" > "$1"', "byte 0"),
        ('sed -i s/d_01/d_00/ "$1"', "must stay"),
        ('printf "\\\\0" >> "$1"', "NUL"),
        ('head -c 300000 /dev/zero | tr "\\\\0" x >> "$1"', "at most"),
    ):
        child = term("edit", ulid, env={"EDITOR": script(tmp_path / "ed", body)})
        said = end(child)
        assert child.exitstatus == 2, said
        assert says in said
    assert sh.json("show", ulid)["revision"] == 1


def test_policy_edit_raises_the_epoch(sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
    body = 'sed -i "s|^audience.*|audience = \\"acme/other\\"|" "$1"'
    child = term("policy", "edit", env={"EDITOR": script(tmp_path / "ed", body)})
    child.expect_exact("sign epoch 2 of the policy? [y/N]")
    assert '-audience = "acme/app"' in ESCAPE.sub("", child.before)
    assert '+audience = "acme/other"' in ESCAPE.sub("", child.before)
    child.sendline("y")
    assert "epoch 2: signed as" in end(child)
    assert sh.json("policy", "show")["audience"] == "acme/other"


def test_policy_set_signs_nothing_without_a_yes(sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(sh("policy", "show", "--raw").raw.replace(b"acme/app", b"acme/other"))
    child = term("policy", "set", str(file))
    child.expect_exact("sign epoch 2 of the policy? [y/N]")
    child.sendline("")
    assert "nothing was signed" in end(child)
    assert child.exitstatus == 3
    assert sh.json("policy", "show")["epoch"] == 1
    assert "epoch 2: signed as" in end(term("policy", "set", str(file), "--yes"))
    assert "nothing changed" in end(term("policy", "set", str(file)))


def test_a_policy_that_no_command_could_change_again_says_so_in_its_question(
    sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path
) -> None:
    people = {"alice": sh.site.home.public("alice"), "bob": sh.site.home.public("bob")}
    file = tmp_path / "policy.toml"
    file.write_bytes(policy_of(people, rules='[[rule]]\npaths = ["infra/**"]\nthreshold = 2\n'))
    child = term("policy", "set", str(file), size=(50, 200))
    child.expect_exact("would need 2 signatures, which opsctl cannot collect yet")
    child.expect_exact("and let no command change it any more? [y/N]")
    child.sendline("n")
    assert "nothing was signed" in end(child)
    assert "--freeze" in end(term("policy", "set", str(file), "--yes"))
    assert sh.json("policy", "show")["epoch"] == 1
    child = term("policy", "set", str(file))
    child.expect_exact("[y/N]")
    child.sendline("y")
    assert "epoch 2: signed as" in end(child)


def test_policy_edit_keeps_what_was_typed_when_the_person_says_no(
    sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path
) -> None:
    body = 'sed -i "s|^audience.*|audience = \\"acme/other\\"|" "$1"'
    child = term("policy", "edit", env={"EDITOR": script(tmp_path / "ed", body)})
    child.expect_exact("[y/N]")
    child.sendline("n")
    assert "your text is kept in" in end(child)
    assert sh.json("policy", "show")["epoch"] == 1


def test_list_says_how_many_votes_a_draft_has_and_needs(
    sh: Shell, term: Callable[..., pexpect.spawn], tmp_path: Path
) -> None:
    bob = make_home(tmp_path / "bob", "Bob", "bob@example.com")
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    sh.ok("policy", "set", "-", "--freeze", stdin=policy_of(people, threshold=2))
    voted, fresh = sh.draft("Voted on."), sh.draft("Fresh.")
    sh.ok("approve", voted, "--yes")
    shown = ESCAPE.sub("", end(term("list")))
    assert re.search(r"draft, 1 of 2 .*Voted on\.", shown)
    assert re.search(r"draft, 0 of 2 .*Fresh\.", shown)
    assert "Voted on" not in end(term("list", "--waiting"))
    sh.ok("reject", fresh)
    assert "nothing waits for your vote" in end(term("list", "--waiting"))


# -- waiting ------------------------------------------------------------------------------------------------------


def test_who_waits_for_the_lock_is_told_for_whom(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    with sh.site.ws() as ws, ws.store.lock():
        child = term("draft", "Do it.")
        child.expect_exact(f"waiting for process {os.getpid()}, which is writing to this repository")
        quiet = sh("draft", "Do it.", env={"OPSCTL_LOCK_WAIT": "1.5"})
    assert "next: opsctl review" in end(child)
    assert quiet.status == 6
    assert "waiting for" not in quiet.err, "a script is told by the error alone"


# -- looks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_lm_05_no_colours_where_none_are_wanted(
    sh: Shell, term: Callable[..., pexpect.spawn], env: dict[str, str]
) -> None:
    ulid = sh.draft("Do it.", "--title", "A title")
    for argv in (
        ("list",),
        ("show", ulid),
        ("diff",),
        ("log",),
        ("status",),
        ("doctor",),
        ("verify",),
        ("show", "zzz!"),
    ):
        said = end(term(*argv, env=env))
        assert not re.search(r"\x1b\[[0-9;]*[34][0-9]m", said), (argv, said)
        if "NO_COLOR" not in env:
            assert "\x1b" not in said, (argv, said)


def test_lm_05_colours_on_a_terminal_and_none_in_a_pipe(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Do it.")
    assert "\x1b[" in end(term("list"))
    assert "\x1b[" in end(term("diff", ulid))
    assert "\x1b[1;31merror:" in end(term("show", "!"))
    for argv in (("list",), ("diff", ulid), ("show", ulid), ("status",)):
        done = sh.site.cli(*argv, env={"TERM": "xterm-256color", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"})
        assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_lm_05_a_table_keeps_to_the_width_of_the_terminal(
    sh: Shell, term: Callable[..., pexpect.spawn], columns: int
) -> None:
    from opsctl import text

    for title in ("A title of some length that goes on and on", "日本語の長い題名、とても長い題名です", "Ñandú" * 30):
        sh.draft("Do it.", "--title", title)
    said = end(term("list", size=(24, columns)))
    rows = [ESCAPE.sub("", row) for row in said.replace("\r", "").split("\n")]
    assert max(text.width(row.rstrip()) for row in rows) <= columns
    assert len([row for row in rows if row.strip()]) >= 4
    end(term("log", size=(24, columns)))


def test_an_empty_list_says_nothing_of_drafts_while_the_gate_is_closed(
    sh: Shell, term: Callable[..., pexpect.spawn]
) -> None:
    assert "opsctl draft" in end(term("list"))
    plain = sh.site.git("commit-tree", "-p", sh.site.tip(), "-m", "unsigned", f"{sh.site.tip()}^{{tree}}")
    sh.site.git("update-ref", "refs/heads/ops/approved", plain)
    shown = end(term("list"))
    assert "the gate is closed" in shown
    assert "nothing here" not in shown


def test_list_on_a_terminal_shows_short_ids_that_every_command_takes(
    sh: Shell, term: Callable[..., pexpect.spawn]
) -> None:
    ulid = sh.draft("Do it.", "--title", "A title")
    said = ESCAPE.sub("", end(term("list")))
    row = next(line for line in said.splitlines() if "A title" in line)
    short = row.split()[0]
    assert ulid.endswith(short)
    assert sh.json("show", short) == sh.json("show", ulid)


def test_lm_05_a_long_title_does_not_push_the_short_id_off_the_table(
    sh: Shell, term: Callable[..., pexpect.spawn]
) -> None:
    ulid = sh.draft("Do it.", "--title", "A long title " * 10)
    said = ESCAPE.sub("", end(term("list")))
    row = next(line for line in said.splitlines() if "A long title" in line)
    assert ulid.endswith(row.split()[0])
    assert "Alice" in row


def test_draft_on_a_terminal_says_what_comes_next(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    said = end(term("draft", "Do it."))
    assert "next: opsctl review" in said


def test_show_raw_on_a_terminal_is_inert(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Do \x1b]0;x\x07 it \u202e.", "--title", "t")
    said = end(term("show", ulid, "--raw"))
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "<U+202E>" in said


def test_cr_14_an_interrupt_at_a_question_ends_with_130(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Do it.")
    child = term("approve", ulid)
    child.expect_exact("[y/N] ")
    child.sendcontrol("c")
    said = end(child)
    assert child.exitstatus == 130
    assert "Traceback" not in said
    assert sh.json("show", ulid)["status"] == "draft"


def test_end_of_input_at_a_question_is_a_no(sh: Shell, term: Callable[..., pexpect.spawn]) -> None:
    ulid = sh.draft("Do it.")
    child = term("approve", ulid)
    child.expect_exact("[y/N] ")
    child.sendeof()
    end(child)
    assert sh.json("show", ulid)["status"] == "draft"
