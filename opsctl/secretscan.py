"""Known shapes of secrets in a text. Imports nothing of the package."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

# A secret starts where no letter or digit precedes it: random base 64 may contain any prefix somewhere inside.
_EDGE = r"(?<![A-Za-z0-9])"
_END = r"(?![A-Za-z0-9])"
_B64U = r"[A-Za-z0-9_-]"

# The body ends at the next row of dashes, so many headers without an end cost no more than one reading of the text.
# Without an end the lines that look like key material still belong to the secret.
_PEM = (
    r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----))*+-----END [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:(?:\s|\\n|\\r)*+[A-Za-z0-9+/=]{20,}+)*+)"
)

# Kind, a piece in lower case without which there is no match, and the pattern. Where a pattern has a group, the group
# is the secret. Every repetition is bounded, possessive, or cannot start anew inside its own match: time is linear.
_SHAPES = (
    ("aws-access-key", "akia", _EDGE + r"AKIA[A-Z0-9]{16}" + _END),
    ("aws-access-key", "asia", _EDGE + r"ASIA[A-Z0-9]{16}" + _END),
    (
        "aws-secret-key",
        "secret",
        r"(?i:aws[ _-]?secret(?:[ _-]?access)?(?:[ _-]?key)?|secret[ _-]?access[ _-]?key)"
        r"[\"'`]{0,2}+\s{0,8}+(?:=>|[:=]|is\b)?+\s{0,8}+[\"'`]{0,2}+(?![0-9a-f]{40})([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    ),
    ("github-token", "gh", _EDGE + r"gh[pousr]_[A-Za-z0-9]{36,}+"),
    ("github-token", "github_pat_", _EDGE + r"github_pat_[A-Za-z0-9_]{22,}+"),
    ("gitlab-token", "glpat-", _EDGE + rf"glpat-{_B64U}{{20,}}+(?:\.{_B64U}{{2,}}+){{0,2}}"),
    ("slack-token", "xox", _EDGE + r"xox[a-z]-(?:(?=[A-Za-z-]{0,40}[0-9])[A-Za-z0-9-]{10,}+|[A-Za-z0-9]{20,}+)"),
    ("stripe-key", "k_live_", _EDGE + r"[sr]k_live_[A-Za-z0-9]{16,}+"),
    ("openai-key", "sk-", _EDGE + rf"sk-(?:proj|svcacct|admin|None)-{_B64U}{{20,}}+"),
    ("openai-key", "sk-", _EDGE + r"sk-(?:[A-Za-z0-9]{32,}+|(?=[A-Za-z]{0,31}[0-9])[A-Za-z0-9]{20,}+)"),
    ("anthropic-key", "sk-ant-", _EDGE + rf"sk-ant-{_B64U}{{20,}}+"),
    ("google-api-key", "aiza", _EDGE + rf"AIza{_B64U}{{35}}(?!{_B64U})"),
    ("gcp-service-account", "private_key", rf"\"private_key\"\s{{0,8}}+:\s{{0,8}}+\"({_PEM})"),
    ("private-key", "-----begin ", _PEM),
    ("npm-token", "npm_", _EDGE + r"npm_[A-Za-z0-9]{36,}+"),
    ("pypi-token", "pypi-", _EDGE + rf"pypi-{_B64U}{{50,}}+"),
    ("hugging-face-token", "hf_", _EDGE + r"hf_[A-Za-z0-9]{30,}+"),
    ("sendgrid-key", "sg.", _EDGE + rf"SG\.{_B64U}{{16,32}}\.{_B64U}{{16,64}}"),
    ("twilio-key", "sk", _EDGE + r"SK[0-9a-f]{32}" + _END),
    ("telegram-token", ":", rf"(?<!{_B64U})(?:bot)?([0-9]{{8,10}}:{_B64U}{{35}})(?!{_B64U})"),
    ("jwt", "eyj", rf"(?<!{_B64U})eyJ{_B64U}{{8,}}+\.{_B64U}{{8,}}+\.{_B64U}{{8,}}+"),
    ("opsctl-token", "opsctl_", rf"(?<!{_B64U})opsctl_{_B64U}{{43,}}+"),
    (
        "url-password",
        "://",
        r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}+://[^\s/:@?#<>\"'`]{0,100}+:([^\s/?#<>\"'`]{1,200})@[\w\[]",
    ),
    (
        "bearer-token",
        "bearer",
        r"(?i:authorization)[\"']?+\s{0,4}+[:=]\s{0,4}+[\"']?+(?i:bearer)\s{1,4}+"
        r"((?:[A-Za-z0-9_~+/-]|\.(?=[A-Za-z0-9])){20,}+={0,2})",
    ),
)

# What people write where a password belongs, so that nobody mistakes it for one.
_PLACEHOLDER = re.compile(
    r"pass|passw(?:or)?d|pwd|pw|secret|token|user(?:name)?|x+|\*+|\.+|…|-+|_+|change[_-]?me|redacted|placeholder"
    r"|(?:example|your|my|some|the)(?:[_-]?(?:api|access|auth|bearer|secret|token|key|pass|passw(?:or)?d|here))*"
    r"|\$\w+|\$?\{+[^{}]*\}+|\$\([^()]*\)|%\w+%|\[\w+\]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Secret:
    """Where a secret stands. The fingerprint names it without giving it away; the secret itself is not kept."""

    kind: str
    start: int
    end: int
    line: int
    fingerprint: str


def find(text: str) -> list[Secret]:
    """Every secret of a known shape, in order and without overlap: the longest match wins."""
    found, line, last = [], 1, 0
    for start, end, kind in _longest(sorted(_matches(text), key=lambda match: match[0])):
        line, last = line + text.count("\n", last, start), start
        found.append(Secret(kind, start, end, line, _fingerprint(text[start:end])))
    return found


def redact(text: str) -> str:
    """The text with each secret replaced by `<redacted:KIND>`."""
    parts, last = [], 0
    for each in find(text):
        parts += [text[last : each.start], f"<redacted:{each.kind}>"]
        last = each.end
    return "".join(parts) + text[last:]


def _matches(text: str) -> Iterator[tuple[int, int, str]]:
    lowered = text.lower()
    for kind, piece, pattern in _SHAPES:
        # The patterns are compiled at first use: most texts hold none of the pieces.
        for match in re.finditer(pattern, text) if piece in lowered else ():
            group = match.lastindex or 0
            if not (group and _PLACEHOLDER.fullmatch(match[group])):
                yield *match.span(group), kind


def _longest(matches: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for match in matches:
        if not kept or match[0] >= kept[-1][1]:
            kept.append(match)
        elif match[1] - match[0] > kept[-1][1] - kept[-1][0]:
            kept[-1] = match
    return kept


def _fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:16]
