"""Known shapes of secrets. Each sample is put together here, so that this file holds none."""

from __future__ import annotations

import base64
import hashlib
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsctl import secretscan

ALNUM = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zAbC1dEf2Gh3" * 4
DASHES = "-" * 5


def pem(label: str, body: str = "\nMIIEvQ" + "aB3d" * 30 + "\n") -> str:
    return f"{DASHES}BEGIN {label}{DASHES}{body}{DASHES}END {label}{DASHES}"


JWT = "ey" + "JhbGciOiJIUzI1NiJ9." + "ey" + "JzdWIiOiIxMjM0In0." + ALNUM[:43]
SAMPLES = [
    ("aws-access-key", "AKIA" + "IOSFODNN7ABCDEFG"),
    ("aws-access-key", "ASIA" + "IOSFODNN7ABCDEFG"),
    ("github-token", "gh" + "p_" + ALNUM[:36]),
    ("github-token", "gh" + "o_" + ALNUM[:36]),
    ("github-token", "gh" + "u_" + ALNUM[:36]),
    ("github-token", "gh" + "s_" + ALNUM[:36]),
    ("github-token", "gh" + "r_" + ALNUM[:76]),
    ("github-token", "github" + "_pat_" + ALNUM[:22] + "_" + ALNUM[:59]),
    ("gitlab-token", "glpat" + "-" + ALNUM[:18] + "_-"),
    ("slack-token", "xox" + "b-123456789012-1234567890123-" + ALNUM[:24]),
    ("slack-token", "xox" + "p-" + ALNUM[:24]),
    ("stripe-key", "sk" + "_live_" + ALNUM[:24]),
    ("stripe-key", "rk" + "_live_" + ALNUM[:99]),
    ("openai-key", "sk" + "-" + ALNUM[:48]),
    ("openai-key", "sk" + "-proj-" + ALNUM[:60] + "_-" + ALNUM[:60]),
    ("openai-key", "sk" + "-svcacct-" + ALNUM[:60]),
    ("anthropic-key", "sk" + "-ant-api03-" + ALNUM[:93] + "AA"),
    ("google-api-key", "AI" + "za" + ALNUM[:35]),
    ("npm-token", "npm" + "_" + ALNUM[:36]),
    ("pypi-token", "pypi" + "-AgEIcHlwaS5vcmc" + ALNUM[:120]),
    ("hugging-face-token", "hf" + "_" + ALNUM[:34]),
    ("sendgrid-key", "SG" + "." + ALNUM[:22] + "." + ALNUM[:43]),
    ("twilio-key", "SK" + "0123456789abcdef" * 2),
    ("telegram-token", "123456789" + ":" + "AA" + ALNUM[:33]),
    ("private-key", pem("PRIVATE KEY")),
    ("private-key", pem("RSA PRIVATE KEY")),
    ("private-key", pem("EC PRIVATE KEY")),
    ("private-key", pem("OPENSSH PRIVATE KEY")),
    ("private-key", pem("ENCRYPTED PRIVATE KEY")),
    ("private-key", pem("RSA PRIVATE KEY", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\naB3d\n")),
    ("private-key", pem("PGP PRIVATE KEY BLOCK", "\nVersion: 1\n\naB3d\n=aB3d\n")),
    ("private-key", DASHES + "BEGIN RSA PRIVATE KEY" + DASHES),
    ("private-key", DASHES + "BEGIN PRIVATE KEY" + DASHES + "\n" + ALNUM[:64] + "\n" + ALNUM[:64]),
    ("jwt", JWT),
    ("opsctl-token", "opsctl" + "_" + ALNUM[:41] + "_-"),
]
INSIDE = [
    ("aws-secret-key", "aws_secret_access_key = {}", ALNUM[:38] + "/+"),
    ("aws-secret-key", 'export AWS_SECRET_ACCESS_KEY="{}"', ALNUM[:40]),
    ("aws-secret-key", '"SecretAccessKey": "{}",', ALNUM[:40]),
    ("aws-secret-key", "the AWS secret key is {}", ALNUM[:40]),
    ("url-password", "postgres://bob:{}@db.internal:5432/x", "hunter" + "7x!"),
    ("url-password", "https://:{}@example.com/", "p@ss" + "9word"),
    ("bearer-token", "Authorization: Bearer {}", ALNUM[:40] + "=="),
    ("bearer-token", 'curl -H "authorization: bearer {}" host', ALNUM[:15] + "." + ALNUM[:15]),
    ("gcp-service-account", '{{"private_key": "{}\\n"}}', pem("PRIVATE KEY", "\\nMIIE" + ALNUM + "\\n")),
]
HARMLESS = [
    "",
    "0123456789abcdef0123456789abcdef01234567",
    hashlib.sha256(b"x").hexdigest(),
    "sha256:" + hashlib.sha256(b"y").hexdigest(),
    "aws secret: commit 0123456789abcdef0123456789abcdef01234567",
    "123e4567-e89b-12d3-a456-426614174000",
    "d_01JD3W6Q9YV3T5Z8KQ2M4N6P8R",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + ALNUM[:43] + " me@host",
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC" + ALNUM + "= me@host",
    "sk-ecdsa-sha2-nistp256@openssh.com sk-ssh-ed25519@openssh.com",
    "SHA256:" + ALNUM[:43],
    "sk-learn, scikit-learn, task-abcdefghijklmnopqrstuvwxyz0123456789",
    "${OPENAI_API_KEY} $AWS_SECRET_ACCESS_KEY",
    "AKIA alone, ghp_ alone, glpat- alone, sk-ant- alone, hf_hub_download, npm_config_registry",
    "xoxb-your-token-here",
    "https://user:pass@host/ https://user:password@host/ https://user:PASSWORD@host/",
    "https://u:${VAR}@host https://u:$VAR@host https://u:{{ pw }}@host https://u:{pw}@host",
    "https://u:<password>@host https://u:***@host https://u:xxxxx@host https://u:your-password@host",
    "https://u:example@host https://u:changeme@host https://u:your_password_here@host",
    "http://localhost:8080/a@b http://localhost:8080?mail=a@b.c ssh://git@host:22/x git@github.com:a/b",
    "Authorization: Bearer $TOKEN, Authorization: Bearer <token>, Bearer of news",
    "Authorization: Bearer YOUR_ACCESS_TOKEN_HERE",
    DASHES + "BEGIN PUBLIC KEY" + DASHES + "\nMIIB\n" + DASHES + "END PUBLIC KEY" + DASHES,
    DASHES + "BEGIN SSH SIGNATURE" + DASHES,
    "eyJhbGciOiJIUzI1NiJ9 alone and eyJ.eyJ.x",
    "12:30 and 1234567890:short",
]


@pytest.mark.parametrize(("kind", "secret"), SAMPLES)
def test_tx_25_each_shape_is_found_with_line_and_place(kind: str, secret: str) -> None:
    [found] = secretscan.find(f"first\n\nuse ({secret}), then go")
    assert (found.kind, found.start, found.end, found.line) == (kind, 12, 12 + len(secret), 3)
    assert found.fingerprint == hashlib.sha256(secret.encode()).hexdigest()[:16]


@pytest.mark.parametrize(("kind", "around", "secret"), INSIDE)
def test_tx_25_a_secret_that_its_surroundings_give_away(kind: str, around: str, secret: str) -> None:
    text = around.format(secret)
    [found] = secretscan.find(text)
    assert (found.kind, text[found.start : found.end]) == (kind, secret)
    assert secretscan.redact(text) == around.format(f"<redacted:{kind}>")


@pytest.mark.parametrize("text", HARMLESS)
def test_tx_25_no_false_alarm(text: str) -> None:
    assert secretscan.find(text) == []
    assert secretscan.redact(text) == text


@pytest.mark.parametrize("seed", range(20))
def test_tx_25_an_image_in_base64_is_no_secret(seed: int) -> None:
    image = base64.b64encode(random.Random(seed).randbytes(48_000)).decode()
    assert secretscan.find(f"![](data:image/png;base64,{image})") == []


def test_tx_25_neither_finding_nor_redacted_text_holds_the_secret() -> None:
    text = "\n".join(f"a {secret} b" for _, secret in SAMPLES)
    found = secretscan.find(text)
    assert [each.kind for each in found] == [kind for kind, _ in SAMPLES]
    redacted = secretscan.redact(text)
    for _, secret in SAMPLES:
        assert secret not in redacted
        assert secret not in repr(found)
    assert redacted.splitlines()[0] == "a <redacted:aws-access-key> b"


def test_tx_25_the_longest_match_wins() -> None:
    key = "AKIA" + "IOSFODNN7ABCDEFG"
    [found] = secretscan.find(pem("PRIVATE KEY", f"\n{key}\n{'gh' + 'p_' + ALNUM[:36]}\n"))
    assert found.kind == "private-key"
    assert [each.kind for each in secretscan.find("Authorization: Bearer " + JWT)] == ["jwt"]


def test_tx_25_two_keys_are_two_findings() -> None:
    keys = pem("PRIVATE KEY") + "\n" + DASHES + "BEGIN PRIVATE KEY" + DASHES + "\n" + pem("EC PRIVATE KEY")
    assert [each.line for each in secretscan.find(keys)] == [1, 4, 5]


@given(st.text(st.sampled_from("aA0-_.:/@ \n\ud800") | st.characters()), st.sampled_from(SAMPLES))
def test_tx_25_redacting_leaves_nothing_to_find(text: str, sample: tuple[str, str]) -> None:
    redacted = secretscan.redact(f"{text}\n {sample[1]} \n{text}")
    assert sample[1] not in redacted
    assert secretscan.find(redacted) == []


@pytest.mark.parametrize(
    "piece",
    [
        "a:",
        "eyJ",
        "eyJaaaaaaaa.",
        ".eyJaaaaaaaa",
        DASHES + "BEGIN ",
        DASHES + "BEGIN PRIVATE KEY" + DASHES,
        DASHES + "BEGIN PRIVATE KEY" + DASHES + "\n" + ALNUM[:30] + "\n",
        "-",
        "aws_secret ",
        "aws secret access key        ",
        "aa://",
        "aa://b:c",
        "a://:@",
        "sk-",
        "xoxb-",
        "glpat-aaaaaaaaaaaaaaaaaaaa.",
        "authorization: bearer ",
        '"private_key" : "',
        "SG.aaaaaaaaaaaaaaaaaaaaaa.",
        "12345678:",
        "opsctl_",
        "github_pat_",
        "AKIA",
        "a",
        "A1",
    ],
)
def test_tx_25_hostile_text_takes_no_more_than_its_length(piece: str) -> None:
    hostile = piece * (262_144 // len(piece))
    start = time.perf_counter()
    secretscan.redact(hostile)
    assert time.perf_counter() - start < 5
