"""Programs that do not want to end, that flood, and that are killed from outside: nothing of a run may live on."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, Site
from runrig import AGENTS, WALLS, Rig, eventually, make_rig, running

from opsctl.executors.output import KEPT, LIVE_LIMIT, Output
from opsctl.executors.process import _ended, _report
from opsctl.workspace.drafts import NewDraft
from opsctl.workspace.hold import Hold, sweep

WARDEN = ROOT / "opsctl" / "executors" / "warden.py"
PYTHON = os.path.realpath(sys.executable)
"""Not that of a virtual environment, which may lie where a sandbox shows nothing."""


@pytest.fixture(params=WALLS)
def rig(site: Site, request: pytest.FixtureRequest) -> Rig:
    """The rig, without and with a sandbox."""
    return make_rig(site, walls=request.param)


@pytest.fixture
def bare(site: Site) -> Rig:
    """The rig without a sandbox, for what has nothing to do with one."""
    return make_rig(site, walls=False)


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """An argument by which the processes of this test are found."""
    return f"mark-{tmp_path.name}-{os.getpid()}-{time.monotonic_ns()}"


def _agent(name: str, *arguments: str) -> str:
    """A shell command that feeds the program to Python: the sandbox need not see where it lies."""
    told = " ".join(arguments)
    text = (AGENTS / f"{name}.py").read_text(encoding="utf-8")
    return f"cat > ../tmp/{name}.py <<'END-OF-IT'\n{text}\nEND-OF-IT\n'{PYTHON}' -I -S ../tmp/{name}.py {told}"


# -- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "code", "said"),
    [
        ("exit 0", "done", 0, ""),
        ("echo why; exit 1", "error", 1, "exit 1: why"),
        ("exit 137", "error", 137, "137"),
        ("kill -9 $$", "error", 137, ""),
        ("kill -TERM $$", "error", 143, ""),
        ("kill -SEGV $$", "error", 139, ""),
    ],
)
def test_rn_14_exit_codes_and_signals_are_mapped(rig: Rig, script: str, status: str, code: int, said: str) -> None:
    run = rig.run(f"echo kept > kept\n{script}")
    assert (run.status, run.exit_code) == (status, code), run.message
    assert said in run.message
    assert rig.changes(run) == ["A\tkept"]


def test_rn_04_a_program_that_ignores_term_is_killed_after_its_time(rig: Rig, mark: str) -> None:
    started = time.monotonic()
    run = rig.run(f"trap '' TERM INT HUP; echo begun; while :; do sh -c 'sleep 1' {mark}; done", timeout_s=1)
    assert run.status == "error"
    assert "took more than 1 s" in run.message
    assert time.monotonic() - started < 20
    assert running(mark) == []


def test_a_program_that_ends_on_term_is_not_waited_for(rig: Rig) -> None:
    started = time.monotonic()
    run = rig.run("echo 1 > one; sleep 60", timeout_s=1)
    assert (run.status, rig.changes(run)) == ("error", ["A\tone"])
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("how", ["", "--silent"])
def test_a_daemon_does_not_survive(rig: Rig, mark: str, how: str) -> None:
    run = rig.run(f"{_agent('daemon', mark, how)}\necho 1 > one")
    assert (run.status, running(mark)) == ("done", [])
    assert rig.changes(run) == ["A\tone"]


@pytest.mark.parametrize("how", ["", "--ends"])
def test_a_fork_bomb_is_cleared(rig: Rig, mark: str, how: str) -> None:
    started = time.monotonic()
    run = rig.run(_agent("bomb", mark, how), timeout_s=2)
    assert run.status == ("done" if how else "error"), run.message
    assert running(mark) == []
    assert time.monotonic() - started < 40


def test_rn_09_the_end_of_the_program_is_the_end_of_the_run(rig: Rig, mark: str) -> None:
    started = time.monotonic()
    run = rig.run(f"sh -c 'sleep 60' {mark} & echo said; exit 0")
    assert (run.status, rig.text(run), running(mark)) == ("done", "said\n", [])
    run = rig.run("exec >&- 2>&-; sleep 1; echo 1 > one")
    assert (run.status, rig.changes(run)) == ("done", ["A\tone"])
    assert time.monotonic() - started < 15


# -- what it prints ---------------------------------------------------------------------------------------------------


def test_rn_06_a_flood_is_cut_and_memory_stays_bounded(bare: Rig) -> None:
    size = 2_000_000_000
    item = bare.item(_agent("flood", str(size)))
    process = bare.start(item)
    _, _, used = os.wait4(process.pid, 0)
    run = bare.only()
    assert run.status == "done", run.message
    forked_from = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; Linux counts it to the child
    assert used.ru_maxrss < max(300_000, forked_from + 20_000)
    assert run.output_bytes is not None
    assert size <= run.output_bytes < size + 100
    assert 0 <= run.cut_bytes - (run.output_bytes - 2 * KEPT) <= 1024
    text = bare.text(run)
    assert f"{run.cut_bytes} bytes are left out" in text
    assert text.endswith("\nthe end\n")
    log = bare.site.path / ".git" / "opsctl" / "logs" / f"r_{run.ulid}.log"
    assert log.stat().st_size < LIVE_LIMIT + 1000
    assert "live log ends here" in log.read_text()


def test_many_short_lines_and_no_line_at_all_are_fast(tmp_path: Path) -> None:
    output, started = Output(tmp_path / "log"), time.monotonic()
    for _ in range(300):
        output.feed(b"y\n" * 32768)
    for _ in range(300):
        output.feed(b"\0" * 65536)
    assert time.monotonic() - started < 5
    output.finish()


def test_escapes_and_broken_text_are_kept_and_shown_harmless(rig: Rig) -> None:
    run = rig.run(r"printf '\033]0;title\007\033[31mred\000nul\377\376 end\n'; exit 3")
    assert run.exit_code == 3
    assert "\x1b" not in run.message
    assert "\0" not in run.message
    shown = rig.site.cli("runs", "log", f"r_{run.ulid}").stdout
    assert "\x1b" not in shown
    assert "red" in shown
    assert "\x1b" not in rig.site.cli("runs", "show", f"r_{run.ulid}").stdout


def test_secrets_are_taken_out_of_what_is_kept(rig: Rig) -> None:
    key = "sk-ant-" + "a1B2" * 10
    run = rig.run("p=sk-ant-; q=a1B2; echo $p$q$q$q$q$q$q$q$q$q$q; exit 1")
    assert key not in run.message + rig.text(run)
    assert not [path for path in (rig.site.path / ".git" / "opsctl").rglob("*.log") if key in path.read_text()]


@pytest.mark.parametrize(
    "junk",
    [
        *(b"x\n", b"[]\n", b"[" * 60000 + b"\n", b"\xff\n", b"{}\n", b'{"reason": "ended"}\n', b"", b"x" * 60000),
        *(b'{"reason": "ended", "status": "x", "killed": 0}\n', b'{"reason": "not started"}\n'),
    ],
)
def test_junk_where_the_warden_reports_counts_as_lost(junk: bytes) -> None:
    read, write = os.pipe()
    os.write(write, junk)
    os.close(write)
    assert _ended(_report(read), None).reason == "lost"
    os.close(read)


def test_values_of_variables_are_taken_out_of_what_is_kept(rig: Rig) -> None:
    rig.runners('[runner.sh]\ncommand = ["/bin/sh"]\nenv = ["PATH", "HOME", "AGENT_PASS"]\n')
    rig.site.home.environ["AGENT_PASS"] = "correct horse battery"
    run = rig.run("echo it is $AGENT_PASS; exit 1")
    assert "horse" not in run.message + rig.text(run)
    assert not [path for path in (rig.site.path / ".git" / "opsctl").rglob("*.log") if "horse" in path.read_text()]


def test_a_key_of_many_lines_never_gets_into_the_live_log(tmp_path: Path) -> None:
    output = Output(tmp_path / "log")
    body = ["a1B2" * 16] * 20
    for line in ["before", "-----BEGIN PRIVATE KEY-----", *body, "-----END PRIVATE KEY-----", "after"]:
        output.feed(f"{line}\n".encode())
        assert "a1B2" not in (tmp_path / "log").read_text()
    output.finish()
    assert (tmp_path / "log").read_text() == "before\n<redacted:private-key>\nafter\n"


@pytest.mark.parametrize("before", [10, 20, 40])
def test_half_a_token_at_a_cut_is_left_out(before: int) -> None:
    token = b"sk-ant-" + b"a1B2" * 12
    output = Output(None)
    output.feed(b"x " * ((KEPT - before) // 2) + token + b" end\n" + b"y " * KEPT)
    output.feed(b" " * (KEPT - before) + b"\n")
    assert b"a1B2" not in output.finish()[0]
    output = Output(None)
    output.feed(b"y " * KEPT + token + b" " + b"x" * 50 + b" " * (KEPT - before - 51))
    assert b"a1B2" not in output.finish()[0]


def test_the_last_line_is_cleaned_before_it_is_cut() -> None:
    output = Output(None)
    output.feed(b"say sk-ant-" + b"a1B2" * 1500)
    assert "a1B2" not in output.last_line


@pytest.mark.parametrize("obstacle", ["file", "folder", "link"])
def test_rn_10_a_log_that_cannot_be_written_does_not_stop_the_run(bare: Rig, obstacle: str) -> None:
    item = bare.item("echo said; echo 1 > one")
    logs = bare.site.path / ".git" / "opsctl" / "logs"
    if obstacle == "file":
        logs.write_text("x")
    elif obstacle == "link":
        (bare.site.home.path / "away").mkdir()
        logs.symlink_to(bare.site.home.path / "away")
    else:
        logs.parent.chmod(0o500)
    run = bare.carry_out(item)
    logs.parent.chmod(0o700)
    assert (run.status, bare.text(run)) == ("done", "said\n"), run.message
    if obstacle == "file":
        assert "log could not be written" in run.message
    assert not (bare.site.home.path / "away").exists() or not list((bare.site.home.path / "away").iterdir())


def test_rn_10_a_disk_that_fills_up_under_the_log(tmp_path: Path) -> None:
    program = (
        "import pathlib, resource, signal, sys\n"
        "from opsctl.executors.output import Output\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "output = Output(pathlib.Path(sys.argv[1]))\n"
        "for _ in range(100): output.feed(b'some text\\n' * 1000)\n"
        "data, cut = output.finish()\n"
        "print(output.fault, len(data), cut)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "File too large 1000000 0", done.stderr


# -- stopped from outside ---------------------------------------------------------------------------------------------


def _begun(rig: Rig, mark: str, *options: str, script: str = "") -> subprocess.Popen[str]:
    """A run whose program, a child of it, and a daemon are there."""
    lines = (
        f"{_agent('daemon', mark)}\nsh -c 'sleep 100; :' {mark} &\n{script}\necho 1 > one; sh -c 'sleep 100; :' {mark}"
    )
    process = rig.start(rig.item(lines), *options)
    eventually(lambda: len(running(mark)) >= 3)
    return process


def test_cancelled_from_another_process_it_stops_and_is_never_done(rig: Rig, mark: str) -> None:
    process = _begun(rig, mark)
    run = rig.only()
    assert run.status == "running"
    rig.site.ok("runs", "cancel", f"r_{run.ulid}", "--reason", "changed my mind")
    assert process.wait(20) == 9
    assert rig.only().status == "cancelled"
    assert (running(mark), rig.clones()) == ([], [])


def test_rn_13_revoked_while_it_runs_it_stops(rig: Rig, mark: str) -> None:
    process = _begun(rig, mark)
    run = rig.only()
    rig.site.ok("revoke", f"a_{run.item}", "--reason", "no")
    assert process.wait(20) == 9
    assert (rig.only().status, rig.only().result_ref) == ("cancelled", None)
    assert "revoked" in rig.only().message
    assert (running(mark), rig.clones()) == ([], [])


@pytest.mark.parametrize("script", ["", "trap '' INT TERM HUP"])
def test_ctrl_c_ends_it_all(rig: Rig, mark: str, script: str) -> None:
    process = _begun(rig, mark, script=script)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(25) == 130
    assert rig.only().status == "cancelled"
    assert (running(mark), rig.clones()) == ([], [])


def _wardens(of: int) -> list[int]:
    """The outer and the inner process of a run's warden."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and b"warden.py" in _read(f"/proc/{name}/cmdline"):
            parent = int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[1] or 0)
            found.append((int(name), parent))
    outer = [pid for pid, parent in found if parent == of]
    return [*outer, *(pid for pid, parent in found if parent in outer)]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b") Z 0"


@pytest.mark.parametrize("victims", ["opsctl", "outer", "inner", "warden", "opsctl and outer", "opsctl and inner"])
def test_rn_03_whoever_is_killed_no_child_survives(rig: Rig, mark: str, victims: str) -> None:
    process = _begun(rig, mark)
    outer, inner = _wardens(process.pid)
    chosen = {"opsctl": [process.pid], "outer": [outer], "inner": [inner], "warden": [outer, inner]}
    for name in victims.split(" and "):
        for pid in chosen[name]:
            os.kill(pid, signal.SIGKILL)
    if "opsctl" in victims:
        process.wait(5)
        eventually(lambda: not running(mark))
        run = rig.only()
        assert (run.status, rig.clones()) == ("lost", [])
    elif victims == "outer":  # the inner one goes on
        rig.site.ok("runs", "cancel", f"r_{rig.only().ulid}")
        assert process.wait(20) == 9
    else:
        assert process.wait(20) == 9
        assert (rig.only().status, "watched over" in rig.only().message) == ("error", True)
    assert (running(mark), rig.clones()) == ([], [])


def test_when_all_three_are_killed_the_program_goes_with_them(rig: Rig, mark: str) -> None:
    process = rig.start(rig.item(f"sh -c 'sleep 100; :' {mark}"))
    eventually(lambda: running(mark))
    for pid in (*_wardens(process.pid), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(5)
    if rig.walls:
        eventually(lambda: not running(mark))
    for pid in running(mark):  # without a sandbox a child of the program may stay: see the reference
        os.kill(pid, signal.SIGKILL)
    assert rig.only().status == "lost"


def test_a_name_like_the_wardens_saves_no_process(bare: Rig, mark: str) -> None:
    """What its command line says is for every program to choose."""
    script = f"setsid sh -c 'sleep 100; :' {mark} '{WARDEN}' 2 & sh -c 'sleep 100; :' {mark}"
    process = bare.start(bare.item(script))
    eventually(lambda: len(running(mark)) >= 2)
    wardens = [pid for pid in _wardens(process.pid) if pid not in running(mark)]
    for pid in wardens:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(20) == 9
    left = running(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def test_processes_of_others_in_the_same_program_are_left_alone(bare: Rig, mark: str) -> None:
    """A server has other things to do: what another thread started in a session of its own goes on."""
    command = ["sh", "-c", "sleep 100; :", mark]
    pids = bare.site.home.path / "pids"
    item = bare.item(f"touch '{pids}'; sleep 2; echo 1 > one")
    started = [subprocess.Popen(command, start_new_session=True)]
    is_over = threading.Event()

    def other() -> None:
        eventually(pids.exists)
        started.append(subprocess.Popen(command, start_new_session=True))
        for pid in _wardens(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        is_over.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        run = bare.carry_out(item)
        assert "watched over" in run.message
        assert [process.poll() for process in started] == [None, None]
    finally:
        is_over.set()
        thread.join()
        for process in started:
            process.kill()
            process.wait()
    assert ctypes.CDLL(None).prctl(37, ctypes.byref(was := ctypes.c_int(7)), 0, 0, 0) == 0
    assert was.value == 0


def test_kept_clones_stay_and_others_go(rig: Rig) -> None:
    rig.run("echo 1 > one", keep=True)
    rig.run("echo 2 > two")
    assert [(place / "repo" / "one").read_text() for place in rig.clones()] == ["1\n"]


def test_detached_it_goes_on_and_can_be_followed(rig: Rig, mark: str) -> None:
    item = rig.item("echo first; sleep 1; echo second; echo 1 > one")
    process = rig.start(item, "--detach")
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    name = told.strip()
    done = rig.site.cli("runs", "log", "-f", name)
    assert (done.returncode, done.stdout) == (0, "first\nsecond\n"), done.stderr
    assert rig.only().status == "done"


@pytest.mark.parametrize("extra", [{}, {"PYTHONPATH": ""}, {"PYTHONSAFEPATH": ""}])
def test_in_the_background_nothing_is_imported_from_the_current_folder(bare: Rig, extra: dict[str, str]) -> None:
    site, item = bare.site, bare.item("echo 1 > one")
    (site.path / "opsctl").mkdir()
    for name in ("opsctl/__init__.py", "json.py", "sitecustomize.py", "typer.py"):
        (site.path / name).write_text(f"open({str(site.path / 'EVIL')!r}, 'w').close()\n")
    program = Path(sys.executable).with_name("opsctl")
    done = subprocess.run(
        [program, "run", f"a_{item}", "--no-sandbox", "--detach"],
        cwd=site.path,
        env=site.home.environ | extra,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    log = subprocess.run(
        [program, "runs", "log", "-f", done.stdout.strip()], cwd=site.path, env=site.home.environ, check=False
    )
    assert log.returncode == 0
    assert not (site.path / "EVIL").exists()


def test_detach_says_of_a_run_for_an_agent_that_it_waits(site: Site) -> None:
    with site.ws() as ws:
        ulid = ws.drafts.create(NewDraft("for an agent")).ulid
        ws.approvals.approve(ulid)
    done = site.cli("run", f"a_{ulid}", "--executor", "claim", "--detach")
    assert "background" not in done.stderr
    assert "runs claim" in done.stderr, done.stderr


def test_detach_with_the_key_of_a_run_that_ended_says_how(bare: Rig) -> None:
    item = bare.item("exit 3")
    first = bare.site.cli("run", f"a_{item}", "--no-sandbox", "--idempotency-key", "k")
    assert first.returncode == 9
    done = bare.site.cli("run", f"a_{item}", "--no-sandbox", "--idempotency-key", "k", "--detach")
    assert (done.returncode, "background" in done.stderr) == (9, False), done.stderr


def test_retry_takes_the_options_of_run(bare: Rig) -> None:
    run = bare.run("test -e ../keep && echo kept; exit 1")
    bare.site.cli("runs", "retry", f"r_{run.ulid}", "--keep", "--no-sandbox")
    assert (bare.only().sandbox, bare.text(bare.only())) == ("none", "kept\n")
    assert len(bare.clones()) == 1


def test_what_a_killed_run_and_a_killed_check_left_is_cleared(bare: Rig) -> None:
    state, cache = (bare.site.home.path / name / "opsctl" for name in ("state", "cache"))
    process = bare.start(bare.item("sleep 100"))
    eventually(lambda: bare.clones())
    process.kill()
    process.wait()
    old = cache / "runs" / "opsctl-check-old"
    (old / "run").mkdir(parents=True)
    os.utime(old, (1, 1))
    assert bare.only().status == "lost"
    assert (bare.clones(), list(state.glob("*/holds/*"))) == ([], [])
    bare.site.cli("runner", "check", "sh", "--no-sandbox")
    assert not old.exists()


def test_a_clone_of_a_run_under_another_root_is_not_swept_away(bare: Rig) -> None:
    """The clones of one repository lie together, whatever its gate's root."""
    with bare.site.ws() as ws:
        folder = ws.memory().folder
        clones = ws.places.clones(ws.repo.common)
        other = folder.with_name("f" * 16 + "-" + folder.name.rpartition("-")[2])
        hold = Hold(other, "01M83NWNNYD8P001PSY7E4ZR25")
        (clones / "r_01M83NWNNYD8P001PSY7E4ZR25").mkdir(parents=True)
        sweep(clones, folder)
        assert len(bare.clones()) == 1
        hold.release()
        sweep(clones, folder)
        assert not bare.clones()


def test_a_limit_on_open_files_does_not_break_a_run(bare: Rig) -> None:
    limited = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", sys.executable, "-m", "opsctl", "run", "--no-sandbox"]
    command = [*limited, f"a_{bare.item('echo 1 > one')}"]
    env = bare.site.home.environ
    done = subprocess.run(command, cwd=bare.site.path, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
