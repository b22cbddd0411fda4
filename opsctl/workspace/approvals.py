"""Use cases of deciding on items: approve (or vote, below the threshold) and revoke. A person stands behind each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opsctl import ids, secretscan, text
from opsctl.errors import OpsError
from opsctl.models import Approved, Decision, Document, Draft
from opsctl.quorum import Need, Quorum
from opsctl.topic import Topic
from opsctl.violation import Violation
from opsctl.workspace import story
from opsctl.workspace.base import Base, Gate
from opsctl.workspace.decisions import Decided, Decisions, already, decision_trailers
from opsctl.workspace.desk import Desk
from opsctl.workspace.drafts import Drafts, check_expected
from opsctl.workspace.topics import Topics
from opsctl.workspace.working import Staged, WorkingSide


@dataclass(frozen=True, slots=True)
class Tally:
    """How far an approval is: who counts, how many are needed, who may still sign."""

    have: tuple[str, ...]
    needed: int
    waiting_for: tuple[str, ...]
    why: tuple[str, ...] = ()
    """The rules that ask for more than is there."""

    def __str__(self) -> str:
        because = f" ({'; '.join(self.why)})" if self.why else ""
        return f"{len(self.have)} of {self.needed}{because}"


def reasons(needs: Iterable[Need], document: Document) -> tuple[str, ...]:
    """Each rule that asks, once."""
    return tuple(dict.fromkeys(filter(None, (need.reason(document) for need in needs))))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `approve` did: the approved item, or the tally below the threshold; `already` if nothing was left to do."""

    ulid: str
    digest: str
    item: Approved | None
    tally: Tally | None
    already: bool


class Approvals:
    """`ws.approvals`."""

    def __init__(
        self, base: Base, desk: Desk, topics: Topics, working: WorkingSide, decisions: Decisions, drafts: Drafts
    ) -> None:
        self._base = base
        self._desk = desk
        self._topics = topics
        self._working = working
        self._decisions = decisions
        self._drafts = drafts
        self._repo = base.repo

    def get(self, ulid: str) -> tuple[Approved, bytes]:
        """An approved item and its exact bytes, verified now."""
        return self._desk.approved(ulid)

    def log(self, ulid: str | None = None) -> list[Decision]:
        """Decisions, newest first; of one item only, if it is given."""
        gate = self._desk.now.require_gate()
        return list(self._desk.now.ledger.decisions(gate.scratch.upto, ulid=ulid))

    def approve(
        self,
        ulid: str,
        *,
        expect: str | None = None,
        allow_chars: frozenset[int] = frozenset(),
        allow_secrets: frozenset[str] = frozenset(),
    ) -> Outcome:
        """Approve one revision: merge it, or leave a signed vote where the policy wants more people.

        Raises `stale_revision`, `already_decided`, `hidden_characters`, `secret_found`, `role`, `no_signing_key`.
        """
        outcome: Outcome | None = None
        extra = {"Ops-Allowed-Chars": text.format_allowed(allow_chars)}

        def make(gate: Gate) -> Decided | None:
            nonlocal outcome
            draft = self._desk.draft(ulid)
            if draft.status == "draft" and draft.error:
                hint = f"mend it with `opsctl edit d_{ulid}`, or reject it"
                raise OpsError("bad_document", draft.error, hint=hint)
            check_expected(draft, expect)
            outcome = self._decided_before(draft)
            if outcome:
                return None
            self._check_text(draft, allow_chars, allow_secrets)
            tip = self._topics.tip_of(ulid, self._desk.pending_entry(ulid))
            outcome = self._short_of(draft, tip, gate)
            if outcome:
                return None
            allowed = {"Ops-Allowed-Secrets": " ".join(sorted(allow_secrets))}
            return Decided(self._merge_payload(draft, tip, gate, extra | allowed), draft.path)

        self._decisions.decide(make)
        if outcome and outcome.tally and not outcome.already:
            self._vote(ulid, outcome.digest)
        if outcome:
            if outcome.item:
                self._topics.drop(ulid)
            return outcome
        item, _ = self._desk.on_the_line(ulid)
        return Outcome(ulid, item.decision.digest or "", item, None, already=False)

    def _decided_before(self, draft: Draft) -> Outcome | None:
        if draft.status == "draft":
            return None
        if draft.status == "approved":
            item, _ = self._desk.approved(draft.ulid)
            return Outcome(draft.ulid, draft.digest, item, None, already=True)
        said = {"rejected": "was rejected", "error": "failed and holds no text to approve"}.get(
            draft.status, "was revoked"
        )
        again = f"file it again: opsctl draft --from d_{draft.ulid}"
        hint = "ask again: opsctl generate" if draft.status == "error" else again
        raise already(f"d_{draft.ulid} {said}; it cannot be approved", hint)

    def me(self, gate: Gate) -> str:
        """The principal whose key signs here. Raises `role` when the policy does not know the key."""
        key = self._base.signer.key
        owner = gate.policy.owners.get(key.line)
        if owner is None:
            hint = "`opsctl policy show` lists the keys; user.signingkey (or --key) chooses yours"
            raise OpsError("role", f"your key {key.fingerprint} belongs to no principal of the policy", hint=hint)
        return owner.name

    def _short_of(self, draft: Draft, tip: str, gate: Gate) -> Outcome | None:
        """The outcome when my signature would not be enough, or was given before; None when a merge is due."""
        me, members = self.me(gate), self._members(draft, tip, gate)
        quorum = Quorum.for_document(gate.policy, draft.document)
        yes, no = quorum.count(members, story.ballot(gate.standing, draft.ulid, draft.digest))
        if gate.policy.reject == "block" and no - {me}:
            hint = f"talk to them, or edit the draft: `opsctl edit d_{draft.ulid}` starts the votes anew"
            raise OpsError("vote_blocked", f"{', '.join(sorted(no - {me}))} voted against this revision", hint=hint)
        if not any(me in need.eligible for need in quorum.needs):
            raise OpsError("role", f"{me} may not approve this", hint="`opsctl policy show` says who may")
        authors = self.authors(quorum, members, draft)
        if me in authors:
            hint = "the policy has separation_of_duties: another approver has to sign"
            raise OpsError("role", f"{me} wrote this draft and does not count as its approver", hint=hint)
        counted = (set(yes) | {me}) - authors
        missing = quorum.missing(counted)
        if not missing:
            return None
        waiting = sorted({name for need in missing for name in need.eligible} - counted - authors)
        needed = max(need.threshold for need in missing)
        tally = Tally(tuple(sorted(counted)), needed, tuple(waiting), reasons(missing, draft.document))
        return Outcome(draft.ulid, draft.digest, None, tally, already=me in yes)

    def authors(self, quorum: Quorum, members: Topic, draft: Draft) -> set[str]:
        """Who wrote a draft and does not count. Raises `bad_signature` where that is not proven."""
        try:
            return quorum.authors(members)
        except Violation as fault:
            hint = f"file it again under your name: opsctl draft --from d_{draft.ulid}, then reject this one"
            raise OpsError("bad_signature", f"separation of duties: {fault.message}", hint=hint) from None

    def _members(self, draft: Draft, tip: str, gate: Gate) -> Topic:
        told = story.read(self._repo, tip, draft.path, gate.scratch.reachable)
        if told.fault or not told.members:
            hint = f"`opsctl doctor --fix` cuts the topic of d_{draft.ulid} again"
            raise OpsError("bad_history", f"the draft's topic breaks the rule: {told.fault}", hint=hint)
        return told.members

    def _check_text(self, draft: Draft, allow_chars: frozenset[int], allow_secrets: frozenset[str]) -> None:
        """Refuse text that cannot be read for what it is. The digest is of the file, so the whole file is judged."""
        content = self._repo.blob(draft.blob).decode()
        self._check_hidden(draft, content, allow_chars)
        allowed = allow_secrets | self._desk.story(draft.ulid).allowed_secrets()
        secrets = [secret for secret in secretscan.find(content) if secret.fingerprint not in allowed]
        if secrets:
            first = secrets[0]
            hint = f"edit it out; if it is none: --allow-secret {first.fingerprint}"
            raise OpsError("secret_found", f"line {first.line} looks like a secret ({first.kind})", hint=hint)

    def _check_hidden(self, draft: Draft, content: str, allowed: frozenset[int]) -> None:
        found = text.refused(content, allowed)
        shown = {char.codepoint for char in found}
        for value in _values(draft.document):
            found += [char for char in text.refused(value, allowed) if char.codepoint not in shown]
        if not found:
            return
        labels = list(dict.fromkeys(char.label for char in found))
        tags = [char for char in found if text.is_tag(char.codepoint)]
        if tags:
            hint = f"tag characters are never allowed; they spell {text.decoded_tags(content)!a}"
        else:
            hint = "see them with `opsctl show`; if they belong there: " + " ".join(
                f"--allow-char {one}" for one in labels
            )
        first = found[0]
        message = (
            f"{len(found)} hidden characters ({', '.join(labels[:8])}), the first in line {first.line} ({first.name})"
        )
        raise OpsError("hidden_characters", message, hint=hint, detail={"characters": labels})

    def _merge_payload(self, draft: Draft, tip: str, gate: Gate, extra: dict[str, str]) -> bytes:
        store, entry = self._base.store, self._desk.pending_entry(draft.ulid)
        trailers = decision_trailers("approve", gate, self.me(gate)) | {
            "Ops-Id": draft.ulid,
            "Ops-Digest": draft.digest,
        }
        return store.payload(
            tree=store.edit_tree(gate.standing.tree, {draft.path: entry}),
            parents=(gate.tip, tip),
            subject=f"approve: {draft.document.title}",
            trailers=trailers | {name: value for name, value in extra.items() if value},
            who=self._base.who,
        )

    def _vote(self, ulid: str, digest: str) -> None:
        """Leave my signed yes on the topic, and merge it into `ops/drafts` so that no vote lives in a ref alone."""

        def build() -> Staged:
            draft = self._drafts.require_pending(ulid, "approved")
            check_expected(draft, digest)
            gate, entry = self._desk.now.require_gate(), self._desk.pending_entry(ulid)
            tip = self._topics.tip_of(ulid, entry)
            ballot = story.ballot(gate.standing, ulid, digest).trailers()
            trailers = ballot | {"Ops-Vote": "approve", "Ops-Signer": self.me(gate), "Ops-Seen": gate.tip}
            title = draft.document.title
            payload = self._base.store.payload(
                tree=self._repo.commit(tip).tree,
                parents=(tip,),
                subject=f"vote: approve {title}",
                trailers=trailers,
                who=self._base.who,
            )
            vote = self._base.store.stage_commit(payload, self._base.signer.sign(payload))
            merge = {"Ops-Kind": "vote", "Ops-Id": ulid}
            return Staged(self._working.merge_topic(vote, ulid, entry, title, merge), ulid, vote, "opsctl: vote")

        self._working.change(build, signs=True)

    def revoke(self, ulid: str, reason: str) -> tuple[Decision, bool]:
        """Take an approved item out of use, signed. Returns the decision and whether it is new."""
        if not reason.strip():
            raise OpsError("bad_input", "a reason is needed", hint="opsctl revoke ID --reason TEXT")
        before: Decision | None = None

        def make(gate: Gate) -> Decided | None:
            nonlocal before
            before = self._desk.last_decision(ulid)
            if before is None or before.kind == "revoke":
                return None
            before = None
            item, _ = self._desk.on_the_line(ulid)
            return Decided(self.revocation(gate, item.document, item.decision.digest or "", reason))

        decision = self._decisions.decide(make)
        if decision:
            return decision, True
        if before is None:
            hint = f"reject it instead: opsctl reject d_{ulid}"
            raise OpsError("not_approved", f"d_{ulid} is not approved, so it cannot be revoked", hint=hint)
        return before, False

    def revocation(self, gate: Gate, document: Document, digest: str, reason: str) -> bytes:
        """The unsigned commit that takes an item out of use."""
        ulid, store = document.ulid, self._base.store
        trailers = decision_trailers("revoke", gate, self.me(gate)) | {"Ops-Id": ulid, "Ops-Reason": reason}
        return store.payload(
            tree=store.edit_tree(gate.standing.tree, {ids.path_of(ulid): None}),
            parents=(gate.tip,),
            subject=f"revoke: {document.title}",
            trailers=trailers | {"Ops-Digest": digest},
            who=self._base.who,
        )


def _values(document: Document) -> list[str]:
    """The text values of the front matter, where escapes may hide what the file's text does not show."""
    values = [document.title, document.request or "", document.provider or "", document.model or ""]
    values.append(document.target.branch or "")
    return [*values, *document.context.values(), *document.target.paths]
