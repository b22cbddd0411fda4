"""What is remembered of a history while another process replaces it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Site

from opsctl.errors import OpsError
from opsctl.ledger import Ledger
from opsctl.models import Decision, Signer
from opsctl.standing import Judgement, Standing

ROOT = "0" * 40


def _judged(standing: Standing, letter: str) -> Judgement:
    signer, at = Signer("alice", "SHA256:x"), datetime(2026, 1, 1, tzinfo=UTC)
    return Judgement(Decision(letter * 40, "plan", 1, signer, at, "plan: p"), standing)


def test_cc_05_a_history_that_is_replaced_before_the_write_begins_is_never_built_on(site: Site, tmp_path: Path) -> None:
    with site.ws() as ws:
        standing = ws.gate().standing
    ours, theirs = (Ledger(tmp_path / "ledger.sqlite", ROOT) for _ in range(2))
    ours.append(0, [_judged(standing, "a"), _judged(standing, "b")], after=None)

    def replace(statement: str) -> None:
        if statement.startswith("BEGIN"):
            ours._database.set_trace_callback(None)
            theirs.append(1, [_judged(standing, "c")], after="a" * 40)

    ours._database.set_trace_callback(replace)
    with pytest.raises(OpsError) as refused:
        ours.append(2, [_judged(standing, "d")], after="b" * 40)
    assert refused.value.code == "ref_conflict"
    assert [ours.commit_at(place)[0] for place in range(ours.count)] == ["a", "c"]
