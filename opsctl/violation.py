"""The one way in which the trust rule says no. Imports nothing."""

from __future__ import annotations


class Violation(Exception):
    """A commit breaks the trust rule: which part of it, what was expected and found, and the key if there was one."""

    def __init__(self, rule: str, message: str, fingerprint: str | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.fingerprint = fingerprint
