"""Forged histories: any commit, signed or not, in a real repository with real keys, and what opsctl says to them.

Objects are written as git stores them and signatures come from ssh-keygen. `Forge` uses nothing of opsctl: policy,
signers file, trailers and paths are spelled a second time, as the format's description has them. `World` puts the
question to a Workspace.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Home, make_home

from opsctl.errors import OpsError
from opsctl.models import Finding
from opsctl.workspace import Workspace
from opsctl.workspace.base import Gate

FILE, EXECUTABLE, SYMLINK, GITLINK, FOLDER = "100644", "100755", "120000", "160000", "40000"
POLICY, SIGNERS, PLAN = ".opsctl/policy.toml", ".opsctl/allowed_signers", "plan.toml"
APPROVED, DRAFTS = "refs/heads/ops/approved", "refs/heads/ops/drafts"
START = datetime(2025, 1, 15, 10, 0, tzinfo=UTC)
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

Files = dict[str, tuple[str, str]]
"""Mode and object id by path."""


def ulid(number: int) -> str:
    """The ULID of the test's item of that number; each is an hour younger than the one before."""
    milliseconds = int((START + timedelta(hours=number)).timestamp() * 1000)
    value = milliseconds << 80 | int.from_bytes(hashlib.sha256(b"%d" % number).digest()[:10], "big")
    return "".join(_ALPHABET[value >> 5 * place & 31] for place in reversed(range(26)))


def path_of(item: str) -> str:
    """Where the file of an item belongs."""
    value = 0
    for letter in item[:10]:
        value = value << 5 | _ALPHABET.index(letter)
    return f"ops/{datetime.fromtimestamp(value / 1000, UTC):%Y/%m/%d}/{item}.md"


def text_of(item: str, prompt: str = "Do the work.", *, head: str = "", said: str | None = None) -> bytes:
    """A draft's file; `head` is more front matter, `said` another id than the item's own."""
    return f'+++\nid = "d_{said or item}"\ntitle = "Item {item[-4:]}"\n{head}+++\n{prompt}\n'.encode()


def digest(data: bytes) -> str:
    """The name of a revision or a policy."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Person:
    """A principal of a policy; keys are `type base64` lines."""

    name: str
    roles: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """A policy as a value; `settings` are its other top-level keys, `tables` its rules."""

    people: tuple[Person, ...]
    epoch: int = 1
    settings: Mapping[str, object] = field(default_factory=dict)
    tables: tuple[Mapping[str, object], ...] = ()

    def after(self, *tables: Mapping[str, object], **settings: object) -> Rules:
        """The policy of the next epoch, with these settings changed and these rules added."""
        return replace(
            self, epoch=self.epoch + 1, settings={**self.settings, **settings}, tables=(*self.tables, *tables)
        )

    def without(self, name: str) -> Rules:
        """The same policy without a person."""
        return replace(self, people=tuple(who for who in self.people if who.name != name))

    def with_person(self, name: str, roles: Iterable[str], *keys: str) -> Rules:
        """The same policy with another person, or with a person's roles and keys replaced."""
        return replace(self, people=(*self.without(name).people, Person(name, tuple(roles), keys)))

    def toml(self) -> bytes:
        """The bytes of `policy.toml`."""
        rows = ["version = 1", f"epoch = {self.epoch}"]
        rows += [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        for who in self.people:
            rows += ["", "[[principal]]", f'name = "{who.name}"', f'email = "{who.name}@example.com"']
            rows += [f"roles = {json.dumps(list(who.roles))}", f"keys = {json.dumps(list(who.keys))}"]
        for table in self.tables:
            rows += ["", "[[rule]]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
        return ("\n".join(rows) + "\n").encode()

    def signers(self) -> bytes:
        """The bytes of `allowed_signers`."""
        rows = [f'{who.name} namespaces="git" {key}\n'.encode() for who in self.people for key in who.keys]
        return b"".join(sorted(rows))


class Forge:
    """Writes objects of one repository and remembers what each commit holds.

    Every verb takes the knobs of `commit`, and `trailers` to change single ones: None leaves one out.
    """

    def __init__(self, home: Home, path: Path) -> None:
        self.home = home
        self.path = path
        self.files: dict[str, Files] = {}
        self.rules: dict[str, Rules] = {}
        self.root_of: dict[str, str] = {}
        self.parents: dict[str, tuple[str, ...]] = {}
        self.data: dict[str, bytes] = {}
        self.clock = START
        self._signed: dict[tuple[str, ...], bytes] = {}

    # -- objects ------------------------------------------------------------------------------------------------

    def raw(self, kind: str, data: bytes) -> str:
        """Store an object as git does, whatever is in it."""
        whole = b"%s %d\0" % (kind.encode(), len(data)) + data
        oid = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
        self.data[oid] = data
        target = self.path / ".git" / "objects" / oid[:2] / oid[2:]
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(zlib.compress(whole, 1))
        return oid

    def blob(self, data: bytes) -> str:
        """Store a file's content."""
        return self.raw("blob", data)

    def tree(self, files: Mapping[str, tuple[str, str]]) -> str:
        """Store the trees that hold these files. A folder may stand for itself, with its mode and tree."""
        entries: dict[str, tuple[str, str]] = {}
        below: dict[str, Files] = {}
        for path, entry in files.items():
            name, slash, rest = path.partition("/")
            if slash and rest:
                below.setdefault(name, {})[rest] = entry
            else:
                entries[name] = entry
        for name, inner in below.items():
            entries[name] = (FOLDER, self.tree(inner))
        return self.entries([(mode, name, oid) for name, (mode, oid) in entries.items()])

    def entries(self, rows: Iterable[tuple[str, str, str]], *, is_sorted: bool = True) -> str:
        """Store one tree of rows of mode, name and id; unsorted ones stay as they are."""
        listed = list(rows)
        if is_sorted:
            listed.sort(key=lambda row: os.fsencode(row[1]) + (b"/" if row[0] == FOLDER else b""))
        parts = [b"%s %s\0" % (mode.encode(), os.fsencode(name)) + bytes.fromhex(oid) for mode, name, oid in listed]
        return self.raw("tree", b"".join(parts))

    def sign(self, payload: bytes, key: str, *, namespace: str = "git", hash_algorithm: str = "sha512") -> bytes:
        """ssh-keygen's signature by one of the home's keys."""
        name = (hashlib.sha256(payload).hexdigest(), key, namespace, hash_algorithm)
        if name not in self._signed:
            command = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-O", f"hashalg={hash_algorithm}"]
            command += ["-f", str(self.home.key(key))]
            done = subprocess.run(command, input=payload, capture_output=True, check=True, env=self.home.environ)
            self._signed[name] = done.stdout
        return self._signed[name]

    def commit(
        self,
        files: Files,
        parents: tuple[str, ...],
        *,
        by: str | None,
        subject: str = "a commit",
        trailers: Mapping[str, str | None] | None = None,
        rules: Rules | None = None,
        tree: str | None = None,
        message: str | None = None,
        namespace: str = "git",
        hash_algorithm: str = "sha512",
        author: str = "Somebody <somebody@example.com>",
        when: datetime | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        before: Callable[[bytes], bytes] | None = None,
        after: Callable[[bytes], bytes] | None = None,
    ) -> str:
        """Store a commit signed by the key `by` (None: not at all).

        `sign` replaces the signature, `before` changes the bytes that are signed, `after` the finished object.
        """
        self.clock += timedelta(seconds=1)
        person = f"{author} {int((when or self.clock).timestamp())} +0000"
        rows = [f"tree {tree or self.tree(files)}", *(f"parent {parent}" for parent in parents)]
        rows += [f"author {person}", f"committer {person}"]
        if message is None:
            message = (
                subject + "\n\n" + "".join(f"{name}: {value}\n" for name, value in (trailers or {}).items() if value)
            )
        payload = ("\n".join(rows) + "\n\n" + message).encode("utf-8", "surrogateescape")
        payload = before(payload) if before else payload
        signature = sign(payload) if sign else None
        if by and not sign:
            signature = self.sign(payload, by, namespace=namespace, hash_algorithm=hash_algorithm)
        data = with_signature(payload, signature) if signature else payload
        oid = self.raw("commit", after(data) if after else data)
        self.files[oid], self.parents[oid] = dict(files), parents
        if found := rules or (self.rules.get(parents[0]) if parents else None):
            self.rules[oid] = found
        self.root_of[oid] = self.root_of.get(parents[0], parents[0]) if parents else oid
        return oid

    # -- decisions ----------------------------------------------------------------------------------------------

    def init(self, rules: Rules, *, by: str | None = "alice", **knobs: Any) -> str:
        """A root."""
        trailers = {"Ops-Kind": "init", "Ops-Epoch": str(rules.epoch), "Ops-Signer": principal(by)}
        files: Files = {POLICY: (FILE, self.blob(rules.toml())), SIGNERS: (FILE, self.blob(rules.signers()))}
        return self._decided("init: gate", trailers, {"files": files, "parents": (), "by": by, "rules": rules} | knobs)

    def approve(self, tip: str, topic: str, item: str, *, by: str | None = "alice", **knobs: Any) -> str:
        """The merge of a topic: the file as the topic's tip has it."""
        entry = self.files[topic].get(path_of(item))
        trailers = self._common("approve", tip, by) | {"Ops-Id": item}
        files = dict(self.files[tip])
        if entry:
            files[path_of(item)] = entry
            trailers["Ops-Digest"] = digest(self.data.get(entry[1], b""))
        defaults = {"files": files, "parents": (tip, topic), "by": by}
        return self._decided(f"approve: {item[-4:]}", trailers, defaults | knobs)

    def revoke(self, tip: str, item: str, *, by: str | None = "alice", **knobs: Any) -> str:
        """The commit that deletes an item."""
        files = dict(self.files[tip])
        entry = files.pop(path_of(item), ("", ""))
        trailers = self._common("revoke", tip, by)
        trailers |= {"Ops-Id": item, "Ops-Digest": digest(self.data.get(entry[1], b"")), "Ops-Reason": "no longer"}
        return self._decided(f"revoke: {item[-4:]}", trailers, {"files": files, "parents": (tip,), "by": by} | knobs)

    def plan(self, tip: str, *, by: str | None = "alice", title: str = "Plan", **knobs: Any) -> str:
        """A commit of another plan."""
        data = f'id = "p1"\ntitle = "{title}"\nstatus = "active"\n'.encode()
        files = {**self.files[tip], PLAN: (FILE, self.blob(data))}
        trailers = self._common("plan", tip, by)
        return self._decided("plan: change", trailers, {"files": files, "parents": (tip,), "by": by} | knobs)

    def policy(
        self, tip: str, rules: Rules, *, by: str | None = "alice", topic: str | None = None, **knobs: Any
    ) -> str:
        """A commit of another policy, or the merge of the topic that brings it."""
        trailers = self._common("policy", tip, by) | {"Ops-Epoch": str(rules.epoch)}
        parents = (tip, topic) if topic else (tip,)
        defaults = {"files": self.governed(tip, rules), "parents": parents, "by": by, "rules": rules}
        return self._decided(f"policy: epoch {rules.epoch}", trailers, defaults | knobs)

    def governed(self, tip: str, rules: Rules) -> Files:
        """The files of a commit with another policy."""
        fresh: Files = {POLICY: (FILE, self.blob(rules.toml())), SIGNERS: (FILE, self.blob(rules.signers()))}
        return {**self.files[tip], **fresh}

    # -- topics -------------------------------------------------------------------------------------------------

    def draft(self, base: str, item: str, text: bytes | None = None, *, by: str | None = None, **knobs: Any) -> str:
        """A topic's first commit, not signed unless `by` says so."""
        return self.write(base, item, text_of(item) if text is None else text, by=by, kind="draft", **knobs)

    def write(
        self, base: str, item: str, text: bytes | None, *, by: str | None = None, kind: str = "edit", **knobs: Any
    ) -> str:
        """A topic commit that gives the item's file another content; None deletes it."""
        files = dict(self.files[base])
        files.pop(path_of(item), None)
        if text is not None:
            files[path_of(item)] = (knobs.pop("mode", FILE), self.blob(text))
        trailers = {"Ops-Kind": kind, "Ops-Id": item}
        return self._decided(f"{kind}: {item[-4:]}", trailers, {"files": files, "parents": (base,), "by": by} | knobs)

    def vote(
        self, topic: str, tip: str, item: str, *, by: str | None = "bob", word: str = "approve", **knobs: Any
    ) -> str:
        """A vote on the content that a topic has, for the merge into `tip`."""
        entry = self.files[topic].get(path_of(item), ("", ""))
        trailers = self.ballot(tip, by, word) | {"Ops-Id": item, "Ops-Digest": digest(self.data.get(entry[1], b""))}
        defaults = {"files": self.files[topic], "parents": (topic,), "by": by}
        return self._decided(f"vote: {word}", trailers, defaults | knobs)

    def policy_topic(self, tip: str, rules: Rules, *, by: str | None = None, **knobs: Any) -> str:
        """A topic that proposes a policy."""
        defaults = {"files": self.governed(tip, rules), "parents": (tip,), "by": by}
        return self._decided("draft: policy", {"Ops-Kind": "draft"}, defaults | knobs)

    def policy_vote(
        self, topic: str, tip: str, rules: Rules, *, by: str = "bob", word: str = "approve", **knobs: Any
    ) -> str:
        """A vote on a policy."""
        trailers = self.ballot(tip, by, word) | {"Ops-Digest": digest(rules.toml())}
        defaults = {"files": self.files[topic], "parents": (topic,), "by": by}
        return self._decided(f"vote: {word} policy", trailers, defaults | knobs)

    def join(self, *topics: str, **knobs: Any) -> str:
        """A merge of topics, with the tree of the first."""
        return self._decided("join", {}, {"files": self.files[topics[0]], "parents": topics, "by": None} | knobs)

    def ballot(self, tip: str, by: str | None, word: str) -> dict[str, str | None]:
        """The trailers of a vote, but for what it is about."""
        trailers = self._common("vote", tip, by) | {"Ops-Vote": word, "Ops-Seen": tip}
        return trailers | {"Ops-Policy": digest(self.rules[tip].toml())}

    def approved(self, tip: str, item: str, *, by: str | None = "alice", **knobs: Any) -> str:
        """A draft and its approval in one."""
        return self.approve(tip, self.draft(tip, item), item, by=by, **knobs)

    def _common(self, kind: str, tip: str, by: str | None) -> dict[str, str | None]:
        rules = self.rules[tip]
        names = {"Ops-Kind": kind, "Ops-Epoch": str(rules.epoch), "Ops-Signer": principal(by)}
        return names | {"Ops-Repo": self.root_of[tip]}

    def _decided(self, subject: str, trailers: Mapping[str, str | None], knobs: dict[str, Any]) -> str:
        changed = {**trailers, **knobs.pop("trailers", {})}
        return self.commit(knobs.pop("files"), knobs.pop("parents"), trailers=changed, **{"subject": subject, **knobs})


def principal(key: str | None) -> str:
    """Whose key it is: `alice2` is the second key of alice."""
    return (key or "alice").rstrip("0123456789")


def with_signature(payload: bytes, armored: bytes) -> bytes:
    """The commit that carries a signature as its last header."""
    head, _, body = payload.partition(b"\n\n")
    return head + b"\ngpgsig " + armored.strip(b"\n").replace(b"\n", b"\n ") + b"\n\n" + body


def without_signature(data: bytes) -> tuple[bytes, bytes]:
    """A commit's payload, and the armored signature that it carried."""
    head, _, body = data.partition(b"\n\n")
    bare, _, folded = head.partition(b"\ngpgsig ")
    return bare + b"\n\n" + body, folded.replace(b"\n ", b"\n") + b"\n"


@dataclass
class World:
    """A clone that pins a root, with one approved item on the tip and one pending draft; and its judge.

    Alice, Bob and Carol approve and govern, Dave is auditor, Erin author; Mallory has a key and no place in the policy.
    """

    forge: Forge
    rules: Rules
    root: str
    tip: str
    item: str
    pending: str
    drafts: str
    memory: Path
    asked: int = 0

    @property
    def home(self) -> Home:
        """Alice's home."""
        return self.forge.home

    def git(self, *arguments: str, check: bool = True) -> str:
        """Plain git in the repository."""
        return self.home.git(*arguments, cwd=self.forge.path, check=check)

    def fingerprint(self, key: str) -> str:
        """A key's fingerprint, as ssh-keygen prints it."""
        public = str(self.home.key(key)) + ".pub"
        return subprocess.run(["ssh-keygen", "-lf", public], capture_output=True, text=True, check=True).stdout.split()[
            1
        ]

    def state(self) -> str:
        """A state folder in which nothing was verified yet."""
        self.asked += 1
        return str(self.memory / str(self.asked))

    def put(self, tip: str, *, drafts: str | None = None) -> None:
        """Move the branches."""
        for name, oid in ((APPROVED, tip), (DRAFTS, drafts or self.drafts)):
            path = self.forge.path / ".git" / name  # git itself would not point a ref at some of these commits
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(oid + "\n")

    def ws(self, state: str, *, key: str | None = None, **environ: str) -> Workspace:
        """A new Workspace that remembers in this state folder."""
        chosen = str(self.home.key(key)) if key else None
        environment = {**self.home.environ, "XDG_STATE_HOME": state, **environ}
        return Workspace(self.forge.path, environ=environment, now=lambda: datetime.now(UTC), key=chosen)

    def gate(self, tip: str, state: str | None = None, **environ: str) -> Gate:
        """The gate of a tip. Raises what closes it."""
        self.put(tip)
        with self.ws(state or self.state(), **environ) as ws:
            return ws.gate()

    def accepts(self, tip: str, *items: str) -> Gate:
        """The history verifies, at once and step by step; these items are served, byte for byte."""
        state, chain = self.state(), self.chain(tip)
        for oid in chain[-3:-1]:
            self.gate(oid, state)
        assert self.gate(tip, state).tip == tip
        state = self.state()
        gate = self.gate(tip, state)
        assert (gate.tip, gate.count) == (tip, len(chain))
        with self.ws(state) as ws:
            for item in items:
                found, data = ws.approvals.get(item)
                assert data == self.forge.data[self.forge.files[tip][path_of(item)][1]]
                assert found.decision.digest == digest(data)
        return gate

    def refuses(
        self, tip: str, rule: str, *fragments: str, at: str | None = None, code: str = "bad_history"
    ) -> Finding:
        """The history is refused, cold and warm, naming commit and rule; then nothing approved is served."""
        bad = at or tip
        before = self.forge.parents[bad][:1]
        states = [self.state(), self.state()]
        if before and before[0] in self.chain(tip):
            assert self.gate(before[0], states[1]).tip == before[0]
        for state in states:
            with pytest.raises(OpsError) as caught:
                self.gate(tip, state)
            error = caught.value
            finding = error.detail.get("finding")
            assert isinstance(finding, Finding), error.message
            assert (error.code, error.kind) == (code, "integrity"), error.message
            assert (finding.commit, finding.rule) == (bad, rule), error.message
            for fragment in fragments:
                assert fragment in error.message
            assert bad[:12] in error.message
            assert error.hint
        with self.ws(states[1]) as ws, pytest.raises(OpsError) as caught:
            ws.approvals.get(self.item)
        assert caught.value.code == code
        return finding

    def chain(self, tip: str) -> list[str]:
        """First parents from the root to the tip, as forged."""
        found = [tip]
        while self.forge.parents[found[-1]]:
            found.append(self.forge.parents[found[-1]][0])
        return found[::-1]


@contextmanager
def new_world(folder: Path) -> Iterator[World]:
    """Build a world; while it is in use this process has its environment."""
    home = make_home(folder / "home")
    path = home.path / "repo"
    home.git("init", "-q", str(path))
    forge = Forge(home, path)
    both = ("approver", "policy")
    people = [Person(name, both, (home.public(name),)) for name in ("alice", "bob", "carol")]
    people += [
        Person("dave", ("auditor",), (home.public("dave"),)),
        Person("erin", ("author",), (home.public("erin"),)),
    ]
    home.key("mallory")
    rules = Rules(tuple(people), settings={"audience": "acme/app"})
    root = forge.init(rules)
    item, pending = ulid(1), ulid(900)
    tip = forge.approved(root, item)
    topic = forge.draft(tip, pending)
    drafts = forge.commit(forge.files[topic], (tip, topic), by=None, trailers={"Ops-Kind": "draft", "Ops-Id": pending})
    pins = home.path / "config" / "opsctl" / "trust.toml"
    pins.parent.mkdir(parents=True)
    pins.write_text(f'[[clone]]\npath = "{path / ".git"}"\nroot = "{root}"\n')
    shared = "/dev/shm"  # what is remembered is synced to the disk; hundreds of worlds need not wait for that
    fast = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=fast) as memory, pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name not in home.environ and not name.startswith(("PYTEST", "TMP")):
                patch.delenv(name)
        for name, value in home.environ.items():
            patch.setenv(name, value)
        yield World(forge, rules, root, tip, item, pending, drafts, Path(memory))
