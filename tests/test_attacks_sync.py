"""Attacks by way of a remote or of what a clone's own git directory says, and decisions that a sync must not lose."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Home, Site

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.git.command import Git
from opsctl.workspace import Workspace
from opsctl.workspace.drafts import NewDraft
from opsctl.workspace.syncing import Synced, Syncing

BOMB = 11
"""Trees within trees, ten in each."""


def quiet(_line: str) -> None:
    """Nobody listens."""


def sync(site: Site, key: str | None = None) -> Synced:
    """One sync, as a new process would do it."""
    with site.ws(key=key) as ws:
        return ws.syncing.sync(None, quiet)


def approved(site: Site, text: str, key: str | None = None) -> str:
    """A new draft that is approved at once."""
    with site.ws(key=key) as ws:
        ulid = ws.drafts.create(NewDraft(text)).ulid
        assert ws.approvals.approve(ulid).item is not None
        return ulid


def set_policy(ws: Workspace, **values: str) -> None:
    """Sign a policy with other settings."""
    text = ws.governing.policy()[1].decode()
    for name, value in values.items():
        line = next(row for row in text.splitlines() if row.startswith(f"{name} = "))
        text = text.replace(line, f"{name} = {value}")
    ws.governing.set_policy(text.encode())


@pytest.fixture
def hub(site: Site, tmp_path: Path) -> Site:
    """The bare repository between two clones."""
    path = tmp_path / "hub.git"
    site.home.git("init", "-q", "--bare", str(path))
    return Site(site.home, path)


@pytest.fixture
def clones(site: Site, hub: Site) -> tuple[Site, Site]:
    """Two clones of one remote. Alice and Bob may approve, and set the policy."""
    with site.ws() as ws:
        row = f'\n[[principal]]\nname = "bob"\nroles = ["approver", "policy"]\nkeys = ["{site.home.public("bob")}"]\n'
        ws.governing.set_policy(ws.governing.policy()[1] + row.encode())
    site.git("remote", "add", "origin", str(hub.path))
    site.git("push", "-q", "origin", "main")
    sync(site)
    return site, clone(site.home, hub, "other")


def clone(home: Home, hub: Site, name: str) -> Site:
    """A fresh clone that trusts the gate."""
    made = Site(home, home.path / name)
    home.git("clone", "-q", str(hub.path), str(made.path))
    with made.ws() as ws:
        ws.founding.trust(ws.founding.candidate(None, None))
    return made


@pytest.fixture
def marked(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Makes a program that leaves a mark, and says where."""

    def make(name: str) -> tuple[Path, Path]:
        program, mark = tmp_path / name, tmp_path / f"{name}.mark"
        program.write_text(f"#!/bin/sh\necho \"$@\" >> '{mark}'\nexit 1\n")
        program.chmod(0o755)
        return program, mark

    return make


@pytest.fixture
def unplugged(site: Site) -> Callable[[], Callable[[], None]]:
    """Takes Alice's key away; returns what puts it back."""

    def take() -> Callable[[], None]:
        key = site.home.path / "keys" / "alice"
        shutil.move(key, key.with_name("away"))
        return lambda: shutil.move(key.with_name("away"), key) and None

    return take


Marked = Callable[[str], tuple[Path, Path]]
Unplugged = Callable[[], Callable[[], None]]


# -- what a clone's own git directory says ------------------------------------------------------------------------


def test_rm_12_a_push_is_not_signed_by_a_program_that_the_repository_names(
    clones: tuple[Site, Site], hub: Site, marked: Marked
) -> None:
    one, _ = clones
    evil, mark = marked("evil")
    hub.git("config", "receive.certNonceSeed", "x")
    for key, value in (("push.gpgSign", "true"), ("gpg.format", "openpgp"), ("gpg.program", str(evil))):
        one.git("config", key, value)
    with one.ws() as ws:
        ws.drafts.create(NewDraft("something to push"))
    assert sync(one).published
    assert not mark.exists()


def test_rm_12_what_git_sees_in_the_common_folder_alone_runs_nothing(
    clones: tuple[Site, Site], marked: Marked, tmp_path: Path
) -> None:
    one, _ = clones
    (evil, mark), (own, used) = marked("evil"), marked("own")
    one.home.git("config", "--global", "core.sshCommand", str(own))
    (one.path / ".git/x").write_text(f"[core]\n\tsshCommand = {evil}\n")
    with (one.path / ".git/config").open("a") as config:
        config.write('[includeIf "gitdir:/**/.git"]\n\tpath = x\n')
    one.git("remote", "set-url", "origin", "ssh://example.invalid/x.git")
    one.git("worktree", "add", "-q", str(tmp_path / "linked"), "-b", "linked")
    for place in (one.path, tmp_path / "linked"):
        with pytest.raises(OpsError) as caught:
            sync(Site(one.home, place))
        assert caught.value.code in ("unsafe_remote", "remote_failed")
    assert not mark.exists()
    assert used.exists(), "what the user has set himself counts"


def test_rm_12_settings_of_the_user_that_hold_in_some_folders_only_count(
    clones: tuple[Site, Site], marked: Marked
) -> None:
    one, _ = clones
    own, used = marked("own")
    (one.home.path / "work").write_text(f"[core]\n\tsshCommand = {own}\n")
    one.home.git("config", "--global", f"includeIf.gitdir:{one.path}/.path", str(one.home.path / "work"))
    one.git("remote", "set-url", "origin", "git@example.invalid:x.git")
    with pytest.raises(OpsError):
        sync(one)
    assert "example.invalid" in used.read_text()


@pytest.mark.parametrize("place", ["config", "branches", "remotes"])
def test_rm_12_an_address_is_not_taken_for_the_name_of_another_remote(
    clones: tuple[Site, Site], marked: Marked, place: str, tmp_path: Path
) -> None:
    one, _ = clones
    own, used = marked("own")
    one.home.git("config", "--global", "core.sshCommand", str(own))
    one.git("remote", "set-url", "origin", "server:x.git")
    one.home.git("init", "-q", "--bare", str(tmp_path / "elsewhere.git"))
    elsewhere = tmp_path / "elsewhere.git"
    if place == "config":
        one.git("config", "remote.server:x.git.url", str(elsewhere))
    else:
        folder = one.path / ".git" / place
        folder.mkdir(exist_ok=True)
        (folder / "server:x.git").write_text(f"{'URL: ' if place == 'remotes' else ''}{elsewhere}\n")
    with pytest.raises(OpsError):
        sync(one)
    assert "server" in used.read_text()


def test_gt_10_a_missing_object_is_fetched_by_no_program_of_the_repository(site: Site, marked: Marked) -> None:
    evil, mark = marked("evil")
    for name, value in (("promisor", "true"), ("url", str(site.path)), ("uploadpack", str(evil))):
        site.git("config", f"remote.evil.{name}", value)
    gone = "0123456789012345678901234567890123456789"
    with pytest.raises(OpsError):
        Git(site.path / ".git", site.home.environ).run("rev-list", "--objects", gone)
    with pytest.raises(OpsError):
        Git(site.path / ".git", site.home.environ).run("cat-file", "-p", gone)
    assert not mark.exists()


def test_the_password_in_an_address_is_not_shown(clones: tuple[Site, Site]) -> None:
    one, _ = clones
    for url in ("foo://alice:hunter2@example.com/x", "https://alice:hunter2@exa\x01mple.com/x"):
        one.git("remote", "set-url", "origin", url)
        with pytest.raises(OpsError) as caught:
            sync(one)
        assert "hunter2" not in f"{caught.value.message}{caught.value.cause}{caught.value.hint}"
        assert "exa" in caught.value.message


# -- separation of duties -----------------------------------------------------------------------------------------


def _push_text(site: Site, ulid: str, data: bytes, *, key: str | None = None) -> None:
    """Give the remote's topic and its working side another text, as anybody who may push can."""
    path, index = ids.path_of(ulid), str(site.home.path / "index")
    blob = site.git("hash-object", "-w", "--stdin", stdin=data)
    commits: list[str] = []
    for base in (f"refs/ops/topics/{ulid}", "refs/heads/ops/drafts"):
        os.environ["GIT_INDEX_FILE"] = site.home.environ["GIT_INDEX_FILE"] = index
        site.git("read-tree", base)
        site.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        tree = site.git("write-tree")
        del os.environ["GIT_INDEX_FILE"], site.home.environ["GIT_INDEX_FILE"]
        parents = [part for one in (site.git("rev-parse", base), *commits) for part in ("-p", one)]
        options = [f"-S{site.home.key(key)}"] if key and not commits else []
        commits.append(
            site.git("commit-tree", *options, tree, *parents, "-m", f"edit\n\nOps-Kind: edit\nOps-Id: {ulid}")
        )
    site.git("push", "-q", "origin", f"{commits[0]}:refs/ops/topics/{ulid}", f"{commits[1]}:refs/heads/ops/drafts")


@pytest.fixture
def apart(clones: tuple[Site, Site]) -> tuple[Site, Site, str, bytes]:
    """Separation of duties, and a draft of Alice's on both sides; she has left a remark that is not published."""
    one, other = clones
    with one.ws() as ws:
        set_policy(ws, separation_of_duties="true")
        draft = ws.drafts.create(NewDraft("harmless text"))
        data = ws.drafts.content(draft)
    sync(one)
    sync(other)
    with one.ws() as ws:
        ws.drafts.give_back(draft.ulid, "think again")
    return one, other, draft.ulid, data


@pytest.mark.parametrize("key", [None, "bob"])
def test_ap_09_sync_signs_no_text_because_its_authors_line_says_so(
    apart: tuple[Site, Site, str, bytes], key: str | None
) -> None:
    one, other, ulid, data = apart
    _push_text(other, ulid, data.replace(b"harmless text", b"evil text"), key=key)
    notices = sync(one).notices
    assert any(ulid in line for line in notices)
    sync(other)
    with other.ws(key="bob") as bob:
        assert bob.drafts.content(bob.drafts.get(ulid)).count(b"evil text")
        with pytest.raises(OpsError) as caught:
            bob.approvals.approve(ulid)
    assert caught.value.code == ("role" if key else "bad_signature")


def test_rm_08_an_authors_own_text_is_signed_again_on_the_other_line(apart: tuple[Site, Site, str, bytes]) -> None:
    one, other, ulid, _ = apart
    with other.ws() as ws:  # Alice's second clone
        ws.drafts.edit(ulid, prompt="better text")
    sync(other)
    sync(one)
    with one.ws() as ws:
        assert [row.blob for row in ws.drafts.revisions(ulid)][-1] == ws.drafts.get(ulid).blob
    sync(other, "bob")
    with other.ws(key="bob") as bob:
        assert bob.approvals.approve(ulid).item is not None


def test_ap_09_a_new_title_signs_no_text_that_was_swapped_in(clones: tuple[Site, Site]) -> None:
    one, _ = clones
    with one.ws() as ws:
        set_policy(ws, separation_of_duties="true")
        draft = ws.drafts.create(NewDraft("harmless text"))
        data = ws.drafts.content(draft).replace(b"harmless text", b"evil text")
    blob = one.git("hash-object", "-w", "--stdin", stdin=data)
    one.home.environ["GIT_INDEX_FILE"] = str(one.home.path / "index")
    one.git("read-tree", "ops/drafts")
    one.git("update-index", "--cacheinfo", f"100644,{blob},{draft.path}")
    tree = one.git("write-tree")
    del one.home.environ["GIT_INDEX_FILE"]
    one.git("update-ref", "refs/heads/ops/drafts", one.git("commit-tree", tree, "-p", "ops/drafts", "-m", "x"))
    with one.ws() as ws:
        after, _ = ws.drafts.edit(draft.ulid, title="Another title")
        assert b"evil" not in ws.drafts.content(after)
        assert after.document.title == "Another title"
    with one.ws(key="bob") as bob:
        assert bob.approvals.approve(draft.ulid).item is not None


# -- decisions on both sides --------------------------------------------------------------------------------------


@pytest.fixture
def revoked(clones: tuple[Site, Site]) -> tuple[Site, Site, str]:
    """One clone revoked an item, and the remote has gone on meanwhile."""
    one, other = clones
    ulid = approved(one, "dangerous")
    sync(one)
    sync(other)
    with one.ws() as ws:
        ws.approvals.revoke(ulid, "it deletes the wrong table")
    approved(other, "something else", key="bob")
    sync(other, "bob")
    return one, other, ulid


def assert_revoked(site: Site, ulid: str) -> None:
    """Nothing here serves or lists the item as approved."""
    with site.ws() as ws:
        with pytest.raises(OpsError) as caught:
            ws.approvals.get(ulid)
        assert caught.value.code == "already_decided"
        with pytest.raises(OpsError):
            ws.runs.approved(ulid)
        assert ulid not in [draft.ulid for draft in ws.desk.decided("approved")]
        assert ulid in [draft.ulid for draft in ws.desk.decided("revoked")]
        assert ws.drafts.get(ulid).status == "revoked"
        assert not ws.desk.is_approved(ulid)


def test_rm_07_a_revocation_holds_while_it_waits_for_the_key(
    revoked: tuple[Site, Site, str], unplugged: Unplugged
) -> None:
    one, other, ulid = revoked
    put_back = unplugged()
    assert len(sync(one).left_open) == 1
    assert_revoked(one, ulid)
    with one.ws() as ws:
        assert any(f"a_{ulid} is revoked" in line for line in ws.verification.verify().notices)
        assert ws.approvals.log(ulid)[0].kind == "approve", "nothing was signed"
    assert one.json("status")["revoked_unsigned"] == [f"a_{ulid}"]  # type: ignore[index]
    put_back()
    assert sync(one).closed_again == (f"revoke d_{ulid}",)
    sync(other)
    for site in (one, other):
        assert_revoked(site, ulid)
        with site.ws() as ws:
            assert ws.approvals.log(ulid)[0].kind == "revoke"
            assert ws.verification.verify().notices == ()


def test_rm_07_a_person_may_revoke_again_what_waits(revoked: tuple[Site, Site, str], unplugged: Unplugged) -> None:
    one, _, ulid = revoked
    put_back = unplugged()
    sync(one)
    put_back()
    with one.ws() as ws:
        assert ws.approvals.revoke(ulid, "as I said")[1]
    done = sync(one)
    assert (done.closed_again, done.left_open) == ((), ())
    assert_revoked(one, ulid)


def test_rm_07_the_line_that_a_sync_moves_to_has_the_revocation_on_it(
    revoked: tuple[Site, Site, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, ulid = revoked

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Syncing, "_sign_again", dies)
        with pytest.raises(KeyboardInterrupt):
            sync(one)
    assert one.git("log", "-1", "--format=%s", "ops/approved").startswith("revoke:")
    assert one.git("log", "--first-parent", "--format=%s", "ops/approved").count("approve: something else") == 1
    assert_revoked(one, ulid)
    assert sync(one).left_open == ()


def test_rm_07_a_policy_that_only_one_side_changed_is_not_lost(clones: tuple[Site, Site], unplugged: Unplugged) -> None:
    one, other = clones
    with one.ws() as ws:
        text = ws.governing.policy()[1]
        ws.governing.set_policy(text[: text.rindex(b"[[principal]]")])  # Bob's key was stolen
    approved(other, "by the thief", key="bob")
    sync(other, "bob")
    before, put_back = one.tip(), unplugged()
    with pytest.raises(OpsError) as caught:
        sync(one)
    assert caught.value.kind == "environment"
    assert one.tip() == before, "without the key nothing is taken over"
    put_back()
    assert [name.split()[0] for name in sync(one).closed_again] == ["policy"]
    with one.ws() as ws:
        assert [who.name for who in ws.governing.policy()[0].principals] == ["alice"]
        assert ws.verification.verify(deep=True).ok


def test_rm_07_what_was_revoked_before_it_was_published_gets_no_vote(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        ulid = ws.drafts.create(NewDraft("on second thoughts")).ulid
    sync(one)
    sync(other)
    with one.ws() as ws:
        ws.approvals.approve(ulid)
        ws.approvals.revoke(ulid, "no, it is wrong")
    with other.ws(key="bob") as ws:
        set_policy(ws, threshold="2")
    sync(other, "bob")
    assert [f"opsctl reject d_{ulid}" in line for line in sync(one).left_open] == [True]
    with one.ws() as ws:
        assert ws.drafts.get(ulid).votes == ()
        assert ws.syncing.waiting() == 1
    sync(other, "bob")
    with other.ws(key="bob") as ws:
        assert ws.approvals.approve(ulid).item is None, "one of two"
    sync(other, "bob")
    with one.ws() as ws:
        ws.syncing.sync(None, quiet)
        ws.drafts.reject(ulid, "no, it is wrong")
        ws.syncing.sync(None, quiet)
        assert ws.syncing.waiting() == 0


def _plan(title: str) -> bytes:
    return f'id = "p"\ntitle = "{title}"\nstatus = "active"\n'.encode()


def test_rm_07_a_plan_is_not_signed_over_one_that_its_author_never_saw(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        ws.governing.set_plan(_plan("Alice's"))
    with other.ws(key="bob") as ws:
        ws.governing.set_plan(_plan("Bob's"))
    sync(other, "bob")
    assert [line.partition(":")[2] for line in sync(one).left_open] == [" the plan was changed on both sides"]
    for site in (one, other):
        sync(site)
        with site.ws() as ws:
            assert ws.governing.plan()[0].title == "Bob's"


def test_rm_07_a_plan_that_waits_is_not_signed_over_a_later_one(
    clones: tuple[Site, Site], unplugged: Unplugged
) -> None:
    one, other = clones
    with one.ws() as ws:
        ws.governing.set_plan(_plan("old"))
    approved(other, "something", key="bob")
    sync(other, "bob")
    put_back = unplugged()
    assert len(sync(one).left_open) == 1
    put_back()
    with one.ws() as ws:
        ws.governing.set_plan(_plan("new"))
    sync(one)
    with one.ws() as ws:
        assert ws.governing.plan()[0].title == "new"
        assert ws.syncing.waiting() == 0


def test_rm_07_a_plan_that_only_one_side_changed_is_signed_again(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with one.ws() as ws:
        ws.governing.set_plan(_plan("first"))
        ws.governing.set_plan(_plan("second"))
    approved(other, "something", key="bob")
    sync(other, "bob")
    assert len(sync(one).closed_again) == 2
    with one.ws() as ws:
        assert ws.governing.plan()[0].title == "second"


def test_rm_05_a_decision_that_lands_during_the_push_does_not_count_as_published(
    clones: tuple[Site, Site], hub: Site
) -> None:
    one, other = clones
    with one.ws() as ws:
        first, late = (ws.drafts.create(NewDraft(text)).ulid for text in ("first", "late"))
        ws.approvals.approve(first)
    hook, done = hub.path / "hooks/post-receive", hub.path / "done"
    hook.write_text(f"#!/bin/sh\ntouch {done}\nwhile [ -e {done} ]; do sleep 0.05; done\n")
    hook.chmod(0o755)
    import threading

    def lands() -> None:
        while not done.exists():
            pass
        with one.ws() as ws:
            ws.approvals.approve(late)
        done.unlink()

    beside = threading.Thread(target=lands)
    beside.start()
    sync(one)
    beside.join()
    hook.unlink()
    approved(other, "Bob's", key="bob")
    sync(other, "bob")
    assert sync(one).closed_again == (f"approve d_{late}",)


def test_rm_07_two_syncs_of_one_clone_do_not_forget_each_others_lists(clones: tuple[Site, Site]) -> None:
    one, _ = clones
    with one.ws() as ws, ws.syncing._kept.alone(), pytest.raises(OpsError) as caught:
        sync(one)
    assert caught.value.code == "lock_busy"


# -- a remote that is full of things ------------------------------------------------------------------------------


def _bomb(site: Site) -> str:
    """A small tree that unfolds to more files than fit anywhere."""
    blob = site.git("hash-object", "-w", "--stdin", stdin=b"x")
    tree = site.git("mktree", stdin="".join(f"100644 blob {blob}\tf{n}\n" for n in range(10)).encode())
    for _ in range(BOMB):
        tree = site.git("mktree", stdin="".join(f"040000 tree {tree}\td{n}\n" for n in range(10)).encode())
    return tree


def _hostile_drafts(site: Site, how: str) -> str:
    if how == "odd":
        encoding = ["-c", "i18n.commitEncoding=ISO-8859-1"]
        return site.git(*encoding, "commit-tree", "-p", "ops/drafts", "-m", "x", "ops/drafts^{tree}")
    rows = site.git("ls-tree", "ops/drafts") + f"\n040000 tree {_bomb(site)}\tclosed\n"
    return site.git("commit-tree", "-p", "ops/drafts", "-m", "x", site.git("mktree", stdin=rows.encode()))


@pytest.mark.parametrize("how", ["odd", "bomb"])
def test_rm_14_trust_takes_no_working_side_that_cannot_be_read(clones: tuple[Site, Site], hub: Site, how: str) -> None:
    one, _ = clones
    item = approved(one, "work")
    with one.ws() as ws:
        pending = ws.drafts.create(NewDraft("later")).ulid
    sync(one)
    one.git("push", "-q", "-f", "origin", f"{_hostile_drafts(one, how)}:refs/heads/ops/drafts")
    third = clone(one.home, hub, "third")
    with third.ws() as ws:
        assert ws.founding.candidate(None, None).notice is None, "what is here already is not looked at again"
        assert ws.approvals.get(item)
        assert ws.drafts.list() == []
        assert ws.drafts.create(NewDraft("mine")).status == "draft"
        assert [check for check in ws.doctor.examine() if check.level == "problem"] == []
    one.git("push", "-q", "-f", "origin", "refs/heads/ops/drafts")
    sync(third)
    with third.ws() as ws:
        assert pending in [draft.ulid for draft in ws.drafts.list()]


@pytest.mark.parametrize("how", ["odd", "bomb"])
def test_doctor_replaces_a_working_side_that_cannot_be_read(clones: tuple[Site, Site], how: str) -> None:
    one, _ = clones
    item = approved(one, "work")
    with one.ws() as ws:
        pending = ws.drafts.create(NewDraft("later")).ulid
    one.git("update-ref", "refs/heads/ops/drafts", _hostile_drafts(one, how))
    with one.ws() as ws:
        assert ws.approvals.get(item)
        assert any(check.name == "drafts" and check.level == "problem" for check in ws.doctor.examine())
        assert any("made anew with 1 draft" in check.message for check in ws.doctor.examine(fix=True))
    with one.ws() as ws:
        assert [draft.ulid for draft in ws.drafts.list()] == [pending]
        assert [check for check in ws.doctor.examine() if check.level == "problem"] == []


def test_rm_13_a_remote_full_of_refs_costs_little_and_leaves_nothing_here(clones: tuple[Site, Site], hub: Site) -> None:
    one, _ = clones
    number, letters = 600, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    names = [f"refs/ops/topics/01M83K8T971JAQFP4V5KFYZ{letters[n // 32]}{letters[n % 32]}Z" for n in range(number)]
    names += [f"refs/notes/ops/n{n}" for n in range(number)] + ["refs/ops/topics/x", "refs/heads/ops/approved-too"]
    hub.git("update-ref", "--stdin", stdin="".join(f"create {name} {one.tip()}\n" for name in names).encode())
    before = one.git("for-each-ref")
    item = approved(one, "work")
    assert len(sync(one).published) == 2
    assert len(one.git("for-each-ref").splitlines()) == len(before.splitlines())
    assert len(hub.git("for-each-ref", "refs/ops", "refs/notes").splitlines()) == 2 * number + 1
    assert "approve: work" in hub.git("log", "-1", "--format=%s", "ops/approved"), item


def test_rm_13_long_topics_are_read_as_far_as_one_sync_may_take(clones: tuple[Site, Site]) -> None:
    one, other = clones
    with other.ws() as ws:
        drafts = [ws.drafts.create(NewDraft(f"draft {n}")) for n in range(24)]
    tip, rows = other.tip(), []
    for n in range(980):
        rows.append(
            f"commit refs/tmp/t\ncommitter B <b@x> 1795417206 +0000\ndata 1\nx\n{f'from {tip}' if not n else ''}\n"
        )
    for draft in drafts:
        blob = other.git("rev-parse", f"ops/drafts:{draft.path}")
        rows.append(f"commit refs/tmp/{draft.ulid}\ncommitter B <b@x> 1795417206 +0000\ndata 1\nx\nfrom refs/tmp/t\n")
        rows.append(f"M 100644 {blob} {draft.path}\n\n")
    other.git("fast-import", "--quiet", stdin="".join(rows).encode())
    specs = [f"refs/tmp/{draft.ulid}:refs/ops/topics/{draft.ulid}" for draft in drafts]
    other.git("push", "-q", "origin", "refs/heads/ops/drafts", *specs)
    notices = sync(one).notices
    assert [line for line in notices if "too long topics" in line]
    assert len(one.git("for-each-ref", "refs/ops/topics").splitlines()) == 21
    with one.ws() as ws:
        assert len(ws.drafts.list()) == 24
