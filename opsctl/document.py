"""The draft's file: TOML front matter between `+++` lines, then the prompt, verbatim. Pure; bytes in, bytes out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from opsctl import ids, toml
from opsctl.errors import OpsError
from opsctl.models import Document, RunSettings, Target

LIMIT = 256 * 1024
"""Bytes of a whole file."""

EXECUTORS = ("claim", "provider", "exec")
FENCE = b"+++\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@:/-]{0,63}")
_OID = re.compile(r"[0-9a-f]{40}")
_BRANCH = re.compile(r"(?![-/.])(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)))[^\x00-\x20~^:?*\[\\\x7f]{1,250}(?<![/.])")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_LINE = re.compile(r"\(at line (\d+), column (\d+)\)")
_Reader = Callable[[str, Any], Any]
_FORM = "the file is +++, TOML, +++, then the prompt; see one: opsctl show ID --raw"


def digest_of(data: bytes) -> str:
    """The name of a revision: `sha256:` and 64 hex digits of the file's bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def short(digest: str) -> str:
    """The twelve hex digits by which people name a digest."""
    return digest.removeprefix("sha256:")[:12]


def parse(data: bytes) -> Document:
    """Read a file. Raises `bad_document` or `too_large`, naming the line or byte; never another exception."""
    check_bytes(data)
    if not data.startswith(FENCE):
        raise _bad("byte 0: the file must begin with a line of three plus signs (+++)")
    end = data.find(b"\n" + FENCE, len(FENCE) - 1)
    if end < 0:
        raise _bad("line 1: the front matter is not closed by a line of three plus signs (+++)")
    header, prompt = data[len(FENCE) : end + 1], data[end + 1 + len(FENCE) :]
    return _document(_toml(header.decode()), prompt.decode())


def check_bytes(data: bytes) -> None:
    """Refuse what no draft may hold: more than 256 KiB, NUL, invalid UTF-8."""
    if len(data) > LIMIT:
        raise OpsError("too_large", f"{len(data):,} bytes; a draft's file has at most {LIMIT:,}")
    nul = data.find(b"\0")
    if nul >= 0:
        raise _bad(f"byte {nul}: NUL")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise _bad(f"byte {error.start}: not UTF-8 ({error.reason})") from None


def build(document: Document) -> bytes:
    """The file of a document, checked by reading it back. Raises what `parse` raises."""
    rows = [f'id = "d_{document.ulid}"', f"title = {_quote(document.title)}"]
    if document.labels:
        rows.append(f"labels = {_value(list(document.labels))}")
    rows += [f"{name} = {_quote(text)}" for name in _TEXTS if (text := getattr(document, name))]
    rows += _table("context", {_quote(key): value for key, value in document.context.items()})
    target = {name: getattr(document.target, name) for name in Target.__slots__}
    rows += _table("target", {name: list(value) if name == "paths" else value for name, value in target.items()})
    rows += _table("run", {name: getattr(document.run, name) for name in RunSettings.__slots__})
    head = "+++\n" + "\n".join(rows) + "\n+++\n"
    try:
        data = (head + document.prompt).encode()
    except UnicodeEncodeError as error:
        raise _bad(f"character {error.start}: not encodable as UTF-8") from None
    parse(data)
    return data


def title_from(prompt: str) -> str:
    """A title for a draft that got none: the first line that says something, cut to 72 characters."""
    for line in prompt.splitlines():
        words = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line).split()).lstrip("#*->` ").strip()
        if words:
            return words if len(words) <= 72 else words[:71].rstrip() + "…"
    raise _bad("the prompt is empty")


def _document(table: Mapping[str, Any], prompt: str) -> Document:
    _known(table, ("id", "title", "labels", *_TEXTS, "context", "target", "run"), "")
    if not prompt.strip():
        raise _bad("the prompt is empty")
    return Document(
        ulid=_ulid("id", table.get("id")),
        title=_line("title", table.get("title"), 200),
        labels=tuple(_name("labels", label) for label in _list("labels", table.get("labels", []))),
        context={_name("context", key): _text(f"context.{key}", v) for key, v in _sub(table, "context").items()},
        target=_target(_sub(table, "target")),
        run=_run(_sub(table, "run")),
        prompt=prompt,
        **{name: _TEXTS[name](name, table[name]) for name in _TEXTS if name in table},
    )


def _target(table: Mapping[str, Any]) -> Target:
    _known(table, Target.__slots__, "target.")
    base, branch = table.get("base"), table.get("branch")
    if base is not None and not _OID.fullmatch(_text("target.base", base)):
        raise _bad("target.base must be a commit's 40 hex digits")
    if branch is not None and not _BRANCH.fullmatch(_text("target.branch", branch)):
        raise _bad("target.branch is not the name of a branch")
    return Target(base, branch, tuple(_glob(path) for path in _list("target.paths", table.get("paths", []))))


def _run(table: Mapping[str, Any]) -> RunSettings:
    _known(table, RunSettings.__slots__, "run.")
    return RunSettings(**{name: _RUN[name](f"run.{name}", value) for name, value in table.items()})


def _toml(text: str) -> Mapping[str, Any]:
    try:
        return toml.loads(text)
    except ValueError as error:
        where = _LINE.sub(lambda m: f"(line {int(m[1]) + 1}, column {m[2]})", str(error))
        raise _bad(f"front matter: {where}") from None


def _bad(message: str) -> OpsError:
    return OpsError("bad_document", message, hint=_FORM)


def _known(table: Mapping[str, Any], names: tuple[str, ...] | Any, prefix: str) -> None:
    for key in table:
        if key not in names:
            raise _bad(f"unknown key {prefix}{key!r}"[:200])


def _sub(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise _bad(f"{name} must be a table")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > 64:
        raise _bad(f"{name} must be a list of at most 64 strings")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _bad(f"{name} must be a string in quotes, not {type(value).__name__}")
    return value


def _line(name: str, value: Any, limit: int = 200) -> str:
    text = _text(name, value)
    if not text.strip() or len(text) > limit or re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text):
        raise _bad(f"{name} must be one line of 1 to {limit} characters")
    return text


def _name(name: str, value: Any) -> str:
    if not _NAME.fullmatch(_text(name, value)):
        raise _bad(
            f"{name}: {value[:60]!a} must be 1 to 64 of A-Z a-z 0-9 . _ + @ : / - and begin with a letter or digit"
        )
    return str(value)


def _ulid(name: str, value: Any) -> str:
    try:
        return ids.parse_full(_text(name, value), "d")
    except OpsError:
        raise _bad(f'{name} must be "d_" and 26 upper-case letters of a ULID') from None


def _glob(value: Any) -> str:
    text = _line("target.paths", value)
    if text.startswith("/") or "\\" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise _bad(f"target.paths: {text[:60]!a} must be a relative path or glob without . and .. parts")
    return text


def _executor(name: str, value: Any) -> str:
    if value not in EXECUTORS:
        raise _bad(f"{name} must be one of {', '.join(EXECUTORS)}")
    return str(value)


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise _bad(f"{name} must be a whole number from 1 to 1000000")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(f"{name} must be true or false")
    return value


def _time(name: str, value: Any) -> str:
    try:
        if _TIME.fullmatch(_text(name, value)) and datetime.fromisoformat(value).tzinfo is UTC:
            return str(value)
    except ValueError:
        pass
    raise _bad(f'{name} must be a UTC time such as "2030-01-31T12:00:00Z"')


_TEXTS: dict[str, _Reader] = {"provider": _line, "model": _line, "request": _text}
_RUN: dict[str, _Reader] = {
    "executor": _executor,
    "runner": _name,
    "max_runs": _count,
    "not_after": _time,
    "timeout_s": _count,
    "network": _flag,
    "parallel": _count,
}


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    rows = [f"{key} = {_value(value)}" for key, value in values.items() if value is not None and value != []]
    return [f"[{name}]", *rows] if rows else []


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_quote(item) for item in value) + "]"
    return _quote(value) if isinstance(value, str) else str(value).lower()


def _quote(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
