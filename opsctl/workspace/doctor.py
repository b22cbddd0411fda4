"""Use cases `doctor` and `status`: what is wrong with this clone, machine and gate, and how to get out of it."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from opsctl import __version__, ids
from opsctl.errors import OpsError
from opsctl.executors.sandbox import available
from opsctl.git import command, lock, remote
from opsctl.git.repo import library_versions
from opsctl.gitobject import Entry
from opsctl.store import APPROVED, DRAFTS, TOPICS
from opsctl.treediff import files, lookup
from opsctl.workspace.base import Base
from opsctl.workspace.desk import Desk
from opsctl.workspace.union import refuse_unreadable
from opsctl.workspace.working import Staged, WorkingSide

_SHADOWS = ("refs/{}", "refs/tags/{}", "refs/{}/HEAD")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `level` is ok, note or problem; `hint` the command that helps."""

    level: str
    name: str
    message: str
    hint: str | None = None


class Doctor:
    """`ws.doctor`."""

    def __init__(self, base: Base, desk: Desk, working: WorkingSide) -> None:
        self._base = base
        self._desk = desk
        self._working = working
        self._repo = base.repo

    def examine(self, *, fix: bool = False) -> list[Check]:
        """Look at everything; with `fix` mend what can be mended without deciding anything for a person."""
        parts = [self._versions, self._sandbox, self._locks, self._refs, self._gate]
        found = [check for part in parts for check in self._guarded(part, fix)]
        closed = any(check.name == "gate" and check.level == "problem" for check in found)
        parts = [] if closed else [self._drift, self._topics, self._policy, self._objects]
        found += [check for part in parts for check in self._guarded(part, fix)]
        return [*found, *self._guarded(self._leftovers, fix), *self._guarded(self._remotes, fix)]

    def _guarded(self, part: Callable[[bool], Iterator[Check]], fix: bool) -> list[Check]:
        try:
            return list(part(fix))
        except OpsError as error:
            return [Check("problem", part.__name__.strip("_"), error.message, _onward(error.hint))]

    def _versions(self, _: bool) -> Iterator[Check]:
        git = self._first_line("git", "--version")
        ssh = self._first_line("ssh", "-V")
        libraries = ", ".join(f"{name} {found}" for name, found in library_versions().items())
        words = f"opsctl {__version__}, Python {platform.python_version()}, {git}, {ssh}, {libraries}"
        yield Check("ok", "versions", words)

    def _sandbox(self, _: bool) -> Iterator[Check]:
        found = available(self._base.environ.get("PATH"))
        if found:
            yield Check(
                "ok", "sandbox", f"{found} works: programs of runs see no network, no keys, no other folder to write"
            )
            return
        hint = "install bubblewrap (Linux), and allow unprivileged user namespaces"
        yield Check("note", "sandbox", "none works here: the program of a run can do whatever you can do", hint)

    def _locks(self, fix: bool) -> Iterator[Check]:
        found = [path for path in lock.ref_locks(self._repo.common) if lock.is_stale(self._repo.common, path)]
        if found and fix:
            with self._base.store.lock():
                for path in lock.clear_ref_locks(self._repo.common):
                    yield Check("note", "locks", f"removed the stale lock {path}")
        elif found:
            yield Check("problem", "locks", f"{len(found)} stale lock files, such as {found[0]}", "opsctl doctor --fix")
        for name, place in self._repo.checked_out((APPROVED, DRAFTS)):
            hint = "git switch - (in that work tree)"
            yield Check("problem", "checked out", f"{name} is checked out at {place}; nothing can be written", hint)

    def _refs(self, _: bool) -> Iterator[Check]:
        replaced = self._repo.refs("refs/replace/")
        if replaced:
            hint = "git replace -d …; opsctl ignores them, plain git does not"
            yield Check("problem", "replace", f"{len(replaced)} replace refs can make git show other content", hint)
        for name in ("shallow", "info/grafts"):
            if (self._repo.common / name).exists():
                yield Check("note", "history", f"{name} cuts the history of this clone", "git fetch --unshallow")
        for ref in self._repo.symbolic_refs("refs/heads/ops/"):
            hint = f"git symbolic-ref -d {shlex.quote(ref)}"
            yield Check("problem", "symbolic", f"{ref} is symbolic; only direct refs count", hint)
        for short in ("ops/approved", "ops/drafts"):
            for form in _SHADOWS:
                shadow = form.format(short)
                if self._repo.ref(shadow) is not None:
                    hint = f"git update-ref -d {shadow}"
                    yield Check("problem", "shadowed", f"{shadow} hides the branch {short} from plain git", hint)

    def _gate(self, _: bool) -> Iterator[Check]:
        try:
            gate = self._desk.refresh().require_gate()
        except OpsError as error:
            yield Check("problem", "gate", f"closed: {error.message}", _onward(error.hint))
            yield from self._way_back(error)
            return
        by = "pin" if self._base.pins.find(self._repo.common) else "OPSCTL_TRUST_ROOT"
        message = f"open: {gate.count} commits verified, root {gate.standing.root[:12]} ({by}), tip {gate.tip[:12]}"
        yield Check("ok", "gate", message)

    def _way_back(self, error: OpsError) -> Iterator[Check]:
        """The last good tip, by the trust rule or by what was seen, and the command that returns to it."""
        if error.kind != "integrity":
            return
        mark, good, now = self._base.memory().load(), error.detail.get("good"), self._repo.ref(APPROVED) or ""
        target = mark.tip if mark and (error.code == "rolled_back" or not good) else str(good or "")
        ledger = self._base.history().ledger
        if mark and good and (place := ledger.position(mark.tip)) is not None:
            target = mark.tip if place >= (ledger.position(str(good)) or 0) else str(good)
        if target and self._repo.exists(target):
            hint = f"git update-ref {APPROVED} {target} {now}".strip()
            yield Check("problem", "last good tip", f"{target} (now: {now[:12] or 'none'})", hint)
        elif target:
            known = (one.commit for one in ledger.decisions(ledger.count - 1) if self._repo.exists(one.commit))
            rest = next((f"; the newest that is: {commit}" for commit in known), "")
            message = f"{target} is not in this clone any more{rest}"
            yield Check("problem", "last good tip", message, "opsctl sync, or a backup")

    def _drift(self, fix: bool) -> Iterator[Check]:
        if self._repo.ref(DRAFTS) is None and not fix:
            yield Check("problem", "drafts", "the branch ops/drafts is missing", "opsctl doctor --fix")
            return
        fault = self._unreadable()
        if fault and not fix:
            yield Check("problem", "drafts", f"ops/drafts cannot be read: {fault}", "opsctl doctor --fix")
            return
        if fault:
            old = self._repo.ref(DRAFTS)
            count = self._working.rebuild()
            said = f"ops/drafts ({old[:12]}) could not be read" if old else "ops/drafts was missing"
            yield Check("note", "drafts", f"{said}: made anew with {count} drafts from their topics")
        if fix:
            self._working.catch_up()
        drift = self._desk.refresh().drift
        if drift and fix:
            self._working.change(self._undrifted)
            for path, what in drift.items():
                yield Check("note", "drift", f"{path} {what}: put back as it was decided")
            return
        for path, what in list(drift.items())[:20]:
            yield Check("problem", "drift", f"{path} on ops/drafts {what}", "opsctl doctor --fix")

    def _unreadable(self) -> str | None:
        """What keeps `ops/drafts` from being read: it is missing, or was made by no honest program."""
        drafts = self._repo.ref(DRAFTS)
        if drafts is None:
            return "it is missing"
        try:
            gate = self._desk.refresh().require_gate()
            refuse_unreadable(self._repo, command.Git(self._repo.common, self._base.environ), gate.tip, drafts)
        except OpsError as error:
            if error.code != "not_adopted":
                raise
            return error.message.partition(": ")[2]
        return None

    def _undrifted(self) -> Staged | None:
        state = self._desk.now
        tree = state.require_gate().standing.tree
        edits: dict[str, Entry | None] = {path: lookup(self._repo, tree, path) for path in state.drift}
        if not edits:
            return None
        drafts = self._working.commit(edits, (state.drafts,), "merge: undo drift", {"Ops-Kind": "merge"})
        return Staged(drafts, None, None, "opsctl: doctor")

    def _topics(self, fix: bool) -> Iterator[Check]:
        if self._repo.ref(DRAFTS) is None:
            return
        pending = self._desk.now.pending
        for ref in self._repo.refs(TOPICS):
            if ref.removeprefix(TOPICS) not in pending:
                if fix:
                    with self._base.store.lock():
                        self._base.store.move(ref, self._repo.ref(ref), None, "opsctl: doctor")
                yield Check(
                    "note", "topics", f"{ref} belongs to no pending draft", None if fix else "opsctl doctor --fix"
                )
        for ulid in pending:
            told = self._desk.story(ulid)
            if told.fault:
                hint = "its next edit or approval cuts it again, and its votes start anew"
                yield Check("note", "topics", f"the topic of d_{ulid} is not usable: {told.fault}", hint)

    def _policy(self, _: bool) -> Iterator[Check]:
        policy = self._desk.now.require_gate().policy
        approvers = [who.name for who in policy.principals if "approver" in who.roles]
        words = f"epoch {policy.epoch}, {policy.threshold} of {len(approvers)} approvers ({', '.join(approvers)})"
        yield Check("ok", "policy", words)
        if policy.highest_threshold > 1:
            said = (
                f"a change of the policy needs {policy.highest_threshold} signatures; no command can collect them yet"
            )
            hint = "drafts are approved as before; a later release brings the votes on a policy"
            yield Check("note", "policy", said, hint)
        try:
            key = self._base.signer.key
        except OpsError as error:
            yield Check("note", "your key", f"{error.message}; you cannot approve here", error.hint)
            return
        owner = policy.owners.get(key.line)
        if owner is None:
            yield Check("note", "your key", f"{key.fingerprint} belongs to no principal", "opsctl policy show")
            return
        yield Check("ok", "your key", f"{key.fingerprint}: {owner.name} ({', '.join(sorted(owner.roles))})")
        if not key.is_hardware and not policy.require_presence:
            hint = "a hardware key (ssh-keygen -t ed25519-sk) and require_presence = true end that"
            yield Check("note", "touch", "this key works without a touch: whatever runs as you can sign with it", hint)

    def _objects(self, _: bool) -> Iterator[Check]:
        state = self._desk.now
        bad = 0
        for tip in filter(None, (state.require_gate().tip, state.drafts_tip)):
            for path, entry in files(self._repo, self._repo.commit(tip).tree, limit=1_000_000, depth=4).items():
                if entry.is_folder:
                    continue  # deeper than any file of the gate lies; nobody opens it
                try:
                    self._repo.blob(entry.oid)
                except OpsError as error:
                    bad += 1
                    name = ids.ulid_of_path(path) or path
                    yield Check("problem", "objects", f"{name}: {error.message}", "fetch it again, or restore a backup")
        if not bad:
            yield Check("ok", "objects", "every file of both branches can be read")

    def _leftovers(self, _: bool) -> Iterator[Check]:
        objects = self._repo.common / "objects"
        found = [path for form in ("*/tmp_obj*", "pack/tmp_*", "tmp_obj*") for path in objects.glob(form)]
        if found:
            yield Check("note", "leftovers", f"{len(found)} temporary object files of interrupted writes", "git gc")

    def _remotes(self, _: bool) -> Iterator[Check]:
        try:
            where = remote.choose(self._base.settings, None)
        except OpsError as error:
            if error.code == "unsafe_remote":
                yield Check("problem", "remote", error.message, error.hint)
            return
        folder = remote.is_local(where)
        if folder:
            value = self._first_line("git", "-C", os.fspath(folder), "config", "receive.denyNonFastForwards")
            if value != "true":
                hint = f"git -C {shlex.quote(str(folder))} config receive.denyNonFastForwards true"
                yield Check("note", "remote", f"{where.name} lets a push rewrite its branches", hint)
        hint = "where the remote can: protect ops/approved and ops/drafts from forced pushes and deletion"
        yield Check(
            "note",
            "remote",
            f"whoever may push to {where.name} can put commits on its ops branches; clones refuse them",
            hint,
        )

    def _first_line(self, name: str, *arguments: str) -> str:
        """What a program says first."""
        argv = [command.program(name, self._base.environ), *arguments]
        env = command.environment(self._base.environ)
        try:
            done = subprocess.run(argv, capture_output=True, timeout=5, env=env, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return f"{argv[0]} does not answer"
        lines = (done.stdout or done.stderr).decode("utf-8", "replace").splitlines()
        return lines[0].strip() if lines else ""


def _onward(hint: str | None) -> str | None:
    """The hint of an error, for one who has come to the doctor already."""
    if hint is None or "opsctl doctor" not in hint or "--fix" in hint:
        return hint
    return "opsctl verify names the rule that is broken"
