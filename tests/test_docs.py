"""The docs say what the program does: sessions are played, generated pages are fresh, links lead somewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, Site
from docs_build import commands, generated, help_text, pages, play, steps

from opsctl.cli.app import COMMANDS
from opsctl.errors import CODES

README = ROOT / "README.md"
PLAYED = [path for path in pages() if steps(path.read_text(encoding="utf-8"))]


def name_of(path: Path) -> str:
    """A page as the test's name shows it."""
    return path.relative_to(ROOT).as_posix()


def texts() -> list[Path]:
    """Every file of the repository that is not ignored; in an unpacked archive, the ones that it holds."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    if done.returncode == 0:
        found = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    else:
        found = [path for top in ("opsctl", "docs", "tests") for path in (ROOT / top).rglob("*")] + pages()
    return [path for path in found if path.is_file() and path.suffix != ".pyc"]


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="sessions are played by bash")
@pytest.mark.parametrize("path", PLAYED, ids=name_of)
def test_the_sessions_of_a_page_print_what_the_page_shows(path: Path, tmp_path: Path) -> None:
    differences = list(play(path.read_text(encoding="utf-8"), tmp_path))
    assert not differences, "\n".join(map(str, differences)) + "see: python tests/docs_build.py sessions"


def test_a_session_that_is_not_played_says_why() -> None:
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for reason in re.findall(r"<!-- not run:(.*?)-->", text):
            assert reason.strip(), name_of(path)
        assert text.count("<!-- not run:") <= 1, f"{name_of(path)}: too many sessions are not played"
        assert not re.search(r"^\?$", text, re.MULTILINE), f"{name_of(path)} asks for an output that was not recorded"


def test_readme_has_a_session_that_is_played() -> None:
    played = [step.command for step in steps(README.read_text(encoding="utf-8"))]
    assert {"init", "draft", "approve", "verify"} <= {line.split()[1] for line in played if line.startswith("opsctl ")}


# -- generated pages --------------------------------------------------------------------------------------------------


def test_generated_pages_are_fresh() -> None:
    for path, text in generated().items():
        assert path.read_text(encoding="utf-8") == text, f"{name_of(path)} is stale: python tests/docs_build.py"


def test_every_command_is_in_the_reference_and_its_help_ends_in_an_example() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    every = list(commands())
    assert {path[0] for path in every} == set(COMMANDS)
    groups = {path[0] for path in every if len(path) > 1}
    for path in every:
        assert f"# opsctl {' '.join(path)}\n" in page
        if path[0] not in groups or len(path) > 1:
            last = " ".join(help_text(*path).split("\n\n")[-1].split())
            assert last.startswith(f"Example: opsctl {' '.join(path)}"), path


def test_the_list_of_commands_cuts_no_help_short() -> None:
    for path in ((), *{(one[0],) for one in commands() if len(one) > 1}):
        _, _, listed = help_text(*path, columns=80).partition("\nCommands:\n")
        assert "..." not in listed, listed


def test_every_error_code_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    assert [code for code in CODES if f"| `{code}` |" not in page] == []


def test_the_man_page_names_every_command() -> None:
    page = (ROOT / "docs/git-ops.1").read_text(encoding="utf-8")
    _, _, rest = page.partition(".SH COMMANDS")
    assert set(COMMANDS) <= set(re.findall(r"[a-z]+", "\n".join(re.findall(r"^\.BR? .*", rest, re.MULTILINE))))


# -- written by hand --------------------------------------------------------------------------------------------------


def test_every_field_of_the_objects_is_in_the_reference(site: Site) -> None:
    page = (ROOT / "docs/reference/json.md").read_text(encoding="utf-8")
    plan = site.home.path / "plan.toml"
    plan.write_text('id = "p"\ntitle = "P"\nstatus = "active"\n[[task]]\nid = "t"\ntitle = "T"\nstatus = "todo"\n')
    draft = site.json("draft", "Do the work", "--label", "one")
    values = [draft, site.json("approve", "--yes", draft["id"]), site.json("plan", "set", str(plan))]  # type: ignore[index]
    for line in ("verify", "status", "log", "doctor", "config show", "policy show", "diff", "init", "list -s all"):
        values.append(json.loads(site.cli(*line.split(), "--json").stdout))
    page += (ROOT / "docs/reference/formats.md").read_text(encoding="utf-8")
    missing = {key for key in _keys(values) if not re.search(rf"\b{key}\b", page)}
    assert not missing


def _keys(value: object) -> set[str]:
    if isinstance(value, list):
        return {key for one in value for key in _keys(one)}
    if isinstance(value, dict):
        return set(value) | {key for one in value.values() for key in _keys(one)}
    return set()


def test_every_case_that_a_test_names_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/cases.md").read_text(encoding="utf-8")
    named = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        for ids in re.findall(r"def test_((?:[a-z]{2}_\d\d_)+)", path.read_text(encoding="utf-8")):
            named |= {one.upper().replace("_", "-") for one in re.findall(r"(?!to_)[a-z]{2}_\d\d", ids)}
    spans = re.findall(r"([A-Z]{2})-(\d\d) to [A-Z]{2}-(\d\d)", page)
    listed = {f"{kind}-{number:02}" for kind, first, last in spans for number in range(int(first), int(last) + 1)}
    listed |= set(re.findall(r"[A-Z]{2}-\d\d", page))
    assert sorted(named - listed) == []


def test_no_message_names_a_page_that_an_installed_program_lacks() -> None:
    for path in (ROOT / "opsctl").rglob("*.py"):
        assert not re.search(r"docs/[a-z]+/", path.read_text(encoding="utf-8")), name_of(path)


def test_relative_links_lead_somewhere() -> None:
    for path in [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            page = (path.parent / name).resolve() if name else path
            assert page.exists(), f"{name_of(path)}: {target}"
            assert not anchor or anchor in _anchors(page), f"{name_of(path)}: {target}"


def _anchors(path: Path) -> set[str]:
    """The anchors that a forge makes of headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_module_stands_in_the_drawing_of_the_layers() -> None:
    drawing = (ROOT / "docs/explanation/layers.md").read_text(encoding="utf-8").split("```")[1]
    paths = [path for path in (ROOT / "opsctl").rglob("*.py") if path.parent.name != "cli"]
    names = {path.stem for path in paths} - {"__init__", "__main__"}
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", drawing)) == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT / "docs").as_posix()
        assert name == "index.md" or f"]({name}" in index, name


def test_readme_is_short_and_sets_up_in_two_lines() -> None:
    text = README.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 150
    assert len([line for line in lines if line.startswith("python3 ")]) == 2
    block = text[text.index("<!-- test line -->") :]
    fenced = block[: block.index("\n```\n")].splitlines()
    assert [line for line in fenced if line.startswith("python3 ")] == [
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest -q -n 2"
    ]


def test_nothing_names_a_place_on_one_machine() -> None:
    forms = [
        "/wo" + "rk/",
        "/tmp/" + r"v\b",
        r"(?<![\w.])/ro" + r"ot\b",
        r"\bsha" + "red/",
        "DESI" + r"GN\.md",
        "CAS" + r"ES\.md",
    ]
    form = re.compile("|".join(forms).encode())
    assert [name_of(path) for path in texts() if form.search(path.read_bytes())] == []
