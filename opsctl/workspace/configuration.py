"""Use case `config show`: what opsctl goes by here, and where each value comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from opsctl.errors import OpsError
from opsctl.workspace.base import Base

_OF_GIT = ("user.", "gpg.", "opsctl.")
"""The settings of git's that matter here."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value in force."""

    name: str
    value: str
    origin: str


def read(base: Base) -> list[Value]:
    """Every value in force."""
    rows = [
        Value("repository", str(base.repo.common), "-C or the current folder"),
        Value("config_home", str(base.places.config), "XDG_CONFIG_HOME or HOME"),
        Value("state_home", str(base.places.state), "XDG_STATE_HOME or HOME"),
        _variable(base, "lock_wait_s", "OPSCTL_LOCK_WAIT", "10"),
        _variable(base, "sign_timeout_s", "OPSCTL_SIGN_TIMEOUT", "90 at a terminal, else 5"),
        *_trust(base),
        _key(base),
    ]
    found = [one for one in base.settings if one.key.startswith(_OF_GIT)]
    return rows + [Value(one.key, one.value, f"{one.scope} {one.origin}") for one in found]


def _variable(base: Base, name: str, variable: str, default: str) -> Value:
    value = base.environ.get(variable)
    return Value(name, value, variable) if value else Value(name, default, "default")


def _trust(base: Base) -> Iterator[Value]:
    pin = base.pin
    if pin:
        is_pinned = base.pins.find(base.repo.common) is not None
        yield Value("trust_root", pin.root, str(base.pins.path) if is_pinned else "OPSCTL_TRUST_ROOT")


def _key(base: Base) -> Value:
    try:
        identity = base.signer.identity
    except OpsError as error:
        return Value("signing_key", "none", error.message)
    return Value("signing_key", identity.key.fingerprint, identity.source)
