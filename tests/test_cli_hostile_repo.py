"""Repositories that somebody prepared: what plain git can put there, and what the command line makes of it."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from conftest import Home, Site
from test_cli import NOWHERE, Shell, commit_index, put

from opsctl import ids

CANARY = "canary-4711-of-another-file"


@pytest.fixture
def sh(site: Site) -> Shell:
    """Alice in a repository with a gate."""
    return Shell(site)


def text_of(ulid: str, prompt: str = "Do it.") -> bytes:
    """A draft's file."""
    return f'+++\nid = "d_{ulid}"\ntitle = "By hand"\n+++\n{prompt}\n'.encode()


def untouched(sh: Shell, *, pending: int = 0) -> None:
    """The ordinary commands work, and nothing hostile is offered as a draft."""
    rows = sh.json("list")
    assert len(rows) == pending
    assert sh.json("verify")["ok"] is True
    ulid = sh.draft("An ordinary draft.")
    assert sh.ok("approve", ulid, "--yes") == f"a_{ulid}"
    sh.ok("sync") if sh.site.git("remote") else None


def tree_entry(site: Site, name: bytes, oid: str, mode: bytes = b"100644") -> str:
    """A commit on ops/drafts whose root tree has one more entry, of any name."""
    rows: list[tuple[bytes, bytes, str]] = []
    raw = subprocess.run(
        ["git", "cat-file", "tree", "ops/drafts^{tree}"], cwd=site.path, env=site.home.environ, capture_output=True
    ).stdout
    while raw:
        head, _, rest = raw.partition(b"\0")
        kind, _, entry = head.partition(b" ")
        rows.append((kind, entry, rest[:20].hex()))
        raw = rest[20:]
    rows.append((mode, name, oid))
    rows.sort(key=lambda row: row[1] + (b"/" if row[0] == b"40000" else b""))
    data = b"".join(kind + b" " + entry + b"\0" + bytes.fromhex(one) for kind, entry, one in rows)
    tree = site.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=data)
    commit = site.git("commit-tree", "-p", "ops/drafts", "-m", "by hand", tree)
    site.git("update-ref", "refs/heads/ops/drafts", commit)
    return commit


# -- drafts by plain git ------------------------------------------------------------------------------------------


def test_a_command_in_a_hint_is_quoted_for_the_shell(sh: Shell, tmp_path: Path) -> None:
    odd = "refs/heads/ops/$(touch${IFS}marker)"
    sh.site.git("symbolic-ref", odd, "refs/heads/main")
    told = sh("doctor").out
    assert f"git symbolic-ref -d '{odd}'" in told
    (hint,) = [line.partition("hint: ")[2] for line in told.splitlines() if "git symbolic-ref" in line]
    subprocess.run(["/bin/sh", "-c", hint], cwd=sh.site.path, env=sh.site.home.environ, check=True)
    assert not (sh.site.path / "marker").exists()
    assert "symbolic" not in sh("doctor").out


def test_a_file_that_plain_git_commits_is_a_draft_and_can_be_approved(sh: Shell) -> None:
    put(sh.site, ids.path_of(NOWHERE), text_of(NOWHERE))
    (row,) = sh.json("list")
    assert (row["id"], row["author"], row["status"], row["revision"]) == (f"d_{NOWHERE}", "Alice", "draft", 1)
    assert sh.ok("approve", NOWHERE, "--yes") == f"a_{NOWHERE}"
    assert sh("show", f"a_{NOWHERE}", "--raw").raw == text_of(NOWHERE)
    assert sh.json("verify")["ok"] is True


def test_a_file_by_plain_git_keeps_its_author(sh: Shell) -> None:
    sh.site.home.environ |= {"GIT_AUTHOR_NAME": "Zoë", "GIT_AUTHOR_EMAIL": "zoe@example.com"}
    put(sh.site, ids.path_of(NOWHERE), text_of(NOWHERE))
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"):
        del sh.site.home.environ[name]
    assert sh.json("show", NOWHERE)["author"] == "Zoë"
    sh.ok("approve", NOWHERE, "--yes")
    assert sh.site.git("log", "-1", "--format=%an", "ops/approved^2") == "Zoë"


@pytest.mark.parametrize("target", ["/etc/passwd", "CANARY", "../../../../../etc/passwd"])
def test_gt_01_a_symbolic_link_is_never_followed(sh: Shell, tmp_path: Path, target: str) -> None:
    (tmp_path / "canary").write_text(CANARY)
    link = target.replace("CANARY", str(tmp_path / "canary")).encode()
    put(sh.site, ids.path_of(NOWHERE), link, mode="120000")
    for argv in (
        ("show", NOWHERE),
        ("approve", NOWHERE, "--yes"),
        ("edit", NOWHERE, "--title", "x"),
        ("diff", NOWHERE),
    ):
        done = sh.refused(*argv, status=8)
        assert CANARY not in done.err
        assert "root:" not in done.err
    assert "has mode 120000, not 100644" in sh.json("status")["drift"][0]
    untouched(sh)


def test_gt_02_a_submodule_entry_is_no_draft(sh: Shell) -> None:
    commit_index(sh.site, "ops/drafts", f"160000,{sh.site.tip()},{ids.path_of(NOWHERE)}")
    put(sh.site, ".gitmodules", b'[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch marker"\n')
    sh.refused("approve", NOWHERE, "--yes", status=8)
    sh.refused("show", NOWHERE, status=8)
    assert "has mode 160000" in sh.json("status")["drift"][0]
    untouched(sh)


def test_gt_03_an_executable_file_is_no_draft(sh: Shell) -> None:
    put(sh.site, ids.path_of(NOWHERE), text_of(NOWHERE), mode="100755")
    sh.refused("approve", NOWHERE, "--yes", status=8)
    assert "has mode 100755, not 100644" in sh.json("status")["drift"][0]
    assert "has mode 100755" in sh("doctor").out
    untouched(sh)


@pytest.mark.parametrize("mode", ["120000", "100755", "160000"])
def test_gt_03_a_draft_whose_mode_was_changed_cannot_be_approved(sh: Shell, mode: str) -> None:
    ulid = sh.draft("Do it.")
    oid = sh.json("show", ulid)["blob"] if mode != "160000" else sh.site.tip()
    commit_index(sh.site, "ops/drafts", f"{mode},{oid},{ids.path_of(ulid)}")
    sh.refused("approve", ulid, "--yes", status=8)
    assert sh.json("list") == []


@pytest.mark.parametrize(
    "name",
    [
        "a\nb.md",
        "-rf",
        "--output=x.md",
        "a\\b.md",
        "x.md ",
        "x.md.",
        "CON",
        "nul.md",
        ".git\u200c",
        "git~1",
        "README.md",
        f"{NOWHERE.lower()}.md",
        f"d_{NOWHERE}.md",
        f"{NOWHERE}.MD",
        f"{NOWHERE}.md\u200b",
        f"{NOWHERE[:-1]}U.md",
        "\u202e.md",
        "\x1b[31m.md",
        "e\u0301.md",
        "é.md",
    ],
)
def test_gt_05_a_name_that_is_no_id_is_no_draft(sh: Shell, name: str) -> None:
    folder = ids.path_of(NOWHERE).rsplit("/", 1)[0]
    blob = sh.site.git("hash-object", "-w", "--stdin", stdin=text_of(NOWHERE))
    index = f"100644 {blob}\t{folder}/{name}".encode()
    path = sh.site.path.parent / "scratch-index"
    env = {**sh.site.home.environ, "GIT_INDEX_FILE": str(path)}

    def git(*argv: str, stdin: bytes = b"") -> str:
        done = subprocess.run(["git", *argv], cwd=sh.site.path, env=env, input=stdin, capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("read-tree", "ops/drafts")
    git(
        "-c", "core.protectHFS=false", "-c", "core.protectNTFS=false", "update-index", "-z", "--index-info", stdin=index
    )
    commit = git("commit-tree", "-p", "ops/drafts", "-m", "odd", git("write-tree"))
    git("update-ref", "refs/heads/ops/drafts", commit)
    assert sh.json("list") == []
    (drift,) = sh.json("status")["drift"]
    assert "no draft belongs there" in drift
    shown = sh("status").out + sh("doctor").out
    assert not set(shown) & set("\x1b\u202e\u200b\u200c")
    untouched(sh)
    sh("doctor", "--fix")
    assert sh.json("status")["drift"] == []


@pytest.mark.parametrize(
    "where",
    [
        "ops/{}.md",
        "ops/2020/01/01/{}.md",
        "ops/2025/1/14/{}.md",
        "closed/2020/01/01/{}.md",
        "{}.md",
        "ops/2025/01/14/x/{}.md",
    ],
)
def test_gt_05_a_draft_in_another_folder_is_none(sh: Shell, where: str) -> None:
    put(sh.site, where.format(NOWHERE), text_of(NOWHERE))
    assert sh.json("list", "--status", "all") == []
    sh.refused("approve", NOWHERE, "--yes", status=8)
    untouched(sh)


def test_gt_06_names_that_differ_in_case_or_composition_give_one_draft_at_most(sh: Shell) -> None:
    path = ids.path_of(NOWHERE)
    blob = sh.site.git("hash-object", "-w", "--stdin", stdin=text_of(NOWHERE))
    other = sh.site.git("hash-object", "-w", "--stdin", stdin=text_of(NOWHERE, "Something else."))
    folder = path.rsplit("/", 1)[0]
    names = (path, f"{folder}/{NOWHERE.lower()}.md", f"{folder}/d_{NOWHERE}.md", f"OPS{path[3:]}", f"Ops{path[3:]}")
    commit_index(sh.site, "ops/drafts", *(f"100644,{blob if name == path else other},{name}" for name in names))
    (row,) = sh.json("list")
    assert row["blob"] == blob
    sh.ok("approve", NOWHERE, "--yes")
    assert sh.json("show", f"a_{NOWHERE}")["prompt"] == "Do it.\n"


@pytest.mark.parametrize(
    "entry",
    [
        *((name, b"100644") for name in (b"..", b".", b"", b"a/b", b"\xff")),
        *((b"x", mode) for mode in (b"0100644", b"100664", b"777")),
        (b".git", b"40000"),
    ],
)
def test_gt_05_a_tree_that_git_would_not_write_closes_nothing_for_good(sh: Shell, entry: tuple[bytes, bytes]) -> None:
    approved, before = sh.approved("Do it."), sh.site.tip("ops/drafts")
    name, mode = entry
    oid = sh.site.git("rev-parse", "main^{tree}" if mode == b"40000" else "main:src/app.py")
    tree_entry(sh.site, name, oid, mode)
    for argv in (("list",), ("draft", "x"), ("show", f"a_{approved}"), ("status",), ("verify",), ("doctor",)):
        done = sh(*argv)
        assert done.status != 1, (argv, done.err)
        assert "a bug in opsctl" not in done.err, (argv, done.err)
        assert "Traceback" not in done.err
    assert sh.json("verify")["ok"] is True
    sh.site.git("update-ref", "refs/heads/ops/drafts", before)
    untouched(sh)


def loose(site: Site, header: bytes, body: bytes, size: int) -> str:
    """A loose blob of `size` bytes, written as one repeated block; its id is its true name."""
    digest, packer = hashlib.sha1(header, usedforsecurity=False), zlib.compressobj(1)
    parts = [packer.compress(header)]
    for _ in range(size // len(body)):
        digest.update(body)
        parts.append(packer.compress(body))
    parts.append(packer.flush())
    oid = digest.hexdigest()
    path = site.path / ".git/objects" / oid[:2] / oid[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(parts))
    return oid


@pytest.mark.parametrize("shape", ["loose", "packed", "lies"])
def test_gt_09_a_file_of_a_gigabyte_is_refused_by_its_header(sh: Shell, shape: str) -> None:
    # 64 MiB stand for the gigabyte where git itself has to read the object; the claim of the header is what counts.
    size = {"loose": 1 << 30, "packed": 64 << 20, "lies": 1 << 20}[shape]
    said = 10 if shape == "lies" else size
    if shape == "loose":
        oid = "ab" * 20
        path = sh.site.path / ".git/objects" / oid[:2] / oid[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(b"blob %d\0" % size + b"\0" * 100_000))
    else:
        oid = loose(sh.site, b"blob %d\0" % said, b"a" * (1 << 20), size)
    commit_index(sh.site, "ops/drafts", f"100644,{oid},{ids.path_of(NOWHERE)}")
    if shape == "packed":
        sh.site.git("repack", "-adq")
        (sh.site.path / ".git/objects" / oid[:2] / oid[2:]).unlink(missing_ok=True)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    (row,) = sh.json("list")
    assert row["error"]
    assert "at most 262,144" in row["error"] or "damaged" in row["error"]
    for argv in (
        ("show", NOWHERE),
        ("diff", NOWHERE),
        ("edit", NOWHERE, "--title", "x"),
        ("approve", NOWHERE, "--yes"),
    ):
        done = sh(*argv)
        assert done.status in (2, 5), (argv, done)
        assert done.err.startswith("error: ")
    assert sh("doctor").status in (0, 5)
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "KiB: it was not loaded"
    untouched(sh, pending=1)
    sh.ok("reject", NOWHERE)
    assert sh.json("list") == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "byte 0"),
        (b"no front matter", "byte 0"),
        (text_of(NOWHERE).replace(b"Do it", b"Do\0it"), "NUL"),
        (text_of(NOWHERE) + b"\xff", "not UTF-8"),
        (text_of(NOWHERE).decode().encode("utf-16"), "byte"),
        (b"+++\n" + b"x = " + b"[" * 3000 + b"\n+++\nx", "nested too deeply"),
        (text_of(NOWHERE).replace(b"title", b"status = 'approved'\ntitle"), "unknown key"),
        pytest.param(
            *(b"x" * 300_000, "at most 262,144"),
        ),
    ],
    ids=["empty", "plain", "NUL", "latin", "utf-16", "deep", "status", "large"],
)
def test_tx_19_a_file_that_is_no_draft_is_listed_with_its_fault_and_can_be_mended_or_rejected(
    sh: Shell, data: bytes, says: str
) -> None:
    put(sh.site, ids.path_of(NOWHERE), data)
    (row,) = sh.json("list")
    assert says in row["error"]
    assert row["status"] == "draft"
    done = sh("approve", NOWHERE, "--yes")
    assert done.status == 2
    assert says in done.err
    assert done.out == ""
    assert sh("show", NOWHERE).status in (0, 2)
    assert sh("diff").status in (0, 2)
    untouched(sh, pending=1)
    sh.ok("reject", NOWHERE, "--reason", "unreadable")
    assert sh.json("list") == []
    assert sh("list", "--status", "all").status == 0


def test_gt_09_a_large_file_does_not_hide_the_diff_of_the_others(sh: Shell) -> None:
    sh.draft("An ordinary draft.")
    put(sh.site, ids.path_of(NOWHERE), b"x" * 300_000)
    assert "+An ordinary draft." in sh.ok("diff")


def test_gt_26_a_file_that_says_another_id_than_its_path_cannot_be_approved(sh: Shell) -> None:
    other = sh.draft("The real one.")
    put(sh.site, ids.path_of(NOWHERE), text_of(other))
    assert f"the file says it is d_{other}" in sh.json("show", NOWHERE)["error"]
    done = sh("approve", NOWHERE, "--yes")
    assert done.status in (2, 4)
    assert sh.json("list", "--status", "approved") == []
    assert sh.ok("approve", other, "--yes") == f"a_{other}"
    assert sh.json("show", f"a_{other}")["prompt"] == "The real one."


def test_gt_26_the_refusal_names_both_ids(sh: Shell) -> None:
    put(sh.site, ids.path_of(NOWHERE), text_of(sh.draft("The real one.")))
    done = sh.refused("approve", NOWHERE, "--yes", status=2, says=f"its path says d_{NOWHERE}")
    assert f"opsctl edit d_{NOWHERE}" in done.err


def test_gt_26_every_face_calls_it_by_its_path(sh: Shell) -> None:
    other = sh.draft("The real one.")
    put(sh.site, ids.path_of(NOWHERE), text_of(other))
    assert {row["id"] for row in sh.json("list")} == {f"d_{NOWHERE}", f"d_{other}"}
    assert sh.json("show", NOWHERE)["id"] == f"d_{NOWHERE}"


def test_gt_26_rejecting_it_closes_that_file_and_no_other(sh: Shell) -> None:
    other = sh.draft("The real one.")
    put(sh.site, ids.path_of(NOWHERE), text_of(other))
    sh.ok("reject", NOWHERE, "--reason", "misnamed")
    assert sh.json("show", other)["status"] == "draft"
    assert sh.json("show", NOWHERE)["status"] == "rejected"
    sh.ok("prune", "--older-than", "0s")
    sh.refused("show", NOWHERE, status=8)


@pytest.mark.parametrize("argv", [("reject",), ("approve", "--yes")])
def test_gt_26_an_id_that_nothing_has_is_no_bug(sh: Shell, argv: tuple[str, ...]) -> None:
    put(sh.site, ids.path_of(NOWHERE), text_of("01JHK3VB8RXXA8H5SQZ3MDNFC3"))
    done = sh(argv[0], NOWHERE, *argv[1:])
    assert done.status == (2 if argv[0] == "approve" else 0), done.err


def test_gt_24_the_policy_of_ops_drafts_is_never_read(sh: Shell, tmp_path: Path) -> None:
    mallory = sh.site.home.public("mallory")
    text = sh("policy", "show", "--raw").raw.replace(sh.site.home.public("alice").encode(), mallory.encode())
    put(sh.site, ".opsctl/policy.toml", text)
    put(sh.site, ".opsctl/allowed_signers", f'alice namespaces="git" {mallory}\n'.encode())
    put(sh.site, ".opsctl/trust.toml", b"x")
    put(sh.site, "plan.toml", b"not a plan")
    ulid = sh.draft("Do it.")
    sh.refused("approve", ulid, "--yes", status=3, env={"OPSCTL_SIGNING_KEY": str(sh.site.home.key("mallory"))})
    assert mallory not in sh("policy", "show", "--raw").out
    assert sh.json("policy", "show")["epoch"] == 1
    sh.refused("plan", "show", status=8)
    assert sh.ok("approve", ulid, "--yes")
    assert sh.site.git("show", "ops/drafts:.opsctl/policy.toml") == sh.site.git(
        "show", "ops/approved:.opsctl/policy.toml"
    )
    assert sh.json("verify")["ok"] is True


def test_gt_24_what_the_work_tree_holds_is_never_read(sh: Shell) -> None:
    (sh.site.path / ".opsctl").mkdir()
    (sh.site.path / ".opsctl/policy.toml").write_text("garbage")
    (sh.site.path / ".env").write_text("OPSCTL_TRUST_ROOT=0000\nOPSCTL_LOCK_WAIT=x\n")
    (sh.site.path / "plan.toml").write_text("garbage")
    for key in ("opsctl.trustRoot", "opsctl.signingKey", "opsctl.root", "opsctl.key"):
        sh.site.git("config", key, "0" * 40)
    untouched(sh)


# -- the repository around it -------------------------------------------------------------------------------------

HOOKS = (
    *("applypatch-msg", "commit-msg", "fsmonitor-watchman", "post-update", "pre-applypatch", "pre-commit"),
    *("pre-merge-commit", "prepare-commit-msg", "pre-push", "pre-rebase", "pre-receive", "push-to-checkout", "update"),
    *("reference-transaction", "post-commit", "post-merge", "post-checkout", "post-rewrite", "proc-receive"),
    *("post-receive", "pre-auto-gc", "post-index-change", "sendemail-validate"),
)


def everything(sh: Shell) -> None:
    """Every command once."""
    ulid = sh.draft("Do it.", "--base", "main")
    sh.ok("edit", ulid, "--title", "New")
    sh.ok("return", ulid, "--reason", "x")
    for argv in (
        ("list",),
        ("show", ulid),
        ("diff",),
        ("diff", ulid, "--word"),
        ("status",),
        ("config", "show"),
        ("log",),
    ):
        sh.ok(*argv)
    sh.ok("approve", f"{ulid}@{sh.digest(ulid)}", "--yes")
    other = sh.draft("Else.")
    sh.ok("reject", other)
    sh.ok("prune", "--older-than", "0s")
    sh.ok("plan", "set", "-", stdin=b'id = "p"\ntitle = "t"\nstatus = "on"\n')
    sh.ok("revoke", ulid, "--reason", "x")
    sh.ok("verify", "--deep")
    sh.ok("doctor", "--fix")
    sh.ok("trust", "--yes")


def test_gt_10_no_hook_filter_driver_or_program_of_the_repository_runs(sh: Shell, tmp_path: Path) -> None:
    put(sh.site, ".gitattributes", b"* diff=x filter=x merge=x\n")
    marker, evil = tmp_path / "marker", tmp_path / "evil"
    evil.write_text(f'#!/bin/sh\necho "$0 $@" >> {marker}\nexit 1\n')
    evil.chmod(0o755)
    for hook in HOOKS:
        (sh.site.path / ".git/hooks" / hook).symlink_to(evil)
    for key in (
        *("core.editor", "core.pager", "core.fsmonitor", "core.alternateRefsCommand", "core.askPass"),
        *("diff.external", "diff.x.command", "diff.x.textconv", "filter.x.clean", "filter.x.smudge"),
        *("filter.x.process", "merge.x.driver", "gpg.program", "gpg.ssh.program", "gpg.ssh.defaultKeyCommand"),
        *("pager.log", "pager.diff", "interactive.diffFilter", "trailer.x.command", "alias.config", "alias.notes"),
        *("sequence.editor", "uploadpack.packObjectsHook"),
    ):
        sh.site.git("config", key, str(evil))
    (sh.site.path / ".git/info/attributes").write_text("* diff=x filter=x merge=x\n")
    everything(sh)
    assert not marker.exists(), marker.read_text()


def test_gt_12_variables_of_git_that_point_elsewhere_are_ignored(sh: Shell, home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    home.git("init", "-q", str(other))
    env = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / "index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git/objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(other),
        "GIT_NAMESPACE": "evil",
        "GIT_COMMON_DIR": str(other / ".git"),
        "GIT_CEILING_DIRECTORIES": str(sh.site.path.parent),
        "GIT_REPLACE_REF_BASE": "refs/evil/",
        "GIT_SHALLOW_FILE": "/etc/passwd",
        "GIT_GRAFT_FILE": "/etc/passwd",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_SSH_COMMAND": "false",
        "GIT_EDITOR": "false",
        "GIT_AUTHOR_NAME": "Mallory",
        "GIT_AUTHOR_DATE": "1970-01-01T00:00:00Z",
        "GIT_CONFIG": "/etc/passwd",
        "GIT_TRACE": "2",
        "GIT_TRACE2_EVENT": str(tmp_path / "trace"),
    }
    before = sorted(str(path) for path in other.rglob("*"))
    ulid = sh.ok("draft", "Do it.", env=env).removeprefix("d_")
    assert sh.ok("approve", ulid, "--yes", env=env) == f"a_{ulid}"
    assert sh("verify", env=env).status == 0
    assert sorted(str(path) for path in other.rglob("*")) == before
    assert sh.site.git("log", "-1", "--format=%an", "ops/approved") == "Alice"
    assert sh.json("verify")["approved"] == 1


def test_gt_12_variables_of_git_that_point_elsewhere_are_ignored_in_a_real_process(site: Site, tmp_path: Path) -> None:
    site.home.git("init", "-q", str(tmp_path / "other"))
    env = {"GIT_DIR": str(tmp_path / "other/.git"), "GIT_OBJECT_DIRECTORY": str(tmp_path), "GIT_NAMESPACE": "evil"}
    ulid = site.ok("draft", "Do it.", env=env).removeprefix("d_")
    assert site.ok("approve", ulid, "--yes", env=env) == f"a_{ulid}"
    assert site.git("rev-parse", "ops/approved^2")
    assert not (tmp_path / "other/.git/refs/heads/ops").exists()


@pytest.mark.parametrize("key", ["user.signingkey", "user.name", "gpg.format", "core.hooksPath", "core.worktree"])
def test_gt_13_settings_of_the_repository_choose_no_other_principal(sh: Shell, key: str, tmp_path: Path) -> None:
    values = {"user.signingkey": str(sh.site.home.key("mallory")), "gpg.format": "openpgp", "user.name": "Mallory"}
    sh.site.git("config", key, values.get(key, str(tmp_path)))
    ulid = sh.draft("Do it.")
    done = sh("approve", ulid, "--yes")
    if key == "user.signingkey":
        assert done.status == 3
    else:
        assert done.status == 0, done.err
        assert sh.json("show", f"a_{ulid}")["approved_by"] == "alice"
    assert sh.json("verify")["ok"] is True


def test_gt_07_grafts_and_mailmap_change_nothing(sh: Shell) -> None:
    ulid = sh.approved("Do it.")
    before = sh.json("show", f"a_{ulid}"), sh.json("log")
    info = sh.site.path / ".git/info"
    info.mkdir(exist_ok=True)
    (info / "grafts").write_text(f"{sh.site.tip()} {sh.site.git('rev-parse', 'main')}\n")
    (sh.site.path / ".mailmap").write_text("Mallory <m@example.com> <alice@example.com>\n")
    assert (sh.json("show", f"a_{ulid}"), sh.json("log")) == before
    assert sh.json("verify", "--deep")["ok"] is True
    assert "grafts" in sh("doctor").out


def test_ops_branches_that_point_at_no_commit_are_refused_readably(sh: Shell) -> None:
    ulid = sh.approved("Do it.")
    for name in ("approved", "drafts"):
        good = sh.site.tip(f"ops/{name}")
        path = sh.site.path / f".git/refs/heads/ops/{name}"
        blob = sh.site.git("hash-object", "-w", "--stdin", stdin=b"x")
        for value in (
            blob + "\n",
            "0" * 40 + "\n",
            "1" * 40 + "\n",
            "garbage\n",
            "",
            "ref: refs/heads/ops/" + name + "\n",
        ):
            path.write_text(value)
            for argv in (("list",), ("show", f"a_{ulid}"), ("draft", "x"), ("verify",), ("status",), ("doctor",)):
                done = sh(*argv)
                assert done.status != 1, (name, value, argv, done.err)
                assert "a bug in opsctl" not in done.err, (name, value, argv, done.err)
        path.write_text(good + "\n")
    assert sh.json("verify")["ok"] is True
    assert sh.json("show", f"a_{ulid}")


@pytest.mark.parametrize("ref", ["refs/ops/topics/x", f"refs/ops/topics/{NOWHERE}", f"refs/ops/topics/{NOWHERE}/x"])
def test_topic_refs_that_belong_to_nothing_are_harmless(sh: Shell, ref: str) -> None:
    sh.site.git("update-ref", ref, "main")
    untouched(sh)
    assert "belongs to no pending draft" in sh("doctor").out
    sh("doctor", "--fix")
    assert ref not in sh.site.git("for-each-ref", "--format=%(refname)", "refs/ops")


def test_a_topic_that_points_elsewhere_is_cut_again(sh: Shell) -> None:
    ulid = sh.draft("Do it.")
    sh.site.git("update-ref", f"refs/ops/topics/{ulid}", "main")
    assert sh.json("show", ulid)["status"] == "draft"
    assert sh.ok("approve", f"{ulid}@{sh.digest(ulid)}", "--yes") == f"a_{ulid}"
    assert sh.json("verify")["ok"] is True
    assert "src/app.py" not in sh.site.git("ls-tree", "-r", "--name-only", "ops/approved")
    assert sh.site.git("merge-base", "--is-ancestor", "main", "ops/approved", check=False) == ""
    done = subprocess.run(["git", "merge-base", "--is-ancestor", "main", "ops/approved"], cwd=sh.site.path, check=False)
    assert done.returncode == 1
