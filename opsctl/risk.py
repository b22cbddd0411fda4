"""Hints for a reviewer: what of a prompt deserves a second look. Imports nothing of the package."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MOST = 50
"""At most so many hints are given."""

_TEXT = 60
_SHELLS = {"sh", "bash", "zsh", "fish", "shell", "console", "terminal", "shell-session", "shellsession", "powershell"}
_FENCE = re.compile(r"\s{0,8}(`{3,}|~{3,})\s*(\S*)")
_PROMPT = re.compile(r"\s*\$ +\S")

# Every repetition is bounded, so that a hostile line costs no more than its length.
_SHELL = r"(?:sudo\s{1,8})?(?:\S{0,40}/)?(?:(?:ba|z|da|k|fi)?sh|python3?|perl|ruby|node|iex)\b"
_KINDS = (
    (
        "pipe_to_shell",
        rf"\b(?:curl|wget|iwr)\b[^\n]{{0,300}}?\|\s{{0,8}}{_SHELL}"
        r"|\b(?:sh|bash|zsh|eval|source)\b[^\n]{0,20}?[<$]\(\s{0,8}(?:curl|wget)\b",
    ),
    (
        "deletion",
        r"\brm\s{1,8}(?:--?[\w-]{1,20}\s{1,8}){0,3}?(?:-[a-zA-Z]{0,8}[rRf]|--recursive\b|--force\b)"
        r"|\bgit\s{1,8}push\b[^\n]{0,120}?\s(?:--force|--delete\b|--mirror\b|-[a-zA-Z]{0,4}[fd]\b|\+\w)"
        r"|\bgit\s{1,8}reset\b[^\n]{0,120}?\s--hard\b|\bgit\s{1,8}clean\b[^\n]{0,60}?\s-[a-zA-Z]{0,6}f"
        r"|(?i:\b(?:drop|truncate)\s{1,8}(?:table|database|schema)\b|\bdelete\s{1,8}from\s)"
        r"|\bmkfs\b|\bdd\s[^\n]{0,120}?\bof=|\bshred\s|\bfind\s[^\n]{0,120}?\s-delete\b",
    ),
    (
        "injection",
        r"(?i)\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,40}?"
        r"\b(?:all|any|previous|prior|above|earlier|preceding|system|safety|your)\b[^.\n]{0,30}?"
        r"\b(?:instruction|prompt|rule|guideline|direction|polic|restriction)"
        r"|\byou are now\b|\bnew system prompt\b|\b(?:reveal|print|repeat|show)\s[^.\n]{0,20}?\bsystem prompt\b"
        r"|\b(?:do not|don't|never|without)\s{1,8}(?:tell|inform|mention|notify|ask|show|alert)\w{0,3}\s[^.\n]{0,30}?"
        r"\b(?:user|reviewer|human|approver|operator)\b|<\|im_start\|>|\[/?INST\]|</?system>"
        r"|\b(?:ignora|olvida)\b[^.\n]{0,40}?\binstrucciones\b",
    ),
    ("sudo", r"(?<![\w/.-])(?:sudo|doas)(?![\w.-])"),
    (
        "ci",
        r"(?i)\.github/(?:workflows|actions)|\.gitlab-ci\.ya?ml|\bJenkinsfile\b|\.circleci/|\bazure-pipelines\.ya?ml"
        r"|\.travis\.ya?ml|\bbitbucket-pipelines\.ya?ml|\.buildkite/|\.woodpecker|\.drone\.ya?ml",
    ),
    (
        "secrets",
        r"(?i)(?<![\w)\]])\.env\b|\bid_(?:rsa|dsa|ecdsa|ed25519)\b|\.(?:ssh|aws|gnupg|kube)\b|\.(?:netrc|npmrc|pypirc)\b"
        r"|credentials?\b|(?<![a-z])api[ _-]?keys?\b|(?<![a-z])(?:token|secret|password|passwd|passphrase)s?(?![a-z])"
        r"|\bprivate[ _-]keys?\b",
    ),
    (
        "network",
        r"\b(?:https?|ftps?|sftp|ssh|git|wss?)://|\bgit@[\w.-]{1,100}:"
        r"|(?<![\w./~-])(?:curl|wget|ssh|scp|sftp|rsync|nc|ncat|telnet)(?![\w.-])",
    ),
)

# An address is read as a whole, so that its path is not taken for a file.
_PATH = re.compile(
    r"\b\w{1,10}://[^\s)>\]]*"
    r"|(?<![\w/.:@~+-])((?:~|\.{1,2})?/?[\w.@+-]{1,100}(?:/[\w.@+*-]{1,100}){0,40})(?![\w/])"
)
_FILE = re.compile(r"(?:~|\.\.)?/[\w.@+-]+/?\S*|~/\S+|\S+/\S*\.[A-Za-z]\w*")


@dataclass(frozen=True)
class Hint:
    """One thing to look at: its kind, the start of the passage as it stands in the prompt, and the line from 1."""

    kind: str
    text: str
    line: int


def hints(prompt: str, target_paths: Sequence[str] = ()) -> list[Hint]:
    """What a reviewer should look at, by line: at most one hint of a kind for each line, and at most `MOST`.

    Where there are more, every kind keeps its first ones.
    """
    lines = [line.rstrip("\r") for line in prompt.split("\n")]
    found = [*_commands(lines), *_phrases(lines)]
    if target_paths:
        found += _outside(lines, target_paths)
    return sorted(_fairly(sorted(found, key=lambda hint: hint.line)), key=lambda hint: (hint.line, hint.kind))


def _fairly(found: list[Hint]) -> list[Hint]:
    # Many hints of one kind must not push out the single one of another kind.
    seen: Counter[str] = Counter()
    ranked = []
    for hint in found:
        seen[hint.kind] += 1
        ranked.append((seen[hint.kind], hint))
    return [hint for _, hint in sorted(ranked, key=lambda pair: pair[0])[:MOST]]


def _commands(lines: list[str]) -> Iterator[Hint]:
    fence, shell = "", False
    for number, line in enumerate(lines, 1):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence, shell = mark[1], mark[2].strip("{}.").lower() in _SHELLS
        elif mark and mark[1].startswith(fence) and not mark[2]:
            fence, shell = "", False
        elif _PROMPT.match(line) or (shell and line.strip() and not line.lstrip().startswith("#")):
            yield Hint("shell", line.strip()[:_TEXT], number)


def _phrases(lines: list[str]) -> Iterator[Hint]:
    for number, line in enumerate(lines, 1):
        # A phrase or a command may go on in the next line.
        following = lines[number] if number < len(lines) else ""
        window = f"{line.removesuffix(chr(92))} {following}" if line.strip() else ""
        for kind, pattern in _KINDS:
            match = re.search(pattern, window)
            if match and match.start() < len(line):
                passage = window[match.start() : max(match.end(), len(line))]
                yield Hint(kind, passage.strip()[:_TEXT], number)


def _outside(lines: list[str], targets: Sequence[str]) -> Iterator[Hint]:
    for number, line in enumerate(lines, 1):
        for match in _PATH.finditer(line):
            path = match[1]
            if path and _FILE.fullmatch(path) and not any(matches(glob, path) for glob in targets):
                yield Hint("outside_target", path[:_TEXT], number)
                break


def matches(glob: str, path: str) -> bool:
    """Whether a path below the repository fits a glob: `**` is any depth, `*` and `?` stay within one name."""
    whole = posixpath.normpath(glob) + ("/**" if glob.endswith("/") else "")
    parts = posixpath.normpath(path).split("/")
    return parts[0] not in ("", "~", "..") and _fits(whole.split("/"), parts, "**", _name_fits)


def _name_fits(glob: str, name: str) -> bool:
    return _fits(glob, name, "*", lambda one, other: one in ("?", other))


def _fits(glob: Sequence[str], items: Sequence[str], star: str, same: Callable[[str, str], bool]) -> bool:
    # Only the last star needs to be tried again, which keeps a glob with many stars from taking forever.
    at = item = 0
    retry, taken = -1, 0
    while item < len(items):
        if at < len(glob) and glob[at] == star:
            retry, taken, at = at, item, at + 1
        elif at < len(glob) and same(glob[at], items[item]):
            at, item = at + 1, item + 1
        elif retry >= 0:
            at, item, taken = retry + 1, taken + 1, taken + 1
        else:
            return False
    return all(each == star for each in glob[at:])
