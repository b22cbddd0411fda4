"""Crashes, full disks, damaged objects: whatever breaks, nothing acknowledged is lost and the next command goes on.

Sampled by default; `OPSCTL_SWEEP=full` breaks every single call, `OPSCTL_SEED` repeats a run.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults.harness import FULL, HERE, Done, Fault, World, built, processes_of, sampled, seed

PROMPT_S = 4.0
"""A next command that takes longer waited for a stale lock (they count as stale after 5 s)."""

SAMPLES = 12


@pytest.fixture(scope="module")
def randomness() -> random.Random:
    return random.Random(seed())


@dataclass
class Stage:
    """A world with drafts in every state, kept as `empty` (no gate yet) and `full`."""

    world: World
    one: str
    """pending"""
    two: str
    """approved"""
    three: str
    """rejected"""
    four: str
    """pending, edited once"""

    def state(self) -> dict[str, Any] | None:
        """What a fresh process sees; None without a gate. A closed gate fails the test."""
        done = self.world.run("state")
        if done.code == "no_gate":
            return None
        return done.value


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("faults")
    world = World(folder, built(folder))
    world.keep("empty")
    world.must("init")
    one, two, three, four = world.must("draft", "work", "4")["ulids"]
    world.must("approve", two)
    world.must("reject", three)
    world.must("edit", four, "Do it better.")
    world.keep("full")
    yield Stage(world, one, two, three, four)
    world.close()


# -- the sweeps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A command, and how the state differs once it was carried out."""

    argv: Callable[[Stage], tuple[str, ...]]
    is_done: Callable[[Stage, dict[str, Any] | None, dict[str, Any] | None], bool]
    template: str = "full"


def _moved(before: dict[str, Any], now: dict[str, Any], ulid: str, start: str, end: str) -> bool:
    """Exactly this id went from one status to the other, with its digest; all else is as before."""
    expected = {name: dict(rows) if isinstance(rows, dict) else rows for name, rows in before.items()}
    digest = expected[start].pop(ulid)
    expected[end][ulid] = digest
    return all(now[name] == expected[name] for name in ("draft", "approved", "rejected", "revoked"))


def _drafted(stage: Stage, before: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    assert before
    assert now
    new = {ulid: digest for ulid, digest in now["draft"].items() if ulid not in before["draft"]}
    return len(new) == 1 and now == before | {"draft": before["draft"] | new}


def _edited(stage: Stage, before: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    assert before
    assert now
    digest = now["draft"].get(stage.one)
    changed = digest != before["draft"][stage.one]
    return changed and now == before | {"draft": before["draft"] | {stage.one: digest}}


CASES = {
    "init": Case(lambda s: ("init",), lambda s, b, n: n is not None and n["log"] == [["init", None]], "empty"),
    "draft": Case(lambda s: ("draft", "new work"), _drafted),
    "edit": Case(lambda s: ("edit", s.one, "Do it another way."), _edited),
    "approve": Case(lambda s: ("approve", s.one), lambda s, b, n: _moved(b or {}, n or {}, s.one, "draft", "approved")),
    "reject": Case(lambda s: ("reject", s.one), lambda s, b, n: _moved(b or {}, n or {}, s.one, "draft", "rejected")),
    "revoke": Case(lambda s: ("revoke", s.two), lambda s, b, n: _moved(b or {}, n or {}, s.two, "approved", "revoked")),
}
IDS = {
    "init": "cr_07",
    "draft": "cr_01",
    "edit": "cr_02",
    "approve": "cr_03",
    "reject": "cr_04",
    "revoke": "cr_04",
}


def _check(stage: Stage, verb: str, before: dict[str, Any] | None, broken: Done) -> None:
    """After a broken command: before or after, what was acknowledged is there, and the same command finishes it."""
    world, case = stage.world, CASES[verb]
    now = stage.state()
    world.fsck()
    done = case.is_done(stage, before, now)
    assert done or now == before, f"neither before nor after: {now}\n{broken.told}"
    assert done or broken.acknowledged is None, f"acknowledged and lost\n{broken.told}"

    again = world.run(*case.argv(stage))
    assert again.status == 0, f"the next command was refused\n{again.told}\nafter {broken.told}"
    assert again.seconds < PROMPT_S, f"something stale blocked the next command\n{again.told}"
    final = stage.state()
    base = now if verb == "draft" else before
    assert case.is_done(stage, base, final), f"running it again did not converge: {final}"
    assert final is not None
    closings = [row for row in final["log"] if row == ["approve", stage.one] or row == ["revoke", stage.two]]
    assert len(closings) <= 1, final["log"]
    assert world.pending_by_git() == set(final["draft"])
    if world.locks():  # the second run may have had nothing to write; the next writer clears what a dead one left
        writer = world.run("draft", "the next")
        assert writer.status == 0, writer.told
        assert writer.seconds < PROMPT_S, f"a stale lock blocked the next writer: {writer.told}"
        assert world.locks() == []
    world.fsck()


def _can_fail(call: str, do: str) -> bool:
    """Taking a name away needs no room, and a lock that cannot be removed is not a fault that a disk has."""
    return do == "kill" or not (" unlink " in call and call.endswith(".lock"))


def _sweep(stage: Stage, verb: str, randomness: random.Random, do: str, number: int, count: int) -> None:
    world, case = stage.world, CASES[verb]
    world.restore(case.template)
    before = stage.state()
    world.restore(case.template)
    total = len(world.run(*case.argv(stage), log=True).calls)
    assert total > 20, "the library counts what the command does"
    wrong: list[str] = []
    for at in sampled(total, count, randomness):
        world.restore(case.template)
        broken = world.run(*case.argv(stage), fault=Fault(do, at, number))
        call = broken.calls[at - 1] if at <= len(broken.calls) else "not reached"
        if not _can_fail(call, do):
            continue
        try:
            assert broken.is_clean(killed=do == "kill"), broken.told
            _check(stage, verb, before, broken)
        except AssertionError as error:
            wrong.append(f"{verb}: {do} at call {at} of {total}: {call}\n{error}")
    assert not wrong, f"{len(wrong)} of the faults went wrong\n" + "\n".join(wrong)


def _named(verb: str) -> Any:
    return pytest.param(verb, id=f"{IDS[verb]}_{verb}")


@pytest.mark.sweep
@pytest.mark.parametrize("verb", [_named(verb) for verb in CASES])
def test_cr_01_to_07_a_kill_at_any_call_leaves_before_or_after_and_the_next_command_goes_on(
    stage: Stage, verb: str, randomness: random.Random
) -> None:
    _sweep(stage, verb, randomness, "kill", 0, SAMPLES)


@pytest.mark.sweep
@pytest.mark.parametrize("verb", [_named(verb) for verb in CASES])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["enospc", "eio"])
def test_cr_09_one_error_at_any_call_is_one_readable_refusal_and_loses_nothing(
    stage: Stage, verb: str, number: int, randomness: random.Random
) -> None:
    _sweep(stage, verb, randomness, "error", number, SAMPLES if number == errno.ENOSPC else SAMPLES // 2)


@pytest.mark.sweep
@pytest.mark.parametrize("verb", [_named(verb) for verb in CASES])
def test_cr_09_a_disk_that_is_full_from_some_call_on_is_one_readable_refusal_and_loses_nothing(
    stage: Stage, verb: str, randomness: random.Random
) -> None:
    _sweep(stage, verb, randomness, "full", errno.ENOSPC, SAMPLES)


@pytest.mark.sweep
@pytest.mark.parametrize("verb", [_named(verb) for verb in ("draft", "approve")])
def test_cr_18_an_error_that_is_reported_after_the_call_was_carried_out_makes_nothing_twice(
    stage: Stage, verb: str, randomness: random.Random
) -> None:
    _sweep(stage, verb, randomness, "late", errno.EIO, SAMPLES // 2)


def test_cr_09_writes_that_take_half_are_carried_on(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    assert world.run("approve", stage.one, fault=Fault("short", 1)).is_clean()
    assert world.run("approve", stage.one).value
    world.fsck()


# -- single crashes ----------------------------------------------------------------------------------------------------


def _call(calls: tuple[str, ...], name: str, ending: str) -> int:
    """The number of the first call of that name on a path that ends so."""
    return next(int(line.split()[0]) for line in calls if f" {name} " in line and line.endswith(ending))


def test_cr_17_objects_and_folders_are_on_disk_before_the_ref_moves_and_the_ref_before_success(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    done = world.run("approve", stage.one, log=True)
    commit = done.value["commit"]
    rows = [line.split(" ", 3)[2:] for line in done.calls]
    moved = next(
        at for at, row in enumerate(rows) if row[0] == "rename" and row[1].endswith("/refs/heads/ops/approved")
    )
    loose = world.git_dir / "objects" / commit[:2] / commit[2:]
    named = rows.index(["rename", str(loose)])
    temporary = [at for at, row in enumerate(rows) if row[0] == "fsync" and f"/{commit[:2]}/tmp_" in row[1]]
    assert temporary, "the commit's bytes are synced"
    assert temporary[0] < named < rows.index(["fsync", str(loose.parent)]) < moved
    synced = [at for at, row in enumerate(rows) if row == ["fsync", str(world.git_dir / "refs" / "heads" / "ops")]]
    assert [at for at in synced if at > moved], "the folder of the ref is synced before success is printed"
    lock = ["fsync", str(world.git_dir / "refs" / "heads" / "ops" / "approved.lock")]
    assert rows.index(lock) < moved, "a ref is never renamed before its bytes are on disk"
    every = [row[1] for row in rows[:moved] if row[0] == "rename" and "/objects/" in row[1]]
    assert all(["fsync", str(Path(path).parent)] in rows[:moved] for path in every)


def test_cr_18_an_error_after_the_ref_moved_is_found_out_by_running_it_again(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    calls = world.run("approve", stage.one, log=True).calls
    at = _call(calls, "rename", "/refs/heads/ops/approved")
    assert " fsync " in calls[at], "the call after the rename is the sync of the ref's folder"
    world.restore("full")
    broken = world.run("approve", stage.one, fault=Fault("error", at + 1, errno.EIO))
    assert broken.is_clean(), broken.told
    again = world.run("approve", stage.one).value
    assert again["already"] or broken.status == 0
    state = stage.state()
    assert state is not None
    assert state["log"].count(["approve", stage.one]) == 1


def test_cr_03_a_topic_ref_that_a_kill_left_goes_with_the_next_command(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    at = _call(world.run("approve", stage.one, log=True).calls, "open", f"/topics/{stage.one}.lock")
    world.restore("full")
    world.run("approve", stage.one, fault=Fault("kill", at))
    assert world.run("approve", stage.one).value["already"]
    assert not world.git("for-each-ref", f"refs/ops/topics/{stage.one}")


def test_cr_03_a_kill_between_the_branch_and_the_topic_ref_keeps_the_edit_and_its_story(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    at = _call(world.run("edit", stage.one, "Again.", log=True).calls, "open", f"/topics/{stage.one}.lock")
    world.restore("full")
    world.run("edit", stage.one, "Again.", fault=Fault("kill", at))
    digest = world.must("state")["draft"][stage.one]
    assert world.must("approve", stage.one, digest)["digest"] == digest
    world.fsck()


def test_cr_01_the_lock_of_a_stopped_process_is_waited_for_in_bounds(stage: Stage) -> None:
    """CC-14 at the place that hurts: the holder stands still with the ref lock in its hands."""
    world = stage.world
    world.restore("full")
    at = _call(world.run("approve", stage.one, log=True).calls, "rename", "/refs/heads/ops/approved")
    world.restore("full")
    variables = {"FAULT_STATE": str(world.base / "other"), "FAULT_UNDER": str(world.place)}
    (world.base / "other").unlink(missing_ok=True)
    holder = subprocess.Popen(
        [sys.executable, str(HERE / "worker.py"), "approve", stage.one],
        cwd=world.repo,
        env={**world.environ, "LD_PRELOAD": str(world.library), **variables, **Fault("stop", at).environ()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        _, status = os.waitpid(holder.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the holder stands still before the rename"
        waited = world.run("approve", stage.four, env={"OPSCTL_LOCK_WAIT": "1"})
        assert waited.code == "lock_busy", waited.told
        assert 1 <= waited.seconds < 4
        assert world.run("state").value["draft"], "reads never take the lock"
    finally:
        holder.send_signal(signal.SIGCONT)
        holder.communicate(timeout=20)
    assert world.must("approve", stage.one)["already"]
    assert not world.must("approve", stage.four)["already"]


def test_cr_14_an_interrupt_at_any_moment_exits_130_and_leaves_no_child(
    stage: Stage, randomness: random.Random
) -> None:
    world = stage.world
    world.restore("full")
    length = world.run("approve", stage.one).seconds
    before = _server_and_me(world)
    hit = 0
    for _ in range(100 if FULL else 20):
        world.restore("full")
        broken = world.run("approve", stage.one, interrupt_after=randomness.uniform(0.002, length))
        assert broken.status in (0, 130), broken.told
        hit += broken.status == 130
        _eventually(lambda: _server_and_me(world) == before, "no signer, git or agent is left")
        state = stage.state()
        assert state is not None
        assert (stage.one in state["approved"]) != (stage.one in state["draft"])
        assert broken.status == 130 or stage.one in state["approved"]
        again = world.run("approve", stage.one)
        assert again.status == 0, again.told
        assert again.seconds < PROMPT_S
        assert world.locks() == []
        world.fsck()
    assert hit, "some interrupts came in time"


def _eventually(holds: Callable[[], bool], what: str) -> None:
    """A signer whose caller was interrupted while it started ends by itself, soon."""
    for _ in range(100):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError(what)


def _server_and_me(world: World) -> list[str]:
    return sorted(processes_of(world.environ, other_than=[os.getpid()]))


# -- a machine without room or rights ----------------------------------------------------------------------------------


def _in_own_mounts(script: str, environ: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own; skips where that is not allowed."""
    probe = (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    )
    if probe is None or probe.returncode != 0:
        pytest.skip("mounting is not allowed here (needs root and unshare)")
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", script],
        env=environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


MUTATIONS = ("draft", "edit", "approve", "reject", "revoke")


@pytest.mark.parametrize("verb", MUTATIONS)
def test_cr_11_a_read_only_repository_refuses_changes_and_still_reads(stage: Stage, verb: str) -> None:
    world = stage.world
    world.restore("full")
    tip = world.git("rev-parse", "ops/approved", "ops/drafts")
    worker = f"{sys.executable} {HERE / 'worker.py'}"
    argv = " ".join(f"'{part}'" for part in CASES[verb].argv(stage))
    script = (
        f"mount --bind {world.repo} {world.repo} && mount -o remount,ro,bind {world.repo} {world.repo} || exit 99\n"
        f"cd {world.repo}\nset +e\n{worker} state >/dev/null || exit 98\n{worker} {argv}\n"
    )
    done = _in_own_mounts(script, world.environ, world.base)
    if done.returncode == 99:
        pytest.skip(f"no bind mount here: {done.stderr.strip()}")
    assert done.returncode == 6, done.stderr
    assert '"code": "disk"' in done.stderr
    assert world.git("rev-parse", "ops/approved", "ops/drafts") == tip


def test_cr_11_a_read_only_home_still_reads_and_verifies(stage: Stage) -> None:
    """What is remembered of verification cannot be written: it is verified anew, and nothing else changes."""
    world = stage.world
    world.restore("full")
    shutil.rmtree(world.place / "home" / "state")
    home = world.place / "home"
    worker = f"{sys.executable} {HERE / 'worker.py'}"
    script = (
        f"mount --bind {home} {home} && mount -o remount,ro,bind {home} {home} || exit 99\n"
        f"cd {world.repo}\nset +e\n{worker} state\n"
    )
    done = _in_own_mounts(script, world.environ, world.base)
    if done.returncode == 99:
        pytest.skip(f"no bind mount here: {done.stderr.strip()}")
    assert done.returncode == 0 or '"code": "disk"' in done.stderr, done.stderr


def test_cr_09_a_small_disk_that_fills_up_refuses_and_goes_on_once_there_is_room(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    worker = f"{sys.executable} {HERE / 'worker.py'}"
    size = sum(path.stat().st_size + 4096 for path in world.place.rglob("*") if path.is_file()) // 1024 + 2048
    script = f"""
        cp -a {world.place} {world.base}/aside
        mount -t tmpfs -o size={size}k none {world.place} || exit 99
        cp -a {world.base}/aside/. {world.place}/
        cd {world.repo}
        set +e
        dd if=/dev/zero of={world.place}/filler bs=1k count=100000 2>/dev/null
        {worker} approve {stage.one}
        echo "first=$?"
        {worker} state >/dev/null
        echo "read=$?"
        rm {world.place}/filler
        {worker} approve {stage.one}
        echo "second=$?"
        git fsck --strict --no-dangling
        echo "fsck=$?"
    """
    try:
        done = _in_own_mounts(script, world.environ, world.base)
    finally:
        shutil.rmtree(world.base / "aside", ignore_errors=True)
    if done.returncode == 99:
        pytest.skip(f"no tmpfs here: {done.stderr.strip()}")
    assert "first=6" in done.stdout, done.stdout + done.stderr
    assert "second=0" in done.stdout, done.stdout + done.stderr
    assert "fsck=0" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "read=0" in done.stdout, "reads still work on a full disk"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES], ids=["full", "forbidden"])
def test_cr_09_a_signing_program_without_a_temporary_folder_is_a_readable_refusal(stage: Stage, number: int) -> None:
    """The user's own signing program gets its data in a file, as git hands it over."""
    world = stage.world
    world.restore("full")
    world.home.git("config", "--global", "gpg.ssh.program", str(shutil.which("ssh-keygen")))
    calls = world.run("approve", stage.one, log=True).calls
    at = next(int(line.split()[0]) for line in calls if " mkdir " in line and "/tmp/opsctl-" in line)
    world.restore("full")
    world.home.git("config", "--global", "gpg.ssh.program", str(shutil.which("ssh-keygen")))
    before = stage.state()
    broken = world.run("approve", stage.one, fault=Fault("error", at, number, only="mkdir"))
    assert broken.is_clean(), broken.told
    assert broken.status != 0
    _check(stage, "approve", before, broken)


@pytest.mark.parametrize("files", [12, 16, 20, 24, 32])
def test_cr_12_few_open_files_is_a_refusal_or_works(stage: Stage, files: int) -> None:
    world = stage.world
    for verb in ("approve", "draft"):
        world.restore("full")
        before = stage.state()
        starved = world.run(*CASES[verb].argv(stage), limits={"RLIMIT_NOFILE": files})
        assert starved.is_clean(), starved.told
        _check(stage, verb, before, starved)


# -- damage ------------------------------------------------------------------------------------------------------------


def _loose(world: World, oid: str) -> Path:
    return world.git_dir / "objects" / oid[:2] / oid[2:]


def _overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one_byte": lambda data: data[:1],
    "truncated": lambda data: data[: len(data) // 2],
    "without_its_end": lambda data: data[:-4],
    "flipped_bit": lambda data: _flip(data, 8 * (len(data) // 2)),
    "another_object": lambda data: zlib.compress(b"blob 3\0abc"),
    "a_huge_size": lambda data: zlib.compress(b"blob 99999999999\0abc"),
    "no_zlib": lambda data: b"x" * len(data),
}


def _damage(name: str) -> Any:
    return pytest.param(name, id=name)


@pytest.mark.parametrize("target", ["blob", "tree", "commit"])
@pytest.mark.parametrize("damage", [_damage(name) for name in DAMAGE])
def test_cr_19_cr_21_a_damaged_loose_object_is_an_integrity_error_in_bounded_time(
    stage: Stage, damage: str, target: str
) -> None:
    world = stage.world
    world.restore("full")
    tip = world.git("rev-parse", "ops/approved")
    names = {"blob": f"{tip}:{_path(world, stage.two)}", "tree": f"{tip}^{{tree}}", "commit": tip}
    path = _loose(world, world.git("rev-parse", names[target]))
    _overwrite(path, DAMAGE[damage](path.read_bytes()))
    for remembered in (True, False):
        if not remembered:
            shutil.rmtree(world.place / "home" / "state", ignore_errors=True)
        for argv in (("get", stage.two), ("list",), ("approve", stage.one)):
            done = world.run(*argv, limit_s=10)
            assert done.is_clean(), done.told
            if argv[0] == "get":
                assert done.status == 5, done.told


def _path(world: World, ulid: str) -> str:
    found = world.git("ls-tree", "-r", "--name-only", "ops/drafts")
    return next(line for line in found.splitlines() if line.endswith(f"{ulid}.md"))


@pytest.mark.sweep
def test_cr_21_a_flipped_bit_in_a_pack_is_never_served(stage: Stage, randomness: random.Random) -> None:
    world = stage.world
    world.restore("full")
    served = world.must("get", stage.two)
    world.git("gc", "-q", "--prune=now")
    [pack] = (world.git_dir / "objects" / "pack").glob("*.pack")
    whole = pack.read_bytes()
    for _ in range(400 if FULL else 25):
        shutil.rmtree(world.place / "home" / "state", ignore_errors=True)
        _overwrite(pack, _flip(whole, randomness.randrange(12 * 8, len(whole) * 8)))
        done = world.run("get", stage.two, limit_s=10)
        assert done.is_clean(), done.told
        if done.status == 0:
            assert done.value == served
        else:
            assert done.status == 5, done.told


@pytest.mark.parametrize("size", [0, 40, 500], ids=["empty", "header_only", "cut_off"])
@pytest.mark.parametrize("ending", ["pack", "idx"])
def test_cr_19_a_truncated_pack_or_index_is_an_integrity_error_in_bounded_time(
    stage: Stage, ending: str, size: int
) -> None:
    world = stage.world
    world.restore("full")
    world.git("gc", "-q", "--prune=now")
    [file] = (world.git_dir / "objects" / "pack").glob(f"*.{ending}")
    _overwrite(file, file.read_bytes()[:size])
    for argv in (("get", stage.two), ("state",), ("approve", stage.one)):
        done = world.run(*argv, limit_s=10)
        assert done.is_clean(), done.told
        assert done.status != 0, "nothing is served from half a pack"


def _without_the_blob_of_two(stage: Stage) -> str:
    """A second approved item stays whole; the path of the broken one."""
    world = stage.world
    world.restore("full")
    world.must("approve", stage.one)
    path = _path(world, stage.two)
    _loose(world, world.git("rev-parse", f"ops/approved:{path}")).unlink()
    return path


def test_cr_22_a_missing_blob_takes_that_item_and_no_other(stage: Stage) -> None:
    _without_the_blob_of_two(stage)
    refused = stage.world.run("get", stage.two)
    assert refused.status == 5, refused.told
    other = stage.world.run("get", stage.one)
    assert other.status == 0, other.told
    assert stage.world.run("approve", stage.four).value


def test_cr_22_a_list_with_a_missing_blob_names_the_item_and_shows_the_others(stage: Stage) -> None:
    _without_the_blob_of_two(stage)
    listed = stage.world.must("list", "approved")
    assert stage.two in listed["errors"]
    assert stage.one not in listed["errors"]
    assert stage.one in listed["items"]


def test_cr_22_a_missing_blob_of_a_draft_is_shown_as_that_drafts_fault(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    _loose(world, world.git("rev-parse", f"ops/drafts:{_path(world, stage.one)}")).unlink()
    listed = world.must("list", "draft")
    assert stage.one in listed["errors"]
    assert stage.four not in listed["errors"]
    refused = world.run("approve", stage.one)
    assert refused.is_clean(), refused.told
    assert refused.status != 0
    assert world.run("approve", stage.four).value
    assert world.run("draft", "more").value


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "flipped", "folder", "other_wal"])
def test_m4_a_damaged_ledger_changes_nothing(stage: Stage, damage: str, randomness: random.Random) -> None:
    world = stage.world
    world.restore("full")
    expected = stage.state()
    [ledger] = (world.place / "home" / "state").rglob("ledger.sqlite")
    for aside in ledger.parent.glob("ledger.sqlite-*"):
        aside.unlink()
    data = ledger.read_bytes()
    changed = {
        "empty": b"",
        "garbage": b"no database at all" * 100,
        "truncated": data[: len(data) // 2],
        "flipped": data[:4096] + randomness.randbytes(max(0, len(data) - 4096)),
        "folder": b"",
        "other_wal": data,
    }[damage]
    ledger.write_bytes(changed)
    if damage == "folder":
        ledger.unlink()
        ledger.mkdir()
    if damage == "other_wal":
        ledger.with_name("ledger.sqlite-wal").write_bytes(randomness.randbytes(5000))
    done = world.run("state")
    assert done.is_clean(), done.told
    assert done.value == expected
    assert world.run("approve", stage.one).value


def test_m4_a_ledger_that_another_version_laid_out_is_thrown_away(stage: Stage) -> None:
    """It says the right root and rule, and its table of decisions lacks a column: the layout of an early version."""
    world = stage.world
    world.restore("full")
    expected = stage.state()
    [ledger] = (world.place / "home" / "state").rglob("ledger.sqlite")
    with sqlite3.connect(ledger) as database:
        [known] = database.execute("SELECT root, version FROM about").fetchall()
        database.executescript("DROP TABLE chain; DROP TABLE about; PRAGMA user_version = 0;")
        database.execute("CREATE TABLE about (root TEXT, version INTEGER, layout INTEGER)")
        database.execute("INSERT INTO about VALUES (?, ?, 1)", known)
        database.execute(
            "CREATE TABLE chain (position INTEGER PRIMARY KEY, oid TEXT UNIQUE, kind TEXT, ulid TEXT, data TEXT)"
        )
    database.close()
    done = world.run("state")
    assert done.is_clean(), done.told
    assert done.value == expected


@pytest.mark.parametrize("content", [b"", b"{", b'{"root": 5}', b"\xff\xfe", b"[]"])
def test_cr_09_a_damaged_mark_is_one_readable_refusal(stage: Stage, content: bytes) -> None:
    world = stage.world
    world.restore("full")
    [mark] = (world.place / "home" / "state").rglob("seen.json")
    mark.write_bytes(content)
    done = world.run("state")
    assert done.status == 2, done.told
    assert done.code == "bad_config"


# -- a repository in odd shape -----------------------------------------------------------------------------------------


def _detached(world: World) -> None:
    world.git("checkout", "-q", "--detach")


def _unborn(world: World) -> None:
    world.git("symbolic-ref", "HEAD", "refs/heads/nothing-yet")


def _broken_index(world: World) -> None:
    (world.git_dir / "index").write_bytes(b"DIRC\0\0\0\x63garbage")


def _index_folder(world: World) -> None:
    (world.git_dir / "index").unlink()
    (world.git_dir / "index").mkdir()


def _index_lock(world: World) -> None:
    (world.git_dir / "index.lock").touch()


def _head_without_object(world: World) -> None:
    (world.git_dir / "HEAD").write_text("1" * 40 + "\n")


@pytest.mark.parametrize(
    "shape",
    [_detached, _unborn, _broken_index, _index_folder, _index_lock, _head_without_object],
    ids=lambda f: f.__name__,
)
def test_cr_24_head_and_index_do_not_matter(stage: Stage, shape: Callable[[World], None]) -> None:
    world = stage.world
    world.restore("full")
    shape(world)
    for verb in MUTATIONS:
        done = world.run(*CASES[verb].argv(stage))
        if verb == "reject":  # the draft was approved just before
            assert done.code == "already_decided", done.told
        else:
            assert done.status == 0, done.told
    assert stage.state()


def test_cr_25_leftover_temporary_files_are_harmless(stage: Stage) -> None:
    world = stage.world
    world.restore("full")
    objects = world.git_dir / "objects"
    (objects / "tmp_object_git2_aBcDeF").write_bytes(b"half")
    (objects / "pack").mkdir(exist_ok=True)
    (objects / "pack" / "tmp_pack_XyZ").write_bytes(b"PACK\0\0\0\2")
    (objects / "pack" / "pack-1234.pack").write_bytes(b"")
    before = stage.state()
    assert before is not None
    assert world.run("approve", stage.one).value
    assert _moved(before, stage.state() or {}, stage.one, "draft", "approved")


def test_cr_01_leftovers_of_killed_writers_do_not_pile_up_locks(stage: Stage, randomness: random.Random) -> None:
    """Many kills in a row in one repository: each next command still starts at once."""
    world = stage.world
    world.restore("full")
    for _ in range(12):
        world.run("draft", "another", fault=Fault("kill", randomness.randrange(1, 110)))
    last = world.run("draft", "the last")
    assert last.status == 0, last.told
    assert last.seconds < PROMPT_S
    assert world.locks() == []
    world.fsck()
    state = stage.state()
    assert state is not None
    assert world.pending_by_git() == set(state["draft"])
