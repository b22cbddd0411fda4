"""llama.cpp's own server with a tiny random model: real protocols, and random text that has to be safe everywhere."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from conftest import Site
from vendors import ANTHROPIC, KEY, OPENAI, Vendor, ask

from opsctl.errors import OpsError

pytest.importorskip("xllamacpp", reason="needs the extra llm")
pytest.importorskip("gguf", reason="needs the extra llm")

from llm import server, tiny

SPEAKS = pytest.mark.parametrize("vendor", [OPENAI, ANTHROPIC], ids=lambda vendor: vendor.type)
WILD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's origin; its key is `KEY`."""
    with server.running(tiny.write(tmp_path_factory.mktemp("llm") / "tiny.gguf"), KEY) as origin:
        yield origin


def test_the_model_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (tiny.write(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second
    assert len(first) < 600_000


@SPEAKS
def test_a_real_server_streams_an_answer(llama: str, vendor: Vendor) -> None:
    answers, codes = [], {"provider_garbage"}
    for number in range(12):
        try:
            made, heard, tries = ask(vendor.provider(llama), f"Say {number}.", system="Be brief.")
        except OpsError as error:
            codes.add(error.code)
            continue
        assert "".join(heard) == made.text
        assert made.finish == vendor.ends["whole"]
        assert made.usage["output"] > 0
        assert [one.outcome for one in tries] == ["ok"]
        answers.append(made)
    assert codes == {"provider_garbage"}, "random words may be none, or too many, and nothing else"
    assert len(answers) > 5
    assert {"tiny-random"} <= {one.model for one in answers}
    assert any(one.request_id for one in answers)
    assert any(WILD.search(one.text) for one in answers), "it is as wild as it should be"


@SPEAKS
def test_a_real_server_keeps_the_limit(llama: str, vendor: Vendor) -> None:
    with pytest.raises(OpsError, match="cut off at the limit"):
        ask(vendor.provider(llama), "Go on.", max_output_tokens=1)


@SPEAKS
def test_a_real_server_refuses_a_wrong_key_and_none(llama: str, vendor: Vendor) -> None:
    for key in ("sk-wrong-0123456789", None):
        with pytest.raises(OpsError) as caught:
            ask(vendor.provider(llama, key=key))
        assert caught.value.code == "provider_refused"
        assert "HTTP 401" in caught.value.message
        assert "sk-wrong" not in caught.value.message + str(caught.value.detail)


@SPEAKS
def test_a_real_server_tells_its_models(llama: str, vendor: Vendor) -> None:
    found = vendor.provider(llama, model="tiny-random").health(5.0)
    assert (found.ok, found.model, found.models) == (True, True, ("tiny-random",))


# -- what it says, on every output ----------------------------------------------------------------------------------


@pytest.fixture
def spoken(site: Site, llama: str) -> tuple[Site, list[str]]:
    """Drafts of random text, as `generate` files them; their ids."""
    path = site.home.path / "config/opsctl/provider.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    host = llama.removeprefix("http://")
    row = {"type": "openai_compat", "base_url": f"{llama}/v1", "model": "tiny-random"}
    row |= {"api_key": "${LLAMA_API_KEY}", "key_host": host}
    path.write_text(json.dumps({"active": "llama", "providers": {"llama": row}}))
    site.home.environ["LLAMA_API_KEY"] = KEY
    ids = []
    for number in range(6):
        done = site.cli("generate", f"Say {number}.")
        assert done.returncode in (0, 7), done.stderr
        assert not WILD.search(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr
        if done.returncode == 0:
            ids.append(done.stdout.strip())
    assert len(ids) > 2
    site.fsck()
    return site, ids


def test_random_text_is_safe_on_every_output(spoken: tuple[Site, list[str]]) -> None:
    site, ids = spoken
    commands = [["list"], ["list", "--status", "all"], ["review"], ["status"], ["doctor"], ["provider", "check"]]
    for one in ids:
        commands += [["show", one], ["diff", one], ["log", one], ["approve", one, "--yes"]]
    for argv in commands:
        for more in ([], ["--json"]):
            done = site.cli(*argv, *more)
            assert not WILD.search(done.stdout + done.stderr), argv
            assert "Traceback" not in done.stderr, (argv, done.stderr)
            assert KEY not in done.stdout + done.stderr
            if more and done.stdout.strip():
                json.loads(done.stdout)
    assert not [row for row in json.loads(site.ok("list", "--status", "approved", "--json")) if row["id"] in ids]


def test_random_text_is_safe_on_a_terminal(spoken: tuple[Site, list[str]]) -> None:
    site, ids = spoken
    own = re.compile(r"\x1b\[[0-9;]*[mKJHhl]|\x1b\[\?[0-9]+[hl]|\x1b=|\x1b>|[\r\x07\x08]")
    for argv in (["generate", "Say 1."], ["generate", "Say 3."], ["list"], ["show", ids[0]], ["diff", ids[1]]):
        child = pexpect.spawn(
            sys.executable,
            ["-m", "opsctl", *argv],
            cwd=str(site.path),
            env={**site.home.environ, "TERM": "xterm-256color", "PAGER": "cat"},
            dimensions=(40, 100),
            timeout=30,
            encoding="utf-8",
        )
        child.expect(pexpect.EOF)
        child.close()
        shown = own.sub("", str(child.before))
        assert not WILD.search(shown), (argv, shown)
        assert "Traceback" not in shown


def test_a_debugging_run_shows_no_key_either(spoken: tuple[Site, list[str]]) -> None:
    site, _ = spoken
    debug = {"OPSCTL_DEBUG": "1", "OPENAI_LOG": "debug", "PYTHONFAULTHANDLER": "1", "PYTHONWARNINGS": "always"}
    for name in (KEY, "sk-wrong-0123456789"):
        done = site.cli("generate", "Say 1.", env={**debug, "LLAMA_API_KEY": name})
        assert done.returncode in (0, 7)
        assert name not in done.stdout + done.stderr
    for root, _, files in os.walk(site.path):
        for file in files:
            assert KEY.encode() not in Path(root, file).read_bytes()
