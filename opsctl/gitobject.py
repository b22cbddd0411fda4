"""Git's objects as small immutable values, read strictly from raw bytes. Pure; imports errors.

The trust rule judges these bytes and nothing that git derives from them, so whatever git would tolerate and a
second reader could take differently (unsorted trees, odd modes, extra headers) is a `MalformedObject` here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from opsctl.errors import OpsError

BLOB, TREE, COMMIT = "blob", "tree", "commit"
FILE, FOLDER = "100644", "40000"
_MODES = {mode.encode(): mode for mode in ("100644", "100755", "120000", "40000", "160000")}
_FOLDER = FOLDER.encode()
_DOTS = frozenset({".", ".."})
_ENTRY = re.compile(rb"([0-7]{5,6}) ([^/\x00]+)\x00([\x00-\xff]{20})")
_TREE = re.compile(rb"(?:[0-7]{5,6}+ [^/\x00]++\x00[\x00-\xff]{20})*+")  # possessive: linear in hostile bytes too
_OID = re.compile(rb"[0-9a-f]{40}")
_FIRST = re.compile(rb"tree [0-9a-f]{40}\nparent ([0-9a-f]{40})\n")
_PERSON = re.compile(rb"[^\x00-\x1f<>\x7f]*<[^\x00-\x1f<>\x7f]*> [0-9]{1,18} [+-][0-9]{4}")


class MalformedObject(OpsError):
    """The bytes are not an object in the one form that is accepted here."""

    def __init__(self, message: str) -> None:
        super().__init__("corrupt_object", message, hint="`opsctl doctor` says what is affected")


def object_id(kind: str, data: bytes) -> str:
    """Git's SHA-1 name of an object."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


class Entry(NamedTuple):
    """One line of a tree: mode as git writes it (no leading zero) and the object's hex id."""

    mode: str
    oid: str

    @property
    def is_folder(self) -> bool:
        """True for a subtree."""
        return self.mode == FOLDER


_entry = partial(tuple.__new__, Entry)  # as Entry(...) in half the time; a long history has millions of them
Tree = Mapping[str, Entry]


def parse_tree(data: bytes) -> dict[str, Entry]:
    """Entries by name, which must be unique, in git's order and free of slashes and NUL.

    A byte that is not UTF-8 becomes a lone surrogate: such a name is shown and refused where a name matters.
    """
    if _TREE.fullmatch(data) is None:
        raise MalformedObject("tree is cut off or has an unusable entry")
    rows = _ENTRY.findall(data)
    keys = [name + b"/" if mode == _FOLDER else name for mode, name, _ in rows]
    try:
        entries = {
            name.decode("utf-8", "surrogateescape"): _entry((_MODES[mode], oid.hex())) for mode, name, oid in rows
        }
    except KeyError:
        raise MalformedObject("tree has an entry of an odd mode") from None
    if len(entries) != len(rows) or keys != sorted(keys) or entries.keys() & _DOTS:
        raise MalformedObject("tree has entries out of order, twice, or of an odd name")
    return entries


def format_tree(entries: Tree) -> bytes:
    """The bytes of a tree, in git's order."""
    rows = []
    for name, entry in entries.items():
        raw = name.encode("utf-8", "surrogateescape")
        line = b"%s %s\0%s" % (entry.mode.encode(), raw, bytes.fromhex(entry.oid))
        rows.append((raw + b"/" if entry.is_folder else raw, line))
    return b"".join(line for _, line in sorted(rows))


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit in strict form: headers tree, parents, author, committer and at most one gpgsig, in that order."""

    tree: str
    parents: tuple[str, ...]
    author: str
    committer: str
    message: str
    gpgsig: bytes | None
    payload: bytes
    """The bytes that the signature is over: the commit without its gpgsig header."""


def parse_commit(data: bytes) -> Commit:
    """Read a commit. Raises `MalformedObject` for any other header, order, encoding, or a NUL."""
    if b"\0" in data:
        raise MalformedObject("commit holds a NUL byte")
    head, gap, body = data.partition(b"\n\n")
    if not gap:
        raise MalformedObject("commit has no message")
    lines = head.split(b"\n")
    tree = _header(lines, b"tree", _OID)
    parents = []
    while lines and lines[0].startswith(b"parent "):
        parents.append(_header(lines, b"parent", _OID))
    author, committer = _header(lines, b"author", _PERSON), _header(lines, b"committer", _PERSON)
    unsigned = len(head) - sum(len(line) + 1 for line in lines)
    signature = _signature(lines)
    payload = data[:unsigned] + b"\n\n" + body
    return Commit(tree, tuple(parents), author, committer, _text(body, "message"), signature, payload)


def first_parent(data: bytes) -> str | None:
    """The first parent of a commit, for finding the way only: nothing else is checked. None: take a closer look."""
    match = _FIRST.match(data)
    return match[1].decode() if match else None


def _header(lines: list[bytes], name: bytes, form: re.Pattern[bytes]) -> str:
    line = lines.pop(0) if lines else b""
    key, _, value = line.partition(b" ")
    if key != name or form.fullmatch(value) is None:
        raise MalformedObject(f"expected the header {name.decode()!r}, found {line[:60]!r}")
    return _text(value, "header")


def _signature(lines: list[bytes]) -> bytes | None:
    """The value of a single gpgsig header that makes up all the remaining lines."""
    if not lines:
        return None
    first, rest = lines[0], lines[1:]
    if not first.startswith(b"gpgsig "):
        raise MalformedObject(f"unexpected header {first[:60]!r}")
    if not all(line.startswith(b" ") for line in rest):
        raise MalformedObject("more than one header after the committer")
    return b"\n".join([first[7:], *(line[1:] for line in rest)]) + b"\n"


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedObject(f"{what} is not UTF-8") from error


def format_commit(*, tree: str, parents: tuple[str, ...], author: str, committer: str, message: str) -> bytes:
    """The payload of a commit: what is signed, and what an unsigned commit consists of."""
    rows = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {author}", f"committer {committer}"]
    return ("\n".join(rows) + "\n\n" + message).encode()


def with_signature(payload: bytes, armored: bytes) -> bytes:
    """The commit that carries this signature as its last header."""
    head, _, body = payload.partition(b"\n\n")
    folded = armored.strip(b"\n").replace(b"\n", b"\n ")
    return head + b"\ngpgsig " + folded + b"\n\n" + body


def format_person(name: str, email: str, seconds: int) -> str:
    """An author or committer value; characters that git forbids in names are left out. Times are UTC."""
    forbidden = dict.fromkeys([*range(32), 127, ord("<"), ord(">")])
    clean_name, clean_email = name.translate(forbidden).strip(" .,:;\"'"), email.translate(forbidden).strip()
    return f"{clean_name or 'unknown'} <{clean_email}> {max(0, seconds)} +0000"
