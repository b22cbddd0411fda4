"""`opsctl provider`: what it lists, checks, finds and changes. Model servers are stand-ins over real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from chat_server import Chat
from conftest import Home, Site
from pytest_httpserver import HTTPServer
from test_cli import Shell
from test_generate import configure

SECRET = "key-0123456789abcdef"


class Outside(Shell):
    """The command line outside of any repository: providers are a person's, not a repository's."""

    def refs(self) -> dict[str, str]:
        """There are none."""
        return {}


@pytest.fixture
def sh(home: Home) -> Shell:
    """Alice in an empty folder."""
    folder = home.path / "empty"
    folder.mkdir()
    return Outside(Site(home, folder))


def place(sh: Shell) -> Path:
    """Where provider.json is."""
    return sh.site.home.path / "config/opsctl/provider.json"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.fixture
def listening() -> Iterator[Callable[[int], Chat]]:
    """Starts a model server on a port; skips where the port is taken."""
    with ExitStack() as stack:

        def start(port: int) -> Chat:
            try:
                server = HTTPServer(host="127.0.0.1", port=port)
                server.start()
            except (OSError, SystemExit):
                pytest.skip(f"port {port} is in use")
            stack.callback(server.stop)
            return Chat(server)

        yield start


def taken(port: int) -> bool:
    """True where something of this machine answers there."""
    with socket.socket() as one:
        one.settimeout(0.5)
        return one.connect_ex(("127.0.0.1", port)) == 0


def write(sh: Shell, table: object) -> None:
    """Write a provider.json."""
    place(sh).parent.mkdir(parents=True, exist_ok=True)
    place(sh).write_text(json.dumps(table))


def entry(url: str, **more: object) -> dict[str, object]:
    """An entry that speaks OpenAI's chat."""
    return {"type": "openai_compat", "base_url": url, "model": "tiny-1", "api_key": None, **more}


# -- list, path -------------------------------------------------------------------------------------------------------


def test_the_path_is_that_of_the_users_configuration(sh: Shell) -> None:
    assert sh.ok("provider", "path") == str(place(sh))


def test_the_list_shows_each_provider_and_never_a_key(sh: Shell) -> None:
    sh.ok("provider", "init")
    rows = [line.split("\t") for line in sh.ok("provider", "list").splitlines()]
    assert [row[0] for row in rows] == ["local_ollama", "lm_studio", "llama_cpp", "openai", "claude_api", "gemini"]
    assert rows[0][1:] == ["active", "openai_compat", "none", "http://localhost:11434/v1", "qwen2.5-coder:7b"]
    assert rows[3][3] == "OPENAI_API_KEY is not set"
    done = sh("provider", "list", env={"OPENAI_API_KEY": SECRET})
    assert "OPENAI_API_KEY is set" in done.out
    shown = sh("provider", "list", "--json", env={"OPENAI_API_KEY": SECRET})
    assert SECRET not in done.out + done.err + shown.out
    table = json.loads(shown.out)
    assert set(table) == {"active", "providers", "faults"}
    assert set(table["providers"][0]) == {"name", "active", "type", "key", "base_url", "model"}


def test_entries_that_cannot_be_used_are_named_and_the_others_stay_usable(sh: Shell, httpserver: HTTPServer) -> None:
    chat = Chat(httpserver)
    bad = entry("https://api.example/v1", api_key=SECRET)
    write(sh, {"active": "good", "providers": {"bad": bad, "good": entry(chat.url)}})
    done = sh("provider", "list")
    assert done.status == 0
    assert done.out.startswith("good\tactive")
    assert "bad cannot be used" in done.err
    assert SECRET not in done.out + done.err
    assert list(sh.json("provider", "list")["faults"]) == ["bad"]
    rows = {row["name"]: row for row in sh.json("provider", "check")}
    assert list(rows) == ["bad", "good"]
    assert (rows["bad"]["ok"], rows["good"]["ok"]) == (False, True)
    refused = sh.refused("provider", "use", "bad", status=2, says="api_key")
    assert "${BAD_API_KEY}" in refused.err
    assert SECRET not in refused.err


def test_without_a_file_the_way_to_one_is_named(sh: Shell) -> None:
    assert sh.ok("provider", "list") == ""
    assert sh.json("provider", "list") == {"active": None, "providers": [], "faults": {}}
    sh.refused("provider", "check", status=6, says="opsctl provider init")
    sh.refused("provider", "use", "openai", status=6, says="opsctl provider init")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"active": 1, "providers": {}}', '{"providers": {}, "more": 1}', "7"])
def test_a_file_that_is_none_is_refused_with_its_path(sh: Shell, text: str) -> None:
    write(sh, {})
    place(sh).write_text(text)
    for line in ("list", "check", "use openai"):
        sh.refused("provider", *line.split(), status=2, says=str(place(sh)))
    assert place(sh).read_text() == text


# -- use --------------------------------------------------------------------------------------------------------------


def test_use_changes_the_active_one_and_nothing_else(sh: Shell) -> None:
    rows = {"zulu": entry("http://localhost:1/v1"), "alpha": {"model": "m", **entry("http://localhost:2/v1")}}
    write(sh, {"providers": rows, "active": "zulu"})
    done = sh("provider", "use", "alpha")
    assert (done.status, done.out) == (0, "")
    assert "alpha is the active provider" in done.err
    table = json.loads(place(sh).read_text())
    assert list(table) == ["providers", "active"]
    assert table == {"providers": rows, "active": "alpha"}
    assert [list(row) for row in table["providers"].values()] == [list(row) for row in rows.values()]
    assert sh.json("provider", "use", "zulu") == {"active": "zulu"}
    before = place(sh).read_bytes()
    sh.refused("provider", "use", "nosuch", status=6, says="known: 'zulu', 'alpha'")
    assert place(sh).read_bytes() == before


def test_editing_the_file_by_hand_does_the_same(sh: Shell) -> None:
    sh.ok("provider", "init")
    place(sh).write_text(place(sh).read_text().replace('"active": "local_ollama"', '"active": "gemini"'))
    assert sh.json("provider", "list")["active"] == "gemini"


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_asks_all_side_by_side_and_takes_five_seconds_at_most(
    sh: Shell, httpserver: HTTPServer, silent: str
) -> None:
    chat = Chat(httpserver)
    rows = {f"silent{number}": entry(silent) for number in range(6)}
    write(sh, {"active": "good", "providers": {**rows, "good": entry(chat.url), "other": entry(chat.url, model="x")}})
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "opsctl", "provider", "check"],
        cwd=sh.site.path,
        env=sh.site.home.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert time.monotonic() - begun < 7  # 3.5 for the providers; the rest is Python's start on a busy machine
    assert done.returncode == 0
    found = {line.split("\t")[0]: line.split("\t")[1:] for line in done.stdout.splitlines()}
    assert list(found) == [*rows, "good", "other"]
    assert found["good"][0] == "ok"
    assert found["good"][2] == "there"
    assert (found["other"][0], found["other"][2]) == ("ok", "missing")
    assert all(found[name][0] == "down" and "in time" in found[name][3] for name in rows)


def test_check_of_one_provider_exits_with_7_where_it_is_down(sh: Shell, httpserver: HTTPServer) -> None:
    chat = Chat(httpserver)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        write(sh, {"active": "good", "providers": {"good": entry(chat.url), "down": entry(down)}})
        assert sh("provider", "check", "good").status == 0
        done = sh("provider", "check", "down", "--json")
    assert done.status == 7
    (row,) = json.loads(done.out)
    assert set(row) == {"name", "ok", "latency_s", "model", "message"}
    assert (row["name"], row["ok"], row["model"]) == ("down", False, None)
    sh.refused("provider", "check", "nosuch", status=6)


def test_check_makes_no_request_with_a_key_that_is_not_set(sh: Shell, httpserver: HTTPServer) -> None:
    chat = Chat(httpserver)
    host = chat.url.split("/")[2]
    write(sh, {"active": "one", "providers": {"one": entry(chat.url, api_key="${ONE_API_KEY}", key_host=host)}})
    done = sh("provider", "check")
    assert done.status == 7
    assert "ONE_API_KEY is not set" in done.out
    assert [request.path for request, _ in httpserver.log] == []
    assert sh("provider", "check", env={"ONE_API_KEY": SECRET}).status == 0
    assert httpserver.log[0][0].headers["Authorization"] == f"Bearer {SECRET}"


# -- init -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("port", "name"), [(11434, "local_ollama"), (1234, "lm_studio"), (8080, "llama_cpp")])
def test_init_finds_a_local_server(sh: Shell, listening: Callable[[int], Chat], port: int, name: str) -> None:
    if any(taken(other) for other in (11434, 1234, 8080)):
        pytest.skip("something of this machine answers on a usual port")
    listening(port)
    done = sh("provider", "init")
    assert done.status == 0
    assert done.out == str(place(sh))
    assert f"{name} answers" in done.err
    assert f"active: {name}" in done.err
    assert json.loads(place(sh).read_text())["active"] == name
    assert place(sh).stat().st_mode & 0o077 == 0


def test_init_without_a_local_server_writes_the_file_all_the_same(sh: Shell) -> None:
    if any(taken(port) for port in (11434, 1234, 8080)):
        pytest.skip("something of this machine answers on a usual port")
    done = sh("provider", "init")
    assert done.status == 0
    assert "no local model server answers" in done.err
    table = json.loads(place(sh).read_text())
    assert list(table) == ["active", "providers"]
    assert table["active"] == "local_ollama"
    assert SECRET not in place(sh).read_text()


def test_init_changes_no_file_that_is_there(sh: Shell) -> None:
    for text in ('{"active": "x", "providers": {}}', "not json at all"):
        write(sh, {})
        place(sh).write_text(text)
        done = sh("provider", "init")
        assert place(sh).read_text() == text
        assert done.status == (0 if text.startswith("{") else 2)
    assert sh("provider", "init").status == 2
    place(sh).write_text('{"active": "x", "providers": {}}')
    assert "it was not changed" in sh("provider", "init").err


# -- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["provider use l", "provider check l", "generate --provider l"])
def test_the_shell_completes_names_of_providers(sh: Shell, line: str) -> None:
    sh.ok("provider", "init")
    words = f"opsctl {line}"
    env = {"_OPSCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    out = sh.site.cli(env=env).stdout
    assert {row.removeprefix("plain,") for row in out.split()} == {"local_ollama", "lm_studio", "llama_cpp"}


def test_completion_of_a_broken_file_is_quiet(sh: Shell) -> None:
    configure(sh.site.home, "http://localhost:1/v1").write_text('{"providers": 7}')
    env = {"_OPSCTL_COMPLETE": "complete_bash", "COMP_WORDS": "opsctl provider use l", "COMP_CWORD": "3"}
    done = sh.site.cli(env=env)
    assert (done.stdout.strip(), done.stderr) == ("", "")
