"""A software passkey for tests: what a browser and its authenticator make, as an SSH signature, and every way to lie.

Imports the standard library and `cryptography`, nothing of opsctl: it is a second reading of the format.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY_TYPE = "sk-ecdsa-sha2-nistp256@openssh.com"
WEBAUTHN = "webauthn-sk-ecdsa-sha2-nistp256@openssh.com"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
USER_PRESENT, USER_VERIFIED, ATTESTED, EXTENDED = 0x01, 0x04, 0x40, 0x80


def strings(*fields: bytes) -> bytes:
    """Each field with its length before it, as SSH writes them."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def mpint(number: int) -> bytes:
    """A positive number in the shortest form that does not look negative."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def to_sign(payload: bytes, *, namespace: str = "git", hash_algorithm: str = "sha512") -> bytes:
    """What an SSH key signs for a payload."""
    digest = hashlib.new(hash_algorithm, payload).digest()
    return b"SSHSIG" + strings(namespace.encode(), b"", hash_algorithm.encode(), digest)


def armored(raw: bytes) -> bytes:
    """Any bytes between the lines of an SSH signature."""
    text = base64.b64encode(raw).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


def envelope(key_blob: bytes, blob: bytes, *, namespace: str = "git", hash_algorithm: str = "sha512") -> bytes:
    """A signature blob as an armored SSH signature."""
    fields = strings(key_blob, namespace.encode(), b"", hash_algorithm.encode(), blob)
    return armored(b"SSHSIG" + (1).to_bytes(4, "big") + fields)


class SoftPasskey:
    """A P-256 key of one rp id that claims whatever the test wants."""

    def __init__(self, rp_id: str = "opsctl.localhost", origin: str = "http://opsctl.localhost:9325") -> None:
        self.rp_id = rp_id
        self.origin = origin
        self.private_key = ec.generate_private_key(ec.SECP256R1())
        point = self.private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.blob = strings(KEY_TYPE.encode(), b"nistp256", point, rp_id.encode())
        self.public_line = f"{KEY_TYPE} {base64.b64encode(self.blob).decode()}"

    def sign(
        self,
        payload: bytes,
        *,
        namespace: str = "git",
        hash_algorithm: str = "sha512",
        flags: int = USER_PRESENT | USER_VERIFIED,
        counter: int = 0,
        extensions: bytes = b"",
        rp_id: str | None = None,
        high_s: bool | None = None,
        challenge: bytes | None = None,
        client_data: bytes | None = None,
        origin: str | None = None,
        origin_field: str | None = None,
        trailing: bytes = b"",
        **client: Any,
    ) -> bytes:
        """An armored webauthn signature over the payload; everything but what the knobs name is as it should be.

        `rp_id` is the authenticator's, `origin` the page's, `origin_field` the signature's own copy of it. `high_s`
        chooses one of the two twins of the signature. `challenge` (raw bytes) is what the page asked for;
        `client_data` replaces the client data, which otherwise the further knobs shape: see `client_data()`. All of
        these are signed; `trailing` is put behind, unsigned.
        """
        origin = self.origin if origin is None else origin
        if client_data is None:
            asked = to_sign(payload, namespace=namespace, hash_algorithm=hash_algorithm)
            client_data = self.client_data(asked if challenge is None else challenge, origin=origin, **client)
        head = bytes([flags]) + counter.to_bytes(4, "big")
        scope = hashlib.sha256((self.rp_id if rp_id is None else rp_id).encode()).digest()
        proof = self.ecdsa(scope + head + extensions + hashlib.sha256(client_data).digest(), high_s=high_s)
        stated = origin if origin_field is None else origin_field
        blob = strings(WEBAUTHN.encode(), proof) + head + strings(stated.encode(), client_data, extensions) + trailing
        return envelope(self.blob, blob, namespace=namespace, hash_algorithm=hash_algorithm)

    def client_data(
        self,
        challenge: bytes,
        *,
        origin: str | None = None,
        type: str = "webauthn.get",
        cross_origin: object = False,
        order: Sequence[str] = ("type", "challenge", "origin", "crossOrigin"),
        extra: Mapping[str, object] | None = None,
        tail: bytes = b"",
    ) -> bytes:
        """What the browser writes down. `order` may leave members out or repeat them; `extra` ones follow.

        `cross_origin` None leaves that member out; `tail` is put behind the closing brace. `challenge` is in raw bytes.
        """
        members: dict[str, object] = {
            "type": type,
            "challenge": base64.urlsafe_b64encode(challenge).decode().rstrip("="),
            "origin": self.origin if origin is None else origin,
            "crossOrigin": cross_origin,
        }
        shown = [(name, members[name]) for name in order if members[name] is not None]
        pairs = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in [*shown, *(extra or {}).items()]]
        return ("{" + ",".join(pairs) + "}").encode() + tail

    def sign_as_security_key(self, payload: bytes, *, flags: int = USER_PRESENT, counter: int = 7) -> bytes:
        """An ordinary sk-ecdsa signature by the same key, as a program with direct access to it could make."""
        head = bytes([flags]) + counter.to_bytes(4, "big")
        message = hashlib.sha256(self.rp_id.encode()).digest() + head + hashlib.sha256(to_sign(payload)).digest()
        return envelope(self.blob, strings(KEY_TYPE.encode(), self.ecdsa(message)) + head)

    def ecdsa(self, message: bytes, *, high_s: bool | None = None) -> bytes:
        """r and s over SHA-256 of the message, as two mpints."""
        r, s = utils.decode_dss_signature(self.private_key.sign(message, ec.ECDSA(hashes.SHA256())))
        if high_s is not None and high_s != (s > P256_ORDER // 2):
            s = P256_ORDER - s
        return strings(mpint(r), mpint(s))
