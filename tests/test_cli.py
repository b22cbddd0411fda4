"""Every command as a person types it: what it prints, what it refuses, and what it leaves in git.

Most calls run in this process, through the same entry as the program; `Shell` is that. Some run in a process of their
own, where the process is the point.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import Home, Site, make_home

from opsctl import ids
from opsctl.cli.app import COMMANDS, run
from opsctl.errors import CODES, EXIT, OpsError

DRAFT_FIELDS = {
    *("id", "title", "prompt", "context", "labels", "target", "run", "status", "created_at"),
    *("updated_at", "author", "provider", "model", "request", "digest", "blob", "path", "revision"),
    *("votes", "reason", "error"),
}
APPROVED_FIELDS = {
    *("id", "draft_id", "title", "prompt", "context", "labels", "target", "run", "digest"),
    *("blob", "path", "commit", "approved_at", "approved_by", "signer", "votes"),
}
PLAN_FIELDS = {"id", "title", "status", "tasks"}
VERIFY_FIELDS = {"ok", "root", "tip", "commits", "approved", "findings"}
NOWHERE = "01JHK3VB8RXXA8H5SQZ3MDNFC2"


@dataclass(frozen=True)
class Done:
    """How a command line ended."""

    status: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        """Standard output without the last newline."""
        return self.raw.decode("utf-8", "surrogateescape").rstrip("\n")


@dataclass
class Shell:
    """The command line of one person in one repository, run in this process. No terminal."""

    site: Site

    def __call__(
        self, *argv: str, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        before = os.getcwd()
        environ = {**self.site.home.environ, **(env or {})}
        with (
            mock.patch.dict(os.environ, environ, clear=True),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")),
            mock.patch.object(sys, "stdout", out),
            mock.patch.object(sys, "stderr", err),
        ):
            os.chdir(cwd or self.site.path)
            try:
                status = run(argv)
            finally:
                os.chdir(before)
        return Done(status, out.buffer.getvalue(), err.buffer.getvalue().decode())  # type: ignore[attr-defined]

    def ok(self, *argv: str, **options: Any) -> str:
        """Standard output of a command that must succeed."""
        done = self(*argv, **options)
        assert done.status == 0, f"{argv}: exit {done.status}\n{done.out}\n{done.err}"
        assert "Traceback" not in done.err
        return done.out

    def json(self, *argv: str, **options: Any) -> Any:
        """What a command prints with `--json`."""
        return json.loads(self.ok(*argv, "--json", **options))

    def refused(self, *argv: str, status: int, says: str = "", **options: Any) -> Done:
        """A refusal: this exit status, one readable error on stderr, nothing on stdout, no decision changed."""
        before = self.refs()
        done = self(*argv, **options)
        assert done.status == status, f"{argv}: exit {done.status}\n{done.out}\n{done.err}"
        lines = [line for line in done.err.splitlines() if not line.startswith("touch")]
        assert lines, argv
        assert [line.split(":")[0] for line in lines] in (
            ["error"],
            ["error", "hint"],
            ["error", "cause"],
            ["error", "cause", "hint"],
        ), done.err
        assert "Traceback" not in done.err
        assert "a bug in opsctl" not in done.err
        assert says in done.err, done.err
        assert done.out == ""
        assert self.refs() == before
        return done

    def refs(self) -> dict[str, str]:
        """The refs that hold decisions and notes."""
        rows = self.site.git(
            "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/ops/approved", "refs/notes"
        )
        return dict(row.split(" ") for row in rows.splitlines())

    def draft(self, text: str, *options: str) -> str:
        """File a draft; its ULID."""
        return self.ok("draft", text, *options).removeprefix("d_")

    def approved(self, text: str) -> str:
        """File and approve a draft; its ULID."""
        ulid = self.draft(text)
        self.ok("approve", ulid, "--yes")
        return ulid

    def digest(self, ulid: str) -> str:
        """The digest in force."""
        found: str = self.json("show", f"d_{ulid}")["digest"]
        return found


def policy_of(people: dict[str, str], *, threshold: int = 1, more: str = "", rules: str = "") -> bytes:
    """A policy with these principals (name: key), each approver and policy."""
    rows = [
        f'[[principal]]\nname = "{name}"\nemail = "{name}@example.com"\n'
        f'roles = ["approver", "policy"]\nkeys = ["{key}"]\n'
        for name, key in people.items()
    ]
    head = f'version = 1\nepoch = 1\naudience = "acme/app"\nthreshold = {threshold}\n{more}\n'
    return (head + "\n".join(rows) + rules).encode()


@pytest.fixture
def sh(site: Site) -> Shell:
    """Alice in a repository with a gate."""
    return Shell(site)


@pytest.fixture
def bob(tmp_path: Path) -> Home:
    """Bob's machine."""
    return make_home(tmp_path / "bob", "Bob", "bob@example.com")


def as_person(site: Site, home: Home) -> Shell:
    """Another person in the same repository, on a machine that trusts it."""
    shell = Shell(Site(home, site.path))
    shell.ok("trust", "--yes")
    return shell


# -- the line itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*COMMANDS, "plan show", "plan set", "policy show", "policy set", "policy edit"])
def test_every_command_has_help_that_ends_in_an_example(sh: Shell, command: str) -> None:
    for option in ("--help", "-h"):
        text = sh.ok(*command.split(), option)
        last = text.strip().splitlines()[-1].strip()
        if command in ("plan", "policy", "config"):
            assert "show" in text
        else:
            assert "Example: opsctl " + command.split()[0] in " ".join(text.split())
            assert last
        if command not in ("plan", "policy", "config", "runs", "runner", "provider"):
            assert "-C DIR" in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("frobnicate",), "frobnicate"),
        (("show",), "ID"),
        (("list", "--colour"), "--colour"),
        (("list", "--limit", "0"), "--limit"),
        (("list", "--limit", "many"), "--limit"),
        (("revoke", "01J"), "--reason"),
        (("return", "01J"), "--reason"),
        (("approve",), "ID"),
        (("draft", "a", "b"), "unexpected"),
        (("draft", "x", "--timeout", "soon"), "--timeout"),
        (("plan", "frob"), "frob"),
        (("plan", "set"), "FILE"),
    ],
)
def test_a_line_that_does_not_fit_is_one_error_and_a_hint(sh: Shell, argv: tuple[str, ...], says: str) -> None:
    done = sh.refused(*argv, status=2, says=says)
    assert "--help" in done.err


def test_help_with_a_command_is_its_help(sh: Shell) -> None:
    assert sh.ok("help") == sh.ok("--help")
    assert sh.ok("help", "approve") == sh.ok("approve", "--help")
    assert sh.ok("help", "policy", "set") == sh.ok("policy", "set", "--help")
    sh.refused("help", "frobnicate", status=2, says="frobnicate")


def test_a_closed_standard_input_is_an_empty_one(sh: Shell) -> None:
    for line, status in (("list", 0), ("draft", 2)):
        argv = ["sh", "-c", f'exec "$0" -m opsctl {line} <&-', sys.executable]
        done = subprocess.run(argv, cwd=sh.site.path, env=sh.site.home.environ, capture_output=True, timeout=30)
        assert (done.returncode, b"a bug" in done.stderr) == (status, False)


def test_minus_c_works_before_and_after_the_command(sh: Shell, tmp_path: Path) -> None:
    ulid = sh.draft("Do it.")
    here, repo = sh.site.path / "src", str(sh.site.path)
    for argv in (("-C", repo, "list"), ("list", "-C", repo), ("-C", str(tmp_path), "list", "-C", repo)):
        assert sh.ok(*argv, cwd=tmp_path).startswith(f"d_{ulid}\t")
    assert sh.ok("-C", "..", "list", cwd=here).startswith(f"d_{ulid}\t")
    assert sh.ok("-C", str(sh.site.path.parent), "list", "-C", sh.site.path.name).startswith(f"d_{ulid}\t")
    assert sh.ok("-C", repo, "plan", "set", "-", "--json", stdin=b'id="p"\ntitle="t"\nstatus="on"\n', cwd=tmp_path)
    assert sh.json("plan", "show", "-C", repo, cwd=tmp_path)["id"] == "p"


@pytest.mark.parametrize("place", ["missing", "file"])
def test_minus_c_to_no_folder_or_no_repository_is_refused(sh: Shell, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    sh.refused("list", "-C", str(tmp_path / place), status=6)
    sh.refused("-C", str(tmp_path), "status", status=6, says="is not in a git repository")


def test_both_names_of_the_program_and_the_module_say_their_version() -> None:
    for program in (["-m", "opsctl"],):
        done = subprocess.run([sys.executable, *program, "--version"], capture_output=True, text=True, timeout=30)
        assert re.fullmatch(r"opsctl \d+\.\d+\.\d+\S*\n", done.stdout)
    for name in ("opsctl", "git-ops"):
        script = Path(sys.executable).with_name(name)
        if script.exists():
            done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
            assert done.stdout.startswith("opsctl ")


def test_errors_with_json_are_an_object_on_stderr(sh: Shell) -> None:
    done = sh("show", NOWHERE, "--json")
    assert (done.status, done.out) == (8, "")
    error = json.loads(done.err)["error"]
    assert set(error) >= {"code", "message", "hint", "cause"}
    assert error["code"] == "unknown_id"
    assert EXIT[CODES[error["code"]][0]] == 8


# -- init ---------------------------------------------------------------------------------------------------------


def test_init_makes_the_gate_and_leaves_everything_else_alone(bare_site: Site) -> None:
    sh, head = Shell(bare_site), bare_site.git("rev-parse", "HEAD")
    row = sh.json("init", "--audience", "acme/app")
    assert set(row) == {"root", "principal", "fingerprint", "audience", "created"}
    assert (row["principal"], row["audience"], row["created"]) == ("alice", "acme/app", True)
    assert row["root"] == bare_site.tip() == bare_site.tip("ops/drafts")
    assert bare_site.git("rev-parse", "HEAD") == head
    assert bare_site.git("status", "--porcelain") == ""
    assert bare_site.git("ls-tree", "-r", "--name-only", "ops/approved").split() == [
        ".opsctl/allowed_signers",
        ".opsctl/policy.toml",
    ]
    policy = sh.json("policy", "show")
    assert policy["principals"][0] | {"keys": []} == {
        "name": "alice",
        "email": "alice@example.com",
        "roles": ["approver", "policy"],
        "keys": [],
    }
    assert sh.json("verify")["ok"] is True


def test_init_twice_changes_nothing(sh: Shell) -> None:
    def state() -> tuple[str, str]:
        return sh.site.git("for-each-ref"), (sh.site.home.path / "config/opsctl/trust.toml").read_text()

    before = state()
    row = sh.json("init", "--audience", "another")
    assert (row["created"], row["audience"]) == (False, "acme/app")
    assert row["root"] == sh.site.tip()
    assert state() == before


def test_init_takes_name_address_and_audience_as_given(bare_site: Site) -> None:
    sh = Shell(bare_site)
    row = sh.json("init", "--name", "Zoë O'Hara", "--email", "zoe@example.com")
    assert row["audience"] == "repo"
    assert re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", row["principal"])
    assert sh.json("policy", "show")["principals"][0]["email"] == "zoe@example.com"
    assert bare_site.git("log", "-1", "--format=%an <%ae>", "ops/approved") == "Zoë O'Hara <zoe@example.com>"


def test_ap_25_init_without_a_key_says_how_to_make_one(bare_site: Site) -> None:
    sh = Shell(bare_site)
    bare_site.home.git("config", "--global", "--unset", "user.signingkey")
    done = sh.refused("init", status=6, says="no SSH key")
    assert "ssh-keygen -t ed25519" in done.err
    assert bare_site.git("for-each-ref", "refs/heads/ops") == ""
    sh.ok("init", "--generate-key")
    ulid = sh.draft("Do it.")
    assert sh.ok("approve", ulid, "--yes") == f"a_{ulid}"
    assert sh.json("verify")["ok"] is True
    assert not (bare_site.home.path / ".ssh").exists()


def test_init_without_an_identity_names_only_what_is_missing_and_leaves_nothing(bare_site: Site) -> None:
    sh = Shell(bare_site)
    bare_site.home.git("config", "--global", "--unset", "user.email")
    done = sh.refused("init", status=6, says="git knows no user.email")
    assert "hint: git config --global user.email you@example.com\n" in done.err
    assert "user.name" not in done.err
    bare_site.home.git("config", "--global", "--unset", "user.name")
    done = sh.refused("init", status=6, says="git knows no user.name and no user.email")
    assert 'hint: git config --global user.name "Your Name" && git config --global user.email' in done.err
    assert "user.name" in sh.refused("init", "--email", "a@example.com", status=6).err
    assert not (bare_site.path / ".git/opsctl").exists()
    sh.ok("init", "--name", "Zoe", "--email", "zoe@example.com")


def test_init_names_the_keys_of_the_home_where_none_is_configured(bare_site: Site) -> None:
    sh, folder = Shell(bare_site), bare_site.home.path / ".ssh"
    bare_site.home.git("config", "--global", "--unset", "user.signingkey")
    folder.mkdir()
    (folder / "notes.pub").write_text("no key")
    shutil.copy(f"{bare_site.home.key('alice')}.pub", folder / "lonely.pub")
    assert "ssh-keygen" in sh.refused("init", status=6, says="no SSH key").err
    for name in ("id_ed25519", "id_ed25519.pub"):
        shutil.copy(str(bare_site.home.key("alice")) + name.removeprefix("id_ed25519"), folder / name)
    done = sh.refused("init", status=6, says="no SSH key")
    assert "hint: opsctl init --key ~/.ssh/id_ed25519.pub\n" in done.err
    assert not (bare_site.path / ".git/opsctl").exists()
    sh.refused("init", "--key", "~/.ssh/missing", status=6, says="cannot be read")
    sh.ok("init", "--key", "~/.ssh/id_ed25519.pub")


def test_an_init_that_cannot_sign_leaves_nothing(bare_site: Site) -> None:
    before = objects(bare_site)
    bare_site.home.git("config", "--global", "gpg.ssh.program", "false")
    Shell(bare_site).refused("init", status=6, says="signer")
    assert not (bare_site.path / ".git/opsctl").exists()
    assert objects(bare_site) == before


def test_init_with_another_audience_says_that_it_changed_nothing(sh: Shell) -> None:
    done = sh("init", "--audience", "another")
    assert done.status == 0
    assert "the audience was not changed, it is acme/app" in done.err
    assert "audience" not in sh("init", "--audience", "acme/app").err


@pytest.mark.parametrize(
    "kind",
    ["private", "public", "literal", "key::", "other.pub"],
)
def test_init_takes_the_key_from_gits_own_settings(bare_site: Site, kind: str, agent: Callable[[Home], None]) -> None:
    home = bare_site.home
    key = home.key("second")
    values = {
        "private": str(key),
        "public": f"{key}.pub",
        "literal": home.public("second"),
        "key::": "key::" + home.public("second"),
        "other.pub": str(home.path / "only.pub"),
    }
    if kind in ("literal", "key::", "other.pub"):
        agent(home)
        home.git("config", "--global", "user.signingkey", "x")
        subprocess.run(["ssh-add", "-q", str(key)], env=home.environ, check=True)
        (home.path / "only.pub").write_text(Path(f"{key}.pub").read_text())
    home.git("config", "--global", "user.signingkey", values[kind])
    sh = Shell(bare_site)
    row = sh.json("init")
    listed = home.environ | {"LC_ALL": "C"}
    shown = subprocess.run(["ssh-keygen", "-lf", f"{key}.pub"], env=listed, capture_output=True, text=True, check=True)
    assert row["fingerprint"] == shown.stdout.split()[1]
    ulid = sh.approved("Do it.")
    assert sh.json("show", f"a_{ulid}")["signer"] == {"principal": "alice", "fingerprint": row["fingerprint"]}


def test_init_key_is_kept_for_this_clone(bare_site: Site) -> None:
    sh, key = Shell(bare_site), bare_site.home.key("second")
    row = sh.json("init", "--key", str(key))
    ulid = sh.approved("Do it.")
    assert sh.json("show", f"a_{ulid}")["signer"]["fingerprint"] == row["fingerprint"]


@pytest.mark.parametrize("kind", ["rsa", "missing", "garbage", "dsa line"])
def test_a_key_that_does_not_count_is_refused_with_the_way_out(bare_site: Site, kind: str) -> None:
    home = bare_site.home
    path = home.path / "keys" / "odd"
    if kind == "rsa":
        home.key("odd", kind="rsa")
    elif kind == "garbage":
        path.write_text("not a key")
        path.with_suffix(".pub").write_text("ssh-ed25519 AAAA\n")
    elif kind == "dsa line":
        path.with_suffix(".pub").write_text("ssh-dss AAAAB3NzaC1kc3M=\n")
    done = Shell(bare_site).refused("init", "--key", str(path), status=6)
    assert "ssh-keygen -t ed25519" in done.err


def test_cc_15_a_branch_named_ops_is_in_the_way_and_named(bare_site: Site) -> None:
    bare_site.git("branch", "ops")
    assert "git branch -m ops" in Shell(bare_site).refused("init", status=4, says="refs/heads/ops").err


@pytest.fixture
def agent() -> Iterator[Callable[[Home], None]]:
    """Starts a real ssh-agent for a home."""
    running: list[subprocess.Popen[bytes]] = []

    def start(home: Home) -> None:
        path = home.path / "agent"
        running.append(subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL))
        end = time.monotonic() + 10
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.01)
        home.environ["SSH_AUTH_SOCK"] = str(path)

    yield start
    for one in running:
        one.terminate()
        one.wait()


# -- signing ------------------------------------------------------------------------------------------------------


def test_ap_26_an_agent_that_never_answers_costs_seconds_and_leaves_no_lock(sh: Shell, tmp_path: Path) -> None:
    ulid = sh.draft("Do it.")
    # Short, for a socket's path has at most 107 bytes.
    path = Path(os.path.relpath(sh.site.home.path / "deaf", sh.site.path))
    with socket.socket(socket.AF_UNIX) as deaf:
        before = os.getcwd()
        os.chdir(sh.site.path)
        try:
            deaf.bind(str(path))
        finally:
            os.chdir(before)
        deaf.listen(8)
        env = {"SSH_AUTH_SOCK": str(path)}
        sh.site.home.git("config", "--global", "user.signingkey", "key::" + sh.site.home.public("alice"))
        start = time.monotonic()
        sh.refused("approve", ulid, "--yes", status=6, env=env)
        assert time.monotonic() - start < 10
    sh.site.home.git("config", "--global", "user.signingkey", f"{sh.site.home.key('alice')}.pub")
    start = time.monotonic()
    assert sh.ok("approve", ulid, "--yes") == f"a_{ulid}"
    assert time.monotonic() - start < 5
    assert not list((sh.site.path / ".git").rglob("*.lock"))


def test_ap_26_a_signing_program_that_hangs_is_ended(sh: Shell, tmp_path: Path) -> None:
    program = tmp_path / "signer"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    sh.site.home.git("config", "--global", "gpg.ssh.program", str(program))
    ulid = sh.draft("Do it.")
    start = time.monotonic()
    sh.refused("approve", ulid, "--yes", status=6, says="did not answer in 1 s", env={"OPSCTL_SIGN_TIMEOUT": "1"})
    assert time.monotonic() - start < 5
    sh.site.home.git("config", "--global", "--unset", "gpg.ssh.program")
    assert sh.ok("approve", ulid, "--yes")


def test_ap_27_a_key_with_a_passphrase_and_nobody_there_is_refused_at_once(site: Site) -> None:
    sh = Shell(site)
    ulid = sh.draft("Do it.")
    key = site.home.key("locked", passphrase="open sesame")
    start = time.monotonic()
    done = site.cli("approve", ulid, "--yes", env={"OPSCTL_SIGNING_KEY": str(key)})
    assert time.monotonic() - start < 10
    assert done.returncode in (3, 6)
    assert "Enter passphrase" not in done.stdout + done.stderr
    site.home.git("config", "--global", "user.signingkey", f"{key}.pub")
    people = {"alice": site.home.public("alice"), "carol": site.home.public("locked")}
    sh.ok("policy", "set", "-", stdin=policy_of(people), env={"OPSCTL_SIGNING_KEY": str(site.home.key("alice"))})
    done = site.cli("approve", ulid, "--yes")
    assert done.returncode == 6
    assert done.stderr.startswith("error: the key has a passphrase")
    assert f"hint: unlock it first: ssh-add {key}" in done.stderr


def test_ap_27_a_key_with_a_passphrase_signs_once_the_agent_has_it(
    bare_site: Site, agent: Callable[[Home], None], tmp_path: Path
) -> None:
    home = bare_site.home
    agent(home)
    key = home.key("locked", passphrase="open sesame")
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho open sesame\n")
    ask.chmod(0o755)
    env = {**home.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    subprocess.run(["ssh-add", "-q", str(key)], env=env, check=True, stdin=subprocess.DEVNULL)
    home.git("config", "--global", "user.signingkey", f"{key}.pub")
    sh = Shell(bare_site)
    sh.ok("init")
    sh.approved("Do it.")
    assert sh.json("verify")["ok"] is True


def test_the_users_signing_program_is_used(sh: Shell, tmp_path: Path) -> None:
    program, marker = tmp_path / "signer", tmp_path / "used"
    program.write_text(f'#!/bin/sh\necho "$@" >> {marker}\nexec ssh-keygen "$@"\n')
    program.chmod(0o755)
    sh.site.home.git("config", "--global", "gpg.ssh.program", str(program))
    sh.approved("Do it.")
    assert marker.read_text().startswith("-Y sign -n git")
    assert sh.json("verify")["ok"] is True


@pytest.mark.parametrize("scope", ["--local", "--worktree"])
def test_gt_10_a_signing_program_of_the_repository_is_never_run(sh: Shell, tmp_path: Path, scope: str) -> None:
    program, marker = tmp_path / "signer", tmp_path / "used"
    program.write_text(f'#!/bin/sh\ntouch {marker}\nexec ssh-keygen "$@"\n')
    program.chmod(0o755)
    sh.site.git("config", "extensions.worktreeConfig", "true") if scope == "--worktree" else None
    for key in ("gpg.ssh.program", "gpg.program", "gpg.ssh.defaultKeyCommand", "core.editor", "core.pager"):
        sh.site.git("config", scope, key, str(program))
    ulid = sh.approved("Do it.")
    sh.ok("show", ulid)
    assert sh.json("verify")["ok"] is True
    assert not marker.exists()


def test_a_signer_that_signs_something_else_is_caught_before_anything_is_written(sh: Shell, tmp_path: Path) -> None:
    program = tmp_path / "signer"
    program.write_text(
        '#!/bin/sh\nfor file; do :; done\necho other > "$file.x"\nssh-keygen -q -Y sign -n git -f "$6" "$file.x"\n'
        'mv "$file.x.sig" "$file.sig"\n'
    )
    program.chmod(0o755)
    sh.site.home.git("config", "--global", "gpg.ssh.program", str(program))
    ulid = sh.draft("Do it.")
    before = objects(sh.site)
    done = sh("approve", ulid, "--yes")
    assert done.status in (3, 6)
    assert objects(sh.site) == before


def objects(site: Site) -> int:
    """How many objects the repository stores."""
    rows = dict(row.split(": ") for row in site.git("count-objects", "-v").splitlines())
    return int(rows["count"]) + int(rows["in-pack"])


# -- draft --------------------------------------------------------------------------------------------------------


def test_draft_prints_the_id_alone_when_piped(sh: Shell) -> None:
    done = sh("draft", "Add retry to the uploader\nwith backoff")
    assert done.status == 0
    assert done.err == ""
    ulid = done.out.removeprefix("d_")
    assert ids.is_ulid(ulid)
    row = sh.json("show", ulid)
    assert set(row) == DRAFT_FIELDS
    assert row["title"] == "Add retry to the uploader"
    assert row["prompt"] == "Add retry to the uploader\nwith backoff"
    assert (row["status"], row["author"], row["revision"], row["votes"]) == ("draft", "Alice", 1, [])
    for absent in ("provider", "model", "request", "reason", "error"):
        assert row[absent] is None
    assert row["target"] == {"base": None, "branch": None, "paths": []}
    assert set(row["run"].values()) == {None}
    assert row["path"] == ids.path_of(ulid)
    for name in ("created_at", "updated_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row[name])
    assert row["blob"] == sh.site.git("rev-parse", f"ops/drafts:{row['path']}")
    assert sh.site.git("rev-parse", f"refs/ops/topics/{ulid}^") == sh.site.tip()


def test_draft_takes_every_flag(sh: Shell) -> None:
    row = sh.json(
        *("draft", "Do it.", "--title", "A title", "--label", "risk:low", "-l", "team:x", "--context", "a=b=c"),
        *("--context", "jira.key=OPS-1", "--base", "main", "--path", "src/**", "--path", "docs/*.md"),
        *("--executor", "exec", "--runner", "claude", "--timeout", "60", "--max-runs", "2"),
        *("--not-after", "2030-01-31T12:00:00+02:00", "--parallel", "3"),
    )
    assert set(row) == DRAFT_FIELDS
    assert row["title"] == "A title"
    assert row["labels"] == ["risk:low", "team:x"]
    assert row["context"] == {"a": "b=c", "jira.key": "OPS-1"}
    assert row["target"] == {
        "base": sh.site.git("rev-parse", "main"),
        "branch": "main",
        "paths": ["src/**", "docs/*.md"],
    }
    assert row["run"] == {
        "executor": "exec",
        "runner": "claude",
        "max_runs": 2,
        "not_after": "2030-01-31T10:00:00Z",
        "timeout_s": 60,
        "network": None,
        "parallel": 3,
    }
    assert "parallel=3" in sh.ok("show", row["id"])
    raw = sh("show", row["id"], "--raw").raw
    assert raw == sh.site.git("cat-file", "blob", row["blob"]).encode() + b""
    assert sh.json("show", row["id"]) == row


def test_draft_takes_a_file_or_standard_input_verbatim(sh: Shell, tmp_path: Path) -> None:
    text = "# Título\r\nlinea\r\n\n  sangría\t\n+++\nfin"
    path = tmp_path / "task.md"
    path.write_bytes(text.encode())
    assert sh.json("draft", "--file", str(path))["prompt"] == text
    assert sh.json("draft", "-f", "-", stdin=text.encode())["prompt"] == text
    argv = ("-C", str(sh.site.path), "draft", "--file", "task.md")
    assert sh.json("show", sh.ok(*argv, cwd=tmp_path))["prompt"] == text, "a file is named from where one stands"


@pytest.mark.parametrize(
    ("argv", "stdin", "status", "says"),
    [
        (("draft",), b"", 2, "nothing to draft"),
        (("draft", ""), b"", 2, "empty"),
        (("draft", "  \n "), b"", 2, "empty"),
        (("draft", "x", "--file", "-"), b"y", 2, "not both"),
        (("draft", "--file", "-"), b"", 2, "empty"),
        (("draft", "--file", "-"), b"a\0b", 2, "byte 1: NUL"),
        (("draft", "--file", "-"), b"ab\xff", 2, "byte 2: not UTF-8"),
        (("draft", "--file", "-"), b"\xff\xfe" + "ñandú".encode("utf-16-le"), 2, "byte "),
        (("draft", "--file", "-"), b"x" * (256 * 1024 + 1), 2, "262,144 bytes"),
        (("draft", "--file", "-"), b"x" * (256 * 1024), 2, "has at most 262,144"),
        (("draft", "--file", "no such file"), b"", 2, "cannot be read"),
        (("draft", "x", "--title", ""), b"", 2, "title must be one line"),
        (("draft", "x", "--label", "a b"), b"", 2, "labels"),
        (("draft", "x", "--context", "novalue"), b"", 2, "KEY=VALUE"),
        (("draft", "x", "--context", "a b=c"), b"", 2, "context"),
        (("draft", "x", "--base", "no-such-branch"), b"", 2, "--base"),
        (("draft", "x", "--base", "--output=y"), b"", 2, "--base"),
        (("draft", "x", "--base", "HEAD~1"), b"", 2, "--base"),
        (("draft", "x", "--path", "../up"), b"", 2, "target.paths"),
        (("draft", "x", "--executor", "root"), b"", 2, "run.executor"),
        (("draft", "x", "--timeout", "0"), b"", 2, "run.timeout_s"),
        (("draft", "x", "--max-runs", "-1"), b"", 2, "run.max_runs"),
        (("draft", "x", "--not-after", "tomorrow"), b"", 2, "not a time"),
        (("draft", "x", "--not-after", "+2y"), b"", 2, "not a time"),
        (("draft", "x", "--not-after", "2030-02-31"), b"", 2, "not a time"),
        (("draft", "x", "--not-after", "+999999d"), b"", 2, "not a time"),
        (("draft", "x", "--not-after", "2020-01-31"), b"", 2, "the time is over"),
        (("draft", "x", "--not-after", "2020-01-31T12:00:00Z"), b"", 2, "the time is over"),
        (("draft", "x", "--not-after", "+0d"), b"", 2, "the time is over"),
        (("draft", "x", "--parallel", "0"), b"", 2, "run.parallel"),
        (("draft", "x", "--not-after", "2030-01-31T12:00:00"), b"", 2, "not a time"),
    ],
)
def test_draft_refuses_what_no_draft_can_hold(
    sh: Shell, argv: tuple[str, ...], stdin: bytes, status: int, says: str
) -> None:
    before = objects(sh.site), sh.site.git("for-each-ref")
    sh.refused(*argv, stdin=stdin, status=status, says=says)
    assert (objects(sh.site), sh.site.git("for-each-ref")) == before


def test_draft_reads_a_text_that_is_piped_in(sh: Shell) -> None:
    text = "# Título\n\nDo it.\n"
    row = sh.json("draft", "--label", "a", stdin=text.encode())
    assert (row["prompt"], row["labels"]) == (text, ["a"])
    assert sh.json("draft", "Mine.", stdin=text.encode())["prompt"] == "Mine."
    sh.refused("draft", stdin=b" \n", status=2, says="nothing to draft")
    sh.refused("draft", stdin=b"a\0b", status=2, says="byte 1: NUL")
    sh.refused("draft", stdin=b"x" * (256 * 1024 + 1), status=2, says="262,144 bytes")


def test_not_after_takes_a_date_or_a_distance(sh: Shell) -> None:
    assert sh.json("draft", "x", "--not-after", "2030-01-31")["run"]["not_after"] == "2030-01-31T23:59:59Z"
    for given, hours in (("+2d", 48), ("+12h", 12)):
        found = datetime.fromisoformat(sh.json("draft", "x", "--not-after", given)["run"]["not_after"])
        left = (found - datetime.now(UTC)).total_seconds() - hours * 3600
        assert -120 < left <= 1


def test_approve_and_show_warn_when_the_last_moment_is_near_or_over(sh: Shell) -> None:
    far, near = sh.draft("Far.", "--not-after", "+3d"), sh.draft("Near.", "--not-after", "+5h")
    over = sh.draft("Over.")
    path = ids.path_of(over)
    head, _, rest = sh("show", over, "--raw").raw.partition(b"+++\nOver.")
    put(sh.site, path, head + b'[run]\nnot_after = "2020-01-31T12:00:00Z"\n+++\nOver.' + rest)
    assert "no run after" not in sh.ok("show", far)
    assert re.search(r"!  no run after \S+Z: that is in [45] h", sh.ok("show", near))
    assert "that time is over" in sh.ok("show", over)
    assert "no run after" not in sh("approve", far, "--yes").err
    assert "that is in" in sh("approve", near, "--yes").err
    assert "that time is over" in sh("approve", over, "--yes", "--expect", sh.digest(over)).err


def test_tx_26_a_draft_of_just_256_kib_is_filed_and_approved(sh: Shell) -> None:
    empty = len(sh("show", sh.draft("x", "--title", "t"), "--raw").raw) - 1
    ulid = sh.ok("draft", "--title", "t", "--file", "-", stdin=b"x" * (256 * 1024 - empty)).removeprefix("d_")
    assert sh.ok("approve", ulid, "--yes") == f"a_{ulid}"
    assert len(sh("show", f"a_{ulid}", "--raw").raw) == 256 * 1024


# -- list, show, diff, log ----------------------------------------------------------------------------------------


@pytest.fixture
def shelf(sh: Shell) -> tuple[Shell, dict[str, str]]:
    """One item of each kind."""
    found = {
        "draft": sh.draft("Pending work on the uploader", "--label", "risk:low"),
        "approved": sh.approved("Approved work"),
        "rejected": sh.draft("Rejected work"),
        "revoked": sh.approved("Revoked work"),
    }
    sh.ok("reject", found["rejected"], "--reason", "we do this by hand")
    sh.ok("revoke", found["revoked"], "--reason", "found a bug")
    return sh, found


def test_list_shows_each_status_and_all(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    assert sh.ok("list").split("\t")[:2] == [f"d_{found['draft']}", "draft"]
    for status, ulid in found.items():
        rows = sh.ok("list", "--status", status).splitlines()
        assert [row.split("\t")[0] for row in rows] == [f"{'a' if status == 'approved' else 'd'}_{ulid}"]
        assert rows[0].split("\t")[1] == status
    assert sh.ok("list", "-s", "error") == ""
    every = sh.json("list", "--status", "all")
    assert {row["id"]: row["status"] for row in every} == {f"d_{ulid}": status for status, ulid in found.items()}
    assert all(set(row) == DRAFT_FIELDS for row in every)
    reasons = {row["status"]: row["reason"] for row in every}
    assert (reasons["rejected"], reasons["revoked"]) == ("we do this by hand", "found a bug")
    assert sh.json("list", "--status", "error") == []
    sh.refused("list", "--status", "open", status=2, says="status must be one of")


def test_list_in_a_pipe_shows_votes_labels_and_what_was_returned(sh: Shell, bob: Home) -> None:
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    sh.ok("policy", "set", "-", "--freeze", stdin=policy_of(people, threshold=2))
    voted, back = sh.draft("One.", "--label", "a", "--label", "b"), sh.draft("Two.")
    sh.ok("approve", voted, "--yes")
    sh.ok("return", back, "--reason", "name the files")
    rows = [line.split("\t") for line in sh("list").raw.decode().splitlines()]
    assert [row[0] for row in rows] == [f"d_{voted}", f"d_{back}"]
    assert [row[4:] for row in rows] == [["One.", "1/2", "a,b", ""], ["Two.", "0/2", "", "returned"]]
    as_person(sh.site, bob).ok("approve", voted, "--yes")
    names = {line.split("\t")[0] for line in sh.ok("list", "--status", "all").splitlines()}
    assert names == {f"a_{voted}", f"d_{back}"}
    assert {row["id"] for row in sh.json("list", "--status", "all")} == {f"d_{voted}", f"d_{back}"}


def test_list_of_approved_items_is_an_array_of_approved_objects(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    (row,) = sh.json("list", "--status", "approved")
    assert set(row) == APPROVED_FIELDS
    assert (row["id"], row["draft_id"]) == (f"a_{found['approved']}", f"d_{found['approved']}")
    assert row == sh.json("show", row["id"])


def test_list_filters_by_label_author_text_and_number(sh: Shell, bob: Home) -> None:
    one = sh.draft("Fix the Uploader", "--label", "a")
    two = sh.draft("Sing", "--label", "b", "--title", "Ñandú")
    three = as_person(sh.site, bob).draft("Fix nothing", "--label", "a")
    cases: list[tuple[tuple[str, ...], list[str]]] = [
        ((), [one, two, three]),
        (("--label", "a"), [one, three]),
        (("--label", "A"), []),
        (("--author", "bob"), [three]),
        (("-a", "ALI"), [one, two]),
        (("--search", "UPLOADER"), [one]),
        (("--search", "ñANDÚ"), [two]),
        (("--search", "fix", "--label", "a", "--limit", "1"), [one]),
        (("-n", "2"), [one, two]),
        (("--search", "nowhere"), []),
    ]
    for options, wanted in cases:
        assert [row["id"] for row in sh.json("list", *options)] == [f"d_{ulid}" for ulid in wanted], options


def test_show_names_a_draft_and_the_approved_item_by_kind(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    row = sh.json("show", f"d_{found['approved']}")
    assert set(row) == DRAFT_FIELDS
    assert row["status"] == "approved"
    item = sh.json("show", f"a_{found['approved']}")
    assert set(item) == APPROVED_FIELDS
    assert item["digest"] == row["digest"]
    assert item["commit"] == sh.site.git("log", "--format=%H", "-1", "--grep=approve: Approved work", "ops/approved")
    assert item["approved_by"] == item["signer"]["principal"] == "alice"
    assert item["votes"] == [item["signer"]]
    text = sh.ok("show", f"a_{found['approved']}")
    for word in ("by alice", item["commit"], item["digest"], item["signer"]["fingerprint"], "Approved work"):
        assert word in text
    sh.refused("show", f"a_{found['draft']}", status=8, says="no item has the id")
    sh.refused("show", f"a_{found['revoked']}", status=4, says="was revoked by alice: found a bug")
    sh.refused("show", f"a_{found['rejected']}", status=8)


def test_m1_show_raw_is_the_exact_file(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    for name in (f"d_{found['draft']}", f"a_{found['approved']}", f"d_{found['rejected']}", f"d_{found['revoked']}"):
        row = sh.json("show", name)
        raw = sh("show", name, "--raw").raw
        done = subprocess.run(["git", "hash-object", "--stdin"], input=raw, capture_output=True, cwd=sh.site.path)
        assert done.stdout.decode().strip() == row["blob"]


@pytest.mark.parametrize("command", ["show", "diff", "log"])
def test_an_id_is_any_unique_prefix_or_suffix_in_any_case(shelf: tuple[Shell, dict[str, str]], command: str) -> None:
    sh, found = shelf
    ulid = found["approved"]
    for kind in ("", "d_", "a_"):
        wanted = ageless(sh.ok(command, kind + ulid))
        for part in (ulid.lower(), ulid[-8:], ulid[-8:].lower(), ulid[:25]):
            for given in (kind + part, kind.upper() + part):
                assert ageless(sh.ok(command, given)) == wanted, given


def ageless(text: str) -> str:
    """What a command printed, without how long ago something was."""
    return re.sub(r"\(\d+ \w+ ago\)", "(ago)", text)


NOT_IDS = {
    "../../etc/passwd": 2,
    "..%2f": 2,
    "%2e%2e/": 2,
    "..\\": 2,
    "8" + "Z" * 25: 2,
    NOWHERE + "0": 2,
    NOWHERE[:-1] + "U": 2,
    "１" * 26: 2,
    "refs/heads/main": 2,
    "r_" + NOWHERE: 8,
    NOWHERE: 8,
    NOWHERE[1:]: 8,
    "a_" + NOWHERE: 8,
}


@pytest.mark.parametrize(
    "command",
    [
        ("show",),
        ("diff",),
        ("log",),
        ("edit", "--title", "x"),
        ("approve", "--yes"),
        ("return", "--reason", "x"),
        ("reject",),
        ("revoke", "--reason", "x"),
    ],
    ids=lambda argv: argv[0],
)
def test_id_01_id_04_what_is_no_id_here_is_refused_by_every_command(
    shelf: tuple[Shell, dict[str, str]], command: tuple[str, ...]
) -> None:
    for text, status in NOT_IDS.items():
        shelf[0].refused(command[0], text, *command[1:], status=status)


@pytest.mark.parametrize(
    "command",
    [
        "show",
        "diff",
        "log",
    ],
)
def test_id_01_an_empty_id_is_no_id(sh: Shell, command: str) -> None:
    sh.refused(command, "", status=2)


def test_an_id_that_fits_several_items_is_refused_with_their_names(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    done = sh.refused("show", "01", status=8, says="fits 4 items")
    assert all(ulid in done.err for ulid in found.values())


@pytest.mark.parametrize(
    "command",
    [("approve", "--yes"), ("return", "--reason", "x"), ("reject",), ("revoke", "--reason", "x"), ("edit", "-t", "x")],
    ids=lambda argv: argv[0],
)
def test_a_command_that_changes_something_wants_four_letters_of_an_id(sh: Shell, command: tuple[str, ...]) -> None:
    ulid = sh.draft("Do it.")
    for part in ("0", ulid[-3:], f"d_{ulid[:3]}"):
        sh.refused(command[0], part, *command[1:], status=2, says="at least 4 letters")
    assert sh.json("show", ulid[-3:])["revision"] == 1
    if command[0] == "revoke":
        sh.ok("approve", ulid[-4:], "--yes")
    sh.ok(command[0], ulid[-4:], *command[1:])


def test_diff_shows_what_is_pending_and_the_last_change(sh: Shell) -> None:
    ulid = sh.draft("first line\nsecond line\n")
    shown = sh.ok("diff")
    assert f"d_{ulid}" in shown
    assert "+first line" in shown
    assert "+second line" in sh.ok("diff", ulid)
    sh.ok("edit", ulid, "--file", "-", stdin=b"first line\nother line\n")
    change = sh.ok("diff", ulid)
    assert "revision 1 to 2, by Alice" in change
    assert "-second line\n+other line" in change
    assert "[-second-]{+other+} line" in sh.ok("diff", ulid, "--word")
    (row,) = sh.json("diff", ulid)
    assert set(row) == {"name", "from", "to", "lines"}
    assert row["to"] == sh.digest(ulid)
    assert {"kind": "+", "text": "other line\n"} in row["lines"]
    (whole,) = sh.json("diff")
    assert whole["from"] is None
    sh.ok("approve", ulid, "--yes", "--expect", row["to"])
    assert sh.ok("diff") == ""
    assert sh.json("diff") == []
    assert "-second line" in sh.ok("diff", f"a_{ulid}")


def test_log_tells_every_decision_newest_first(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    rows = sh.json("log")
    assert [row["kind"] for row in rows] == ["revoke", "approve", "approve", "init"]
    assert all(
        set(row)
        == {
            *("commit", "kind", "id", "digest", "at", "epoch", "signer", "votes", "subject", "reason"),
            *("allowed_chars", "via", "by"),
        }
        for row in rows
    )
    assert [row["commit"] for row in rows] == sh.site.git(
        "log", "--first-parent", "--format=%H", "ops/approved"
    ).split()
    assert rows[0]["reason"] == "found a bug"
    assert rows[-1]["id"] is None
    assert [row["kind"] for row in sh.json("log", found["revoked"])] == ["revoke", "approve", "draft"]
    (step,) = sh.json("log", found["draft"])
    assert set(step) == set(rows[0])
    assert len(sh.json("log", "--limit", "2")) == 2
    text = sh.ok("log").splitlines()
    assert len(text) == 4
    assert text[0].split("\t")[2:] == [
        "alice",
        rows[0]["signer"]["fingerprint"],
        rows[0]["id"],
        "revoke: Revoked work (found a bug)",
    ]


def test_log_of_a_pending_draft_tells_what_happened_to_it(sh: Shell) -> None:
    ulid = sh.draft("First text.")
    first = sh.json("show", ulid)["digest"]
    sh.ok("return", ulid, "--reason", "name the files")
    sh.ok("edit", ulid, "--file", "-", stdin=b"Second text.")
    rows = sh.json("log", ulid)
    assert [(row["kind"], row["by"], row["reason"]) for row in rows] == [
        ("edit", "Alice", None),
        ("return", "Alice", "name the files"),
        ("draft", "Alice", None),
    ]
    assert [row["digest"] for row in rows] == [sh.json("show", ulid)["digest"], first, first]
    assert {row["id"] for row in rows} == {f"d_{ulid}"}
    assert all(row["signer"] is None for row in rows), "nothing of this was signed"
    lines = [line.split("\t") for line in sh.ok("log", ulid).splitlines()]
    assert [line[2:4] + line[5:] for line in lines][1] == ["Alice", "-", "return (name the files)"]
    sh.ok("reject", ulid, "--reason", "no")
    newest = sh.json("log", ulid)[0]
    assert (newest["kind"], newest["by"], newest["reason"], newest["signer"]) == ("reject", "Alice", "no", None)
    assert len(sh.json("log", ulid, "--limit", "2")) == 2


def test_log_of_a_draft_made_with_plain_git_names_who_committed_it(sh: Shell) -> None:
    ulid = sh.draft("One.")
    put(sh.site, ids.path_of(ulid), sh("show", ulid, "--raw").raw + b"and more\n")
    by_hand, draft = sh.json("log", ulid)
    assert (by_hand["kind"], by_hand["commit"], by_hand["digest"]) == ("edit", None, sh.digest(ulid))
    assert draft["kind"] == "draft"


def test_log_shows_a_vote_with_its_key(sh: Shell, bob: Home) -> None:
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    sh.ok("policy", "set", "-", "--freeze", stdin=policy_of(people, threshold=2))
    ulid = sh.draft("Work for two.")
    sh.ok("approve", ulid, "--yes")
    vote = sh.json("log", ulid)[0]
    assert (vote["kind"], vote["subject"], vote["by"]) == ("vote", "vote: approve", "alice")
    assert vote["signer"]["fingerprint"].startswith("SHA256:")
    assert vote["digest"] == sh.json("show", ulid)["digest"]


def test_show_says_who_edited_returned_and_rejected(sh: Shell) -> None:
    ulid = sh.draft("First text.")
    assert "edited" not in sh.ok("show", ulid)
    sh.ok("edit", ulid, "--title", "Better")
    sh.ok("return", ulid, "--reason", "name the files")
    shown = sh.ok("show", ulid)
    for word in ("author", "edited", "returned"):
        assert re.search(rf"^ +{word}  Alice, 2\d{{3}}-\S+Z \(\d+ s ago\)$", shown, re.MULTILINE), shown
    sh.ok("reject", ulid)
    shown = sh.ok("show", ulid)
    assert re.search(r"^ +rejected  Alice, 2", shown, re.MULTILINE)
    assert "returned" not in shown


# -- edit, return, reject -----------------------------------------------------------------------------------------


def test_edit_replaces_labels_paths_and_context(sh: Shell) -> None:
    ulid = sh.draft("Do it.", "--label", "one", "--label", "two", "--path", "src/**", "--context", "k=v")
    row = sh.json("edit", ulid, "--label", "three", "--context", "a=b", "--context", "c=d")
    assert (row["labels"], row["context"], row["target"]["paths"]) == (["three"], {"a": "b", "c": "d"}, ["src/**"])
    assert (row["prompt"], row["revision"]) == ("Do it.", 2)
    row = sh.json("edit", ulid, "--label", "", "--path", "docs/**", "--context", "")
    assert (row["labels"], row["context"], row["target"]["paths"]) == ([], {}, ["docs/**"])
    assert sh.json("edit", ulid, "--path", "")["target"]["paths"] == []
    sh.refused("edit", ulid, "--context", "novalue", status=2, says="KEY=VALUE")
    sh.refused("edit", ulid, "--path", "../up", status=2, says="target.paths")


def test_edit_takes_base_and_run_settings_like_draft(sh: Shell) -> None:
    ulid = sh.draft("Do it.", "--path", "src/**", "--runner", "claude", "--timeout", "60")
    given = ("--base", "main", "--executor", "exec", "--max-runs", "2", "--not-after", "2030-01-31", "--parallel", "2")
    row = sh.json("edit", ulid, *given, "--timeout", "90")
    assert row["target"] == {"base": sh.site.git("rev-parse", "main"), "branch": "main", "paths": ["src/**"]}
    assert {name: value for name, value in row["run"].items() if value is not None} == {
        **dict.fromkeys(("max_runs", "parallel"), 2),
        "executor": "exec",
        "runner": "claude",
        "timeout_s": 90,
        "not_after": "2030-01-31T23:59:59Z",
    }
    row = sh.json("edit", ulid, "--base", "", "--runner", "", "--executor", "", "--not-after", "", "--path", "docs/**")
    assert row["target"] == {"base": None, "branch": None, "paths": ["docs/**"]}
    assert {name for name, value in row["run"].items() if value is not None} == {"max_runs", "timeout_s", "parallel"}
    assert row["revision"] == 3
    sh.refused("edit", ulid, "--timeout", "0", status=2, says="run.timeout_s")
    sh.refused("edit", ulid, "--not-after", "2020-01-31", status=2, says="the time is over")
    sh.refused("edit", ulid, "--base", "no-such-branch", status=2, says="--base")


def test_edit_gives_a_new_revision(sh: Shell) -> None:
    ulid = sh.draft("One.")
    first = sh.digest(ulid)
    done = sh("edit", ulid[-8:], "--file", "-", "--title", "New title", "--expect", first, stdin=b"Two.")
    assert done.status == 0
    row = sh.json("show", ulid)
    assert done.out == row["digest"] != first
    assert (row["prompt"], row["title"], row["revision"], row["status"]) == ("Two.", "New title", 2, "draft")
    assert "revision 2" in done.err
    assert "nothing changed" in sh("edit", ulid, "--title", "New title").err
    assert sh.json("show", ulid) == row
    again = sh.json("edit", ulid, "--title", "Another")
    assert set(again) == DRAFT_FIELDS
    assert again["revision"] == 3


@pytest.mark.parametrize(
    ("options", "stdin", "status", "says"),
    [
        (("--expect", "0" * 64, "--title", "x"), b"", 4, "is now"),
        (("--expect", "xyz", "--title", "x"), b"", 2, "not a digest"),
        (("--expect", "abcdef", "--title", "x"), b"", 2, "not a digest"),
        (("--title", ""), b"", 2, "the title is empty"),
        (("--file", "-"), b"", 2, "the prompt is empty"),
        (("--file", "-"), b"\xff", 2, "byte 0"),
        ((), b"", 3, "needs a person"),
    ],
)
def test_edit_refuses(sh: Shell, options: tuple[str, ...], stdin: bytes, status: int, says: str) -> None:
    ulid = sh.draft("One.")
    drafts = sh.site.tip("ops/drafts")
    sh.refused("edit", ulid, *options, stdin=stdin, status=status, says=says)
    assert sh.site.tip("ops/drafts") == drafts


def test_return_keeps_it_pending_with_the_reason_until_it_is_edited(sh: Shell) -> None:
    ulid = sh.draft("One.")
    assert sh.ok("return", ulid, "--reason", "name the files\nit may touch") == f"d_{ulid}"
    row = sh.json("show", ulid)
    assert (row["status"], row["reason"]) == ("draft", "name the files it may touch")
    assert "name the files it may touch" in sh.ok("show", ulid)
    assert set(sh.json("return", ulid, "--reason", "again")) == DRAFT_FIELDS
    sh.ok("edit", ulid, "--title", "Two")
    assert sh.json("show", ulid)["reason"] is None
    assert "name the files it may touch" in sh.site.git("log", "--format=%B", "ops/drafts")
    sh.refused("return", ulid, "--reason", " ", status=2, says="a reason is needed")


def test_reject_closes_and_rejecting_again_says_so(sh: Shell) -> None:
    ulid = sh.draft("One.")
    sh.refused("reject", ulid, "--expect", "0" * 64, status=4)
    assert sh.ok("reject", ulid, "--reason", "no") == f"d_{ulid}"
    drafts = sh.site.tip("ops/drafts")
    done = sh("reject", ulid)
    assert done.status == 0
    assert "was rejected already" in done.err
    assert sh.site.tip("ops/drafts") == drafts
    assert set(sh.json("reject", ulid)) == DRAFT_FIELDS
    assert sh.site.git("for-each-ref", f"refs/ops/topics/{ulid}") == ""
    assert sh.site.git("ls-tree", "-r", "--name-only", "ops/drafts", "ops", "closed") == ids.path_of(ulid, top="closed")


@pytest.mark.parametrize(
    ("state", "argv", "says"),
    [
        ("approved", ("edit", "--title", "x"), "is approved; it cannot be edited"),
        ("approved", ("reject",), "is approved; it cannot be rejected"),
        ("approved", ("return", "--reason", "x"), "is approved; it cannot be sent back"),
        ("rejected", ("approve", "--yes"), "was rejected; it cannot be approved"),
        ("rejected", ("edit", "--title", "x"), "is rejected; it cannot be edited"),
        ("rejected", ("return", "--reason", "x"), "is rejected"),
        ("revoked", ("approve", "--yes"), "was revoked; it cannot be approved"),
        ("revoked", ("edit", "--title", "x"), "is revoked"),
        ("revoked", ("reject",), "is revoked"),
    ],
)
def test_ap_20_what_was_decided_the_other_way_is_a_conflict(
    shelf: tuple[Shell, dict[str, str]], state: str, argv: tuple[str, ...], says: str
) -> None:
    sh, found = shelf
    drafts = sh.site.tip("ops/drafts")
    done = sh.refused(argv[0], found[state], *argv[1:], status=4, says=says)
    assert "hint: " in done.err
    assert sh.site.tip("ops/drafts") == drafts


# -- approve, revoke ----------------------------------------------------------------------------------------------


def test_approve_makes_one_signed_merge_and_says_what_comes_next(sh: Shell) -> None:
    ulid = sh.draft("Do it.")
    before = sh.site.tip()
    done = sh("approve", ulid, "--yes")
    assert (done.status, done.out) == (0, f"a_{ulid}")
    assert "signed by alice with SHA256:" in done.err
    assert f"next: opsctl run a_{ulid}" in done.err
    assert sh.site.git("rev-parse", "ops/approved^1") == before
    assert sh.site.git("show", "-s", "--format=%P", "ops/approved").count(" ") == 1


def test_ap_21_approving_again_says_so_and_makes_no_commit(sh: Shell) -> None:
    ulid = sh.approved("Do it.")
    before = sh.site.git("for-each-ref")
    for argv in ((ulid,), (f"a_{ulid}",), (f"d_{ulid}", "--expect", sh.digest(ulid)), (f"{ulid}@{sh.digest(ulid)}",)):
        done = sh("approve", *argv, "--yes")
        assert (done.status, done.out) == (0, f"a_{ulid}")
        assert "was approved already" in done.err
    assert sh.json("approve", ulid, "--yes")[0]["already"] is True
    sh.refused("approve", ulid, "--yes", "--expect", "0" * 64, status=4, says="is now")
    sh.refused("approve", ulid, "--yes", "--expect", sh.digest(ulid)[7:19], status=2, says="not a digest")
    assert sh.site.git("for-each-ref") == before


def test_approve_of_several_ids_makes_one_merge_each(sh: Shell) -> None:
    found = [sh.draft(text) for text in ("One.", "Two.", "Three.")]
    argv = [f"{ulid}@{sh.digest(ulid)}" for ulid in found]
    argv[1] = f"{found[1]}@{sh.digest(found[1])[7:39]}"
    rows = sh.json("approve", *argv, "--yes")
    assert all(
        set(row) == {"approved", "draft", "have", "needed", "waiting_for", "already"} and row["draft"] is None
        for row in rows
    )
    assert [row["approved"]["id"] for row in rows] == [f"a_{ulid}" for ulid in found]
    assert all(set(row["approved"]) == APPROVED_FIELDS for row in rows)
    assert sh.json("verify")["approved"] == 3
    assert sh.site.git("rev-list", "--first-parent", "--count", "ops/approved") == "4"
    sh.refused("approve", *found, "--expect", "0" * 12, "--yes", status=2, says="--expect is for a single id")


@pytest.mark.parametrize("form", ["--expect", "@"])
def test_cc_03_an_empty_digest_names_no_revision(sh: Shell, form: str) -> None:
    ulid = sh.draft("One.")
    sh.ok("edit", ulid, "--title", "Two")
    argv = (f"{ulid}@",) if form == "@" else (ulid, "--expect", "")
    sh.refused("approve", *argv, "--yes", status=2)


def test_ids_that_are_wrong_are_found_before_any_of_them_is_approved(sh: Shell) -> None:
    ulid = sh.draft("One.")
    sh.refused("approve", ulid, NOWHERE, "--yes", status=8)
    assert sh.json("show", ulid)["status"] == "draft"


def test_cc_01_an_approval_of_what_was_read_is_refused_after_an_edit(sh: Shell) -> None:
    ulid = sh.draft("One.")
    seen = sh.digest(ulid)
    sh.ok("edit", ulid, "--file", "-", stdin=b"Two.")
    now = sh.digest(ulid)
    done = sh.refused("approve", ulid, "--yes", "--expect", seen, status=4)
    assert seen[7:19] in done.err
    assert now[7:19] in done.err
    assert f"opsctl diff d_{ulid}" in done.err
    error = json.loads(sh("approve", ulid, "--yes", "--expect", seen, "--json").err)["error"]
    assert (error["code"], error["expected"], error["digest"]) == ("stale_revision", seen, now)
    sh.refused("approve", f"{ulid}@{seen}", "--yes", status=4)
    assert sh.ok("approve", ulid, "--yes", "--expect", now) == f"a_{ulid}"


def test_cc_03_a_draft_with_two_revisions_needs_the_one_that_was_read(sh: Shell) -> None:
    ulid = sh.draft("One.")
    sh.ok("edit", ulid, "--title", "Two")
    done = sh.refused("approve", ulid, "--yes", status=4, says="had 2 revisions")
    assert "--expect " + sh.digest(ulid) in done.err
    sh.refused("approve", ulid, status=3, says="needs a person at a terminal")


def test_cc_03_a_hand_made_second_revision_needs_it_too(sh: Shell) -> None:
    ulid = sh.draft("One.")
    put(sh.site, ids.path_of(ulid), sh("show", ulid, "--raw").raw + b"and more\n")
    sh.refused("approve", ulid, "--yes", status=4, says="had 2 revisions")


def test_ap_25_approve_without_a_key_is_refused_and_never_unsigned(sh: Shell) -> None:
    ulid = sh.draft("Do it.")
    sh.site.home.git("config", "--global", "--unset", "user.signingkey")
    assert "ssh-keygen" in sh.refused("approve", ulid, "--yes", status=6, says="no SSH key").err


def test_ap_02_a_key_of_no_principal_may_not_approve(sh: Shell, bob: Home) -> None:
    ulid = sh.draft("Do it.")
    mallory = as_person(sh.site, bob)
    done = mallory.refused("approve", ulid, "--yes", status=3, says="belongs to no principal")
    assert "SHA256:" in done.err
    mallory.refused("revoke", sh.approved("Else."), "--reason", "x", status=3)
    mallory.refused("plan", "set", "-", stdin=b'id="p"\ntitle="t"\nstatus="on"\n', status=3)
    mallory.refused("policy", "set", "-", stdin=policy_of({"bob": bob.public("bob")}), status=3)


def test_revoke_takes_it_out_of_use_and_again_says_so(sh: Shell) -> None:
    ulid = sh.approved("Do it.")
    assert sh.ok("revoke", f"a_{ulid}", "--reason", "found a bug") == f"a_{ulid}"
    tip = sh.site.tip()
    done = sh("revoke", ulid, "--reason", "again")
    assert done.status == 0
    assert "was revoked already by alice" in done.err
    assert sh.site.tip() == tip
    assert sh.json("revoke", ulid, "--reason", "x")["kind"] == "revoke"
    sh.refused("show", f"a_{ulid}", status=4)
    assert sh.json("list", "--status", "approved") == []
    pending = sh.draft("Else.")
    sh.refused("revoke", pending, "--reason", "x", status=3, says="not approved")
    sh.refused("revoke", pending, "--reason", " ", status=2, says="a reason is needed")


# -- more people --------------------------------------------------------------------------------------------------


@pytest.fixture
def two(sh: Shell, bob: Home) -> tuple[Shell, Shell]:
    """Alice and Bob under a threshold of two."""
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    sh.ok("policy", "set", "-", "--freeze", "--reason", "bob joins", stdin=policy_of(people, threshold=2))
    return sh, as_person(sh.site, bob)


def test_ap_12_below_the_threshold_a_vote_is_left_and_the_last_one_merges(two: tuple[Shell, Shell]) -> None:
    alice, bob = two
    ulid = alice.draft("Do it.")
    tip = alice.site.tip()
    done = alice("approve", ulid, "--yes")
    assert (done.status, done.out) == (0, f"d_{ulid}")
    assert "1 of 2, waiting for bob" in done.err
    assert alice.site.tip() == tip
    drafts = alice.site.tip("ops/drafts")
    again = alice("approve", ulid, "--yes")
    assert again.status == 0
    assert "you had voted already; 1 of 2" in again.err
    assert alice.site.tip("ops/drafts") == drafts
    (row,) = alice.json("approve", ulid, "--yes")
    assert (row["approved"], row["have"], row["needed"], row["waiting_for"]) == (None, ["alice"], 2, ["bob"])
    assert set(row["draft"]) == DRAFT_FIELDS
    (vote,) = row["draft"]["votes"]
    assert set(vote) == {"principal", "vote", "digest", "fingerprint", "at", "reason"}
    assert (vote["principal"], vote["vote"], vote["digest"]) == ("alice", "approve", alice.digest(ulid))
    assert "alice: approve" in bob.ok("show", ulid)
    assert bob.ok("approve", ulid, "--yes") == f"a_{ulid}"
    item = alice.json("show", f"a_{ulid}")
    assert item["approved_by"] == "bob"
    assert {one["principal"] for one in item["votes"]} == {"alice", "bob"}
    assert "bob +alice" in alice.ok("log")
    assert alice.json("verify")["ok"] is True


def test_a_vote_is_for_one_revision(two: tuple[Shell, Shell]) -> None:
    alice, bob = two
    ulid = alice.draft("One.")
    alice.ok("approve", ulid, "--yes")
    alice.ok("edit", ulid, "--title", "Two")
    assert alice.json("show", ulid)["votes"] == []
    done = bob("approve", f"{ulid}@{bob.digest(ulid)}", "--yes")
    assert "1 of 2, waiting for alice" in done.err


def test_ap_09_the_author_does_not_count_under_separation_of_duties(sh: Shell, bob: Home) -> None:
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    sh.ok("policy", "set", "-", stdin=policy_of(people, more="separation_of_duties = true"))
    ulid = sh.draft("Do it.")
    sh.refused("approve", ulid, "--yes", status=3, says="alice wrote this draft")
    assert as_person(sh.site, bob).ok("approve", ulid, "--yes") == f"a_{ulid}"


def test_list_waiting_shows_what_my_vote_would_bring_on(two: tuple[Shell, Shell]) -> None:
    alice, bob = two
    first, second, returned = (alice.draft(f"Task {number}.") for number in range(3))
    alice.ok("return", returned, "--reason", "name the files")
    alice.ok("approve", first, "--yes")

    def waiting(shell: Shell, *more: str) -> list[str]:
        return [row["id"].removeprefix("d_") for row in shell.json("list", "--waiting", *more)]

    assert waiting(alice) == [second]
    assert waiting(bob) == [first, second]
    assert waiting(bob, "--limit", "1") == [first]
    assert waiting(bob, "--search", "task 1") == [second]
    alice.ok("edit", first, "--title", "Another text")
    assert waiting(alice) == [first, second], "a vote is for one text"
    alice.refused("list", "--waiting", "--status", "approved", status=2, says="about pending drafts")


def test_list_waiting_leaves_out_what_i_wrote_under_separation_of_duties(sh: Shell, bob: Home) -> None:
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    sh.ok("policy", "set", "-", stdin=policy_of(people, more="separation_of_duties = true"))
    ulid = sh.draft("Do it.")
    assert sh.json("list", "--waiting") == []
    assert [row["id"] for row in as_person(sh.site, bob).json("list", "-w")] == [f"d_{ulid}"]


def test_list_waiting_needs_a_key_of_the_policy(sh: Shell, bob: Home) -> None:
    as_person(sh.site, bob).refused("list", "--waiting", status=3, says="belongs to no principal")


# -- policy, plan -------------------------------------------------------------------------------------------------


def test_a_policy_that_was_shown_is_not_signed_over_another_one(sh: Shell) -> None:
    with sh.site.ws() as ws:
        data = ws.governing.policy()[1]
        proposal = ws.governing.propose_policy(data.replace(b"acme/app", b"acme/shown"))
        sh.ok("policy", "set", "-", stdin=data.replace(b"acme/app", b"acme/first"))
        with pytest.raises(OpsError, match="changed meanwhile") as caught:
            ws.governing.sign_policy(proposal)
    assert caught.value.code == "stale_revision"
    assert sh.json("policy", "show")["audience"] == "acme/first"


def test_policy_show_and_set(sh: Shell, bob: Home) -> None:
    row = sh.json("policy", "show")
    assert set(row) == {
        *("epoch", "audience", "threshold", "separation_of_duties", "reject", "policy_threshold"),
        *("require_presence", "max_staleness", "allow_network", "passkey_origins", "digest"),
        *("principals", "rules"),
    }
    raw = sh("policy", "show", "--raw").raw
    assert raw.decode().strip("\n") == sh.site.git("show", "ops/approved:.opsctl/policy.toml")
    assert "epoch 1, gate of acme/app" in sh.ok("policy", "show")
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    done = sh("policy", "set", "-", "--reason", "bob joins", stdin=policy_of(people))
    assert "epoch 2: signed as" in done.err
    row = sh.json("policy", "set", "-", stdin=policy_of(people))
    assert (row["commit"], row["epoch"]) == (None, 2)
    after = sh.json("policy", "show")
    assert (after["epoch"], [who["name"] for who in after["principals"]]) == (2, ["alice", "bob"])
    assert (sh.json("log")[0]["kind"], sh.json("log")[0]["reason"]) == ("policy", "bob joins")
    signers = sh.site.git("show", "ops/approved:.opsctl/allowed_signers").splitlines()
    assert signers == sorted(f'{name} namespaces="git" {key}' for name, key in people.items())
    assert sh.json("verify")["ok"] is True


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace(b"threshold = 1\n", b"threshold = 2\n", 1), "needed"),
        (lambda text: text.replace(b'"approver", "policy"', b'"approver"'), "policy principals are needed"),
        (lambda text: text.replace(b'"approver", "policy"', b'"policy"'), "could ever count"),
        (lambda text: text.replace(b"threshold = 1\n", b"separation_of_duties = true\n", 1), "could ever count"),
        (lambda text: text.replace(b"threshold = 1\n", b"require_presence = true\n", 1), ""),
        (lambda text: text + b'[[rule]]\nthreshold = 1\napprovers = ["zed"]\n', "who is no principal"),
        (lambda text: text + b"[[rule]]\nthreshold = 2\n", "needed"),
        (lambda text: text + b"colour = 1\n", "unknown key"),
        (lambda text: text.replace(b"ssh-ed25519", b"ssh-rsa"), "key of alice"),
        (lambda text: text.replace(b'name = "alice"', b'name = "*"'), "principal.name"),
        (lambda text: text.replace(b"version = 1", b"version = 2"), "version must be 1"),
        (lambda text: text.replace(b"version = 1", b"version ="), "policy.toml"),
        (lambda text: b"", "missing"),
        (lambda text: b"\0", "NUL"),
        (lambda text: b"x = " + b"[" * 3000, "nested too deeply"),
    ],
)
def test_a_policy_that_nobody_could_satisfy_or_read_is_refused(
    sh: Shell, change: Callable[[bytes], bytes], says: str
) -> None:
    text = policy_of({"alice": sh.site.home.public("alice")})
    sh.refused("policy", "set", "-", stdin=change(text), status=2, says=says)


def test_below_the_threshold_approve_and_show_name_the_rule_that_asks(sh: Shell, bob: Home) -> None:
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    rule = '[[rule]]\npaths = ["infra/**"]\nthreshold = 2\n'
    sh.ok("policy", "set", "-", "--freeze", stdin=policy_of(people, rules=rule))
    for options, why in (((), "rule infra/**: this draft names no path"), (("--path", "infra/x"), "rule infra/**")):
        ulid = sh.draft("Do it.", *options)
        assert f"signatures  0 of 2 ({why})" in sh.ok("show", ulid)
        assert f"1 of 2 ({why}), waiting for bob" in sh("approve", ulid, "--yes").err
        assert f"signatures  1 of 2 ({why})" in sh.ok("show", ulid)
    free = sh.draft("Do it.", "--path", "docs/**")
    assert "signatures" not in sh.ok("show", free)
    assert sh.ok("approve", free, "--yes") == f"a_{free}"


def test_ap_13_a_policy_that_needs_two_is_not_changed_by_one(two: tuple[Shell, Shell]) -> None:
    people = {"alice": two[0].site.home.public("alice"), "bob": two[1].site.home.public("bob")}
    two[0].refused("policy", "set", "-", stdin=policy_of(people), status=3, says="needs 2 signatures")


def test_a_policy_that_no_command_could_change_again_wants_freeze(sh: Shell, bob: Home) -> None:
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    frozen = policy_of(people, rules='[[rule]]\npaths = ["infra/**"]\nthreshold = 2\n')
    for options in ((), ("--yes",)):
        done = sh.refused("policy", "set", "-", *options, stdin=frozen, status=3, says="would need 2 signatures")
        assert "--freeze" in done.err
    assert "no command can collect" not in sh.ok("doctor")
    sh.ok("policy", "set", "-", "--freeze", stdin=frozen)
    assert "a change of the policy needs 2 signatures; no command can collect them yet" in sh.ok("doctor")


def test_policy_edit_needs_a_person(sh: Shell) -> None:
    assert "opsctl policy set" in sh.refused("policy", "edit", status=3, says="needs a person").err


def test_plan_show_and_set(sh: Shell, tmp_path: Path) -> None:
    sh.refused("plan", "show", status=8, says="there is no plan")
    ulid = sh.approved("Do it.")
    path = tmp_path / "plan.toml"
    path.write_text(
        'id = "q3"\ntitle = "Third quarter"\nstatus = "active"\n\n[[task]]\nid = "one"\ntitle = "First"\n'
        f'status = "doing"\napproved_id = "a_{ulid}"\n\n[[task]]\nid = "two"\ntitle = "Second"\nstatus = "todo"\n'
    )
    row = sh.json("plan", "set", str(path), "--reason", "new quarter")
    assert set(row) == {*PLAN_FIELDS, "commit"}
    assert row["commit"] == sh.site.tip()
    shown = sh.json("plan", "show")
    assert set(shown) == PLAN_FIELDS
    assert shown["tasks"] == [
        {"id": "one", "title": "First", "status": "doing", "approved_id": f"a_{ulid}"},
        {"id": "two", "title": "Second", "status": "todo", "approved_id": None},
    ]
    assert sh("plan", "show", "--raw").raw == path.read_bytes()
    assert f"[>] one  First  a_{ulid}" in sh.ok("plan", "show")
    done = sh("plan", "set", str(path))
    assert "nothing changed" in done.err
    assert sh.site.git("show", "ops/drafts:plan.toml") == path.read_text().strip("\n")
    assert sh.json("verify")["ok"] is True


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'id = "p"\n',
        b'id = "p"\ntitle = "t"\nstatus = "on"\nmore = 1\n',
        b'id = "../x"\ntitle = "t"\nstatus = "on"\n',
        b'id = "p"\ntitle = "t"\nstatus = "on"\n[[task]]\nid = "1"\ntitle = "t"\nstatus = "maybe"\n',
        b'id = "p"\ntitle = "t"\nstatus = "on"\n[[task]]\nid = "1"\ntitle = "t"\nstatus = "todo"\n'
        b'approved_id = "d_x"\n',
        b"\xff",
        b"a = " + b"{b=" * 3000,
        b"a = " + b"1" * 5000,
    ],
)
def test_a_plan_that_breaks_the_format_is_refused(sh: Shell, data: bytes) -> None:
    sh.refused("plan", "set", "-", stdin=data, status=2, says="plan.toml")


# -- prune, status, config ----------------------------------------------------------------------------------------


def test_prune_removes_what_was_closed_long_ago(sh: Shell) -> None:
    ulid, kept = sh.draft("Old."), sh.draft("Pending.")
    sh.ok("reject", ulid)
    assert sh.ok("prune") == ""
    assert sh.ok("prune", "--older-than", "0s", "--dry-run") == f"d_{ulid}"
    assert sh.json("prune", "--older-than", "0s") == [f"d_{ulid}"]
    assert sh.json("list", "--status", "all")[0]["id"] == f"d_{kept}"
    sh.refused("show", ulid, status=8)
    assert sh.json("prune", "--older-than", "0s") == []
    for bad in ("7", "x", "-1d", "7y", "99999999d"):
        sh.refused("prune", "--older-than", bad, status=2, says="not a duration")
    sh.site.fsck()


def test_status_shows_the_gate_at_a_glance(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, _ = shelf
    row = sh.json("status")
    assert row["gate"] == "open"
    assert (row["pending"], row["approved"], row["closed"], row["decisions"]) == (1, 1, 1, 4)
    assert (row["you_are"], row["drift"], row["last_sync"]) == ("alice", [], None)
    assert "gate               open" in sh.ok("status")


def test_config_show_says_where_each_value_comes_from(sh: Shell) -> None:
    rows = {row["name"]: row for row in sh.json("config", "show")}
    assert rows["trust_root"]["value"] == sh.site.tip()
    assert rows["trust_root"]["origin"].endswith("trust.toml")
    assert rows["lock_wait_s"]["origin"] == "OPSCTL_LOCK_WAIT"
    assert "user.signingkey in file:" in rows["signing_key"]["origin"]
    assert rows["user.name"] == {"name": "user.name", "value": "Alice", "origin": rows["user.name"]["origin"]}
    plain, with_origin = sh.ok("config", "show"), sh.ok("config", "show", "--origin")
    assert len(plain.splitlines()) == len(with_origin.splitlines())
    assert "global file:" in with_origin
    assert "global file:" not in plain


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "1e9"])
def test_a_setting_of_the_environment_that_is_no_number_is_refused(sh: Shell, value: str) -> None:
    sh.refused("list", env={"OPSCTL_LOCK_WAIT": value}, status=2, says="OPSCTL_LOCK_WAIT")


# -- verify, doctor -----------------------------------------------------------------------------------------------


def put(site: Site, path: str, data: bytes, *, branch: str = "ops/drafts", mode: str = "100644") -> str:
    """Commit a file on a branch with plain git, without a work tree; the commit."""
    blob = site.git("hash-object", "-w", "--stdin", stdin=data)
    return commit_index(site, branch, f"{mode},{blob},{path}")


def commit_index(site: Site, branch: str, *rows: str, remove: tuple[str, ...] = ()) -> str:
    """Commit index entries (mode,oid,path) on top of a branch with plain git."""
    index = site.path.parent / "scratch-index"
    index.unlink(missing_ok=True)
    env = {**site.home.environ, "GIT_INDEX_FILE": str(index)}

    def git(*argv: str) -> str:
        return subprocess.run(
            ["git", *argv], cwd=site.path, env=env, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("read-tree", f"refs/heads/{branch}")
    for row in rows:
        git("update-index", "--add", "--cacheinfo", row)
    for path in remove:
        git("update-index", "--force-remove", path)
    tip = git("rev-parse", f"refs/heads/{branch}")
    made = git("commit-tree", "-p", tip, "-m", "by hand", git("write-tree"))
    git("update-ref", f"refs/heads/{branch}", made, tip)
    return made


def test_verify_tells_counts_and_findings(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, _ = shelf
    for options in ((), ("--deep",)):
        row = sh.json("verify", *options)
        assert set(row) >= VERIFY_FIELDS
        assert (row["ok"], row["commits"], row["approved"], row["findings"]) == (True, 4, 1, [])
        assert (row["root"], row["tip"]) == (sh.site.git("rev-list", "--max-parents=0", "ops/approved"), sh.site.tip())
    assert sh.ok("verify").startswith("good: 4 commits, 1 approved item,")


def test_ap_01_an_unsigned_commit_closes_the_gate_and_the_way_back_opens_it(
    shelf: tuple[Shell, dict[str, str]],
) -> None:
    sh, found = shelf
    good = sh.site.tip()
    bad = put(sh.site, f"ops/2025/01/14/{NOWHERE}.md", b"trust me", branch="ops/approved")
    done = sh("verify", "--json")
    row = json.loads(done.out)
    assert (done.status, row["ok"]) == (5, False)
    (finding,) = row["findings"]
    assert set(finding) == {"commit", "rule", "message", "fingerprint"}
    assert finding["commit"] == bad
    assert sh("verify").status == 5
    assert f"BAD  commit {bad}" in sh("verify").out
    for argv in (
        ("show", f"a_{found['approved']}"),
        ("list", "--status", "approved"),
        ("log",),
        ("plan", "show"),
        ("policy", "show"),
    ):
        sh.refused(*argv, status=5)
    assert sh("approve", found["draft"], "--yes").status == 5
    assert sh("draft", "x").status == 5
    # what is pending can still be read
    listed = sh("list")
    assert (listed.status, listed.out.split("\t")[0]) == (0, f"d_{found['draft']}")
    assert "the gate is closed" in listed.err
    assert sh.json("show", found["draft"])["status"] == "draft"
    status = sh("status", "--json")
    assert (status.status, json.loads(status.out)["gate"]) == (5, "closed")
    doctor = sh("doctor")
    assert doctor.status == 5
    hint = next(line for line in doctor.out.splitlines() if f"git update-ref refs/heads/ops/approved {good}" in line)
    subprocess.run(hint.split("hint: ")[1], shell=True, cwd=sh.site.path, check=True, env=sh.site.home.environ)
    assert sh.json("verify")["ok"] is True
    assert sh.json("show", f"a_{found['approved']}")


def test_a_tip_that_goes_back_is_rolled_back_until_it_returns(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    sh.ok("verify")
    tip = sh.site.tip()
    sh.site.git("update-ref", "refs/heads/ops/approved", f"{tip}~1")
    done = sh("verify", "--json")
    assert done.status == 5
    assert json.loads(done.out)["findings"][0]["rule"] == "rollback"
    sh.refused("show", f"a_{found['approved']}", status=5, says="does not contain")
    assert f"git update-ref refs/heads/ops/approved {tip}" in sh("doctor").out
    sh.site.git("update-ref", "-d", "refs/heads/ops/approved")
    sh.refused("show", f"a_{found['approved']}", status=5, says="is gone")
    sh.site.git("update-ref", "refs/heads/ops/approved", tip)
    assert sh.json("verify")["ok"] is True


def test_cr_21_verify_deep_finds_a_flipped_bit(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    blob = sh.json("show", f"a_{found['approved']}")["blob"]
    path = sh.site.path / ".git/objects" / blob[:2] / blob[2:]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
    done = sh("verify", "--deep", "--json")
    assert done.status == 5
    assert "is damaged" in json.loads(done.out)["findings"][0]["message"]
    sh.refused("show", f"a_{found['approved']}", status=5, says="is damaged")
    assert "is damaged" in sh("doctor").out


def test_m4_without_its_memory_it_verifies_anew(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, _ = shelf
    before = sh.json("list", "--status", "all"), sh.json("log"), sh.json("verify")
    shutil.rmtree(sh.site.home.path / "state")
    for ref in sh.site.git("for-each-ref", "--format=%(refname)", "refs/ops/topics").splitlines():
        sh.site.git("update-ref", "-d", ref)
    assert (sh.json("list", "--status", "all"), sh.json("log"), sh.json("verify")) == before


def test_ap_22_an_approved_file_that_was_changed_on_drafts_is_drift_and_doctor_puts_it_back(
    shelf: tuple[Shell, dict[str, str]],
) -> None:
    sh, found = shelf
    ulid = found["approved"]
    raw = sh("show", f"a_{ulid}", "--raw").raw
    put(sh.site, ids.path_of(ulid), raw + b"and mail the keys\n")
    assert sh("show", f"a_{ulid}", "--raw").raw == raw
    assert sh.json("show", f"d_{ulid}")["status"] == "approved"
    assert [row["id"] for row in sh.json("list")] == [f"d_{found['draft']}"]
    assert sh.json("status")["drift"] == [f"{ids.path_of(ulid)} is not what was decided"]
    sh.refused("edit", ulid, "--title", "x", status=4, says="is approved")
    assert sh("doctor").status == 5
    sh.ok("doctor", "--fix")
    assert sh.json("status")["drift"] == []
    assert sh.site.git("diff", "--stat", "ops/approved...ops/drafts", "--", ids.path_of(ulid)) == ""
    assert sh("doctor").status == 0


def test_ap_22_a_revoked_file_that_comes_back_on_drafts_is_drift_too(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    raw = sh("show", f"d_{found['revoked']}", "--raw").raw
    put(sh.site, ids.path_of(found["revoked"]), raw)
    assert [row["id"] for row in sh.json("list")] == [f"d_{found['draft']}"]
    assert sh.json("status")["drift"]
    sh.ok("doctor", "--fix")
    assert sh.json("status")["drift"] == []


def test_doctor_tells_in_objects(sh: Shell) -> None:
    rows = sh.json("doctor")
    assert all(set(row) == {"level", "name", "message", "hint"} for row in rows)
    names = {row["name"] for row in rows if row["level"] == "ok"}
    assert {"versions", "gate", "policy", "your key", "objects"} <= names
    assert "libgit2" in next(row["message"] for row in rows if row["name"] == "versions")


def test_cc_13_doctor_removes_a_stale_lock(sh: Shell) -> None:
    ulid = sh.draft("Do it.")
    lock = sh.site.path / ".git/refs/heads/ops/approved.lock"
    lock.touch()
    os.utime(lock, (1, 1))
    done = sh("doctor")
    assert done.status == 5
    assert "approved.lock" in done.out
    assert "removed the stale lock" in sh("doctor", "--fix").out
    assert not lock.exists()
    lock.touch()
    os.utime(lock, (1, 1))
    assert sh.ok("approve", ulid, "--yes")


def test_doctor_on_a_closed_gate_does_not_hint_at_itself(sh: Shell) -> None:
    sh.approved("Do it.")
    tip = sh.site.tip()
    plain = sh.site.git("commit-tree", "-p", tip, "-m", "unsigned", f"{tip}^{{tree}}")
    for target in (plain, f"{tip}~1"):
        sh.site.git("update-ref", "refs/heads/ops/approved", target)
        shown = sh("doctor")
        assert shown.status == 5
        assert "gate: closed" in shown.out
        assert "git update-ref refs/heads/ops/approved" in shown.out
        assert not re.search("hint:.*opsctl doctor(?! --fix)", shown.out)


def test_doctor_makes_ops_drafts_again(sh: Shell) -> None:
    ulid = sh.draft("Do it.")
    approved = sh.approved("Else.")
    sh.site.git("update-ref", "-d", "refs/heads/ops/drafts")
    done = sh.refused("list", status=6, says="ops/drafts is missing")
    assert "doctor --fix" in done.err
    sh("doctor", "--fix")
    assert sh("doctor").status == 0
    assert sh.json("show", f"a_{approved}")
    assert [row["id"] for row in sh.json("list")] == [f"d_{ulid}"]


@pytest.mark.parametrize("branch", ["ops/approved", "ops/drafts"])
def test_a_symbolic_ref_is_refused_and_named(sh: Shell, branch: str) -> None:
    ulid = sh.draft("Do it.")
    sh.site.git("update-ref", "refs/heads/elsewhere", sh.site.tip(branch))
    sh.site.git("update-ref", "-d", f"refs/heads/{branch}")
    sh.site.git("symbolic-ref", f"refs/heads/{branch}", "refs/heads/elsewhere")
    before = sh.site.git("for-each-ref")
    for argv in (("list",), ("approve", ulid, "--yes"), ("draft", "x"), ("status",)):
        done = sh(*argv)
        assert done.status in (4, 5, 6), argv
        assert "symbolic" in done.err
    doctor = sh("doctor")
    assert doctor.status == 5
    assert f"git symbolic-ref -d refs/heads/{branch}" in doctor.out
    assert sh.site.git("for-each-ref") == before


def test_names_that_hide_the_branches_are_seen_through_and_reported(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, found = shelf
    for shadow in ("refs/tags/ops/approved", "refs/ops/approved", "refs/tags/ops/drafts"):
        sh.site.git("update-ref", shadow, sh.site.git("rev-parse", "main"))
    assert sh.json("show", f"a_{found['approved']}")
    assert sh.json("verify")["ok"] is True
    done = sh("doctor")
    assert done.status == 5
    for shadow in ("refs/tags/ops/approved", "refs/ops/approved", "refs/tags/ops/drafts"):
        assert f"git update-ref -d {shadow}" in done.out
    assert sh.ok("approve", found["draft"], "--yes")


@pytest.mark.parametrize("what", ["blob", "commit"])
def test_replace_refs_change_nothing_and_are_reported(shelf: tuple[Shell, dict[str, str]], what: str) -> None:
    sh, found = shelf
    item = sh.json("show", f"a_{found['approved']}")
    other = (
        sh.site.git("hash-object", "-w", "--stdin", stdin=b"other text")
        if what == "blob"
        else sh.site.git("rev-parse", "main")
    )
    sh.site.git("replace", "-f", item[what], other)
    assert sh.json("show", f"a_{found['approved']}") == item
    assert sh.json("verify", "--deep")["ok"] is True
    assert "other text" not in sh("show", f"a_{found['approved']}", "--raw").out
    done = sh("doctor")
    assert done.status == 5
    assert "git replace -d" in done.out


def test_ap_31_a_cut_history_is_incomplete(shelf: tuple[Shell, dict[str, str]]) -> None:
    sh, _ = shelf
    shutil.rmtree(sh.site.home.path / "state")
    cut = sh.site.git("rev-parse", "ops/approved~1")
    (sh.site.path / ".git/shallow").write_text(cut + "\n")
    root = sh.site.git("--no-replace-objects", "rev-parse", "ops/approved~1")
    assert root == cut
    parent = next(
        line.split()[1] for line in sh.site.git("cat-file", "commit", cut).splitlines() if line.startswith("parent")
    )
    path = sh.site.path / ".git/objects" / parent[:2] / parent[2:]
    path.unlink()
    done = sh("verify", "--json")
    assert done.status == 5
    assert "history incomplete" in json.loads(done.out)["findings"][0]["message"]


# -- trust --------------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(sh: Shell) -> Path:
    """A bare repository that has everything, as `origin` of Alice's clone."""
    path = sh.site.path.parent / "remote.git"
    sh.site.home.git("init", "-q", "--bare", str(path))
    sh.site.git("remote", "add", "origin", str(path))
    sh.site.git("push", "-q", "origin", "main")
    sh.ok("sync")
    return path


def clone(home: Home, remote: Path, name: str = "clone") -> Shell:
    """A fresh clone on a person's machine; nothing is trusted yet."""
    home.git("clone", "-q", str(remote), str(home.path / name))
    return Shell(Site(home, home.path / name))


@pytest.fixture
def team(sh: Shell, remote: Path, bob: Home) -> tuple[Shell, Shell, Path]:
    """Alice and Bob, one signature enough, each with a clone, and the bare repository between them."""
    people = {"alice": sh.site.home.public("alice"), "bob": bob.public("bob")}
    sh.ok("policy", "set", "-", stdin=policy_of(people))
    sh.ok("sync")
    other = clone(bob, remote)
    other.ok("trust", "--yes")
    return sh, other, remote


def test_ap_34_a_fresh_clone_trusts_nothing_until_it_is_told(sh: Shell, remote: Path, bob: Home) -> None:
    ulid = sh.approved("Do it.")
    pending = sh.draft("Later.")
    sh.ok("sync")
    other = clone(bob, remote)
    for argv in (
        ("show", f"a_{ulid}"),
        ("list", "--status", "approved"),
        ("log",),
        ("verify",),
        ("approve", ulid, "--yes"),
    ):
        done = other(*argv)
        assert done.status == 3, (argv, done)
        assert done.err.startswith("error: no root commit is pinned for this clone")
        assert "opsctl trust" in done.err
    done = other("trust")
    assert done.status == 3
    root = sh.site.git("rev-list", "--max-parents=0", "ops/approved")
    assert f"opsctl trust {root} --yes" in done.err
    assert "signed by    alice, key SHA256:" in done.err
    assert other("list").status == 3
    row = other.json("trust", "--yes")
    assert (row["root"], row["tip"]) == (root, sh.site.tip())
    assert other.json("show", f"a_{ulid}") == sh.json("show", f"a_{ulid}")
    assert [one["id"] for one in other.json("list")] == [f"d_{pending}"]
    assert other.site.git("rev-parse", f"refs/ops/topics/{pending}") == sh.site.git(
        "rev-parse", f"refs/ops/topics/{pending}"
    )
    assert other.site.git("rev-parse", "HEAD") == sh.site.git("rev-parse", "main")


def test_m3_a_fresh_clone_gives_the_same_answers(shelf: tuple[Shell, dict[str, str]], remote: Path, bob: Home) -> None:
    sh, _ = shelf
    sh.ok("sync")
    other = clone(bob, remote)
    other.ok("trust", "--yes")
    for argv in (("list", "--status", "all"), ("list", "--status", "approved"), ("log",), ("diff",)):
        assert other.json(*argv) == sh.json(*argv)
    assert {**other.json("verify"), "trusted_by": ""} == {**sh.json("verify"), "trusted_by": ""}


def test_trust_with_the_root_that_was_told(sh: Shell, remote: Path, bob: Home) -> None:
    other, root = clone(bob, remote), sh.site.git("rev-list", "--max-parents=0", "ops/approved")
    done = other("trust", "0" * 40, "--yes")
    assert done.status == 3
    assert f"the root is {root}" in done.err
    assert not (bob.path / "config/opsctl/trust.toml").exists()
    assert other.ok("trust", root.upper(), "--yes") == root
    pins = (bob.path / "config/opsctl/trust.toml").read_text()
    assert other.ok("trust") == root, "again needs no person"
    assert (bob.path / "config/opsctl/trust.toml").read_text() == pins


def test_trust_offline_takes_what_the_clone_brought(sh: Shell, remote: Path, bob: Home) -> None:
    ulid = sh.approved("Do it.")
    sh.ok("sync")
    other = clone(bob, remote)
    remote.rename(remote.with_name("gone.git"))
    other.ok("trust", "--yes")
    assert other.json("show", f"a_{ulid}")["approved_by"] == "alice"


def test_trust_of_a_history_that_does_not_verify_is_refused(sh: Shell, remote: Path, bob: Home) -> None:
    put(Site(sh.site.home, remote), "x", b"x", branch="ops/approved")
    other = clone(bob, remote)
    done = other("trust", "--yes")
    assert done.status == 5
    assert not (bob.path / "config/opsctl/trust.toml").exists()


def test_ap_34_the_environment_names_a_root_only_where_there_is_no_pin(sh: Shell, remote: Path, bob: Home) -> None:
    sh.ok("sync")
    other, root = clone(bob, remote), sh.site.git("rev-list", "--max-parents=0", "ops/approved")
    for branch in ("approved", "drafts"):
        other.site.git("branch", "-q", f"ops/{branch}", f"origin/ops/{branch}")
    done = other("verify", "--json", env={"OPSCTL_TRUST_ROOT": root})
    assert (done.status, json.loads(done.out)["trusted_by"]) == (0, "OPSCTL_TRUST_ROOT")
    assert other("verify", env={"OPSCTL_TRUST_ROOT": "0" * 40}).status == 5
    assert sh("verify", env={"OPSCTL_TRUST_ROOT": "0" * 40}).status == 0, "a pin is stronger"


def test_ap_34_a_pin_that_was_changed_is_refused(sh: Shell) -> None:
    ulid = sh.approved("Do it.")
    path = sh.site.home.path / "config/opsctl/trust.toml"
    good = path.read_text()
    path.write_text(good.replace(sh.site.git("rev-list", "--max-parents=0", "ops/approved"), "1" * 40))
    sh.refused("show", f"a_{ulid}", status=5)
    path.write_text("not = [toml")
    sh.refused("show", f"a_{ulid}", status=2, says="trust.toml cannot be used")
    path.unlink()
    sh.refused("show", f"a_{ulid}", status=3, says="no root commit is pinned")
    path.write_text(good)
    sh.ok("show", f"a_{ulid}")


# -- sync ---------------------------------------------------------------------------------------------------------


def test_sync_says_in_plain_words_what_it_published(team: tuple[Shell, Shell, Path]) -> None:
    alice, _, _ = team
    alice.draft("Later.")
    alice.draft("Much later.")
    assert alice.ok("sync") == "origin: 0 decisions received; published ops/drafts, 2 topics"
    alice.ok("approve", alice.json("list")[0]["id"], "--yes")
    assert alice.ok("sync") == "origin: 0 decisions received; published ops/approved, ops/drafts"


def test_sync_brings_decisions_and_drafts_over(team: tuple[Shell, Shell, Path]) -> None:
    alice, bob, remote = team
    approved, pending = alice.approved("Do it."), alice.draft("Later.")
    row = alice.json("sync")
    assert set(row) == {"remote", "received", "published_refs", "signed_again", "left_open", "notices"}
    assert row["remote"] == "origin"
    assert alice.json("status")["not_published"] == []
    assert bob.json("sync", "origin")["received"] == 1
    assert bob.json("show", f"a_{approved}") == alice.json("show", f"a_{approved}")
    assert [one["id"] for one in bob.json("list")] == [f"d_{pending}"]
    assert bob.json("sync")["published_refs"] == 0
    assert alice.ok("sync").startswith("origin: 0 decisions received; nothing to publish")
    for name in ("ops/approved", "ops/drafts"):
        assert Site(alice.site.home, remote).tip(name) == alice.site.tip(name) == bob.site.tip(name)


def test_rm_07_both_approved_different_drafts_and_the_loser_signs_again_on_the_new_tip(
    team: tuple[Shell, Shell, Path],
) -> None:
    alice, bob, remote = team
    one, two = alice.draft("One."), alice.draft("Two.")
    alice.ok("sync")
    bob.ok("sync")
    alice.ok("approve", one, "--yes")
    bob.ok("approve", two, "--yes")
    alice.ok("sync")
    lost = bob.site.tip()
    row = bob.json("sync")
    assert row["signed_again"] == [f"approve d_{two}"]
    assert row["left_open"] == []
    assert bob.site.tip() != lost
    assert bob.json("verify")["ok"] is True
    alice.ok("sync")
    for shell in (alice, bob):
        assert {item["id"] for item in shell.json("list", "--status", "approved")} == {f"a_{one}", f"a_{two}"}
        assert shell.json("show", f"a_{two}")["approved_by"] == "bob"
        assert shell.json("list") == []
        shell.site.fsck()
    assert Site(alice.site.home, remote).tip() == alice.site.tip() == bob.site.tip()


def test_rm_07_both_approved_the_same_draft_and_one_approval_stays(team: tuple[Shell, Shell, Path]) -> None:
    alice, bob, _ = team
    ulid = alice.draft("One.")
    alice.ok("sync")
    bob.ok("sync")
    for shell in (alice, bob):
        shell.ok("approve", ulid, "--yes")
    alice.ok("sync")
    row = bob.json("sync")
    assert row["signed_again"] == []
    assert bob.site.tip() == alice.site.tip()
    assert bob.json("show", f"a_{ulid}")["approved_by"] == "alice"


def test_both_edited_the_same_draft_and_neither_text_is_lost(team: tuple[Shell, Shell, Path]) -> None:
    alice, bob, _ = team
    ulid = alice.draft("One.")
    alice.ok("sync")
    bob.ok("sync")
    alice.ok("edit", ulid, "--file", "-", stdin=b"By Alice.")
    bob.ok("edit", ulid, "--file", "-", stdin=b"By Bob.")
    alice.ok("sync")
    bob.ok("sync")
    alice.ok("sync")
    assert alice.digest(ulid) == bob.digest(ulid)
    row = alice.json("show", ulid)
    assert (row["status"], row["error"]) == ("draft", None)
    assert row["prompt"] in ("By Alice.", "By Bob.")
    kept = alice.site.git("log", "--all", "-p", "--format=", "--", ids.path_of(ulid))
    assert "By Alice." in kept
    assert "By Bob." in kept
    alice.ok("approve", f"{ulid}@{row['digest']}", "--yes")
    assert alice.json("verify")["ok"] is True


def test_votes_of_both_sides_count(two: tuple[Shell, Shell], remote: Path, tmp_path: Path) -> None:
    alice = two[0]
    ulid = alice.draft("Do it.")
    alice.ok("sync")
    carol = make_home(tmp_path / "carol", "Bob", "bob@example.com")
    (carol.path / "keys" / "bob").write_bytes((two[1].site.home.path / "keys" / "bob").read_bytes())
    (carol.path / "keys" / "bob.pub").write_bytes((two[1].site.home.path / "keys" / "bob.pub").read_bytes())
    bob = clone(carol, remote)
    bob.ok("trust", "--yes")
    alice.ok("approve", ulid, "--yes")
    assert "1 of 2" in bob("approve", ulid, "--yes").err
    alice.ok("sync")
    bob.ok("sync")
    assert {vote["principal"] for vote in bob.json("show", ulid)["votes"]} == {"alice", "bob"}
    assert bob.ok("approve", ulid, "--yes") == f"a_{ulid}"
    bob.ok("sync")
    alice.ok("sync")
    assert alice.json("verify")["approved"] == 1


def test_rejected_here_and_edited_there_stays_pending(team: tuple[Shell, Shell, Path]) -> None:
    alice, bob, _ = team
    ulid = alice.draft("One.")
    alice.ok("sync")
    bob.ok("sync")
    alice.ok("reject", ulid, "--reason", "no")
    bob.ok("edit", ulid, "--file", "-", stdin=b"Better.")
    alice.ok("sync")
    bob.ok("sync")
    alice.ok("sync")
    for shell in (alice, bob):
        row = shell.json("show", ulid)
        assert (row["status"], row["prompt"]) == ("draft", "Better.")
        assert shell.json("list", "--status", "rejected") == []


def test_rejected_there_is_rejected_here(team: tuple[Shell, Shell, Path]) -> None:
    alice, bob, remote = team
    ulid = alice.draft("One.")
    alice.ok("sync")
    bob.ok("sync")
    bob.ok("reject", ulid, "--reason", "no")
    bob.ok("sync")
    alice.ok("sync")
    assert alice.json("show", ulid)["status"] == "rejected"
    assert Site(alice.site.home, remote).git("for-each-ref", "refs/ops/topics") == ""


def test_rm_08_notes_of_both_sides_are_united(team: tuple[Shell, Shell, Path]) -> None:
    alice, bob, _ = team
    commit = alice.site.tip()
    bob.ok("sync")
    for shell, line in ((alice, '{"id":"01A"}'), (bob, '{"id":"01B"}')):
        shell.site.git("notes", "--ref=refs/notes/ops/runs", "append", "-m", line, commit)
    alice.ok("sync")
    bob.ok("sync")
    alice.ok("sync")
    for shell in (alice, bob):
        note = shell.site.git("notes", "--ref=refs/notes/ops/runs", "show", commit)
        assert {line for line in note.splitlines() if line} == {'{"id":"01A"}', '{"id":"01B"}'}


def test_rm_01_a_remote_that_declines_keeps_the_decision_here(team: tuple[Shell, Shell, Path]) -> None:
    alice, _, remote = team
    hook = remote / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'not on a Friday' >&2\nexit 1\n")
    hook.chmod(0o755)
    ulid = alice.approved("Do it.")
    done = alice.refused("sync", status=4, says="refused the push")
    assert "not on a Friday" in done.err
    assert alice.json("status")["not_published"] == [{"remote": "origin", "decisions": 1}]
    assert "not published      1 decision (origin)" in alice.ok("status")
    assert alice.json("show", f"a_{ulid}")
    hook.unlink()
    alice.ok("sync")
    assert alice.json("status")["not_published"] == []


@pytest.mark.parametrize("kind", ["unsigned", "rolled back", "other gate"])
def test_rm_05_what_does_not_verify_is_not_adopted(team: tuple[Shell, Shell, Path], kind: str) -> None:
    alice, bob, remote = team
    there = Site(alice.site.home, remote)
    ulid = alice.approved("Do it.")
    alice.ok("sync")
    if kind == "unsigned":
        put(there, "ops/x.md", b"x", branch="ops/approved")
    elif kind == "rolled back":
        bob.ok("sync")
        there.git("update-ref", "refs/heads/ops/approved", "ops/approved~1")
        bob.ok("sync")
        assert there.tip() == bob.site.tip(), "what the remote lost is published again"
        return
    else:
        there.git("update-ref", "refs/heads/ops/approved", there.git("rev-parse", "main"))
    before = bob.site.git("for-each-ref", "refs/heads", "refs/ops", "refs/notes")
    bob.refused("sync", status=3, says="does not verify")
    assert bob.site.git("for-each-ref", "refs/heads", "refs/ops", "refs/notes") == before
    assert bob.json("verify")["ok"] is True
    assert alice.json("show", f"a_{ulid}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remote.origin.url", "ext::sh -c 'touch MARKER'"),
        ("remote.origin.url", "ext::touch% MARKER"),
        ("remote.origin.url", "--upload-pack=touch MARKER"),
        ("remote.origin.url", "ssh://-oProxyCommand=touch MARKER/x"),
        ("remote.origin.url", "-oProxyCommand=touch MARKER:x"),
        ("remote.origin.url", "fd::17"),
        ("remote.origin.url", "transport::address"),
        ("remote.origin.pushurl", "ext::sh -c 'touch MARKER'"),
        ("remote.origin.uploadpack", "touch MARKER; git-upload-pack"),
        ("remote.origin.receivepack", "touch MARKER; git-receive-pack"),
        ("remote.origin.vcs", "touch MARKER"),
        ("core.sshCommand", "touch MARKER"),
        ("core.gitProxy", "touch MARKER"),
        ("credential.helper", "!touch MARKER"),
        ("credential.https://example.com.helper", "!touch MARKER"),
    ],
)
def test_rm_12_an_address_or_setting_that_could_run_a_program_is_refused(
    sh: Shell, remote: Path, tmp_path: Path, key: str, value: str
) -> None:
    marker = tmp_path / "marker"
    sh.site.git("config", key, value.replace("MARKER", str(marker)))
    sh.refused("sync", status=3)
    sh.refused("sync", "origin", status=3)
    assert not marker.exists()
    assert "problem" in sh("doctor").out


def test_rm_12_hooks_and_url_rewrites_of_the_repository_run_nothing(sh: Shell, remote: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for hook in ("pre-push", "reference-transaction", "post-merge", "pre-auto-gc"):
        path = sh.site.path / ".git/hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {marker}\n")
        path.chmod(0o755)
    sh.site.git("config", "url.ext::touch% .insteadOf", str(remote.parent))
    sh.draft("Do it.")
    done = sh("sync")
    assert done.status in (3, 6)
    assert not marker.exists()
    sh.site.git("config", "--remove-section", "url.ext::touch% ")
    sh.ok("sync")
    assert not marker.exists()


def test_rm_14_malformed_objects_are_refused_by_the_fetch(team: tuple[Shell, Shell, Path]) -> None:
    alice, bob, remote = team
    there = Site(alice.site.home, remote)
    blob = there.git("hash-object", "-w", "--stdin", stdin=b"x")
    raw = b"0100644 a.md\0" + bytes.fromhex(blob)
    tree = there.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", stdin=raw)
    commit = there.git("commit-tree", "-p", "ops/drafts", "-m", "padded", tree)
    there.git("update-ref", "refs/heads/ops/drafts", commit)
    before = bob.site.git("for-each-ref", "refs/heads", "refs/ops", "refs/notes")
    done = bob("sync")
    assert done.status == 3
    assert "could not be fetched" in done.err
    assert bob.site.git("for-each-ref", "refs/heads", "refs/ops", "refs/notes") == before
    assert bob.json("verify")["ok"] is True


def test_sync_without_a_remote_or_with_a_dead_one_is_refused(sh: Shell, tmp_path: Path) -> None:
    sh.refused("sync", status=2, says="no remote")
    sh.refused("sync", "--", "-x", status=2, says="no remote")
    sh.site.git("remote", "add", "origin", str(tmp_path / "nowhere.git"))
    sh.refused("sync", status=6, says="could not be fetched")
    sh.refused("sync", "upstream", status=2, says="known: origin")


def test_rm_16_status_shows_when_a_remote_last_confirmed_something(sh: Shell, remote: Path) -> None:
    assert re.fullmatch(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ", sh.json("status")["last_sync"])
    assert re.search(r"last sync +\d+ s ago", sh.ok("status"))


def test_rm_18_doctor_warns_of_a_remote_that_takes_rewrites(sh: Shell, remote: Path) -> None:
    assert "lets a push rewrite its branches" in sh.ok("doctor")
    Site(sh.site.home, remote).git("config", "receive.denyNonFastForwards", "true")
    assert "lets a push rewrite its branches" not in sh.ok("doctor")


def test_a_clone_that_is_behind_another_one_here_is_told_so(sh: Shell, remote: Path) -> None:
    second = clone(sh.site.home, remote)
    second.ok("trust", "--yes")
    sh.approved("Do it.")
    done = second("verify")
    assert done.status == 0
    assert "behind" in done.err
    assert second.json("status")["behind"] == 1
    assert "1 more decisions; opsctl sync" in second.ok("status")


# -- a process of its own -----------------------------------------------------------------------------------------


def test_the_story_of_the_readme_in_real_processes(bare_site: Site) -> None:
    site = bare_site
    site.ok("init", "--audience", "acme/app")
    ulid = site.ok("draft", "--file", "-", "--label", "risk:low", stdin="Add retry.\n").removeprefix("d_")
    assert f"d_{ulid}" in site.ok("list")
    assert "+Add retry." in site.ok("diff", ulid[-8:])
    done = site.cli("approve", ulid[-8:].lower(), "--yes")
    assert (done.returncode, done.stdout) == (0, f"a_{ulid}\n")
    assert site.ok("verify").startswith("good: 2 commits")
    signers = site.home.path / "signers"
    signers.write_text(site.git("show", "ops/approved^1:.opsctl/allowed_signers") + "\n")
    site.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", "ops/approved")
    done = site.cli("reject", ulid)
    assert done.returncode == 4
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    site.fsck()


def test_the_demo_plays_to_its_end(home: Home, tmp_path: Path) -> None:
    site = Site(home, home.path)
    folder = tmp_path / "demo"
    start = time.monotonic()
    done = site.cli("demo", "--folder", str(folder))
    assert time.monotonic() - start < 60
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    for word in ("$ opsctl init", "$ git verify-commit ops/approved", "Good", "BAD  commit", "good: 2 commits"):
        assert word in done.stdout, word
    for word in ("is not approved, so it cannot be run", "+        except OSError:", '"event":"done"', "Fast-forward"):
        assert word in done.stdout, word
    assert "except OSError" in (folder / "repo/uploader.py").read_text()
    assert (folder / "repo/.git").is_dir()
    assert not (home.path / "config").exists()
    again = site.cli("demo", "--folder", str(folder))
    assert (again.returncode, again.stdout) == (2, "")


def test_review_needs_a_person(sh: Shell) -> None:
    sh.draft("Do it.")
    sh.refused("review", status=3, says="needs a person at a terminal")


def test_lm_01_times_are_utc_whatever_the_zone(sh: Shell) -> None:
    ulid = sh.ok("draft", "Do it.", env={"TZ": "Asia/Kathmandu"}).removeprefix("d_")
    made = datetime.fromisoformat(sh.json("show", ulid, env={"TZ": "America/St_Johns"})["created_at"])
    assert abs((datetime.now(UTC) - made).total_seconds()) < 60
