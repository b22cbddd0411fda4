"""`provider.json`: keys go where they belong, addresses are what they seem, and no file makes it stumble."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Home
from pytest_httpserver import HTTPServer
from vendors import KEY, OPENAI, Said, ask, head, raw_server

from opsctl.config import Places
from opsctl.errors import OpsError
from opsctl.providers import ADAPTERS, connect
from opsctl.providers.checking import begin, check_all
from opsctl.providers.entry import key_of, settings_of
from opsctl.providers.settings import DEFAULT, ProviderFile, load, path_of, use

EARLIER = """\
{"active": "local_ollama", "providers": {
    "local_ollama": {"type": "openai_compat", "base_url": "http://localhost:11434/v1",
                     "model": "qwen2.5-coder:7b", "api_key": null},
    "lm_studio": {"type": "openai_compat", "base_url": "http://localhost:1234/v1", "model": "q", "api_key": null},
    "gemini": {"type": "gemini", "api_key": "${GEMINI_API_KEY}", "model": "gemini-2.5-flash"},
    "openai": {"type": "openai_compat", "base_url": "https://api.openai.com/v1",
               "model": "gpt-5", "api_key": "${OPENAI_API_KEY}"},
    "claude_api": {"type": "anthropic", "api_key": "${ANTHROPIC_API_KEY}", "model": "claude-sonnet-4-5"}
}}
"""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture
def places(home: Home) -> Places:
    return Places.of(home.environ)


def put(places: Places, data: str | bytes) -> Path:
    path = path_of(places)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def entry(**row: Any) -> dict[str, Any]:
    return {"type": "openai_compat", "base_url": "http://localhost:8080/v1", "model": "m", **row}


def refused(**row: Any) -> OpsError:
    with pytest.raises(OpsError) as caught:
        settings_of("it", entry(**row))
    assert caught.value.code == "bad_config"
    return caught.value


# -- the file -----------------------------------------------------------------------------------------------------


def test_a_file_of_the_earlier_plan_works_as_it_is(places: Places) -> None:
    path = put(places, EARLIER)
    file = load(places)
    assert (file.active, list(file.providers), file.faults) == (
        "local_ollama",
        ["local_ollama", "lm_studio", "gemini", "openai", "claude_api"],
        {},
    )
    assert file.get(None).model == "qwen2.5-coder:7b"
    assert file.providers["gemini"].base_url == "https://generativelanguage.googleapis.com"
    assert file.providers["claude_api"].key == "ANTHROPIC_API_KEY"
    assert path.read_text() == EARLIER


def test_the_first_file_loads_whole(places: Places) -> None:
    file, said = begin(places, {})
    assert not file.faults
    assert list(file.providers) == list(DEFAULT["providers"])
    assert said
    assert path_of(places).stat().st_mode & 0o077 == 0
    put(places, EARLIER)
    assert "not changed" in begin(places, {})[1][0]
    assert path_of(places).read_text() == EARLIER


@pytest.mark.parametrize(
    "text",
    [
        EARLIER,
        '{"providers":{"a":{"type":"gemini","model":"{\\"active\\": \\"x\\"}"},"b":{"type":"gemini","model":"é"}}'
        ' , "active"\t:\r\n "a" }\n\n',
        '\n {"\\u0061ctive" : "b", "providers": {"b":{"model":"m","type":"anthropic"},\n\n'
        '"a":{"type":"gemini","model":"m"}}}',
    ],
    ids=["earlier", "crooked", "escaped"],
)
def test_using_another_one_changes_nothing_else(places: Places, text: str) -> None:
    put(places, text)
    names = list(load(places).providers)
    for name in [*names, names[0]]:
        assert use(places, name).active == name
    after = path_of(places).read_bytes().decode()
    old = load(places).table
    assert json.loads(text)["providers"] == old["providers"]
    quoted = json.dumps(json.loads(text)["active"])
    assert after == text.replace(f": {quoted}", f': "{names[0]}"', 1).replace(f"\n {quoted}", f'\n "{names[0]}"', 1)


def test_using_one_that_is_none_or_refused_changes_nothing(places: Places) -> None:
    put(places, json.dumps({"active": "a", "providers": {"a": entry(), "b": entry(api_key="sk-literal")}}))
    before = path_of(places).read_bytes()
    for name, code in (("c", "no_provider"), ("b", "bad_config"), ("\x1b[2J", "no_provider")):
        with pytest.raises(OpsError) as caught:
            use(places, name)
        assert caught.value.code == code
        assert caught.value.message.isprintable()
    assert path_of(places).read_bytes() == before


def test_a_link_to_the_file_stays_one(places: Places, tmp_path: Path) -> None:
    true = tmp_path / "dotfiles.json"
    true.write_text(EARLIER)
    path_of(places).parent.mkdir(parents=True)
    path_of(places).symlink_to(true)
    use(places, "gemini")
    assert path_of(places).is_symlink()
    assert json.loads(true.read_text())["active"] == "gemini"


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no-json": b"{active",
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "number": b"5",
    "no-utf8": b'{"active": "\xff", "providers": {}}',
    "bom": b'\xef\xbb\xbf{"active": "a", "providers": {}}',
    "utf16": '{"active": "a", "providers": {}}'.encode("utf-16"),
    "nothing": b"{}",
    "no-providers": b'{"active": "a"}',
    "no-active": b'{"providers": {}}',
    "active-list": b'{"active": ["a"], "providers": {}}',
    "active-null": b'{"active": null, "providers": {}}',
    "providers-list": b'{"active": "a", "providers": []}',
    "more": b'{"active": "a", "providers": {}, "api_key": "sk-x"}',
    "twice": b'{"active": "a", "providers": {}, "active": "b"}',
    "twice-inside": b'{"active": "a", "providers": {"a": {"type": "gemini", "type": "gemini", "model": "m"}}}',
    "twice-named": b'{"active": "a", "providers": {"a": {}, "a": {}}}',
    "deep": b'{"active": "a", "providers": ' + b"[" * 50_000,
    "deep-objects": b'{"providers":' * 20_000,
    "huge": b'{"active": "a", "providers": {}}' + b" " * 300_000,
    "digits": b'{"active": "a", "providers": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"active": "a", "providers": {"\\ud800": {}}}',
    "many": json.dumps({"active": "a", "providers": {f"p{n}": {} for n in range(101)}}).encode(),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_none_is_refused_in_one_line(places: Places, data: bytes) -> None:
    path = put(places, data)
    for act in (load, lambda where: use(where, "a"), lambda where: check_all(where, {}, None, deadline_s=1)):
        with pytest.raises(OpsError) as caught:
            act(places)
        assert caught.value.code == "bad_config"
        assert len(str(caught.value.cause)) < 300
        assert "sk-x" not in str(caught.value) + str(caught.value.cause)
    assert path.read_bytes() == data


def test_a_folder_a_pipe_a_device_or_a_loop_is_refused_at_once(places: Places) -> None:
    path = path_of(places)
    path.parent.mkdir(parents=True)
    for make in (
        lambda: path.mkdir(),
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/tty"),
        lambda: path.symlink_to(path),
    ):
        make()
        begun = time.monotonic()
        with pytest.raises(OpsError) as caught:
            load(places)
        assert caught.value.code == "bad_config"
        assert time.monotonic() - begun < 1
        path.rmdir() if path.is_dir() else path.unlink()
    path.symlink_to("nowhere")
    assert load(places).providers == {}
    assert begin(places, {})[1], "a link that leads nowhere is left alone"


ODD = [None, True, 0, 1.5, "", "x\ny", "\x1b[2J", [], {}, ["a"], {"a": 1}, "x" * 100_000]


@pytest.mark.parametrize("key", ["type", "base_url", "model", "api_key", "key_host", "proxy", "other"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:12])
def test_an_entry_of_odd_values_is_a_fault_of_its_own(places: Places, key: str, value: object) -> None:
    put(places, json.dumps({"active": "a", "providers": {"a": entry(**{key: value}), "b": entry()}}))
    file = load(places)
    assert "b" in file.providers
    for fault in file.faults.values():
        assert fault.code == "bad_config"
        assert fault.message.isprintable()
        assert len(fault.message) < 400
    fine = {"api_key": (None, ""), "key_host": (None,), "proxy": (True,)}.get(key, ())
    assert ("a" in file.providers) == any(value is one or (value == one == "") for one in fine)


def test_names_are_plain() -> None:
    for name in ("", "a b", "\x1b[2J", "../a", "-a", "a" * 65, "é", "a\n"):
        with pytest.raises(OpsError) as caught:
            settings_of(name, entry())
        assert caught.value.message.isprintable()


# -- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *("sk-literal-0123456789", "$OPENAI_API_KEY", "${A:-x}", "${A_API_KEY:-sk-x}", "${${A}_API_KEY}", "$$", "${}"),
        *(
            "${A_API_KEY}${B_API_KEY}",
            " ${A_API_KEY}",
            "${A_API_KEY}\n",
            "x${A_API_KEY}",
            "${a_api_key}",
            "${A-API_KEY}",
        ),
        *(
            "%A_API_KEY%",
            "env:A_API_KEY",
            "${A_API_KEY",
            "{A_API_KEY}",
            "${Ａ_API_KEY}",
            "${_API_KEY}",
            5,
            ["${A_API_KEY}"],
        ),
    ],
)
def test_pr_19_only_exact_references_are_keys(value: object) -> None:
    error = refused(api_key=value, key_host="localhost:8080")
    assert "sk-" not in error.message + str(error.hint)
    assert '"api_key": "${IT_API_KEY}", "key_host": "localhost:8080"' in str(error.hint)


def test_a_literal_key_is_answered_with_the_line_to_write() -> None:
    with pytest.raises(OpsError) as caught:
        settings_of("o", entry(base_url="https://api.openai.com/v1", api_key="sk-secret"))
    assert 'write "api_key": "${OPENAI_API_KEY}"' in str(caught.value.hint)
    for name in ("it", "9it", "opsctl", "OPENAI", "groq_api_key", "a.b-c"):
        with pytest.raises(OpsError) as caught:
            settings_of(name, entry(api_key="sk-secret"))
        line = json.loads("{" + str(caught.value.hint).partition(" write ")[2] + "}")
        assert settings_of(name, entry(**line)).key, "the line that is proposed is one that works"


@pytest.mark.parametrize(
    "variable",
    ["OPSCTL_TOKEN", "OPSCTL_API_KEY", "OPSCTL_X_API_KEY", "HOME", "AWS_SECRET_ACCESS_KEY", "A_API_KEY_", "API_KEY"],
)
def test_pr_02_other_variables_are_never_sent(variable: str) -> None:
    error = refused(api_key=f"${{{variable}}}", key_host="localhost:8080")
    assert f"{variable} is not sent" in error.message


@pytest.mark.parametrize(
    "value", ["", "  ", None, "abc", "two words", "line\nline", "caf\u00e9-key", "x" * 5000, "\x1b[2J"]
)
def test_pr_19_a_variable_that_is_unset_or_no_key_is_refused(value: str | None) -> None:
    settings = settings_of("it", entry(api_key="${A_API_KEY}", key_host="localhost:8080"))
    with pytest.raises(OpsError) as caught:
        connect(settings, {} if value is None else {"A_API_KEY": value})
    assert caught.value.code == "bad_config"
    assert "A_API_KEY" in caught.value.message
    assert value is None or not value.strip() or value not in caught.value.message
    assert key_of(settings, {"A_API_KEY": " sk-good\n"}) == "sk-good"


FOREIGN = [
    *("https://evil.example/v1", "https://api.openai.com.evil.example/v1", "https://api-openai.com/v1"),
    *("https://api.openai.com:8443/v1", "https://localhost/v1", "http://localhost:8080/v1", "https://[::1]/v1"),
    *("https://api.openai.com@evil.example/v1", "https://evil.example/api.openai.com", "https://openai.com/v1"),
    *("https://api.openai.com./v1", "https://api.openai.com:443@evil.example", "https://eu.api.openai.com/v1"),
    *(
        "https://evil.example#api.openai.com",
        "https://evil.example?api.openai.com",
        "https://api.openai.com\\@evil.example",
    ),
    *("https://api.openai.com%2eevil.example", "https://evil.example\\.api.openai.com", "https://10.0.0.1/v1"),
    *("https://api.openai.com\t.evil.example", "https://api.openai.c\u043em/v1", "https://xn--pi-7kc.openai.com/v1"),
    *("https://api.openai.com:443:80/", "https://api.openai.com:/v1", "https://api.openai.com:0/v1"),
]


@pytest.mark.parametrize("base_url", FOREIGN)
@pytest.mark.parametrize("key_host", [None, "evil.example", "localhost:8080"])
def test_pr_06_a_well_known_key_goes_to_its_vendor_alone(base_url: str, key_host: str | None) -> None:
    refused(base_url=base_url, api_key="${OPENAI_API_KEY}", key_host=key_host)


@pytest.mark.parametrize(
    "base_url", ["https://api.openai.com/v1", "https://API.OpenAI.com/v1", "HTTPS://api.openai.com:443/v1/"]
)
def test_the_vendor_itself_may_be_written_in_other_ways(base_url: str) -> None:
    assert settings_of("o", entry(base_url=base_url, api_key="${OPENAI_API_KEY}")).key == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("base_url", "key_host", "fits"),
    [
        ("http://localhost:8080/v1", "localhost:8080", True),
        ("http://localhost:8080/v1", "LOCALHOST:8080", True),
        ("http://localhost:8080/v1", "localhost", False),
        ("http://localhost:8080/v1", "localhost:8081", False),
        ("http://localhost/v1", "localhost", True),
        ("http://localhost:80/v1", "localhost", True),
        ("http://127.0.0.1:8080/v1", "localhost:8080", False),
        ("http://[::1]:8080/v1", "[::1]:8080", True),
        ("http://[::1]:8080/v1", "::1", False),
        ("https://gate.example/v1", "gate.example", True),
        ("https://gate.example:8443/v1", "gate.example", False),
        ("https://gate.example:8443/v1", "gate.example:8443", True),
        ("https://gate.example/v1", "gate.example.", False),
        ("https://gate.example/v1", "*.example", False),
        ("https://gate.example/v1", "example", False),
        ("https://gate.example/v1", "x@gate.example", False),
        ("https://gate.example/v1", "https://gate.example", False),
        ("https://gate.example/v1", None, False),
    ],
)
def test_a_key_of_ones_own_goes_to_its_key_host_alone(base_url: str, key_host: str | None, fits: bool) -> None:
    row = entry(base_url=base_url, api_key="${MINE_API_KEY}", key_host=key_host)
    if fits:
        assert settings_of("it", row).key == "MINE_API_KEY"
    else:
        refused(**row)


# -- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        *("http://example.com/v1", "http://10.0.0.1/v1", "http://192.168.1.5:11434", "http://localhost.example/v1"),
        *(
            "file:///etc/passwd",
            "ftp://localhost/",
            "//localhost/v1",
            "localhost:8080",
            "javascript:1",
            "unix:///run/x",
        ),
        *(
            "https://user@example.com/",
            "https://user:pw@example.com/",
            "https://:@example.com/",
            "https://@example.com/",
        ),
        *("https://example.com/#x", "https://example.com/?x=1", "https://example.com/v1?", "https://example.com/v1#"),
        *(
            "https:///v1",
            "https://",
            "https:example.com",
            "https://exa mple.com",
            " https://example.com",
            "https://exa\nmple.com",
        ),
        *(
            "https://example.com:99999/",
            "https://example.com:x/",
            "https://example..com/",
            "https://-a.com/",
            "https://a_.com/",
        ),
        *("https://[::1/", "https://[zz]/", "https://[v1.x]/", "https://example.com\x00/", "https://ex\u00e4mple.com/"),
    ],
)
def test_pr_05_an_address_is_plainly_what_it_is(base_url: str) -> None:
    refused(base_url=base_url)


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "169.254.0.1", "metadata.google.internal", "METADATA.google.internal", "metadata"),
        *(
            "metadata.google.internal.",
            "100.100.100.200",
            "168.63.129.16",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fe80::1%25eth0]",
        ),
        *("0.0.0.0", "[::]", "0.1.2.3", "255.255.255.255", "224.0.0.1", "[ff02::1]", "240.0.0.1"),
        *("2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "017700000001", "2852039166", "0xa9fea9fe", "1"),
        *("169.254.43518", "0251.0376.0251.0376", "127.0.0.1.", "0", "127.0.0.0x1", "1.2.3.4.5", "256.1.1.1"),
        *("[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[::ffff:8.8.8.8]", "[::127.0.0.1]", "[::a9fe:a9fe]"),
        *(
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::a9fe:a9fe]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::]",
        ),
        *(
            "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
            "[0:0:0:0:0:ffff:7f00:1]",
            "\u2460\u2461\u2466.0.0.1",
            "127\u30020.0.1",
        ),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_pr_06_metadata_local_and_disguised_addresses_are_refused(scheme: str, host: str) -> None:
    refused(base_url=f"{scheme}://{host}/v1")
    refused(base_url=f"{scheme}://{host}:8080/v1")


@pytest.mark.parametrize(
    "base_url",
    [
        *("http://localhost:1234/v1", "http://127.0.0.1:8080", "http://127.8.9.10:8080/v1", "http://[::1]:8080/v1"),
        *(
            "https://example.com",
            "https://10.0.0.1/v1",
            "https://[2001:db8::1]:8443/x",
            "https://my_gate.corp.example/v1",
        ),
        *("https://8.8.8.8/v1", "HTTP://LOCALHOST:8080/v1"),
    ],
)
def test_honest_addresses_are_taken(base_url: str) -> None:
    assert settings_of("it", entry(base_url=base_url)).base_url == base_url


class Names:
    """A name server that says something else each time: what a rebinding attack looks like from here."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.true = socket.getaddrinfo

    def __call__(self, host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host != "models.example":
            return self.true(host, port, *more, **named)
        self.asked.append(host)
        rows = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in one], socket.SOCK_STREAM, 6, "", (one, port)) for one in rows]


@pytest.mark.parametrize(
    "address",
    [
        *(
            "169.254.169.254",
            "0.0.0.0",
            "::",
            "fe80::1",
            "fe80::1%eth0",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "224.0.0.1",
        ),
        *("100.100.100.200", "fd00:ec2::254", "2002:7f00:1::", "255.255.255.255"),
    ],
)
@pytest.mark.parametrize("beside", [[], ["93.184.216.34"]], ids=["alone", "beside-a-good-one"])
def test_pr_06_what_a_name_resolves_to_is_checked_too(
    address: str, beside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names([*beside, address]))
    provider = connect(settings_of("it", entry(base_url="https://models.example/v1")), {})
    with pytest.raises(OpsError) as caught:
        ask(provider)
    assert caught.value.code == "bad_config", "a refused configuration, not a failed call"
    assert not provider.health(2.0).ok


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
def test_this_machines_resolver_takes_disguises_and_we_do_not(host: str) -> None:
    assert socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)[0][4][0] == "127.0.0.1"
    refused(base_url=f"http://{host}/")


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(b"this is no TLS")

    with raw_server(answer) as raw:
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        monkeypatch.setattr(socket, "getaddrinfo", names)
        row = entry(base_url=f"https://models.example:{raw.port}/v1")
        found = connect(settings_of("it", row), {}).health(5.0)
        assert names.asked == ["models.example"], "looked up once, and checked"
        assert len(raw.asked) == 1, "that address was connected to"
        assert not found.ok


def test_another_address_of_a_name_is_tried_when_one_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(head() + b"".join(OPENAI.stream(Said())))

    true = socket.getaddrinfo

    def both(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        rows = true("127.0.0.2" if host == "localhost" else host, port, *more, **named)
        return [*rows, *true("127.0.0.1", port, *more, **named)] if host == "localhost" else rows

    with raw_server(answer) as raw:
        monkeypatch.setattr(socket, "getaddrinfo", both)
        made, _, tries = ask(OPENAI.provider(f"http://localhost:{raw.port}"))
        assert made.text == "Hello, world."
        assert len(tries) == 1
        assert f"host: localhost:{raw.port}".encode() in raw.asked[0].lower()


def test_pr_06_http_to_a_name_that_is_not_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    true = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: true("10.0.0.1", *more, **named))
    with pytest.raises(OpsError, match="this machine only"):
        ask(OPENAI.provider("http://localhost:9"))


def test_a_request_to_another_host_is_not_made_whoever_makes_it(httpserver: HTTPServer) -> None:
    provider = OPENAI.provider("http://localhost:9")
    with provider._wire.client(5.0, "authorization") as client:  # type: ignore[attr-defined]
        for url in (httpserver.url_for("/x"), "http://localhost:10/", "https://localhost:9/", "http://a@localhost:9/"):
            with pytest.raises(OpsError, match="another host"):
                client.get(url)
    assert not httpserver.log


# -- proxies ------------------------------------------------------------------------------------------------------


def proxied(raw_port: int, *, proxy: bool, base_url: str, **environ: str) -> None:
    row = entry(base_url=base_url, api_key="${MINE_API_KEY}", key_host=base_url.split("/")[2], proxy=proxy)
    address = f"http://127.0.0.1:{raw_port}"
    names = dict.fromkeys(PROXIES, address)
    os.environ.update(names)
    found = connect(settings_of("it", row), {**names, **environ, "MINE_API_KEY": KEY}).health(2.0)
    assert not found.ok
    assert KEY not in found.message


def test_a_proxy_is_used_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "")  # put back afterwards

    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    with raw_server(answer) as raw:
        proxied(raw.port, proxy=False, base_url="https://127.0.0.1:9/v1")
        proxied(raw.port, proxy=True, base_url="http://127.0.0.1:9")
        for excepted in ("models.example", ".example", "a, example", "*"):
            proxied(raw.port, proxy=True, base_url="https://models.example/v1", no_proxy=excepted)
        assert raw.asked == [], "what stays on this machine takes no proxy, and NO_PROXY counts"
        proxied(raw.port, proxy=True, base_url="https://models.example", no_proxy="xample,other.example")
        assert len(raw.asked) == 1
        assert raw.asked[0].startswith(b"CONNECT models.example:443 HTTP/1.1\r\n")
        assert KEY.encode() not in raw.asked[0]


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "127.0.0.1:1", "http://", "file:///x", "http://u:secret@\n"])
def test_a_proxy_that_is_none_is_refused_without_showing_it(value: str) -> None:
    settings = settings_of("it", entry(base_url="https://models.example/v1", proxy=True))
    with pytest.raises(OpsError) as caught:
        connect(settings, {"HTTPS_PROXY": value})
    assert caught.value.code == "bad_config"
    assert "secret" not in caught.value.message


# -- all of them --------------------------------------------------------------------------------------------------


def both(places: Places, *origins: str) -> ProviderFile:
    rows = {f"p{n}": entry(base_url=f"{one}/v1") for n, one in enumerate(origins)}
    put(places, json.dumps({"active": "p0", "providers": {**rows, "bad": entry(api_key="x")}}))
    return load(places)


def test_all_are_checked_side_by_side_in_time(places: Places) -> None:
    def silent(connection: socket.socket, _: int) -> None:
        time.sleep(30)

    def good(connection: socket.socket, _: int) -> None:
        connection.sendall(head("200 OK", "application/json") + json.dumps(OPENAI.models(["m"])).encode())

    with raw_server(silent) as first, raw_server(good) as second:
        both(places, first.origin, second.origin, first.origin, "http://127.0.0.1:9")
        begun = time.monotonic()
        found = check_all(places, {}, None, deadline_s=2.0)
        assert time.monotonic() - begun < 3.5
        assert [(name, one.ok) for name, one in found.items()] == [
            *(("p0", False), ("p1", True), ("p2", False), ("p3", False), ("bad", False))
        ]
        assert check_all(places, {}, "p1", deadline_s=2.0)["p1"].model is True
        with pytest.raises(OpsError):
            check_all(places, {}, "bad", deadline_s=2.0)


def test_a_local_server_is_found_with_a_model_that_it_has(
    places: Places, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/v1/models").respond_with_json(OPENAI.models(["llama3.2:3b"]))
    rows = json.loads(json.dumps(DEFAULT))
    rows["providers"]["local_ollama"]["base_url"] = "http://127.0.0.1:9/v1"
    rows["providers"]["lm_studio"]["base_url"] = httpserver.url_for("/v1")
    rows["providers"]["llama_cpp"]["base_url"] = "http://127.0.0.1:9/v1"
    monkeypatch.setattr("opsctl.providers.checking.DEFAULT", rows)  # the usual ports may be somebody else's
    file, said = begin(places, {"OPENAI_API_KEY": KEY})
    assert file.active == "lm_studio"
    assert file.get(None).model == "llama3.2:3b"
    assert said == ["lm_studio answers; its model: llama3.2:3b"]


def test_every_type_has_a_module_that_needs_no_library_of_a_vendor_to_be_there() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from importlib import import_module\n"
        f"for one in {list(ADAPTERS.values())!r}: import_module(one)\n"
        "print(sorted({'openai', 'anthropic', 'google.genai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
