"""The one error type, and the table of kinds and codes. Imports nothing of the package.

Every refusal is an `OpsError(code, message, hint)`. The code is stable and belongs to exactly one kind; the kind
decides the exit status of the command line. A face maps the kind once and never looks at the text:

    OpsError
      invalid      2   the input is malformed: bad_id, bad_document, hidden_characters
      refused      3   understood and not allowed: not_approved, no_trust, below_threshold, bad_signature
      conflict     4   the state moved or forbids it: stale_revision, already_decided, run_active
      integrity    5   the history or an object cannot be trusted: bad_history, rolled_back, corrupt_object
      environment  6   the machine or the repository is not usable: no_signing_key, lock_busy, disk
      provider     7   a model provider failed
      not_found    8   unknown_id, ambiguous_id
      internal     1   a bug: nothing but a correlation id is shown
"""

from __future__ import annotations

EXIT = {
    "internal": 1,
    "invalid": 2,
    "refused": 3,
    "conflict": 4,
    "integrity": 5,
    "environment": 6,
    "provider": 7,
    "not_found": 8,
}
"""Exit status of the command line for each kind. 130 is for an interrupt, 0 for success."""

CODES: dict[str, tuple[str, str]] = {
    "usage": ("invalid", "the command line does not fit the command"),
    "bad_id": ("invalid", "not an id: ids are d_, a_ or r_ and 26 letters of Crockford's base 32, or a part of them"),
    "bad_document": ("invalid", "the draft's file breaks the format; line or byte is named"),
    "bad_input": ("invalid", "an argument or an input file cannot be used"),
    "bad_policy": ("invalid", "the policy file breaks the format, or its own principals could not satisfy it"),
    "bad_plan": ("invalid", "the plan file breaks the format"),
    "bad_config": ("invalid", "a configuration file of the user cannot be used"),
    "too_large": ("invalid", "the text is larger than 256 KiB"),
    "hidden_characters": ("invalid", "the text has characters that do not show; each must be allowed by name"),
    "secret_found": ("invalid", "the text holds what looks like a secret"),
    "not_approved": ("refused", "only approved items can be used for this"),
    "revoked": ("refused", "the item was approved and then taken out of use"),
    "expired": ("refused", "the approved item says that it may not be run any more"),
    "stale_tip": ("refused", "no remote has confirmed what is approved for longer than the policy allows"),
    "used_up": ("refused", "the item was run as often as it may be"),
    "wider_than_approved": ("refused", "a flag asks for more than the approved file allows"),
    "network_refused": ("refused", "the runner needs a network that the approved file or the policy does not allow"),
    "no_trust": ("refused", "this clone has no pinned root commit"),
    "trust_mismatch": ("refused", "the repository's root commit is not the pinned one"),
    "below_threshold": ("refused", "not enough approvers have signed"),
    "vote_blocked": ("refused", "an approver voted against this revision"),
    "bad_signature": ("refused", "the signature does not count under the policy"),
    "role": ("refused", "the policy gives this key no role for this"),
    "needs_confirmation": ("refused", "it was not confirmed: nobody is at a terminal, or the answer was no"),
    "not_adopted": ("refused", "what the remote offers does not verify, so nothing of it was taken"),
    "unsafe_remote": ("refused", "the remote's address or settings could run a program"),
    "stale_revision": ("conflict", "the draft has another revision than the one named"),
    "expect_required": ("conflict", "the draft had several revisions, and none was named"),
    "already_decided": ("conflict", "the item was decided already, the other way"),
    "ref_conflict": ("conflict", "a branch moved, or a name is in the way; nothing was changed"),
    "not_published": ("conflict", "the remote did not take the push; the decision is kept here"),
    "run_active": ("conflict", "the item has a run that has not ended"),
    "run_ended": ("conflict", "the run has ended; a terminal state never changes"),
    "stale_lease": ("conflict", "the lease is another one's, or its time ran out"),
    "stale_base": ("conflict", "the branch has changed the files that the item is about"),
    "key_reused": ("conflict", "the idempotency key was used for another request"),
    "diverged": ("conflict", "this clone and the remote decided differently"),
    "bad_history": ("integrity", "a commit on ops/approved breaks the trust rule"),
    "history_incomplete": ("integrity", "the history is cut before the pinned root"),
    "rolled_back": ("integrity", "ops/approved no longer contains what this machine verified before"),
    "corrupt_object": ("integrity", "an object of the repository is damaged or missing"),
    "no_signing_key": ("environment", "no usable SSH signing key"),
    "no_identity": ("environment", "git knows no name and e-mail address of yours"),
    "signing_failed": ("environment", "the signing program failed or did not answer"),
    "no_repository": ("environment", "not a git repository"),
    "no_gate": ("environment", "this repository has no ops branches"),
    "unsupported_repository": ("environment", "a repository format that opsctl does not read"),
    "unsafe_owner": ("environment", "the repository belongs to another user"),
    "unsupported_version": ("environment", "a program or library is too old"),
    "lock_busy": ("environment", "another process holds the lock"),
    "checked_out": ("environment", "an ops branch is checked out in a work tree"),
    "disk": ("environment", "the disk is full, read-only or failing"),
    "no_memory": ("environment", "this process may not have as much memory as it needs"),
    "git_failed": ("environment", "git ended with an error"),
    "remote_failed": ("environment", "the remote could not be reached or did not answer in time"),
    "no_runner": ("environment", "no such runner is configured on this machine"),
    "runner_failed": ("environment", "the runner's program could not be started"),
    "no_sandbox": ("environment", "a sandbox is asked for, and this machine has none"),
    "no_provider": ("environment", "no model provider is configured"),
    "no_editor": ("environment", "no editor could be started"),
    "provider_offline": ("provider", "the model provider could not be reached, or did not answer in time"),
    "provider_refused": ("provider", "the model provider refused the request"),
    "provider_garbage": ("provider", "what the model provider answered is no whole answer"),
    "unknown_id": ("not_found", "no item has this id"),
    "ambiguous_id": ("not_found", "more than one item fits this part of an id"),
    "no_plan": ("not_found", "there is no plan"),
    "internal": ("internal", "a bug in opsctl"),
}
"""Every code with its kind and meaning. The reference page of errors is generated from this table."""


class OpsError(Exception):
    """A refusal that a person can act on.

    `code` is a key of `CODES`; `hint` names the next command or step; `cause` is at most one line of the underlying
    fault; `detail` holds machine-readable facts for `--json` (digests, commits), never secrets.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        cause: str | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.kind = CODES[code][0]
        self.message = message
        self.hint = hint
        self.cause = cause
        self.detail = detail or {}

    @property
    def exit_code(self) -> int:
        """Exit status of the command line for this error."""
        return EXIT[self.kind]
