"""`.opsctl/policy.toml` and the `allowed_signers` that follows from it. Pure; bytes in, values out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from opsctl import sshsig, toml
from opsctl.document import EXECUTORS
from opsctl.errors import OpsError
from opsctl.models import Policy, Principal, Rule

POLICY_PATH = ".opsctl/policy.toml"
SIGNERS_PATH = ".opsctl/allowed_signers"
ROLES = ("author", "approver", "policy", "auditor")
LIMIT = 256 * 1024
_HINT = "the policy in force has the form: opsctl policy show --raw"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_STALENESS = re.compile(r"(?:[1-9][0-9]{0,5}[smhdw])?")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(?::[0-9]{1,5})?")
_TOP = {
    "version": int,
    "epoch": int,
    "audience": str,
    "threshold": int,
    "separation_of_duties": bool,
    "reject": str,
    "policy_threshold": int,
    "require_presence": bool,
    "max_staleness": str,
    "allow_network": bool,
    "passkey_origins": list,
    "principal": list,
    "rule": list,
}
_PRINCIPAL = {"name": str, "email": str, "roles": list, "keys": list}
_RULE = {"paths": list, "executors": list, "threshold": int, "approvers": list}


@lru_cache(maxsize=32)
def parse(data: bytes) -> Policy:
    """Read a policy and check that its own principals can satisfy it. Raises `bad_policy`."""
    table = _checked(_toml(data), _TOP, "", required=("version", "epoch", "principal"))
    if table["version"] != 1:
        raise _bad("version must be 1")
    principals = tuple(_principal(row) for row in table["principal"])
    policy = Policy(
        epoch=_positive("epoch", table["epoch"]),
        audience=table.get("audience", ""),
        principals=principals,
        rules=tuple(_rule(row) for row in table.get("rule", [])),
        threshold=_positive("threshold", table.get("threshold", 1)),
        separation_of_duties=table.get("separation_of_duties", False),
        reject=_one_of("reject", table.get("reject", "block"), ("block", "count")),
        policy_threshold=_positive("policy_threshold", table.get("policy_threshold", 1)),
        require_presence=table.get("require_presence", False),
        max_staleness=_matching("max_staleness", table.get("max_staleness", ""), _STALENESS),
        allow_network=table.get("allow_network", False),
        passkey_origins=tuple(_matching("passkey_origins", o, _ORIGIN) for o in table.get("passkey_origins", [])),
        digest="sha256:" + hashlib.sha256(data).hexdigest(),
        owners=_owners(principals),
    )
    _satisfiable(policy)
    return policy


def allowed_signers(policy: Policy) -> bytes:
    """The file by which plain git verifies: one line a key, sorted bytewise, each ended by a newline."""
    rows = [f'{who.name} namespaces="git" {key}\n'.encode() for who in policy.principals for key in who.keys]
    return b"".join(sorted(rows))


def first_policy(*, name: str, email: str, key: str, audience: str) -> bytes:
    """The policy that `init` signs: one principal who approves and governs, with every default written out."""
    return f"""\
version = 1
epoch = 1
audience = {json.dumps(audience, ensure_ascii=False)}
threshold = 1                      # approvers needed, the one who closes included
separation_of_duties = false       # true: who wrote or edited a draft does not count
reject = "block"                   # a vote against blocks; "count": it only does not count
policy_threshold = 1               # signatures that a change of this file needs (or the highest threshold here)
require_presence = false           # true: only hardware keys and passkeys, with a touch, count as approvers
max_staleness = ""                 # e.g. "7d": agents get nothing from a tip not confirmed for longer
allow_network = false              # may an exec run ask for the network
passkey_origins = []               # e.g. ["http://opsctl.localhost:9325"]

[[principal]]
name = {json.dumps(name)}
email = {json.dumps(email, ensure_ascii=False)}
roles = ["approver", "policy"]
keys = ["{key}"]
""".encode()


def _toml(data: bytes) -> Mapping[str, Any]:
    try:
        return toml.read(data, LIMIT)
    except ValueError as error:
        raise _bad(str(error)) from None


def _bad(message: str) -> OpsError:
    return OpsError("bad_policy", f"policy.toml: {message}", hint=_HINT)


def _checked(table: Any, types: Mapping[str, type], prefix: str, *, required: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise _bad(f"{prefix or 'the file'} must be a table")
    for key, value in table.items():
        if key not in types:
            raise _bad(f"unknown key {prefix}{key[:60]!r}")
        if type(value) is not types[key]:
            raise _bad(f"{prefix}{key} must be {types[key].__name__}")
        if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f]", value):
            raise _bad(f"{prefix}{key} holds a control character")
    for key in required:
        if key not in table:
            raise _bad(f"{prefix}{key} is missing")
    return table


def _principal(row: Any) -> Principal:
    table = _checked(row, _PRINCIPAL, "principal.", required=("name", "roles", "keys"))
    name = _matching("principal.name", table["name"], _NAME)
    roles = frozenset(_one_of(f"role of {name}", role, ROLES) for role in table["roles"])
    if not roles or not table["keys"]:
        raise _bad(f"{name} needs at least one role and one key")
    return Principal(name, table.get("email", ""), roles, tuple(_key(name, line) for line in table["keys"]))


def _key(name: str, line: Any) -> str:
    """The key as `type base64`, the comment left out."""
    try:
        return sshsig.parse_public_key(_string(f"keys of {name}", line)).line
    except sshsig.SignatureFormatError as error:
        raise _bad(f"a key of {name}: {error}") from None


def _owners(principals: Sequence[Principal]) -> dict[str, Principal]:
    owners: dict[str, Principal] = {}
    names: set[str] = set()
    for who in principals:
        if who.name.lower() in names:
            raise _bad(f"two principals are named {who.name}")
        names.add(who.name.lower())
        for key in who.keys:
            if key in owners:
                raise _bad(f"one key stands twice: {owners[key].name}, {who.name}")
            owners[key] = who
    return owners


def _rule(row: Any) -> Rule:
    table = _checked(row, _RULE, "rule.", required=("threshold",))
    return Rule(
        paths=tuple(_string("rule.paths", path) for path in table.get("paths", [])),
        executors=tuple(_one_of("rule.executors", name, EXECUTORS) for name in table.get("executors", [])),
        threshold=_positive("rule.threshold", table["threshold"]),
        approvers=tuple(_string("rule.approvers", name) for name in table.get("approvers", [])),
    )


def _satisfiable(policy: Policy) -> None:
    """Refuse a policy under which nobody could approve a draft, or change the policy again."""
    approvers = {who.name for who in policy.principals if "approver" in who.roles and _can_count(who, policy)}
    governors = {who.name for who in policy.principals if "policy" in who.roles and _can_count(who, policy)}
    if len(governors) < policy.highest_threshold:
        raise _bad(f"{policy.highest_threshold} policy principals are needed to change it, and it has {len(governors)}")
    for rule in [Rule(threshold=policy.threshold), *policy.rules]:
        named = set(rule.approvers)
        if unknown := named - {who.name for who in policy.principals}:
            raise _bad(f"a rule names {', '.join(sorted(unknown))}, who is no principal")
        able = approvers & named if named else approvers
        if max((len(able - author) for author in _authors(policy)), default=0) < rule.threshold:
            raise _bad(f"{rule.threshold} approvers are needed, and only {len(able)} could ever count")


def _authors(policy: Policy) -> list[set[str]]:
    """Who could write a draft: with separation of duties a principal, who then does not count."""
    return [{who.name} for who in policy.principals] if policy.separation_of_duties else [set()]


def _can_count(who: Principal, policy: Policy) -> bool:
    """True if any key can make a signature that counts: with a touch where that is demanded, passkeys by origin."""
    for key in map(sshsig.parse_public_key, who.keys):
        is_passkey = key.application is not None and not key.application.startswith("ssh:")
        if policy.passkey_origins if is_passkey else key.is_hardware or not policy.require_presence:
            return True
    return False


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _bad(f"{name} must be a list of strings")
    return value


def _one_of(name: str, value: Any, names: Sequence[str]) -> str:
    if value not in names:
        raise _bad(f"{name} must be one of {', '.join(names)}")
    return str(value)


def _matching(name: str, value: Any, form: re.Pattern[str]) -> str:
    if form.fullmatch(_string(name, value)) is None:
        raise _bad(f"{name}: {value[:60]!a} is not usable")
    return str(value)


def _positive(name: str, value: int) -> int:
    if not 1 <= value <= 1_000_000_000:
        raise _bad(f"{name} must be a whole number from 1")
    return value
