"""Which commits approve which item, by the verified chain as it stands now: what notes may stand on."""

from __future__ import annotations

from opsctl.errors import OpsError
from opsctl.ledger import Ledger
from opsctl.store import APPROVED
from opsctl.workspace.base import Base


class Chain:
    """The approvals of `ops/approved`. While the gate is closed: those that were verified before."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._seen: str | None = None
        self._verified: tuple[Ledger, int] | None = None

    def tip(self) -> str:
        """Up to which commit the chain is verified; empty where nothing is."""
        ledger, upto = self._now()
        return ledger.commit_at(upto) if upto >= 0 else ""

    def approves(self, commit: str) -> tuple[str, str] | None:
        """The item and the digest that a commit of the chain approves; None for anything else."""
        ledger, upto = self._now()
        decision = ledger.decision(commit, upto)
        if decision is None or decision.kind != "approve":
            return None
        return decision.ulid or "", decision.digest or ""

    def since(self, tip: str) -> list[str]:
        """The approvals past a commit of the chain; all of them where that is none."""
        ledger, upto = self._now()
        place = ledger.position(tip)
        return ledger.approvals(-1 if place is None else place, upto)

    def _now(self) -> tuple[Ledger, int]:
        tip = self._base.repo.ref(APPROVED)
        if self._verified is None or tip != self._seen:
            self._verified, self._seen = self._read(), tip
        return self._verified

    def _read(self) -> tuple[Ledger, int]:
        try:
            scratch = self._base.gate().scratch
        except OpsError as fault:
            if fault.kind != "integrity" and fault.code != "no_gate":
                raise
            ledger = self._base.history().ledger
            return ledger, ledger.count - 1
        return scratch.ledger, scratch.upto
