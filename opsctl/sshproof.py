"""Whether a key made a proof: Ed25519 and ECDSA by `cryptography`, imported only once something is checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from opsctl.sshkey import parts_of
from opsctl.sshwire import BadSignature, Reader

# NIST P-256 (FIPS 186-4, D.1.2.3).
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

Check = Callable[[bytes, bytes], None]


@lru_cache(maxsize=1024)
def checker(blob: bytes) -> Check:
    """A function that raises BadSignature unless the signature is good for the data; cached with the loaded key."""
    name, material, _ = parts_of(blob)
    return _ed25519_checker(material) if "ed25519" in name else _p256_checker(material)


def _ed25519_checker(raw: bytes) -> Check:
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


def _p256_checker(point: bytes) -> Check:
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
    reader = Reader(proof)
    r, s = reader.mpint(), reader.mpint()
    reader.end()
    if max(r, s) >= _P256_ORDER:
        raise BadSignature("a number of the signature exceeds the order of the curve")
    return r, s
