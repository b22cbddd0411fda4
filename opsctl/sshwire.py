"""The SSH wire format, read strictly: fields with their lengths, names, numbers, base64. Imports nothing of opsctl."""

from __future__ import annotations

import binascii


class SignatureFormatError(ValueError):
    """A key or a signature that cannot be read, with a short reason."""


class BadSignature(Exception):
    """A readable signature that does not prove what it should, with the reason."""


class Reader:
    """Takes the fields of an SSH wire format (RFC 4251, section 5) off the front of some bytes."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next bytes, so many."""
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise SignatureFormatError("cut short")
        return self._data[start : self._at]

    def string(self) -> bytes:
        """A field: its length, then its bytes."""
        start = self._at + 4
        self._at = start + int.from_bytes(self._data[start - 4 : start], "big")
        if self._at > len(self._data):
            raise SignatureFormatError("cut short")
        return self._data[start : self._at]

    def text(self) -> str:
        """A field that is a printable name."""
        raw = self.string()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise SignatureFormatError("a name is not UTF-8") from None
        if not text or not text.isprintable():
            raise SignatureFormatError("a name is empty or has characters that do not show")
        return text

    def mpint(self) -> int:
        """A positive number in its shortest form."""
        raw = self.string()
        # A second encoding of one number would be a second signature: refused, though ssh-keygen takes leading zeros.
        if not raw or raw[0] >= 0x80 or (raw[0] == 0 and raw[1:2] < b"\x80"):
            raise SignatureFormatError("a number is not positive or not in its shortest form")
        return int.from_bytes(raw, "big")

    def end(self) -> None:
        """Refuse bytes that are left over."""
        if self._at != len(self._data):
            raise SignatureFormatError("bytes are left over at the end")


def strings(*fields: bytes) -> bytes:
    """The fields, each after its length."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def shown(text: str) -> str:
    """A name from outside, for a message."""
    return ascii(text if len(text) <= 80 else text[:80] + "...")


def unbase64(text: bytes) -> bytes:
    """The bytes that canonical base64 stands for."""
    try:
        raw = binascii.a2b_base64(text)
    except ValueError:
        raise SignatureFormatError("the base64 text is malformed") from None
    # The decoder skips foreign characters, and lets the unused bits of the last one be anything even when strict.
    if binascii.b2a_base64(raw, newline=False) != text:
        raise SignatureFormatError("the base64 text is not canonical")
    return raw
