"""A key while it is in use: shown to nobody, and taken out of whatever comes back."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

_REDACTED = "<redacted:key>"


class Secret:
    """A key that shows itself to nobody but `reveal`."""

    def __init__(self, value: str | None) -> None:
        self.__value = value

    def reveal(self) -> str | None:
        """The key itself, for a header."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret(…)" if self.__value else "Secret(None)"

    def __reduce__(self) -> str:
        raise TypeError("a key is not stored")

    @property
    def forms(self) -> list[str]:
        """How a provider may echo it: as it is, in an address, in base 64, all in one case. Longest first."""
        value = self.__value
        if not value:
            return []
        packed = b64encode(value.encode()).decode().rstrip("=")
        found = {value, quote(value, safe=""), packed, value.lower(), value.upper()}
        return sorted(found, key=lambda form: (-len(form), form))

    def scrub(self, text: str) -> str:
        """The text without the key."""
        for form in self.forms:
            text = text.replace(form, _REDACTED)
        return text


class Scrubber:
    """Takes the key out of text that comes in pieces: what could be the beginning of it is held back."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._forms = secret.forms
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be shown now."""
        text = self._secret.scrub(self._held + piece)
        cut = len(text) - self._begun(text)
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """What was held back."""
        text, self._held = self._secret.scrub(self._held), ""
        return text

    def _begun(self, text: str) -> int:
        """Characters at the end of a text with which the key could begin."""
        for length in range(min(len(text), len(self._forms[0]) - 1) if self._forms else 0, 0, -1):
            if any(form.startswith(text[-length:]) for form in self._forms):
                return length
        return 0
