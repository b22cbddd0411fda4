"""A helper process of `ahead`: judges every so many parts of a chain, and says for each commit what that rests on."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsctl.errors import OpsError
from opsctl.git.repo import Repo
from opsctl.ledger import as_row
from opsctl.policy import judge
from opsctl.standing import Judgement, standing_at
from opsctl.violation import Violation


class Guess:
    """The ledger as far as a helper knows it. Every yes is true; every no is noted."""

    def __init__(self, places: Mapping[str, int]) -> None:
        self._places = places
        self._merged: set[str] = set()
        self._approved: set[str | None] = set()
        self.at(0)

    def at(self, place: int) -> None:
        """Go on to the commit at a place of the chain."""
        self._place = place
        self.unreached: list[str] = []
        self.undecided: list[str] = []

    def reachable(self, oid: str) -> bool:
        """True if the commit is on the chain before this place, or was merged in this part."""
        found = self._places.get(oid, self._place) < self._place or oid in self._merged
        if not found:
            self.unreached.append(oid)
        return found

    def decided(self, ulid: str) -> bool:
        """True if the id was approved in this part."""
        found = ulid in self._approved
        if not found:
            self.undecided.append(ulid)
        return found

    def take(self, judgement: Judgement) -> None:
        """Count a judged commit in."""
        self._merged.update(judgement.topic)
        self._approved.add(judgement.decision.ulid if judgement.decision.kind == "approve" else None)


def main(task: Mapping[str, Any]) -> None:
    """Judge each part that is this helper's, and print its rows on one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    repo, chain, size = Repo(Path(task["common"])), task["chain"], task["part"]
    places = {oid: place for place, oid in enumerate(chain)}
    for start in range(1 + task["index"] * size, len(chain), task["count"] * size):
        part = range(start, min(start + size, len(chain)))
        sys.stdout.write(json.dumps(list(_judged(repo, chain, places, part))) + "\n")
        sys.stdout.flush()


def _judged(repo: Repo, chain: Sequence[str], places: Mapping[str, int], part: range) -> Iterator[object]:
    """A row for each commit; None for one that does not pass here."""
    guess, before = Guess(places), None
    for place in part:
        guess.at(place)
        try:
            before = before or standing_at(chain[0], chain[place - 1], repo)
            judgement = judge(chain[place], repo.commit(chain[place]), before, repo, guess)
        except (Violation, OpsError):
            before = None
            yield None
            continue
        rests_on = {"policy": before.policy.digest, "unreached": guess.unreached, "undecided": guess.undecided}
        before = judgement.standing
        yield rests_on | {"tree": before.tree, "topic": judgement.topic, "decision": as_row(judgement.decision)}
        guess.take(judgement)
