"""What an authenticator signs in place of the bytes themselves: security keys, and passkeys in a browser. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection

from opsctl.sshkey import PublicKey
from opsctl.sshwire import BadSignature, Reader, shown

# Flags of an authenticator (WebAuthn level 3, section 6.1).
PRESENT, VERIFIED, _ATTESTED, _EXTENDED = 0x01, 0x04, 0x40, 0x80


def security_key_data(reader: Reader, key: PublicKey, data: bytes) -> tuple[bytes, int]:
    """What a security key signs (OpenSSH's PROTOCOL.u2f, SSH U2F signatures), and its flags."""
    head = reader.take(5)
    return _digest((key.application or "").encode()) + head + _digest(data), head[0]


def passkey_data(reader: Reader, key: PublicKey, data: bytes, origins: Collection[str]) -> tuple[bytes, int, str]:
    """What a passkey signs (PROTOCOL.u2f, webauthn signatures), its flags and origin, with the conditions checked."""
    head, origin, client, extensions = reader.take(5), reader.text(), reader.string(), reader.string()
    _check_flags(head[0], extensions)
    _check_client_data(client, origin, data)
    # A tuple, since in a mere string any part of it would count as listed.
    if origin not in tuple(origins):
        raise BadSignature(f"made at the origin {shown(origin)}, which is not listed")
    return _digest((key.application or "").encode()) + head + extensions + _digest(client), head[0], origin


def _check_flags(flags: int, extensions: bytes) -> None:
    """Demand a present and verified user, and authenticator data that is an assertion's (WebAuthn, 7.2)."""
    if not flags & PRESENT:
        raise BadSignature("the authenticator saw no user presence")
    if not flags & VERIFIED:
        raise BadSignature("the authenticator did not verify the user")
    if flags & _ATTESTED:
        raise BadSignature("the authenticator data is that of an enrolment")
    if bool(flags & _EXTENDED) != bool(extensions):
        raise BadSignature("the extension flag and the extension bytes disagree")


def _check_client_data(client: bytes, origin: str, data: bytes) -> None:
    """Demand what ssh-keygen compares, the first three members, and of the rest what WebAuthn 5.8.1 defines."""
    challenge = base64.urlsafe_b64encode(data).rstrip(b"=")
    prefix = b'{"type":"webauthn.get","challenge":"%s","origin":"%s"' % (challenge, origin.encode())
    if not client.startswith(prefix):
        raise BadSignature("the client data does not start with the type, this challenge and the origin")
    members = _json_object(client)
    if members.get("origin") != origin:
        raise BadSignature("the client data names another origin")
    if members.get("crossOrigin", False) is not False or "topOrigin" in members:
        raise BadSignature("made in a frame of a foreign page")


def _json_object(text: bytes) -> dict[str, object]:
    try:
        members = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadSignature("the client data is not strict JSON") from None
    if not isinstance(members, dict):
        raise BadSignature("the client data is not a JSON object")
    return members


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
