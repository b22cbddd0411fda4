"""Little memory, many drafts, a long history: what is counted is work and memory, never seconds.

Sampled by default; `OPSCTL_SWEEP=full` takes 100,000 decisions and 10,000 drafts.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

from opsctl.git.repo import Repo
from opsctl.workspace import Workspace
from tests.bench.lab import Lab, Site

FULL = os.environ.get("OPSCTL_SWEEP") == "full"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("kept"), print) as made:
        yield made


# -- CR-27 --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a process ended, and the most memory that it had at once."""

    status: int
    out: str
    err: str
    peak: int


_MEASURED = """
import pathlib, re, sys
from opsctl.cli.app import run
status = run(sys.argv[2:])
pathlib.Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""
"""The command line, and its own peak: what the system tells of a child counts the process that it was forked from."""


def limited(site: Site, *argv: str, most: int, folder: Path, warm: bool = True) -> Ended:
    """The command line in a process that may have so much address space."""
    if not warm:
        shutil.rmtree(Path(site.environ["XDG_STATE_HOME"]), ignore_errors=True)
    out, err, peak = folder / "out", folder / "err", folder / "peak"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _MEASURED, str(peak), *argv],
            cwd=site.path,
            env={**site.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
        )
        process.wait()
    most_kib = int(peak.read_text()) if peak.exists() else 0
    return Ended(process.returncode, out.read_text(), err.read_text(), most_kib * 1024)


@pytest.fixture(scope="module")
def crowd(lab: Lab) -> Site:
    """5,000 pending drafts."""
    return lab.copy(20, pending=5_000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps to RLIMIT_AS")
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("argv", [["list"], ["list", "--json"], ["status"], ["doctor"], ["verify", "--deep"]])
def test_cr_27_five_thousand_drafts_are_read_within_256_mib(
    crowd: Site, tmp_path: Path, argv: list[str], warm: bool
) -> None:
    done = limited(crowd, *argv, most=256 * MIB, folder=tmp_path, warm=warm)
    assert done.status == 0, done.err
    assert 0 < done.peak < 256 * MIB
    if argv == ["list"]:
        assert len(done.out.splitlines()) == 5_000
    if argv == ["list", "--json"]:
        assert len({row["id"] for row in json.loads(done.out)}) == 5_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps to RLIMIT_AS")
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_cr_27_with_less_memory_it_is_one_readable_refusal_and_no_false_alarm(
    crowd: Site, tmp_path: Path, warm: bool
) -> None:
    """Too little memory is neither a bug nor a damaged object."""
    refused = 0
    for most in range(160, 80, -16):
        done = limited(crowd, "list", "--json", most=most * MIB, folder=tmp_path, warm=warm)
        if done.status == 0:
            assert len(json.loads(done.out)) == 5_000
            continue
        refused += 1
        assert done.status == 6, f"{most} MiB: {done.err}"
        assert json.loads(done.err)["error"]["code"] == "no_memory"
        assert done.out == ""
        if refused == 2:
            break
    assert refused
    for most in (72, 64, 56):  # here Python itself may not start; whatever ends it, the objects are sound
        assert limited(crowd, "list", "--json", most=most * MIB, folder=tmp_path, warm=warm).status != 5
    assert limited(crowd, "verify", most=256 * MIB, folder=tmp_path).status == 0


# -- GT-22 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(lab: Lab) -> Site:
    """A short history with few drafts."""
    return lab.copy(30, pending=20)


@pytest.fixture(scope="module")
def long(lab: Lab) -> Site:
    """A long history with many drafts."""
    return lab.copy(100_000 if FULL else 1_500, pending=10_000 if FULL else 500)


class Count:
    """How many objects are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._found = 0
        read = Repo.read

        def counted(repo: Repo, oid: str, kind: str, *, limit: int = 16 * MIB) -> bytes:
            self._found += 1
            return read(repo, oid, kind, limit=limit)

        monkeypatch.setattr(Repo, "read", counted)

    def of(self, site: Site, work: Callable[[Workspace], object]) -> int:
        """The reads of one command."""
        self._found = 0
        with site.ws() as ws:
            work(ws)
        return self._found


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


def pending(site: Site) -> list[str]:
    """Ids of pending drafts, from plain git."""
    rows = site.git("for-each-ref", "--format=%(refname:lstrip=3)", "refs/ops/topics").decode()
    return rows.split()


@pytest.mark.timeout(1800 if FULL else 300)
def test_gt_22_what_was_verified_is_not_read_again(short: Site, long: Site, count: Count) -> None:
    size = 100_000 if FULL else 1_500

    def verify(ws: Workspace) -> None:
        assert ws.verification.verify().ok
        assert ws.gate().count >= 31

    assert count.of(long, verify) == count.of(short, verify) <= 10
    with long.ws() as ws:
        assert ws.gate().count == size + 1


@pytest.mark.timeout(1800 if FULL else 300)
def test_gt_22_a_list_of_many_drafts_is_remembered_whole(short: Site, long: Site, count: Count) -> None:
    for site in (short, long):
        with site.ws() as ws:
            assert {draft.ulid for draft in ws.drafts.list()} == set(pending(site))
    assert count.of(long, lambda ws: ws.drafts.list()) == count.of(short, lambda ws: ws.drafts.list()) <= 10


def costs(site: Site, count: Count) -> list[int]:
    """What the second of two approvals reads, and what comes after it."""
    first, second, third, *_ = pending(site)
    with site.ws() as ws:
        ws.approvals.approve(first)
    steps: list[Callable[[Workspace], object]] = [
        lambda ws: ws.approvals.approve(second),
        lambda ws: ws.verification.verify(),
        lambda ws: ws.approvals.get(second),
        lambda ws: ws.drafts.get(third),
        lambda ws: ws.approvals.revoke(second, "no longer"),
    ]
    return [count.of(site, step) for step in steps]


@pytest.mark.timeout(1800 if FULL else 300)
def test_gt_22_a_decision_costs_the_same_after_many_others(short: Site, long: Site, count: Count) -> None:
    """The first approval also finds out once what the drafts since the last decision are."""
    few, many = costs(short, count), costs(long, count)
    assert all(large <= small + 10 for small, large in zip(few, many, strict=True)), (few, many)
    assert max(many) < 150


@pytest.mark.timeout(1800 if FULL else 300)
def test_gt_22_only_what_is_new_is_verified(long: Site, count: Count) -> None:
    with long.ws() as ws:
        ws.gate()
        state = ws.memory().folder
    ledger = state.parent / "ledger-before"
    shutil.copytree(state, ledger)
    news = 3
    for ulid in pending(long)[-news:]:
        with long.ws() as ws:
            ws.approvals.approve(ulid)
    shutil.rmtree(state)
    ledger.rename(state)
    new, again = (count.of(long, lambda ws: ws.verification.verify()) for _ in range(2))
    assert 2 * news < new < 60 * news
    assert again <= 10
    with long.ws() as ws:
        assert ws.verification.verify().ok
