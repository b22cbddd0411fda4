"""Defences that other tests would not miss if they were gone: each of these fails without one line of the product."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest
from conftest import Home, Site
from histories import POLICY, SIGNERS, World, new_world, ulid

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.workspace.drafts import NewDraft


def overwrite(git_dir: Path, oid: str, kind: bytes, data: bytes) -> None:
    """Other content under the name of an object, in sound compression: only its name tells."""
    path = git_dir / "objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    path.write_bytes(zlib.compress(kind + b" %d\0" % len(data) + data))


def test_cr_21_a_policy_swapped_under_its_name_gives_nobody_a_key(tmp_path: Path) -> None:
    with new_world(tmp_path) as world:
        _swap_policy(world)


def _swap_policy(world: World) -> None:
    forge, item = world.forge, ulid(2)
    merge = forge.approved(world.tip, item, by="mallory", trailers={"Ops-Signer": "alice"})
    keys = [*world.rules.people[0].keys, world.home.public("mallory")]
    open_to_all = world.rules.with_person("alice", ["approver", "policy"], *keys)
    files = forge.files[world.root]
    for path, data in ((POLICY, open_to_all.toml()), (SIGNERS, open_to_all.signers())):
        overwrite(forge.path / ".git", files[path][1], b"blob", data)
    with pytest.raises(OpsError) as caught:
        world.gate(merge)
    assert caught.value.kind == "integrity"
    assert "damaged" in caught.value.message or "damaged" in (caught.value.cause or "")


def test_gt_09_a_loose_file_of_many_mebibytes_is_refused_by_its_size_and_not_unpacked(site: Site) -> None:
    item, size = "01JHK3VB8RXXA8H5SQZ3MDNFC2", 64 * 1024 * 1024
    header = b"blob %d\0" % size
    oid = hashlib.sha1(header + bytes(size), usedforsecurity=False).hexdigest()
    path = site.path / ".git/objects" / oid[:2] / oid[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(header + bytes(size)))
    rows = "commit refs/heads/ops/drafts\ncommitter X <x@example.com> 1700000000 +0000\ndata 1\nx\n"
    rows += f"from refs/heads/ops/drafts^0\nM 100644 {oid} {ids.path_of(item)}\n"
    site.git("fast-import", "--quiet", "--force", stdin=rows.encode())
    with site.ws() as ws:
        (draft,) = ws.drafts.list()
        with pytest.raises(OpsError) as caught:
            ws.repo.blob(oid)
    assert (draft.digest, draft.error) == ("", f"object {oid} has {size:,} bytes; at most 262,144 are read")
    assert caught.value.code == "too_large"


def test_gt_10_no_hook_runs_when_a_sync_brings_news_or_trust_fetches(site: Site, tmp_path: Path) -> None:
    marker, hub = tmp_path / "marker", tmp_path / "hub.git"
    site.home.git("init", "-q", "--bare", str(hub))
    site.git("remote", "add", "origin", str(hub))
    with site.ws() as ws:
        ws.syncing.sync(None, lambda _line: None)
    other = Site(Home(site.home.path, site.home.environ), tmp_path / "other")
    site.home.git("clone", "-q", str(hub), str(other.path), check=False)
    for hook in ("reference-transaction", "post-merge", "post-checkout", "pre-auto-gc", "post-rewrite", "pre-push"):
        path = other.path / ".git/hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {marker}\n")
        path.chmod(0o755)
    other.ok("trust", "--yes")
    assert not marker.exists()
    with site.ws() as ws:
        item = ws.drafts.create(NewDraft("One.")).ulid
        ws.approvals.approve(item)
        ws.drafts.create(NewDraft("Two."))
        ws.syncing.sync(None, lambda _line: None)
    with other.ws() as ws:
        assert ws.syncing.sync(None, lambda _line: None).received == 1
    assert not marker.exists()
    other.git("fetch", "-q", "origin", "+refs/heads/*:refs/x/*")
    assert marker.exists(), "plain git runs the hook: the test proves something"


def test_cr_25_doctor_reports_temporary_files_of_killed_writers(site: Site) -> None:
    objects = site.path / ".git/objects"
    with site.ws() as ws:
        assert not [check for check in ws.doctor.examine() if check.name == "leftovers"]
    (objects / "pack").mkdir(exist_ok=True)
    for name in ("tmp_object_git2_aBcDeF", "pack/tmp_pack_XyZ", "tmp_obj_1_2"):
        (objects / name).write_bytes(b"half")
    with site.ws() as ws:
        (found,) = [check for check in ws.doctor.examine() if check.name == "leftovers"]
    assert found.level == "note"
    assert "3 temporary object files" in found.message
    assert found.hint == "git gc"
    assert os.listdir(objects / "pack") == ["tmp_pack_XyZ"], "nobody knows whose it is"
