"""The layers: imports go down only, pure modules stay pure, and a command imports no more than it needs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT, Home, Site, make_home

from opsctl.cli import options
from opsctl.errors import OpsError
from opsctl.providers import ADAPTERS
from opsctl.workspace import Workspace

BOTTOM = [
    *("models", "document", "ids", "errors", "message", "gitobject", "treediff", "violation", "planfile"),
    *("policyfile", "text", "secretscan", "risk", "diffing", "config", "toml"),
    *("runrecord", "runterms", "runners", "leases"),
    *("sshsig", "sshkey", "sshproof", "sshwire", "authenticator"),
]
RULE = ["policy", "act", "standing", "quorum", "topic"]
PURE = [*RULE, *(name for name in BOTTOM if name not in ("config", "runners", "leases"))]
IMPURE = {"os", "sqlite3", "subprocess", "pygit2", "pathlib", "time", "socket", "random", "secrets", "tempfile"}
HEAVY = ["openai", "anthropic", "fastapi", "mcp", "uvicorn", "google", "httpx", "httpx2", "jinja2"]


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by dotted name."""
    found = {}
    for path in sorted((ROOT / "opsctl").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(name: str, *, lazy: bool = True) -> set[str]:
    """Dotted names that a module imports; without `lazy` only those that importing it imports at once."""
    found: set[str] = set()
    for node in walk(modules()[name], lazy):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            base = node.module or ""
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found.update(inner & modules().keys() or {base})
            if inner - modules().keys():
                found.add(base)
    return found


def walk(node: ast.AST, lazy: bool) -> list[ast.AST]:
    """All nodes; without `lazy` neither bodies of functions nor what only a type checker reads."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if not lazy and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        found += [child, *walk(child, lazy)]
    return found


def own(name: str) -> set[str]:
    """The imports that are of this package."""
    return {one for one in imports(name) if one.split(".")[0] == "opsctl"}


def rank(name: str) -> int:
    """How high a module stands: imports go to the same or a lower rank."""
    parts = name.split(".")[1:]
    if not parts:
        return 0
    if parts[0] in BOTTOM:
        return 0
    if parts[0] in RULE:
        return 1
    if parts[0] in ("git", "ledger", "history", "ahead", "helper"):
        return 2
    if parts[0] in ("store", "notes", "runindex", "executors", "providers"):
        return 3
    if parts[0] == "workspace":
        return 4
    return 5


def test_every_module_has_a_place_and_says_what_it_owns() -> None:
    assert {f"opsctl.{name}" for name in [*BOTTOM, *RULE]} <= modules().keys()
    for name, tree in modules().items():
        assert name == "opsctl" or ast.get_docstring(tree), f"{name} has no docstring"


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down_only(name: str) -> None:
    assert not [one for one in own(name) if rank(one) > rank(name)]


def test_the_bottom_imports_nothing_but_the_bottom() -> None:
    for name in BOTTOM:
        assert {one.split(".")[1] for one in own(f"opsctl.{name}") if one != "opsctl"} <= set(BOTTOM)


@pytest.mark.parametrize("name", PURE)
def test_the_trust_rule_and_what_it_stands_on_is_pure(name: str) -> None:
    tops = {one.split(".")[0] for one in imports(f"opsctl.{name}")}
    assert not tops & IMPURE
    calls = {ast.unparse(node.func) for node in ast.walk(modules()[f"opsctl.{name}"]) if isinstance(node, ast.Call)}
    assert not calls & {"datetime.now", "datetime.utcnow", "date.today", "open", "print", "input", "exec", "eval"}


def test_only_one_module_imports_pygit2() -> None:
    assert [name for name in modules() if "pygit2" in {one.split(".")[0] for one in imports(name)}] == [
        "opsctl.git.repo"
    ]


def test_no_face_reaches_past_the_workspace_into_git() -> None:
    for name in modules():
        if name.startswith("opsctl.cli"):
            assert not own(name) & {"opsctl.store", "opsctl.git.repo", "opsctl.ledger", "opsctl.history"}, name
            assert "pygit2" not in imports(name), name


INSIDE = {
    *(
        "desk",
        "topics",
        "working",
        "decisions",
        "runbook",
        "answering",
        "repo",
        "store",
        "places",
        "pins",
        "pin",
        "memory",
        "history",
        "root",
        "environ",
        "path",
    ),
    *("setting", "settings", "signer", "who", "choose_key", "chosen_key", "progress", "new_ulid"),
}
"""What a workspace holds for its own use cases."""


def test_no_face_reaches_into_the_inside_of_the_workspace() -> None:
    from opsctl.workspace.base import Base

    assert {name for name in vars(Base) if not name.startswith("_")} - INSIDE == {"close", "editor", "gate"}
    for name, tree in modules().items():
        if not name.startswith("opsctl.cli"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith(("workspace", "ws")):
                is_inside = node.attr in INSIDE or node.attr.startswith("_")
                assert not is_inside, f"{name}: {ast.unparse(node)}"


def test_the_workspace_and_below_know_no_face() -> None:
    for name in modules():
        if rank(name) < 5:
            assert not [one for one in own(name) if one.startswith("opsctl.cli")], name
            assert not {one.split(".")[0] for one in imports(name)} & {"typer", "rich", "click"}, name


def test_only_faces_print_or_end_the_process() -> None:
    allowed = {"opsctl.__main__", "opsctl.git.signing"}  # "touch your security key" has to be said while it waits
    for name, tree in modules().items():
        if name.startswith("opsctl.cli") or name in allowed:
            continue
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"print", "sys.exit", "exit", "input", "os._exit"}, name


def test_only_faces_read_the_environment() -> None:
    for name, tree in modules().items():
        if rank(name) < 5:
            read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not read & {"os.environ", "os.environb", "os.getenv", "os.getenvb"}, name


def test_a_workspace_goes_by_the_environment_that_it_is_given(site: Site, tmp_path: Path) -> None:
    def opened(**values: str) -> Workspace:
        return Workspace(site.path, environ={**site.home.environ, **values}, now=lambda: datetime.now(UTC))

    other = make_home(tmp_path / "bob", "Bob", "bob@example.com")
    with opened(**other.environ) as ws:  # the process itself has Alice's
        assert ws.who == ("Bob", "bob@example.com")
        assert ws.signer.key.line == other.public("bob")
    (tmp_path / "bob/.gitconfig").write_text("[user]\n\tsigningkey = ~/keys/bob.pub\n[gpg]\n\tformat = ssh\n")
    with opened(**other.environ) as ws:
        assert ws.signer.key.line == other.public("bob")
    with opened(PATH=str(tmp_path)) as ws, pytest.raises(OpsError, match="git is not installed"):
        ws.setting("user.name")
    with opened(OPSCTL_SIGN_TIMEOUT="soon") as ws, pytest.raises(OpsError, match="OPSCTL_SIGN_TIMEOUT"):
        _ = ws.signer


def test_there_is_no_cycle_of_imports() -> None:
    graph = {name: {one for one in imports(name, lazy=False) if one in modules()} - {name} for name in modules()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_command_is_a_module_of_its_own_that_registers_itself() -> None:
    from opsctl.cli.app import COMMANDS

    for module in set(COMMANDS.values()):
        tree = modules()[f"opsctl.cli.{module}_command"]
        assert "register" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    files = {name.rsplit(".", 1)[1] for name in modules() if name.endswith("_command")}
    assert files == {f"{module}_command" for module in COMMANDS.values()}


# -- what a process loads -----------------------------------------------------------------------------------------

_LOADED = """\
import json, sys
sys.argv = ["opsctl", *sys.argv[1:]]
from opsctl.__main__ import main
try:
    main()
except SystemExit as end:
    status = end.code
else:
    status = 0
sys.stderr.write("\\nLOADED " + json.dumps([status or 0, sorted({name.split(".")[0] for name in sys.modules}),
                                          sorted(name for name in sys.modules if name.startswith("opsctl"))]))
"""


def loaded(home: Home, cwd: Path, *argv: str, env: dict[str, str] | None = None) -> tuple[int, set[str], set[str], str]:
    """Status, top modules, modules of the package, and output of a command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *argv],
        cwd=cwd,
        env={**home.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    status, tops, package = json.loads(done.stderr.rsplit("LOADED ", 1)[1])
    return status, set(tops), set(package), done.stdout


def test_listing_imports_no_software_of_providers_servers_or_bridges(site: Site) -> None:
    status, tops, package, _ = loaded(site.home, site.path, "list")
    assert status == 0
    assert not tops & set(HEAVY)
    assert not tops & {"rich", "ulid"}, "nothing is shown in colours or made"
    assert [name for name in package if name.endswith("_command")] == ["opsctl.cli.list_command"]


def test_the_version_imports_nothing_heavy(home: Home) -> None:
    for option in ("--version", "-V"):
        status, tops, package, out = loaded(home, home.path, option)
        assert status == 0
        assert out.startswith("opsctl ")
        assert not tops & {"typer", "click", "rich", "pydantic", "pygit2", "cryptography", *HEAVY}
        assert package <= {"opsctl", "opsctl.__main__"}


@pytest.mark.parametrize("command", ["list", "approve", "draft"])
def test_help_needs_no_repository_and_no_git_library(home: Home, command: str) -> None:
    status, tops, _, out = loaded(home, home.path, command, "--help")
    assert status == 0
    assert "Example: opsctl " in out
    assert not tops & {"pygit2", "cryptography", *HEAVY}


VENDORS = {"openai", "anthropic", "google"}


def test_libraries_of_vendors_are_imported_by_their_adapter_alone_when_it_generates() -> None:
    for name in modules():
        tops = {one.split(".")[0] for one in imports(name)} & VENDORS
        at_once = {one.split(".")[0] for one in imports(name, lazy=False)} & VENDORS
        assert not at_once, name
        assert len(tops) <= 1, name
        assert not tops or name in ADAPTERS.values(), name
        if "httpx2" in {one.split(".")[0] for one in imports(name)}:
            assert name in {f"opsctl.providers.{one}" for one in ("wire", "health", "failure")}


def test_only_connect_loads_what_speaks_to_a_provider() -> None:
    inner = {f"opsctl.providers.{one}" for one in ("wire", "calling", "bounding", "failure", "health", "secret")}
    for name in modules():
        if not name.startswith("opsctl.providers"):
            assert not own(name) & {*inner, *ADAPTERS.values()}, name


@pytest.mark.parametrize(
    "argv", [("provider", "path"), ("provider", "list"), ("provider", "check"), ("draft", "--help")]
)
def test_asking_for_providers_needs_no_library_of_a_vendor(home: Home, argv: tuple[str, ...]) -> None:
    path = home.path / "config/opsctl/provider.json"
    path.parent.mkdir(parents=True)
    rows = {one: {"type": one, "model": "m", "base_url": "http://127.0.0.1:9"} for one in ADAPTERS}
    path.write_text(json.dumps({"active": "gemini", "providers": rows}))
    status, tops, _, out = loaded(home, home.path, *argv)
    assert status in (0, 7), out
    assert not tops & {"openai", "anthropic", "tenacity"}, "the last one comes with google.genai"
    assert argv == ("provider", "check") or "httpx2" not in tops


# -- completion of ids --------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(site: Site) -> tuple[Site, list[str]]:
    """Two drafts, one of them approved; their ULIDs, oldest first."""
    from opsctl.workspace.drafts import NewDraft

    with site.ws() as ws:
        found = [ws.drafts.create(NewDraft(text)).ulid for text in ("One.", "Two.")]
        ws.approvals.approve(found[0])
    return site, found


def test_completion_offers_ids_by_prefix_in_any_case(
    shelf: tuple[Site, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, ulids = shelf
    monkeypatch.chdir(site.path)
    assert sorted(options.complete_id("")) == sorted(ulids)
    assert sorted(options.complete_id("01")) == sorted(ulids)
    assert options.complete_id(ulids[0].lower()) == [ulids[0]]
    assert options.complete_id("d_" + ulids[1][:25]) in ([f"d_{ulids[1]}"], [f"d_{one}" for one in reversed(ulids)])
    assert options.complete_id("a_" + ulids[0]) == [f"a_{ulids[0]}"]
    for nothing in ("ZZ", "--output=x", "../", "\x1b", "d_d_"):
        assert options.complete_id(nothing) == []


def test_completion_offers_ids_by_suffix(shelf: tuple[Site, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    site, ulids = shelf
    monkeypatch.chdir(site.path)
    assert options.complete_id(ulids[1][-6:]) == [ulids[1]]


def test_completion_outside_a_repository_offers_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.path)
    assert options.complete_id("") == []


@pytest.mark.parametrize("command", ["show", "approve", "diff", "edit", "reject", "log", "return", "revoke"])
def test_the_shell_completes_ids_without_the_git_library(shelf: tuple[Site, list[str]], command: str) -> None:
    site, ulids = shelf
    env = {"_OPSCTL_COMPLETE": "complete_bash", "COMP_WORDS": f"opsctl {command} 01", "COMP_CWORD": "2"}
    status, tops, _, out = loaded(site.home, site.path, env=env)
    assert status == 0
    assert sorted(line.removeprefix("plain,") for line in out.split()) == sorted(ulids)
    assert not tops & {"pygit2", "cryptography", "rich", *HEAVY}


def test_the_shell_completes_commands(home: Home) -> None:
    env = {"_OPSCTL_COMPLETE": "complete_bash", "COMP_WORDS": "opsctl re", "COMP_CWORD": "1"}
    _, _, _, out = loaded(home, home.path, env=env)
    assert {line.removeprefix("plain,") for line in out.split()} == {"review", "return", "reject", "revoke"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("list --status re", {"rejected", "revoked"}),
        ("list -s ", {"draft", "approved", "rejected", "error", "revoked", "all"}),
        ("draft --executor ", {"claim", "provider", "exec"}),
        ("draft --executor pr", {"provider"}),
    ],
)
def test_the_shell_completes_values_of_options(home: Home, line: str, expected: set[str]) -> None:
    words = f"opsctl {line}"
    env = {"_OPSCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    _, tops, _, out = loaded(home, home.path, env=env)
    assert {row.removeprefix("plain,") for row in out.split()} == expected
    assert not tops & {"pygit2", "cryptography", *HEAVY}


def test_completion_runs_nothing_that_the_repository_configures(shelf: tuple[Site, list[str]], tmp_path: Path) -> None:
    site, _ = shelf
    marker = tmp_path / "marker"
    for key in ("core.fsmonitor", "core.pager", "core.alternateRefsCommand", "core.sshCommand"):
        site.git("config", key, f"touch {marker}")
    before = os.getcwd()
    os.chdir(site.path)
    try:
        assert options.complete_id("01")
    finally:
        os.chdir(before)
    assert not marker.exists()


def test_completion_of_a_home_without_a_gate_is_quiet(tmp_path: Path) -> None:
    home = make_home(tmp_path / "carol", "Carol", "carol@example.com")
    env = {"_OPSCTL_COMPLETE": "complete_bash", "COMP_WORDS": "opsctl show 01", "COMP_CWORD": "2"}
    status, _, _, out = loaded(home, tmp_path, env=env)
    assert (status, out.strip()) == (0, "")
