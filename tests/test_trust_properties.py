"""Properties of the trust rule: no change of a signed commit verifies, and every honest order of work does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from histories import World, new_world, text_of, ulid, without_signature
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from opsctl.errors import OpsError
from opsctl.gitobject import MalformedObject, parse_tree

ONE = ulid(2)
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LINES = [
    b"encoding UTF-8",
    b"mergetag object " + b"1" * 40,
    b" a line that goes on",
    b"",
    b"gpgsig -----BEGIN SSH SIGNATURE-----",
    b"gpgsig-sha256 x",
    b"parent " + b"0" * 40,
    b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    b"author A <a@example.com> 1 +0000",
    b"Ops-Kind: revoke",
    b"Ops-Epoch: 1",
    b"Ops-Reason: x",
    b"Ops-Vote: approve",
    b"ops-kind: plan",
    b"Signed-off-by: A <a@example.com>",
    b"\xff",
    b"\0",
]

places = st.integers(0, 2000)
changes: st.SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
    st.builds(lambda at, bits: lambda data: flipped(data, at, bits), places, st.integers(1, 255)),
    st.builds(
        lambda at, size: lambda data: data[: at % len(data)] + data[at % len(data) + size :], places, st.integers(1, 9)
    ),
    st.builds(
        lambda at, text: lambda data: data[: at % len(data)] + text + data[at % len(data) :],
        places,
        st.binary(min_size=1, max_size=4),
    ),
    st.builds(
        lambda at, line: lambda data: relined(data, at, lambda rows, i: [*rows[:i], line, *rows[i:]]),
        places,
        st.sampled_from(LINES),
    ),
    st.builds(lambda at: lambda data: relined(data, at, lambda rows, i: rows[:i] + rows[i + 1 :]), places),
    st.builds(lambda at: lambda data: relined(data, at, lambda rows, i: [*rows[:i], rows[i], *rows[i:]]), places),
    st.builds(
        lambda at: lambda data: relined(data, at, lambda rows, i: [*rows[:i], *rows[i : i + 2][::-1], *rows[i + 2 :]]),
        places,
    ),
)


def flipped(data: bytes, at: int, bits: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def relined(data: bytes, at: int, change: Callable[[list[bytes], int], list[bytes]]) -> bytes:
    rows = data.split(b"\n")
    return b"\n".join(change(rows, at % len(rows)))


def says_the_same(one: bytes, other: bytes) -> bool:
    """The same signed bytes under the same signature: only the lines of its armor may be broken elsewhere."""
    (payload, armored), (bytes_, again) = without_signature(one), without_signature(other)
    return payload == bytes_ and b"".join(armored.split()) == b"".join(again.split())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("properties")) as made:
        yield made


@pytest.fixture(scope="module")
def honest(world: World) -> dict[str, str]:
    """One good decision of every kind, and a second tip that needs two people."""
    forge = world.forge
    team = forge.policy(world.tip, world.rules.after(threshold=2))
    vote = forge.vote(forge.draft(team, ONE), team, ONE)
    return {
        "approve": forge.approved(world.tip, ONE),
        "revoke": forge.revoke(world.tip, world.item),
        "plan": forge.plan(world.tip),
        "policy": team,
        "root": world.root,
        "of two": forge.approve(team, vote, ONE),
        "vote": vote,
    }


@pytest.mark.parametrize("kind", ["approve", "revoke", "plan", "policy", "root", "of two"])
def test_no_change_of_a_signed_commit_verifies(world: World, honest: dict[str, str], kind: str) -> None:
    data = world.forge.data[honest[kind]]
    world.gate(honest[kind])

    @QUICK
    @given(changes)
    def no_change_verifies(change: Callable[[bytes], bytes]) -> None:
        other = change(data)
        if says_the_same(data, other):
            return
        with pytest.raises(OpsError) as caught:
            world.gate(world.forge.raw("commit", other))
        assert caught.value.kind == "integrity"
        assert caught.value.message.encode()

    no_change_verifies()


def test_no_change_of_a_vote_counts(world: World, honest: dict[str, str]) -> None:
    forge, vote = world.forge, honest["vote"]
    tip = honest["policy"]
    world.gate(honest["of two"])

    @QUICK
    @given(changes)
    def no_change_counts(change: Callable[[bytes], bytes]) -> None:
        other = change(forge.data[vote])
        if says_the_same(forge.data[vote], other):
            return
        oid = forge.raw("commit", other)
        forge.files[oid] = forge.files[vote]
        with pytest.raises(OpsError) as caught:
            world.gate(forge.approve(tip, oid, ONE))
        assert caught.value.code == "bad_history"

    no_change_counts()


def test_armor_that_is_broken_elsewhere_is_the_same_decision(world: World, honest: dict[str, str]) -> None:
    """Another object, so no decision may be known by its commit id alone; the id of the item never comes twice."""
    data = world.forge.data[honest["approve"]]
    begin = b"SIGNATURE-----\n "
    at = data.index(begin) + len(begin) + 10
    other = world.forge.raw("commit", data[:at] + b"\n " + data[at:])
    assert says_the_same(data, world.forge.data[other])
    gate = world.gate(other)
    assert gate.scratch.decided(ONE)


def test_every_byte_of_the_signature_and_of_the_trailers_matters(world: World, honest: dict[str, str]) -> None:
    """Not sampled: each byte from the signature to the end, with its lowest bit changed."""
    data = world.forge.data[honest["approve"]]
    for at in range(data.index(b"gpgsig "), len(data)):
        with pytest.raises(OpsError):
            world.gate(world.forge.raw("commit", flipped(data, at, 1)))


def strict_tree(data: bytes) -> dict[str, tuple[str, str]]:
    """A tree as git's own documents describe it, entry by entry; ValueError for anything else."""
    found: dict[str, tuple[str, str]] = {}
    last = b""
    while data:
        head, nul, rest = data.partition(b"\0")
        mode, space, name = head.partition(b" ")
        key = name + b"/" if mode == b"40000" else name
        text = name.decode("utf-8", "surrogateescape")
        known = mode in (b"100644", b"100755", b"120000", b"40000", b"160000")
        if not nul or not space or not known or not name or b"/" in name or name in (b".", b"..") or len(rest) < 20:
            raise ValueError(name)
        if key <= last or text in found:
            raise ValueError(name)
        found[text], data, last = (mode.decode(), rest[:20].hex()), rest[20:], key
    return found


rows = st.tuples(
    st.sampled_from([b"100644", b"40000", b"100755", b"120000", b"160000", b"040000", b"100664", b"1"]),
    st.one_of(st.sampled_from([b"a", b"a.b", b"a-b", b"b", b"..", b".", b"", b"a/b", b"\xff"]), st.binary(max_size=4)),
    st.binary(min_size=20, max_size=20),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(rows, max_size=5), st.booleans(), st.integers(0, 3), st.binary(max_size=3))
def test_a_tree_is_read_as_git_defines_it_or_not_at_all(
    listed: list[tuple[bytes, bytes, bytes]], in_order: bool, cut: int, tail: bytes
) -> None:
    if in_order:
        listed = sorted(listed, key=lambda row: row[1] + b"/" * (row[0] == b"40000"))
    data = b"".join(b"%s %s\0%s" % row for row in listed) + tail
    data = data[: len(data) - cut]
    try:
        expected = strict_tree(data)
    except ValueError:
        with pytest.raises(MalformedObject):
            parse_tree(data)
        return
    assert {name: (entry.mode, entry.oid) for name, entry in parse_tree(data).items()} == expected


@dataclass
class Team:
    """People at work: what they decided so far, and what the gate should say."""

    world: World
    tip: str
    approvers: int = 1
    live: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    topics: dict[str, str] = field(default_factory=dict)

    def draft(self, who: str, number: int) -> None:
        item = ulid(10 + number)
        if item in self.live | self.gone:
            return
        topic = self.topics.get(item)
        text = text_of(item, f"Version {len(self.topics)} by {who}.")
        self.topics[item] = self.world.forge.write(topic or self.tip, item, text, by=who if number % 2 else None)

    def vote(self, who: str, number: int) -> None:
        item = ulid(10 + number)
        if item in self.topics:
            word = ("approve", "withdraw")[number % 2]
            self.topics[item] = self.world.forge.vote(self.topics[item], self.tip, item, by=who, word=word)

    def approve(self, who: str, number: int) -> None:
        item = ulid(10 + number)
        if item not in self.topics:
            return
        forge, topic = self.world.forge, self.topics.pop(item)
        for other in [name for name in ("alice", "bob", "carol") if name != who][: self.approvers - 1]:
            topic = forge.vote(topic, self.tip, item, by=other)
        self.tip = forge.approve(self.tip, topic, item, by=who)
        self.live.add(item)

    def revoke(self, who: str, number: int) -> None:
        if self.live:
            item = sorted(self.live)[number % len(self.live)]
            self.tip = self.world.forge.revoke(self.tip, item, by="dave" if number % 2 else who)
            self.live.remove(item)
            self.gone.add(item)

    def plan(self, who: str, number: int) -> None:
        self.tip = self.world.forge.plan(self.tip, by=who, title=f"Plan after {self.tip[:12]}")

    def policy(self, who: str, number: int) -> None:
        forge, wanted = self.world.forge, 1 + number % 3
        rules = forge.rules[self.tip].after(threshold=wanted)
        if self.approvers == 1:
            self.tip = forge.policy(self.tip, rules, by=who)
        else:
            topic = forge.policy_topic(self.tip, rules)
            for other in [name for name in ("alice", "bob", "carol") if name != who][: self.approvers - 1]:
                topic = forge.policy_vote(topic, self.tip, rules, by=other)
            self.tip = forge.policy(self.tip, rules, by=who, topic=topic)
        self.approvers = wanted


work = st.lists(
    st.tuples(
        st.sampled_from(["draft", "draft", "vote", "approve", "approve", "revoke", "plan", "policy"]),
        st.sampled_from(["alice", "bob", "carol"]),
        st.integers(0, 5),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(work)
@example(
    [("draft", "bob", 1), ("policy", "alice", 2), ("vote", "bob", 1), ("approve", "carol", 1), ("revoke", "bob", 0)]
)
def test_honest_work_in_any_order_verifies(world: World, steps: list[tuple[str, str, int]]) -> None:
    people = Team(world, world.tip, live={world.item})
    tips = [people.tip]
    for name, who, number in steps:
        getattr(people, name)(who, number)
        tips += [people.tip] if people.tip != tips[-1] else []
    state = world.state()
    for tip in tips[:: max(1, len(tips) // 2)]:
        world.gate(tip, state)
    gate = world.accepts(people.tip, *sorted(people.live))
    assert world.gate(people.tip, state).standing == gate.standing
    with world.ws(state) as ws:
        for item in people.gone:
            with pytest.raises(OpsError) as caught:
                ws.approvals.get(item)
            assert caught.value.code == "already_decided"
