"""The terms of a run: what the approved bytes and the policy allow, narrowed by what was asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from opsctl.errors import OpsError
from opsctl.models import Document, Policy, Run, Target, utc
from opsctl.risk import matches
from opsctl.runrecord import ACTIVE

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_AHEAD = timedelta(minutes=5)
"""How far ahead a confirmation may lie: a clock was put right; one from further on says nothing about its age."""

TIMEOUT_S = 3600
"""Seconds that a run may take where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the one who starts a run asks for. None: whatever the approved file says."""

    executor: str | None = None
    runner: str | None = None
    at_base: bool = False
    as_draft: bool = False
    sandbox: bool | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """How one run is carried out. `timeout_s` is in seconds; `network` only where file and policy both allow it."""

    executor: str
    runner: str | None
    timeout_s: int
    network: bool
    target: Target


def terms(document: Document, policy: Policy, wish: Wish, *, default_runner: str | None) -> Terms:
    """The terms under which an approved document may be run. Raises `wider_than_approved`, `usage`."""
    run = document.run
    executor = _narrowed("executor", run.executor, wish.executor)
    runner = _narrowed("runner", run.runner, wish.runner)
    if executor is None and (runner or default_runner):
        executor = "exec"
    if executor is None:
        hint = "--runner NAME (opsctl runner list), --executor claim (an agent takes it) or provider (a model)"
        raise OpsError("usage", "the approved file names no executor, and no runner is the default one here", hint=hint)
    if executor != "provider" and wish.as_draft:
        hint = "--executor provider, or leave --as-draft out"
        raise OpsError("usage", f"the executor {executor} has no answer that could be filed as a draft", hint=hint)
    if executor != "exec" and wish.runner:
        raise OpsError("usage", f"the executor {executor} has no runner", hint="leave --runner out")
    return Terms(
        executor=executor,
        runner=(runner or default_runner) if executor == "exec" else None,
        timeout_s=run.timeout_s or TIMEOUT_S,
        network=bool(run.network) and policy.allow_network,
        target=document.target,
    )


def _narrowed(name: str, approved: str | None, asked: str | None) -> str | None:
    if approved and asked and approved != asked:
        message = f"the approved file says {name} = {approved!r}, not {asked!r}"
        raise OpsError("wider_than_approved", message, hint=f"leave --{name} out, or have another draft approved")
    return approved or asked


def is_within(path: str, globs: Sequence[str]) -> bool:
    """True for a path that the target names; a target that names none is the whole repository."""
    return not globs or any(matches(glob, path) for glob in globs)


def check_time(document: Document, now: datetime) -> None:
    """Refuse an item whose time is over. Raises `expired`."""
    last = document.run.not_after
    if last and now > datetime.fromisoformat(last):
        raise OpsError("expired", f"the approved file allows no run after {last}", hint="have a new draft approved")


def check_fresh(policy: Policy, confirmed: datetime | None, now: datetime) -> None:
    """Refuse where the policy wants a tip that a remote confirmed lately. Raises `stale_tip`."""
    longest = policy.max_staleness
    if not longest:
        return
    limit = timedelta(seconds=int(longest[:-1]) * _SECONDS[longest[-1]])
    if confirmed and -_AHEAD <= now - confirmed <= limit:
        return
    last = f"last at {utc(confirmed)}" if confirmed else "never"
    message = f"a remote must have confirmed what is approved within {longest}; it did {last}"
    raise OpsError("stale_tip", message, hint="opsctl sync")


def check_count(document: Document, made: int) -> None:
    """Refuse an item that was run as often as it may be. Raises `used_up`."""
    most = document.run.max_runs
    if most is not None and made >= most:
        message = f"the approved file allows {most} run{'s' * (most > 1)}, and {made} were made"
        raise OpsError(
            "used_up",
            message,
            hint=f"opsctl runs list shows them; file it again: opsctl draft --from d_{document.ulid}",
        )


def check_active(document: Document, runs: list[Run]) -> None:
    """Refuse where the item has as many unfinished runs as it may have at once. Raises `run_active`."""
    active = [run for run in runs if run.status in ACTIVE]
    if len(active) >= (document.run.parallel or 1):
        first = active[0]
        hint = f"opsctl runs show r_{first.ulid}; opsctl runs cancel r_{first.ulid} ends it"
        message = f"a_{document.ulid} has a run that is {first.status}: r_{first.ulid}"
        raise OpsError("run_active", message, hint=hint, detail={"run": f"r_{first.ulid}"})
