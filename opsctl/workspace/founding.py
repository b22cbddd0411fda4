"""Use cases at the beginning: `init` makes a gate, `trust` pins the root of one that came with a clone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from opsctl import ids, policyfile, text
from opsctl.config import Seen
from opsctl.errors import OpsError
from opsctl.git import remote as remotes
from opsctl.git import signing
from opsctl.git.command import Git
from opsctl.gitobject import MalformedObject
from opsctl.history import BrokenHistory
from opsctl.models import Policy
from opsctl.notes import ARCHIVE, RUNS
from opsctl.policy import judge_root
from opsctl.policyfile import POLICY_PATH, SIGNERS_PATH
from opsctl.sshkey import PublicKey
from opsctl.standing import Judgement
from opsctl.store import APPROVED, DRAFTS, NOTES, TOPICS
from opsctl.treediff import lookup
from opsctl.violation import Violation
from opsctl.workspace.base import Base, bad_history, no_identity
from opsctl.workspace.mirror import Mirror
from opsctl.workspace.union import is_record, refuse_unreadable

_MOST_TOPICS = 2000
"""Topics that `trust` makes refs for; those are a cache, and of the others `ops/drafts` says where they are."""


@dataclass(frozen=True, slots=True)
class Founded:
    """A gate's root: who signed it, with which key, under which first policy."""

    root: str
    principal: str
    fingerprint: str
    policy: Policy
    is_new: bool


class Founding:
    """`ws.founding`."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._repo = base.repo

    def init(self, *, name: str | None, email: str | None, audience: str | None, generate_key: bool) -> Founded:
        """Make root commit, branches and pin. Running it again changes nothing and finishes what a crash left.

        Raises `no_signing_key`, `no_identity`, `ref_conflict`, `no_trust` (a gate is there but not trusted here).
        """
        tip = self._repo.ref(APPROVED)
        if tip is not None:
            return self._again(tip)
        self._refuse_conflicts()
        who = self._person(name, email)
        if generate_key:
            self._generate(who)
        root = self._stage_root(who, audience)  # signed before the lock: where that fails nothing was written
        with self._base.store.lock():
            before = self._repo.ref(APPROVED)
            if before is None:
                self._repo.flush()
                # pinned first: a pin without a branch is repaired by running init again, a branch without one is not
                self._pin(root)
                self._base.store.move(APPROVED, None, root, "opsctl: init")
                self._base.store.move(DRAFTS, None, root, "opsctl: init")
        if before is not None:
            return self._again(before)
        judgement = self.judged_root(root)
        self._base.memory(root).raise_to(Seen(root, root, 1))
        return _founded(judgement, is_new=True)

    def _again(self, tip: str) -> Founded:
        """The gate that is there; `ops/drafts` is made if a crash came before it."""
        pin = self._base.pin
        if pin is None:
            hint = "look at the root's key with `opsctl trust`"
            raise OpsError("no_trust", "this repository has a gate already, not yet trusted here", hint=hint)
        if self._repo.ref(DRAFTS) is None and not self._repo.refs("refs/remotes/"):
            with self._base.store.lock():
                self._base.store.move(DRAFTS, None, tip, "opsctl: init")
        return _founded(self.judged_root(pin.root), is_new=False)

    def _refuse_conflicts(self) -> None:
        for name in ("refs/heads/ops", "refs/ops", "refs/notes/ops"):
            if self._repo.ref(name) is not None:
                short = name.removeprefix("refs/heads/")
                hint = (
                    f"rename it first: git branch -m {short} {short}-old"
                    if "heads" in name
                    else f"git update-ref -d {name}"
                )
                raise OpsError("ref_conflict", f"the ref {name} is in the way of the gate's own names", hint=hint)
        if self._repo.ref(DRAFTS) is not None:
            hint = "rename it first: git branch -m ops/drafts old-drafts"
            raise OpsError("ref_conflict", "a branch ops/drafts is there already, without ops/approved", hint=hint)
        remote = [name for name in self._repo.refs("refs/remotes/") if name.endswith("/ops/approved")]
        if remote:
            raise OpsError("ref_conflict", f"the remote has a gate: {remote[0]}", hint="use `opsctl trust` in a clone")

    def _person(self, name: str | None, email: str | None) -> tuple[str, str]:
        name = name or self._base.setting("user.name")
        email = email or self._base.setting("user.email")
        if not name or not email:
            raise no_identity(name, email)
        self._base.who = (name, email)
        return name, email

    def _generate(self, who: tuple[str, str]) -> None:
        path = self._base.places.config / "signing_key"
        made = signing.generate(path, who[1], self._base.environ, interactive=self._base.interactive)
        self._base.choose_key(str(made))

    def _stage_root(self, who: tuple[str, str], audience: str | None) -> str:
        store, key = self._base.store, self._key()
        principal = principal_name(*who)
        data = policyfile.first_policy(
            name=principal, email=who[1], key=key.line, audience=audience or self._folder_name()
        )
        policy = policyfile.parse(data)
        signers = policyfile.allowed_signers(policy)
        payload = store.payload(
            tree=store.edit_tree(None, {POLICY_PATH: store.file(data), SIGNERS_PATH: store.file(signers)}),
            parents=(),
            subject=f"init: gate of {policy.audience}",
            trailers={"Ops-Kind": "init", "Ops-Epoch": "1", "Ops-Signer": principal},
            who=who,
        )
        oid = store.stage_commit(payload, self._base.signer.sign(payload))
        self.judged_root(oid)
        return oid

    def _key(self) -> PublicKey:
        """The key of a new gate; where none is chosen the error names those that are in ~/.ssh.

        The repository must not choose it: whoever made the archive has that key.
        """
        try:
            chosen = self._base.signer.identity
        except OpsError as error:
            found = signing.keys_at_home(self._base.environ)
            if error.code == "no_signing_key" and found and not self._base.chosen_key:
                more = f" (or {', '.join(found[1:4])})" if len(found) > 1 else ""
                error.hint = f"opsctl init --key {found[0]}{more}"
            raise
        if not chosen.is_own:
            message = f"the repository's own configuration names the signing key {chosen.key.fingerprint}"
            hint = "if it is yours: opsctl init --key FILE; or git config --global user.signingkey FILE"
            raise OpsError("no_signing_key", message, cause=chosen.source, hint=hint)
        return chosen.key

    def _folder_name(self) -> str:
        common = self._repo.common
        return text.one_line((common if self._repo.is_bare else common.parent).name, 80)

    def _pin(self, root: str) -> None:
        self._base.pins.set(self._repo.common, root, self._base.chosen_key)

    def judged_root(self, root: str) -> Judgement:
        """The root, judged by the rule. Raises `bad_history`."""
        try:
            return judge_root(root, self._repo.commit(root), self._repo)
        except (Violation, MalformedObject) as fault:
            raise OpsError("bad_history", f"{root[:12]} is not the root of a gate: {fault}") from None

    # -- a clone ------------------------------------------------------------------------------------------------

    def candidate(self, root: str | None, name: str | None) -> Candidate:
        """What could be trusted here: fetched where only the remote has it, and verified from its root.

        Raises `no_gate`, `trust_mismatch`, `bad_history`, `remote_failed`.
        """
        tips = self._tips(name)
        approved = tips.get(APPROVED)
        if approved is None:
            hint = "`opsctl init` makes one; or name the remote that has one"
            raise OpsError("no_gate", "neither this repository nor its remote has a gate", hint=hint)
        found = self._find_root(approved)
        if root is not None and root.lower() != found:
            hint = "ask who gave you the root, by another way than this repository"
            raise OpsError("trust_mismatch", f"the root is {found}, not the {root[:80]!a} that you named", hint=hint)
        judgement = self.judged_root(found)
        try:
            _, scratch = self._base.history(found).verify(approved, progress=self._base.progress, keep=False)
        except BrokenHistory as broken:
            raise bad_history(broken) from None
        count = scratch.upto + 1 + len(scratch.chain)
        tips, notice = self._readable(tips)
        return Candidate(_founded(judgement, is_new=True), approved, tips, count, self._pinned(), notice)

    def _readable(self, tips: dict[str, str]) -> tuple[dict[str, str], str | None]:
        """The tips without a working side that could not be read here, and topics only of what that side shows."""
        if self._repo.ref(DRAFTS) is not None:
            return tips, None
        approved, drafts = tips[APPROVED], tips.get(DRAFTS, tips[APPROVED])
        notice = None
        try:
            refuse_unreadable(self._repo, Git(self._repo.common, self._base.environ), approved, drafts)
        except OpsError as error:
            notice, drafts = f"{error.message}; ops/drafts starts anew from ops/approved", approved
        tree = self._repo.commit(drafts).tree
        ulids = (ref.removeprefix(TOPICS) for ref in tips if ref.startswith(TOPICS))
        used = (ulid for ulid in ulids if ids.is_ulid(ulid) and lookup(self._repo, tree, ids.path_of(ulid)))
        kept = {TOPICS + ulid: tips[TOPICS + ulid] for ulid in islice(used, _MOST_TOPICS)}
        kept |= {ref: tips[ref] for ref in (RUNS, ARCHIVE) if ref in tips and is_record(self._repo, None, tips[ref])}
        return kept | {APPROVED: approved, DRAFTS: drafts}, notice

    def _pinned(self) -> str | None:
        pin = self._base.pins.find(self._repo.common)
        return pin.root if pin else None

    def _tips(self, name: str | None) -> dict[str, str]:
        """Branches and topics of the gate: the local ones, else the remote's, else what a plain clone brought."""
        tips = {ref: oid for ref in (APPROVED, DRAFTS) if (oid := self._repo.ref(ref))}
        tips |= self._repo.refs(TOPICS)
        has_remote = any(one.key.startswith("remote.") for one in self._base.settings)
        if APPROVED not in tips and has_remote:
            tips = self._remote_tips(name) | tips
        return tips

    def _remote_tips(self, name: str | None) -> dict[str, str]:
        remote = remotes.choose(self._base.settings, name)
        found: dict[str, str] = {}
        try:
            mirror = Mirror(self._base, remote)
            mirror.fetch()
            found = {ref: oid for ref in (APPROVED, DRAFTS, RUNS, ARCHIVE) if (oid := mirror.ref(ref))}
            found |= {TOPICS + ulid: oid for ulid, oid in mirror.topics.items()}
        except OpsError as error:
            if error.code != "remote_failed":
                raise
            for ref in (APPROVED, DRAFTS):  # offline: what `git clone` brought along
                brought = self._repo.ref(f"refs/remotes/{remote.name}/{ref.removeprefix('refs/heads/')}")
                found |= {ref: brought} if brought else {}
            if not found:
                raise
        return found

    def _find_root(self, tip: str) -> str:
        oid = tip
        try:
            while parents := self._repo.commit(oid).parents:
                oid = parents[0]
        except MalformedObject as error:
            raise OpsError("bad_history", f"commit {oid[:12]}: {error}") from None
        except OpsError as error:
            hint = "fetch the whole history: git fetch --unshallow"
            raise OpsError("history_incomplete", f"history incomplete: {error.message}", hint=hint) from None
        return oid

    def trust(self, candidate: Candidate) -> None:
        """Pin the root for this clone and make the local refs that are missing."""
        drafts = candidate.tips.get(DRAFTS, candidate.approved)
        memory = self._base.memory(candidate.founded.root)
        memory.change(
            lambda now: (
                now or Seen(candidate.founded.root, candidate.approved, candidate.count, published=candidate.approved)
            )
        )
        with self._base.store.lock():
            self._pin(candidate.founded.root)
            for ref, oid in {**candidate.tips, APPROVED: candidate.approved, DRAFTS: drafts}.items():
                if self._repo.ref(ref) is None and ref.startswith(("refs/heads/ops/", TOPICS, NOTES)):
                    self._base.store.move(ref, None, oid, "opsctl: trust")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A gate that verified from its root and could be trusted. `pinned` is the root that is trusted now."""

    founded: Founded
    approved: str
    tips: Mapping[str, str]
    count: int
    pinned: str | None
    notice: str | None = None
    """What of the clone or remote could not be used."""


def principal_name(name: str, email: str) -> str:
    """A name for the policy from a person's: letters, digits and dots; else the address's first part."""
    letters = "".join(one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one))
    plain = re.sub(r"[^A-Za-z0-9._+-]+", ".", letters.strip()).strip(".-+_").lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9._+-]{0,63}", plain):
        plain = re.sub(r"[^a-z0-9]+", ".", email.split("@")[0].lower()).strip(".")
    return plain or "owner"


def _founded(judgement: Judgement, *, is_new: bool) -> Founded:
    signer = judgement.decision.signer
    return Founded(judgement.standing.root, signer.principal, signer.fingerprint, judgement.standing.policy, is_new)
