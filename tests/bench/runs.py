"""What runs cost: an event in the record, a page of the list, and everything but the program of an exec run."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from opsctl import ids, runrecord
from opsctl.document import digest_of
from opsctl.gitobject import FILE, FOLDER, Entry, format_tree
from opsctl.models import RunSettings
from opsctl.notes import RUNS, Append
from opsctl.runterms import Wish
from opsctl.workspace.drafts import NewDraft
from opsctl.workspace.executing import Settings
from tests.bench.lab import Lab, Site
from tests.bench.measure import Plan, Row, Times
from tests.bench.plumbing import DURABLE

FILES = 2000
"""Of the work tree that a run starts from."""

_EACH = 100
"""Runs of one item."""


def append(lab: Lab, plan: Plan) -> Iterator[Row]:
    """Add an event to the record, beside so many notes."""
    least, most = plan.extremes
    small, large = (_noted(lab, least, count) for count in (least, most))
    ours, ours_small, whole, theirs, durable = (Times() for _ in range(5))
    for _ in range(plan.rounds(15)):
        for site, times in ((large, ours), (small, ours_small)):
            _append(site, times)
        _reported(large, whole)
        theirs.take(large.git, *_appended(large))
        durable.take(large.git, *DURABLE, *_appended(large))
    what = f"an event beside {most:,} notes"
    yield Row("run-event", what, ours, theirs, "git notes append", at_most=1)
    yield Row("run-event", what, ours, durable, "git notes append, fsync", at_most=1)
    yield Row("run-event", what, ours, ours_small, f"the same of {least:,}", at_most=3)
    yield Row("run-event", f"a worker's report, {most:,}", whole, theirs, "git notes append", at_most=1)


def _append(site: Site, times: Times) -> None:
    with site.ws() as ws:
        row = Append(site.tree_of_tip(), (b'{"a":"line"}',))
        with ws.store.lock():
            times.take(ws.runbook.notes.append, [row], "bench", ws.who)


def _appended(site: Site) -> tuple[str, ...]:
    return ("notes", f"--ref={RUNS}", "append", "-m", '{"a":"line"}', site.tree_of_tip())


def _reported(site: Site, times: Times) -> None:
    with site.ws() as ws:
        active = ws.runbook.live.active()
        if not active:
            item = ws.runs.create(_item(site), Wish("claim"))[0]
            site.tokens.append(ws.runs.claim(item.ulid, seconds=86400).token)
            active = [item]
    with site.ws() as ws:
        times.take(lambda: ws.runs.report(active[0].ulid, site.tokens[-1], message="going on"))


def _item(site: Site) -> str:
    """Some approved item."""
    with site.ws() as ws:
        return sorted(ws.gate().scratch.ledger.ulids(ws.gate().count - 1))[-1]


def _noted(lab: Lab, size: int, count: int) -> Site:
    """A site with so many notes, each on an object that need not be there, in folders of two digits."""
    site = lab.copy(size, pending=0)
    folders: dict[str, dict[str, Entry]] = {}
    blob = site.git("hash-object", "-w", "--stdin", stdin=b'{"a":"line"}\n').decode().strip()
    for number in range(count):
        name = hashlib.sha1(b"%d" % number, usedforsecurity=False).hexdigest()
        folders.setdefault(name[:2], {})[name[2:]] = Entry(FILE, blob)
    trees = {name: Entry(FOLDER, _tree(site, entries)) for name, entries in folders.items()}
    _committed(site, _tree(site, trees))
    return site


def _tree(site: Site, entries: dict[str, Entry]) -> str:
    return site.git("hash-object", "-w", "-t", "tree", "--stdin", stdin=format_tree(entries)).decode().strip()


def _committed(site: Site, tree: str) -> None:
    commit = site.git("commit-tree", "-m", "notes", tree).decode().strip()
    site.git("update-ref", RUNS, commit)


def page(lab: Lab, plan: Plan) -> Iterator[Row]:
    """The first page of many runs."""
    least = min(plan.sizes)
    many = 50_000 if max(plan.sizes) >= 1000 else 500
    large, small = _run_often(lab, least, many), _run_often(lab, least, max(many // 100, 5))
    ours, theirs, cold, after = (Times() for _ in range(4))
    with large.ws() as ws:
        cold.take(ws.runs.page)
    _paged(small, Times())
    for _ in range(plan.rounds(25)):
        _paged(large, ours)
        _paged(small, theirs)
    for _ in range(plan.rounds(5)):
        _append_to_item(large)
        _paged(large, after)
    yield Row("run-page", f"first page of {many:,} runs, warm", ours, theirs, f"of {many // 100:,}", at_most=2)
    yield Row("run-page", f"first page of {many:,} runs, cold", cold)
    yield Row("run-page", f"first page of {many:,} runs, after one more event", after)


def _paged(site: Site, times: Times) -> None:
    with site.ws() as ws:
        times.take(lambda: ws.runs.suffixes(ws.runs.page(limit=50)))


def _append_to_item(site: Site) -> None:
    with site.ws() as ws:
        run = ws.runs.page(limit=1)[0]
        with ws.store.lock():
            ws.runbook.add(run, "message", {"message": "x"})


def _run_often(lab: Lab, size: int, count: int) -> Site:
    """A site with so many runs, a hundred of each of the newest items."""
    site = lab.copy(size, pending=0)
    with site.ws() as ws:
        gate = ws.gate()
        wanted = sorted(gate.scratch.ledger.ulids(gate.count - 1))[-max(1, count // _EACH) :]
        rows = []
        for number, item in enumerate(wanted):
            decision = ws.desk.last_decision(item)
            assert decision
            share = count // len(wanted) + (number < count % len(wanted))
            lines = [line for _ in range(share) for line in _run_lines(ws.new_ulid, item, decision.digest)]
            rows.append(Append(decision.commit, tuple(line.encode() for line in lines)))
        with ws.store.lock():
            ws.runbook.notes.append(rows, "bench", ws.who)
        if len(ws.runs.page(limit=10**6)) != count:
            raise RuntimeError("runs are missing")
        (ws.memory().folder / "runs.sqlite").unlink()
    return site


def _run_lines(new_ulid: object, item: str, digest: str) -> Iterator[str]:
    """A run that is done."""
    assert callable(new_ulid)
    ulid = new_ulid()
    at = ids.created_at(ulid)
    made = {"item": f"a_{item}", "digest": digest, "executor": "claim", "by": "Alice"}
    yield runrecord.format_event(runrecord.Event(ulid, ulid, "created", at, made))
    ended = {"message": "all is well", "output_bytes": 12, "cut_bytes": 0}
    yield runrecord.format_event(runrecord.Event(new_ulid(), ulid, "done", at + timedelta(seconds=1), ended))


def carried_out(lab: Lab, plan: Plan) -> Iterator[Row]:
    """An exec run whose program does nothing, beside a shallow clone of what it starts from."""
    sizes = (min(plan.sizes), max((size for size in plan.sizes if size <= 10_000), default=min(plan.sizes)))
    small, large = (_with_files(lab, size) for size in sizes)
    program, ours, ours_small, theirs = (Times() for _ in range(4))
    for number in range(plan.rounds(9)):
        for site, times in ((large, ours), (small, ours_small)):
            _carry_out(site, times)
        place = large.path.parent / f"clone-{number}"
        command = ("clone", "-q", "--depth", "1", "--branch", "main", f"file://{large.path}", str(place))
        theirs.take(large.git, *command)
        program.take(subprocess.check_call, ["/bin/sh", "-c", "cat < /dev/null > /dev/null"])
    what = f"exec run, base of {FILES:,} files"
    yield Row("run-exec", f"{what}, {sizes[1]:,} items", ours, theirs, "git clone --depth 1", at_most=2)
    yield Row("run-exec", f"{what}, {sizes[1]:,} items", ours, ours_small, f"the same of {sizes[0]:,}", at_most=1.2)
    yield Row("run-exec", "the program alone", program)


def _with_files(lab: Lab, size: int) -> Site:
    """A site whose main branch has a work tree of files, with one item that may be run often."""
    site = lab.copy(size, pending=0)
    config = Path(site.environ["XDG_CONFIG_HOME"]) / "opsctl" / "runners.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('[runner.nothing]\ncommand = ["/bin/sh", "-c", "cat > /dev/null"]\nsandbox = false\n')
    for number in range(FILES):
        file = site.path / f"src/part{number % 40:02}/module{number:04}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# module {number}\n" + "value = compute(value)\n" * (number % 90))
    site.git("add", "src")
    site.git("commit", "-q", "-m", "files")
    site.git("gc", "-q")
    with site.ws() as ws:
        draft = ws.drafts.create(NewDraft("Do nothing.\n", title="Nothing", run=RunSettings(parallel=1000)))
        ws.approvals.approve(draft.ulid)
        assert digest_of(ws.approvals.get(draft.ulid)[1]) == draft.digest
    site.tokens.append(draft.ulid)
    return site


def _carry_out(site: Site, times: Times) -> None:
    with site.ws() as ws:

        def run() -> str:
            made, hold = ws.runs.create(site.tokens[0], Wish("exec"))
            assert hold
            return ws.executing.carry_out(made, hold, Settings(), lambda _: None).status

        if times.take(run) != "done":
            raise RuntimeError("a run did not end well")
