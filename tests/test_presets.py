"""The presets of `runner add`, tried: the real program does one edit that a scripted model server asks for.

Each is left out where its program is not installed. The server stands on the loopback; no model is reached.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Home, Site
from model_servers import Script, serving

from opsctl.config import Places
from opsctl.executors.sandbox import available
from opsctl.runners import PRESETS, add, load

NAMES = tuple(PRESETS)
_CODEX = """\
model = "scripted"
model_provider = "scripted"
[model_providers.scripted]
name = "scripted"
base_url = "{address}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""


@pytest.fixture
def script() -> Script:
    """What the server asks for."""
    return Script()


@pytest.fixture
def address(script: Script, home: Home) -> Iterator[str]:
    """A server that runs, and a home whose agents are led to it."""
    with serving(script) as address:
        (home.path / ".codex").mkdir()
        (home.path / ".codex/config.toml").write_text(_CODEX.format(address=address))
        (home.path / ".claude").mkdir()
        home.environ |= {"ANTHROPIC_BASE_URL": address, "OPENAI_API_BASE": f"{address}/v1", "TMPDIR": str(home.path)}
        home.environ |= {"ANTHROPIC_API_KEY": "not-a-key", "OPENAI_API_KEY": "not-a-key"}
        home.environ["AIDER_MODEL"] = "openai/scripted"
        yield address


def _needs(name: str, home: Home, *, sandbox: bool) -> None:
    place = shutil.which(name)
    if place is None:
        pytest.skip(f"{name} is not installed")
    if sandbox and available(home.environ["PATH"]) is None:
        pytest.skip("no sandbox works here")
    if sandbox and "/tmp/" in place:
        pytest.skip(f"{name} lies where the sandbox has an empty folder")


def _tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _allow_network(site: Site) -> None:
    policy = site.ok("policy", "show", "--raw").replace("allow_network = false", "allow_network = true")
    (site.home.path / "policy.toml").write_text(policy + "\n")
    site.ok("policy", "set", str(site.home.path / "policy.toml"))


# -- without a program ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_written_as_it_is_and_read_back(name: str, home: Home) -> None:
    places = Places.of(home.environ)
    add(places, PRESETS[name], replace=False)
    assert load(places).get(name) == PRESETS[name]
    assert tomllib.loads((places.config / "runners.toml").read_text())["runner"][name]["network"] is True


def test_a_preset_may_write_no_folder_that_its_program_is_configured_by() -> None:
    """A hook or a tool that an agent writes there would run outside of the sandbox next time.

    codex cannot do without; its own sandbox keeps the model's commands out of it.
    """
    assert [name for name in NAMES if PRESETS[name].writes] == ["codex"]
    assert "workspace-write" in PRESETS["codex"].command


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_whose_program_is_missing_is_listed_as_such(name: str, bare_site: Site, tmp_path: Path) -> None:
    bare_site.ok("runner", "add", name)
    (tmp_path / "bin").mkdir()
    for tool in ("git", "sh"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    listed = bare_site.cli("runner", "list", "--json", env={"PATH": str(tmp_path / "bin")})
    assert [(row["name"], row["program"]) for row in json.loads(listed.stdout)] == [(name, None)]


# -- with the program -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "no sandbox"])
@pytest.mark.parametrize("name", NAMES)
def test_check_sees_the_edit(name: str, sandbox: bool, home: Home, bare_site: Site, address: str) -> None:
    _needs(name, home, sandbox=sandbox)
    bare_site.ok("runner", "add", name)
    done = bare_site.cli("runner", "check", name, "--timeout", "90", "--sandbox" if sandbox else "--no-sandbox")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"ok\t{name}\t")


@pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "no sandbox"])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_brings_the_edit_back_and_nothing_else(
    name: str, sandbox: bool, home: Home, site: Site, script: Script, address: str
) -> None:
    _needs(name, home, sandbox=sandbox)
    _allow_network(site)
    site.ok("runner", "add", name)
    prompt = "Write the word ok into src/fresh.txt (Grüße, \t7f3a)."
    script.path = "src/fresh.txt"
    ulid = site.ok("draft", prompt, "--runner", name, "--network", "--path", "src/**").removeprefix("d_")
    site.ok("approve", ulid, "--yes")
    before = _tree(home.path / ".claude")

    run = site.json("run", f"a_{ulid}", "--sandbox" if sandbox else "--no-sandbox")

    assert isinstance(run, dict)
    assert (run["status"], run["outside"]) == ("done", []), site.ok("runs", "log", run["id"])
    branch = run["result_ref"].removeprefix("refs/heads/")
    assert site.git("diff", "--name-only", f"main...{branch}") == "src/fresh.txt"
    assert site.git("show", f"{branch}:src/fresh.txt") == "ok"
    assert prompt.replace("\t", "\\t") in script.prompts(), "the approved bytes reach the model"
    assert site.git("status", "--porcelain") == ""
    if sandbox:
        assert _tree(home.path / ".claude") == before


def test_claude_takes_no_hook_from_the_repository(home: Home, site: Site, address: str) -> None:
    _needs("claude", home, sandbox=False)
    hook = '{"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": "touch %s"}]}]}}'
    (site.path / ".claude").mkdir()
    (site.path / ".claude/settings.json").write_text(hook % (home.path / "hooked"))
    site.git("add", ".")
    site.git("commit", "-q", "-m", "a hook")
    site.ok("runner", "add", "claude")
    ulid = site.ok("draft", "Write ok.", "--runner", "claude").removeprefix("d_")
    site.ok("approve", ulid, "--yes")
    site.ok("run", f"a_{ulid}", "--no-sandbox")
    assert not (home.path / "hooked").exists()
