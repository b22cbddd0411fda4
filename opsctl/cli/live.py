"""A provider's answer as it comes, on a terminal. It is talk, so it goes to stderr, with nothing hidden in it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opsctl import text
from opsctl.cli.session import Session

if TYPE_CHECKING:
    from opsctl.providers.port import ProviderSettings, Try
    from opsctl.secretscan import Secret
    from opsctl.workspace.generating import Listener

_SHOWN = 10
"""Secrets that are named one by one."""


class Live:
    """Hears what the workspace tells of a call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._on = sys.stderr.isatty() and not session.as_json
        self._begun = time.monotonic()
        self._is_open = False

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_line()

    def listener(self) -> Listener:
        """What the workspace tells it to."""
        from opsctl.workspace.generating import Listener

        return Listener(self._asking, self._heard, self._tried, self._may_send)

    def done(self, usage: Mapping[str, int]) -> None:
        """The line under an answer that came whole."""
        self._end_line()
        if self._on:
            counts = ", ".join(f"{name} {count:,}" for name, count in usage.items())
            seconds = f"{time.monotonic() - self._begun:.1f} s"
            self._session.say(f"({seconds}; tokens: {counts})" if counts else f"({seconds})")

    def _asking(self, settings: ProviderSettings) -> None:
        self._begun = time.monotonic()
        if self._on:
            self._session.say(f"asking {settings.name} at {settings.base_url}…")

    def _heard(self, piece: str) -> None:
        if self._on and piece:
            sys.stderr.write(text.visible(piece))
            sys.stderr.flush()
            self._is_open = not piece.endswith("\n")

    def _tried(self, one: Try) -> None:
        if one.outcome != "ok" and self._on:
            self._end_line()
            self._session.say(f"try failed after {one.duration_s:.1f} s: {one.outcome}")

    def _may_send(self, secrets: Sequence[tuple[str, Secret]]) -> bool:
        for part, secret in secrets[:_SHOWN]:
            kind = f"{secret.kind}, fingerprint {secret.fingerprint}"
            self._session.say(f"warning: line {secret.line} of {part} looks like a secret ({kind})")
        if len(secrets) > _SHOWN:
            self._session.say(f"warning: and {len(secrets) - _SHOWN} more")
        return not self._session.person_is_here or self._session.confirm("send it to the provider all the same?")

    def _end_line(self) -> None:
        if self._is_open:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._is_open = False
