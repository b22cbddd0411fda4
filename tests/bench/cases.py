"""The claims, each measured beside plain git (or the floor of its kind) in the same run, taking turns."""

from __future__ import annotations

import compileall
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import opsctl
from opsctl import ids
from opsctl.history import History
from opsctl.ledger import Ledger
from opsctl.message import format_message
from opsctl.workspace.drafts import NewDraft
from tests.bench.build import approve_trailers
from tests.bench.lab import Lab, Site
from tests.bench.measure import Plan, Row, Times
from tests.bench.plumbing import Plumbing
from tests.bench.runs import append, carried_out, page

PENDING = 200
_PROMPT = "Retry the upload with jitter, at most five times, and log each failure with its cause.\n\n" * 6
_NEW = NewDraft(_PROMPT, title="Retry the upload")


def create(lab: Lab, plan: Plan) -> Iterator[Row]:
    """File a draft."""
    for size in plan.sizes:
        ours, anew, theirs = Times(), Times(), Times()
        one, other, third = (lab.copy(size, pending=PENDING) for _ in range(3))
        rival = Plumbing(other.path, other.environ)
        with one.ws() as ws:
            for _ in range(plan.rounds(15)):
                draft = ours.take(ws.drafts.create, _NEW)
                data = ws.drafts.content(draft)
                message = format_message(f"draft: {draft.document.title}", {"Ops-Kind": "draft", "Ops-Id": draft.ulid})
                theirs.take(rival.create, draft.path, data, message, draft.ulid)
                anew.take(_create_anew, third)
        _same(one, other, "ops/drafts")
        yield Row("create", f"draft, {size:,} items", ours, theirs, "git plumbing", at_least=8)
        yield Row("create", f"draft, {size:,} items, opened anew", anew, theirs, "git plumbing")


def _create_anew(site: Site) -> None:
    with site.ws() as ws:
        ws.drafts.create(_NEW)


def approve(lab: Lab, plan: Plan) -> Iterator[Row]:
    """Approve a draft, signed with a key file."""
    for size in plan.sizes:
        ours, anew, theirs = Times(), Times(), Times()
        one, other, third = (lab.copy(size, pending=PENDING) for _ in range(3))
        rival = Plumbing(other.path, other.environ)
        with one.ws() as ws:
            root, principal = ws.root(), ws.gate().policy.principals[0].name
            for draft in ws.drafts.list()[: plan.rounds(12)]:
                subject = f"approve: {draft.document.title}"
                message = format_message(subject, approve_trailers(draft.ulid, draft.digest, root, principal))
                again = format_message(f"merge: {subject}", {"Ops-Kind": "merge"})
                ours.take(ws.approvals.approve, draft.ulid)
                theirs.take(rival.approve, draft.path, message, again, draft.ulid)
                anew.take(_approve_anew, third, draft.ulid)
        _same(one, other, "ops/approved")
        _same(one, other, "ops/drafts")
        with other.ws() as ws:
            ws.gate()
        yield Row("approve", f"signed, {size:,} items", ours, theirs, "git plumbing", at_least=3.5)
        yield Row("approve", f"signed, {size:,} items, opened anew", anew, theirs, "git plumbing")


def _approve_anew(site: Site, ulid: str) -> None:
    with site.ws() as ws:
        ws.approvals.approve(ulid)


def _same(one: Site, other: Site, branch: str) -> None:
    """Both sides did the same job, or the comparison is worth nothing."""
    if one.tree(branch) != other.tree(branch):
        raise RuntimeError(f"{branch} differs between opsctl and git")


def listing(lab: Lab, plan: Plan) -> Iterator[Row]:
    """List the pending drafts."""
    least, most = plan.extremes
    small, large = lab.copy(least, pending=PENDING), lab.copy(most, pending=PENDING)
    ours, ours_small, theirs, full, opened, cold, colder = (Times() for _ in range(7))
    _listed(small, Times(), Times())
    for _ in range(plan.rounds(15)):
        _listed(large, ours, opened)
        found = theirs.take(large.git, *_DIFF)
        _listed(small, ours_small, Times())
        full.take(_read_by_git, large)
        if len(found.splitlines()) != PENDING:
            raise RuntimeError("git and opsctl do not list the same")
    for _ in range(plan.rounds(9)):
        _create_anew(large)
        _listed(large, cold, Times(), least=PENDING + 1)
        colder.take(large.git, *_DIFF)
    what = f"{PENDING} pending of {most:,}"
    yield Row("list", f"{what}, warm", ours, theirs, "git diff-tree", at_most=1)
    yield Row("list", f"{what}, warm", ours, ours_small, f"the same of {least:,}", at_most=2)
    yield Row("list", f"{what}, warm", ours, full, "git diff-tree, cat-file")
    yield Row("list", f"{what}, after one more", cold, colder, "git diff-tree")
    yield Row("list", f"open a Workspace, {most:,}", opened)


_DIFF = ("diff-tree", "-r", "--name-only", "ops/approved", "ops/drafts", "--", "ops/")


def _read_by_git(site: Site) -> None:
    """Names and texts of the drafts, which is what a list shows; git still does not say who wrote them."""
    rows = site.git(*(word for word in _DIFF if word != "--name-only")).splitlines()
    texts = site.git("cat-file", "--batch", stdin=b"\n".join(row.split()[3] for row in rows))
    if texts.count(b"\ntitle = ") < PENDING:
        raise RuntimeError("git did not read every draft")


def _listed(site: Site, times: Times, opened: Times, *, least: int = PENDING) -> None:
    with opened.take(site.ws) as ws:
        if len(times.take(ws.drafts.list)) < least:
            raise RuntimeError("drafts are missing")


def verify(lab: Lab, plan: Plan) -> Iterator[Row]:
    """Verify a history of which nothing is remembered."""
    size = max((size for size in plan.sizes if size <= 10_000), default=min(plan.sizes))
    site = lab.copy(size, pending=PENDING)
    sample = min(size, 200)
    with site.ws() as ws:
        signers = site.path.parent / "allowed_signers"
        signers.write_bytes(site.git("cat-file", "blob", "ops/approved:.opsctl/allowed_signers"))
        root, tip = ws.root(), ws.gate().tip
    log = ("-c", f"gpg.ssh.allowedSignersFile={signers}", "log", "--first-parent", "--format=%G?", f"-n{sample}")
    ours, theirs = Times(), Times()
    for _ in range(plan.rounds(3)):
        with site.ws() as ws:
            history = History(ws.repo, Ledger(None, root), root, common=ws.repo.common)
            ours.take(history.verify, tip, parts=size + 1)
        said = theirs.take(site.git, *log, "ops/approved", parts=sample)
        if said.split() != [b"G"] * sample:
            raise RuntimeError("git does not call every signature good")
    yield Row("verify", f"cold, a commit of {size:,}", ours, theirs, "git log %G?", at_least=50)


def gate(lab: Lab, plan: Plan) -> Iterator[Row]:
    """Open the gate when everything was verified before."""
    least, most = plan.extremes
    small, large = lab.copy(least, pending=PENDING), lab.copy(most, pending=PENDING)
    ours, theirs = Times(), Times()
    for _ in range(plan.rounds(25)):
        for site, times in ((large, ours), (small, theirs)):
            with site.ws() as ws:
                times.take(ws.gate)
    yield Row("gate", f"warm, {most:,} items", ours, theirs, f"the same of {least:,}", at_most=2)


def approver(lab: Lab, plan: Plan) -> Iterator[Row]:
    """Who approved an item: any item, not only a recent one."""
    size = max(plan.sizes)
    site = lab.copy(size, pending=PENDING)
    ours, whole, theirs = Times(), Times(), Times()
    with site.ws() as ws:
        ulids = ws.gate().scratch.ledger.ulids(size)
    for ulid in random.Random("approver").choices(sorted(ulids), k=plan.rounds(9)):
        with site.ws() as ws:
            ws.gate()
            decision = ours.take(ws.desk.last_decision, ulid)
        with site.ws() as ws:
            whole.take(ws.approvals.get, ulid)
        commit = theirs.take(site.git, "rev-list", "-1", "ops/approved", "--", ids.path_of(ulid))
        if decision is None or commit.decode().strip() not in _merged(site, decision.commit):
            raise RuntimeError(f"git and opsctl differ on {ulid}")
    yield Row("approver", f"decision on one of {size:,}, warm", ours, theirs, "git rev-list", at_least=50)
    yield Row("approver", f"item of {size:,}, opened anew", whole, theirs, "git rev-list", at_least=50)


def _merged(site: Site, commit: str) -> list[str]:
    """The commit and what it merged: for git the topic brought the file, for opsctl its merge."""
    return site.git("rev-list", "--parents", "-1", commit).decode().split()


_FLOOR = """\
import pydantic
import pygit2
import typer

app = typer.Typer()


@app.command()
def main() -> None:
    pass


app()
"""


def cli(lab: Lab, plan: Plan) -> Iterator[Row]:
    """A whole process that lists the drafts."""
    site = lab.copy(min(plan.sizes), pending=50)
    run = _processes(lab, site)
    yield from _beside_floor("cli", run, "list", plan.rounds(15), "opsctl list, 50 pending", at_most=1.3)


def version(lab: Lab, plan: Plan) -> Iterator[Row]:
    """A whole process that does next to nothing."""
    site = lab.copy(min(plan.sizes), pending=50)
    run = _processes(lab, site)
    yield from _beside_floor("version", run, "--version", plan.rounds(15), "opsctl --version", at_most=0.5)


_Run = Callable[..., subprocess.CompletedProcess[bytes]]


def _processes(lab: Lab, site: Site) -> _Run:
    """Runs a module of a compiled copy of the package, as an installed one would run."""
    place = lab.folder / "installed"
    if not place.exists():
        source = Path(opsctl.__file__).parent
        shutil.copytree(source, place / "opsctl", ignore=shutil.ignore_patterns("__pycache__"))
        (place / "floor.py").write_text(_FLOOR)
        compileall.compile_dir(place, quiet=1)
    environ = site.environ | {"PYTHONPATH": str(place)}

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-P", "-m", *arguments]
        return subprocess.run(command, cwd=site.path, env=environ, capture_output=True, check=False)

    return run


def _beside_floor(name: str, run: _Run, argument: str, rounds: int, what: str, *, at_most: float) -> Iterator[Row]:
    for command in (("opsctl", argument), ("floor",)):
        done = run(*command)  # once before the clock runs: the disk's cache is warm, and the ledger
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise Unmeasured(f"{what}: python -m {' '.join(command)} exits with {done.returncode}: {said}")
    ours, theirs = Times(), Times()
    for _ in range(rounds):
        ours.take(run, "opsctl", argument)
        theirs.take(run, "floor")
    yield Row(name, what, ours, theirs, "typer+pydantic+pygit2", at_most=at_most)


class Unmeasured(Exception):
    """Something that is to be measured does not run."""


CASES: dict[str, Callable[[Lab, Plan], Iterator[Row]]] = {
    "create": create,
    "approve": approve,
    "list": listing,
    "verify": verify,
    "gate": gate,
    "approver": approver,
    "cli": cli,
    "version": version,
    "run-event": append,
    "run-page": page,
    "run-exec": carried_out,
}
