"""What comes back of an exec run, and what its program can reach: real programs, with and without a sandbox."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Site
from runrig import BWRAP, WALLS, Rig, eventually, make_rig

from opsctl.errors import OpsError
from opsctl.git.lock import RepoLock
from opsctl.runterms import Wish

GIT = "git -c user.name=Agent -c user.email=agent@example.com"


@pytest.fixture(params=WALLS)
def rig(site: Site, request: pytest.FixtureRequest) -> Rig:
    """The rig, without and with a sandbox."""
    return make_rig(site, walls=request.param)


@pytest.fixture
def bare(site: Site) -> Rig:
    """The rig without a sandbox, for what has nothing to do with one."""
    return make_rig(site, walls=False)


def _state(root: Path) -> dict[str, str]:
    """Every file below a folder with its digest."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or path.is_file():
            data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(root))] = hashlib.sha256(data).hexdigest()
    return found


# -- what comes back --------------------------------------------------------------------------------------------------


def test_changes_that_were_left_uncommitted_become_one_commit_on_the_base(rig: Rig) -> None:
    run = rig.run("echo new > src/new.py; echo changed > src/app.py")
    assert (run.status, rig.changes(run)) == ("done", ["M\tsrc/app.py", "A\tsrc/new.py"])
    assert rig.site.git("rev-parse", f"{run.result}^") == run.base == rig.site.git("rev-parse", "main")
    assert rig.site.git("rev-parse", f"refs/heads/ops/runs/r_{run.ulid}") == run.result
    message = rig.site.git("log", "-1", "--format=%an%n%B", str(run.result))
    assert f"Ops-Run: r_{run.ulid}" in message
    assert message.startswith("sh (opsctl run)")
    rig.site.fsck()


def test_an_agent_that_commits_by_itself_keeps_its_commits(rig: Rig) -> None:
    run = rig.run(f"echo 1 > a; git add a; {GIT} commit -qm one; echo 2 > a; {GIT} commit -qam two")
    assert rig.site.git("log", "--format=%s", f"{run.base}..{run.result}").splitlines() == ["two", "one"]
    assert rig.site.git("rev-list", "--count", f"{run.base}..{run.result}") == "2"
    rig.site.fsck()


@pytest.mark.parametrize("deed", ["git rm -q src/app.py", "git mv src/app.py src/b.py", "git rm -rq ."])
def test_a_commit_that_deletes_or_renames_comes_back_whatever_the_current_folder_holds(bare: Rig, deed: str) -> None:
    (bare.site.path / "src" / "app.py").write_text("work of mine\n")
    process = bare.start(bare.item(f"{deed}; {GIT} commit -qm one; echo 1 > after"))
    said = process.communicate(timeout=60)
    run = bare.only()
    assert (process.returncode, run.status) == (0, "done"), said
    assert "src/app.py" not in bare.files(run)
    assert (bare.site.path / "src" / "app.py").read_text() == "work of mine\n"


def test_commits_on_another_branch_packed_and_with_changes_on_top(rig: Rig) -> None:
    script = f"git checkout -qb feature/x; echo 1 > a; git add a; {GIT} commit -qm one; git pack-refs --all; git gc -q"
    run = rig.run(f"{script}; echo 2 > b")
    assert rig.changes(run) == ["A\ta", "A\tb"]
    assert rig.site.git("log", "--format=%s", f"{run.base}..{run.result}").splitlines()[1] == "one"


def test_commits_on_a_detached_head_count_too(rig: Rig) -> None:
    run = rig.run(f"git checkout -q --detach; echo 1 > a; git add a; {GIT} commit -qm one")
    assert rig.site.git("log", "-1", "--format=%s", str(run.result)) == "one"


def test_a_run_that_changes_nothing_has_no_branch(rig: Rig) -> None:
    run = rig.run("touch src/app.py; echo seen")
    assert (run.status, run.result_ref, rig.text(run)) == ("done", None, "seen\n")


def test_an_agent_that_deletes_everything_leaves_an_empty_tree(rig: Rig) -> None:
    run = rig.run("rm -rf -- * .git .??*")
    assert (run.status, rig.files(run)) == ("done", {})


@pytest.mark.parametrize(
    "deed",
    [
        "rm -rf .git",
        "rm -rf .git; echo gitdir: ../elsewhere > .git",
        "rm -rf .git; ln -s / .git",
        "rm -rf .git; mkfifo .git",
        "rm -rf .git; mkdir .git; mkfifo .git/HEAD",
        "rm -f .git/HEAD; mkfifo .git/HEAD",
        "rm -f .git/refs/heads/run; mkfifo .git/refs/heads/run; mkfifo .git/packed-refs",
        "rm -f .git/index .git/HEAD; rm -rf .git/objects; ln -s /etc .git/objects",
        "echo ref: ../../../../etc/passwd > .git/HEAD",
        "printf 'ref: refs/heads/run\\0x' > .git/HEAD; mkdir -p .git/objects/pack; mkfifo .git/objects/pack/pack-x.idx",
        "head -c 3000000 /dev/zero > .git/HEAD; head -c 300000 /dev/zero > .git/packed-refs",
        "git checkout -q --orphan other; git -c user.name=A -c user.email=a@b commit -qm orphan",
        "rm -f .git/shallow; git -c user.name=A -c user.email=a@b commit -q --allow-empty -m x",
    ],
)
def test_whatever_happens_to_its_git_folder_the_files_come_back(bare: Rig, deed: str) -> None:
    run = bare.run(f"echo made > made; {deed}")
    assert (run.status, bare.changes(run)) == ("done", ["A\tmade"]), run.message
    assert bare.site.git("merge-base", str(run.base), str(run.result)) == run.base
    assert not bare.clones()
    bare.site.fsck()


def test_what_could_not_be_used_is_said(bare: Rig) -> None:
    run = bare.run(f"git checkout -q --orphan other; echo 1 > a; git add a; {GIT} commit -qm orphan")
    assert "its own commits could not be used" in run.message
    assert bare.changes(run) == ["A\ta"]


_TRAP = r"""
root = __import__("pathlib").Path(".git")
import os, subprocess
evil = os.path.abspath("evil.sh")
with open(evil, "w") as file:
    file.write("#!/bin/sh\ntouch '@MARK@'\ncat\n")
os.chmod(evil, 0o755)
config = f'''
[core]
\tfsmonitor = {evil}
\thooksPath = {os.path.abspath("hooks")}
\tsshCommand = {evil}
\talternateRefsCommand = {evil}
\tpager = {evil}
\teditor = {evil}
\tattributesFile = {os.path.abspath("attributes")}
[uploadpack]
\tpackObjectsHook = {evil}
[alias]
\tupload-pack = !{evil}
\trev-parse = !{evil}
[filter "x"]
\tclean = {evil}
\tsmudge = {evil}
\tprocess = {evil}
\trequired = true
[diff]
\texternal = {evil}
[gpg]
\tprogram = {evil}
[credential]
\thelper = !{evil}
[extensions]
\tpartialClone = origin
[remote "origin"]
\turl = ext::{evil}
\tpromisor = true
\tuploadpack = {evil}
\tpartialclonefilter = blob:none
'''
with open(".git/config", "a") as file:
    file.write(config)
for folder in ("hooks", ".git/hooks"):
    os.makedirs(folder, exist_ok=True)
    for name in "pre-commit post-checkout reference-transaction post-index-change fsmonitor".split():
        os.symlink(evil, f"{folder}/{name}")
with open(".gitattributes", "w") as file:
    file.write("* filter=x diff=x merge=x\n")
os.makedirs(".git/info", exist_ok=True)
with open(".git/info/attributes", "w") as file:
    file.write("* filter=x\n")
os.makedirs(".git/objects/info", exist_ok=True)
with open(".git/objects/info/alternates", "w") as file:
    file.write("@COMMON@/objects\n")
os.makedirs("nested")
clean = {"PATH": os.environ["PATH"], "GIT_CONFIG_COUNT": "0", "HOME": "/nonexistent"}
subprocess.run(["git", "init", "-q", "nested"], env=clean)
with open("nested/.git/config", "a") as file:
    file.write(config)
with open("nested/file", "w") as file:
    file.write("inside\n")
tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
with open(".git/HEAD", "w") as file:
    file.write("@HEAD@\n")
with open("done.txt", "w") as file:
    file.write("done\n")
"""


@pytest.mark.parametrize("head", ["0" * 39 + "1", "{base}", "ref: refs/heads/run"])
def test_nothing_of_its_configuration_runs_outside_of_it(rig: Rig, tmp_path: Path, head: str) -> None:
    marks = rig.site.home.path / "marks"
    marks.mkdir()
    base = rig.site.git("rev-parse", "main")
    script = _TRAP.replace("@MARK@", str(marks / "NOX")).replace("@COMMON@", str(rig.site.path / ".git"))
    run = rig.run(script.replace("@HEAD@", head.format(base=base)), runner="py")
    assert run.status == "done", run.message
    assert "done.txt" in rig.files(run)
    assert list(marks.iterdir()) == []
    rig.site.fsck()


def test_its_git_folder_cannot_lend_it_objects_of_the_repository(bare: Rig) -> None:
    """A program that knows an oid and points at the repository's objects must not get them into a branch."""
    with bare.site.ws() as ws:
        from opsctl.workspace.drafts import NewDraft

        ws.drafts.create(NewDraft("a draft that nobody approved"))
    secret = bare.site.git("rev-parse", "refs/heads/ops/drafts^{tree}")
    common = bare.site.path / ".git"
    script = (
        f"echo {common}/objects > .git/objects/info/alternates; echo {common} > .git/commondir; "
        f"c=$({GIT} commit-tree -p HEAD -m stolen {secret}); echo $c > .git/HEAD; echo 1 > one"
    )
    run = bare.run(script)
    assert run.status == "done"
    assert bare.changes(run) == ["A\tone"], run.message


_BOMB = f"""
b=$(echo x | git hash-object -w --stdin)
t=$(for k in 0 1 2 3 4 5 6 7 8 9; do printf '100644 blob %s\\tf%s\\n' $b $k; done | git mktree)
for d in 1 2 3 4 5 6 7; do
  t=$(for k in 0 1 2 3 4 5 6 7 8 9; do printf '040000 tree %s\\td%s\\n' $t $k; done | git mktree)
done
c=$({GIT} commit-tree -p HEAD -m bomb $t)
"""


@pytest.mark.parametrize("how", ["", f"c=$({GIT} commit-tree -p $c -m gone HEAD^{{tree}});"])
def test_trees_that_unfold_without_end_are_not_used(bare: Rig, how: str) -> None:
    started = time.monotonic()
    run = bare.run(f"{_BOMB}{how} echo $c > .git/HEAD; echo 1 > one")
    assert (run.status, bare.changes(run)) == ("done", ["A\tone"]), run.message
    assert "too many files" in run.message
    assert time.monotonic() - started < 30


def test_an_object_under_a_wrong_name_does_not_fetch_the_right_one(bare: Rig) -> None:
    """Git believes the name of a loose object that it packs; the real one lies in what the result borrows."""
    with bare.site.ws() as ws:
        from opsctl.workspace.drafts import NewDraft

        ws.drafts.create(NewDraft("a draft that nobody approved"))
    secret = bare.site.git("rev-parse", "refs/heads/ops/drafts^{tree}")
    script = f"""
import os, subprocess, zlib
os.makedirs(".git/objects/{secret[:2]}", exist_ok=True)
with open(".git/objects/{secret[:2]}/{secret[2:]}", "wb") as file:
    file.write(zlib.compress(b"tree 0\\0"))
command = "{GIT} commit-tree -p HEAD -m stolen {secret}".split()
made = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
with open(".git/HEAD", "wb") as file:
    file.write(made)
open("one", "w").close()
"""
    run = bare.run(script, runner="py")
    assert (run.status, bare.changes(run)) == ("done", ["A\tone"]), run.message
    assert secret not in bare.site.git("log", "--format=%T", str(run.result))


def test_commits_with_what_the_repository_has_too_are_used(bare: Rig) -> None:
    """The same content as in a draft is no loan: it was made again."""
    bare.site.git("checkout", "-q", "-b", "other")
    (bare.site.path / "same").write_text("same\n")
    bare.site.git("add", "same")
    bare.site.git("commit", "-qm", "same")
    bare.site.git("checkout", "-q", "main")
    run = bare.run(f"echo same > same; git add same; {GIT} commit -qm one")
    assert bare.site.git("log", "-1", "--format=%s", str(run.result)) == "one", run.message


def test_nested_repositories_and_new_submodules_are_left_out_and_named(rig: Rig) -> None:
    script = f"""
git init -q nested; echo 1 > nested/a; git -C nested add a; {GIT} -C nested commit -qm one
mkdir plain; git init -q plain/deep; echo 2 > plain/b; echo 3 > plain/deep/c
"""
    run = rig.run(script)
    assert rig.changes(run) == ["A\tplain/b"], run.message
    assert "nested" in run.message
    assert "plain/deep" in run.message
    rig.site.fsck()


def test_attributes_of_the_result_do_not_change_or_hide_content(bare: Rig) -> None:
    run = bare.run("printf '* filter=lfs diff=lfs -text\\n' > .gitattributes; printf 'a\\r\\nb' > big.bin")
    done = subprocess.run(
        ["git", "cat-file", "blob", f"{run.result}:big.bin"], cwd=bare.site.path, capture_output=True, check=True
    )
    assert done.stdout == b"a\r\nb"


def test_a_file_that_no_memory_holds_is_left_out_and_named(bare: Rig) -> None:
    started = time.monotonic()
    run = bare.run("echo '* text' > .gitattributes; truncate -s 3G huge src/app.py; echo 1 > one")
    assert bare.changes(run) == ["A\t.gitattributes", "A\tone"], run.message
    assert "huge" in run.message
    assert "src/app.py" in run.message
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "deed",
    [
        "mkfifo .gitignore src/.gitattributes; mkfifo pipe",
        "mkfifo .gitattributes",
        "ln -s /dev/zero .gitattributes; ln -s /dev/zero .gitignore",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'",
        "mkdir d; echo 1 > d/f; chmod 000 d/f d",
        "chmod 000 src",
        "chmod 000 src/app.py; chmod 555 .",
        'p=$PWD; for i in $(seq 1500); do mkdir d; cd d; done; cd "$p"',
    ],
)
def test_files_that_nobody_can_read_do_not_hold_anything_up(rig: Rig, deed: str) -> None:
    run = rig.run(f"echo made > made; {deed}; exit 0")
    assert (run.status, "A\tmade" in rig.changes(run)) == ("done", True), run.message
    assert "src/app.py" in rig.files(run)
    assert not rig.clones()


def test_odd_names_come_back_as_they_are(rig: Rig) -> None:
    script = r"""
import os
for name in (b"new\nline", b"-rf", b"--help", b"\xff\xfe", b" ", b"a\tb", b"\x1b[31mred", b":(glob)**", b'"quoted"'):
    with open(name, "wb") as file:
        file.write(b"x")
os.symlink("/etc/passwd", b"out")
os.symlink("../../..", b"up")
"""
    run = rig.run(script, runner="py")
    names = rig.site.git("ls-tree", "--name-only", "-z", str(run.result)).split("\0")
    assert {"new\nline", "-rf", "--help", os.fsdecode(b"\xff\xfe"), ":(glob)**", "out", "up"} <= {*names}, run.message
    assert rig.site.git("ls-tree", str(run.result), "out").startswith("120000 blob")
    rig.site.fsck()


@pytest.mark.parametrize("name", [".GIT", ".git\u200c", "git~1", ".git "])
def test_lookalikes_of_git_never_come_back(bare: Rig, name: str) -> None:
    script = f"import os\nos.makedirs({name!a})\nopen({name!a} + '/config', 'w').close()\nopen('fine', 'w').close()\n"
    run = bare.run(script, runner="py")
    assert bare.changes(run) == ["A\tfine"], run.message
    assert "left out" in run.message
    script = f"""
printf 'x' > x; b=$(git hash-object -w x); t=$(printf '100644 blob %s\\tconfig\\n' $b | git mktree)
n=$(python3 -c 'import sys; sys.stdout.write({name!a})')
t=$(printf '040000 tree %s\\t%s\\n' $t "$n" | git mktree)
c=$({GIT} commit-tree -p HEAD -m evil $t); echo $c > .git/HEAD
"""
    run = bare.run(script)
    assert "could not be used" in run.message
    assert bare.changes(run) == ["A\tx"]
    bare.site.fsck()


@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        ("rm -r src; ln -s /etc src", ["A\tsrc", "D\tsrc/app.py"]),
        ("rm -r src; echo file > src", ["A\tsrc", "D\tsrc/app.py"]),
        ("rm src/app.py; mkdir src/app.py; echo 1 > src/app.py/in", ["D\tsrc/app.py", "A\tsrc/app.py/in"]),
        ("rm src/app.py; ln -s . src/app.py", ["T\tsrc/app.py"]),
        ("chmod +x src/app.py", ["M\tsrc/app.py"]),
        ("mv src lib", ["A\tlib/app.py", "D\tsrc/app.py"]),
    ],
)
def test_files_folders_and_links_take_each_others_places(bare: Rig, deed: str, expected: list[str]) -> None:
    run = bare.run(deed)
    assert bare.changes(run) == expected, run.message


def test_changes_outside_the_target_are_an_error_with_the_list_and_a_marked_branch(rig: Rig) -> None:
    run = rig.run("echo 1 > src/in.py; echo 2 > out.py; rm -f README", paths=("src/**",))
    assert (run.status, list(run.outside)) == ("error", ["out.py"])
    assert "out.py" in run.message
    assert run.result_ref
    message = rig.site.git("log", "-1", "--format=%B", str(run.result))
    assert message.startswith("DO NOT MERGE")
    assert "out.py" in message


def test_what_a_commit_on_the_way_touched_counts_too(bare: Rig) -> None:
    """Whoever merges the branch takes its history: a file that was put in and out again is still in it."""
    script = f"echo s > out.py; git add .; {GIT} commit -qm in; git rm -q out.py; {GIT} commit -qm out; echo 1 > src/a"
    run = bare.run(script, paths=("src/**",))
    assert (run.status, list(run.outside)) == ("error", ["out.py"]), run.message
    script = f"git checkout -q -b x; echo 1 > src/b; git add .; {GIT} commit -qm b; git checkout -q run; echo 1 > src/c"
    script += f"; git add .; {GIT} commit -qm c; {GIT} merge -q --no-edit x"
    run = bare.run(script, paths=("src/**",))
    assert (run.status, bare.changes(run)) == ("done", ["A\tsrc/b", "A\tsrc/c"]), run.message
    script = f"""
git checkout -q --orphan other; git rm -rqf .; echo 1 > evil; git add .; {GIT} commit -qm root
git checkout -q run; {GIT} merge -q --no-edit --allow-unrelated-histories -s ours other; echo 1 > src/d
"""
    run = bare.run(script, paths=("src/**",))
    assert (run.status, bare.changes(run)) == ("done", ["A\tsrc/d"]), run.message
    assert "do not all stand on the base" in run.message
    assert bare.site.git("rev-list", "--count", f"{run.base}..{run.result}") == "1"


# -- when it cannot be handed over ------------------------------------------------------------------------------------


def test_work_that_cannot_become_a_branch_is_kept_and_named(rig: Rig) -> None:
    rig.site.git("update-ref", "refs/heads/ops/runs", "main")  # a name in the way
    run = rig.run("echo hours > of-work")
    assert (run.status, run.result_ref) == ("error", None)
    [place] = rig.clones()
    assert str(place) in run.message
    assert (place / "repo" / "of-work").read_text() == "hours\n"
    rig.site.git("update-ref", "-d", "refs/heads/ops/runs")
    again = rig.run("echo 1 > one")
    assert again.status == "done"
    assert rig.clones() == [place]


def test_an_ops_branch_that_is_checked_out_meanwhile_does_not_lose_the_work(bare: Rig) -> None:
    away = bare.site.home.path / "away"
    run = bare.run(f"git --git-dir={bare.site.path}/.git worktree add -q {away} ops/drafts && echo 1 > one")
    assert away.is_dir()
    assert (run.status, bare.changes(run)) == ("done", ["A\tone"])
    assert not bare.clones()


def test_the_end_of_a_run_waits_longer_for_the_lock(bare: Rig) -> None:
    mark = bare.site.home.path / "begun"
    item = bare.item(f"touch '{mark}'; sleep 0.5; echo 1 > one")
    bare.site.home.environ["OPSCTL_LOCK_WAIT"] = "0.2"
    process = bare.start(item)
    eventually(mark.exists)
    with RepoLock(bare.site.path / ".git", wait_s=5):
        time.sleep(3)
    assert process.wait(30) == 0, process.stderr
    assert bare.changes(bare.only()) == ["A\tone"]


@pytest.mark.parametrize("how", ["cancel", "revoke"])
def test_what_ends_it_while_the_result_is_collected_leaves_no_branch(bare: Rig, how: str) -> None:
    item, tip = bare.item("true"), bare.site.git("rev-parse", "main")
    with bare.site.ws() as ws, bare.site.ws() as other:
        made, hold = ws.runs.create(item, Wish())
        assert hold
        if how == "cancel":
            other.runs.cancel(made.ulid)
        else:
            other.approvals.revoke(item, "no")
        run = ws.runs.land(made, "done", {"exit_code": 0}, output=b"x", tip=tip)
        hold.release()
    assert (run.status, run.result_ref) == ("cancelled", None)
    assert not bare.site.git("for-each-ref", "refs/heads/ops/runs")


def test_a_branch_whose_event_could_not_be_written_is_in_the_record_of_the_fault(bare: Rig) -> None:
    item, tip = bare.item("true"), bare.site.git("rev-parse", "main")
    with bare.site.ws() as ws:
        made, hold = ws.runs.create(item, Wish())
        assert hold
        bare.site.git("update-ref", f"refs/heads/ops/runs/r_{made.ulid}", tip)
        run = ws.runs.finish(made.ulid, "error", {"message": "no room"})
        hold.release()
    assert (run.result, run.result_ref) == (tip, f"refs/heads/ops/runs/r_{made.ulid}")


# -- what it can reach ------------------------------------------------------------------------------------------------


def test_the_users_work_is_as_it_was(rig: Rig) -> None:
    site = rig.site
    (site.path / "src" / "app.py").write_text("half done\n")
    site.git("stash", "-q")
    (site.path / "src" / "app.py").write_text("more\n")
    (site.path / "staged").write_text("staged\n")
    site.git("add", "staged")
    item = rig.item("echo changed > src/app.py; echo 1 > other")
    git = site.path / ".git"
    watched = ("HEAD", "index", "config", "refs/stash", "logs/HEAD", "logs/refs/stash", "refs/heads/main")
    before = {name: (git / name).read_bytes() for name in watched}, _state(site.path / "src"), site.git("status", "-s")
    run = rig.carry_out(item)
    after = {name: (git / name).read_bytes() for name in watched}, _state(site.path / "src"), site.git("status", "-s")
    assert run.status == "done"
    assert before == after
    assert not (git / "FETCH_HEAD").exists()


def test_stdin_holds_exactly_the_prompt_and_nothing_else_is_open(rig: Rig) -> None:
    rig.runners(
        '[runner.sh]\ncommand = ["/bin/sh", "-c", "cat > got; ls /proc/self/fd > fds; pwd > cwd; env -0 > env"]\n'
        'env = ["PATH", "HOME", "SECRET_ONE"]\n'
    )
    secrets = dict.fromkeys(("OPENAI_API_KEY", "SSH_AUTH_SOCK", "OPSCTL_X", "GIT_DIR_X", "AWS_PROFILE"), "leak")
    rig.site.home.environ.update(secrets)
    prompt = "Zeile eins\r\n\r\n  ünï ‑ \\ 'quoted' $(touch x) `id`\n\n"
    run = rig.run(prompt, keep=True)
    work = rig.clones()[0] / "repo"
    approved = rig.site.cli("show", f"a_{run.item}", "--raw")
    assert (work / "got").read_bytes() == prompt.encode() or (work / "got").read_text() in approved.stdout
    assert set((work / "fds").read_text().split()) <= {"0", "1", "2", "3"}
    assert (work / "cwd").read_text().strip() == str(work)
    names = {row.split("=")[0] for row in (work / "env").read_text().split("\0") if row}
    assert names <= {"PATH", "HOME", "TMPDIR", "PWD", "GIT_TERMINAL_PROMPT", "SHLVL", "_", "OLDPWD"}, names


def test_the_clone_holds_one_commit_and_no_way_back(rig: Rig) -> None:
    with rig.site.ws() as ws:
        from opsctl.workspace.drafts import NewDraft

        ws.drafts.create(NewDraft("a draft that nobody approved"))
    secret = rig.site.git("rev-parse", "refs/heads/ops/drafts")
    (rig.site.path / "second").write_text("2")
    rig.site.git("add", ".")
    rig.site.git("commit", "-qm", "second")
    script = f"""
git cat-file -e {secret} 2>/dev/null && echo DRAFT
git rev-list --all --count; git remote; git for-each-ref --format='%(refname)'; ls .git/objects/info
git config -l --local
grep -rIl "{rig.site.path}" .git; cat .git/FETCH_HEAD; git push origin x 2>/dev/null && echo PUSHED; true
"""
    out = rig.text(rig.run(script))
    assert out.splitlines()[:2] == ["1", "refs/heads/run"], out
    assert "DRAFT" not in out
    assert "remote." not in out
    assert str(rig.site.path) not in out


def test_in_the_sandbox_there_is_nothing_to_find(site: Site) -> None:
    rig = make_rig(site, walls=True)
    home, repo = site.home.path, site.path
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text("SECRET")
    (home / ".netrc").write_text("SECRET")
    (home / "agent.sock").write_text("SECRET")
    site.home.environ["SSH_AUTH_SOCK"] = str(home / "agent.sock")
    (home / "state" / "opsctl").mkdir(parents=True, exist_ok=True)
    (home / "state" / "opsctl" / "token").write_text("SECRET")
    places = [home / ".ssh/id", home / ".netrc", home / "config/opsctl/runners.toml", home / "state/opsctl/token"]
    places += [repo / ".git/config", repo / ".git/HEAD", home / "agent.sock"]
    script = "\n".join(
        [
            *(f"cat '{place}' 2>/dev/null" for place in places),
            f"umount '{home}/.ssh' 2>/dev/null && cat {home}/.ssh/id",
            f"unshare -Urm sh -c 'umount {home}/.ssh; mount -t tmpfs x {home}; cat {home}/.ssh/id' 2>/dev/null",
            f"cat /proc/1/\x72oot{home}/.ssh/id /proc/[0-9]*/\x72oot{home}/.ssh/id 2>/dev/null",
            f"git --git-dir={repo}/.git update-ref refs/heads/ops/approved HEAD 2>/dev/null && echo MOVED",
            f"for p in {home} {repo} /etc; do echo x > $p/written; done 2>/dev/null",
            "echo LISTED; ls ..; grep Cap /proc/self/status; git log --oneline -1 >/dev/null && echo git works",
        ]
    )
    item = rig.item(script)
    tip = site.tip()
    run = rig.carry_out(item)
    out = rig.text(run)
    assert run.status == "done"
    assert "SECRET" not in out
    assert "MOVED" not in out, out
    assert re.findall(r"Cap(?:Prm|Eff|Bnd):\s+(\w+)", out) == ["0" * 16] * 3
    assert "git works" in out
    assert not any((place / "written").exists() for place in (home, repo, Path("/etc")))
    listed = out.partition("LISTED")[2].split("Cap")[0].split()
    assert listed == ["repo", "tmp"], listed
    assert site.tip() == tip
    assert run.sandbox == "bwrap"


def test_keys_sockets_and_linked_folders_are_hidden(site: Site) -> None:
    rig = make_rig(site, walls=True)
    home = site.home.path
    for place in ("keys/one", "keys/two", "dot/gh/token", "dot/op"):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text("SECRET")
    (home / ".config").symlink_to(home / "dot")
    item = rig.item(
        f"cat ~/keys/* ~/.config/gh/token ~/dot/gh/token; ls -l {home}; test -S ~/agent && echo SOCKET; true"
    )
    site.git("config", "user.signingKey", str(home / "keys" / "one.pub"))
    site.home.environ["OPSCTL_SIGNING_KEY"] = "~/keys/two"
    with socket.socket(socket.AF_UNIX) as agent:
        here = os.open(home, os.O_RDONLY)
        agent.bind(f"/proc/self/fd/{here}/agent")
        os.close(here)
        run = rig.carry_out(item)
    out = rig.text(run)
    assert run.status == "done", run.message
    assert "SECRET" not in out
    assert "SOCKET" not in out


@pytest.mark.parametrize("allowed", [(False, True), (True, False), (True, True)])
def test_the_network_needs_the_file_and_the_policy(site: Site, allowed: tuple[bool, bool]) -> None:
    rig = make_rig(site, walls=True)
    asked, policy = allowed
    with site.ws() as ws:
        text = ws.governing.policy()[1].decode()
        if policy:
            ws.governing.set_policy(text.replace("allow_network = false", "allow_network = true").encode())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 3)\nprint('reached')\n"
        run = rig.run(script, runner="py", network=asked)
    assert (run.status == "done") == (asked and policy), run.message
    assert run.sandbox == ("bwrap with network" if asked and policy else "bwrap")


def test_a_runner_that_needs_the_network_is_refused_without_it(site: Site) -> None:
    rig = make_rig(site, walls=True)
    rig.runners('[runner.sh]\ncommand = ["/bin/sh"]\nnetwork = true\n')
    with pytest.raises(OpsError) as caught:
        rig.run("true")
    assert caught.value.code == "network_refused"
    assert not rig.clones()


def test_a_runner_that_needs_the_network_is_refused_without_walls_too(bare: Rig) -> None:
    bare.runners('[runner.sh]\ncommand = ["/bin/sh"]\nnetwork = true\n')
    with pytest.raises(OpsError) as caught:
        bare.run("true")
    assert caught.value.code == "network_refused"
    assert not bare.clones()


def test_a_folder_that_a_runner_may_write_does_not_uncover_what_is_hidden(site: Site) -> None:
    rig = make_rig(site, walls=True)
    (site.home.path / ".ssh").mkdir()
    (site.home.path / ".ssh" / "id").write_text("SECRET")
    rig.runners('[runner.sh]\ncommand = ["/bin/sh"]\nwrites = ["~/", "~/.agent"]\n')
    (site.home.path / ".agent").mkdir()
    script = f"cat ~/.ssh/id ~/config/opsctl/* {site.path}/.git/HEAD; echo x > ~/.agent/kept; echo 1 > one"
    run = rig.run(script)
    out = rig.text(run)
    assert run.result
    assert "SECRET" not in out
    assert "refs/heads" not in out
    assert "command" not in out, out
    assert (site.home.path / ".agent" / "kept").exists()


# -- where it starts from ---------------------------------------------------------------------------------------------


def test_a_shallow_repository_is_a_source_like_any_other(home_clone: Rig) -> None:
    run = home_clone.run(f"echo 1 > one; git add one; {GIT} commit -qm one; echo 2 > two")
    assert home_clone.changes(run) == ["A\tone", "A\ttwo"], run.message


@pytest.fixture
def home_clone(bare_site: Site) -> Rig:
    """A gate in a shallow clone."""
    for number in range(3):
        bare_site.git("commit", "-q", "--allow-empty", "-m", f"more {number}")
    path = bare_site.home.path / "shallow"
    bare_site.home.git("clone", "-q", "--depth=1", f"file://{bare_site.path}", str(path))
    return _gated(Site(bare_site.home, path))


def _gated(site: Site) -> Rig:
    with site.ws() as ws:
        ws.founding.init(name=None, email=None, audience="acme/app", generate_key=False)
    return make_rig(site, walls=False)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "new\nline",
        "-rf",
        'quo"te',
        "tab\there",
        "tmp",
        "theirs.git",
        "Result.git",
        "Prompt",
        os.fsdecode(b"b\xff"),
    ],
)
def test_odd_places_of_a_repository(bare_site: Site, name: str) -> None:
    path = bare_site.home.path / name
    os.rename(bare_site.path, path)
    rig = _gated(Site(bare_site.home, path))
    run = rig.run(f"echo 1 > one; git add one; {GIT} commit -qm one; echo 2 > two")
    assert rig.changes(run) == ["A\tone", "A\ttwo"], run.message


def test_bare_repositories_and_linked_work_trees(bare_site: Site) -> None:
    path = bare_site.home.path / "hub.git"
    bare_site.home.git("clone", "-q", "--bare", str(bare_site.path), str(path))
    rig = _gated(Site(bare_site.home, path))
    assert rig.changes(rig.run("echo 1 > one")) == ["A\tone"]
    linked = Site(bare_site.home, bare_site.home.path / "linked")
    rig.site.git("worktree", "add", "-q", str(linked.path), "-b", "side")
    other = make_rig(linked, walls=False)
    (linked.path / "dirty").write_text("1")
    assert other.changes(other.run("echo 1 > one")) == ["A\tone"]
    assert linked.git("status", "-s") == "?? dirty"


def test_submodules_and_filters_of_the_base_stay_as_they_are(bare_site: Site) -> None:
    oid = bare_site.git("rev-parse", "HEAD")
    bare_site.git("update-index", "--add", "--cacheinfo", f"160000,{oid},lib")
    (bare_site.path / ".gitmodules").write_text('[submodule "lib"]\n\tpath = lib\n\turl = ../lib\n')
    (bare_site.path / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n*.txt eol=crlf\n")
    (bare_site.path / "a.bin").write_text("version https://git-lfs.example/spec/v1\n")
    (bare_site.path / "b.txt").write_text("one\ntwo\n")
    bare_site.git("-c", "core.safecrlf=false", "add", "a.bin", "b.txt", ".gitmodules", ".gitattributes")
    bare_site.git("commit", "-qm", "more")
    rig = _gated(bare_site)
    assert rig.changes(rig.run("echo 1 > one; touch b.txt a.bin")) == ["A\tone"]
    run = rig.run("rmdir lib; echo 1 > two")
    assert rig.changes(run) == ["D\tlib", "A\ttwo"]
    run = rig.run(f"git init -q lib; echo 1 > lib/a; git -C lib add a; {GIT} -C lib commit -qm x; echo 1 > three")
    assert rig.changes(run) == ["A\tthree"]
    assert "lib" in run.message


def test_an_empty_tree_and_no_branch_at_all(home_empty: Site) -> None:
    rig = _gated(home_empty)
    with pytest.raises(OpsError) as caught:
        rig.run("echo 1 > one")
    assert caught.value.hint
    assert "base" in caught.value.hint
    home_empty.git("commit", "-q", "--allow-empty", "-m", "nothing")
    run = rig.run("echo 1 > one")
    assert rig.changes(run) == ["A\tone"]


@pytest.fixture
def home_empty(bare_site: Site) -> Site:
    """A repository without a commit."""
    path = bare_site.home.path / "empty"
    bare_site.home.git("init", "-q", str(path))
    return Site(bare_site.home, path)


# -- runners.toml -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "runner = 1",
        "runner = []",
        "[runner]\nsh = 1",
        "[runner.sh]",
        "[runner.sh]\ncommand = 'sh'",
        "[runner.sh]\ncommand = []",
        "[runner.sh]\ncommand = ['']",
        "[runner.sh]\ncommand = ['sh', 1]",
        '[runner.sh]\ncommand = ["a\\u0000b"]',
        '[runner.sh]\ncommand = "a\\u0000b"\nallow_shell = true',
        "[runner.sh]\ncommand = ['sh']\nallow_shell = 'yes'",
        "[runner.sh]\ncommand = ['sh']\ntimeout_s = 0",
        "[runner.sh]\ncommand = ['sh']\ntimeout_s = -5",
        "[runner.sh]\ncommand = ['sh']\ntimeout_s = true",
        f"[runner.sh]\ncommand = ['sh']\ntimeout_s = {'9' * 400}",
        f"[runner.sh]\ncommand = ['sh']\ntimeout_s = {'9' * 9000}",
        "[runner.sh]\ncommand = ['sh']\nenv = 'PATH'",
        "[runner.sh]\ncommand = ['sh']\nenv = ['SSH_AUTH_SOCK']",
        "[runner.sh]\ncommand = ['sh']\nenv = ['XDG_RUNTIME_DIR']",
        "[runner.sh]\ncommand = ['sh']\nenv = ['GIT_DIR']",
        "[runner.sh]\ncommand = ['sh']\nenv = ['OPSCTL_TRUST_ROOT']",
        "[runner.sh]\ncommand = ['sh']\nenv = ['A=B']",
        "[runner.sh]\ncommand = ['sh']\nwrites = ['']",
        "[runner.sh]\ncommand = ['sh']\nwrites = ['~bob/x']",
        "[runner.sh]\ncommand = ['sh']\nname = 'x'",
        "[runner.sh]\ncommand = ['sh']\n\"a\\u001b[31m\" = 1",
        "[runner.\"../x\"]\ncommand = ['sh']",
        "default = 'nobody'",
        "default = []",
        "default = 3",
        "[runner.sh]\ncommand = ['sh']\n[other]\n",
        "a = " + "[" * 5000,
        "[runner" + ".a" * 5000 + "]",
        b"[runner.sh]\ncommand = ['\xff']",
        None,
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(bare: Rig, text: str | bytes | None) -> None:
    path = bare.site.home.path / "config" / "opsctl" / "runners.toml"
    if text is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    from opsctl.runners import load

    with bare.site.ws() as ws, pytest.raises(OpsError) as caught:
        load(ws.places)
    assert caught.value.code == "bad_config"
    assert len(str(caught.value.cause)) < 500


def test_a_configuration_that_never_ends_is_refused(bare: Rig) -> None:
    path = bare.site.home.path / "config" / "opsctl" / "runners.toml"
    path.unlink()
    os.mkfifo(path)
    done = bare.site.cli("runner", "list")
    assert done.returncode == 2 or "runners.toml" in done.stderr, done.stderr


def test_rn_15_a_shell_sees_text_only_where_the_user_allows_it(bare: Rig) -> None:
    bare.runners('[runner.sh]\ncommand = ["echo", "a; touch evil", "$(touch evil)", "`touch evil`"]\n')
    run = bare.run("x; touch evil")
    assert (run.result, bare.text(run)) == (None, "a; touch evil $(touch evil) `touch evil`\n")
    bare.runners('[runner.sh]\ncommand = "cat > got; touch made"\nallow_shell = true\n')
    run = bare.run("x; touch evil")
    assert bare.changes(run) == ["A\tgot", "A\tmade"]
    assert list(run.argv) == ["/bin/sh", "-c", "cat > got; touch made"]


def test_secrets_of_a_command_line_are_not_recorded(bare: Rig) -> None:
    key = "sk-ant-" + "a1B2" * 10
    bare.runners(f'[runner.sh]\ncommand = ["/bin/sh", "-c", "echo {key}", "{key}"]\n')
    run = bare.run("x")
    assert key not in json.dumps(list(run.argv))
    assert key not in bare.text(run)
    assert key not in bare.site.git("log", "-p", "--all", "--notes=ops/runs")


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("/nonexistent/agent", "is not there"),
        ("no-such-agent", "is not there"),
        ("./agent", "from / on"),
        ("src/agent", "from / on"),
        (__file__, "is not executable"),
    ],
)
def test_a_program_that_is_not_there_is_said_at_once(rig: Rig, program: str, why: str) -> None:
    rig.runners(f"[runner.sh]\ncommand = ['{program}']\n")
    with pytest.raises(OpsError) as caught:
        rig.run("x")
    assert (caught.value.code, why in caught.value.message) == ("runner_failed", True), caught.value.message
    assert "runner add sh" in str(caught.value.hint)
    assert not rig.clones()


def test_nothing_is_started_from_the_current_folder(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bwrap", "agent", "ls"):
        (rig.site.path / name).write_text("#!/bin/sh\necho EVIL; touch evil\n")
        (rig.site.path / name).chmod(0o755)
    rig.site.git("add", ".")
    rig.site.git("commit", "-qm", "evil")
    monkeypatch.chdir(rig.site.path)
    rig.site.home.environ["PATH"] = f".::src:{rig.site.home.environ['PATH']}"
    run = rig.run("ls; echo $PATH")
    assert "EVIL" not in rig.text(run)
    rig.runners("[runner.sh]\ncommand = ['agent']\n")
    with pytest.raises(OpsError) as caught:
        rig.run("x")
    assert caught.value.code == "runner_failed"
    assert not (rig.site.path / "evil").exists()


def test_a_runner_that_wants_walls_gets_them_whatever_is_asked(bare: Rig) -> None:
    bare.runners('[runner.sh]\ncommand = ["/bin/sh"]\nsandbox = true\n')
    if BWRAP:
        assert bare.run("true").sandbox == "bwrap"
        return
    with pytest.raises(OpsError) as caught:
        bare.run("true")
    assert (caught.value.code, "runners.toml" in str(caught.value.hint)) == ("no_sandbox", True)


def test_doctor_says_whether_a_sandbox_works_here(bare: Rig) -> None:
    rows = json.loads(bare.site.cli("doctor", "--json").stdout)
    checks = rows["checks"] if isinstance(rows, dict) else rows
    assert [row["level"] for row in checks if row["name"] == "sandbox"] in (["ok"], ["note"])


def test_check_lets_a_runner_do_one_edit(rig: Rig) -> None:
    rig.runners(
        f"[runner.sh]\ncommand = [\"{sys.executable}\", \"-c\", \"open('opsctl-check.txt', 'w').write('ok')\"]\n"
    )
    done = rig.site.cli("runner", "check", "--sandbox" if rig.walls else "--no-sandbox")
    assert done.returncode == 0
    assert done.stdout.startswith("ok"), done.stderr
    rig.runners(f'[runner.sh]\ncommand = ["/bin/sh", "-c", "cat {rig.site.path}/.git/HEAD; exit 3"]\n')
    done = rig.site.cli("runner", "check", "--sandbox" if rig.walls else "--no-sandbox")
    assert ("refs/heads" in done.stdout) != rig.walls, done.stdout
    assert f"sandbox: {'bwrap' if rig.walls else 'none'}" in done.stdout
