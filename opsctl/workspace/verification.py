"""Use case `verify`: the trust rule over the whole history, told as findings instead of as an error."""

from __future__ import annotations

from dataclasses import dataclass

from opsctl.errors import OpsError
from opsctl.models import Finding
from opsctl.store import APPROVED
from opsctl.treediff import files
from opsctl.workspace.again import Kept
from opsctl.workspace.base import Base


@dataclass(frozen=True, slots=True)
class Report:
    """What verification found. `commits` and `approved` are counts; `trusted_by` says where the root came from."""

    ok: bool
    root: str
    tip: str
    commits: int
    approved: int
    findings: tuple[Finding, ...]
    notices: tuple[str, ...]
    trusted_by: str

    def as_json(self) -> dict[str, object]:
        """The report as `--json` prints it."""
        rows = [{name: getattr(finding, name) for name in Finding.__slots__} for finding in self.findings]
        return {
            "ok": self.ok,
            "root": self.root,
            "tip": self.tip,
            "commits": self.commits,
            "approved": self.approved,
            "findings": rows,
            "notices": list(self.notices),
            "trusted_by": self.trusted_by,
        }


class Verification:
    """`ws.verification`."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._repo = base.repo

    def verify(self, *, deep: bool = False) -> Report:
        """Verify; `deep` forgets what was remembered and reads every object. Raises `no_trust`, `no_gate`."""
        root = self._base.root()
        ledger = self._base.history(root).ledger
        if deep:
            ledger.forget()
        findings: list[Finding] = []
        try:
            gate = self._base.gate()
            commits, approved = gate.count, ledger.live(gate.scratch.upto)
            findings += self._damaged(gate.standing.tree) if deep else []
        except OpsError as error:
            if error.kind != "integrity":
                raise
            findings.append(_finding(error))
            commits, approved = ledger.count, ledger.live(ledger.count - 1)
        tip = self._repo.ref(APPROVED) or ""
        by = "pin" if self._base.pins.find(self._repo.common) else "OPSCTL_TRUST_ROOT"
        return Report(not findings, root, tip, commits, approved, tuple(findings), tuple(self._notices(commits)), by)

    def _damaged(self, tree: str) -> list[Finding]:
        """Read every file of the approved tree."""
        found = []
        for path, entry in files(self._repo, tree).items():
            try:
                self._repo.blob(entry.oid)
            except OpsError as error:
                found.append(Finding(None, "object", f"{path}: {error.message}"))
        return found

    def _notices(self, commits: int) -> list[str]:
        revoked = Kept(self._base.memory()).revoked()
        waiting = [f"a_{ulid} is revoked: that waits to be signed again by {revoked[ulid].signer}" for ulid in revoked]
        if self._base.forgetful:
            said = "a way back from this tip would not be noticed"
            waiting.append(f"nothing is remembered: {self._base.forgetful}; {said}")
        ahead = [mark.count for mark in self._base.memory().neighbours() if mark.count > commits]
        if not ahead:
            return waiting
        more = f"another clone on this machine has seen {max(ahead) - commits} more decisions"
        return [*waiting, f"behind: {more}; `opsctl sync`"]


def _finding(error: OpsError) -> Finding:
    finding = error.detail.get("finding")
    if isinstance(finding, Finding):
        return finding
    return Finding(None, "rollback" if error.code == "rolled_back" else error.code, error.message)
