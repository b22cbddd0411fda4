"""Repositories of any size, with approvals that all verify: the same bytes from the same seed, on every machine.

Signing in process and writing one pack takes seconds where ssh-keygen and git would take an hour. What is built is
what opsctl writes: for every item a draft's topic, its merge into `ops/drafts`, the signed merge into `ops/approved`
and the merge of that into `ops/drafts`. `History.verify` then judges every commit.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from opsctl import document as documents
from opsctl import ids, sshsig
from opsctl.gitobject import format_commit, format_person, with_signature
from opsctl.message import format_message
from opsctl.models import Document
from opsctl.store import APPROVED, DRAFTS, TOPICS
from opsctl.workspace import Workspace
from tests.bench.pack import PackWriter

VERSION = 1
"""Of what is built; another one is built anew."""

NAME, EMAIL = "Alice", "alice@example.com"
END = datetime(2026, 1, 1, tzinfo=UTC)
"""When the last approved item was filed."""

STEP = timedelta(seconds=3200)
"""Between two items: 27 a day, 100,000 in ten years."""

_TEXT = (
    "the uploader retries every request when a response is late but keeps one budget for all hosts so add jitter cap "
    "attempts log each failure with its cause cover timeouts in tests leave the public interface alone and say in the "
    "changelog what operators must change before they roll out this version to production clusters"
)


class Clock:
    """A clock that starts some days after the last pending draft and ticks a second at every look."""

    def __init__(self, start: datetime = END + timedelta(days=30)) -> None:
        self._at = start

    def __call__(self) -> datetime:
        self._at += timedelta(seconds=1)
        return self._at


def seal(home: Path) -> dict[str, str]:
    """A sealed HOME with a key that follows from the seed. Returns the environment to work in."""
    home.mkdir(parents=True, exist_ok=True)
    key = private_key()
    private = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    path = home / "key"
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
        (home / "key.pub").write_text(public_key().line + "\n")
    config = home / ".gitconfig"
    config.write_text(
        f"[user]\n\tname = {NAME}\n\temail = {EMAIL}\n\tsigningkey = {path}.pub\n[gpg]\n\tformat = ssh\n"
        f"[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
    )
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(config),
        "LANG": "C.UTF-8",
        "OPSCTL_LOCK_WAIT": "30",
    }


def private_key() -> Ed25519PrivateKey:
    """The key of the only principal. It protects nothing."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"opsctl bench").digest())


def public_key() -> sshsig.PublicKey:
    """Its public part."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return sshsig.parse_public_key(private_key().public_key().public_bytes(*form).decode())


def ulid_at(when: datetime, chance: random.Random) -> str:
    """A ULID of that time."""
    value = int(when.timestamp() * 1000) << 80 | chance.getrandbits(80)
    return "".join(ids.ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True, slots=True)
class Item:
    """One draft to be written."""

    ulid: str
    title: str
    data: bytes
    at: int


def items(count: int, first: datetime, seed: str) -> Iterator[Item]:
    """Drafts of one to four paragraphs, 27 a day."""
    chance, all_words = random.Random(seed), _TEXT.split()
    for index in range(count):
        when = first + index * STEP
        words = chance.choices(all_words, k=chance.randint(40, 200))
        title = " ".join(words[:6]).capitalize()
        paragraphs = [" ".join(words[at : at + 50]) for at in range(0, len(words), 50)]
        ulid = ulid_at(when, chance)
        labels = (chance.choice(("risk:low", "risk:high", "docs")),)
        document = Document(ulid=ulid, title=title, prompt=".\n\n".join(paragraphs) + ".\n", labels=labels)
        yield Item(ulid, title, documents.build(document), int(when.timestamp()))


class Branch:
    """The tree of a branch to which files are added in the order of their dates."""

    def __init__(self, rest: bytes) -> None:
        self._rest = rest
        self._folders = ["ops", "", "", ""]
        self._done = [b"", b"", b"", b""]
        self._current = [b"", b"", b"", b""]

    def add(self, pack: PackWriter, path: str, blob: bytes) -> bytes:
        """Add a file newer than all others and write the five trees that change. Returns the root tree."""
        *folders, name = path.split("/")
        for level in range(1, 4):
            if folders[level] != self._folders[level]:
                self._done[level - 1] += self._current[level]
                self._done[level:] = [b""] * (4 - level)
                self._folders[level:], self._current[level:] = folders[level:], [b""] * (4 - level)
                break
        self._done[3] += b"100644 %s\0%s" % (name.encode(), blob)
        content = self._done[3]
        for level in range(3, -1, -1):
            tree = pack.add("tree", content)
            self._current[level] = b"40000 %s\0%s" % (self._folders[level].encode(), tree)
            content = (self._done[level - 1] if level else self._rest) + self._current[level]
        return pack.add("tree", content)

    def __copy__(self) -> Branch:
        other = Branch(self._rest)
        other._folders, other._done, other._current = list(self._folders), list(self._done), list(self._current)
        return other


@dataclass(frozen=True, slots=True)
class Tips:
    """The commits of both branches."""

    approved: bytes
    drafts: bytes


class Builder:
    """Writes the history of one repository after its root."""

    def __init__(self, pack: PackWriter, root: str, rest: bytes, principal: str) -> None:
        self._pack = pack
        self._root = root
        self._principal = principal
        self._key, self._public = private_key(), public_key()
        self._approved, self._drafts = Branch(rest), Branch(rest)
        self.tips = Tips(bytes.fromhex(root), bytes.fromhex(root))

    def file(self, item: Item) -> bytes:
        """A pending draft: its topic, and the merge of that into `ops/drafts`. Returns the topic."""
        pack, path = self._pack, ids.path_of(item.ulid)
        blob = pack.add("blob", item.data)
        message = format_message(f"draft: {item.title}", {"Ops-Kind": "draft", "Ops-Id": item.ulid})
        topic_tree = copy(self._approved).add(pack, path, blob)
        topic = pack.add("commit", _commit(topic_tree, [self.tips.approved], message, item.at))
        tree = self._drafts.add(pack, path, blob)
        drafts = pack.add("commit", _commit(tree, [self.tips.drafts, topic], message, item.at))
        self.tips = replace(self.tips, drafts=drafts)
        return topic

    def approve(self, item: Item) -> None:
        """The same, decided at once."""
        topic = self.file(item)
        tree = self._approved.add(self._pack, ids.path_of(item.ulid), self._pack.add("blob", item.data))
        message = format_message(f"approve: {item.title}", self._trailers(item))
        approved = self._pack.add(
            "commit", self._signed(_commit(tree, [self.tips.approved, topic], message, item.at + 60))
        )
        message = format_message(f"merge: approve: {item.title}", {"Ops-Kind": "merge"})
        drafts = self._pack.add("commit", _commit(tree, [self.tips.drafts, approved], message, item.at + 60))
        self.tips = Tips(approved, drafts)

    def _trailers(self, item: Item) -> dict[str, str]:
        return approve_trailers(item.ulid, documents.digest_of(item.data), self._root, self._principal)

    def _signed(self, payload: bytes) -> bytes:
        proof = self._key.sign(sshsig.signed_data("git", "sha512", payload))
        kind = self._public.type.encode()
        blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, proof))
        return with_signature(payload, sshsig.armor(self._public, "git", "sha512", blob))


def approve_trailers(ulid: str, digest: str, root: str, principal: str) -> dict[str, str]:
    """What an approval says of itself."""
    who = {"Ops-Kind": "approve", "Ops-Epoch": "1", "Ops-Signer": principal, "Ops-Repo": root}
    return who | {"Ops-Id": ulid, "Ops-Digest": digest}


def _commit(tree: bytes, parents: list[bytes], message: str, at: int) -> bytes:
    person = format_person(NAME, EMAIL, at)
    oids = tuple(parent.hex() for parent in parents)
    return format_commit(tree=tree.hex(), parents=oids, author=person, committer=person, message=message)


def build(folder: Path, environ: dict[str, str], size: int, pending: int, say: Callable[[str], None]) -> None:
    """Make `repo` and `root` in a folder, with so many items.

    `environ` is of a sealed home, and this process works in it.
    """
    path = folder / "repo"
    _git(environ, folder, "init", "-q", "repo")
    with Workspace(path, environ=environ, now=Clock(END - size * STEP - timedelta(days=1))) as ws:
        founded = ws.founding.init(name=None, email=None, audience="bench", generate_key=False)
    rest = subprocess.run(
        ["git", "cat-file", "tree", f"{founded.root}^{{tree}}"], cwd=path, env=environ, capture_output=True, check=True
    ).stdout
    pack = PackWriter(path / ".git" / "objects")
    builder = Builder(pack, founded.root, rest, founded.principal)
    for done, item in enumerate(items(size, END - size * STEP, "approved"), 1):
        builder.approve(item)
        if done % 10_000 == 0:
            say(f"{done:,} of {size:,} signed")
    topics = {item.ulid: builder.file(item) for item in items(pending, END, "pending")}
    say("indexing")
    pack.close(environ)
    tips = {APPROVED: builder.tips.approved, DRAFTS: builder.tips.drafts}
    rows = tips | {TOPICS + ulid: topic for ulid, topic in topics.items()}
    lines = "".join(f"update {name} {oid.hex()}\n" for name, oid in rows.items())
    _git(environ, path, "update-ref", "--stdin", stdin=lines)
    _git(environ, path, "commit-graph", "write", "--reachable", "--no-progress")
    (folder / "root").write_text(founded.root)


def remember(repo: Path, root: str, environ: dict[str, str], size: int, pending: int, kept: Path) -> None:
    """Verify every commit and list every draft, and keep what was remembered of it. Raises if anything is amiss."""
    with Workspace(repo, environ=environ, now=Clock()) as ws:
        ws.pins.set(ws.repo.common, root, None)
        count, listed, memory = ws.gate().count, ws.drafts.list(), ws.memory().folder
    if count != size + 1 or len(listed) != pending or any(draft.error for draft in listed):
        raise RuntimeError(f"built {count} commits and {len(listed)} drafts, wanted {size + 1} and {pending}")
    kept.mkdir()
    shutil.copy(memory / "seen.json", kept)
    source, target = sqlite3.connect(memory / "ledger.sqlite"), sqlite3.connect(kept / "ledger.sqlite")
    source.backup(target)  # with nothing left in a journal
    source.close()
    target.close()
    shutil.rmtree(memory)


def _git(environ: Mapping[str, str], cwd: Path, *arguments: str, stdin: str = "") -> None:
    subprocess.run(["git", *arguments], cwd=cwd, env=dict(environ), input=stdin.encode(), check=True)
