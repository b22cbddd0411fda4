"""Remotes that die, send without end, take half, or point elsewhere: real git and real sockets on loopback."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import pytest
from conftest import Home, Site
from wire import Endless, Mortal, Web, endless, mortal, web

from opsctl.errors import OpsError
from opsctl.git import watch
from opsctl.workspace.drafts import NewDraft

FULL = os.environ.get("OPSCTL_SWEEP") == "full"
HOOK = "#!/bin/sh\n{}\n"


@pytest.fixture
def hub(site: Site, tmp_path: Path) -> Site:
    """A bare repository that `site` has published to."""
    path = tmp_path / "hub.git"
    site.home.git("init", "-q", "--bare", str(path))
    site.git("remote", "add", "origin", str(path))
    sync(site)
    return Site(site.home, path)


def sync(site: Site) -> None:
    """Exchange with the remote."""
    with site.ws() as ws:
        ws.syncing.sync(None, lambda _line: None)


def refusal(site: Site) -> OpsError:
    """Why an exchange was refused; nothing that was decided here is lost by it."""
    before = site.tip(), site.git("for-each-ref", "refs/heads", "refs/ops")
    with pytest.raises(OpsError) as caught:
        sync(site)
    assert (site.tip(), site.git("for-each-ref", "refs/heads", "refs/ops")) == before
    assert caught.value.kind != "internal"
    assert caught.value.hint
    return caught.value


def approved(site: Site, text: str = "Do it.") -> str:
    """File and approve."""
    with site.ws() as ws:
        ulid = ws.drafts.create(NewDraft(text)).ulid
        ws.approvals.approve(ulid)
    return ulid


def published(site: Site) -> dict[str, str]:
    """The refs that a remote should hold, or holds."""
    rows = site.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/ops", "refs/ops", "refs/notes/ops")
    return dict(row.split(" ") for row in rows.splitlines())


# -- RM-02, RM-03 -------------------------------------------------------------------------------------------------


def dies(site: Site, hub: Site, server: Mortal, number: int) -> None:
    """One push that is broken off: all or nothing there, nothing lost here, and the next one goes through."""
    approved(site, f"Work {number}.")
    before, wanted = published(hub), published(site)
    error = refusal(site)
    assert error.code in ("remote_failed", "not_published"), error.message
    found = published(hub)
    assert found in (before, wanted), f"half of a push at {server.up} up, {server.down} down"
    server.up = server.down = None
    sync(site)
    assert published(hub) == published(site) == wanted
    hub.fsck()


def test_rm_02_a_remote_that_dies_in_the_middle_of_a_push_takes_all_or_nothing(site: Site, hub: Site) -> None:
    with mortal() as server:
        site.git("config", "remote.origin.url", f"{server.url}{hub.path}")
        approved(site)
        sync(site)
        assert published(hub) == published(site)
        heard, said = server.heard, server.said
        assert heard > 1000
        assert said > 200
        for number, most in enumerate([0, 1, 4, *range(100, heard - 200, 40 if FULL else 400)]):
            server.up = most
            dies(site, hub, server, number)
        for number, most in enumerate([0, 1, 4, *range(50, said - 20, 10 if FULL else 150)]):
            server.down = most
            dies(site, hub, server, 1000 + number)
    with site.ws() as ws:
        assert ws.verification.verify(deep=True).ok


@pytest.mark.parametrize(
    ("hook", "when", "takes"),
    [
        ("pre-receive", "kill -9 $PPID", False),
        ("update", "kill -9 $PPID", False),
        ("reference-transaction", "if [ $1 = committed ]; then kill -9 $PPID; fi", True),
        ("post-receive", "kill -9 $PPID", True),
    ],
)
def test_rm_02_a_remote_that_is_killed_at_any_step_is_found_out_by_the_next_sync(
    site: Site, hub: Site, hook: str, when: str, takes: bool
) -> None:
    ulid = approved(site)
    before, wanted = published(hub), published(site)
    path = hub.path / "hooks" / hook
    path.write_text(HOOK.format(when))
    path.chmod(0o755)
    done = site.cli("sync")
    assert done.returncode in (4, 6) or (takes and done.returncode == 0), done.stderr
    assert "Traceback" not in done.stderr
    found = published(hub)
    assert found == (wanted if takes else before)
    path.unlink()
    sync(site)
    assert published(hub) == wanted == published(site)
    assert site.ok("show", f"a_{ulid}")
    assert site.json("status")["not_published"] == []  # type: ignore[index, call-overload]


def test_rm_02_locks_that_a_killed_remote_leaves_are_named_and_sync_goes_on_without_them(site: Site, hub: Site) -> None:
    approved(site)
    before, wanted = published(hub), published(site)
    path = hub.path / "hooks" / "reference-transaction"
    path.write_text(HOOK.format("if [ $1 = prepared ]; then kill -9 $PPID; fi"))
    path.chmod(0o755)
    refusal(site)
    path.unlink()
    locks = list((hub.path / "refs").rglob("*.lock"))
    assert locks
    error = refusal(site)
    assert (error.code, published(hub)) == ("not_published", before)
    assert "lock" in (error.cause or "")
    for lock in locks:
        lock.unlink()
    sync(site)
    assert published(hub) == wanted


def test_rm_03_a_remote_that_cannot_take_all_or_nothing_gets_nothing(site: Site, hub: Site) -> None:
    hub.git("config", "receive.advertiseAtomic", "false")
    approved(site)
    before, wanted = published(hub), published(site)
    error = refusal(site)
    assert error.code == "not_published"
    assert "atomic" in (error.cause or "")
    assert published(hub) == before
    assert site.cli("sync").returncode == 4
    hub.git("config", "--unset", "receive.advertiseAtomic")
    sync(site)
    assert published(hub) == wanted


@pytest.mark.parametrize("declined", ["refs/heads/ops/approved", "refs/heads/ops/drafts", "refs/ops/topics/"])
def test_rm_03_a_remote_that_declines_one_ref_of_three_takes_none(site: Site, hub: Site, declined: str) -> None:
    approved(site)
    with site.ws() as ws:
        ws.drafts.create(NewDraft("Still pending."))
    before, wanted = published(hub), published(site)
    path = hub.path / "hooks" / "update"
    path.write_text(HOOK.format(f'case "$1" in {declined}*) echo "not $1" >&2; exit 1;; esac'))
    path.chmod(0o755)
    error = refusal(site)
    assert error.code == "not_published"
    assert f"not {declined}" in (error.cause or "")
    assert published(hub) == before
    path.unlink()
    sync(site)
    assert published(hub) == wanted


@pytest.mark.parametrize("refs", [["heads/ops/approved"], ["heads/ops/drafts"], ["ops/topics/*"]])
def test_rm_03_what_another_program_pushed_in_part_is_completed(site: Site, hub: Site, refs: list[str]) -> None:
    approved(site)
    with site.ws() as ws:
        ws.drafts.create(NewDraft("Still pending."))
    wanted = published(site)
    site.git("push", "-q", str(hub.path), *(f"refs/{ref}:refs/{ref}" for ref in refs))
    assert published(hub) != wanted
    sync(site)
    assert published(hub) == wanted == published(site)


# -- RM-13 --------------------------------------------------------------------------------------------------------


def stopped(site: Site, server: Endless) -> OpsError:
    """The refusal of an endless remote; nobody listens to it any more, and nothing of it is kept."""
    site.git("config", "remote.origin.url", f"{server.url}/x")
    packs = site.path / ".git/objects/pack"
    before = sorted(packs.iterdir())
    error = refusal(site)
    assert sorted(packs.iterdir()) == before
    assert server.left.wait(20), "somebody still takes what it sends"
    return error


@pytest.mark.parametrize("kind", ["pack", "pack in a band"])
def test_rm_13_an_endless_pack_is_stopped_at_a_size(site: Site, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(watch, "FETCH_LIMIT", 4 * 1024**2)
    site.git("remote", "add", "origin", "nowhere")
    with endless(kind) as server:
        error = stopped(site, server)
    assert (error.code, error.message) == ("not_adopted", "the remote sent more than 4 MiB")
    assert site.json("verify")["ok"] is True  # type: ignore[index, call-overload]


def test_rm_13_a_reader_that_outlives_git_cannot_fill_the_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At a terminal git's children share the person's session and are not killed with it: their own limit is."""
    monkeypatch.setattr(watch, "FETCH_LIMIT", 4 * 1024**2)
    site.git("remote", "add", "origin", "nowhere")
    with endless("pack") as server:
        site.git("config", "remote.origin.url", f"{server.url}/x")
        with site.ws() as ws:
            ws.interactive = True
            with pytest.raises(OpsError, match="4 MiB"):
                ws.syncing.sync(None, lambda _line: None)
        assert server.left.wait(20), "index-pack goes on by itself"
    # what the sockets hold on their way counts as sent too
    assert server.sent < 200 * 1024**2


def test_rm_13_endless_messages_are_stopped_at_a_size(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TALK_LIMIT", 1024**2)
    site.git("remote", "add", "origin", "nowhere")
    with endless("messages") as server:
        error = stopped(site, server)
    assert (error.code, error.message) == ("remote_failed", "the remote sent messages without end")


@pytest.mark.skipif(not hasattr(__import__("resource"), "prlimit"), reason="bounds of memory need prlimit (Linux)")
def test_rm_13_endless_names_are_stopped_at_a_size(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MEMORY_LIMIT", 128 * 1024**2)
    site.git("remote", "add", "origin", "nowhere")
    with endless("names") as server:
        error = stopped(site, server)
    assert error.code == "remote_failed"
    assert "memory" in (error.cause or "").lower()


def test_rm_13_a_remote_that_never_answers_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TIMEOUT_S", 1.0)
    site.git("remote", "add", "origin", "nowhere")
    with endless("nothing") as server:
        start = time.monotonic()
        error = stopped(site, server)
        assert time.monotonic() - start < 20
    assert (error.code, error.message) == ("remote_failed", "the remote took more than 1 s")


# -- RM-17 --------------------------------------------------------------------------------------------------------

SECRET = "pa55-of-the-first-host"
BASIC = "Basic " + base64.b64encode(f"alice:{SECRET}".encode()).decode()


@pytest.fixture
def helper(home: Home) -> Path:
    """Alice's credential helper: it knows a password for `localhost` alone, and notes what it is asked for."""
    noted = home.path / "asked"
    script = home.path / "helper"
    script.write_text(
        f'#!/bin/sh\nasked=$(cat)\necho "$1 $asked" >> {noted}\n'
        f'case "$1 $asked" in get*host=localhost*) printf "username=alice\\npassword={SECRET}\\n";; esac\n'
    )
    script.chmod(0o755)
    home.git("config", "--global", "credential.helper", str(script))
    return noted


@pytest.mark.parametrize("follow", [None, "true", "initial"])
@pytest.mark.parametrize("asks", [True, False])
def test_rm_17_a_redirect_to_another_host_gets_no_credentials(
    site: Site, hub: Site, helper: Path, follow: str | None, asks: bool
) -> None:
    """A host that does not even ask would be told by git itself: it sends on what the first one wanted."""
    if follow:
        site.home.git("config", "--global", "http.followRedirects", follow)
    there = Web(hub.path, login="Basic something-else" if asks else None)
    here = Web(hub.path, login=BASIC)
    with web(there, "127.0.0.1"), web(here, "localhost"):
        here.elsewhere = there.url
        site.git("config", "remote.origin.url", f"{here.url}/hub.git")
        approved(site)
        error = refusal(site)
        assert error.code == "remote_failed"
        assert "302" in (error.cause or "")
        assert BASIC in here.authorizations, "the first host was never logged in to: the test proves nothing"
        assert there.asked == []
        here.elsewhere = None
        sync(site)
    assert published(hub) == published(site)
    assert SECRET not in "".join((str(error), error.cause or "", error.hint or ""))
    assert "get " in helper.read_text()


def test_rm_17_a_push_that_is_sent_elsewhere_gets_no_credentials(site: Site, hub: Site, helper: Path) -> None:
    there, here = Web(hub.path), Web(hub.path, login=BASIC)
    with web(there, "127.0.0.1"), web(here, "localhost"):
        here.elsewhere = there.url
        site.git("config", "remote.origin.pushurl", f"{here.url}/hub.git")
        approved(site)
        assert refusal(site).code == "remote_failed"
        assert BASIC in here.authorizations
        assert there.asked == []


@pytest.mark.parametrize("where", ["--global", "--local", "scoped", "address"])
def test_rm_17_a_header_for_one_host_does_not_follow_a_redirect(site: Site, hub: Site, where: str) -> None:
    """As build servers set it: a token in `http.extraHeader`, for all addresses or for one; or in the address."""
    there, here = Web(hub.path), Web(hub.path, login=BASIC)
    with web(there, "127.0.0.1"), web(here, "localhost"):
        here.elsewhere = there.url
        address = here.url.replace("//", f"//alice:{SECRET}@") if where == "address" else here.url
        site.git("config", "remote.origin.url", f"{address}/hub.git")
        key = f"http.{here.url}/.extraHeader" if where == "scoped" else "http.extraHeader"
        if where != "address":
            scope = "--global" if where == "--global" else "--local"
            site.git("config", scope, key, f"Authorization: {BASIC}")
        approved(site)
        error = refusal(site)
        assert SECRET not in "".join((str(error), error.cause or "", error.hint or ""))
        assert BASIC in here.authorizations
        assert there.asked == []
        here.elsewhere = None
        sync(site)
    assert published(hub) == published(site)
