"""Cases of single commands that nothing else tells: tags in front matter, drafts under the name of approved items,
an old library, what a revocation takes away, and the same answer from every place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Site

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.git.repo import LEAST_LIBGIT2
from opsctl.models import Finding, approved_json, draft_json
from opsctl.workspace.drafts import NewDraft

CANARY = "Move the vault to the cellar at noon."


def put(site: Site, ulid: str, data: bytes, *, branch: str = "refs/heads/ops/drafts") -> None:
    """Commit a draft's file with plain git, without a work tree."""
    rows = f"commit {branch}\ncommitter X <x@example.com> 1700000000 +0000\ndata 1\nx\nfrom {branch}^0\n"
    file = f"M 100644 inline {ids.path_of(ulid)}\ndata {len(data)}\n"
    site.git("fast-import", "--quiet", "--force", stdin=rows.encode() + file.encode() + data + b"\n")


def row(site: Site, *argv: str) -> Any:
    """What a command prints with `--json`."""
    return site.json(*argv)


def draft(site: Site, text: str = CANARY) -> str:
    """File a draft; its ULID."""
    return site.ok("draft", "--file", "-", stdin=text).removeprefix("d_")


def refused(site: Site, *argv: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """A refusal: one readable error, nothing on stdout, no decision and no note changed."""
    refs = ("for-each-ref", "refs/heads/ops/approved", "refs/notes")
    before = site.git(*refs)
    done = site.cli(*argv, stdin=stdin)
    assert done.returncode not in (0, 1), f"{argv}: {done.stdout}{done.stderr}"
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(("error: ", '{"error": '))
    assert len(done.stderr.splitlines()) <= 3
    assert site.git(*refs) == before
    return done


# -- TX-17, TX-14 -------------------------------------------------------------------------------------------------

TAGS = {
    "apply": "title: !!python/object/apply:os.system ['touch MARKER']",
    "new": "title: !!python/object/new:subprocess.Popen [['touch', 'MARKER']]",
    "module": "title: !!python/module:MARKER",
    "custom": "title: !item {x: 1}",
    "tag line": "%TAG ! tag:yaml.org,2002:python/\ntitle: !object/apply:os.system ['touch MARKER']",
    "value": 'title = !!python/object/apply:os.system ["touch MARKER"]',
    "code": "title = __import__('os').system('touch MARKER')",
    "shell": "title = `touch MARKER`",
    "pickle": "title = cos\nsystem\n(S'touch MARKER'\ntR.",
}
FENCES = {"toml": "+++", "yaml": "---", "tagged": "--- !!python/object/apply:os.system ['touch MARKER']"}


@pytest.mark.parametrize("fence", FENCES)
@pytest.mark.parametrize("name", TAGS)
def test_tx_17_tags_and_code_in_front_matter_are_refused_and_never_run(
    site: Site, tmp_path: Path, name: str, fence: str
) -> None:
    marker = tmp_path / "marker"
    mark = FENCES[fence].replace("MARKER", str(marker))
    ulid = draft(site, "Before.")
    head = TAGS[name].replace("MARKER", str(marker))
    data = f'{mark}\nid = "d_{ulid}"\n{head}\n{mark}\nDo it.\n'.encode()
    put(site, ulid, data)
    with site.ws() as ws:
        (listed,) = ws.drafts.list()
        assert listed.error
        with pytest.raises(OpsError) as caught:
            ws.approvals.approve(ulid, expect=listed.digest)
    assert caught.value.code == "bad_document"
    if name == "apply":
        assert listed.error in site.ok("show", ulid) or "unreadable" in site.ok("list")
        refused(site, "approve", f"{ulid}@{listed.digest}", "--yes")
        site.cli("diff", ulid)
        site.cli("doctor")
    assert not marker.exists()
    assert site.git("rev-list", "--count", "ops/approved") == "1"


@pytest.mark.parametrize("name", TAGS)
def test_tx_17_a_plan_or_policy_with_tags_is_refused_and_never_run(site: Site, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    text = TAGS[name].replace("MARKER", str(marker)) + "\n"
    with site.ws() as ws:
        before = ws.governing.policy()[1]
        for change, code in ((ws.governing.set_plan, "bad_plan"), (ws.governing.set_policy, "bad_policy")):
            for data in (text.encode(), before + text.encode()):
                with pytest.raises(OpsError) as caught:
                    change(data)
                assert caught.value.code == code
    assert not marker.exists()
    assert site.git("rev-list", "--count", "ops/approved") == "1"


def test_tx_17_as_a_prompt_the_same_text_is_only_text(site: Site, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = "\n".join(TAGS.values()).replace("MARKER", str(marker)) + "\n${HOME} {{ 7*7 }} $(touch x)\n"
    ulid = draft(site, text)
    site.ok("approve", ulid, "--yes")
    assert row(site, "show", f"a_{ulid}")["prompt"] == text
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["front matter", "aliases", "one line"])
def test_tx_14_front_matter_of_ten_mebibytes_is_refused_by_its_size(site: Site, kind: str) -> None:
    ulid, size = draft(site, "Before."), 10 * 1024 * 1024
    head = {
        "front matter": "x = 1\n" * (size // 6),
        "aliases": "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(size // 24)),
        "one line": f'title = "{"x" * size}"\n',
    }[kind]
    put(site, ulid, f'+++\nid = "d_{ulid}"\n{head}+++\nDo it.\n'.encode())
    (listed,) = row(site, "list")
    assert "bytes; at most 262,144 are read" in listed["error"]
    assert len(listed["prompt"] or "") < 1000
    done = refused(site, "approve", ulid, "--yes")
    assert "262,144" in done.stderr
    assert len(site.cli("show", ulid).stdout) < 10_000
    refused(site, "draft", "--file", "-", stdin=b"x" * size)


# -- ID-05, CC-19 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["whole", "suffix", "lower"])
def test_id_05_a_draft_named_as_approved_is_unknown_and_its_text_is_not_shown(site: Site, shape: str) -> None:
    ulid = draft(site)
    named = {"whole": f"a_{ulid}", "suffix": f"a_{ulid[-8:]}", "lower": f"a_{ulid.lower()}"}[shape]
    reason = ("--reason", "x")
    for argv in (
        *(("show", named, *more) for more in ((), ("--raw",), ("--json",))),
        ("diff", named),
        ("log", named),
        ("revoke", named, *reason),
    ):
        done = refused(site, *argv)
        assert done.returncode == 8, argv
        assert CANARY not in done.stderr
    with site.ws() as ws, pytest.raises(OpsError) as caught:
        ws.approvals.get(ulid)
    assert caught.value.code == "unknown_id"
    assert CANARY not in str(caught.value)


def test_id_05_where_only_an_approved_item_will_do_a_draft_is_refused(site: Site) -> None:
    ulid = draft(site)
    for named in (f"d_{ulid}", ulid, ulid[-8:]):
        done = refused(site, "revoke", named, "--reason", "x")
        assert (done.returncode, CANARY in done.stderr) == (3, False)
    plan = (
        'id = "p"\ntitle = "t"\nstatus = "on"\n[[task]]\nid = "x"\ntitle = "x"\nstatus = "todo"\napproved_id = "{}"\n'
    )
    for named in (f"d_{ulid}", f"a_{ulid}"):
        assert CANARY not in refused(site, "plan", "set", "-", stdin=plan.format(named)).stderr
    site.ok("reject", ulid)
    assert refused(site, "show", f"a_{ulid}").returncode == 8


def test_cc_19_what_was_listed_is_gone_for_the_next_command_once_it_is_revoked(site: Site) -> None:
    ulid = draft(site)
    site.ok("approve", ulid, "--yes")
    (listed,) = row(site, "list", "--status", "approved")
    assert CANARY in json.dumps(listed)
    with site.ws() as other:
        other.approvals.revoke(ulid, "no longer")
    for argv in (("show", f"a_{ulid}"), ("show", f"a_{ulid}", "--raw"), ("show", f"a_{ulid}", "--json")):
        done = refused(site, *argv)
        assert done.returncode == 4
        assert "revoked" in done.stderr
        assert CANARY not in done.stderr
    assert row(site, "list", "--status", "approved") == []
    with site.ws() as ws, pytest.raises(OpsError) as caught:
        ws.approvals.get(ulid)
    assert caught.value.code == "already_decided"


def test_cc_20_doctor_names_the_tip_that_was_lost_and_the_newest_decision_that_is_left(site: Site) -> None:
    first, second = draft(site, "One."), draft(site, "Two.")
    with site.ws() as ws:
        ws.approvals.approve(first)
    good = site.tip()
    with site.ws() as ws:
        ws.approvals.approve(second)
    lost = site.tip()
    (site.path / ".git/objects" / lost[:2] / lost[2:]).unlink()
    for tip in (lost, good):
        (site.path / ".git/refs/heads/ops/approved").write_text(tip + "\n")
        shown = site.cli("show", f"a_{first}")
        assert (shown.returncode, shown.stdout) == (5, "")
        done = site.cli("doctor")
        assert done.returncode == 5
        assert f"{lost} is not in this clone any more; the newest that is: {good}" in done.stdout


def test_rm_16_status_shows_the_age_of_the_newest_decision_however_often_a_frozen_remote_confirms(
    site: Site, tmp_path: Path
) -> None:
    site.home.git("init", "-q", "--bare", str(tmp_path / "hub.git"))
    site.git("remote", "add", "origin", str(tmp_path / "hub.git"))
    old = datetime.now(UTC) - timedelta(days=12)
    with site.ws(now=lambda: old) as ws:
        ws.approvals.approve(ws.drafts.create(NewDraft("One.")).ulid)
    for _ in range(2):
        site.ok("sync")
    told = row(site, "status")
    assert told["last_decision"] == old.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert told["last_sync"] > told["last_decision"]
    assert re.search(r"last decision +12 d", site.ok("status"))


# -- GT-25 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.9.6", "1.8.99", "0.28.0"])
def test_gt_25_a_libgit2_with_known_faults_is_refused_with_the_version_that_is_needed(
    site: Site, tmp_path: Path, version: str
) -> None:
    """The real library, that says another version of itself."""
    (tmp_path / "sitecustomize.py").write_text(f"import pygit2\npygit2.LIBGIT2_VERSION = {version!r}\n")
    path = f"{tmp_path}:{site.home.environ['PYTHONPATH']}"
    ulid = draft(site)
    before = site.git("for-each-ref")
    for argv in (
        ["list"],
        ["show", ulid],
        ["approve", ulid, "--yes"],
        ["verify"],
        ["init"],
        ["doctor"],
        ["draft", "x"],
    ):
        done = site.cli(*argv, env={"PYTHONPATH": path})
        assert (done.returncode, done.stdout) == (6, ""), argv
        assert f"libgit2 {version} is too old; {'.'.join(map(str, LEAST_LIBGIT2))} or newer is needed" in done.stderr
        assert "pip install" in done.stderr
    assert site.git("for-each-ref") == before
    assert version != "1.9.6" or site.cli("--version", env={"PYTHONPATH": path}).returncode == 0


@pytest.mark.parametrize("version", ["1.9.7", "1.10.0", "2.0.0"])
def test_gt_25_a_newer_libgit2_is_taken(site: Site, tmp_path: Path, version: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import pygit2\npygit2.LIBGIT2_VERSION = {version!r}\n")
    path = f"{tmp_path}:{site.home.environ['PYTHONPATH']}"
    assert site.cli("list", env={"PYTHONPATH": path}).returncode == 0


# -- M2 -----------------------------------------------------------------------------------------------------------


def test_m2_every_way_to_ask_gives_the_same_answer(site: Site, tmp_path: Path) -> None:
    """The present faces: the commands, the package, plain git; from the repository, a folder of it, a work tree."""
    approved, waiting = draft(site), draft(site, "Another.")
    site.ok("approve", approved, "--yes")
    (listed,) = row(site, "list", "--status", "approved")
    shown = row(site, "show", f"a_{approved}")
    with site.ws() as ws:
        item, data = ws.approvals.get(approved)
        decisions = [one.commit for one in ws.approvals.log()]
        report = json.loads(json.dumps(ws.verification.verify().as_json()))
        (pending,) = ws.drafts.list()
    assert listed == shown == json.loads(json.dumps(approved_json(item)))
    assert site.ok("show", f"a_{approved}", "--raw") == data.decode().strip()
    assert site.git("cat-file", "blob", f"ops/approved:{shown['path']}") == data.decode().strip()
    assert [one["commit"] for one in row(site, "log")] == decisions
    assert decisions == site.git("rev-list", "--first-parent", "ops/approved").split()
    assert row(site, "verify") == report
    assert row(site, "list") == [row(site, "show", waiting)] == [json.loads(json.dumps(draft_json(pending)))]
    linked = tmp_path / "linked"
    site.git("worktree", "add", "-q", "--detach", str(linked))
    for place in (site.path / "src", linked, site.path / ".git"):
        assert json.loads(site.cli("show", f"a_{approved}", "--json", cwd=place).stdout) == shown
        assert json.loads(site.cli("verify", "--json", cwd=place).stdout) == report
    script = Path(sys.executable).with_name("git-ops")
    if script.exists():
        environ = {**site.home.environ, "PATH": f"{script.parent}:{site.home.environ['PATH']}"}
        command = [shutil.which("git") or "git", "ops", "show", f"a_{approved}", "--json"]
        done = subprocess.run(command, cwd=site.path, env=environ, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == shown


def test_m2_a_closed_gate_is_the_same_refusal_everywhere(site: Site) -> None:
    approved = draft(site)
    site.ok("approve", approved, "--yes")
    bad = site.git("commit-tree", "-p", "ops/approved", "-m", "unsigned", "ops/approved^{tree}")
    site.git("update-ref", "refs/heads/ops/approved", bad)
    for argv in (("show", f"a_{approved}"), ("list", "--status", "approved"), ("log",), ("plan", "show")):
        done = refused(site, *argv)
        assert (done.returncode, bad[:12] in done.stderr) == (5, True), argv
    done = site.cli("verify", "--json")
    (finding,) = json.loads(done.stdout)["findings"]
    assert (done.returncode, finding["commit"]) == (5, bad)
    with site.ws() as ws, pytest.raises(OpsError) as caught:
        ws.approvals.get(approved)
    found = caught.value.detail["finding"]
    assert isinstance(found, Finding)
    assert (found.commit, found.rule) == (bad, finding["rule"])
