"""What every use case stands on: the open repository, the verified gate, who acts, and the signing key."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from opsctl import ids
from opsctl.config import Memory, Pin, Pins, Places, Seen, is_root
from opsctl.errors import OpsError
from opsctl.git import command
from opsctl.git.repo import Repo
from opsctl.history import BrokenHistory, History, Progress, Scratch
from opsctl.leases import Uptime, uptime
from opsctl.ledger import Ledger
from opsctl.models import Policy
from opsctl.standing import Standing
from opsctl.store import APPROVED, Store

if TYPE_CHECKING:
    from ulid import ULIDGenerator

    from opsctl.git.signing import Signer

_LOCK_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Gate:
    """The verified state of `ops/approved`: what is in force, and the ledger up to there."""

    standing: Standing
    scratch: Scratch
    count: int

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.standing.policy

    @property
    def tip(self) -> str:
        """The verified tip."""
        return self.standing.tip


class Base:
    """One repository, opened for one command or request. Nothing is read before it is asked for."""

    def __init__(
        self,
        path: Path,
        *,
        environ: Mapping[str, str],
        now: Callable[[], datetime],
        interactive: bool = False,
        progress: Progress | None = None,
        waiting: Callable[[str], None] | None = None,
        key: str | None = None,
        uptime: Uptime = uptime,
    ) -> None:
        self.path = path
        self.environ = environ
        self.now = now
        self.uptime = uptime
        self.interactive = interactive
        self.progress = progress
        self.repo = Repo(path)
        wait_s = _seconds(environ, "OPSCTL_LOCK_WAIT", _LOCK_WAIT_S)
        self.store = Store(self.repo, now=now, lock_wait_s=wait_s, waiting=waiting)
        self.places = Places.of(environ)
        self.pins = Pins(self.places)
        self.chosen_key = os.path.abspath(command.expanded(key, environ)) if key else None
        self._closing = contextlib.ExitStack()
        self._histories: dict[str, History] = {}
        self.forgetful: str | None = None
        """Why the newest verified tip could not be remembered: a way back from it would not be noticed."""

    def close(self) -> None:
        """End what the command started, such as a private agent."""
        self._closing.close()

    def __enter__(self) -> Base:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _generator(self) -> ULIDGenerator:
        from ulid import LaxMonotonicPolicy, ULIDGenerator  # reading must not pay for it

        return ULIDGenerator(clock=lambda: int(self.now().timestamp() * 1000), policy=LaxMonotonicPolicy())

    def new_ulid(self) -> str:
        """A new ULID, later than every earlier one of this process. Raises `bad_input` where no id holds the time."""
        try:
            ulid = str(self._generator.generate())
        except (ValueError, OverflowError):
            ulid = ""
        if not ids.is_ulid(ulid):
            raise OpsError("bad_input", "the clock of this machine shows a time that no id can hold", hint="date")
        return ulid

    # -- who acts -----------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Sequence[command.Setting]:
        """Git's configuration."""
        return command.settings(self.repo.git_dir, self.path if self.path.is_dir() else Path("/"), self.environ)

    def setting(self, key: str) -> str | None:
        """The last value of a git setting, from any scope."""
        return next((setting.value for setting in reversed(self.settings) if setting.key == key), None)

    @property
    def editor(self) -> str | None:
        """`core.editor` of the user's own configuration; a repository must not choose a program."""
        own = [one.value for one in self.settings if one.key == "core.editor" and one.is_own]
        return own[-1] if own else None

    @cached_property
    def who(self) -> tuple[str, str]:
        """Name and address of the person who acts, as git knows them, else as the policy names the signing key."""
        name, email = self.setting("user.name"), self.setting("user.email")
        if name and email:
            return name, email
        with contextlib.suppress(OpsError):
            owner = self.gate().policy.owners.get(self.signer.key.line)
            if owner:
                return name or owner.name, email or owner.email
        raise no_identity(name, email)

    @cached_property
    def signer(self) -> Signer:
        """The signing key. Raises `no_signing_key`."""
        from opsctl.git import signing  # reading must not pay for it

        pin = self.pins.find(self.repo.common)
        chosen = self.chosen_key or self.environ.get("OPSCTL_SIGNING_KEY") or (pin.key if pin else None)
        identity = signing.identity(chosen, self.settings, self.path, self.environ)
        signer = signing.Signer(identity, self.settings, self.environ, interactive=self.interactive)
        return self._closing.enter_context(signer)

    def choose_key(self, path: str) -> None:
        """Sign with this key file from now on."""
        self.chosen_key = path
        self.__dict__.pop("signer", None)

    # -- the gate -----------------------------------------------------------------------------------------------

    @property
    def pin(self) -> Pin | None:
        """The pin of this clone; `OPSCTL_TRUST_ROOT` counts only where there is none."""
        pin = self.pins.find(self.repo.common)
        root = self.environ.get("OPSCTL_TRUST_ROOT", "")
        if root and not is_root(root):
            hint = "give the 40 hex digits of the root commit, or unset it and use `opsctl trust`"
            raise OpsError("bad_config", f"OPSCTL_TRUST_ROOT is {root[:60]!a}", hint=hint)
        return pin or (Pin(os.fspath(self.repo.common), root) if root else None)

    def root(self) -> str:
        """The pinned root. Raises `no_gate` or `no_trust`."""
        pin = self.pin
        if pin:
            return pin.root
        cloned = any(name.endswith("/ops/approved") for name in self.repo.refs("refs/remotes/"))
        if self.repo.ref(APPROVED) is None and not cloned:
            hint = "`opsctl init` sets the gate up; in a clone of a repository that has one: `opsctl trust`"
            raise OpsError("no_gate", "this repository has no gate yet", hint=hint)
        hint = "`opsctl trust` shows the root's key fingerprint and pins it"
        raise OpsError("no_trust", "no root commit is pinned for this clone", hint=hint)

    def history(self, root: str | None = None) -> History:
        """The history from the pinned root, with what is remembered of it."""
        root = root or self.root()
        if root not in self._histories:
            memory = self.places.memory(root, self.repo.common)
            ledger = Ledger(memory / "ledger.sqlite", root)
            self._histories[root] = History(self.repo, ledger, root, common=self.repo.common)
        return self._histories[root]

    def memory(self, root: str | None = None) -> Memory:
        """The high-water mark of this clone."""
        return Memory(self.places.memory(root or self.root(), self.repo.common))

    def gate(self) -> Gate:
        """Verify `ops/approved` and return what is in force.

        Raises `no_gate`, `no_trust`, `bad_history`, `history_incomplete`, `rolled_back`. The mark is read before the
        tip, so a decision that another process adds meanwhile is never taken for a way back.
        """
        root = self.root()
        memory = self.memory(root)
        mark = memory.load()
        tip = self.repo.ref(APPROVED)
        if tip is None:
            raise _gone(mark)
        try:
            standing, scratch = self.history(root).verify(tip, progress=self.progress)
        except BrokenHistory as broken:
            raise bad_history(broken, mark.tip if mark else None) from None
        count = scratch.upto + 1
        if mark and mark.root == root and not self._contains(scratch, mark):
            if self._moves_on(tip):
                return self.gate()
            raise _rolled_back(mark, tip)
        if mark is None or mark.tip != tip:
            new = replace(mark, tip=tip, count=count, moving_to=None) if mark else Seen(root, tip, count)
            try:
                memory.raise_to(new)
            except OpsError as error:  # whoever cannot remember can still read; `verify` says that it is so
                if error.code != "disk":
                    raise
                self.forgetful = error.message
        return Gate(standing, scratch, count)

    def _moves_on(self, tip: str) -> bool:
        """True if the branch is elsewhere a moment later: one read across a pack-refs is no way back."""
        for _ in range(10):
            time.sleep(0.02)
            if self.repo.ref(APPROVED) != tip:
                return True
        return False

    def _contains(self, scratch: Scratch, mark: Seen) -> bool:
        """True if the marked tip (or the one that a sync was moving to) is on the first-parent chain."""
        places = [scratch.ledger.position(tip) for tip in (mark.tip, mark.moving_to) if tip]
        return any(place is not None and place <= scratch.upto for place in places)


def no_identity(name: str | None, email: str | None) -> OpsError:
    """The error for a person whose name or address git does not know: what is missing, and how to set just that."""
    missing = {"user.name": '"Your Name"'} if not name else {}
    missing |= {"user.email": "you@example.com"} if not email else {}
    hint = " && ".join(f"git config --global {key} {value}" for key, value in missing.items())
    return OpsError("no_identity", f"git knows no {' and no '.join(missing)}", hint=hint)


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise OpsError("bad_config", f"{name}={text!a} is not a number of seconds from 0 to 3600")
    return value


def _gone(mark: Seen | None) -> OpsError:
    if mark is None:
        hint = "`opsctl trust` fetches it from the remote; `opsctl init` makes a new one"
        return OpsError("no_gate", "the branch ops/approved is missing", hint=hint)
    hint = f"bring it back: git update-ref {APPROVED} {mark.tip}"
    return OpsError("rolled_back", f"ops/approved is gone; this machine verified {mark.tip}", hint=hint)


def _rolled_back(mark: Seen, tip: str) -> OpsError:
    return OpsError(
        "rolled_back",
        f"ops/approved is at {tip[:12]}, which does not contain {mark.tip[:12]} that was verified here before",
        hint="`opsctl doctor` shows both and the command that returns to the verified one",
        detail={"tip": tip, "seen": mark.tip, "good": mark.tip},
    )


def bad_history(broken: BrokenHistory, seen: str | None = None) -> OpsError:
    """The error that closes the gate: commit, what is wrong, and the key if there was one."""
    finding = broken.finding
    code = "history_incomplete" if finding.rule == "history" else "bad_history"
    where = f"commit {finding.commit[:12]}: " if finding.commit else ""
    key = f" (key {finding.fingerprint})" if finding.fingerprint else ""
    hint = "`opsctl verify` names the rule; `opsctl doctor` the last good tip and the way back to it"
    if finding.rule == "root":
        hint = "if the pin is wrong: `opsctl trust` shows the root that is here and pins it"
    return OpsError(
        code,
        f"{where}{finding.message}{key if finding.fingerprint and finding.fingerprint not in finding.message else ''}",
        hint=hint,
        detail={"finding": finding, "good": broken.good or seen},
    )
