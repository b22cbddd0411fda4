"""Helper processes that judge ahead: whatever they do, the verdict is the one of a single process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from histories import FILE, Forge, World, new_world, path_of, text_of, ulid

from opsctl import ahead, history
from opsctl.git.repo import Repo
from opsctl.history import BrokenHistory, History
from opsctl.ledger import Ledger
from opsctl.models import Decision, Finding
from opsctl.standing import Standing

Verdict = tuple[Standing | None, Finding | None, str | None, list[Decision], int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("ahead")) as made:
        yield made


@pytest.fixture
def forge(world: World) -> Forge:
    return world.forge


@pytest.fixture(autouse=True)
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories of three commits count as long, and a helper judges three commits in one go."""
    monkeypatch.setattr(history, "LONG", 3)
    monkeypatch.setattr(ahead, "PART", 3)
    monkeypatch.setattr(ahead, "_cores", lambda: 2)


def verdict(world: World, tip: str, *, crew: bool, progress: history.Progress | None = None) -> Verdict:
    """Everything that a cold verification says, and remembers."""
    repo, ledger = Repo(world.forge.path), Ledger(None, world.root)
    one = History(repo, ledger, world.root, common=repo.common if crew else None)
    try:
        standing, _ = one.verify(tip, progress=progress)
    except BrokenHistory as broken:
        rows = list(ledger.decisions(10_000))
        return None, broken.finding, broken.good, rows, ledger.count
    return standing, None, None, list(ledger.decisions(10_000)), ledger.count


def same(world: World, tip: str) -> Verdict:
    """The verdict, which must be the same with helpers and without."""
    alone, together = verdict(world, tip, crew=False), verdict(world, tip, crew=True)
    assert together == alone
    return alone


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commits that are judged in this process from now on."""
    found: list[str] = []
    judge = history.judge

    def noting(oid: str, *rest: object) -> object:
        found.append(oid)
        return judge(oid, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(history, "judge", noting)
    return found


def long(world: World, count: int, start: int = 100) -> list[str]:
    """A chain of so many approvals after the tip; all its commits."""
    tip = world.tip
    for number in range(start, start + count):
        tip = world.forge.approved(tip, ulid(number), by=("alice", "bob", "carol")[number % 3])
    return world.chain(tip)


def varied(world: World, forge: Forge) -> str:
    """A chain with every kind of decision, topics cut long before their merge, and votes."""
    one, two, three, four = (ulid(number) for number in (2, 3, 4, 5))
    early, other = forge.draft(world.tip, one), forge.draft(world.root, two)
    tip = forge.plan(long(world, 4, 200)[-1])
    tip = forge.approve(tip, forge.write(early, one, text_of(one, "Better.")), one, by="carol")
    tip = forge.revoke(tip, world.item, by="dave")
    tip = forge.policy(tip, world.rules.after(threshold=2))
    tip = forge.approve(tip, forge.vote(other, tip, two, by="bob"), two)
    tip = forge.approve(tip, forge.vote(forge.draft(tip, three), tip, three, by="bob"), three, by="carol")
    tip = forge.plan(tip, title="Two", by="bob")
    return forge.approve(tip, forge.vote(forge.draft(tip, four), tip, four, by="carol"), four)


def test_helpers_judge_a_long_history_and_the_verdict_is_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = long(world, 16)
    _, finding, _, decisions, count = same(world, chain[-1])
    assert (finding, count, len(decisions)) == (None, len(chain), len(chain))
    here = counted(monkeypatch)
    assert verdict(world, chain[-1], crew=True)[4] == len(chain)
    assert here == [], "all but the root was judged by helpers"


def test_every_kind_of_decision_is_judged_as_by_one_process(
    world: World, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = varied(world, forge)
    assert same(world, tip)[1] is None
    here = counted(monkeypatch)
    verdict(world, tip, crew=True)
    governed = [oid for oid in world.chain(tip)[1:] if forge.rules[oid] != forge.rules[forge.parents[oid][0]]]
    assert here == governed, "what changes the policy is judged here"


def test_what_another_part_merged_or_approved_is_known(
    world: World, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper takes the commits of another part's topic for new ones; what follows from that is not taken."""
    one, two = ulid(2), ulid(3)
    first = forge.draft(world.tip, one)
    tip = forge.approve(world.tip, first, one)
    for number in range(300, 306):
        tip = forge.approved(tip, ulid(number))
    files = {**forge.files[first], path_of(two): (FILE, forge.blob(text_of(two)))}
    upon = forge.commit(files, (first,), by=None, trailers={"Ops-Kind": "draft", "Ops-Id": two})
    good = forge.approve(tip, upon, two)
    here = counted(monkeypatch)
    assert verdict(world, good, crew=True)[1] is None
    assert here == [good]
    assert same(world, forge.approved(good, ulid(310)))[1] is None
    again = forge.approved(forge.revoke(tip, one), one)
    assert getattr(same(world, again)[1], "message", "").endswith("an id never returns")


BAD: dict[str, Callable[[Forge, str], str]] = {
    "not signed": lambda forge, tip: forge.approved(tip, ulid(2), by=None),
    "a stranger": lambda forge, tip: forge.approved(tip, ulid(2), by="mallory"),
    "another name": lambda forge, tip: forge.approved(tip, ulid(2), trailers={"Ops-Signer": "bob"}),
    "another payload": lambda forge, tip: forge.approved(
        tip, ulid(2), after=lambda data: data.replace(b"approve: ", b"approve:  ")
    ),
    "not in form": lambda forge, tip: forge.approved(
        tip, ulid(2), after=lambda data: data.replace(b"\ngpgsig", b"\nencoding UTF-8\ngpgsig")
    ),
    "an id again": lambda forge, tip: forge.approved(tip, ulid(101)),
    "too few": lambda forge, tip: forge.approved(forge.policy(tip, forge.rules[tip].after(threshold=2)), ulid(2)),
    "an old policy": lambda forge, tip: forge.approved(
        forge.policy(tip, forge.rules[tip].without("bob").after()), ulid(2), by="bob"
    ),
}


@pytest.mark.parametrize("fault", sorted(BAD))
@pytest.mark.parametrize("place", [3, 5, 9])
def test_a_fault_is_found_where_one_process_finds_it(world: World, forge: Forge, fault: str, place: int) -> None:
    """Right after the root's part, at the border of two parts, in a later one; with more commits upon it."""
    tip = BAD[fault](forge, long(world, place)[-1])
    bad = tip
    for number in range(400, 408):
        tip = forge.approved(tip, ulid(number))
    _, finding, good, decisions, _ = same(world, tip)
    assert finding is not None
    assert (finding.commit, good) == (bad, forge.parents[bad][0])
    assert decisions[0].commit == good


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(1)",
        "import sys; sys.stdin.close()",
        "print('[]')",
        "print('[null, null, null]')",
        "print('no JSON')",
        "import sys; sys.stdin.read(); print('[[', end='')",
        "import os, sys; sys.stdin.read(); os.kill(os.getpid(), 9)",
    ],
)
def test_helpers_that_die_or_say_nothing_of_use_change_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    chain = long(world, 12)
    alone = verdict(world, chain[-1], crew=False)
    monkeypatch.setattr(ahead, "_START", program)
    here = counted(monkeypatch)
    assert verdict(world, chain[-1], crew=True) == alone
    assert here == chain[1:]


def test_a_helper_that_is_killed_half_way_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = long(world, 24)
    crews: list[ahead.Crew] = []
    monkeypatch.setattr(ahead, "Crew", lambda *task: crews.append(made := REAL(*task)) or made)

    def kill(done: int, _: int) -> None:
        if done == 4:
            crews[0]._helpers[0].kill()

    assert verdict(world, chain[-1], crew=True, progress=kill) == verdict(world, chain[-1], crew=False)
    assert len(crews) == 1


REAL = ahead.Crew


def test_where_no_process_can_be_started_one_is_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = long(world, 6)
    for name in ("/nowhere/python", "", None):
        monkeypatch.setattr(sys, "executable", name)
        assert verdict(world, chain[-1], crew=True)[4] == len(chain)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_helper_is_left_when_the_command_ends_early(world: World, error: type[BaseException]) -> None:
    chain = long(world, 30)

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise error

    with pytest.raises(error):
        verdict(world, chain[-1], crew=True, progress=stop)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_helpers_import_what_the_command_imports_and_nothing_of_the_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder whose modules have the names of the standard library's, and with PYTHON variables that lead there."""
    marker = tmp_path / "marker"
    for name in ("json", "signal", "opsctl", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    chain = long(world, 6)
    here = counted(monkeypatch)
    assert verdict(world, chain[-1], crew=True)[1] is None
    assert here == []
    assert not marker.exists()


def test_a_short_history_starts_no_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LONG", 2000)
    monkeypatch.setattr(ahead, "Crew", None)
    assert verdict(world, long(world, 4)[-1], crew=True)[1] is None


def test_the_helper_is_a_program_of_two_lines(world: World) -> None:
    """The exchange, said once more: two lines in, a line of rows for each part out."""
    chain = long(world, 4)
    task = {"common": str(world.forge.path / ".git"), "chain": chain, "part": 3, "index": 0, "count": 1}
    lines = f"{json.dumps(sys.path)}\n{json.dumps(task)}\n"
    done = subprocess.run([sys.executable, "-I", "-c", ahead._START], input=lines, capture_output=True, text=True)
    rows = [row for line in done.stdout.splitlines() for row in json.loads(line)]
    assert [row["decision"]["commit"] for row in rows] == chain[1:]
    assert all(row["unreached"] == row["topic"] for row in rows)
