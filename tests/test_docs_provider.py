"""The page on providers shows an adapter that works as it stands there."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator

import pytest
from conftest import ROOT, Site
from pytest_httpserver import HTTPServer
from test_cli import Shell
from test_generate import configure
from werkzeug import Request, Response

from opsctl import providers

PAGE = ROOT / "docs/how-to/add-a-provider.md"


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's module under the page's name, and the page's line."""
    text = PAGE.read_text(encoding="utf-8")
    source, line = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    name = re.search(r'"ollama": "(.*)"', line)[1]  # type: ignore[index]
    assert name.replace(".", "/") + ".py" in text
    module = types.ModuleType(name)
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(providers.ADAPTERS, "ollama", name)


def rows(request: Request) -> Iterator[bytes]:
    """What Ollama's own chat answers."""
    asked = json.loads(request.get_data())
    for word in ("Answer to ", asked["messages"][-1]["content"]):
        yield json.dumps({"model": asked["model"], "message": {"content": word}, "done": False}).encode() + b"\n"
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 2}
    yield json.dumps({"model": asked["model"], "message": {"content": ""}, **end}).encode() + b"\n"


@pytest.mark.usefixtures("adapter")
def test_the_example_of_the_page_writes_a_draft(site: Site, httpserver: HTTPServer) -> None:
    sh = Shell(site)
    httpserver.expect_request("/api/chat").respond_with_handler(lambda request: Response(rows(request)))
    httpserver.expect_request("/api/tags").respond_with_json({"models": [{"name": "tiny"}]})
    configure(site.home, httpserver.url_for("").rstrip("/"), type="ollama")
    row = sh.json("generate", "my request")
    assert (row["prompt"], row["model"]) == ("Answer to my request", "tiny")
    assert row["generation"]["usage"] == {"input": 7, "output": 2}
    (health,) = sh.json("provider", "check")
    assert (health["ok"], health["model"]) == (True, True)


@pytest.mark.usefixtures("adapter")
def test_the_example_of_the_page_fails_like_the_others(site: Site, httpserver: HTTPServer) -> None:
    sh = Shell(site)
    configure(site.home, httpserver.url_for("").rstrip("/"), type="ollama")
    for body, says in ((b'{"model": 1}\n', "could not be read"), (b"", "nothing that could be read")):
        httpserver.clear()
        httpserver.expect_request("/api/chat").respond_with_data(body)
        done = sh("generate", "my request")
        assert done.status == 7
        assert says in done.err


def test_the_reference_names_every_key_type_and_variable() -> None:
    from opsctl.providers import entry

    page = (ROOT / "docs/reference/providers.md").read_text(encoding="utf-8")
    for name in (*entry._KEYS, *providers.ADAPTERS, *entry._BOUND, *entry._BOUND.values()):
        assert f"`{name}`" in page
