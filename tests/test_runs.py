"""The record of runs: who may make one, who holds it, what the notes say, and that nobody's notes decide anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Home, Site

from opsctl import ids, runrecord, runterms
from opsctl.errors import OpsError
from opsctl.models import Run, RunSettings, utc
from opsctl.runterms import Wish
from opsctl.workspace import Workspace
from opsctl.workspace.drafts import NewDraft

RUNS, ARCHIVE = "refs/notes/ops/runs", "refs/notes/ops/runs-archive"
TOKEN = re.compile(r"[A-Za-z0-9_-]{20,}")
CLAIM = Wish("claim")
AGENT = "import sys; p = sys.stdin.read(); open('made.txt', 'w').write(p); print('did', len(p))"


def drafted(site: Site, prompt: str = "Do it.\n", **settings: object) -> str:
    """A pending draft; `base` and `paths` are of the target, all else is of [run]."""
    target = {name: settings.pop(name) for name in ("base", "paths") if name in settings}
    with site.ws() as ws:
        return ws.drafts.create(NewDraft(prompt, title="Do it", run=RunSettings(**settings), **target)).ulid  # type: ignore[arg-type]


def approved(site: Site, prompt: str = "Do it.\n", **settings: object) -> str:
    """An approved item."""
    ulid = drafted(site, prompt, **settings)
    with site.ws() as ws:
        ws.approvals.approve(ulid)
    return ulid


def made(site: Site, item: str, **options: object) -> Run:
    """A run for an agent from outside."""
    with site.ws() as ws:
        return ws.runs.create(item, CLAIM, **options)[0]  # type: ignore[arg-type]


def refused(code: str, action: Callable[..., object], *arguments: object, **options: object) -> OpsError:
    """The refusal, which must have this code."""
    with pytest.raises(OpsError) as caught:
        action(*arguments, **options)
    assert caught.value.code == code, caught.value
    return caught.value


def note(site: Site, commit: str, ref: str = RUNS) -> str:
    """A note as plain git shows it."""
    return site.git("notes", f"--ref={ref}", "show", commit, check=False)


def runner(site: Site, program: str = AGENT, name: str = "tiny") -> None:
    """A stand-in agent."""
    site.ok("runner", "add", name, "--force", "--", sys.executable, "-c", program)


# -- who may make a run ------------------------------------------------------------------------------------------------


def test_rn_01_nothing_but_what_is_approved_can_be_run(site: Site) -> None:
    pending, rejected, revoked = drafted(site), drafted(site), approved(site)
    with site.ws() as ws:
        ws.drafts.reject(rejected, "no")
        ws.approvals.revoke(revoked, "not any more")
    unknown = "01JDAZ3N8Q4V5W6X7Y8Z9ABCDE"
    expected = {pending: "not_approved", rejected: "not_approved", revoked: "revoked", unknown: "unknown_id"}
    for ulid, code in expected.items():
        with site.ws() as ws:
            refused(code, ws.runs.create, ulid, CLAIM)
    assert site.git("for-each-ref", RUNS) == ""


@pytest.mark.parametrize("state", ["pending", "approved"])
def test_id_05_a_drafts_id_is_never_run_and_its_text_not_shown(site: Site, state: str) -> None:
    ulid = (drafted if state == "pending" else approved)(site, "The secret plan.\n")
    done = site.cli("run", f"d_{ulid}", "--executor", "claim")
    assert done.returncode == 3
    assert ("opsctl run a_" if state == "approved" else "opsctl approve d_") in done.stderr
    assert "secret plan" not in done.stdout + done.stderr
    assert site.json("runs", "list") == []


def test_rn_01_every_refusal_has_its_exit_code_and_says_what_next(site: Site) -> None:
    pending, revoked = drafted(site), approved(site)
    with site.ws() as ws:
        ws.approvals.revoke(revoked, "not any more")
    for ulid, status, says in (
        (f"a_{revoked}", 3, "not any more"),
        (f"a_{pending}", 8, "unknown"),
        ("a_01JDAZ3N8Q4V5W6X7Y8Z9ABCDE", 8, "unknown"),
        ("x/../y", 2, "not an id"),
    ):
        done = site.cli("run", ulid, "--executor", "claim")
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert "hint:" in done.stderr or says == "unknown"


def test_an_item_whose_time_is_over_is_not_run_and_a_waiting_run_of_it_expires(site: Site) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    item = approved(site, not_after=utc(end))
    run = made(site, item)
    later = lambda: end + timedelta(seconds=1)  # noqa: E731
    with site.ws(now=later) as ws:
        refused("expired", ws.runs.create, item, CLAIM)
        assert ws.runs.get(run.ulid).status == "expired"
        refused("run_ended", ws.runs.claim, run.ulid)


def test_work_that_began_in_time_may_be_reported_after_it(site: Site) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    run = made(site, approved(site, not_after=utc(end)))
    machine = Machine(site)
    with machine.ws() as ws:
        token = ws.runs.claim(run.ulid, seconds=7200).token
    machine.passes(3700)
    with machine.ws() as ws:
        ended = ws.runs.report(run.ulid, token, status="done", result=b"kept\n")
        assert ended.status == "done"
        assert ws.runs.output(ended) == b"kept\n"
        ws.approvals.revoke(run.item, "no")


def test_a_confirmation_from_the_future_says_nothing_about_its_age(site: Site) -> None:
    now = datetime.now(UTC)
    with site.ws() as ws:
        policy = replace(ws.gate().policy, max_staleness="7d")
    runterms.check_fresh(policy, now + timedelta(minutes=2), now)
    refused("stale_tip", runterms.check_fresh, policy, now + timedelta(days=300), now)


def test_a_base_that_was_not_fetched_is_no_damage(site: Site) -> None:
    base = site.git("commit-tree", "-m", "aside", "main^{tree}")
    site.git("branch", "aside", base)
    item = approved(site, base="aside", executor="claim")
    site.git("branch", "-q", "-D", "aside")
    (site.path / ".git" / "objects" / base[:2] / base[2:]).unlink()
    with site.ws() as ws:
        error = refused("stale_base", ws.runs.create, item, Wish())
        assert "git fetch" in (error.hint or "")


def test_a_tip_that_no_remote_confirmed_lately_is_not_run_where_the_policy_says_so(site: Site, home: Home) -> None:
    item = approved(site)
    with site.ws() as ws:
        _, data = ws.governing.policy()
        ws.governing.set_policy(data.replace(b'max_staleness = ""', b'max_staleness = "7d"'), reason=None)
    refused("stale_tip", made, site, item)
    home.git("init", "-q", "--bare", str(home.path / "remote.git"))
    site.git("remote", "add", "origin", str(home.path / "remote.git"))
    site.ok("sync")
    run = made(site, item)
    later = datetime.now(UTC) + timedelta(days=8)
    with site.ws(now=lambda: later) as ws:
        refused("stale_tip", ws.runs.claim, run.ulid)


def test_a_used_up_item_stays_so_without_its_notes_and_in_a_fresh_clone(site: Site, home: Home) -> None:
    item = approved(site, max_runs=1)
    run = made(site, item)
    with site.ws() as ws:
        ws.runs.cancel(run.ulid)
        refused("used_up", ws.runs.create, item, CLAIM)
        refused("used_up", ws.runs.retry, run.ulid)
    site.git("update-ref", "-d", RUNS)
    with site.ws() as ws:
        assert ws.runs.page() == []
        refused("used_up", ws.runs.create, item, CLAIM)
    home.git("clone", "-q", str(site.path), str(home.path / "fresh"))
    fresh = Site(home, home.path / "fresh")
    fresh.ok("trust", "--yes")
    with fresh.ws() as ws:
        refused("used_up", ws.runs.create, item, CLAIM)


def test_runs_of_the_notes_count_where_this_machine_has_made_none(site: Site) -> None:
    item = approved(site, max_runs=2)
    with site.ws() as ws:
        ws.runs.cancel(made(site, item).ulid)
        ws.places.spent(ws.root()).unlink()
    made(site, item)
    with site.ws() as ws:
        refused("used_up", ws.runs.create, item, CLAIM)


def test_a_run_that_this_machine_cannot_carry_out_is_not_made_and_uses_nothing_up(site: Site, home: Home) -> None:
    item, asked = approved(site, max_runs=1), approved(site, max_runs=1, executor="provider")
    site.ok("runner", "add", "online", "--network", "--", sys.executable, "-c", AGENT)
    for name, options, says in (
        (item, ("--runner", "online", "--sandbox"), ""),
        (item, ("--runner", "absent"), "no runner"),
        (asked, (), "provider"),
    ):
        done = site.cli("run", f"a_{name}", *options)
        assert done.returncode not in (0, 9), done
        assert says in done.stderr
    assert site.json("runs", "list") == []
    runner(site)
    assert site.cli("run", f"a_{item}", "--runner", "tiny").returncode == 0


def test_the_lock_is_not_held_while_a_base_is_looked_at(site: Site) -> None:
    item = approved(site, base="main", executor="claim")
    site.git("commit", "-q", "--allow-empty", "-m", "on")
    beside = site.path.parent / "shim"
    beside.mkdir()
    lock = site.path / ".git"
    real = shutil.which("git")
    (beside / "git").write_text(
        f'#!/bin/sh\ncase "$*" in *diff*) ls -R {lock}/opsctl >> {beside}/seen; '
        f"{sys.executable} -c 'import sys; from opsctl.git.lock import RepoLock; from pathlib import Path; "
        f'RepoLock(Path(sys.argv[1]), wait_s=0).__enter__(); print("free")\' {lock} >> {beside}/seen 2>&1;; esac\n'
        f'exec {real} "$@"\n'
    )
    (beside / "git").chmod(0o755)
    env = {"PATH": f"{beside}:{site.home.environ['PATH']}", "OPSCTL_LOCK_WAIT": "1"}
    site.ok("run", f"a_{item}", "--executor", "claim", env=env)
    assert "free" in (beside / "seen").read_text()


def test_one_active_run_an_item_unless_it_says_otherwise(site: Site) -> None:
    item, wide = approved(site), approved(site, parallel=2)
    first = made(site, item)
    with site.ws() as ws:
        error = refused("run_active", ws.runs.create, item, CLAIM)
        assert error.detail == {"run": f"r_{first.ulid}"}
        refused("run_active", ws.runs.retry, first.ulid)
    made(site, wide)
    made(site, wide)
    with site.ws() as ws:
        refused("run_active", ws.runs.create, wide, CLAIM)
        ws.runs.cancel(first.ulid)
    assert made(site, item).attempt == 1


def test_flags_may_only_narrow_what_was_approved(site: Site) -> None:
    claim, fixed = approved(site, executor="claim"), approved(site, executor="exec", runner="tiny")
    runner(site)
    runner(site, name="other")
    with site.ws() as ws:
        for item, wish in (
            (claim, Wish("exec")),
            (claim, Wish("exec", "tiny")),
            (claim, Wish("provider")),
            (fixed, CLAIM),
            (fixed, Wish(runner="other")),
            (fixed, Wish("exec", "other")),
        ):
            refused("wider_than_approved", ws.runs.create, item, wish)
        refused("usage", ws.runs.create, claim, Wish(runner="tiny"))
        assert ws.runs.page() == []


def test_a_stale_base_is_refused_and_at_base_runs_it(site: Site) -> None:
    item = approved(site, base="main", paths=("src/**",), executor="claim")
    beside = site.git("commit-tree", "-p", "main", "-m", "beside", "main^{tree}")
    site.git("update-ref", "refs/heads/main", beside)
    with site.ws() as ws:
        ws.runs.cancel(ws.runs.create(item, Wish())[0].ulid)
    (site.path / "src" / "app.py").write_text("print('changed')\n")
    site.git("commit", "-q", "-a", "-m", "second")
    with site.ws() as ws:
        error = refused("stale_base", ws.runs.create, item, Wish())
        assert "src/app.py" in error.message
        run = ws.runs.create(item, Wish(at_base=True))[0]
        assert run.base == ws.approvals.get(item)[0].document.target.base
        ws.runs.cancel(run.ulid)
        refused("stale_base", ws.runs.retry, run.ulid)
        assert ws.runs.retry(run.ulid, at_base=True)[0].attempt == 2


def test_while_the_gate_is_closed_runs_are_listed_and_none_is_made_claimed_or_reported(site: Site) -> None:
    item = approved(site)
    waiting, taken = made(site, item), made(site, approved(site))
    with site.ws() as ws:
        token = ws.runs.claim(taken.ulid).token
    site.git(
        "update-ref", "refs/heads/ops/approved", site.git("commit-tree", "-m", "x", "-p", site.tip(), "main^{tree}")
    )
    with site.ws() as ws:
        assert {run.ulid for run in ws.runs.page()} == {waiting.ulid, taken.ulid}
        refused("bad_history", ws.runs.create, item, CLAIM)
        refused("bad_history", ws.runs.claim, waiting.ulid)
        refused("bad_history", ws.runs.report, taken.ulid, token, status="done")
        assert ws.runs.cancel(waiting.ulid).status == "cancelled"
    assert [row["status"] for row in site.json("runs", "list")] == ["claimed", "cancelled"]  # type: ignore[attr-defined]


def test_rn_02_a_draft_that_changes_beside_the_approval_changes_nothing_of_the_run(site: Site) -> None:
    item = approved(site, "Approved bytes.\n")
    path, digest = ids.path_of(item), made(site, item).digest
    blob = site.git("hash-object", "-w", "--stdin", stdin=b"other bytes")
    site.git("read-tree", "--index-output=.git/aside", "ops/drafts")
    env = {**site.home.environ, "GIT_INDEX_FILE": str(site.path / ".git/aside")}
    subprocess.run(["git", "update-index", "--cacheinfo", f"100644,{blob},{path}"], cwd=site.path, env=env, check=True)
    tree = subprocess.run(["git", "write-tree"], cwd=site.path, env=env, check=True, capture_output=True, text=True)
    commit = site.git("commit-tree", "-p", "ops/drafts", "-m", "sly", tree.stdout.strip())
    site.git("update-ref", "refs/heads/ops/drafts", commit)
    with site.ws() as ws:
        claimed = ws.runs.claim(None)
        assert claimed.run.digest == digest
        assert ws.approvals.get(item)[0].document.prompt == "Approved bytes.\n"
    assert site.ok("show", f"a_{item}", "--raw").endswith("Approved bytes.")


# -- idempotency -------------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_run_and_with_another_body_a_conflict(site: Site) -> None:
    item, other = approved(site), approved(site)
    first = made(site, item, key="night-1")
    with site.ws() as ws:
        assert ws.runs.create(item, CLAIM, key="night-1")[0].ulid == first.ulid
        refused("key_reused", ws.runs.create, other, CLAIM, key="night-1")
        refused("key_reused", ws.runs.create, item, Wish("claim", at_base=True), key="night-1")
        ws.runs.cancel(first.ulid)
        assert ws.runs.create(item, CLAIM, key="night-1")[0].status == "cancelled"
        for bad in ("", " ", "a b", "x" * 129, "ü", "\n"):
            refused("bad_input", ws.runs.create, item, CLAIM, key=bad)


def test_cc_10_two_requests_with_one_key_at_once_make_one_run(site: Site) -> None:
    items = [approved(site) for _ in range(3)]
    for number, item in enumerate(items):
        command = ("run", f"a_{item}", "--executor", "claim", "--idempotency-key", f"k{number}")
        with ThreadPoolExecutor(4) as pool:
            said = [one.result() for one in [pool.submit(site.ok, *command) for _ in range(4)]]
        assert len(set(said)) == 1
    assert len(site.json("runs", "list")) == len(items)  # type: ignore[arg-type]


# -- claims ------------------------------------------------------------------------------------------------------------


def test_cc_12_fifty_claimers_of_one_run_get_one_token(site: Site) -> None:
    run = made(site, approved(site))
    claimer = (
        "import os, sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from opsctl.errors import OpsError\nfrom opsctl.workspace import Workspace\n"
        "try:\n"
        "    ws = Workspace(Path.cwd(), environ=os.environ, now=lambda: datetime.now(UTC))\n"
        f"    print(ws.runs.claim({run.ulid!r}).token)\n"
        "except OpsError as error:\n    print(error.code, file=sys.stderr)\n"
    )
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", claimer],
        cwd=site.path,
        env=site.home.environ | {"OPSCTL_LOCK_WAIT": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = [one.communicate(timeout=120) for one in [start() for _ in range(50)]]
    tokens = [out.strip() for out, _ in said if out.strip()]
    assert len(tokens) == 1, said
    assert {err.strip() for out, err in said if not out.strip()} == {"run_active"}
    with site.ws() as ws:
        assert ws.runs.report(run.ulid, tokens[0], status="done").status == "done"


def test_the_token_is_shown_once_and_kept_nowhere(site: Site, home: Home) -> None:
    run = made(site, approved(site))
    taken = json.loads(site.ok("runs", "claim", f"r_{run.ulid}", "--json"))
    token = taken["lease_token"]
    assert TOKEN.fullmatch(token)
    site.ok("runs", "report", run.ulid, "--token", "-", "-m", f"my token is {token}", stdin=token + "\n")
    (site.path / "out").write_text(f"token {token}\n")
    site.ok("runs", "report", run.ulid, "--token", token, "--status", "done", "--result", "out")
    shown = site.ok("runs", "show", run.ulid) + site.ok("runs", "list") + site.ok("runs", "log", run.ulid)
    assert token not in shown + note(site, run.commit)
    (site.path / "out").unlink()
    objects = site.git("cat-file", "--batch-all-objects", "--batch", "--unordered")
    assert token not in objects
    for folder in (home.path / "state", home.path / "config", home.path / "cache", site.path / ".git"):
        for file in folder.rglob("*"):
            assert not file.is_file() or token.encode() not in file.read_bytes(), file


class Machine:
    """A machine whose clock and whose time since boot are set by hand."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.clock = datetime.now(UTC)
        self.boot, self.up = "first", 1000.0

    def ws(self) -> Workspace:
        """A fresh process."""
        environ = self.site.home.environ
        return Workspace(self.site.path, environ=environ, now=lambda: self.clock, uptime=lambda: (self.boot, self.up))

    def passes(self, seconds: float) -> None:
        """Time as it goes by."""
        self.clock += timedelta(seconds=seconds)
        self.up += seconds


def test_rn_03_a_lease_that_runs_out_makes_the_run_lost_and_never_pending_again(site: Site) -> None:
    machine, item = Machine(site), approved(site)
    run = made(site, item)
    with machine.ws() as ws:
        old = ws.runs.claim(run.ulid, seconds=60).token
    for _ in range(5):
        machine.passes(50)
        with machine.ws() as ws:
            assert ws.runs.report(run.ulid, old, message="still at it").status == "claimed"
    machine.passes(61)
    with machine.ws() as ws:
        refused("run_ended", ws.runs.report, run.ulid, old, status="done")
        assert ws.runs.get(run.ulid).status == "lost"
        refused("unknown_id", ws.runs.claim, None)
        refused("run_ended", ws.runs.claim, run.ulid)
        again, hold = ws.runs.retry(run.ulid)
        assert (again.attempt, again.retry_of, hold) == (2, f"r_{run.ulid}", None)
        new = ws.runs.claim(again.ulid).token
        refused("run_ended", ws.runs.report, run.ulid, old, status="done")
        refused("stale_lease", ws.runs.report, again.ulid, old, status="done")
        assert ws.runs.report(again.ulid, new, status="done").status == "done"
        refused("run_ended", ws.runs.retry, again.ulid)
        refused("run_ended", ws.runs.report, again.ulid, new, status="error")
        refused("run_ended", ws.runs.cancel, again.ulid)
        assert ws.runs.get(run.ulid).status == "lost"


def test_a_wrong_token_an_empty_one_and_that_of_another_run_are_refused(site: Site) -> None:
    one, two = made(site, approved(site)), made(site, approved(site))
    with site.ws() as ws:
        first, second = ws.runs.claim(one.ulid).token, ws.runs.claim(two.ulid).token
        for token in ("", second, first[:-1], first + "x", "\0", "\udc80", "é" * 500):
            refused("stale_lease", ws.runs.report, one.ulid, token, status="done")
        assert ws.runs.get(one.ulid).status == "claimed"


@pytest.mark.parametrize("days", [-1, 1])
def test_rn_16_a_clock_that_jumps_a_day_ends_no_lease_and_keeps_the_order_of_events(site: Site, days: int) -> None:
    machine, run = Machine(site), made(site, approved(site))
    with machine.ws() as ws:
        token = ws.runs.claim(run.ulid, seconds=60).token
    machine.clock += timedelta(days=days)
    machine.up += 30
    with machine.ws() as ws:
        assert ws.runs.get(run.ulid).status == "claimed"
        assert ws.runs.report(run.ulid, token, message="after the jump").status == "claimed"
    machine.up += 59
    with machine.ws() as ws:
        ended = ws.runs.report(run.ulid, token, status="done", message="at last")
    assert [entry.kind for entry in ended.log] == ["created", "claimed", "message", "done"]
    second = made(site, approved(site))
    with machine.ws() as ws:
        ws.runs.claim(second.ulid, seconds=60)
        machine.up += 61
        assert ws.runs.get(second.ulid).status == "lost"


def test_rn_16_after_a_reboot_the_wall_clock_ends_the_lease(site: Site) -> None:
    machine, run = Machine(site), made(site, approved(site))
    with machine.ws() as ws:
        token = ws.runs.claim(run.ulid, seconds=60).token
    machine.boot, machine.up = "second", 5.0
    machine.clock += timedelta(seconds=40)
    with machine.ws() as ws:
        assert ws.runs.report(run.ulid, token, message="back").status == "claimed"
    machine.boot, machine.up = "third", 5.0
    machine.clock += timedelta(seconds=61)
    with machine.ws() as ws:
        assert ws.runs.get(run.ulid).status == "lost"


def test_a_claim_whose_lease_this_machine_has_forgotten_is_lost(site: Site) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        ws.runs.claim(run.ulid)
        (ws.memory().folder / "leases.sqlite").unlink()
    with site.ws() as ws:
        assert ws.runs.get(run.ulid).status == "lost"


@pytest.mark.parametrize("seconds", [0, 4.9, -1, 86401, float("nan"), float("inf")])
def test_a_lease_of_no_sense_is_refused(site: Site, seconds: float) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        refused("bad_input", ws.runs.claim, run.ulid, seconds=seconds)


def test_ap_23_an_item_that_is_revoked_ends_its_runs_at_the_next_word(site: Site) -> None:
    waiting, working = approved(site), approved(site)
    one, two = made(site, waiting), made(site, working)
    with site.ws() as ws:
        token = ws.runs.claim(two.ulid).token
        for item in (waiting, working):
            ws.approvals.revoke(item, "stop")
        refused("revoked", ws.runs.claim, one.ulid)
        refused("revoked", ws.runs.report, two.ulid, token, status="done")
        assert {run.status for run in ws.runs.page()} == {"cancelled"}


def test_a_token_and_a_result_come_through_one_stdin(site: Site) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        token = ws.runs.claim(run.ulid).token
    result = "".join(f"line {number}\n" for number in range(5000))
    command = ("runs", "report", run.ulid, "--token", "-", "--status", "done", "--result", "-")
    site.ok(*command, stdin=f"{token}\n{result}")
    with site.ws() as ws:
        assert ws.runs.output(ws.runs.get(run.ulid)) == result.encode()


def test_a_result_handed_in_before_the_end_is_the_runs(site: Site) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        token = ws.runs.claim(run.ulid).token
        ws.runs.report(run.ulid, token, result=b"a first try\n")
        ws.runs.report(run.ulid, token, status="running", result=b"all of it\n")
        ended = ws.runs.report(run.ulid, token, status="done")
        assert ws.runs.output(ended) == b"all of it\n"
        assert ended.output_bytes == 10


def test_why_a_run_was_cancelled_is_what_the_one_who_cancelled_it_said(site: Site) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        token = ws.runs.claim(run.ulid).token
        ws.runs.report(run.ulid, token, message="half way")
        ws.runs.report(run.ulid, token, status="done", message="finished")
    write(site, run.commit, line(run.ulid, "cancelled", ulid=NEW, message="not wanted"))
    write(site, run.commit, line(run.ulid, "cancelled", ulid=ids.successor(NEW), message="nor now"))
    with site.ws() as ws:
        assert (ws.runs.get(run.ulid).status, ws.runs.get(run.ulid).message) == ("cancelled", "not wanted")


# -- notes are anybody's claims ----------------------------------------------------------------------------------------

NEW = "01ZZZZZZZZZZZZZZZZZZZZZZZ0"


def line(run: str, kind: str, *, ulid: str = NEW, **facts: object) -> str:
    """A line as a stranger writes it."""
    row = {"id": ulid, "run": f"r_{run}", "event": kind, "at": "2026-01-01T00:00:00Z", **facts}
    return json.dumps(row, separators=(",", ":"))


def write(site: Site, target: str, *lines: str) -> None:
    """Lines added with plain git."""
    for one in lines:
        site.git("notes", f"--ref={RUNS}", "append", "-F", "-", target, stdin=one.encode("utf-8", "surrogatepass"))


def test_lm_06_hostile_lines_are_no_events(site: Site) -> None:
    item = approved(site)
    run = made(site, item)
    before = site.ok("runs", "show", run.ulid)
    bad = [
        "",
        "hello",
        "{",
        "[" * 9000,
        '{"id":"' + '{"a":' * 4000,
        line(run.ulid, "done") + "x" * 20000,
        line(run.ulid, "done", message="x" * 17000),
        line(run.ulid, "finished"),
        line(run.ulid, "done", exit_code="0"),
        line(run.ulid, "done", exit_code=99999),
        line(run.ulid, "done", output_bytes=-1),
        line(run.ulid, "done", result="HEAD"),
        line(run.ulid, "done", result_ref="refs/heads/main"),
        line(run.ulid, "done", argv="sh"),
        line(run.ulid, "done", ulid="01kzzzzzzzzzzzzzzzzzzzzzz0"),
        line(run.ulid, "done", ulid="../../../../etc/passwd"),
        line(run.ulid, "done", ulid="Z" * 26),
        line(run.ulid + "\n", "done"),
        line(run.ulid, "done").replace("2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"),
        line(run.ulid, "done").replace("2026-01-01T00:00:00Z", "2026-01-01"),
        line(run.ulid, "done")[:-1] + ',"event":"error"}',
        line(run.ulid, "done").replace('"id":"', '"id" :"'),
        line(run.ulid, "done").replace('"id":"0', '"id":"\\u0030'),
        '{"id":"' + NEW + '","run":NaN,"event":[],"at":{}}',
        '{"id":"' + NEW + '","run":' + "9" * 5000 + "}",
        "\x1b[31m\u202e" + line(run.ulid, "done"),
    ]
    write(site, run.commit, *bad)
    assert runrecord.parse_event("\0" + line(run.ulid, "done")) is None
    assert site.ok("runs", "show", run.ulid) == before
    assert len(site.json("runs", "list")) == 1  # type: ignore[arg-type]
    with site.ws() as ws:
        assert ws.runs.cancel(run.ulid).status == "cancelled"


def test_a_key_of_a_later_version_is_left_out_and_the_event_counts(site: Site) -> None:
    run = made(site, approved(site))
    write(site, run.commit, line(run.ulid, "message", message="hi", colour="blue"))
    with site.ws() as ws:
        assert ws.runs.get(run.ulid).message == "hi"


def test_in_r_what_a_note_says_is_shown_harmless(site: Site) -> None:
    run = made(site, approved(site))
    write(site, run.commit, line(run.ulid, "message", message="a\x1b[31m\u202eb\nc\x00d", holder="\x1b]0;x\x07"))
    for words in (("runs", "list"), ("runs", "show", run.ulid), ("runs", "log", run.ulid)):
        shown = site.ok(*words)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", shown), shown
    assert "<U+202E>" in site.ok("runs", "show", run.ulid)


def test_id_12_a_run_written_on_another_object_than_its_approval_is_nobodys(site: Site) -> None:
    item, other = approved(site), approved(site)
    run = made(site, item)
    with site.ws() as ws:
        there = ws.approvals.get(other)[0].decision.commit
    lines = note(site, run.commit).splitlines()
    blob = site.git("hash-object", "-w", "--stdin", stdin=b"x")
    for target in (there, site.git("rev-parse", "main"), blob):
        write(site, target, *lines, line(run.ulid, "done"))
    with site.ws() as ws:
        assert ws.runs.get(run.ulid).status == "pending"
        assert [(one.ulid, one.commit) for one in ws.runs.page()] == [(run.ulid, run.commit)]


def test_id_12_a_commit_that_only_says_that_it_approves_carries_no_run(site: Site) -> None:
    """An unsigned copy of the approval, message and all, whose id sorts before the true one's."""
    run = made(site, approved(site))
    lines = note(site, run.commit).splitlines()
    message = site.git("log", "-1", "--format=%B", run.commit).encode()
    for number in range(200):
        said = f"{number} ".encode() + message
        copy = site.git("commit-tree", "-p", "main", f"{run.commit}^{{tree}}", stdin=said)
        if copy < run.commit:
            break
    write(site, copy, *lines, line(run.ulid, "cancelled"))
    write(site, site.git("rev-parse", "ops/drafts"), *lines, line(run.ulid, "cancelled"))
    with site.ws() as ws:
        assert [(one.ulid, one.status, one.commit) for one in ws.runs.page()] == [(run.ulid, "pending", run.commit)]
        assert ws.runs.report(run.ulid, ws.runs.claim(run.ulid).token, status="done").status == "done"


def test_a_run_on_an_approval_that_is_here_and_not_on_the_branch_yet_waits(site: Site) -> None:
    first = made(site, approved(site))
    before = site.tip()
    run = made(site, approved(site))
    with site.ws() as ws:
        folder = ws.memory().folder
    after = site.tip()
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    site.git("update-ref", "refs/heads/ops/approved", before)
    with site.ws() as ws:
        assert [one.ulid for one in ws.runs.page()] == [first.ulid]
        site.git("update-ref", "refs/heads/ops/approved", after)
        assert {one.ulid for one in ws.runs.page()} == {first.ulid, run.ulid}


def test_notes_on_a_thousand_strangers_commits_keep_no_run_waiting(clones: tuple[Site, Site]) -> None:
    one, two = clones
    run = made(one, approved(one))
    two.git("fetch", "-q", str(one.path), f"+{RUNS}:{RUNS}")
    rows = "".join(f"M 100644 inline 00/{number:038x}\ndata 2\nx\n\n" for number in range(1000))
    head = f"commit {RUNS}\ncommitter A <a@b> 1 +0000\ndata 1\nm\nfrom {RUNS}^0\n"
    two.git("fast-import", "--quiet", stdin=(head + rows).encode())
    with two.ws() as ws:
        assert len(ws.runs.page()) == 1
    one.ok("sync")
    two.git("fetch", "-q", str(one.path), "refs/heads/ops/approved:refs/heads/ops/approved")
    with two.ws() as ws:
        assert run.ulid in {found.ulid for found in ws.runs.page()}


def test_a_run_that_only_a_note_made_is_held_against_the_approved_bytes(site: Site) -> None:
    item, once = approved(site, executor="exec"), approved(site, max_runs=1)
    spent = made(site, once)
    with site.ws() as ws:
        ws.runs.cancel(spent.ulid)
        for which, code in ((item, "wider_than_approved"), (once, "used_up")):
            decision = ws.approvals.get(which)[0].decision
            facts = {"item": f"a_{which}", "digest": decision.digest, "executor": "claim"}
            ulid = ids.successor(NEW if which == item else ids.successor(NEW))
            write(site, decision.commit, line(ulid, "created", **facts))
            refused(code, ws.runs.claim, ulid)


def _ulid_time(milliseconds: int) -> str:
    return "".join(ids.ALPHABET[milliseconds >> shift & 31] for shift in range(45, -1, -5))


def test_a_stranger_at_the_end_of_time_keeps_no_run_from_ending(site: Site) -> None:
    run = made(site, approved(site))
    write(site, run.commit, line(run.ulid, "message", ulid="7ZZZZZZZZZZZZZZZZZZZZZZZZZ"))
    last = f"{_ulid_time(253402300799999)}{'Z' * 16}"
    assert ids.is_ulid(last)
    assert not ids.is_ulid(ids.successor(last))
    write(site, run.commit, line(run.ulid, "message", ulid=last))
    with site.ws() as ws:
        assert ws.runs.cancel(run.ulid).status == "cancelled"


def test_a_note_that_is_too_large_or_no_file_hides_itself_alone(site: Site) -> None:
    run, other = made(site, approved(site)), made(site, approved(site))
    site.git("notes", f"--ref={RUNS}", "add", "-f", "-F", "-", other.commit, stdin=b"x\n" * 17_000_000)
    with site.ws() as ws:
        assert [one.ulid for one in ws.runs.page()] == [run.ulid]
        refused("too_large", ws.runs.create, other.item, CLAIM)
    tree = site.git("mktree", "--missing", stdin=f"160000 commit {'1' * 40}\t{other.commit}\n".encode())
    commit = site.git("commit-tree", "-m", "x", tree)
    site.git("update-ref", RUNS, commit)
    with site.ws() as ws:
        assert ws.runs.page() == []


def test_a_few_trees_that_unfold_to_millions_of_notes_are_refused_in_bounded_time(site: Site) -> None:
    tree = site.git(
        "mktree", stdin=f"100644 blob {site.git('hash-object', '-w', '--stdin', stdin=b'x')}\t{'a' * 34}\n".encode()
    )
    for _ in range(3):
        rows = "".join(f"040000 tree {tree}\t{number:02x}\n" for number in range(256))
        tree = site.git("mktree", stdin=rows.encode())
    site.git("update-ref", RUNS, site.git("commit-tree", "-m", "bomb", tree))
    done = site.cli("runs", "list")
    assert done.returncode == 2
    assert "more than" in done.stderr


def test_a_long_message_of_any_letters_never_loses_its_event(site: Site) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        token = ws.runs.claim(run.ulid, holder="\U0001f600" * 3000).token
        ended = ws.runs.report(run.ulid, token, status="error", message="\U0001f600" * 5000)
        assert ended.status == "error"
        assert ended.message.endswith("…")
    argv = ["\udcff" * 500] * 300
    event = runrecord.Event(NEW, run.ulid, "running", datetime.now(UTC), {"argv": argv, "outside": ["ü" * 9000] * 200})
    assert runrecord.parse_event(runrecord.format_event(event)) is not None


def test_a_secret_in_a_message_or_a_result_is_not_kept(site: Site) -> None:
    secret = "ghp_" + "a1B2" * 9
    run = made(site, approved(site))
    with site.ws() as ws:
        token = ws.runs.claim(run.ulid).token
        ended = ws.runs.report(
            run.ulid, token, status="done", message=f"key {secret}", result=f"key {secret}\n".encode()
        )
        assert secret not in ended.message
        assert secret.encode() not in ws.runs.output(ended)
    assert secret not in site.git("cat-file", "--batch-all-objects", "--batch", "--unordered")


@pytest.mark.parametrize("damage", ["empty", "garbage", "folder", "half", "cut"])
def test_a_damaged_index_is_made_anew(site: Site, damage: str) -> None:
    run = made(site, approved(site))
    made(site, approved(site))
    with site.ws() as ws:
        index = ws.memory().folder / "runs.sqlite"
    for aside in index.parent.glob("runs.sqlite-*"):
        aside.unlink()
    data = index.read_bytes()
    index.unlink()
    if damage == "folder":
        index.mkdir()
    else:
        half = data[:4096] + os.urandom(max(0, len(data) - 4096))
        index.write_bytes({"empty": b"", "garbage": b"x" * 9000, "half": half, "cut": data[:4500]}[damage])
    with site.ws() as ws:
        assert run.ulid in {one.ulid for one in ws.runs.page()}
        assert ws.runs.cancel(run.ulid).status == "cancelled"
    if damage != "folder":
        with sqlite3.connect(index) as database:
            assert {row[0] for row in database.execute("SELECT ulid FROM run")} >= {run.ulid}


@pytest.mark.parametrize("damage", ["garbage", "folder"])
def test_runs_are_read_where_what_this_machine_knows_of_its_workers_cannot_be(site: Site, damage: str) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        ws.runs.claim(run.ulid)
        path = ws.memory().folder / "leases.sqlite"
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"x" * 9000)
    assert [row["status"] for row in site.json("runs", "list")] == ["claimed"]  # type: ignore[attr-defined]
    assert "claimed" in site.ok("runs", "show", run.ulid)
    site.ok("runs", "log", run.ulid)


def test_what_git_wrote_over_comes_back_though_the_index_was_removed(site: Site) -> None:
    run = made(site, approved(site))
    before = site.git("rev-parse", RUNS)
    with site.ws() as ws:
        ws.runs.claim(run.ulid)
        index = ws.memory().folder / "runs.sqlite"
    stale = site.git("commit-tree", "-p", RUNS, "-m", "beside", f"{before}^{{tree}}")
    site.git("update-ref", RUNS, stale)  # as `git notes` does, which read the notes before
    index.unlink()
    with site.ws() as ws:
        assert ws.runs.get(run.ulid).status == "claimed"


# -- plain git beside --------------------------------------------------------------------------------------------------


def test_plain_git_reads_the_record(site: Site) -> None:
    run = made(site, approved(site))
    said = site.git("log", "-1", "--notes=ops/runs", "ops/approved")
    assert "Notes (ops/runs):" in said
    assert f'"run":"r_{run.ulid}","event":"created"' in said


def test_lines_of_plain_git_are_kept_and_are_no_events(site: Site) -> None:
    run = made(site, approved(site))
    write(site, run.commit, "a remark of mine")
    with site.ws() as ws:
        ws.runs.cancel(run.ulid)
    write(site, run.commit, "and another")
    rows = note(site, run.commit).splitlines()
    assert "a remark of mine" in rows
    assert "and another" in rows
    with site.ws() as ws:
        assert [entry.kind for entry in ws.runs.get(run.ulid).log] == ["created", "cancelled"]


def test_plain_git_notes_at_the_same_time_take_nothing_from_the_record(site: Site) -> None:
    run = made(site, approved(site))
    with site.ws() as ws:
        token = ws.runs.claim(run.ulid).token
    append = f"git notes --ref={RUNS} append -m git-$i {run.commit}"
    script = f"for i in $(seq 40); do {append} || echo lost-$i; sleep 0.0$((i % 5)); done"
    beside = subprocess.Popen(
        ["sh", "-c", script],
        cwd=site.path,
        env=site.home.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    count = 0
    while beside.poll() is None:
        with site.ws() as ws:
            ws.runs.report(run.ulid, token, message=f"ours-{count}")
        count += 1
    failed = (beside.stdout.read() if beside.stdout else "").split()
    with site.ws() as ws:
        log = [entry.message for entry in ws.runs.get(run.ulid).log]
        text = note(site, run.commit).splitlines()
    assert [f"ours-{number}" for number in range(count) if f"ours-{number}" not in log] == []
    expected = {f"git-{i}" for i in range(1, 41)} - {one.replace("lost", "git") for one in failed}
    assert expected <= set(text)


OTHERS = b'latin \xe9\n one\xe2\x80\xa8{"two":1} \x0c three \xc2\x85 four\rfive\n\n\n  six \n'
"""What other people's tools may have written: not UTF-8, and with ends of lines that are none to git."""


def test_lines_of_others_stay_byte_for_byte_when_runs_are_written_and_pruned(site: Site) -> None:
    item = approved(site, parallel=9)
    run, waiting = finished(site, item), made(site, item)
    ours = _bytes_of(site, run.commit)
    blob = site.git("hash-object", "-w", "--stdin", stdin=OTHERS + ours)
    site.git("notes", f"--ref={RUNS}", "add", "-f", "-C", blob, run.commit)
    assert _bytes_of(site, run.commit) == OTHERS + ours
    with site.ws() as ws:
        ws.runs.claim(waiting.ulid)
    assert _bytes_of(site, run.commit).startswith(OTHERS + ours)
    with site.ws() as ws:
        assert ws.runbook.prune(timedelta(0)) == [run.ulid]
        assert [one.ulid for one in ws.runs.page()] == [waiting.ulid]
    assert _bytes_of(site, run.commit).startswith(OTHERS)
    assert run.ulid.encode() not in _bytes_of(site, run.commit)


def _bytes_of(site: Site, commit: str) -> bytes:
    command = ["git", "notes", f"--ref={RUNS}", "show", commit]
    return subprocess.run(command, cwd=site.path, env=site.home.environ, check=True, capture_output=True).stdout


@pytest.mark.parametrize("count", [3, 300, 5000])
def test_whatever_fan_out_git_made_is_followed(site: Site, count: int) -> None:
    """Plain git writes flat notes first, then folders of two digits, then folders in folders."""
    runs = [made(site, approved(site)) for _ in range(2)]
    blobs = site.git("hash-object", "-w", "--stdin-paths", stdin=_files(site, count)).split()
    rows = "".join(f"{runs[0].commit} {blob}\n" for blob in blobs)
    site.git("notes", f"--ref={RUNS}", "copy", "--stdin", stdin=rows.encode())
    write(site, runs[0].commit, "git rewrites the tree")
    third = made(site, approved(site))
    with site.ws() as ws:
        assert {run.ulid for run in ws.runs.page()} == {*(run.ulid for run in runs), third.ulid}
        ws.runs.cancel(runs[0].ulid)
        ws.runs.cancel(third.ulid)
    assert '"event":"cancelled"' in note(site, runs[0].commit)
    assert '"event":"cancelled"' in note(site, third.commit)
    listed = site.git("notes", f"--ref={RUNS}", "list").splitlines()
    assert len(listed) == len(set(listed)) == count + 3
    site.fsck()


def _files(site: Site, count: int) -> bytes:
    folder = site.home.path / "many"
    folder.mkdir()
    for number in range(count):
        (folder / str(number)).write_text(f"thing {number}\n")
    return "".join(f"{folder / str(number)}\n" for number in range(count)).encode()


def test_cc_11_two_processes_that_append_a_hundred_runs_each_lose_none(site: Site) -> None:
    items = [approved(site, parallel=1000) for _ in range(2)]
    writer = (
        "import os, sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from opsctl.runterms import Wish\nfrom opsctl.workspace import Workspace\n"
        "for number in range(100):\n"
        "    with Workspace(Path.cwd(), environ=os.environ, now=lambda: datetime.now(UTC)) as ws:\n"
        "        print(ws.runs.create(sys.argv[1 + number % 2], Wish('claim'))[0].ulid, flush=True)\n"
    )
    command = [sys.executable, "-c", writer, *items]
    both = [
        subprocess.Popen(command, cwd=site.path, env=site.home.environ, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [ulid for one in both for ulid in one.communicate(timeout=300)[0].split()]
    assert len(set(told)) == 200
    with site.ws() as ws:
        assert {run.ulid for run in ws.runs.page(limit=1000)} == set(told)
    site.fsck()


# -- two clones --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clones(site: Site, home: Home) -> tuple[Site, Site]:
    """Two clones of a bare repository, with one run that both know, and one person."""
    remote = home.path / "remote.git"
    home.git("clone", "-q", "--bare", str(site.path), str(remote))
    site.git("remote", "add", "origin", str(remote))
    made(site, approved(site, parallel=50))
    site.ok("sync")
    home.git("clone", "-q", str(remote), str(home.path / "second"))
    second = Site(home, home.path / "second")
    second.ok("trust", "--yes")
    second.ok("sync")
    return site, second


def only(site: Site) -> Run:
    """The run."""
    with site.ws() as ws:
        return ws.runs.page()[-1]


@pytest.mark.parametrize("way", ["sync", "git"])
def test_rm_08_runs_of_two_clones_are_united_and_their_outputs_stay(
    clones: tuple[Site, Site], way: str, home: Home
) -> None:
    ended = []
    for number, one in enumerate(clones):
        run = made(one, only(one).item)
        with one.ws() as ws:
            token = ws.runs.claim(run.ulid).token
            ended.append(ws.runs.report(run.ulid, token, status="done", result=f"result {number}\n".encode()))
    if way == "sync":
        for one in (*clones, clones[0]):
            one.ok("sync")
    else:
        for one, other in (clones, clones[::-1]):
            one.git("fetch", "-q", str(other.path), f"{RUNS}:refs/notes/theirs")
            one.git("notes", f"--ref={RUNS}", "merge", "-q", "-s", "cat_sort_uniq", "refs/notes/theirs")
            one.git("update-ref", "-d", "refs/notes/theirs")
    shown = [one.json("runs", "list") for one in clones]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 3  # type: ignore[arg-type]
    for one in clones:
        one.git("reflog", "expire", "--expire=now", "--all")
        one.git("gc", "-q", "--prune=now")
        with one.ws() as ws:
            assert [ws.runs.output(run) for run in ended] == [b"result 0\n", b"result 1\n"]
        one.fsck()


def test_rm_08_a_run_that_one_clone_cancelled_and_the_other_finished_is_cancelled(clones: tuple[Site, Site]) -> None:
    one, two = clones
    ulid = only(one).ulid
    with one.ws() as ws:
        token = ws.runs.claim(ulid).token
        assert ws.runs.report(ulid, token, status="done").status == "done"
    with two.ws() as ws:
        ws.runs.cancel(ulid)
    for site in (one, two, one):
        site.ok("sync")
    for site in (one, two):
        assert only(site).status == "cancelled"
        with site.ws() as ws:
            assert [entry.kind for entry in ws.runs.get(ulid).log].count("done") == 1


def test_notes_that_come_before_their_approval_count_once_it_is_here(clones: tuple[Site, Site]) -> None:
    one, two = clones
    run = made(one, approved(one))
    two.git("fetch", "-q", str(one.path), f"+{RUNS}:{RUNS}")
    with two.ws() as ws:
        assert run.ulid not in {found.ulid for found in ws.runs.page()}
    one.ok("sync")
    two.ok("sync")
    with two.ws() as ws:
        assert run.ulid in {found.ulid for found in ws.runs.page()}


def _bomb(site: Site) -> str:
    """A few trees that unfold to millions of notes."""
    blob = site.git("hash-object", "-w", "--stdin", stdin=b"x")
    tree = site.git("mktree", stdin=f"100644 blob {blob}\t{'a' * 34}\n".encode())
    for _ in range(3):
        rows = "".join(f"040000 tree {tree}\t{number:02x}\n" for number in range(256))
        tree = site.git("mktree", stdin=rows.encode())
    return tree


@pytest.mark.parametrize("knows", ["none", "other"])
def test_a_remotes_note_that_cannot_be_united_is_left_alone_and_stops_no_sync(
    clones: tuple[Site, Site], home: Home, knows: str
) -> None:
    one, two = clones
    remote = Site(home, home.path / "remote.git")
    bomb = remote.git("commit-tree", "-m", "bomb", _bomb(remote))
    remote.git("update-ref", RUNS, bomb)
    remote.git("update-ref", ARCHIVE, remote.git("rev-parse", "main^{tree}"))
    remote.git("update-ref", "refs/notes/ops/more", remote.git("rev-parse", "main"))
    if knows == "none":
        two.git("update-ref", "-d", RUNS)
    before = two.git("for-each-ref", "refs/notes")
    item = approved(two)
    done = two.cli("sync")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("left alone") + done.stderr.count("left alone") >= 1
    assert two.git("for-each-ref", "refs/notes") == before
    assert remote.git("rev-parse", RUNS) == bomb
    one.ok("sync")
    with one.ws() as ws:
        assert ws.is_approved(item)


def test_notes_are_united_under_the_lock(clones: tuple[Site, Site], home: Home) -> None:
    one, two = clones
    for site in clones:
        made(site, only(site).item)
    one.ok("sync")
    before = two.git("rev-parse", RUNS)
    shim = home.path / "shim"
    shim.mkdir()
    probe = (
        "import sys; from pathlib import Path; from opsctl.git.lock import RepoLock; "
        "RepoLock(Path(sys.argv[1]), wait_s=0).__enter__()"
    )
    (shim / "git").write_text(
        f"#!/bin/sh\ncase \"$*\" in *cat_sort_uniq*) {sys.executable} -c '{probe}' {two.path}/.git "
        f'>> {shim}/seen 2>&1 && echo free >> {shim}/seen;; esac\nexec {shutil.which("git")} "$@"\n'
    )
    (shim / "git").chmod(0o755)
    two.ok("sync", env={"PATH": f"{shim}:{home.environ['PATH']}"})
    assert two.git("rev-parse", RUNS) != before
    assert "lock_busy" in (shim / "seen").read_text() or "OpsError" in (shim / "seen").read_text()
    assert "free" not in (shim / "seen").read_text()


# -- looking -----------------------------------------------------------------------------------------------------------


def test_lm_06_the_list_is_paged_and_sorted(site: Site) -> None:
    item = approved(site, parallel=100)
    runs = [made(site, item) for _ in range(12)]
    with site.ws() as ws:
        for run in runs[:4]:
            ws.runs.cancel(run.ulid)
    newest = [f"r_{run.ulid}" for run in reversed(runs)]
    first = site.json("runs", "list", "--limit", "5")
    assert [row["id"] for row in first] == newest[:5]  # type: ignore[attr-defined]
    second = site.json("runs", "list", "--limit", "5", "--before", newest[4])
    assert [row["id"] for row in second] == newest[5:10]  # type: ignore[attr-defined]
    assert len(site.json("runs", "list", "--before", newest[-1])) == 0  # type: ignore[arg-type]
    assert len(site.json("runs", "list", "--status", "cancelled")) == 4  # type: ignore[arg-type]
    done = site.cli("runs", "list", "--status", "finished")
    assert done.returncode == 2
    assert "pending" in done.stderr
    with site.ws() as ws:
        assert ws.runs.suffixes(runs) == ids.shortest_suffixes([run.ulid for run in runs], [run.ulid for run in runs])


# -- the archive -------------------------------------------------------------------------------------------------------


def finished(site: Site, item: str, result: bytes = b"out\n") -> Run:
    """A run that is done."""
    run = made(site, item)
    with site.ws() as ws:
        return ws.runs.report(run.ulid, ws.runs.claim(run.ulid).token, status="done", result=result)


def test_prune_archives_runs_that_ended_before_the_ttl(site: Site) -> None:
    item = approved(site, parallel=9)
    run, waiting = finished(site, item), made(site, item)
    assert site.ok("prune") == ""
    assert site.ok("prune", "--dry-run", env={"OPSCTL_RUN_TTL": "0s"}) == f"r_{run.ulid}"
    assert len(site.json("runs", "list")) == 2  # type: ignore[arg-type]
    assert site.ok("prune", env={"OPSCTL_RUN_TTL": "0s"}) == f"r_{run.ulid}"
    assert [row["id"] for row in site.json("runs", "list")] == [f"r_{waiting.ulid}"]  # type: ignore[attr-defined]
    [row] = site.json("runs", "list", "--archived")  # type: ignore[misc]
    assert (row["id"], row["status"]) == (f"r_{run.ulid}", "done")
    assert site.ok("runs", "show", run.ulid[-8:]).startswith("id  r_" + run.ulid)
    site.git("reflog", "expire", "--expire=now", "--all")
    site.git("gc", "-q", "--prune=now")
    assert site.ok("runs", "log", run.ulid) == "out"
    assert site.cli("prune", env={"OPSCTL_RUN_TTL": "soon"}).returncode == 2
    site.fsck()


def test_a_strangers_output_neither_stops_prune_nor_costs_another_note(site: Site) -> None:
    item, other = approved(site, parallel=9), approved(site)
    run, waiting = finished(site, item), made(site, other)
    tree, tag = site.git("rev-parse", "main^{tree}"), site.git("rev-parse", "main")
    alone = site.git("hash-object", "-w", "--stdin", stdin=b"nobody's")
    write(site, alone, "a remark on a blob")
    for number, oid in enumerate(("0" * 40, "f" * 40, waiting.commit, tree, tag, alone)):
        ulid = NEW[:-2] + "A" + str(number)
        facts = {"item": f"a_{item}", "digest": run.digest, "executor": "claim"}
        write(site, run.commit, line(ulid, "created", ulid=ulid, **facts))
        write(site, run.commit, line(ulid, "error", ulid=ids.successor(NEW[:-2] + "B" + str(number)), output=oid))
    with site.ws() as ws:
        assert len(ws.runbook.prune(timedelta(0))) == 7
        assert ws.runs.output(ws.runs.get(run.ulid)) == b"out\n"
        assert [one.ulid for one in ws.runs.page()] == [waiting.ulid]
    assert note(site, alone) == "a remark on a blob"
    site.fsck()


@pytest.mark.parametrize("ref", [RUNS, ARCHIVE])
def test_a_note_of_the_archive_that_is_too_large_keeps_its_own_runs_alone(site: Site, ref: str) -> None:
    run, other = finished(site, approved(site)), finished(site, approved(site))
    size = 34_000_000 if ref == ARCHIVE else 33_553_000
    site.git("notes", f"--ref={ref}", "append", "-F", "-", other.commit, stdin=b"x" * size)
    with site.ws() as ws:
        assert run.ulid in ws.runbook.prune(timedelta(0))
        assert ws.runs.get(run.ulid).status == "done"


def test_a_crash_between_the_two_refs_of_the_archive_is_harmless(site: Site) -> None:
    item = approved(site, parallel=9, max_runs=4)
    run, other = finished(site, item), finished(site, item)
    live = site.git("rev-parse", RUNS)
    with site.ws() as ws:
        assert set(ws.runbook.prune(timedelta(0))) == {run.ulid, other.ulid}
    site.git("update-ref", RUNS, live)  # the archive moved, the record did not
    with site.ws() as ws:
        assert ws.runs.get(run.ulid).status == "done"
        assert len(ws.runbook.of_item(item)) == 2
        assert set(ws.runbook.prune(timedelta(0))) == {run.ulid, other.ulid}
        assert ws.runs.page() == []
        assert len(ws.runs.page(archived=True)) == 2
    rows = note(site, run.commit, ARCHIVE).splitlines()
    assert len(rows) == len(set(rows)) == 6
    with site.ws() as ws:
        assert ws.runs.output(run) == b"out\n"


def test_rm_08_a_cancelled_run_stays_so_when_a_clone_that_was_away_brings_it_back_done(
    clones: tuple[Site, Site],
) -> None:
    one, two = clones
    ulid = only(one).ulid
    with two.ws() as ws:
        token = ws.runs.claim(ulid).token
        ws.runs.report(ulid, token, status="done")
    with one.ws() as ws:
        ws.runs.cancel(ulid)
        assert ws.runbook.prune(timedelta(0)) == [ulid]
    for site in (one, two, one):
        site.ok("sync")
    for site in (one, two):
        with site.ws() as ws:
            assert ws.runs.get(ulid).status == "cancelled"
            assert [run.status for run in ws.runs.page()] == ["cancelled"]
            assert ws.runs.page(status="done") == ws.runs.page(status="done", archived=True) == []
    with one.ws() as ws:
        assert ws.runbook.prune(timedelta(0)) == [ulid]
        assert ws.runs.page() == []
        assert [run.status for run in ws.runs.page(archived=True)] == ["cancelled"]


def test_a_run_that_ended_is_not_revived_by_a_part_of_its_lines(site: Site) -> None:
    item = approved(site)
    run = finished(site, item)
    begun = [row for row in note(site, run.commit).splitlines() if '"event":"done"' not in row]
    with site.ws() as ws:
        ws.runbook.prune(timedelta(0))
    for rows in (begun[:1], begun[1:]):
        write(site, run.commit, *rows)
        with site.ws() as ws:
            assert ws.runs.get(run.ulid).status == "done"
            assert ws.runs.page(status="pending") == ws.runs.page(status="claimed") == []
    assert made(site, item).status == "pending"


def test_a_cancellation_that_comes_after_the_archive_counts(site: Site) -> None:
    run = finished(site, approved(site))
    with site.ws() as ws:
        ws.runbook.prune(timedelta(0))
        assert ws.runs.get(run.ulid).status == "done"
    write(site, run.commit, line(run.ulid, "cancelled"))
    with site.ws() as ws:
        assert ws.runs.get(run.ulid).status == "cancelled"
        assert ws.runs.page(status="done", archived=True) == []
        assert ws.runbook.prune(timedelta(0)) == [run.ulid]
        assert [one.status for one in ws.runs.page(archived=True)] == ["cancelled"]


def test_prune_leaves_what_plain_git_adds_meanwhile(site: Site) -> None:
    item = approved(site, parallel=9)
    gone, waiting = finished(site, item), made(site, item)
    said = line(waiting.ulid, "cancelled", message="elsewhere")
    with site.ws() as ws:
        notes = ws.runbook.notes
        lines = {row.encode() for row in note(site, gone.commit).splitlines() if gone.ulid in row}
        write(site, gone.commit, said)
        notes.remove({gone.commit: lines}, [], "runs: archive", ("Alice", "alice@example.com"))
        assert said in note(site, gone.commit).splitlines()
        assert gone.ulid not in note(site, gone.commit)
        assert ws.runs.get(waiting.ulid).status == "cancelled"


def test_a_run_that_goes_on_in_another_clone_is_not_followed_for_ever(clones: tuple[Site, Site]) -> None:
    one, two = clones
    with one.ws() as ws:
        ws.runs.claim(only(one).ulid)
        clone = ws.runbook.clone
    one.ok("sync")
    two.ok("sync")
    done = two.cli("runs", "log", "-f", only(two).ulid)
    assert (done.returncode, done.stdout) == (9, "")
    assert clone in done.stderr
    assert "opsctl sync" in done.stderr


def test_runs_that_others_answer_for_are_not_looked_at_one_by_one(clones: tuple[Site, Site]) -> None:
    one, two = clones
    mine = made(two, only(two).item)
    with one.ws() as ws:
        ws.runs.claim(only(one).ulid)
    one.ok("sync")
    two.ok("sync")
    with two.ws() as ws:
        assert [run.ulid for run in ws.runbook.live.active_of(ws.runbook.clone, ())] == [mine.ulid]
        assert len(ws.runbook.live.active()) == 2
        both = ws.runbook.live.active_of(ws.runbook.clone, {only(two).ulid, mine.ulid, NEW})
        assert {run.ulid for run in both} == {mine.ulid, only(two).ulid}


def test_notes_choose_no_program_for_a_retry(site: Site) -> None:
    runner(site, "open('ran', 'w')", name="other")
    runner(site)
    item = approved(site)
    mine = made(site, approved(site))
    with site.ws() as ws:
        decision = ws.approvals.get(item)[0].decision
    facts = {"item": f"a_{item}", "digest": decision.digest, "executor": "exec", "runner": "other"}
    write(site, decision.commit, line(NEW, "created", **facts), line(NEW, "error", ulid=ids.successor(NEW)))
    with site.ws() as ws:
        assert ws.runs.get(NEW).runner == "other"
        refused("usage", ws.runs.retry, NEW)
        ws.runs.cancel(mine.ulid)
        assert ws.runs.retry(mine.ulid)[0].executor == "claim"


def test_an_attempt_of_any_size_can_be_tried_again(site: Site) -> None:
    item = approved(site, executor="claim")
    with site.ws() as ws:
        decision = ws.approvals.get(item)[0].decision
    facts = {"item": f"a_{item}", "digest": decision.digest, "executor": "claim", "attempt": 2**53}
    old = "01JDAZ3N8Q4V5W6X7Y8Z9ABCDE"
    write(site, decision.commit, line(old, "created", ulid=old, **facts), line(old, "error", ulid=ids.successor(old)))
    with site.ws() as ws:
        again = ws.runs.retry(old)[0]
        assert (again.retry_of, again.attempt) == (f"r_{old}", 2**53)


def test_no_more_runs_are_claimed_at_once_than_were_approved(site: Site) -> None:
    run = made(site, approved(site))
    facts = {"item": f"a_{run.item}", "digest": run.digest, "executor": "claim"}
    write(site, run.commit, line(NEW, "created", **facts))
    with site.ws() as ws:
        ws.runs.claim(run.ulid)
        refused("run_active", ws.runs.claim, NEW)
        assert ws.runs.get(NEW).status == "pending"


def test_a_key_and_a_count_outlive_the_archive(site: Site) -> None:
    item = approved(site, max_runs=1)
    run = made(site, item, key="once")
    with site.ws() as ws:
        ws.runs.cancel(run.ulid)
        ws.runbook.prune(timedelta(0))
        ws.places.spent(ws.root()).unlink()
    with site.ws() as ws:
        assert ws.runs.create(item, CLAIM, key="once")[0].ulid == run.ulid
        refused("used_up", ws.runs.create, item, CLAIM)


# -- carried out here --------------------------------------------------------------------------------------------------


def test_an_exec_run_goes_into_the_record_and_its_result_is_a_branch(site: Site) -> None:
    runner(site)
    item = approved(site, "Write this down.\n")
    done = site.cli("run", f"a_{item}")
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    assert site.git("show", f"ops/runs/{name}:made.txt") == "Write this down."
    [row] = site.json("runs", "list")  # type: ignore[misc]
    assert (row["id"], row["status"], row["exit_code"], row["runner"]) == (name, "done", 0, "tiny")
    assert [entry["event"] for entry in row["log"]] == ["created", "running", "done"]
    assert site.ok("runs", "log", name) == "did 17"
    assert site.git("status", "--porcelain") == ""
    site.fsck()


def test_rn_03_a_run_whose_process_was_killed_is_lost_and_its_clone_removed(site: Site, home: Home) -> None:
    runner(site, "import time; print('here', flush=True); time.sleep(60)")
    item = approved(site)
    process = subprocess.Popen(
        [sys.executable, "-m", "opsctl", "run", f"a_{item}"],
        cwd=site.path,
        env=home.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any(row["status"] == "running" for row in site.json("runs", "list")):  # type: ignore[attr-defined]
        assert process.poll() is None
    process.kill()
    process.wait()
    [row] = site.json("runs", "list")  # type: ignore[misc]
    assert row["status"] == "lost"
    assert list((home.path / "cache").rglob("r_*")) == []
    runner(site)
    assert site.cli("run", f"a_{item}").returncode == 0


def test_an_exec_run_of_a_forgotten_process_is_lost(site: Site) -> None:
    """The state folder was cleared while a run was going on, so no row says who carries it out."""
    runner(site)
    item = approved(site)
    with site.ws() as ws:
        run, hold = ws.runs.create(item, Wish("exec"))
        assert hold
        assert ws.runs.get(run.ulid).status == "pending"
        hold.release()
        ws.runbook.leases.forget(run.ulid)
        assert ws.runs.get(run.ulid).status == "lost"


def test_a_run_of_another_clone_is_left_to_it(clones: tuple[Site, Site]) -> None:
    one, two = clones
    runner(one)
    with one.ws() as ws:
        run, hold = ws.runs.create(approved(one), Wish("exec"))
    one.ok("sync")
    two.ok("sync")
    with two.ws() as ws:
        assert ws.runs.get(run.ulid).status == "pending"
        assert ws.runs.cancel(run.ulid).status == "cancelled"
    assert hold
    hold.release()
