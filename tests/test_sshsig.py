"""SSH keys and signatures, held against real keys and the real ssh-keygen, and against everything that it misses."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from webauthn import (
    ATTESTED,
    EXTENDED,
    P256_ORDER,
    USER_PRESENT,
    USER_VERIFIED,
    SoftPasskey,
    armored,
    envelope,
    mpint,
    strings,
    to_sign,
)

from opsctl.sshsig import (
    BadSignature,
    PublicKey,
    Signature,
    SignatureFormatError,
    Verified,
    armor,
    parse_public_key,
    parse_signature,
    signed_data,
    verify,
)

PAYLOAD = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\nApprove the draft\n"
OTHER_PAYLOAD = PAYLOAD.replace(b"Approve", b"approve")
ORIGIN = "http://opsctl.localhost:9325"
HINT = "ssh-keygen -t ed25519"
MAKERS = ("ed25519", "ecdsa", "passkey", "security key, ecdsa", "security key, ed25519")
# The version of the envelope is not signed, and ssh-keygen (9.2) reads version 0 like 1: the one bit that it misses.
VERSION_BIT = 72
FULL = os.environ.get("OPSCTL_SWEEP") == "full"

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Maker:
    """Someone who signs: the line of the key and a function from payload to armored signature."""

    line: str
    sign: Sign


class SshKeygen:
    """The real program in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *args: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C"}
        return subprocess.run(["ssh-keygen", *args], input=data, env=env, cwd=self.home, capture_output=True)

    def new_key(self, name: str, *args: str) -> str:
        self.run("-q", *args, "-N", "", "-C", f"{name}@example.org", "-f", name).check_returncode()
        return (self.home / f"{name}.pub").read_text(encoding="utf-8")

    def sign(self, name: str, payload: bytes, *, namespace: str = "git", hash_algorithm: str = "sha512") -> bytes:
        args = ("-Y", "sign", "-n", namespace, "-O", f"hashalg={hash_algorithm}", "-f", name)
        done = self.run(*args, data=payload)
        done.check_returncode()
        return done.stdout

    def accepts(self, line: str, text: bytes, payload: bytes, *, namespace: str = "git") -> bool:
        (self.home / "allowed").write_text(f'alice namespaces="git" {line}\n', encoding="utf-8")
        (self.home / "sig").write_bytes(text)
        args = ("-Y", "verify", "-n", namespace, "-f", "allowed", "-I", "alice", "-s", "sig")
        return self.run(*args, data=payload).returncode == 0


@pytest.fixture(scope="session")
def keygen(tmp_path_factory: pytest.TempPathFactory) -> SshKeygen:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    tool = SshKeygen(tmp_path_factory.mktemp("ssh"))
    tool.new_key("ed25519", "-t", "ed25519")
    tool.new_key("second", "-t", "ed25519")
    tool.new_key("ecdsa", "-t", "ecdsa", "-b", "256")
    return tool


def line_of(keygen: SshKeygen, name: str) -> str:
    return (keygen.home / f"{name}.pub").read_text(encoding="utf-8")


def soft_ed25519(application: str = "ssh:", flags: int = USER_PRESENT) -> Maker:
    """A security key of the type sk-ssh-ed25519, in software."""
    private, name = Ed25519PrivateKey.generate(), b"sk-ssh-ed25519@openssh.com"
    blob = strings(name, private.public_key().public_bytes_raw(), application.encode())
    head = bytes([flags]) + (41).to_bytes(4, "big")

    def sign(payload: bytes) -> bytes:
        scope = hashlib.sha256(application.encode()).digest()
        proof = private.sign(scope + head + hashlib.sha256(to_sign(payload)).digest())
        return envelope(blob, strings(name, proof) + head)

    return Maker(f"{name.decode()} {base64.b64encode(blob).decode()}", sign)


def make(kind: str, keygen: SshKeygen) -> Maker:
    """A signer of one of the five kinds that count."""
    if kind == "security key, ed25519":
        return soft_ed25519()
    if kind in ("ed25519", "ecdsa"):
        return Maker(line_of(keygen, kind), lambda payload: keygen.sign(kind, payload))
    passkey = SoftPasskey()
    return Maker(passkey.public_line, passkey.sign if kind == "passkey" else passkey.sign_as_security_key)


def judge(text: bytes, payload: bytes = PAYLOAD, **options: Any) -> Verified:
    """Our verdict with the origin of the software passkey listed."""
    return verify(parse_signature(text), payload, **{"origins": [ORIGIN], **options})


def ours_accepts(line: str, text: bytes, payload: bytes, *, namespace: str = "git") -> bool:
    """The verdict in the form of ssh-keygen's: good, and by this key."""
    try:
        return judge(text, payload, namespace=namespace).key == parse_public_key(line)
    except (SignatureFormatError, BadSignature):
        return False


def raw_of(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.split(b"\n")[1:-2]))


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def ecdsa_numbers(signature: Signature) -> tuple[int, int]:
    """r and s of an ordinary ECDSA signature."""
    proof = signature.blob[4 + len(signature.kind) + 4 :]
    size = int.from_bytes(proof[:4], "big")
    return int.from_bytes(proof[4 : 4 + size], "big"), int.from_bytes(proof[8 + size :], "big")


def with_proof(signature: Signature, proof: bytes) -> bytes:
    """The signature with other bytes in place of the numbers or the 64 bytes, armored again."""
    blob = strings(signature.kind.encode(), proof)
    return armor(signature.key, signature.namespace, signature.hash_algorithm, blob)


# Agreement with ssh-keygen


@pytest.mark.parametrize("kind", MAKERS)
def test_a_good_signature_of_every_kind_is_accepted_by_us_and_by_ssh_keygen(kind: str, keygen: SshKeygen) -> None:
    maker = make(kind, keygen)
    text = maker.sign(PAYLOAD)
    assert keygen.accepts(maker.line, text, PAYLOAD)
    assert judge(text).key == parse_public_key(maker.line)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("as signed", lambda text: (text, PAYLOAD, "git")),
        ("without the final newline", lambda text: (text[:-1], PAYLOAD, "git")),
        ("payload changed", lambda text: (text, OTHER_PAYLOAD, "git")),
        ("payload with one more newline", lambda text: (text, PAYLOAD + b"\n", "git")),
        ("payload empty", lambda text: (text, b"", "git")),
        ("another namespace demanded", lambda text: (text, PAYLOAD, "file")),
        ("namespace renamed", lambda text: (armored(raw_of(text).replace(b"\3git", b"\3gxt", 1)), PAYLOAD, "gxt")),
        ("hash renamed", lambda text: (armored(raw_of(text).replace(b"sha512", b"sha256", 1)), PAYLOAD, "git")),
        ("magic changed", lambda text: (armored(b"SSHSIX" + raw_of(text)[6:]), PAYLOAD, "git")),
        ("version 2", lambda text: (armored(raw_of(text)[:9] + b"\2" + raw_of(text)[10:]), PAYLOAD, "git")),
        ("cut by a byte", lambda text: (armored(raw_of(text)[:-1]), PAYLOAD, "git")),
        ("one byte more", lambda text: (armored(raw_of(text) + b"\0"), PAYLOAD, "git")),
        ("something before", lambda text: (b"\n" + text, PAYLOAD, "git")),
        ("no end", lambda text: (text.partition(b"-----END")[0], PAYLOAD, "git")),
        ("nothing in the armor", lambda text: (armored(b""), PAYLOAD, "git")),
        ("nothing at all", lambda text: (b"", PAYLOAD, "git")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ours_and_ssh_keygen_agree(
    case: str, change: Callable[[bytes], tuple[bytes, bytes, str]], kind: str, keygen: SshKeygen
) -> None:
    maker = make(kind, keygen)
    text, payload, namespace = change(maker.sign(PAYLOAD))
    good = case in ("as signed", "without the final newline")
    assert ours_accepts(maker.line, text, payload, namespace=namespace) is good
    assert keygen.accepts(maker.line, text, payload, namespace=namespace) is good


@pytest.mark.sweep
@pytest.mark.parametrize("kind", MAKERS)
def test_one_damaged_bit_anywhere_is_refused_by_us_and_by_ssh_keygen(kind: str, keygen: SshKeygen) -> None:
    maker = make(kind, keygen)
    raw = raw_of(maker.sign(PAYLOAD))
    bits = range(len(raw) * 8)
    sampled = bits if FULL else [VERSION_BIT, *random.Random(kind).sample(bits, 40)]
    assert [bit for bit in bits if ours_accepts(maker.line, armored(flipped(raw, bit)), PAYLOAD)] == []
    accepted = {bit for bit in sampled if keygen.accepts(maker.line, armored(flipped(raw, bit)), PAYLOAD)}
    assert accepted <= {VERSION_BIT}


@pytest.mark.parametrize("kind", ["ed25519", "passkey"])
def test_one_damaged_bit_in_the_armor_is_refused(kind: str, keygen: SshKeygen) -> None:
    maker = make(kind, keygen)
    text = maker.sign(PAYLOAD)
    assert [bit for bit in range(len(text) * 8) if ours_accepts(maker.line, flipped(text, bit), PAYLOAD)] == []


@pytest.mark.parametrize("kind", ["ed25519", "passkey"])
def test_one_damaged_bit_in_the_payload_is_refused(kind: str, keygen: SshKeygen) -> None:
    maker = make(kind, keygen)
    text = maker.sign(PAYLOAD)
    bits = range(len(PAYLOAD) * 8)
    assert [bit for bit in bits if ours_accepts(maker.line, text, flipped(PAYLOAD, bit))] == []


# What a signature says


def test_ap_16_signature_of_another_namespace_is_refused(keygen: SshKeygen) -> None:
    text = keygen.sign("ed25519", PAYLOAD, namespace="file")
    with pytest.raises(BadSignature, match="for the namespace 'file', not 'git'"):
        judge(text)
    assert judge(text, namespace="file").key == parse_public_key(line_of(keygen, "ed25519"))


def test_ap_16_signature_whose_namespace_was_rewritten_is_refused(keygen: SshKeygen) -> None:
    signature = parse_signature(keygen.sign("ed25519", PAYLOAD, namespace="file"))
    with pytest.raises(BadSignature, match="did not sign"):
        verify(replace(signature, namespace="git"), PAYLOAD)


@pytest.mark.parametrize("name", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("hash_algorithm", ["sha256", "sha512"])
def test_both_hashes_count_and_the_armor_is_byte_for_byte_that_of_ssh_keygen(
    name: str, hash_algorithm: str, keygen: SshKeygen
) -> None:
    text = keygen.sign(name, PAYLOAD, hash_algorithm=hash_algorithm)
    signature = parse_signature(text)
    assert (signature.namespace, signature.hash_algorithm) == ("git", hash_algorithm)
    assert signature.kind == signature.key.type
    assert verify(signature, PAYLOAD) == Verified(parse_public_key(line_of(keygen, name)), False, False, None)
    assert armor(signature.key, "git", hash_algorithm, signature.blob) == text


def test_the_key_is_the_one_that_signed_and_no_other(keygen: SshKeygen) -> None:
    first, second = (judge(keygen.sign(name, PAYLOAD)).key for name in ("ed25519", "second"))
    assert first == parse_public_key(line_of(keygen, "ed25519"))
    assert second == parse_public_key(line_of(keygen, "second"))
    assert first != second


def test_a_signature_with_the_key_of_somebody_else_put_in_is_refused(keygen: SshKeygen) -> None:
    stolen = replace(parse_signature(keygen.sign("ed25519", PAYLOAD)), key=parse_public_key(line_of(keygen, "second")))
    with pytest.raises(BadSignature, match="did not sign"):
        verify(stolen, PAYLOAD)


def test_a_signature_copied_from_another_payload_is_refused(keygen: SshKeygen) -> None:
    with pytest.raises(BadSignature, match="did not sign"):
        judge(keygen.sign("ed25519", OTHER_PAYLOAD))


def test_a_signature_of_a_kind_that_does_not_fit_the_key_is_refused(keygen: SshKeygen) -> None:
    signature = parse_signature(keygen.sign("ed25519", PAYLOAD))
    name = b"ecdsa-sha2-nistp256"
    misfit = armor(signature.key, "git", "sha512", strings(name) + signature.blob[15:])
    with pytest.raises(BadSignature, match="'ecdsa-sha2-nistp256' does not fit"):
        judge(misfit)
    with pytest.raises(BadSignature, match="another kind than stated"):
        verify(replace(signature, blob=parse_signature(misfit).blob), PAYLOAD)


def test_signed_data_is_what_the_format_says_and_an_unknown_hash_is_refused() -> None:
    for hash_algorithm in ("sha256", "sha512"):
        expected = to_sign(PAYLOAD, namespace="git", hash_algorithm=hash_algorithm)
        assert signed_data("git", hash_algorithm, PAYLOAD) == expected
    with pytest.raises(SignatureFormatError, match="neither sha256 nor sha512"):
        signed_data("git", "sha1", PAYLOAD)


# Strictness of the numbers


def test_the_mirrored_ecdsa_signature_is_accepted_as_ssh_keygen_accepts_it(keygen: SshKeygen) -> None:
    # So one payload has two good signatures, and a decision must not be known by the bytes of its commit.
    signature = parse_signature(keygen.sign("ecdsa", PAYLOAD))
    r, s = ecdsa_numbers(signature)
    twin = with_proof(signature, strings(mpint(r), mpint(P256_ORDER - s)))
    assert keygen.accepts(line_of(keygen, "ecdsa"), twin, PAYLOAD)
    assert judge(twin).key == signature.key


@pytest.mark.parametrize("high_s", [True, False])
def test_both_twins_of_a_passkey_signature_are_accepted_as_ssh_keygen_accepts_them(
    high_s: bool, keygen: SshKeygen
) -> None:
    passkey = SoftPasskey()
    text = passkey.sign(PAYLOAD, high_s=high_s)
    assert keygen.accepts(passkey.public_line, text, PAYLOAD)
    assert judge(text).presence


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("exceeds the order", lambda r, s: strings(mpint(r), mpint(s + P256_ORDER))),
        ("exceeds the order", lambda r, s: strings(mpint(r + P256_ORDER), mpint(s))),
        ("exceeds the order", lambda r, s: strings(mpint(r), mpint(P256_ORDER))),
        ("not positive", lambda r, s: strings(mpint(r), ((1 << 256) - s % (1 << 255)).to_bytes(32, "big"))),
        ("not positive", lambda r, s: strings(mpint(r), b"\x80")),
        ("not positive", lambda r, s: strings(mpint(r), b"")),
        ("not positive", lambda r, s: strings(mpint(r), b"\0")),
        ("not positive", lambda r, s: strings(b"", b"")),
        ("shortest form", lambda r, s: strings(mpint(r), b"\0" + mpint(s))),
        ("did not sign", lambda r, s: strings(b"\1", b"\1")),
        ("did not sign", lambda r, s: strings(mpint(s), mpint(r))),
        ("left over", lambda r, s: strings(mpint(r), mpint(s)) + b"\0"),
        ("cut short", lambda r, s: strings(mpint(r))),
        ("cut short", lambda r, s: strings(mpint(r)) + b"\xff\xff\xff\xff" + mpint(s)),
    ],
)
def test_an_ecdsa_signature_with_wrong_numbers_is_refused(
    reason: str, change: Callable[[int, int], bytes], keygen: SshKeygen
) -> None:
    signature = parse_signature(keygen.sign("ecdsa", PAYLOAD))
    with pytest.raises(BadSignature, match=reason):
        judge(with_proof(signature, change(*ecdsa_numbers(signature))))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_an_ed25519_signature_of_another_length_than_64_bytes_is_refused(size: int, keygen: SshKeygen) -> None:
    signature = parse_signature(keygen.sign("ed25519", PAYLOAD))
    proof = (signature.blob[-64:] + b"\0")[:size]
    with pytest.raises(BadSignature, match="64 bytes"):
        judge(with_proof(signature, proof))


def test_an_ed25519_signature_with_the_order_of_the_group_added_is_refused(keygen: SshKeygen) -> None:
    signature = parse_signature(keygen.sign("ed25519", PAYLOAD))
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(signature.blob[-32:], "little") + order
    with pytest.raises(BadSignature, match="did not sign"):
        judge(with_proof(signature, signature.blob[-64:-32] + scalar.to_bytes(32, "little")))


def test_bytes_behind_the_signature_are_refused(keygen: SshKeygen) -> None:
    signature = parse_signature(keygen.sign("ed25519", PAYLOAD))
    longer = armor(signature.key, "git", "sha512", signature.blob + b"\0")
    with pytest.raises(BadSignature, match="left over"):
        judge(longer)
    with pytest.raises(BadSignature, match="left over"):
        judge(SoftPasskey().sign(PAYLOAD, trailing=b"\0"))


# Security keys


@pytest.mark.parametrize(("flags", "presence", "user_verified"), [(0, False, False), (1, True, False), (5, True, True)])
def test_the_flags_of_a_security_key_are_reported(
    flags: int, presence: bool, user_verified: bool, keygen: SshKeygen
) -> None:
    passkey, ed25519 = SoftPasskey(), soft_ed25519(flags=flags)
    ecdsa = Maker(passkey.public_line, lambda payload: passkey.sign_as_security_key(payload, flags=flags))
    for maker in (ecdsa, ed25519):
        text = maker.sign(PAYLOAD)
        assert keygen.accepts(maker.line, text, PAYLOAD)
        expected = Verified(parse_public_key(maker.line), presence, user_verified, None)
        assert verify(parse_signature(text), PAYLOAD) == expected


def test_a_security_key_of_another_application_is_refused() -> None:
    maker = soft_ed25519(application="ssh:")
    signature = parse_signature(maker.sign(PAYLOAD))
    other = parse_public_key(f"{signature.key.type} {base64.b64encode(signature.key.blob[:-1] + b'.').decode()}")
    assert other.application == "ssh."
    with pytest.raises(BadSignature, match="did not sign"):
        verify(replace(signature, key=other), PAYLOAD)


# Passkeys


def test_an_accepted_passkey_signature_says_presence_verification_and_origin() -> None:
    passkey = SoftPasskey()
    text = passkey.sign(PAYLOAD)
    assert judge(text) == Verified(parse_public_key(passkey.public_line), True, True, ORIGIN)


@pytest.mark.parametrize(
    "knobs",
    [
        {"hash_algorithm": "sha256"},
        {"cross_origin": None},
        {"flags": 0x1D},
        {"counter": 2**32 - 1},
        {"flags": USER_PRESENT | USER_VERIFIED | EXTENDED, "extensions": b"\xa1\x63abc\x01"},
        {"extra": {"other_keys_can_be_added_here": "do not compare clientDataJSON against a template"}},
    ],
    ids=str,
)
def test_what_browsers_really_send_is_accepted_by_both(knobs: dict[str, Any], keygen: SshKeygen) -> None:
    passkey = SoftPasskey()
    text = passkey.sign(PAYLOAD, **knobs)
    assert keygen.accepts(passkey.public_line, text, PAYLOAD)
    assert judge(text).origin == ORIGIN


MISSED_BY_SSH_KEYGEN = [
    ({"flags": USER_VERIFIED}, "no user presence"),
    ({"flags": 0}, "no user presence"),
    ({"flags": USER_PRESENT}, "did not verify the user"),
    ({"origin": "http://opsctl.localhost:9326"}, "not listed"),
    ({"origin": "https://evil.example"}, "not listed"),
    ({"origin": ORIGIN + "/"}, "not listed"),
    ({"origin": ORIGIN[:-1]}, "not listed"),
    ({"cross_origin": True}, "foreign page"),
    ({"cross_origin": "false"}, "foreign page"),
    ({"cross_origin": 0}, "foreign page"),
    ({"extra": {"topOrigin": "https://evil.example"}}, "foreign page"),
    ({"tail": b"garbage"}, "strict JSON"),
    ({"tail": b"{}"}, "strict JSON"),
    ({"tail": b"\0"}, "strict JSON"),
    ({"tail": b"\xff"}, "strict JSON"),
    ({"order": ("type", "challenge", "origin", "origin")}, "strict JSON"),
    ({"order": ("type", "challenge", "origin", "type")}, "strict JSON"),
    ({"order": ("type", "challenge", "origin", "crossOrigin"), "extra": {"crossOrigin": False}}, "strict JSON"),
    ({"extra": {"number": float("nan")}}, "strict JSON"),
]


@pytest.mark.parametrize(("knobs", "reason"), MISSED_BY_SSH_KEYGEN, ids=str)
def test_what_ssh_keygen_misses_is_refused(knobs: dict[str, Any], reason: str, keygen: SshKeygen) -> None:
    passkey = SoftPasskey()
    text = passkey.sign(PAYLOAD, **knobs)
    assert keygen.accepts(passkey.public_line, text, PAYLOAD)
    with pytest.raises(BadSignature, match=reason):
        judge(text)


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b",",
        b"]",
        b',"deep":' + b"[" * 6000,
        b',"number":' + b"9" * 5000 + b"}",
        b',"or\\u0069gin":"https://evil.example"}',
        b',"nested":{"a":1,"a":2}}',
        b',"text":"\n"}',
    ],
    ids=lambda rest: repr(rest[:24]),
)
def test_garbage_after_what_ssh_keygen_compares_is_refused(rest: bytes, keygen: SshKeygen) -> None:
    passkey = SoftPasskey()
    start = passkey.client_data(to_sign(PAYLOAD), order=("type", "challenge", "origin"))[:-1]
    text = passkey.sign(PAYLOAD, client_data=start + rest)
    assert keygen.accepts(passkey.public_line, text, PAYLOAD)
    with pytest.raises(BadSignature, match="strict JSON"):
        judge(text)


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"type": "webauthn.create"}, "does not start"),
        ({"order": ("challenge", "type", "origin", "crossOrigin")}, "does not start"),
        ({"order": ("type", "origin", "challenge", "crossOrigin")}, "does not start"),
        ({"order": ("type", "challenge", "crossOrigin", "origin")}, "does not start"),
        ({"challenge": bytes(32)}, "does not start"),
        ({"challenge": PAYLOAD}, "does not start"),
        ({"challenge": hashlib.sha256(to_sign(PAYLOAD)).digest()}, "does not start"),
        ({"challenge": to_sign(OTHER_PAYLOAD)}, "does not start"),
        ({"challenge": to_sign(PAYLOAD, namespace="file")}, "does not start"),
        ({"challenge": to_sign(PAYLOAD) + b"\0"}, "does not start"),
        ({"client_data": b""}, "does not start"),
        ({"client_data": b"[]"}, "does not start"),
        ({"origin": "https://evil.example", "origin_field": ORIGIN}, "does not start"),
        ({"origin": ORIGIN, "origin_field": "https://evil.example"}, "does not start"),
        ({"origin": ORIGIN + ".evil.example", "origin_field": ORIGIN}, "does not start"),
        ({"rp_id": "localhost"}, "did not sign"),
        ({"flags": USER_PRESENT | USER_VERIFIED | ATTESTED}, "enrolment"),
        ({"flags": USER_PRESENT | USER_VERIFIED | EXTENDED}, "disagree"),
        ({"extensions": b"\xa0"}, "disagree"),
    ],
    ids=str,
)
def test_what_is_no_assertion_over_this_payload_is_refused_by_both(
    knobs: dict[str, Any], reason: str, keygen: SshKeygen
) -> None:
    passkey = SoftPasskey()
    text = passkey.sign(PAYLOAD, **knobs)
    assert not keygen.accepts(passkey.public_line, text, PAYLOAD)
    with pytest.raises(BadSignature, match=reason):
        judge(text)


@pytest.mark.parametrize(
    ("origin", "missed"), [(f'{ORIGIN}","crossOrigin":false,"x":"y', False), (ORIGIN.replace(":9", "\\u003a9"), True)]
)
def test_an_origin_that_means_another_one_in_json_is_refused_even_if_listed(
    origin: str, missed: bool, keygen: SshKeygen
) -> None:
    passkey = SoftPasskey()
    start = passkey.client_data(to_sign(PAYLOAD), order=("type", "challenge"))[:-1]
    text = passkey.sign(PAYLOAD, origin=origin, client_data=start + b',"origin":"' + origin.encode() + b'"}')
    assert keygen.accepts(passkey.public_line, text, PAYLOAD) is missed
    with pytest.raises(BadSignature, match="another origin"):
        judge(text, origins=[ORIGIN, origin])


def test_without_listed_origins_no_passkey_counts_and_a_bare_string_lists_none() -> None:
    signature = parse_signature(SoftPasskey().sign(PAYLOAD))
    for origins in ((), f"{ORIGIN}/and/more", ORIGIN):
        with pytest.raises(BadSignature, match="not listed"):
            verify(signature, PAYLOAD, origins=origins)
    assert verify(signature, PAYLOAD, origins={"https://ops.example.org", ORIGIN}).origin == ORIGIN


def test_a_passkey_signature_made_over_to_another_rp_id_is_refused() -> None:
    signature = parse_signature(SoftPasskey().sign(PAYLOAD))
    blob = signature.key.blob.replace(strings(b"opsctl.localhost"), strings(b"localhost"))
    other = parse_public_key(f"{signature.key.type} {base64.b64encode(blob).decode()}")
    with pytest.raises(BadSignature, match="did not sign"):
        verify(replace(signature, key=other), PAYLOAD, origins=[ORIGIN])


def test_a_passkey_signature_renamed_to_that_of_a_security_key_is_refused() -> None:
    signature = parse_signature(SoftPasskey().sign(PAYLOAD))
    kind = signature.key.type.encode()
    blob = signature.blob.replace(strings(signature.kind.encode()), strings(kind), 1)
    with pytest.raises(BadSignature, match="left over"):
        judge(armor(signature.key, "git", "sha512", blob))


# Keys


def test_a_key_shows_line_and_fingerprint_as_ssh_keygen_does(keygen: SshKeygen) -> None:
    for name in ("ed25519", "ecdsa"):
        key = parse_public_key(line_of(keygen, name))
        shown = keygen.run("-l", "-f", f"{name}.pub").stdout.decode().split()
        assert key.fingerprint == shown[1]
        assert f"{key.line} {name}@example.org\n" == line_of(keygen, name)
        assert (key.is_hardware, key.application) == (False, None)


def test_a_hardware_key_names_its_application() -> None:
    passkey = parse_public_key(SoftPasskey(rp_id="ops.example.org").public_line)
    assert (passkey.is_hardware, passkey.application) == (True, "ops.example.org")
    security_key = parse_public_key(soft_ed25519(application="ssh:ops").line)
    assert (security_key.is_hardware, security_key.application) == (True, "ssh:ops")


@pytest.mark.parametrize("args", [("-t", "rsa", "-b", "2048"), ("-t", "ecdsa", "-b", "384")], ids=["rsa", "nistp384"])
def test_a_key_that_does_not_count_and_its_signature_are_refused_with_the_way_to_one_that_does(
    args: tuple[str, ...], keygen: SshKeygen, tmp_path: Path
) -> None:
    other = SshKeygen(tmp_path)
    line = other.new_key("other", *args)
    with pytest.raises(SignatureFormatError, match=HINT):
        parse_public_key(line)
    with pytest.raises(SignatureFormatError, match=HINT):
        parse_signature(other.sign("other", PAYLOAD))


@pytest.mark.parametrize(
    "name",
    ["ssh-rsa", "ssh-dss", "ssh-ed25519-cert-v01@openssh.com", "ecdsa-sha2-nistp521", "SSH-ED25519", "ssh-x\x1b"],
)
def test_a_line_of_a_type_that_does_not_count_says_how_to_make_one_that_does(name: str) -> None:
    with pytest.raises(SignatureFormatError, match=HINT) as caught:
        parse_public_key(f"{name} AAAA")
    assert str(caught.value).isprintable()


def test_a_certificate_is_refused_with_the_way_to_a_plain_key(keygen: SshKeygen, tmp_path: Path) -> None:
    other = SshKeygen(tmp_path)
    other.new_key("ca", "-t", "ed25519")
    other.new_key("user", "-t", "ed25519")
    other.run("-q", "-s", "ca", "-I", "id", "-n", "alice", "user.pub").check_returncode()
    with pytest.raises(SignatureFormatError, match=HINT):
        parse_public_key((tmp_path / "user-cert.pub").read_text(encoding="utf-8"))


ED25519_BLOB = strings(b"ssh-ed25519", bytes(range(32)))
P256_G = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


def line_with(name: str, blob: bytes) -> str:
    return f"{name} {base64.b64encode(blob).decode()}"


def p256_line(point: bytes, curve: bytes = b"nistp256") -> str:
    return line_with("ecdsa-sha2-nistp256", strings(b"ecdsa-sha2-nistp256", curve, point))


def test_spaces_tabs_a_comment_and_a_final_newline_are_no_part_of_a_key() -> None:
    plain = parse_public_key(line_with("ssh-ed25519", ED25519_BLOB))
    body = plain.line.split()[1]
    for line in (f"{plain.line}\n", f"  {plain.line} a comment, with = and  spaces\n", f"ssh-ed25519\t{body}\tme"):
        assert parse_public_key(line) == plain
    assert parse_public_key(p256_line(P256_G)).type == "ecdsa-sha2-nistp256"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-ed25519  AAAA",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 \udcff\u00e9",
        line_with("ssh-ed25519", ED25519_BLOB) + "\n\n",
        line_with("ssh-ed25519", ED25519_BLOB) + "\r\n",
        line_with("ssh-ed25519", ED25519_BLOB) + " me\nssh-ed25519 AAAA",
        line_with("ssh-ed25519", ED25519_BLOB) + " me\0",
        line_with("ssh-ed25519", ED25519_BLOB) + " " + "x" * 20000,
        line_with("ssh-ed25519", ED25519_BLOB).replace(" ", " \n"),
        line_with("ssh-ed25519", ED25519_BLOB) + "=",
        line_with("ssh-ed25519", ED25519_BLOB + b"\0"),
        line_with("ssh-ed25519", ED25519_BLOB[:-1]),
        line_with("ssh-ed25519", strings(b"ssh-ed25519", bytes(range(31)))),
        line_with("ssh-ed25519", strings(b"ssh-ed25519", bytes(range(33)))),
        line_with("ssh-ed25519", strings(b"ssh-ed25519\0", bytes(range(32)))),
        line_with("ecdsa-sha2-nistp256", ED25519_BLOB),
        line_with("sk-ssh-ed25519@openssh.com", ED25519_BLOB),
        line_with("sk-ssh-ed25519@openssh.com", strings(b"sk-ssh-ed25519@openssh.com", bytes(range(32)))),
        line_with("sk-ssh-ed25519@openssh.com", strings(b"sk-ssh-ed25519@openssh.com", bytes(range(32)), b"")),
        line_with("sk-ssh-ed25519@openssh.com", strings(b"sk-ssh-ed25519@openssh.com", bytes(range(32)), b"ssh:\n")),
        line_with("sk-ssh-ed25519@openssh.com", strings(b"sk-ssh-ed25519@openssh.com", bytes(range(32)), b"\xff")),
        p256_line(P256_G, curve=b"nistp384"),
        p256_line(b""),
        p256_line(b"\0"),
        p256_line(P256_G[:-1]),
        p256_line(P256_G[:-1] + b"\xf4"),
        p256_line(b"\x06" + P256_G[1:]),
        p256_line(b"\x03" + P256_G[1:33]),
        p256_line(b"\x04" + bytes(64)),
        p256_line(b"\x04" + b"\xff" * 64),
    ],
    ids=lambda line: ascii(line[-40:]),
)
def test_a_malformed_key_line_is_refused(line: str) -> None:
    with pytest.raises(SignatureFormatError):
        parse_public_key(line)


def test_a_point_with_the_field_added_to_a_coordinate_is_refused() -> None:
    # A second encoding of one key would be a second key. x = 5 is on the curve and small enough to be written so.
    field = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    y = pow(5**3 - 3 * 5 + b, (field + 1) // 4, field).to_bytes(32, "big")
    assert parse_public_key(p256_line(b"\4" + (5).to_bytes(32, "big") + y))
    with pytest.raises(SignatureFormatError, match="not on nistp256"):
        parse_public_key(p256_line(b"\4" + (5 + field).to_bytes(32, "big") + y))


def test_base64_with_unused_bits_set_is_refused() -> None:
    line = p256_line(P256_G)
    assert line.endswith("=")
    twin = line[:-2] + chr(ord(line[-2]) + 1) + "="
    assert base64.b64decode(twin.split()[1]) == base64.b64decode(line.split()[1])
    with pytest.raises(SignatureFormatError, match="not canonical"):
        parse_public_key(twin)


@pytest.mark.parametrize(
    "point",
    [
        "00" * 32,
        "00" * 31 + "80",
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "ec" + "ff" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ],
)
def test_an_ed25519_key_that_anybody_can_sign_for_is_refused(point: str) -> None:
    material = bytes.fromhex(point)
    for name, *rest in ((b"ssh-ed25519",), (b"sk-ssh-ed25519@openssh.com", b"ssh:")):
        with pytest.raises(SignatureFormatError, match="small order"):
            parse_public_key(line_with(name.decode(), strings(name, material, *rest)))


# The armor


def envelope_with(**fields: bytes) -> bytes:
    """An envelope of which single fields are replaced."""
    parts = {"magic": b"SSHSIG", "version": b"\0\0\0\1", "key": ED25519_BLOB, "namespace": b"git", "reserved": b""}
    parts |= {"hash": b"sha512", "blob": strings(b"ssh-ed25519", bytes(64)), "behind": b""} | fields
    names = ("key", "namespace", "reserved", "hash", "blob")
    return parts["magic"] + parts["version"] + strings(*(parts[name] for name in names)) + parts["behind"]


def test_the_envelope_of_the_next_test_can_be_read_when_nothing_is_replaced() -> None:
    assert parse_signature(armored(envelope_with())).namespace == "git"


@pytest.mark.parametrize(
    "fields",
    [
        {"magic": b"sshsig"},
        {"version": b"\0\0\0\0"},
        {"version": b"\0\0\0\2"},
        {"key": b""},
        {"key": ED25519_BLOB + b"\0"},
        {"key": strings(b"ssh-rsa", b"\1", b"\1")},
        {"namespace": b""},
        {"namespace": b"git\0"},
        {"namespace": b"git\n"},
        {"namespace": b"\xff"},
        {"reserved": b"x"},
        {"hash": b"sha1"},
        {"hash": b"SHA512"},
        {"hash": b""},
        {"blob": b""},
        {"blob": strings(b"")},
        {"blob": b"\0\0\0\xffssh-ed25519"},
        {"behind": b"\0"},
    ],
    ids=str,
)
def test_a_malformed_envelope_is_refused(fields: dict[str, bytes]) -> None:
    with pytest.raises(SignatureFormatError):
        parse_signature(armored(envelope_with(**fields)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b" " + text,
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text + b"\n",
        lambda text: text + b" ",
        lambda text: text + text,
        lambda text: text[:-1] + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"-----\n", b"-----\n\n", 1),
        lambda text: text.replace(b"\n-----END", b"\n\n-----END"),
        lambda text: text.replace(b"\n-----END", b"-----END"),
        lambda text: text.replace(b"\n-----END", b" \n-----END"),
        lambda text: text.replace(b"\n-----END", b"=\n-----END"),
        lambda text: text.replace(b"\n-----END", b"\n=\n-----END"),
        lambda text: text.replace(b"-----\n", b"-----\n ", 1),
        lambda text: text.replace(b"-----\n", b"-----\n-", 1),
        lambda text: text.replace(b"SSH SIGNATURE", b"PGP SIGNATURE"),
        lambda text: text.replace(b"BEGIN", b"begin"),
        lambda text: b"-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
        lambda text: b"-----BEGIN SSH SIGNATURE-----",
        lambda text: text.replace(b"\n-----END", b"A" * 16384 + b"\n-----END"),
    ],
)
def test_a_malformed_armor_is_refused(change: Callable[[bytes], bytes]) -> None:
    text = armored(envelope_with())
    assert change(text) != text
    with pytest.raises(SignatureFormatError):
        parse_signature(change(text))


def test_an_armor_of_more_than_16_kib_is_refused_though_well_formed() -> None:
    assert parse_signature(armored(envelope_with(blob=strings(b"ssh-ed25519", bytes(11_800)))))
    with pytest.raises(SignatureFormatError, match="larger than 16384 bytes"):
        parse_signature(armored(envelope_with(blob=strings(b"ssh-ed25519", bytes(12_200)))))


def test_other_widths_of_the_lines_are_read() -> None:
    body = base64.b64encode(envelope_with())
    for width in (64, 76, len(body)):
        lines = [body[at : at + width] for at in range(0, len(body), width)]
        text = b"\n".join([b"-----BEGIN SSH SIGNATURE-----", *lines, b"-----END SSH SIGNATURE-----"])
        assert parse_signature(text) == parse_signature(armored(envelope_with()))


# Hostile input


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """The original with a few stretches replaced."""
    data = original
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        data = data[:start] + draw(st.binary(max_size=6)) + data[start + draw(st.integers(0, 6)) :]
    return data


def near_misses() -> list[bytes]:
    """Signatures to damage, one for each form of key and signature."""
    passkey = SoftPasskey()
    makers = (passkey.sign, passkey.sign_as_security_key, soft_ed25519().sign)
    return [armored(envelope_with()), *(sign(PAYLOAD) for sign in makers)]


SEEDS = near_misses()


def quietly(call: Callable[[], object]) -> object:
    """The result, or None for one of the two errors of the module; its reason must be short and printable."""
    try:
        return call()
    except (SignatureFormatError, BadSignature) as error:
        reason = str(error)
    assert reason.isprintable()
    assert 0 < len(reason) < 300
    return None


@given(st.binary(max_size=400) | st.sampled_from(SEEDS).flatmap(damaged))
@settings(max_examples=400, deadline=None)
def test_fuzzed_armor_raises_only_the_errors_of_the_module(text: bytes) -> None:
    quietly(lambda: judge(text))


@given(st.binary(max_size=400) | st.sampled_from([raw_of(seed) for seed in SEEDS]).flatmap(damaged))
@settings(max_examples=600, deadline=None)
def test_fuzzed_envelopes_raise_only_the_errors_of_the_module(raw: bytes) -> None:
    quietly(lambda: judge(armored(raw)))


@given(st.sampled_from([parse_signature(seed) for seed in SEEDS]), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_a_fuzzed_signature_under_a_readable_envelope_is_never_good(seed: Signature, rest: bytes) -> None:
    blob = strings(seed.kind.encode()) + rest
    with pytest.raises(BadSignature):
        verify(replace(seed, blob=blob), PAYLOAD, origins=[ORIGIN])


PASSKEY = SoftPasskey()


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0origntcs1.eE+- \n', max_size=40).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_fuzzed_client_data_that_was_signed_raises_only_bad_signature(rest: bytes) -> None:
    start = PASSKEY.client_data(to_sign(PAYLOAD), order=("type", "challenge", "origin"))[:-1]
    quietly(lambda: judge(PASSKEY.sign(PAYLOAD, client_data=start + rest)))


KEY_BLOBS = [parse_signature(seed).key.blob for seed in SEEDS] + [strings(b"ecdsa-sha2-nistp256", b"nistp256", P256_G)]


@given(
    st.text(max_size=200)
    | st.sampled_from(KEY_BLOBS)
    .flatmap(damaged)
    .map(lambda blob: line_with(blob[4:].split(b"\0")[0].decode("latin-1"), blob))
    | st.tuples(st.sampled_from(["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]), st.text()).map(" ".join)
)
@settings(max_examples=600, deadline=None)
def test_a_fuzzed_key_line_raises_only_a_format_error(line: str) -> None:
    key = quietly(lambda: parse_public_key(line))
    assert key is None or (isinstance(key, PublicKey) and parse_public_key(key.line) == key)


def test_reading_keys_and_signatures_does_not_load_cryptography() -> None:
    program = (
        "import sys; from opsctl.sshsig import *; import opsctl.sshsig as s;"
        "s.parse_public_key(sys.argv[1]); s.parse_signature(sys.argv[2].encode());"
        "sys.exit('cryptography' in sys.modules)"
    )
    line = line_with("ssh-ed25519", ED25519_BLOB)
    args = [sys.executable, "-c", program, line, armored(envelope_with()).decode()]
    assert subprocess.run(args, cwd=Path(__file__).parent.parent).returncode == 0
