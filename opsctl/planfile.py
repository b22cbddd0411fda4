"""`plan.toml`: the active list of tasks. Pure; bytes in, values out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from opsctl import ids, toml
from opsctl.errors import OpsError

PLAN_PATH = "plan.toml"
LIMIT = 256 * 1024
STATES = ("todo", "doing", "done", "blocked")
_KEYS = "keys: id, title, status, and for each [[task]] id, title, status, approved_id"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Task:
    """One task; `approved_id` points at the approved item that carries it out."""

    id: str
    title: str
    status: str
    approved_id: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The active plan."""

    id: str
    title: str
    status: str
    tasks: tuple[Task, ...]


def parse(data: bytes) -> Plan:
    """Read a plan. Raises `bad_plan` naming the key."""
    table = _table(_toml(data), ("id", "title", "status", "task"), "the file")
    rows = table.get("task", [])
    if not isinstance(rows, list) or len(rows) > 1000:
        raise _bad("task must be a list of at most 1000 tables ([[task]])")
    tasks = tuple(_task(row) for row in rows)
    if len({task.id for task in tasks}) != len(tasks):
        raise _bad("two tasks have the same id")
    return Plan(_id("id", table), _line("title", table), _line("status", table), tasks)


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan as `--json` and HTTP print it."""
    tasks = [
        {"id": task.id, "title": task.title, "status": task.status, "approved_id": task.approved_id}
        for task in plan.tasks
    ]
    return {"id": plan.id, "title": plan.title, "status": plan.status, "tasks": tasks}


def _task(row: Any) -> Task:
    table = _table(row, ("id", "title", "status", "approved_id"), "task")
    if table.get("status") not in STATES:
        raise _bad(f"task.status must be one of {', '.join(STATES)}")
    return Task(_id("task.id", table), _line("title", table), table["status"], _approved(table.get("approved_id")))


def _approved(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return f"a_{ids.parse_full(value, 'a')}" if isinstance(value, str) else _no_id()
    except OpsError:
        return _no_id()


def _no_id() -> str:
    raise _bad('task.approved_id must be "a_" and 26 upper-case letters of a ULID')


def _toml(data: bytes) -> Any:
    try:
        return toml.read(data, LIMIT)
    except ValueError as error:
        raise _bad(str(error)) from None


def _table(value: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{what} must be a table")
    for key in value:
        if key not in names:
            raise _bad(f"unknown key {key[:60]!r} in {what}")
    return value


def _id(name: str, table: dict[str, Any]) -> str:
    value = table.get("id")
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise _bad(f"{name} must be 1 to 64 of A-Z a-z 0-9 . _ -")
    return value


def _line(name: str, table: dict[str, Any]) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > 200 or re.search(r"[\x00-\x1f\x7f]", value):
        raise _bad(f"{name} must be one line of 1 to 200 characters")
    return value


def _bad(message: str) -> OpsError:
    return OpsError("bad_plan", f"plan.toml: {message}", hint=_KEYS)
