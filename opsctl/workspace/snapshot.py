"""Both branches at one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from opsctl.errors import OpsError
from opsctl.gitobject import Entry
from opsctl.ledger import Ledger
from opsctl.workspace.base import Gate


@dataclass(eq=False)
class Snapshot:
    """Both branches at one moment. `gate` is None while the gate is closed; then `fault` says why.

    The working side is looked at only when it is asked for: whatever is wrong there keeps nobody from what is approved.
    """

    gate: Gate | None
    fault: OpsError | None
    ledger: Ledger
    reachable: Callable[[str], bool]
    drafts_tip: str | None
    sort_out: Callable[[str], tuple[dict[str, Entry], dict[str, str]]]

    def require_gate(self) -> Gate:
        """The gate, or the fault that closes it."""
        if self.gate is None:
            raise self.fault or OpsError("bad_history", "the gate is closed")
        return self.gate

    @property
    def drafts(self) -> str:
        """The tip of `ops/drafts`. Raises what closes the gate, if anything, else `no_gate`, when it is missing."""
        if self.drafts_tip is None:
            raise self.fault or no_drafts()
        return self.drafts_tip

    @cached_property
    def _sorted(self) -> tuple[dict[str, Entry], dict[str, str]]:
        return self.sort_out(self.drafts)

    @property
    def pending(self) -> dict[str, Entry]:
        """Files of pending drafts by id, oldest first."""
        return self._sorted[0]

    @property
    def drift(self) -> dict[str, str]:
        """Paths below `ops/` that are no drafts, and what is wrong with them."""
        return self._sorted[1]


def no_drafts() -> OpsError:
    """The error for a missing working side."""
    hint = "`opsctl doctor --fix` makes it anew from ops/approved and the topics"
    return OpsError("no_gate", "the branch ops/drafts is missing", hint=hint)
