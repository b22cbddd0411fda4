"""SSH public keys: the types that count, one encoding of each, no weak points. Imports `sshwire` alone."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache

from opsctl.sshwire import Reader, SignatureFormatError, shown, unbase64

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

# NIST P-256 (FIPS 186-4, D.1.2.3): field and coefficient b. The coefficient a is -3.
_P256 = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_P256_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

# Curve25519 in Edwards form (RFC 8032, section 5.1): field and coefficient d.
_P25519 = 2**255 - 19
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of a type that counts; equal keys have equal blobs, since only one encoding is read."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it: SHA256: and 43 characters of base64."""
        return _fingerprint(self.blob)

    @property
    def line(self) -> str:
        """The type and the blob as in a .pub file, without comment and newline."""
        return _line(self.type, self.blob)

    @property
    def is_hardware(self) -> bool:
        """Whether an authenticator holds the key: a security key or a passkey."""
        return self.type.startswith("sk-")

    @property
    def application(self) -> str | None:
        """What an authenticator bound the key to: "ssh:…", or a passkey's rp id. None for other keys."""
        return parts_of(self.blob)[2]


def parse_public_key(line: str) -> PublicKey:
    """Read "type base64 [comment]", one line.

    Raises SignatureFormatError for whatever is not exactly that, and for a type that does not count. A key has a
    single encoding here (RFC 8709; RFC 5656 with an uncompressed point; OpenSSH's PROTOCOL.u2f).
    """
    return _key_of_line(line)


@lru_cache(maxsize=1024)
def _key_of_line(line: str) -> PublicKey:
    text = line.removesuffix("\n").strip(" \t")
    fields = text.replace("\t", " ").split(" ", 2)
    if len(line) > MAX_ARMORED or len(fields) < 2 or "\n" in text or "\r" in text or "\0" in text:
        raise SignatureFormatError('not a line of the form "type base64 [comment]"')
    _known_type(fields[0])
    key = key_of_blob(unbase64(fields[1].encode("utf-8", "replace")))
    if key.type != fields[0]:
        raise SignatureFormatError(f"the line says {fields[0]}, the key in it {key.type}")
    return key


@lru_cache(maxsize=1024)
def key_of_blob(blob: bytes) -> PublicKey:
    """The key that a wire field holds. Raises SignatureFormatError."""
    return PublicKey(parts_of(blob)[0], blob)


@lru_cache(maxsize=1024)
def _fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


@lru_cache(maxsize=1024)
def _line(name: str, blob: bytes) -> str:
    return f"{name} {base64.b64encode(blob).decode()}"


@lru_cache(maxsize=1024)
def parts_of(blob: bytes) -> tuple[str, bytes, str | None]:
    """Type, point, and what an authenticator bound the key to. Raises SignatureFormatError."""
    reader = Reader(blob)
    name = _known_type(reader.text())
    material = _ed25519_point(reader) if "ed25519" in name else _p256_point(reader)
    application = reader.text() if name.startswith("sk-") else None
    reader.end()
    return name, material, application


def _known_type(name: str) -> str:
    if name not in KINDS:
        raise SignatureFormatError(
            f"a key of the type {shown(name)} does not count; make one that does: ssh-keygen -t ed25519"
        )
    return name


def _ed25519_point(reader: Reader) -> bytes:
    raw = reader.string()
    if len(raw) != 32:
        raise SignatureFormatError("an Ed25519 key has 32 bytes")
    y = int.from_bytes(raw, "little") % 2**255
    # The five y of the points of order 1, 2, 4 and 8. Anybody can sign for such a key, and ssh-keygen calls it good.
    if y * (y * y - 1) * (_D25519 * y**4 + 2 * y * y - 1) % _P25519 == 0:
        raise SignatureFormatError("an Ed25519 key of small order protects nothing")
    return raw


def _p256_point(reader: Reader) -> bytes:
    if reader.string() != b"nistp256":
        raise SignatureFormatError("the key names another curve than nistp256")
    raw = reader.string()
    if len(raw) != 65 or raw[0] != 4:
        raise SignatureFormatError("not an uncompressed point of nistp256")
    x, y = int.from_bytes(raw[1:33], "big"), int.from_bytes(raw[33:], "big")
    if max(x, y) >= _P256 or (x**3 - 3 * x + _P256_B - y * y) % _P256:
        raise SignatureFormatError("the point is not on nistp256")
    return raw
