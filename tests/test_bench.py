"""The bench runs and says what it should; how fast anything is does not matter here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALL = {"create", "approve", "list", "verify", "gate", "approver", "cli", "version"} | {
    "run-event",
    "run-page",
    "run-exec",
}
TINY = ("--sizes", "12,30", "--repeat", "1")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The bench as a person starts it."""
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's runs keep what they build."""
    return tmp_path_factory.mktemp("kept")


def test_prints_a_table_of_every_case(kept: Path) -> None:
    done = bench(*TINY, "--keep", str(kept))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("case "))
    rows = [line for line in lines[head + 2 :] if line]
    assert {row.split()[0] for row in rows} == ALL
    assert all("met" in row or "MISSED" in row for row in rows if "<=" in row or ">=" in row)
    assert sum("<=" in row or ">=" in row for row in rows) >= len(ALL)


def test_prints_json_and_leaves_only_what_it_keeps(kept: Path) -> None:
    done = bench(*TINY, "--only", "gate", "--only", "list", "--json", "--keep", str(kept))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["name"] for row in found["rows"]} == {"gate", "list"}
    for row in found["rows"]:
        assert row["ours"]["wall_s"] > 0
        assert row["ours"]["runs"] >= 1
        assert isinstance(row["met"], bool) == bool(row["target"])
    assert not [path for path in kept.iterdir() if path.name.startswith("run-")]


def test_a_built_repository_is_sound_and_always_the_same(kept: Path, tmp_path: Path) -> None:
    tips = []
    for keep in (kept, tmp_path):
        done = bench("--sizes", "30", "--repeat", "1", "--only", "gate", "--keep", str(keep))
        assert done.returncode == 0, done.stderr
        (path,) = keep.glob("v*-30-200/repo")
        git = ["git", "-c", f"safe.directory={path}", "-C", str(path)]
        subprocess.run([*git, "fsck", "--strict", "--no-dangling"], check=True, capture_output=True)
        refs = subprocess.run([*git, "for-each-ref"], check=True, capture_output=True, text=True).stdout
        assert len(refs.splitlines()) == 2 + 200
        tips.append(refs)
    assert tips[0] == tips[1]


def test_refuses_a_size_that_is_none() -> None:
    assert bench("--sizes", "0").returncode == 2
    assert os.fspath(ROOT) not in bench("--help").stdout
