"""Judging ahead: helper processes apply the trust rule to parts of a long chain, and this one confirms what they say.

The rule is a function of a commit, its objects, the policy before it, and the ledger's answers. A helper knows the
chain, but not what other parts merged or approved, so its ledger may say no where the truth is yes. It reports every
no, and the policy it judged by. Only what agrees with this process, which goes commit by commit, is taken; where a
helper found a fault, did not answer, or is gone, the commit is judged here. So no verdict depends on helpers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from opsctl.ledger import from_row
from opsctl.standing import Judgement, Ledger, Standing

MOST = 4
"""Helpers; each takes the memory of a small command."""

PART = 250
"""Commits that a helper judges in one go."""

_START = (
    "import json, sys; a, b = sys.stdin; sys.path = json.loads(a); from opsctl.helper import main; main(json.loads(b))"
)
_TAKEN = frozenset({"approve", "revoke", "plan"})
"""What leaves the policy as it is; the rest is judged here."""


class Crew:
    """Helpers for one chain, from its root. A context: none of them outlives it."""

    def __init__(self, common: Path, chain: Sequence[str]) -> None:
        self._task = {"common": os.fspath(common), "chain": chain, "part": PART}
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._part = -1
        self._rows: list[dict[str, Any] | None] = []

    def __enter__(self) -> Crew:
        count = min(_cores(), MOST)
        if count > 1 and sys.executable and not hasattr(sys, "frozen"):
            try:
                for index in range(count):
                    self._start(self._task | {"index": index, "count": count})
            except OSError:  # no memory, no processes: then without them
                self._end()
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self, task: Mapping[str, object]) -> None:
        """One more helper, which imports what this process imports, whatever the environment says."""
        command, pipe = [sys.executable, "-I", "-c", _START], subprocess.PIPE
        self._helpers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL))
        with self._helpers[-1].stdin or nullcontext() as stdin:
            if stdin:
                stdin.write(f"{json.dumps(sys.path)}\n{json.dumps(task)}\n".encode())

    def _end(self) -> None:
        for helper in self._helpers:
            helper.kill()
        for helper in self._helpers:
            with helper.stdout or nullcontext():
                helper.wait()
        self._helpers = []

    def judgement(self, place: int, before: Standing, ledger: Ledger) -> Judgement | None:
        """What a helper found of the commit at a place of the chain, if it agrees with what is known here."""
        if not self._helpers or place == 0:
            return None
        part, offset = divmod(place - 1, PART)
        if part != self._part:
            self._part, self._rows = part, self._answer(part)
        row = self._rows[offset] if offset < len(self._rows) else None
        if row is None or row["policy"] != before.policy.digest or row["decision"]["kind"] not in _TAKEN:
            return None
        if any(map(ledger.reachable, row["unreached"])) or any(map(ledger.decided, row["undecided"])):
            return None
        decision = from_row(row["decision"])
        after = Standing(before.root, decision.commit, row["tree"], before.policy)
        return Judgement(decision, after, tuple(row["topic"]))

    def _answer(self, part: int) -> list[dict[str, Any] | None]:
        """The rows of a part; none when its helper is gone, for then the line is missing or cut off."""
        stdout = self._helpers[part % len(self._helpers)].stdout
        try:
            return list(json.loads(stdout.readline() if stdout else b""))
        except ValueError:
            return []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
