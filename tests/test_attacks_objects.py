"""Objects and files of a repository that somebody else put together: packs, refs, settings, read in bounded time."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from conftest import Site

from opsctl import ids
from opsctl.errors import OpsError
from opsctl.git.packed import applied
from opsctl.git.packindex import BrokenPack
from opsctl.git.packs import Packs
from opsctl.git.repo import Repo
from opsctl.workspace.drafts import NewDraft

PATIENCE_S = 20
_BLOB, _BY_OFFSET, _BY_NAME = 3, 6, 7


def head(kind: int, size: int) -> bytes:
    """The first bytes of an entry of a pack."""
    byte, size, found = kind << 4 | size & 15, size >> 4, b""
    while size:
        found, byte, size = found + bytes([byte | 0x80]), size & 127, size >> 7
    return found + bytes([byte])


def number(value: int) -> bytes:
    """A size at the beginning of a delta."""
    found = b""
    while value >= 128:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def by_name(base: str, delta: bytes) -> bytes:
    """An entry that is a delta of a named object."""
    return head(_BY_NAME, len(delta)) + bytes.fromhex(base) + zlib.compress(delta)


def blob_id(data: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pack(site: Site, entries: dict[str, bytes]) -> Path:
    """Put a pack of these entries into the repository, with an index, as an archive may bring it. Returns its index."""
    data, offsets = b"PACK" + struct.pack(">II", 2, len(entries)), {}
    for oid, entry in entries.items():
        offsets[oid] = len(data)
        data += entry
    data += hashlib.sha1(data).digest()
    names = sorted(entries)
    fan = b"".join(struct.pack(">I", sum(int(oid[:2], 16) <= byte for oid in names)) for byte in range(256))
    index = b"\xfftOc" + struct.pack(">I", 2) + fan + b"".join(map(bytes.fromhex, names))
    index += b"".join(struct.pack(">I", zlib.crc32(entries[oid])) for oid in names)
    index += b"".join(struct.pack(">I", offsets[oid]) for oid in names) + data[-20:]
    index += hashlib.sha1(index).digest()
    folder = site.path / ".git/objects/pack"
    folder.mkdir(exist_ok=True)
    stem = folder / f"pack-{data[-20:].hex()}"
    stem.with_suffix(".pack").write_bytes(data)
    stem.with_suffix(".idx").write_bytes(index)
    return stem.with_suffix(".idx")


def ends(site: Site, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command ends in time and is no bug."""
    start = time.monotonic()
    done = site.cli(*argv)
    assert time.monotonic() - start < PATIENCE_S, argv
    assert done.returncode != 1, (argv, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def refused(site: Site, *argv: str, status: int, says: str = "") -> None:
    """The command ends in time with a readable refusal."""
    done = ends(site, *argv)
    assert done.returncode == status, (argv, done.stdout, done.stderr)
    assert says in done.stderr, (argv, done.stderr)


def read(site: Site, oid: str, limit: int = 1 << 18) -> bytes:
    """A blob, as every command reads it."""
    return Repo(site.path).read(oid, "blob", limit=limit)


def broken(site: Site, oid: str, says: str = "") -> None:
    """The object is damaged, found out in no time."""
    start = time.monotonic()
    with pytest.raises(OpsError) as caught:
        read(site, oid)
    assert caught.value.code == "corrupt_object"
    assert says in (caught.value.cause or "")
    assert time.monotonic() - start < 5


# -- packs --------------------------------------------------------------------------------------------------------


def test_gt_27_deltas_that_name_each_other_keep_nobody_waiting(site: Site) -> None:
    one, other = "aa" * 20, "bb" * 20
    delta = number(20) + number(20) + b"\x90\x14"
    pack(site, {one: by_name(other, delta), other: by_name(one, delta)})
    (site.path / ".git/refs/heads/ops/approved").write_text(one + "\n")
    assert "the gate is closed" in ends(site, "list").stderr
    for argv in (("verify",), ("show", "a_01M83K8T971JAQFP4V5KFYW1JP"), ("draft", "x"), ("log",)):
        refused(site, *argv, status=5)
    assert ends(site, "doctor").returncode == 5


def test_gt_27_a_delta_of_itself_keeps_nobody_waiting(site: Site) -> None:
    oid = "aa" * 20
    pack(site, {oid: by_name(oid, number(20) + number(20) + b"\x90\x14")})
    broken(site, oid, "name each other")


def test_gt_27_a_long_row_of_deltas_ends(site: Site) -> None:
    data = b"x" * 100
    entries = {blob_id(data): head(_BLOB, 100) + zlib.compress(data)}
    last = blob_id(data)
    for place in range(5000):
        made = b"%020d" % place + b"x" * 80
        delta = number(100) + number(100) + b"\x14" + made[:20] + b"\x91\x14\x50"
        entries[blob_id(made)] = by_name(last, delta)
        last = blob_id(made)
    names = list(entries)
    pack(site, entries)
    broken(site, names[-1], "too many")
    assert read(site, names[60]).startswith(b"%020d" % 59)


def test_gt_09_a_small_object_made_from_a_huge_one_is_refused_by_the_size_of_that(site: Site) -> None:
    size, text = 1 << 31, b"a small draft\n"
    delta = number(size) + number(len(text)) + bytes([len(text)]) + text
    base = "ab" * 20
    pack(site, {base: head(_BLOB, size) + zlib.compress(bytes(1 << 20)), blob_id(text): by_name(base, delta)})
    broken(site, blob_id(text), "2,147,483,648 bytes")


def test_gt_09_work_that_grows_from_step_to_step_is_refused(site: Site) -> None:
    size = 15 << 20
    data = bytes(size)
    entries, last = {blob_id(data): head(_BLOB, size) + zlib.compress(data)}, blob_id(data)
    copy = b"\xf0" + size.to_bytes(3, "little")
    for place in range(40):
        name = f"{place + 1:040x}"
        entries[name] = by_name(last, number(size) + number(size) + copy)
        last = name
    pack(site, entries)
    with pytest.raises(OpsError) as caught:
        read(site, last, 1 << 24)
    assert "too much work" in (caught.value.cause or "")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (head(_BLOB, 5) + zlib.compress(b"other"), "not what its name says"),
        (head(_BLOB, 4) + zlib.compress(b"hello"), "another size"),
        (head(_BLOB, 9) + zlib.compress(b"hello"), "another size"),
        (head(_BLOB, 5) + zlib.compress(b"hello")[:-6], ""),
        (head(_BLOB, 5) + b"no stream of zlib", ""),
        (head(5, 5) + zlib.compress(b"hello"), "not what its name says"),
        (head(0, 5) + zlib.compress(b"hello"), "not what its name says"),
        (b"\xbf" * 3000, "too long"),
        (head(_BY_OFFSET, 5) + b"\x7f" + zlib.compress(b"hello"), ""),
        (head(_BY_OFFSET, 5) + b"\xff" * 30 + zlib.compress(b"hello"), "too long"),
        (head(_BY_OFFSET, 5) + b"\x00" + zlib.compress(b"hello"), "name each other"),
        (head(_BY_NAME, 5) + b"\x11" * 20 + zlib.compress(b"hello"), "base of a delta is missing"),
        (b"", ""),
    ],
)
def test_cr_21_an_entry_that_is_damaged_in_any_way_is_never_served(site: Site, entry: bytes, says: str) -> None:
    oid = blob_id(b"hello")
    pack(site, {oid: entry})
    broken(site, oid, says)


@pytest.mark.parametrize(
    "delta",
    [
        b"",
        b"\x05",
        number(5) + number(5),
        number(5) + number(5) + b"\x00",
        number(5) + number(5) + b"\x05hell",
        number(5) + number(5) + b"\x06hello!",
        number(5) + number(5) + b"\x90\x06",
        number(5) + number(5) + b"\x91\x05\x01",
        number(4) + number(5) + b"\x90\x05",
        number(5) + number(5) + b"\xff",
        number(5) + b"\xff" * 4000,
        number(5) + number(70000) + b"\x80",
    ],
)
def test_cr_21_a_delta_that_does_not_fit_is_refused(delta: bytes) -> None:
    with pytest.raises((BrokenPack, IndexError)):
        applied(b"hello", delta)


def test_cr_21_a_good_copy_in_another_pack_or_beside_it_is_found(site: Site) -> None:
    text = b"hello"
    oid = site.git("hash-object", "-w", "--stdin", stdin=text)
    pack(site, {oid: head(_BLOB, 5) + zlib.compress(b"other")})
    assert read(site, oid) == text
    site.git("repack", "-adq")
    pack(site, {oid: head(_BLOB, 5) + zlib.compress(b"third")})
    assert read(site, oid) == text


@pytest.mark.parametrize("cut", [0, 7, 500, 1032, 1060, -1])
def test_cr_21_an_index_that_is_cut_off_hides_no_other_pack(site: Site, cut: int) -> None:
    site.git("gc", "-q")
    text = b"hello"
    index = pack(site, {blob_id(text): head(_BLOB, 5) + zlib.compress(text)})
    index.write_bytes(index.read_bytes()[:cut] if cut >= 0 else b"\xff" * 3000)
    (index.parent / "pack-gone.idx").symlink_to(index.parent / "nowhere")
    assert site.json("verify")["ok"] is True  # type: ignore[index]
    site.ok("draft", "goes on")


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("how", [["gc", "-q"], ["repack", "-adfq", "--depth=250", "--window=50"], ["repack", "-dq"]])
def test_every_object_that_git_packs_is_read_as_git_reads_it(site: Site, version: str, how: list[str]) -> None:
    with site.ws() as ws:
        for place in range(8):
            draft = ws.drafts.create(NewDraft(f"Draft number {place}\n" + "much the same text\n" * 300))
            ws.drafts.edit(draft.ulid, prompt=f"Draft number {place}\n" + "much the same text\n" * 299 + "but this\n")
    site.git("tag", "-m", "a tag", "v1", "main")
    site.git("config", "pack.indexVersion", version)
    site.git(*how)
    rows = site.git("cat-file", "--batch-all-objects", "--batch-check", "--unordered").splitlines()
    deltas = site.git("verify-pack", "-v", *map(str, (site.path / ".git/objects/pack").glob("*.idx")))
    assert "chain length = 2" in deltas or how[0] == "gc" or how[1] == "-dq"
    repo = Repo(site.path)
    for row in rows:
        oid, kind, size = row.split()
        data = repo.read(oid, kind)
        assert len(data) == int(size)
        raw = subprocess.run(["git", "cat-file", kind, oid], cwd=site.path, capture_output=True, check=True).stdout
        assert data == raw


def test_cc_16_a_repack_under_an_open_repository_hides_nothing(site: Site) -> None:
    with site.ws() as ws:
        ulid = ws.drafts.create(NewDraft("Read me.")).ulid
    site.git("repack", "-adq")
    repo = Repo(site.path)
    tip = repo.ref("refs/heads/ops/drafts") or ""
    repo.commit(tip)
    (site.path / "more").write_text("more")
    site.git("add", "more")
    site.git("commit", "-q", "-m", "more")
    site.git("repack", "-adfq")
    entry = repo.tree(repo.commit(tip).tree)["ops"]
    assert repo.tree(entry.oid)
    assert site.json("show", ulid)["title"] == "Read me."  # type: ignore[index]


def test_cr_12_many_packs_hold_few_files_open(site: Site) -> None:
    oids = []
    for place in range(80):
        text = b"text %d" % place
        oids.append(blob_id(text))
        pack(site, {oids[-1]: head(_BLOB, len(text)) + zlib.compress(text)})
    packs = Packs([str(site.path / ".git/objects")])
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert [packs.read(oid, 100) for oid in oids] == [("blob", b"text %d" % place) for place in range(80)]
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert after - before <= 40


def test_gt_09_blocks_without_content_are_not_read_for_ever(site: Site) -> None:
    oid = "cd" * 20
    path = site.path / ".git/objects" / oid[:2] / oid[2:]
    path.parent.mkdir(exist_ok=True)
    stream = zlib.compressobj(0)
    start = stream.compress(b"blob 10\0") + stream.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(start + b"\x00\x00\x00\xff\xff" * (1 << 22))
    with path.open("r+b") as file:
        file.truncate(1 << 36)
    broken(site, oid, "cut off")


# -- files in the place of files -----------------------------------------------------------------------------------

_READ = (["list"], ["doctor"])


@pytest.mark.parametrize(
    "name",
    [
        *("HEAD", "config", "config.worktree", "packed-refs", "shallow", "info/grafts", "objects/info/alternates"),
        *("objects/pack/multi-pack-index", "objects/info/commit-graph", "commondir", "gitdir"),
    ],
)
@pytest.mark.parametrize("what", ["fifo", "device", "giant"])
def test_gt_28_a_special_file_in_the_place_of_one_of_gits_is_refused(site: Site, name: str, what: str) -> None:
    path = site.path / ".git" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)
        if name.startswith("objects/") and not name.endswith("alternates"):
            return  # read by git alone, which maps it
    for argv in _READ:
        refused(site, *argv, status=6)


@pytest.mark.parametrize("name", ["commondir", "gitdir", "HEAD"])
def test_gt_28_a_special_file_of_a_work_tree_is_refused(site: Site, name: str) -> None:
    tree = Site(site.home, site.home.path / "tree")
    site.git("worktree", "add", "-q", str(tree.path))
    tree.ok("list")
    path = site.path / ".git/worktrees/tree" / name
    path.unlink()
    os.mkfifo(path)
    refused(tree, "list", status=6)
    (tree.path / ".git").unlink()
    os.mkfifo(tree.path / ".git")
    refused(tree, "list", status=6)


@pytest.mark.parametrize("what", ["fifo", "device", "giant"])
@pytest.mark.parametrize("name", ["heads/ops/approved", "heads/ops/drafts", "ops/topics/{}", "remotes/origin/HEAD"])
def test_gt_28_a_special_file_in_the_place_of_a_ref_is_refused(site: Site, name: str, what: str) -> None:
    ulid = site.ok("draft", "one")[2:]
    path = site.path / ".git/refs" / name.format(ulid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    {
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "giant": lambda: (path.touch(), os.truncate(path, 1 << 40)),
    }[what]()
    for argv in (["list"], ["doctor"], ["show", ulid], ["draft", "two", "--base=x"]):
        ends(site, *argv)


@pytest.mark.parametrize("what", ["fifo", "link"])
def test_gt_28_a_log_that_is_no_file_of_its_own_gets_no_line(site: Site, what: str) -> None:
    path = site.path / ".git/logs/refs/heads/ops/drafts"
    victim = site.home.path / "precious"
    victim.write_text("precious")
    path.unlink()
    os.mkfifo(path) if what == "fifo" else path.symlink_to(victim)
    refused(site, "draft", "hello", status=6, says="is not a regular file")
    assert victim.read_text() == "precious"
    assert site.json("list") == []


def test_gt_28_a_pack_or_index_that_is_no_file_is_passed_over(site: Site) -> None:
    site.git("gc", "-q")
    folder = site.path / ".git/objects/pack"
    os.mkfifo(folder / "pack-1.idx")
    (folder / "pack-2.idx").symlink_to("/dev/zero")
    site.ok("list")
    (index,) = (path for path in folder.glob("*.idx") if path.is_file() and not path.is_symlink())
    data = index.with_suffix(".pack")
    data.unlink()
    os.mkfifo(data)
    refused(site, "list", status=5)


@pytest.mark.parametrize(
    "text",
    [
        "[include]\n\tpath = fifo\n",
        "[include]\n\tpath = inner\n",
        '[includeIf "gitdir:**"]\n\tpath = "fifo"\n',
        '[INCLUDEIF "onbranch:x"] PATH=fifo\n',
        "[include]\n# a remark\r[core]\n\tpath = fifo\n",
        "[core][include]\n\tpath = fifo\n",
        "[core] bare = false [include]\n\tpath = fifo\n",
        "\ufeff[include]\n\tpath = fifo\n",
        '[include]\n\tpath = "fi" "fo"\n',
        "[include]\n\tpath = fi\\\nfo\n",
        "[include]\n\tpath = ~/fifo\n",
        "[include]\n\tpath = %(prefix)/fifo\n",
        '[include "x"]\n\tpath = fifo\n',
        "[include]\n\tpath = /dev/zero\n",
        "[include]\n\tpath = twice\n",
    ],
)
def test_gt_28_what_a_setting_includes_is_looked_at_first(site: Site, text: str) -> None:
    folder = site.path / ".git"
    os.mkfifo(folder / "fifo")
    os.mkfifo(site.home.path / "fifo")
    (folder / "inner").write_text("[include]\npath=../.git/fifo\n")
    (folder / "twice").write_text("[include]\npath=twice\n" + "path=more\n" * 100)
    (folder / "more").write_text("[include]\n" + "path=twice\n" * 100)
    with (folder / "config").open("a", encoding="utf-8") as file:
        file.write(text)
    for argv in _READ:
        refused(site, *argv, status=6)


def test_gt_28_an_ordinary_include_is_read(site: Site) -> None:
    (site.path / ".gitconfig").write_text("[user]\n\tname = Alice of this repository\n")
    site.git("config", "include.path", "../.gitconfig")
    site.git("config", "includeIf.gitdir:~/mine/.path", "no such file")
    ulid = site.ok("draft", "one")[2:]
    assert site.json("show", ulid)["author"] == "Alice of this repository"  # type: ignore[index]


def test_a_branch_or_tag_is_resolved_without_libgit2(site: Site) -> None:
    main = site.git("rev-parse", "main")
    site.git("tag", "-m", "one", "one", "main")
    site.git("tag", "-m", "two", "two", "one")
    site.git("update-ref", "refs/remotes/origin/main", main)
    site.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    repo = Repo(site.path)
    assert [repo.resolve(name) for name in ("main", "one", "two", "origin/HEAD", "origin/main", main)] == [main] * 6
    tree = site.git("rev-parse", "main^{tree}")
    site.git("update-ref", "refs/tags/tree", tree)
    assert [repo.resolve(name) for name in ("tree", "no", "../x", "a\0b", "*")] == [None] * 5


def test_cr_19_a_base_whose_commit_is_cut_off_keeps_nobody_waiting(site: Site) -> None:
    oid = site.git("rev-parse", "main")
    path = site.path / ".git/objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:20])
    refused(site, "draft", "x", "--base", "main", status=5)
    assert ids.is_ulid(site.ok("draft", "y")[2:])
