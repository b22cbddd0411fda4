"""Use cases of the rules themselves: the policy and the plan, each changed by a signed commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from opsctl import planfile, policyfile
from opsctl.errors import OpsError
from opsctl.gitobject import Entry
from opsctl.message import subject as first_line
from opsctl.models import Decision, Policy
from opsctl.planfile import PLAN_PATH, Plan
from opsctl.policyfile import POLICY_PATH, SIGNERS_PATH
from opsctl.treediff import lookup
from opsctl.workspace.approvals import Approvals
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.decisions import Decided, Decisions, decision_trailers
from opsctl.workspace.desk import Desk

_FILES = {"plan": (PLAN_PATH,), "policy": (POLICY_PATH, SIGNERS_PATH)}
_EPOCH = re.compile(rb"^epoch\s*=\s*\d+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change of the policy that nobody has signed yet: the policies and the exact files, before and after."""

    before: Policy
    after: Policy
    file: bytes
    data: bytes

    @property
    def is_change(self) -> bool:
        """False when nothing but the epoch differed."""
        return self.data != self.file

    @property
    def freezes(self) -> bool:
        """True when no command could change the policy after this: it would need more signatures than one."""
        return self.is_change and self.after.highest_threshold > 1


class Governing:
    """`ws.governing`: the policy and the plan, which land alike."""

    def __init__(self, base: Base, desk: Desk, decisions: Decisions, approvals: Approvals) -> None:
        self._base = base
        self._desk = desk
        self._decisions = decisions
        self._approvals = approvals

    def policy(self) -> tuple[Policy, bytes]:
        """The policy in force and the exact bytes of its file."""
        gate = self._desk.now.require_gate()
        return gate.policy, self._file(gate, POLICY_PATH) or b""

    def plan(self) -> tuple[Plan, bytes]:
        """The active plan. Raises `no_plan`."""
        data = self._file(self._desk.now.require_gate(), PLAN_PATH)
        if data is None:
            raise OpsError("no_plan", "there is no plan", hint="opsctl plan set FILE")
        return planfile.parse(data), data

    def set_plan(self, data: bytes, *, reason: str | None = None) -> tuple[Plan, Decision | None]:
        """Sign a new plan; None when it is the one in force. Raises `bad_plan`."""
        plan = self._checked_plan(data)
        return plan, self._change("plan", f"plan: {plan.title}", {PLAN_PATH: data}, reason)

    def _checked_plan(self, data: bytes) -> Plan:
        plan = planfile.parse(data)
        for task in plan.tasks:
            if task.approved_id and not self._desk.is_approved(task.approved_id.removeprefix("a_")):
                hint = "`opsctl list --status approved` shows what is"
                raise OpsError(
                    "bad_plan", f"task {task.id} points at {task.approved_id}, which is not approved", hint=hint
                )
        return plan

    def propose_policy(self, data: bytes) -> Proposal:
        """What `sign_policy` would sign: the file with its epoch raised. Raises `bad_policy`, `below_threshold`."""
        now, file = self.policy()
        if _EPOCH.sub(b"epoch = 0", data) == _EPOCH.sub(b"epoch = 0", file):
            return Proposal(now, now, file, file)
        data = _EPOCH.sub(b"epoch = %d" % (now.epoch + 1), data)
        policy = policyfile.parse(data)
        if now.highest_threshold > 1:
            hint = "opsctl cannot collect these signatures yet; that comes with a later release"
            message = f"a change of this policy needs {now.highest_threshold} signatures"
            raise OpsError("below_threshold", message, hint=hint)
        return Proposal(now, policy, file, data)

    def sign_policy(self, proposal: Proposal, *, reason: str | None = None) -> Decision | None:
        """Sign what was proposed; None when it changes nothing. Raises `stale_revision` if another policy landed."""
        if not proposal.is_change:
            return None
        policy = proposal.after
        files = {POLICY_PATH: proposal.data, SIGNERS_PATH: policyfile.allowed_signers(policy)}
        return self._change("policy", f"policy: epoch {policy.epoch}", files, reason, instead_of=proposal.before)

    def set_policy(self, data: bytes, *, reason: str | None = None) -> tuple[Policy, Decision | None]:
        """Propose and sign in one step: the policy then in force, and the decision if there is one."""
        proposal = self.propose_policy(data)
        return proposal.after, self.sign_policy(proposal, reason=reason)

    def _file(self, gate: Gate, path: str) -> bytes | None:
        entry = lookup(self._base.repo, gate.standing.tree, path)
        return self._base.repo.blob(entry.oid) if entry else None

    def _change(
        self,
        kind: str,
        subject: str,
        files: dict[str, bytes],
        reason: str | None,
        instead_of: Policy | None = None,
    ) -> Decision | None:
        """Sign files of `ops/approved`; `instead_of` is the policy that the change was made from."""
        seen: dict[str, Entry | None] = {}

        def make(gate: Gate) -> Decided | None:
            found = {path: lookup(self._base.repo, gate.standing.tree, path) for path in files}
            if (seen and seen != found) or (instead_of and gate.policy.digest != instead_of.digest):
                hint = f"look at it and set yours again: opsctl {kind} show"
                raise OpsError("stale_revision", f"the {kind} was changed meanwhile", hint=hint)
            seen.update(found)
            edits = {path: self._base.store.file(data) for path, data in files.items()}
            if all(found[path] == entry for path, entry in edits.items()):
                return None
            return Decided(self._payload(gate, kind, subject, edits, reason))

        return self._decisions.decide(make)

    def _payload(
        self, gate: Gate, kind: str, subject: str, edits: Mapping[str, Entry | None], reason: str | None
    ) -> bytes:
        trailers = decision_trailers(kind, gate, self._approvals.me(gate)) | {"Ops-Reason": reason or ""}
        if kind == "policy":
            trailers["Ops-Epoch"] = str(gate.policy.epoch + 1)
        store = self._base.store
        tree = store.edit_tree(gate.standing.tree, edits)
        return store.payload(tree=tree, parents=(gate.tip,), subject=subject, trailers=trailers, who=self._base.who)

    def again(self, gate: Gate, kind: str, commit: str, reason: str | None) -> bytes | None:
        """The unsigned commit that makes a change of the plan or policy once more, on another line than its own.

        None when that line has it. Raises `diverged` where what it replaced is not in force there: then a person has
        to look at what is.
        """
        repo = self._base.repo
        made = repo.commit(commit)
        trees = (gate.standing.tree, made.tree, repo.commit(made.parents[0]).tree)
        now, wanted, before = ({path: lookup(repo, tree, path) for path in _FILES[kind]} for tree in trees)
        if now == wanted:
            return None
        if now != before:
            hint = f"look at it and set yours again: opsctl {kind} show"
            raise OpsError("diverged", f"the {kind} was changed on both sides", hint=hint)
        if kind == "plan" and (entry := wanted[PLAN_PATH]):
            self._checked_plan(repo.blob(entry.oid))
        return self._payload(gate, kind, first_line(made.message), wanted, reason)
