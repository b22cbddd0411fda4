"""Reading TOML that strangers wrote: the standard library's parser, kept from what it takes badly. Imports nothing."""

from __future__ import annotations

import re
import tomllib
from typing import Any

_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")


def loads(text: str) -> dict[str, Any]:
    """The table of a TOML text. Raises `ValueError` with a message that may be shown, and nothing else.

    Refused besides what TOML forbids: nesting that exhausts the stack, integers of thousands of digits, and keys of
    more than 64 parts, whose reading takes time with the square of their length.
    """
    if _LONG_KEY.search(text):
        raise ValueError("a key has more than 64 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read(data: bytes, limit: int) -> dict[str, Any]:
    """The table of a file of at most `limit` bytes. Raises `ValueError` like `loads`, and for what is not UTF-8."""
    if len(data) > limit or b"\0" in data:
        raise ValueError(f"the file is larger than {limit // 1024} KiB or holds a NUL byte")
    return loads(data.decode())
