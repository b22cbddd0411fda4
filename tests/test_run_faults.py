"""A run that is broken at any system call ends all the same: in the record, on the disk, and in the list of processes.

Sampled by default; `OPSCTL_SWEEP=full` breaks every single call, `OPSCTL_SEED` repeats a run.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults.harness import Done, Fault, World, built, sampled, seed

SAMPLES = int(os.environ.get("OPSCTL_SAMPLES", "6"))
RUNNER = """\
[runner.tiny]
command = ["/bin/sh", "-c", "cat > made.txt; echo done"]
env = ["PATH", "HOME"]
"""


@dataclass
class Stage:
    """A world with an approved item, and a runner to carry it out."""

    world: World
    item: str

    def runs(self) -> dict[str, Any]:
        """What a fresh process lists."""
        found: dict[str, Any] = self.world.must("runs")["runs"]
        return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("runfaults")
    world = World(folder, built(folder))
    world.must("init")
    [item] = world.must("draft", "work")["ulids"]
    world.must("approve", item)
    config = world.place / "home" / "config" / "opsctl"
    config.mkdir(parents=True, exist_ok=True)
    (config / "runners.toml").write_text(RUNNER)
    world.keep("full")
    yield Stage(world, item)
    world.close()


def _inhabitants(world: World) -> list[str]:
    """Processes, other than ours, that stand somewhere below the world."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stands = os.readlink(entry / "cwd")
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if stands.startswith(str(world.place)) and line:
            found.append(f"{entry.name} {line}")
    return found


def _eventually_nobody(world: World) -> None:
    for _ in range(200):
        if not _inhabitants(world):
            return
        time.sleep(0.05)
    raise AssertionError(f"something of the run lives on: {_inhabitants(world)}")


def _check(stage: Stage, broken: Done) -> None:
    """Nothing is active or alive, what was acknowledged is in the record, and the next run works."""
    world = stage.world
    _eventually_nobody(world)
    runs = stage.runs()
    assert len(runs) <= 1
    assert not [status for status, _ in runs.values() if status in ("pending", "claimed", "running")], runs
    said = broken.acknowledged
    if said:
        assert runs[said["run"]] == [said["status"], said["result"]], runs
    for ulid, (status, result) in runs.items():
        assert status in ("done", "error", "lost", "cancelled")
        if status == "done":
            assert world.git("rev-parse", f"refs/heads/ops/runs/r_{ulid}") == result
            assert world.git("show", f"ops/runs/r_{ulid}:made.txt").startswith("Do work")
    world.fsck()
    again = world.must("run", stage.item)
    assert again["status"] == "done", again
    clones = [place for place in (world.place / "home" / "cache").rglob("r_*") if not (place / "keep").exists()]
    assert clones == [], "the next command removes the clone, unless it holds work that could not be handed over"
    assert set(stage.runs()) == {*runs, again["run"]}
    assert world.git("status", "--porcelain") == ""
    assert world.locks() == []
    world.fsck()


def _sweep(stage: Stage, do: str, number: int, count: int, randomness: random.Random) -> None:
    world = stage.world
    world.restore("full")
    sound = world.run("run", stage.item, log=True)
    assert sound.value["status"] == "done", sound.told
    assert len(sound.calls) > 40, "the library counts what a run does"
    wrong: list[str] = []
    for at in sampled(len(sound.calls), count, randomness):
        world.restore("full")
        broken = world.run("run", stage.item, fault=Fault(do, at, number))
        call = broken.calls[at - 1] if at <= len(broken.calls) else "not reached"
        if do != "kill" and (" unlink " in call or " rmdir " in call or " unlinkat " in call):
            continue  # taking a name away needs no room
        try:
            assert broken.is_clean(killed=do == "kill"), broken.told
            _check(stage, broken)
        except AssertionError as error:
            wrong.append(f"{do} at call {at} of {len(sound.calls)}: {call}\n{error}")
    assert not wrong, f"{len(wrong)} of the faults went wrong\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def randomness() -> random.Random:
    return random.Random(seed())


@pytest.mark.sweep
def test_rn_03_a_kill_at_any_call_leaves_no_run_process_or_clone_behind(
    stage: Stage, randomness: random.Random
) -> None:
    _sweep(stage, "kill", 0, SAMPLES, randomness)


@pytest.mark.sweep
@pytest.mark.parametrize("do", ["error", "full"])
def test_rn_10_a_disk_without_room_at_any_call_ends_the_run_and_the_next_works(
    stage: Stage, do: str, randomness: random.Random
) -> None:
    _sweep(stage, do, errno.ENOSPC, SAMPLES, randomness)
