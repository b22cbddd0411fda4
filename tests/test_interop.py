"""Beside plain git and other readers: git shows exactly the gate's state, and no shape of repository changes it.

Sampled by default; `OPSCTL_SWEEP=full` walks the whole length, `OPSCTL_SEED` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Home, Site
from faults.harness import FULL, WORKER, Resident, fsck, pending_by_git, residents, seed
from ulid import ULID

from opsctl import document as documents
from opsctl import ids
from opsctl.errors import OpsError
from opsctl.models import Document
from opsctl.workspace.drafts import Filter, NewDraft


def _worker(site: Site, *argv: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> dict[str, Any]:
    """A command in a process of its own: what it acknowledged, or the refusal, with `status`."""
    done = subprocess.run(
        [sys.executable, str(WORKER), *argv],
        cwd=cwd or site.path,
        env={**site.home.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = (done.stderr if done.returncode else done.stdout).splitlines()
    assert lines, done
    said = {"status": done.returncode, **json.loads(lines[-1])}
    assert said["status"] != 70, said["message"]
    return said


def _life(site: Site, *, cwd: Path | None = None, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Every kind of change once, each by a freshly opened workspace; the state at the end."""
    with residents(Resident({**site.home.environ, **(env or {})}, cwd or site.path)) as (one,):
        one.must("init")
        kept, revoked, rejected, pending = one.must("draft", "work", "4")["ulids"]
        one.must("edit", kept, "Better.")
        one.must("return", pending)
        one.must("approve", kept)
        one.must("approve", revoked)
        one.must("revoke", revoked)
        one.must("reject", rejected)
        one.must("plan", "The plan")
        got, state = one.must("get", kept), one.must("state")
    assert got["digest"] == got["served"]
    assert set(state["approved"]) == {kept}
    assert set(state["revoked"]) == {revoked}
    assert set(state["rejected"]) == {rejected}
    assert set(state["draft"]) == {pending}
    return state


# -- random walks held against plain git -------------------------------------------------------------------------------


class Walk:
    """Random steps on one gate, with a model of what must come out."""

    def __init__(self, site: Site, randomness: random.Random) -> None:
        self.site = site
        self.random = randomness
        self.pending: dict[str, bytes | None] = {}
        self.approved: list[str] = []
        self.revoked: list[str] = []
        self.rejected: list[str] = []
        self.decisions = 1
        self.told: list[str] = []

    def step(self) -> None:
        choices: list[Callable[[], str]] = [self.create, self.create, self.plan, self.by_hand]
        if self.pending:
            choices += [self.edit, self.edit_by_hand, self.drop_by_hand, self.reject, self.send_back]
            choices += [self.approve, self.approve, self.approve]
        if self.approved:
            choices += [self.revoke]
        self.told.append(self.random.choice(choices)())

    def _one(self) -> str:
        return self.random.choice(sorted(self.pending))

    def create(self) -> str:
        with self.site.ws() as ws:
            ulid = ws.drafts.create(NewDraft(prompt=f"Do {self.random.random()}\n")).ulid
        self.pending[ulid] = None
        return f"create {ulid}"

    def edit(self) -> str:
        ulid = self._one()
        with self.site.ws() as ws:
            ws.drafts.edit(ulid, prompt=f"Rather {self.random.random()}\n")
        self.pending[ulid] = None
        return f"edit {ulid}"

    def send_back(self) -> str:
        ulid = self._one()
        with self.site.ws() as ws:
            assert ws.drafts.give_back(ulid, "say more").reason == "say more"
        return f"return {ulid}"

    def reject(self) -> str:
        ulid = self._one()
        with self.site.ws() as ws:
            assert ws.drafts.reject(ulid, "no")[1]
        del self.pending[ulid]
        self.rejected.append(ulid)
        return f"reject {ulid}"

    def approve(self) -> str:
        ulid = self._one()
        with self.site.ws() as ws:
            outcome = ws.approvals.approve(ulid)
            assert outcome.item is not None
            assert not outcome.already
            bytes_by_hand = self.pending.pop(ulid)
            assert bytes_by_hand is None or ws.approvals.get(ulid)[1] == bytes_by_hand
        self.approved.append(ulid)
        self.decisions += 1
        return f"approve {ulid}"

    def revoke(self) -> str:
        ulid = self.approved.pop(self.random.randrange(len(self.approved)))
        with self.site.ws() as ws:
            assert ws.approvals.revoke(ulid, "old")[1]
        self.revoked.append(ulid)
        self.decisions += 1
        return f"revoke {ulid}"

    def plan(self) -> str:
        data = f'id = "p"\ntitle = "Plan {self.random.random()}"\nstatus = "active"\n'.encode()
        with self.site.ws() as ws:
            assert ws.governing.set_plan(data)[1]
        self.decisions += 1
        return "plan"

    def by_hand(self) -> str:
        ulid = str(ULID())
        return f"by hand {ulid} {self._put(ulid, f'By hand {self.random.random()}')}"

    def edit_by_hand(self) -> str:
        ulid = self._one()
        return f"edit by hand {ulid} {self._put(ulid, f'Changed by hand {self.random.random()}')}"

    def drop_by_hand(self) -> str:
        ulid = self._one()
        del self.pending[ulid]
        return f"drop by hand {ulid} {commit_by_hand(self.site, {ids.path_of(ulid): None})}"

    def _put(self, ulid: str, prompt: str) -> str:
        self.pending[ulid] = documents.build(Document(ulid=ulid, title="By hand", prompt=prompt + "\n"))
        return commit_by_hand(self.site, {ids.path_of(ulid): self.pending[ulid]})

    def check(self) -> None:
        """Git's difference of the branches is what the gate calls pending."""
        assert pending_by_git(self.site.home, self.site.path) == set(self.pending)
        with self.site.ws() as ws:
            assert {one.ulid for one in ws.drafts.list()} == set(self.pending)


def commit_by_hand(site: Site, files: dict[str, bytes | None]) -> str:
    """A commit on ops/drafts made by git plumbing alone, as Bob, with an index of its own."""
    index = site.home.path / "index-by-hand"
    index.unlink(missing_ok=True)
    bob = {"GIT_AUTHOR_NAME": "Bob", "GIT_AUTHOR_EMAIL": "bob@example.com"}
    other = Site(Home(site.home.path, {**site.home.environ, **bob, "GIT_INDEX_FILE": str(index)}), site.path)
    tip = other.tip("ops/drafts")
    other.git("read-tree", tip)
    for path, data in files.items():
        if data is None:
            other.git("update-index", "--force-remove", path)
        else:
            blob = other.git("hash-object", "-w", "--stdin", stdin=data)
            other.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    commit = other.git("commit-tree", other.git("write-tree"), "-p", tip, "-m", "by hand")
    other.git("update-ref", "refs/heads/ops/drafts", commit, tip)
    return commit[:12]


def verify_by_git(site: Site) -> int:
    """Check every decision with the signers file of its first parent, by git alone. Returns how many there are."""
    chain = site.git("log", "--first-parent", "--format=%H", "ops/approved").splitlines()
    signers = site.home.path / "signers"
    for commit, trusted in zip(chain, [*chain[1:], chain[-1]], strict=True):
        signers.write_text(site.git("show", f"{trusted}:.opsctl/allowed_signers") + "\n")
        site.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", commit)
    return len(chain)


def merges_are_plain(site: Site) -> int:
    """Each approval has the tree that git's own merge gives. Returns how many there are."""
    merges = site.git("log", "--first-parent", "--merges", "--format=%H %T %P", "ops/approved").splitlines()
    for line in merges:
        _, tree, first, second = line.split()
        assert site.git("merge-tree", "--write-tree", first, second).split()[0] == tree
    return len(merges)


@pytest.mark.sweep
def test_m5_git_diff_shows_exactly_what_is_pending_after_any_steps(site: Site) -> None:
    randomness = random.Random(seed())
    walk = Walk(site, randomness)
    for _ in range(400 if FULL else 120):
        walk.step()
        try:
            walk.check()
        except (AssertionError, OpsError) as error:
            raise AssertionError(f"after {walk.told[-12:]}: {error}") from error
    with site.ws() as ws:
        for status, expected in (
            ("approved", walk.approved),
            ("revoked", walk.revoked),
            ("rejected", walk.rejected),
        ):
            assert {one.ulid for one in ws.drafts.list(Filter(status=status))} == set(expected)
        assert len(ws.approvals.log()) == walk.decisions
    assert verify_by_git(site) == walk.decisions
    assert merges_are_plain(site) == len(walk.approved) + len(walk.revoked)
    assert site.git("rev-list", "--count", "ops/approved", "^ops/drafts") == "0", "ops/approved is an ancestor"
    fsck(site.home, site.path)


def test_m3_a_single_branch_clone_of_ops_approved_holds_no_unapproved_text(site: Site) -> None:
    walk = Walk(site, random.Random(seed()))
    for _ in range(3):
        walk.create()
        walk.by_hand()
        walk.edit()
    walk.approve()
    unapproved = [site.git("rev-parse", f"ops/drafts:{ids.path_of(ulid)}") for ulid in sorted(walk.pending)]
    clone = site.home.path / "clone"
    site.git("clone", "-q", "--no-local", "--single-branch", "--branch", "ops/approved", str(site.path), str(clone))
    there = site.home.git("cat-file", "--batch-check=%(objectname)", "--batch-all-objects", cwd=clone).splitlines()
    assert not set(unapproved) & set(there)


def test_m5_a_plain_signed_merge_of_a_topic_with_the_trailers_is_an_approval(site: Site) -> None:
    with site.ws() as ws:
        first, draft = (ws.drafts.create(NewDraft(prompt=f"Do {part}.\n")) for part in ("this", "that"))
        ws.approvals.approve(first.ulid)
        root = ws.root()
    message = (
        f"approve: by hand\n\nOps-Kind: approve\nOps-Epoch: 1\nOps-Signer: alice\nOps-Repo: {root}\n"
        f"Ops-Id: {draft.ulid}\nOps-Digest: {draft.digest}\n"
    )
    tree = site.home.path / "approving"
    site.git("worktree", "add", "-q", str(tree), "ops/approved")
    site.home.git("merge", "-q", "-S", "--no-ff", "-m", message, f"refs/ops/topics/{draft.ulid}", cwd=tree)
    site.git("worktree", "remove", str(tree))
    with site.ws() as ws:
        item, data = ws.approvals.get(draft.ulid)
        assert item.decision.digest == draft.digest == documents.digest_of(data)
        assert ws.drafts.list() == []
        third = ws.drafts.create(NewDraft(prompt="And more.\n"))
        ws.approvals.approve(third.ulid)
    assert verify_by_git(site) == 4
    assert pending_by_git(site.home, site.path) == set()


def test_m5_dulwich_reads_the_same_approved_tree(site: Site) -> None:
    repo_module = pytest.importorskip("dulwich.repo")
    walk_tree = pytest.importorskip("dulwich.object_store").iter_tree_contents
    walk = Walk(site, random.Random(seed()))
    for _ in range(4):
        walk.create()
    walk.approve()
    walk.approve()
    with repo_module.Repo(str(site.path)) as other:
        tree = other[other.refs[b"refs/heads/ops/approved"]].tree
        found = {row.path.decode(): bytes(other[row.sha].data) for row in walk_tree(other.object_store, tree)}
    with site.ws() as ws:
        for ulid in walk.approved:
            assert found.pop(ids.path_of(ulid)) == ws.approvals.get(ulid)[1]
    assert sorted(found) == [".opsctl/allowed_signers", ".opsctl/policy.toml"]


# -- shapes of repositories --------------------------------------------------------------------------------------------


def test_gt_20_a_bare_repository_works(home: Home) -> None:
    path = home.path / "bare.git"
    home.git("init", "-q", "--bare", str(path))
    site = Site(home, path)
    _life(site)
    verify_by_git(site)
    fsck(home, path)


def test_gt_20_a_linked_work_tree_uses_the_gate_of_the_repository(bare_site: Site) -> None:
    linked = bare_site.home.path / "linked"
    bare_site.git("worktree", "add", "-q", str(linked), "-b", "side")
    state = _life(bare_site, cwd=linked)
    assert _worker(bare_site, "state")["draft"] == state["draft"], "the main work tree sees the same"
    assert not (linked / "ops").exists()
    fsck(bare_site.home, bare_site.path)


def test_gt_20_a_sub_directory_works(bare_site: Site) -> None:
    _life(bare_site, cwd=bare_site.path / "src")


def test_gt_20_inside_the_git_directory_works(bare_site: Site) -> None:
    _life(bare_site, cwd=bare_site.path / ".git")


@pytest.mark.parametrize(
    "name",
    [b"with spaces", b"new\nline", b"latin-\xe9\xff", b"-rf", b"quote'\"$(touch x)", "ünï 漢字".encode()],
    ids=["spaces", "newline", "not_utf8", "dash", "quotes", "unicode"],
)
def test_gt_20_odd_paths_work(home: Home, name: bytes) -> None:
    path = home.path / os.fsdecode(name)
    path.mkdir()
    home.git("init", "-q", cwd=path)
    site = Site(home, path)
    _life(site)
    fsck(home, path)
    assert verify_by_git(site) == 5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"with spaces", id="spaces"),
        pytest.param(b"new\nline", id="newline"),
        pytest.param(b'quo"te', id="quotes"),
        pytest.param(b"latin-\xe9\xff", id="not_utf8"),
    ],
)
def test_gt_20_an_odd_path_is_good_enough_for_the_default_audience(home: Home, name: bytes) -> None:
    path = home.path / os.fsdecode(name)
    path.mkdir()
    home.git("init", "-q", cwd=path)
    refused: OpsError | None = None
    with Site(home, path).ws() as ws:
        try:
            founded = ws.founding.init(name=None, email=None, audience=None, generate_key=False)
            assert founded.policy.audience
        except OpsError as error:
            refused = error
    assert refused is None or refused.hint, "a refusal is fine, if it says what to do"


def test_gt_20_a_repository_without_a_commit_works(home: Home) -> None:
    path = home.path / "fresh"
    home.git("init", "-q", str(path))
    site = Site(home, path)
    _life(site)
    assert site.git("rev-parse", "-q", "--verify", "HEAD", check=False) == "", "HEAD is still unborn"


def test_gt_21_in_a_submodule_the_gate_is_the_submodules_own(site: Site) -> None:
    inner = site.home.path / "inner"
    site.home.git("init", "-q", str(inner))
    site.home.git("commit", "-q", "--allow-empty", "-m", "first", cwd=inner)
    site.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "sub")
    before = site.git("for-each-ref")
    state = _life(site, cwd=site.path / "sub")
    assert site.git("for-each-ref") == before, "the outer repository is untouched"
    assert site.home.git("rev-parse", "ops/approved", cwd=site.path / "sub")
    assert _worker(site, "state")["draft"] == {}
    assert state["draft"]


def test_gt_14_a_repository_of_another_user_is_refused_with_the_safe_directory_hint(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files to another user")
    for folder, _, files in os.walk(site.path):
        for name in [".", *files]:
            os.chown(os.path.join(folder, name), 12345, 12345, follow_symlinks=False)
    refused = _worker(site, "state")
    assert refused["code"] == "unsafe_owner", refused
    assert "safe.directory" in refused["hint"]
    assert str(site.path) in refused["hint"]
    site.home.git("config", "--global", "--add", "safe.directory", str(site.path))
    assert _worker(site, "state")["status"] == 0


def test_gt_18_a_sha256_repository_is_refused_in_one_line(home: Home) -> None:
    path = home.path / "wide"
    home.git("init", "-q", "--object-format=sha256", str(path))
    site = Site(home, path)
    for argv in (("init",), ("state",), ("draft", "work")):
        refused = _worker(site, *argv)
        assert refused["code"] == "unsupported_repository", refused
        assert "\n" not in refused["message"]


EXTENSIONS = {
    "partial_clone": ("partialClone", "origin"),
    "reftable": ("refStorage", "reftable"),
    "work_tree_config": ("worktreeConfig", "true"),
    "relative_work_trees": ("relativeWorktrees", "true"),
    "precious_objects": ("preciousObjects", "true"),
    "two_hashes": ("compatObjectFormat", "sha256"),
    "unknown": ("fromTheFuture", "true"),
}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_gt_19_an_extension_works_or_is_refused_in_one_line(bare_site: Site, extension: str) -> None:
    name, value = EXTENSIONS[extension]
    bare_site.git("config", "core.repositoryFormatVersion", "1")
    bare_site.git("config", f"extensions.{name}", value)
    said = _worker(bare_site, "init")
    if said["status"] == 0:
        _life(bare_site)
    else:
        assert said["code"] == "unsupported_repository", said
        assert "\n" not in said["message"]
        assert not (bare_site.path / ".git" / "refs" / "heads" / "ops").exists()


def test_gt_19_a_partial_clone_with_missing_blobs_never_runs_anything(site: Site) -> None:
    """The promisor's address names a program: a lazy fetch would run it."""
    walk = Walk(site, random.Random(seed()))
    walk.create()
    walk.approve()
    [ulid] = walk.approved
    marker = site.home.path / "marker"
    site.git("config", "core.repositoryFormatVersion", "1")
    site.git("config", "extensions.partialClone", "origin")
    site.git("config", "remote.origin.url", f"ext::touch {marker}")
    site.git("config", "remote.origin.promisor", "true")
    site.git("config", "protocol.ext.allow", "always")
    oid = site.git("rev-parse", f"ops/approved:{ids.path_of(ulid)}")
    (site.path / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    for argv in (("get", ulid), ("list",), ("draft", "more")):
        _worker(site, *argv)
    assert not marker.exists()


def test_cc_15_a_branch_named_ops_is_a_readable_conflict(bare_site: Site) -> None:
    bare_site.git("branch", "ops")
    refused = _worker(bare_site, "init")
    assert refused["code"] == "ref_conflict"
    assert "git branch -m" in refused["hint"]


# -- what must not be touched, and who must not be asked ---------------------------------------------------------------


def _fingerprint(site: Site) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, mode and time of everything of the user's: work tree, HEAD, index, stash, branches."""
    own = [path for path in site.path.rglob("*") if path.is_file() and ".git" not in path.relative_to(site.path).parts]
    own += [
        site.path / ".git" / name for name in ("HEAD", "ORIG_HEAD", "index", "config", "refs/stash", "refs/heads/side")
    ]
    return {
        str(path): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns)
        for path in own
        if path.exists()
    }


@pytest.mark.parametrize("head", ["side", "detached", "unborn"])
def test_ap_33_head_index_and_work_tree_are_byte_identical_after_every_change(bare_site: Site, head: str) -> None:
    site = bare_site
    site.git("checkout", "-q", "-b", "side")
    (site.path / "stashed.txt").write_text("put away\n")
    site.git("add", "stashed.txt")
    site.git("stash", "-q")
    (site.path / "src" / "app.py").write_text("print('dirty')\n")
    (site.path / "staged.txt").write_text("staged\n")
    site.git("add", "staged.txt")
    (site.path / "ops").mkdir()
    (site.path / "ops" / "untracked.md").write_text("mine\n")
    if head == "detached":
        site.git("checkout", "-q", "--detach")
    if head == "unborn":
        site.git("symbolic-ref", "HEAD", "refs/heads/nothing-yet")
    before = _fingerprint(site)
    assert len(before) > 6
    _life(site)
    assert _fingerprint(site) == before


@pytest.mark.parametrize(
    "names",
    [
        ("GIT_DIR",),
        ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),
        ("GIT_COMMON_DIR", "GIT_NAMESPACE"),
        ("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
        ("GIT_CEILING_DIRECTORIES",),
        ("GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE"),
        ("GIT_EXEC_PATH", "GIT_TEMPLATE_DIR", "GIT_PAGER", "GIT_EDITOR", "GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND"),
        ("GIT_TRACE", "GIT_TRACE2_EVENT"),
        ("GIT_DEFAULT_HASH", "GIT_DEFAULT_REF_FORMAT"),
        ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE", "GIT_AUTHOR_NAME", "GIT_COMMITTER_EMAIL"),
    ],
    ids=lambda names: "_".join(names).lower(),
)
def test_gt_12_git_variables_of_the_environment_point_nowhere(bare_site: Site, names: tuple[str, ...]) -> None:
    home, marker = bare_site.home, bare_site.home.path / "marker"
    other = home.path / "other"
    home.git("init", "-q", str(other))
    home.git("commit", "-q", "--allow-empty", "-m", "first", cwd=other)
    script = home.path / "program"
    script.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    script.chmod(0o755)
    values = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_COMMON_DIR": other / ".git",
        "GIT_OBJECT_DIRECTORY": other / ".git" / "objects",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": other / ".git" / "objects",
        "GIT_INDEX_FILE": other / "index",
        "GIT_NAMESPACE": "elsewhere",
        "GIT_CEILING_DIRECTORIES": bare_site.path,
        "GIT_GRAFT_FILE": other / "grafts",
        "GIT_SHALLOW_FILE": other / "shallow",
        "GIT_REPLACE_REF_BASE": "refs/heads/",
        "GIT_EXEC_PATH": other,
        "GIT_TEMPLATE_DIR": other,
        "GIT_TRACE": home.path / "trace",
        "GIT_TRACE2_EVENT": home.path / "trace",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_DEFAULT_REF_FORMAT": "reftable",
        "GIT_AUTHOR_DATE": "1970-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "not a date",
        "GIT_AUTHOR_NAME": "Somebody <x@y> 0 +0000\nparent 0",
        "GIT_COMMITTER_EMAIL": "<>",
    }
    before = home.git("for-each-ref", cwd=other), sorted(str(path) for path in other.rglob("*"))
    _life(bare_site, env={name: str(values.get(name, script)) for name in names})
    assert (home.git("for-each-ref", cwd=other), sorted(str(path) for path in other.rglob("*"))) == before
    assert not marker.exists()
    assert not (home.path / "trace").exists()
    verify_by_git(bare_site)
    fsck(home, bare_site.path)


HOOKS = [
    "applypatch-msg",
    "commit-msg",
    "fsmonitor-watchman",
    "post-applypatch",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-receive",
    "post-rewrite",
    "post-update",
    "pre-applypatch",
    "pre-auto-gc",
    "pre-commit",
    "pre-merge-commit",
    "pre-push",
    "pre-rebase",
    "pre-receive",
    "prepare-commit-msg",
    "proc-receive",
    "push-to-checkout",
    "reference-transaction",
    "sendemail-validate",
    "update",
]


@pytest.mark.parametrize("place", ["hooks", "hooksPath"])
def test_gt_10_no_hook_and_no_program_of_the_repository_is_ever_run(bare_site: Site, place: str) -> None:
    home, marker = bare_site.home, bare_site.home.path / "marker"
    folder = bare_site.path / ".git" / "hooks" if place == "hooks" else home.path / "elsewhere"
    folder.mkdir(exist_ok=True)
    for name in (*HOOKS, "program"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> '{marker}'\n")
        (folder / name).chmod(0o755)
    program = str(folder / "program")
    if place == "hooksPath":
        bare_site.git("config", "core.hooksPath", str(folder))
    for key in (
        "gpg.program",
        "gpg.ssh.program",
        "gpg.ssh.defaultKeyCommand",
        "core.fsmonitor",
        "core.editor",
        "core.pager",
        "core.sshCommand",
        "core.askPass",
        "core.alternateRefsCommand",
        "diff.external",
        "diff.evil.command",
        "diff.evil.textconv",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "merge.evil.driver",
        "credential.helper",
        "uploadpack.packObjectsHook",
        "alias.config",
    ):
        bare_site.git("config", key, program)
    info = bare_site.path / ".git" / "info"
    info.mkdir(exist_ok=True)
    (info / "attributes").write_text("* filter=evil diff=evil merge=evil\n")
    _life(bare_site)
    assert not marker.exists(), marker.read_text()


# -- clocks ------------------------------------------------------------------------------------------------------------

TIMES = ["1970-01-01T00:00:01", "2038-01-19T03:14:08", "2100-02-28T23:59:59", "2999-12-31T12:00:00"]


@pytest.mark.parametrize("moment", TIMES)
def test_lm_01_any_clock_makes_valid_ids_and_valid_history(bare_site: Site, moment: str) -> None:
    state = _life(bare_site, env={"FAULTS_NOW": f"{moment}+00:00"})
    [pending] = state["draft"]
    assert ids.created_at(pending).isoformat()[:19] == moment
    assert f"ops/{moment[:4]}/{moment[5:7]}/{moment[8:10]}/{pending}.md" in site_files(bare_site)
    assert verify_by_git(bare_site) == 5
    fsck(bare_site.home, bare_site.path)
    assert _worker(bare_site, "state")["draft"] == state["draft"], "and with today's clock"


def site_files(site: Site) -> list[str]:
    """Paths on ops/drafts."""
    return site.git("ls-tree", "-r", "--name-only", "ops/drafts").splitlines()


def test_lm_01_order_follows_history_and_not_the_clock(site: Site) -> None:
    moments = [datetime(year, 1, 1, tzinfo=UTC) for year in (2100, 1970, 2038, 2000)]
    made = []
    for moment in moments:
        with site.ws(now=lambda moment=moment: moment) as ws:
            made.append(ws.drafts.create(NewDraft(prompt="Do it.\n")).ulid)
            ws.approvals.approve(made[-1])
    with site.ws() as ws:
        assert [one.ulid for one in ws.approvals.log()] == [*reversed(made), None]
        assert [one.ulid for one in ws.drafts.list(Filter(status="approved"))] == made[::-1]
    assert verify_by_git(site) == 5
    fsck(site.home, site.path)


@pytest.mark.parametrize("year", [1, 1969])
def test_lm_01_a_clock_before_1970_is_a_readable_refusal(bare_site: Site, year: int) -> None:
    moment = {"FAULTS_NOW": f"{year:04}-06-01T00:00:00+00:00"}
    founded = _worker(bare_site, "init", env=moment)
    if founded["status"] != 0:
        assert founded["code"] == "bad_input", founded
        assert _worker(bare_site, "init")["status"] == 0
    refused = _worker(bare_site, "draft", "work", env=moment)
    assert refused["code"] == "bad_input", refused
    [ulid] = _worker(bare_site, "draft", "work")["ulids"]
    for argv in (("edit", ulid, "More."), ("approve", ulid), ("revoke", ulid)):
        said = _worker(bare_site, *argv, env=moment)
        assert said["status"] == 0 or said["code"] == "bad_input", said
    fsck(bare_site.home, bare_site.path)


@pytest.mark.sweep
def test_lm_03_many_drafts_in_one_millisecond_are_unique_and_in_order(site: Site) -> None:
    count = 1000 if FULL else 200
    frozen = datetime(2026, 5, 17, 12, 0, 0, 123000, tzinfo=UTC)
    with site.ws(now=lambda: frozen) as ws:
        made = [ws.drafts.create(NewDraft(prompt=f"Part {number}.\n")).ulid for number in range(count)]
    assert made == sorted(set(made)), "unique and monotonic"
    with site.ws(now=lambda: frozen) as ws:
        assert [one.ulid for one in ws.drafts.list()] == made
    assert pending_by_git(site.home, site.path) == set(made)


@pytest.mark.sweep
def test_lm_03_drafts_of_separate_commands_in_one_millisecond_are_unique(site: Site) -> None:
    frozen = datetime(2026, 5, 17, 12, 0, 0, 123000, tzinfo=UTC)
    made = []
    for number in range(40):
        with site.ws(now=lambda: frozen) as ws:
            made.append(ws.drafts.create(NewDraft(prompt=f"Part {number}.\n")).ulid)
    assert len(set(made)) == 40
    assert pending_by_git(site.home, site.path) == set(made)


def test_gt_13_a_copied_repository_brings_no_beliefs_along(site: Site) -> None:
    """The copy is another clone: nothing of it is trusted before a person pins its root."""
    walk = Walk(site, random.Random(seed()))
    walk.create()
    walk.approve()
    [ulid] = walk.approved
    copy = site.home.path / "copy"
    shutil.copytree(site.path, copy)
    refused = _worker(site, "get", ulid, cwd=copy)
    assert refused["code"] == "no_trust", refused
    assert "opsctl trust" in refused["hint"]
