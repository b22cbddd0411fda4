"""SSH public keys and SSHSIG signatures: reading them strictly, armoring, and judging whether one is good.

Imports the standard library alone; `cryptography` only once something is verified.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

MAX_ARMORED = 16 * 1024
"""Largest armored signature and largest public key line that is read, in bytes."""

WEBAUTHN = "webauthn-sk-ecdsa-sha2-nistp256@openssh.com"
"""The kind of a passkey's signature. The key itself is of the type sk-ecdsa-sha2-nistp256@openssh.com."""

KINDS: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "sk-ssh-ed25519@openssh.com": ("sk-ssh-ed25519@openssh.com",),
    "sk-ecdsa-sha2-nistp256@openssh.com": ("sk-ecdsa-sha2-nistp256@openssh.com", WEBAUTHN),
}
"""Every key type that counts, with the kinds of signature that fit it."""

_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_BEGIN = b"-----BEGIN SSH SIGNATURE-----"
_END = b"-----END SSH SIGNATURE-----"
_MAGIC = b"SSHSIG"
_COLUMNS = 70

# Flags of an authenticator (WebAuthn level 3, section 6.1).
_PRESENT, _VERIFIED, _ATTESTED, _EXTENDED = 0x01, 0x04, 0x40, 0x80

# NIST P-256 (FIPS 186-4, D.1.2.3): field, coefficient b, order. The coefficient a is -3.
_P256 = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_P256_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# Curve25519 in Edwards form (RFC 8032, section 5.1): field and coefficient d.
_P25519 = 2**255 - 19
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519

_Check = Callable[[bytes, bytes], None]


class SignatureFormatError(ValueError):
    """A key or a signature that cannot be read, with a short reason."""


class BadSignature(Exception):
    """A readable signature that does not prove what it should, with the reason."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of a type that counts; equal keys have equal blobs, since only one encoding is read."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it: SHA256: and 43 characters of base64."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """The type and the blob as in a .pub file, without comment and newline."""
        return f"{self.type} {base64.b64encode(self.blob).decode()}"

    @property
    def is_hardware(self) -> bool:
        """Whether an authenticator holds the key: a security key or a passkey."""
        return self.type.startswith("sk-")

    @property
    def application(self) -> str | None:
        """What an authenticator bound the key to: "ssh:…", or a passkey's rp id. None for other keys."""
        return _parts(self.blob)[2]


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


def parse_public_key(line: str) -> PublicKey:
    """Read "type base64 [comment]", one line.

    Raises SignatureFormatError for whatever is not exactly that, and for a type that does not count. A key has a
    single encoding here (RFC 8709; RFC 5656 with an uncompressed point; OpenSSH's PROTOCOL.u2f).
    """
    return _key_of_line(line)


def parse_signature(armored: bytes) -> Signature:
    """Read one armored signature, as git keeps it in `gpgsig`; a newline may follow it.

    Raises SignatureFormatError for whatever OpenSSH's PROTOCOL.sshsig does not define; stricter than ssh-keygen, also
    for version 0, a reserved field that is not empty (neither is signed), stray white space and text around the armor.
    Nothing is verified yet.
    """
    if len(armored) > MAX_ARMORED:
        raise SignatureFormatError(f"larger than {MAX_ARMORED} bytes")
    reader = _Reader(_dearmored(armored))
    if reader.take(len(_MAGIC)) != _MAGIC or int.from_bytes(reader.take(4), "big") != 1:
        raise SignatureFormatError("not an SSH signature of version 1")
    key = _key_of_blob(reader.string())
    namespace = reader.text()
    if reader.string():
        raise SignatureFormatError("the reserved field is not empty")
    hash_algorithm = _known_hash(reader.text())
    blob = reader.string()
    reader.end()
    return Signature(key, namespace, hash_algorithm, _Reader(blob).text(), blob)


def signed_data(namespace: str, hash_algorithm: str, payload: bytes) -> bytes:
    """The bytes that a key signs for a payload, also a passkey's challenge (OpenSSH's PROTOCOL.sshsig).

    Raises SignatureFormatError unless the hash is sha256 or sha512.
    """
    digest = _HASHES[_known_hash(hash_algorithm)](payload).digest()
    return _MAGIC + _strings(namespace.encode(), b"", hash_algorithm.encode(), digest)


def armor(key: PublicKey, namespace: str, hash_algorithm: str, signature_blob: bytes) -> bytes:
    """The armored signature, byte for byte as ssh-keygen writes it. Nothing is checked."""
    raw = _MAGIC + (1).to_bytes(4, "big")
    raw += _strings(key.blob, namespace.encode(), b"", hash_algorithm.encode(), signature_blob)
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
        raise BadSignature(f"the signature is for the namespace {_shown(signature.namespace)}, not {_shown(namespace)}")
    if signature.kind not in KINDS.get(signature.key.type, ()):
        raise BadSignature(f"a signature of the kind {_shown(signature.kind)} does not fit the key")
    try:
        return _verified(signature, signed_data(namespace, signature.hash_algorithm, payload), origins)
    except SignatureFormatError as error:
        raise BadSignature(str(error)) from None


class _Reader:
    """Takes the fields of an SSH wire format (RFC 4251, section 5) off the front of some bytes."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise SignatureFormatError("cut short")
        return self._data[start : self._at]

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))

    def text(self) -> str:
        raw = self.string()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise SignatureFormatError("a name is not UTF-8") from None
        if not text or not text.isprintable():
            raise SignatureFormatError("a name is empty or has characters that do not show")
        return text

    def mpint(self) -> int:
        raw = self.string()
        # A second encoding of one number would be a second signature: refused, though ssh-keygen takes leading zeros.
        if not raw or raw[0] >= 0x80 or (raw[0] == 0 and raw[1:2] < b"\x80"):
            raise SignatureFormatError("a number is not positive or not in its shortest form")
        return int.from_bytes(raw, "big")

    def end(self) -> None:
        if self._at != len(self._data):
            raise SignatureFormatError("bytes are left over at the end")


def _strings(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:80] + "...")


def _known_hash(name: str) -> str:
    if name not in _HASHES:
        raise SignatureFormatError(f"the hash {_shown(name)} is neither sha256 nor sha512")
    return name


def _base64(text: bytes) -> bytes:
    try:
        raw = binascii.a2b_base64(text)
    except ValueError:
        raise SignatureFormatError("the base64 text is malformed") from None
    # The decoder skips foreign characters, and lets the unused bits of the last one be anything even when strict.
    if binascii.b2a_base64(raw, newline=False) != text:
        raise SignatureFormatError("the base64 text is not canonical")
    return raw


def _dearmored(armored: bytes) -> bytes:
    text = armored.removesuffix(b"\n")
    if not text.startswith(_BEGIN + b"\n") or not text.endswith(b"\n" + _END):
        raise SignatureFormatError("not exactly one armored SSH signature")
    lines = text[len(_BEGIN) + 1 : -len(_END) - 1].split(b"\n")
    if not all(lines):
        raise SignatureFormatError("the armor has an empty line")
    return _base64(b"".join(lines))


@lru_cache(maxsize=1024)
def _key_of_line(line: str) -> PublicKey:
    text = line.removesuffix("\n").strip(" \t")
    fields = text.replace("\t", " ").split(" ", 2)
    if len(line) > MAX_ARMORED or len(fields) < 2 or "\n" in text or "\r" in text or "\0" in text:
        raise SignatureFormatError('not a line of the form "type base64 [comment]"')
    _known_type(fields[0])
    key = _key_of_blob(_base64(fields[1].encode("utf-8", "replace")))
    if key.type != fields[0]:
        raise SignatureFormatError(f"the line says {fields[0]}, the key in it {key.type}")
    return key


@lru_cache(maxsize=1024)
def _key_of_blob(blob: bytes) -> PublicKey:
    return PublicKey(_parts(blob)[0], blob)


@lru_cache(maxsize=1024)
def _parts(blob: bytes) -> tuple[str, bytes, str | None]:
    reader = _Reader(blob)
    name = _known_type(reader.text())
    material = _ed25519_point(reader) if "ed25519" in name else _p256_point(reader)
    application = reader.text() if name.startswith("sk-") else None
    reader.end()
    return name, material, application


def _known_type(name: str) -> str:
    if name not in KINDS:
        raise SignatureFormatError(
            f"a key of the type {_shown(name)} does not count; make one that does: ssh-keygen -t ed25519"
        )
    return name


def _ed25519_point(reader: _Reader) -> bytes:
    raw = reader.string()
    if len(raw) != 32:
        raise SignatureFormatError("an Ed25519 key has 32 bytes")
    y = int.from_bytes(raw, "little") % 2**255
    # The five y of the points of order 1, 2, 4 and 8. Anybody can sign for such a key, and ssh-keygen calls it good.
    if y * (y * y - 1) * (_D25519 * y**4 + 2 * y * y - 1) % _P25519 == 0:
        raise SignatureFormatError("an Ed25519 key of small order protects nothing")
    return raw


def _p256_point(reader: _Reader) -> bytes:
    if reader.string() != b"nistp256":
        raise SignatureFormatError("the key names another curve than nistp256")
    raw = reader.string()
    if len(raw) != 65 or raw[0] != 4:
        raise SignatureFormatError("not an uncompressed point of nistp256")
    x, y = int.from_bytes(raw[1:33], "big"), int.from_bytes(raw[33:], "big")
    if max(x, y) >= _P256 or (x**3 - 3 * x + _P256_B - y * y) % _P256:
        raise SignatureFormatError("the point is not on nistp256")
    return raw


def _verified(signature: Signature, data: bytes, origins: Collection[str]) -> Verified:
    key, reader, origin = signature.key, _Reader(signature.blob), None
    if reader.text() != signature.kind:
        raise BadSignature("the signature is of another kind than stated")
    proof, flags = reader.string(), 0
    if signature.kind == WEBAUTHN:
        data, flags, origin = _passkey_data(reader, key, data, origins)
    elif key.is_hardware:
        data, flags = _authenticator_data(reader, key, data)
    reader.end()
    _checker(key.blob)(proof, data)
    return Verified(key, bool(flags & _PRESENT), bool(flags & _VERIFIED), origin)


def _authenticator_data(reader: _Reader, key: PublicKey, data: bytes) -> tuple[bytes, int]:
    """What a security key signs (OpenSSH's PROTOCOL.u2f, SSH U2F signatures), and its flags."""
    head = reader.take(5)
    return _digest((key.application or "").encode()) + head + _digest(data), head[0]


def _passkey_data(reader: _Reader, key: PublicKey, data: bytes, origins: Collection[str]) -> tuple[bytes, int, str]:
    """What a passkey signs (PROTOCOL.u2f, webauthn signatures), its flags and origin, with the conditions checked."""
    head, origin, client, extensions = reader.take(5), reader.text(), reader.string(), reader.string()
    _check_flags(head[0], extensions)
    _check_client_data(client, origin, data)
    # A tuple, since in a mere string any part of it would count as listed.
    if origin not in tuple(origins):
        raise BadSignature(f"made at the origin {_shown(origin)}, which is not listed")
    return _digest((key.application or "").encode()) + head + extensions + _digest(client), head[0], origin


def _check_flags(flags: int, extensions: bytes) -> None:
    """Demand a present and verified user, and authenticator data that is an assertion's (WebAuthn, 7.2)."""
    if not flags & _PRESENT:
        raise BadSignature("the authenticator saw no user presence")
    if not flags & _VERIFIED:
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


@lru_cache(maxsize=1024)
def _checker(blob: bytes) -> _Check:
    """A function that raises BadSignature unless the signature is good for the data; cached with the loaded key."""
    name, material, _ = _parts(blob)
    return _ed25519_checker(material) if "ed25519" in name else _p256_checker(material)


def _ed25519_checker(raw: bytes) -> _Check:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(raw)

    def check(proof: bytes, data: bytes) -> None:
        if len(proof) != 64:
            raise BadSignature("an Ed25519 signature has 64 bytes")
        try:
            key.verify(proof, data)
        except InvalidSignature:
            raise BadSignature("the key did not sign this") from None

    return check


def _p256_checker(point: bytes) -> _Check:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    algorithm = ec.ECDSA(SHA256())

    def check(proof: bytes, data: bytes) -> None:
        try:
            key.verify(utils.encode_dss_signature(*_r_and_s(proof)), data, algorithm)
        except InvalidSignature:
            raise BadSignature("the key did not sign this") from None

    return check


def _r_and_s(proof: bytes) -> tuple[int, int]:
    reader = _Reader(proof)
    r, s = reader.mpint(), reader.mpint()
    reader.end()
    if max(r, s) >= _P256_ORDER:
        raise BadSignature("a number of the signature exceeds the order of the curve")
    return r, s
