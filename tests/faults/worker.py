"""One use case in a process of its own: `worker.py VERB ARGUMENT…`, in the repository that is the working directory.

What was done is acknowledged as one JSON line on stdout, after it was done; a refusal is a JSON line on stderr and the
exit status of its kind. Status 70 is a traceback: a bug. `--server` forks a process for each request (imports are paid
once, and what is killed is still a whole process); `--resident` answers requests by itself, for races that need many.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opsctl.errors import OpsError
from opsctl.workspace import Workspace
from opsctl.workspace.drafts import Filter, NewDraft

BUG = 70
INTERRUPTED = 130


def clock() -> datetime:
    """The time, or the one that FAULTS_NOW holds fast."""
    fixed = os.environ.get("FAULTS_NOW")
    return datetime.fromisoformat(fixed) if fixed else datetime.now(UTC)


def opened() -> Workspace:
    """The workspace of the working directory, as a fresh command opens it."""
    return Workspace(Path.cwd(), environ=os.environ, now=clock)


# -- verbs ---------------------------------------------------------------------------------------------------------


def init(ws: Workspace) -> dict[str, Any]:
    founded = ws.founding.init(name=None, email=None, audience="acme/app", generate_key=False)
    return {"root": founded.root}


def draft(ws: Workspace, title: str, count: str = "1") -> dict[str, Any]:
    made = [ws.drafts.create(NewDraft(prompt=f"Do {title}, part {i}.\n", title=title)) for i in range(int(count))]
    return {"ulids": [one.ulid for one in made], "digests": [one.digest for one in made]}


def edit(ws: Workspace, ulid: str, prompt: str) -> dict[str, Any]:
    after, changed = ws.drafts.edit(ulid, prompt=prompt + "\n")
    return {"ulid": ulid, "digest": after.digest, "changed": changed}


def approve(ws: Workspace, ulid: str, expect: str | None = None) -> dict[str, Any]:
    outcome = ws.approvals.approve(ulid, expect=expect)
    item = outcome.item
    commit = item.decision.commit if item else None
    return {"ulid": ulid, "digest": outcome.digest, "commit": commit, "already": outcome.already}


def approve_seen(ws: Workspace, ulid: str) -> dict[str, Any]:
    """Read, then approve what was read, as a reviewer does; again when it changed meanwhile."""
    named: list[str] = []
    for _ in range(40):
        named.append(ws.drafts.get(ulid).digest)
        try:
            return approve(ws, ulid, named[-1]) | {"named": named}
        except OpsError as error:
            if error.code not in ("stale_revision", "ref_conflict"):
                raise OpsError(error.code, error.message, detail={"named": named}) from None
            ws = opened()
    return {"ulid": ulid, "named": named, "commit": None}


def approve_each(ws: Workspace, *ulids: str) -> dict[str, Any]:
    """One after the other, each by a fresh workspace; each is acknowledged on a line of its own."""
    retries = 0
    for ulid in ulids:
        for attempt in range(6):
            try:
                with opened() as fresh:
                    print(json.dumps(approve(fresh, ulid)), flush=True)
                break
            except OpsError as error:
                if error.code != "ref_conflict" or attempt == 5:
                    raise
                retries += 1
    return {"retries": retries}


def reject(ws: Workspace, ulid: str, reason: str = "not now") -> dict[str, Any]:
    _, changed = ws.drafts.reject(ulid, reason)
    return {"ulid": ulid, "changed": changed}


def give_back(ws: Workspace, ulid: str, reason: str = "say more") -> dict[str, Any]:
    return {"ulid": ulid, "reason": ws.drafts.give_back(ulid, reason).reason}


def revoke(ws: Workspace, ulid: str, reason: str = "not any more") -> dict[str, Any]:
    decision, is_new = ws.approvals.revoke(ulid, reason)
    return {"ulid": ulid, "commit": decision.commit, "new": is_new}


def plan(ws: Workspace, title: str) -> dict[str, Any]:
    data = f'id = "p"\ntitle = "{title}"\nstatus = "active"\n'.encode()
    _, decision = ws.governing.set_plan(data)
    return {"commit": decision.commit if decision else None}


def get(ws: Workspace, ulid: str) -> dict[str, Any]:
    """An approved item, with the digest of the bytes that an agent would receive."""
    item, data = ws.approvals.get(ulid)
    return {"digest": item.decision.digest, "served": "sha256:" + hashlib.sha256(data).hexdigest()}


def listed(ws: Workspace, status: str = "all") -> dict[str, Any]:
    found = ws.drafts.list(Filter(status=status))
    return {"items": {one.ulid: one.status for one in found}, "errors": {o.ulid: o.error for o in found if o.error}}


def state(ws: Workspace) -> dict[str, Any]:
    """Everything that a person can see, as one value."""
    by_status = {
        status: {one.ulid: one.digest for one in ws.drafts.list(Filter(status=status))}
        for status in ("draft", "approved", "rejected", "revoked")
    }
    log = [[one.kind, one.ulid] for one in ws.approvals.log()]
    return by_status | {"log": log, "served": {ulid: get(ws, ulid)["served"] for ulid in by_status["approved"]}}


def carried_out(ws: Workspace, item: str, executor: str = "exec") -> dict[str, Any]:
    """A run of an approved item, by the default runner and without a sandbox, to its end."""
    from opsctl.runterms import Wish
    from opsctl.workspace.executing import Settings

    run, hold = ws.runs.create(item, Wish(executor))
    if hold:
        run = ws.executing.carry_out(run, hold, Settings(sandbox=False), lambda _: None)
    return {"run": run.ulid, "status": run.status, "message": run.message, "result": run.result}


def recorded(ws: Workspace) -> dict[str, Any]:
    """The runs, by id."""
    return {"runs": {run.ulid: [run.status, run.result] for run in ws.runs.page(limit=1000)}}


def hold_lock(ws: Workspace, seconds: str) -> dict[str, Any]:
    with ws.store.lock():
        print(json.dumps({"held": os.getpid()}), flush=True)
        time.sleep(float(seconds))
    return {}


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    "init": init,
    "draft": draft,
    "edit": edit,
    "approve": approve,
    "approve-seen": approve_seen,
    "approve-each": approve_each,
    "reject": reject,
    "return": give_back,
    "revoke": revoke,
    "plan": plan,
    "get": get,
    "list": listed,
    "state": state,
    "hold-lock": hold_lock,
    "run": carried_out,
    "runs": recorded,
}


# -- one command ---------------------------------------------------------------------------------------------------


def answer(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """Exit status and what to print for one command."""
    try:
        with opened() as ws:
            return 0, VERBS[arguments[0]](ws, *arguments[1:])
    except OpsError as error:
        said = {"code": error.code, "message": error.message, "cause": error.cause, "hint": error.hint}
        return error.exit_code, said | {"named": error.detail.get("named")}
    except KeyboardInterrupt:
        return INTERRUPTED, {"code": "interrupted"}
    except BaseException:
        return BUG, {"code": "traceback", "message": traceback.format_exc()}


def main(arguments: list[str]) -> int:
    """Run one command and print its answer."""
    try:
        status, said = answer(arguments)
        print(json.dumps(said), file=sys.stderr if status else sys.stdout, flush=True)
    except KeyboardInterrupt:  # it came while the answer was printed
        return INTERRUPTED
    return status


# -- many commands -------------------------------------------------------------------------------------------------


def serve() -> None:
    """Fork a process for each request line; answer with how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child takes interrupts from the moment its command begins
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(request)
        status = _waited(child, request["limit_s"], request.get("interrupt_after"))
        print(json.dumps({"status": status, "seconds": time.monotonic() - started}), flush=True)


def _waited(child: int, limit_s: float, interrupt_after: float | None) -> int | None:
    """The exit status (negative: a signal), or None for a process that had to be ended after `limit_s`."""
    begun, hung = time.monotonic(), False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return None if hung else os.waitstatus_to_exitcode(status)
        spent = time.monotonic() - begun
        if interrupt_after is not None and spent >= interrupt_after:
            os.kill(child, signal.SIGINT)
            interrupt_after = None
        if spent > limit_s:
            os.kill(child, signal.SIGKILL)
            hung = True
        time.sleep(0.001)


def _become(request: dict[str, Any]) -> None:
    status = BUG
    try:
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, 64)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        for name, value in request["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        if "FAULT_STATE" in os.environ:
            ctypes.CDLL(None).fault_arm()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = main(request["argv"])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def reside() -> None:
    """Answer each request line in this very process, at the moment that it names."""
    for line in sys.stdin:
        request = json.loads(line)
        while time.monotonic() < request.get("at", 0):
            pass
        status, said = answer(request["argv"])
        print(json.dumps({"status": status, **said}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--server"]:
        serve()
    elif sys.argv[1:] == ["--resident"]:
        reside()
    else:
        sys.exit(main(sys.argv[1:]))
