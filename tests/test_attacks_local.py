"""Attacks on one machine: settings, folders and environment that lie, lists that cost, texts that hide something."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from conftest import Home, Site, make_home
from test_attacks_objects import ends, refused

from opsctl import ids
from opsctl.git import command
from opsctl.workspace.drafts import NewDraft
from opsctl.workspace.worklog import WorkLog

SECRET = "AKIA" + "ABCDEFGHIJKLMNOP"


def ulids(count: int) -> list[str]:
    """Ids that differ in the first letters alone."""
    return [
        "".join(ids.ALPHABET[(n * 7 + 1795417206000) >> s & 31] for s in range(45, -1, -5)) + "1JAQFP4V5KFYW1JP"
        for n in range(count)
    ]


def drafts_with(site: Site, rows: dict[str, str], *parents: str) -> str:
    """A commit on `ops/drafts` by plain git that puts blobs at paths."""
    index = {**site.home.environ, "GIT_INDEX_FILE": str(site.home.path / "index")}
    by_hand = Site(Home(site.home.path, index), site.path)
    by_hand.git("read-tree", "ops/drafts")
    lines = "".join(f"100644 {blob}\t{path}\n" for path, blob in rows.items())
    by_hand.git("update-index", "--index-info", stdin=lines.encode())
    commit = site.git("commit-tree", by_hand.git("write-tree"), "-p", "ops/drafts", "-m", "by hand")
    site.git("update-ref", "refs/heads/ops/drafts", commit)
    return commit


# -- whose folders, whose key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["~", "home", ".", "../x"])
def test_gt_13_a_home_that_is_no_absolute_path_is_refused(site: Site, place: str) -> None:
    (site.path / place / ".config/opsctl").mkdir(parents=True, exist_ok=True)
    root = site.tip()
    pin = f'[[clone]]\npath = "{site.path}/.git"\nroot = "{root}"\n'
    (site.path / place / ".config/opsctl/trust.toml").write_text(pin)
    for name in [name for name in site.home.environ if name.startswith("XDG_")]:
        del site.home.environ[name]
    site.home.environ["HOME"] = place
    for argv in (["list"], ["verify"], ["show", "x"], ["init"], ["config", "show"]):
        refused(site, *argv, status=2, says="no absolute path")


def test_gt_13_git_is_given_no_folder_that_it_would_look_for_in_the_repository(site: Site) -> None:
    evil = site.path / "x/git"
    evil.mkdir(parents=True)
    (evil / "config").write_text('[gpg "ssh"]\n\tprogram = /bin/false\n[user]\n\tname = Mallory\n')
    environ = {**site.home.environ, "XDG_CONFIG_HOME": "x", "HOME": "x"}
    environ.pop("GIT_CONFIG_GLOBAL")
    found = command.settings(site.path / ".git", site.path, environ)
    assert not [one for one in found if one.is_own and "Mallory" in one.value]


def test_ap_35_a_gate_is_not_founded_on_a_key_that_the_repository_names(bare_site: Site) -> None:
    mallory = bare_site.home.key("mallory")
    bare_site.git("config", "user.signingkey", f"{mallory}.pub")
    refused(bare_site, "init", status=6, says="the repository's own configuration names the signing key")
    assert bare_site.git("for-each-ref", "refs/heads/ops") == ""
    bare_site.git("config", "extensions.worktreeConfig", "true")
    bare_site.git("config", "--unset", "user.signingkey")
    bare_site.git("config", "--worktree", "user.signingkey", f"{mallory}.pub")
    refused(bare_site, "init", status=6, says="the repository's own configuration names the signing key")
    bare_site.ok("init", "--key", str(bare_site.home.key("alice")))


def test_cr_11_where_nothing_can_be_remembered_reading_works(site: Site) -> None:
    ulid = site.ok("draft", "one")[2:]
    state = Path(site.home.environ["XDG_STATE_HOME"])
    shutil.rmtree(state)
    state.write_text("a file, so that nobody, root neither, can make a folder here")
    assert ulid in site.ok("list")
    done = site.cli("verify")
    assert done.returncode == 0
    assert "nothing is remembered" in done.stdout + done.stderr


@pytest.mark.parametrize("value", ["²", "٣", "1.5", "-1", "0", "1e3", " 1", "9" * 5000])
def test_a_time_that_is_no_plain_number_is_refused(site: Site, value: str) -> None:
    ulid = site.ok("draft", "one")[2:]
    done = site.cli("approve", ulid, "--yes", env={"OPSCTL_SIGN_TIMEOUT": value})
    assert done.returncode == 2, done.stderr
    assert "OPSCTL_SIGN_TIMEOUT" in done.stderr


@pytest.mark.parametrize("how", ["complete_bash", "complete_zsh", "complete_fish", "source_bash", "nonsense", ""])
def test_a_shell_that_does_not_say_what_to_complete_is_no_bug(site: Site, how: str) -> None:
    for more in ({}, {"COMP_WORDS": "opsctl", "COMP_CWORD": "x"}, {"COMP_WORDS": "'", "COMP_CWORD": "1"}):
        done = site.cli(env={"_OPSCTL_COMPLETE": how, **more})
        assert "a bug in opsctl" not in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


# -- texts ----------------------------------------------------------------------------------------------------------


def test_tx_02_the_name_of_a_branch_hides_nothing(site: Site) -> None:
    ulid = site.ok("draft", "one")[2:]
    for escape in ("\\u202e", "\\u200b", "\\U000e0041"):
        data = f'+++\nid = "d_{ulid}"\ntitle = "one"\n[target]\nbranch = "main{escape}"\n+++\none\n'.encode()
        with site.ws() as ws:
            digest = ws.drafts.edit(ulid, data=data)[0].digest
        refused(site, "approve", ulid, "--yes", "--expect", digest, status=2, says="hidden")


@pytest.mark.parametrize("verb", ["return", "reject", "revoke", "policy", "plan"])
def test_tx_25_a_reason_holds_no_secret(site: Site, verb: str) -> None:
    ulid = site.ok("draft", "one")[2:]
    if verb == "revoke":
        site.ok("approve", ulid, "--yes")
    file = site.home.path / "plan.toml"
    file.write_text('id = "p"\ntitle = "t"\nstatus = "active"\n')
    if verb == "policy":
        file.write_text(site.ok("policy", "show", "--raw").replace('max_staleness = ""', 'max_staleness = "7d"'))
    what = [verb, "set", str(file)] if verb in ("policy", "plan") else [verb, ulid]
    before = site.git("for-each-ref")
    refused(
        site, *what, "--reason", f"it has {SECRET} in it", status=2, says="the reason holds what looks like a secret"
    )
    assert site.git("for-each-ref") == before
    site.ok(*what, "--reason", "it is better so")


# -- lists ----------------------------------------------------------------------------------------------------------


def test_gt_22_short_ids_are_found_without_comparing_all_with_all() -> None:
    many = ulids(20_000)
    start = time.process_time()
    found = ids.shortest_suffixes(many, many)
    assert time.process_time() - start < 5
    assert len(set(found.values())) == len(many)
    assert all(ulid.endswith(short) for ulid, short in found.items())


def test_gt_09_one_text_under_thousands_of_names_is_held_once_at_most(site: Site) -> None:
    text = '+++\nid = "d_01M83K8T971JAQFP4V5KFYW1JP"\ntitle = "t"\n+++\n' + "é" * 130_900
    blob = site.git("hash-object", "-w", "--stdin", stdin=text.encode())
    drafts_with(site, {ids.path_of(ulid): blob for ulid in ulids(1000)})
    with site.ws() as ws:
        found = ws.drafts.list()
        assert len(found) == 1000
        assert sum(len(draft.document.prompt) for draft in found) == 0
        assert all(draft.error for draft in found)
        one = ws.drafts.get(found[0].ulid)
        assert len(one.document.prompt) > 100_000


def test_gt_09_a_list_of_large_drafts_stays_within_bounds(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsctl.workspace.desk._ROOM", 1000)
    with site.ws() as ws:
        for place in range(4):
            ws.drafts.create(NewDraft(f"{place}" * 400, title=f"number {place}"))
        found = ws.drafts.list()
        assert [len(draft.document.prompt) for draft in found] == [400, 400, 0, 0]
        assert [draft.document.title for draft in found] == [f"number {place}" for place in range(4)]
        assert "too much text" in (found[3].error or "")
        assert ws.drafts.get(found[3].ulid).error is None
        assert ws.approvals.approve(found[3].ulid).item is not None


def test_gt_22_who_brought_many_drafts_is_found_in_one_walk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    many = ulids(30)
    rows = {}
    for ulid in many:
        data = f'+++\nid = "d_{ulid}"\ntitle = "t"\n+++\nhi\n'.encode()
        rows[ids.path_of(ulid)] = site.git("hash-object", "-w", "--stdin", stdin=data)
    site.home.environ["GIT_AUTHOR_NAME"] = "Carl"
    drafts_with(site, dict(list(rows.items())[:15]))
    site.home.environ["GIT_AUTHOR_NAME"] = "Dora"
    drafts_with(site, dict(list(rows.items())[15:]))
    site.home.environ["GIT_AUTHOR_NAME"] = "Mallory"
    stream = "".join(
        "commit refs/heads/ops/drafts\ncommitter M <m@x> 1795417206 +0000\ndata 1\nx\n"
        + (f"from {site.tip('ops/drafts')}\n" if place == 0 else "")
        for place in range(500)
    )
    site.git("fast-import", "--quiet", "--force", stdin=stream.encode())
    steps: list[object] = []
    compare = WorkLog._compare

    def counted(self: WorkLog, *both: object) -> None:
        steps.append(both)
        compare(self, *both)  # type: ignore[arg-type]

    monkeypatch.setattr(WorkLog, "_compare", counted)
    with site.ws() as ws:
        found = {draft.ulid: draft.author for draft in ws.drafts.list()}
    assert found == {ulid: "Carl" if place < 15 else "Dora" for place, ulid in enumerate(many)}
    assert 500 <= len(steps) <= 510


def test_gt_22_a_text_that_comes_back_is_the_work_of_who_brought_it_back(site: Site) -> None:
    (ulid,) = ulids(1)
    path = ids.path_of(ulid)
    for author, text in (("Carl", "one"), ("Dora", "two"), ("Emil", "one")):
        site.home.environ["GIT_AUTHOR_NAME"] = author
        data = f'+++\nid = "d_{ulid}"\ntitle = "t"\n+++\n{text}\n'.encode()
        drafts_with(site, {path: site.git("hash-object", "-w", "--stdin", stdin=data)})
    with site.ws() as ws:
        assert ws.drafts.get(ulid).author == "Emil"


# -- a working side that came along ----------------------------------------------------------------------------------


@pytest.fixture
def clone(site: Site, tmp_path: Path) -> Site:
    """Carl's plain clone of a remote whose gate is Alice's; not trusted yet."""
    site.ok("draft", "work")
    hub = tmp_path / "hub.git"
    site.home.git("init", "-q", "--bare", str(hub))
    site.git("remote", "add", "origin", str(hub))
    site.git("push", "-q", "origin", "main")
    site.ok("sync")
    home = make_home(tmp_path / "carl", "Carl", "carl@example.com")
    home.git("clone", "-q", str(hub), str(home.path / "repo"))
    return Site(home, home.path / "repo")


def _unreadable(site: Site) -> None:
    raw = site.git("cat-file", "commit", "ops/drafts").encode() + b"\n"
    raw = raw.replace(b"\n\n", b"\nencoding ISO-8859-1\n\n", 1)
    odd = site.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=raw)
    site.git("push", "-q", "-f", "origin", f"{odd}:refs/heads/ops/drafts")


def _endless(site: Site) -> None:
    blob = site.git("hash-object", "-w", "--stdin", stdin=b"x")
    tree = site.git("mktree", stdin="".join(f"100644 blob {blob}\tf{n}\n" for n in range(10)).encode())
    for _ in range(12):
        tree = site.git("mktree", stdin="".join(f"040000 tree {tree}\td{n}\n" for n in range(10)).encode())
    rows = site.git("ls-tree", "ops/drafts") + f"\n040000 tree {tree}\tclosed\n"
    top = site.git("mktree", stdin=rows.encode())
    commit = site.git("commit-tree", top, "-p", "ops/drafts", "-m", "x")
    site.git("push", "-q", "-f", "origin", f"{commit}:refs/heads/ops/drafts")


def _problems(site: Site) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(ends(site, "doctor", "--json").stdout)
    return [row for row in rows if row["level"] == "problem"]


def test_rm_14_trust_leaves_an_unreadable_working_side_where_it_is(site: Site, clone: Site) -> None:
    _unreadable(site)
    done = clone.cli("trust", site.tip(), "--yes")
    assert done.returncode == 0, done.stderr
    assert clone.tip("ops/drafts") == clone.tip()
    clone.ok("list")
    clone.ok("draft", "goes on")
    site.git("push", "-q", "-f", "origin", "ops/drafts")
    clone.ok("sync")
    assert len(clone.json("list")) == 2  # type: ignore[arg-type]


def test_rm_14_a_tree_without_end_locks_nobody_out(site: Site, clone: Site) -> None:
    _endless(site)
    ends(clone, "trust", site.tip(), "--yes")
    for argv in (["list"], ["status"], ["show", ids.path_of(ulids(1)[0])[-29:-3]], ["doctor"], ["draft", "goes on"]):
        ends(clone, *argv)
    assert "goes on" in clone.ok("list")
    assert clone.cli("list", "--status", "all").returncode == 0
    assert "objects" not in [row["name"] for row in _problems(clone)]


def test_rm_14_doctor_makes_a_working_side_anew_that_cannot_be_read(site: Site) -> None:
    ulid = site.ok("draft", "work")[2:]
    raw = site.git("cat-file", "commit", "ops/drafts").encode() + b"\n"
    raw = raw.replace(b"\n\n", b"\nencoding ISO-8859-1\n\n", 1)
    odd = site.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=raw)
    site.git("update-ref", "refs/heads/ops/drafts", odd)
    assert "ops/drafts cannot be read" in ends(site, "doctor").stdout
    assert "made anew with 1 drafts" in ends(site, "doctor", "--fix").stdout
    assert [row["id"] for row in site.json("list")] == [f"d_{ulid}"]  # type: ignore[union-attr, index, call-overload]
    site.ok("approve", ulid, "--yes")
