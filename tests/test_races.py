"""Several processes at once: every acknowledged step is kept, and every draft is decided once.

Sampled by default; `OPSCTL_SWEEP=full` runs the whole lengths, `OPSCTL_SEED` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Home, Site, make_home
from faults.harness import FULL, WORKER, Resident, fsck, pending_by_git, residents, seed, together

from opsctl.workspace.drafts import Filter

PEOPLE = ("bob", "carol")


@pytest.fixture
def randomness() -> random.Random:
    return random.Random(seed())


@pytest.fixture
def team(site: Site) -> Site:
    """A gate with three approvers: alice, bob, carol; one signature is enough."""
    with site.ws() as ws:
        _, data = ws.governing.policy()
        for name in PEOPLE:
            row = f'\n[[principal]]\nname = "{name}"\nemail = "{name}@example.com"\nroles = ["approver"]\n'
            data += f'{row}keys = ["{site.home.public(name)}"]\n'.encode()
        policy, decision = ws.governing.set_policy(data)
    assert decision is not None
    assert policy.epoch == 2
    return site


def _environ(site: Site, person: str = "alice") -> dict[str, str]:
    """The person's environment in Alice's home; only the key differs."""
    return {**site.home.environ, "OPSCTL_SIGNING_KEY": str(site.home.key(person))}


def _resident(site: Site, person: str = "alice") -> Resident:
    return Resident(_environ(site, person), site.path)


def _other_machine(site: Site, person: str) -> dict[str, str]:
    """A user of the same repository with a home of their own: own pin, own memory of what was verified."""
    home: Home = make_home(site.home.path / "homes" / person, person, f"{person}@example.com")
    environ = {**home.environ, "OPSCTL_SIGNING_KEY": str(site.home.key(person))}
    config = Path(home.environ["XDG_CONFIG_HOME"]) / "opsctl"
    config.mkdir(parents=True)
    pins = Path(site.home.environ["XDG_CONFIG_HOME"]) / "opsctl" / "trust.toml"
    (config / "trust.toml").write_bytes(pins.read_bytes())
    return environ


def _worker(site: Site, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), *argv],
        cwd=site.path,
        env={**_environ(site), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _drafts(site: Site, count: int) -> list[str]:
    done = _worker(site, "draft", "work", str(count))
    out, err = done.communicate(timeout=240)
    assert done.returncode == 0, err
    return list(json.loads(out)["ulids"])


def _state(site: Site) -> dict[str, Any]:
    done = _worker(site, "state")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    return dict(json.loads(out))


def _approvals(state: dict[str, Any]) -> Counter[str]:
    return Counter(ulid for kind, ulid in state["log"] if kind == "approve")


def _sound(site: Site, state: dict[str, Any]) -> None:
    """The two branches, the log and plain git tell the same story."""
    fsck(site.home, site.path)
    assert pending_by_git(site.home, site.path) == set(state["draft"])
    chain = site.git("log", "--first-parent", "--format=%H", "ops/approved").splitlines()
    assert len(chain) == len(state["log"])
    assert state["served"] == state["approved"]
    assert not list((site.path / ".git").rglob("*.lock"))


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_cc_01_an_approval_of_a_text_that_changed_meanwhile_is_a_conflict_that_names_both(site: Site) -> None:
    with residents(_resident(site), _resident(site)) as (alice, other):
        made = alice.must("draft", "work")
        [ulid], [seen] = made["ulids"], made["digests"]
        changed = other.must("edit", ulid, "Something else.")["digest"]
        alice.ask("approve", ulid, seen)
        refused = alice.answer()
        assert refused["code"] == "stale_revision"
        assert seen.removeprefix("sha256:")[:12] in refused["message"]
        assert changed.removeprefix("sha256:")[:12] in refused["message"]
        assert alice.must("approve", ulid, changed)["digest"] == changed
    assert _approvals(_state(site)) == {ulid: 1}


@pytest.mark.sweep
@pytest.mark.parametrize("homes", ["one_home", "two_homes"])
def test_cc_05_two_processes_approve_different_drafts_and_every_one_lands(team: Site, homes: str) -> None:
    count = 50 if FULL else 25 if homes == "one_home" else 12
    ulids = _drafts(team, 2 * count)
    second = _other_machine(team, "bob") if homes == "two_homes" else _environ(team, "bob")
    workers = [_worker(team, "approve-each", *ulids[:count])]
    workers.append(_worker(team, "approve-each", *ulids[count:], env=second))
    told = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    acknowledged = [json.loads(line) for out, _ in told for line in out.splitlines()]
    commits = {row["ulid"]: row["commit"] for row in acknowledged if "ulid" in row}
    state = _state(team)
    assert _approvals(state) == dict.fromkeys(ulids, 1)
    assert set(commits) == set(ulids)
    chain = team.git("log", "--first-parent", "--format=%H", "ops/approved").splitlines()
    assert set(commits.values()) <= set(chain)
    _sound(team, state)


@pytest.mark.sweep
def test_cc_06_two_approvers_make_one_merge(team: Site) -> None:
    rounds = 50 if FULL else 15
    ulids = _drafts(team, rounds)
    alone = Resident(_other_machine(team, "carol"), team.path)
    with residents(_resident(team), alone) as (alice, carol):
        for ulid in ulids:
            one, two = together((alice, ("approve", ulid)), (carol, ("approve", ulid)))
            assert (one["status"], two["status"]) == (0, 0), (one, two)
            assert sorted([one["already"], two["already"]]) == [False, True]
            assert one["commit"] == two["commit"]
    state = _state(team)
    assert _approvals(state) == dict.fromkeys(ulids, 1)
    _sound(team, state)


@pytest.mark.sweep
def test_cc_01_approvers_and_an_editor_race_and_only_what_somebody_named_is_approved(
    team: Site, randomness: random.Random
) -> None:
    rounds = 200 if FULL else 25
    ulids = _drafts(team, rounds)
    with residents(_resident(team), _resident(team, "bob"), _resident(team)) as (alice, bob, editor):
        for number, ulid in enumerate(ulids):
            moment = time.monotonic() + 0.01
            alice.ask("approve-seen", ulid, at=moment + randomness.uniform(0, 0.05))
            bob.ask("approve-seen", ulid, at=moment + randomness.uniform(0, 0.05))
            for part in range(3):
                editor.ask("edit", ulid, f"Text {number}.{part}", at=moment + 0.02 * part)
            one, two = alice.answer(), bob.answer()
            edits = [editor.answer() for _ in range(3)]
            assert (one["status"], two["status"]) == (0, 0), (one, two)
            assert one["commit"] == two["commit"], (one, two)
            assert {edit["status"] for edit in edits} <= {0, 4}, edits
            assert {edit["code"] for edit in edits if edit["status"]} <= {"already_decided", "ref_conflict"}, edits
            served = alice.must("get", ulid)
            winner = next(row for row in (one, two) if not row["already"])
            assert served["digest"] == served["served"] == winner["named"][-1]
    state = _state(team)
    assert _approvals(state) == dict.fromkeys(ulids, 1)
    _sound(team, state)


@pytest.mark.sweep
def test_cc_06_approve_and_reject_at_once_have_one_outcome(team: Site) -> None:
    ulids = _drafts(team, 40 if FULL else 12)
    with residents(_resident(team), _resident(team)) as (alice, other):
        for ulid in ulids:
            one, two = together((alice, ("approve", ulid)), (other, ("reject", ulid)))
            won = [answer["status"] == 0 for answer in (one, two)]
            assert sorted(won) == [False, True], (one, two)
            assert [answer["code"] for answer in (one, two) if answer["status"]] == ["already_decided"], (one, two)
            statuses = alice.must("list", "all")["items"]
            assert statuses[ulid] == ("approved" if won[0] else "rejected")
    _sound(team, _state(team))


@pytest.mark.sweep
def test_cc_06_two_revocations_make_one_commit(team: Site) -> None:
    ulids = _drafts(team, 20 if FULL else 8)
    with residents(_resident(team), _resident(team)) as (alice, other):
        for ulid in ulids:
            alice.must("approve", ulid)
            one, two = together((alice, ("revoke", ulid)), (other, ("revoke", ulid)))
            assert sorted([one["new"], two["new"]]) == [False, True], (one, two)
            assert one["commit"] == two["commit"]
    state = _state(team)
    assert set(state["revoked"]) == set(ulids)
    _sound(team, state)


@pytest.mark.sweep
def test_cc_05_drafts_filed_by_two_processes_all_stay(site: Site) -> None:
    count = 100 if FULL else 30
    workers = [_worker(site, "draft", f"work {number}", str(count)) for number in range(2)]
    told = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    made = {ulid for out, _ in told for ulid in json.loads(out)["ulids"]}
    state = _state(site)
    assert set(state["draft"]) == made
    assert len(made) == 2 * count
    _sound(site, state)


@pytest.mark.sweep
def test_cc_05_a_reader_beside_a_writer_never_sees_an_approved_item_vanish(team: Site) -> None:
    """Readers share what is remembered of the history with writers; an acknowledged item is there for good."""
    ulids = _drafts(team, 60 if FULL else 20)
    with residents(_resident(team), _resident(team), _resident(team)) as (alice, reader, another):
        known: list[str] = []
        for ulid in ulids:
            moment = time.monotonic() + 0.005
            alice.ask("approve", ulid, at=moment)
            for number in range(6):
                reader.ask("list", "approved", at=moment + number * 0.01)
                another.ask("get", known[-1] if known else ulid, at=moment + number * 0.01)
            landed = alice.answer()
            assert landed["status"] == 0, landed
            for _ in range(6):
                seen = reader.answer()
                assert seen["status"] == 0, seen
                assert set(known) <= set(seen["items"]), "an approved item vanished"
                got = another.answer()
                assert got["status"] == 0 or (not known and got["code"] == "unknown_id"), got
            known.append(ulid)
    _sound(team, _state(team))


def _approved_elsewhere(team: Site, *ulids: str) -> str:
    """Approve from a home that remembers for itself; the tip. What this home remembers stays behind."""
    elsewhere = {**team.home.environ, "XDG_STATE_HOME": str(team.home.path / "other-state")}
    done = _worker(team, "approve-each", *ulids, env=elsewhere)
    _, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    return team.tip()


class Slow:
    """A process that stands still after it judged new commits and before it remembers them."""

    def __init__(self, team: Site, tip: str) -> None:
        self._team, self._tip = team, tip
        self._judged, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._verify)
        self._thread.start()
        assert self._judged.wait(30)

    def _verify(self) -> None:
        with self._team.ws() as ws:
            ws.history().verify(self._tip, progress=self._stand_still)

    def _stand_still(self, done: int, total: int) -> None:
        if done < total:
            self._judged.set()
            assert self._go_on.wait(30)

    def finish(self) -> None:
        self._go_on.set()
        self._thread.join()


def test_cc_05_a_slow_reader_takes_nothing_from_what_a_writer_remembers(team: Site) -> None:
    first, second, third = _drafts(team, 3)
    slow = Slow(team, _approved_elsewhere(team, first, second))
    try:
        with team.ws() as writer:
            writer.approvals.approve(third)
            slow.finish()
            assert writer.approvals.get(third)[0].document.ulid == third
            assert writer.drafts.get(first).status == "approved"
    finally:
        slow.finish()


def test_cc_05_processes_that_verify_at_once_leave_no_gap_in_what_is_remembered(team: Site) -> None:
    """A slow one remembers an early part in the middle of another's work: nothing may be forgotten for good."""
    ulids = _drafts(team, 5)
    slow = Slow(team, _approved_elsewhere(team, *ulids[:2]))
    try:
        tip = _approved_elsewhere(team, ulids[2])
        with team.ws() as ws:
            ws.history().verify(tip)
        tip = _approved_elsewhere(team, *ulids[3:])
        with team.ws() as ws:
            ws.history().verify(tip, progress=lambda done, total: slow.finish())
    finally:
        slow.finish()
    with team.ws() as ws:
        assert {one.ulid for one in ws.drafts.list(Filter(status="approved"))} == set(ulids)
        assert [ws.approvals.get(ulid)[0].document.ulid for ulid in ulids] == ulids
        assert len(ws.approvals.log()) == 7


# -- locks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lock",
    [
        "refs/heads/ops/approved.lock",
        "refs/heads/ops/drafts.lock",
        "packed-refs.lock",
    ],
)
def test_cc_13_a_stale_ref_lock_of_a_dead_process_is_cleared(site: Site, lock: str) -> None:
    [ulid] = _drafts(site, 1)
    site.git("pack-refs", "--all")
    path = site.path / ".git" / lock
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - 60, time.time() - 60))
    begun = time.monotonic()
    done = _worker(site, "approve", ulid)
    _, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert time.monotonic() - begun < 4
    assert not path.exists()
    assert _approvals(_state(site)) == {ulid: 1}


def test_cc_13_a_young_ref_lock_without_owner_is_waited_for_and_then_cleared(site: Site) -> None:
    [ulid] = _drafts(site, 1)
    path = site.path / ".git" / "refs/heads/ops/approved.lock"
    path.touch()
    done = _worker(site, "approve", ulid, env={"OPSCTL_LOCK_WAIT": "20"})
    _, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    path.touch()
    done = _worker(site, "revoke", ulid, env={"OPSCTL_LOCK_WAIT": "1"})
    begun = time.monotonic()
    _, err = done.communicate(timeout=60)
    assert done.returncode == 6, err
    assert time.monotonic() - begun < 4
    said = json.loads(err.splitlines()[-1])
    assert said["code"] == "lock_busy"
    assert "approved.lock" in said["message"]
    assert " s old" in said["message"]
    assert "rm " in said["hint"]


def test_cc_14_the_lock_of_a_live_process_is_waited_for_in_bounds(site: Site) -> None:
    [ulid] = _drafts(site, 1)
    holder = _worker(site, "hold-lock", "30")
    assert holder.stdout is not None
    held = json.loads(holder.stdout.readline())["held"]
    try:
        begun = time.monotonic()
        done = _worker(site, "approve", ulid, env={"OPSCTL_LOCK_WAIT": "1"})
        _, err = done.communicate(timeout=30)
        assert 1 <= time.monotonic() - begun < 4
        assert done.returncode == 6
        said = json.loads(err.splitlines()[-1])
        assert said["code"] == "lock_busy"
        assert str(held) in said["message"], "the holder is named"
        assert _state(site)["draft"], "reads do not wait"
    finally:
        holder.kill()
        holder.wait()
    begun = time.monotonic()
    after = _worker(site, "approve", ulid)
    _, err = after.communicate(timeout=30)
    assert after.returncode == 0, err
    assert time.monotonic() - begun < 4, "the lock of a dead process blocks nobody"


def test_cc_14_a_ref_lock_that_a_live_git_holds_is_never_taken_away(site: Site) -> None:
    """`git update-ref --stdin` between prepare and commit: an owner that lives, however old its lock is."""
    [ulid] = _drafts(site, 1)
    tip = site.tip()
    git = subprocess.Popen(
        ["git", "update-ref", "--stdin"],
        cwd=site.path,
        env=site.home.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert git.stdin is not None
    assert git.stdout is not None
    try:
        git.stdin.write(f"start\nupdate refs/heads/ops/approved {tip} {tip}\nprepare\n".encode())
        git.stdin.flush()
        assert git.stdout.readline() == b"start: ok\n"
        assert git.stdout.readline() == b"prepare: ok\n"
        lock = site.path / ".git" / "refs/heads/ops/approved.lock"
        assert lock.exists()
        os.utime(lock, (time.time() - 3600, time.time() - 3600))
        done = _worker(site, "approve", ulid, env={"OPSCTL_LOCK_WAIT": "1"})
        _, err = done.communicate(timeout=30)
        assert done.returncode == 6, err
        assert json.loads(err.splitlines()[-1])["code"] == "lock_busy"
        assert lock.exists()
    finally:
        git.stdin.write(b"abort\n")
        git.stdin.close()
        git.wait(10)
    assert _worker(site, "approve", ulid).wait(30) == 0


# -- plain git beside us -----------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("command", ["gc", "pack-refs"])
def test_cc_16_git_maintenance_in_a_loop_beside_approvals_loses_nothing(team: Site, command: str) -> None:
    count = 300 if FULL else 60 if command == "pack-refs" else 40
    ulids = _drafts(team, count)
    arguments = {"gc": ["gc", "--quiet"], "pack-refs": ["pack-refs", "--all"]}[command]
    stop, loops = threading.Event(), []

    def maintain() -> None:
        while not stop.is_set():
            loops.append(subprocess.run(["git", *arguments], cwd=team.path, env=team.home.environ, capture_output=True))
            time.sleep(0.01)

    beside = threading.Thread(target=maintain)
    beside.start()
    try:
        done = _worker(team, "approve-each", *ulids)
        out, err = done.communicate(timeout=280)
    finally:
        stop.set()
        beside.join()
    assert done.returncode == 0, err
    assert len(loops) > 1
    acknowledged = {row["ulid"] for row in map(json.loads, out.splitlines()) if "ulid" in row}
    assert acknowledged == set(ulids)
    state = _state(team)
    assert _approvals(state) == dict.fromkeys(ulids, 1)
    _sound(team, state)


@pytest.mark.sweep
def test_cc_16_git_maintenance_beside_drafts_and_edits_loses_nothing(site: Site) -> None:
    count = 60 if FULL else 15
    with residents(_resident(site)) as (alice,):
        stop = threading.Event()

        def maintain() -> None:
            while not stop.is_set():
                subprocess.run(["git", "gc", "--quiet"], cwd=site.path, env=site.home.environ, capture_output=True)
                subprocess.run(["git", "pack-refs", "--all"], cwd=site.path, env=site.home.environ, capture_output=True)

        beside = threading.Thread(target=maintain)
        beside.start()
        try:
            expected = {}
            for number in range(count):
                [ulid] = alice.must("draft", f"work {number}")["ulids"]
                expected[ulid] = alice.must("edit", ulid, f"Text {number}")["digest"]
        finally:
            stop.set()
            beside.join()
    state = _state(site)
    assert state["draft"] == expected
    fsck(site.home, site.path)


def test_cc_16_packed_refs_that_a_live_process_rewrites_are_waited_for(site: Site) -> None:
    """The decision lands before its topic's packed ref can go; that is no error, it only takes a moment."""
    [ulid] = _drafts(site, 1)
    site.git("pack-refs", "--all")
    lock = site.path / ".git" / "packed-refs.lock"
    with lock.open("wb"):
        done = _worker(site, "approve", ulid)
        time.sleep(1)
        lock.unlink()
    _, err = done.communicate(timeout=30)
    assert done.returncode == 0, err
    assert _approvals(_state(site)) == {ulid: 1}
    assert not site.git("for-each-ref", "refs/ops/topics/")


def test_cc_20_a_pruned_commit_is_an_integrity_error_that_leads_back_to_the_last_good_tip(site: Site) -> None:
    """`git gc --prune=now` beside a writer can take a commit away; what is left says so, and serves nothing."""
    first, second = _drafts(site, 2)
    with residents(_resident(site)) as (alice,):
        good = alice.must("approve", first)["commit"]
        lost = alice.must("approve", second)["commit"]
        (site.path / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
        alice.ask("get", first)
        refused = alice.answer()
        assert refused["status"] == 5, refused
        assert lost[:12] in refused["message"]
        assert refused["hint"]
        alice.ask("draft", "more")
        assert alice.answer()["status"] == 5
        site.git("update-ref", "refs/heads/ops/approved", good)
        alice.ask("get", first)
        back = alice.answer()
        assert back["status"] in (0, 5), back
        assert back["status"] == 0 or back["code"] == "rolled_back", back


def test_cc_18_a_checked_out_ops_branch_is_refused_and_the_index_stays(site: Site) -> None:
    [ulid] = _drafts(site, 1)
    site.git("checkout", "-q", "ops/drafts")
    before = [(site.path / ".git" / name).read_bytes() for name in ("index", "HEAD")]
    for argv in (("edit", ulid, "Other text."), ("approve", ulid), ("draft", "more"), ("reject", ulid)):
        done = _worker(site, *argv)
        _, err = done.communicate(timeout=30)
        assert done.returncode == 6, err
        said = json.loads(err.splitlines()[-1])
        assert said["code"] == "checked_out"
        assert "switch" in said["hint"]
    assert [(site.path / ".git" / name).read_bytes() for name in ("index", "HEAD")] == before
    site.git("checkout", "-q", "main")
    other = site.home.path / "linked"
    site.git("worktree", "add", "-q", str(other), "ops/approved")
    done = _worker(site, "approve", ulid)
    _, err = done.communicate(timeout=30)
    assert done.returncode == 6, err
    site.git("worktree", "remove", str(other))
    assert _worker(site, "approve", ulid).wait(30) == 0


@pytest.mark.sweep
def test_cc_18_plain_git_commits_on_ops_drafts_beside_edits_are_never_overwritten(site: Site) -> None:
    """Somebody moves ops/drafts by `git update-ref` with the old value: one of the two wins, the other goes again."""
    rounds = 60 if FULL else 15
    [ulid] = _drafts(site, 1)
    written: list[str] = []
    stop = threading.Event()

    def commit_by_hand() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            tip = site.tip("ops/drafts")
            tree = site.git("rev-parse", f"{tip}^{{tree}}")
            commit = site.git("commit-tree", tree, "-p", tip, "-m", f"by hand {number}")
            if "fatal" not in site.git("update-ref", "refs/heads/ops/drafts", commit, tip, check=False) and (
                subprocess.run(
                    ["git", "merge-base", "--is-ancestor", commit, "ops/drafts"], cwd=site.path, env=site.home.environ
                ).returncode
                == 0
            ):
                written.append(commit)
            time.sleep(0.005)

    beside = threading.Thread(target=commit_by_hand)
    with residents(_resident(site)) as (alice,):
        beside.start()
        try:
            done = 0
            for number in range(rounds):
                alice.ask("edit", ulid, f"Text {number}")
                answer = alice.answer()
                assert answer["status"] == 0 or answer["code"] == "ref_conflict", answer
                if answer["status"] == 0:
                    done += 1
                    digest = answer["digest"]
        finally:
            stop.set()
            beside.join()
        assert done, "some edits won"
        assert written, "some commits by hand won"
        assert alice.must("state")["draft"] == {ulid: digest}
    kept = site.git("rev-list", "ops/drafts").splitlines()
    assert set(written) <= set(kept), "a commit that won was lost"
    fsck(site.home, site.path)


@pytest.fixture(autouse=True)
def _no_worker_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    before = set(threading.enumerate())  # servers of other files' tests live as long as the process
    yield
    threads = [one.name for one in set(threading.enumerate()) - before if one.name.startswith("Thread-")]
    assert not threads, "a test left a thread behind"
