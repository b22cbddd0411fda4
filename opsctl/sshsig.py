"""SSHSIG signatures: the envelope around them, its armor, and what a good one proves.

The rest of the program imports from here: keys are read in `sshkey`, proofs checked in `sshproof`, and what security
keys and passkeys sign is put together in `authenticator`, all upon the wire format in `sshwire`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from opsctl.authenticator import PRESENT, VERIFIED, passkey_data, security_key_data
from opsctl.sshkey import KINDS, MAX_ARMORED, WEBAUTHN, PublicKey, key_of_blob, parse_public_key
from opsctl.sshproof import checker
from opsctl.sshwire import BadSignature, Reader, SignatureFormatError, shown, strings, unbase64

__all__ = [
    "BadSignature",
    "PublicKey",
    "Signature",
    "SignatureFormatError",
    "Verified",
    "armor",
    "parse_public_key",
    "parse_signature",
    "signed_data",
    "verify",
]

_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_BEGIN = b"-----BEGIN SSH SIGNATURE-----"
_END = b"-----END SSH SIGNATURE-----"
_MAGIC = b"SSHSIG"
_COLUMNS = 70


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as read, not verified. `kind` is its algorithm; `blob` starts with it, as an agent returns it."""

    key: PublicKey
    namespace: str
    hash_algorithm: str
    kind: str
    blob: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good signature proves. Presence and verification are an authenticator's word; origin is a passkey's."""

    key: PublicKey
    presence: bool
    user_verified: bool
    origin: str | None


def parse_signature(armored: bytes) -> Signature:
    """Read one armored signature, as git keeps it in `gpgsig`; a newline may follow it.

    Raises SignatureFormatError for whatever OpenSSH's PROTOCOL.sshsig does not define; stricter than ssh-keygen, also
    for version 0, a reserved field that is not empty (neither is signed), stray white space and text around the armor.
    Nothing is verified yet.
    """
    if len(armored) > MAX_ARMORED:
        raise SignatureFormatError(f"larger than {MAX_ARMORED} bytes")
    reader = Reader(_dearmored(armored))
    if reader.take(len(_MAGIC)) != _MAGIC or int.from_bytes(reader.take(4), "big") != 1:
        raise SignatureFormatError("not an SSH signature of version 1")
    key = key_of_blob(reader.string())
    namespace = reader.text()
    if reader.string():
        raise SignatureFormatError("the reserved field is not empty")
    hash_algorithm = _known_hash(reader.text())
    blob = reader.string()
    reader.end()
    return Signature(key, namespace, hash_algorithm, Reader(blob).text(), blob)


def signed_data(namespace: str, hash_algorithm: str, payload: bytes) -> bytes:
    """The bytes that a key signs for a payload, also a passkey's challenge (OpenSSH's PROTOCOL.sshsig).

    Raises SignatureFormatError unless the hash is sha256 or sha512.
    """
    digest = _HASHES[_known_hash(hash_algorithm)](payload).digest()
    return _MAGIC + strings(namespace.encode(), b"", hash_algorithm.encode(), digest)


def armor(key: PublicKey, namespace: str, hash_algorithm: str, signature_blob: bytes) -> bytes:
    """The armored signature, byte for byte as ssh-keygen writes it. Nothing is checked."""
    raw = _MAGIC + (1).to_bytes(4, "big")
    raw += strings(key.blob, namespace.encode(), b"", hash_algorithm.encode(), signature_blob)
    text = base64.b64encode(raw)
    lines = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def verify(signature: Signature, payload: bytes, *, namespace: str = "git", origins: Collection[str] = ()) -> Verified:
    """What the signature proves about the payload; whether its key may sign is for the caller to judge.

    Raises BadSignature unless it is good and, for a passkey, made at one of the origins, by a present and verified
    user, outside any foreign frame. Everything accepted here is accepted by `ssh-keygen -Y verify`; that one accepts
    more passkey signatures, and more encodings of a good one (Ed25519 with s plus the order, padded numbers). To both
    the mirrored ECDSA signature (r, n-s) is good as well, so a decision must never be known by a signature's bytes.
    """
    if signature.namespace != namespace:
        raise BadSignature(f"the signature is for the namespace {shown(signature.namespace)}, not {shown(namespace)}")
    if signature.kind not in KINDS.get(signature.key.type, ()):
        raise BadSignature(f"a signature of the kind {shown(signature.kind)} does not fit the key")
    try:
        return _verified(signature, signed_data(namespace, signature.hash_algorithm, payload), origins)
    except SignatureFormatError as error:
        raise BadSignature(str(error)) from None


def _verified(signature: Signature, data: bytes, origins: Collection[str]) -> Verified:
    key, reader, origin = signature.key, Reader(signature.blob), None
    if reader.text() != signature.kind:
        raise BadSignature("the signature is of another kind than stated")
    proof, flags = reader.string(), 0
    if signature.kind == WEBAUTHN:
        data, flags, origin = passkey_data(reader, key, data, origins)
    elif key.is_hardware:
        data, flags = security_key_data(reader, key, data)
    reader.end()
    checker(key.blob)(proof, data)
    return Verified(key, bool(flags & PRESENT), bool(flags & VERIFIED), origin)


def _known_hash(name: str) -> str:
    if name not in _HASHES:
        raise SignatureFormatError(f"the hash {shown(name)} is neither sha256 nor sha512")
    return name


def _dearmored(armored: bytes) -> bytes:
    text = armored.removesuffix(b"\n")
    if not text.startswith(_BEGIN + b"\n") or not text.endswith(b"\n" + _END):
        raise SignatureFormatError("not exactly one armored SSH signature")
    lines = text[len(_BEGIN) + 1 : -len(_END) - 1].split(b"\n")
    if not all(lines):
        raise SignatureFormatError("the armor has an empty line")
    return unbase64(b"".join(lines))
