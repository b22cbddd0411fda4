"""opsctl against plain git: an independent verifier and git's own commands come to the same verdicts."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import independent
import pytest
from conftest import Site
from histories import DRAFTS, FILE, POLICY, SIGNERS, World, digest, new_world, path_of, text_of, ulid, without_signature

from opsctl.errors import OpsError
from opsctl.workspace.drafts import NewDraft

ONE, TWO = ulid(2), ulid(3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("independent")) as made:
        yield made


@pytest.fixture(scope="module")
def verifier(world: World) -> independent.Verifier:
    return independent.Verifier(str(world.forge.path), world.root)


def team(world: World, **settings: object) -> str:
    return world.forge.policy(world.tip, world.rules.after(**{"threshold": 2, **settings}))


def new_policy(world: World, tip: str, *voters: str, **settings: object) -> str:
    """The next policy by Alice's merge and these votes."""
    rules = world.forge.rules[tip].after(**settings)
    topic = world.forge.policy_topic(tip, rules)
    for by in voters:
        topic = world.forge.policy_vote(topic, tip, rules, by=by)
    return world.forge.policy(tip, rules, topic=topic)


def voted(world: World, tip: str, *votes: tuple[str, str], **knobs: object) -> str:
    """The approval of a draft with votes of these people and words."""
    topic = world.forge.draft(tip, ONE)
    for by, word in votes:
        topic = world.forge.vote(topic, tip, ONE, by=by, word=word, **knobs)
    return world.forge.approve(tip, topic, ONE)


def everything(world: World) -> str:
    forge = world.forge
    tip = forge.plan(forge.revoke(forge.approved(world.tip, ONE, by="bob"), ONE, by="dave"))
    return forge.approved(forge.policy(tip, world.rules.without("bob").after()), TWO, by="carol")


def joined(world: World) -> str:
    forge, tip = world.forge, team(world, threshold=3)
    topic = forge.draft(tip, ONE)
    both = forge.join(forge.vote(topic, tip, ONE, by="bob"), forge.vote(topic, tip, ONE, by="carol"))
    return forge.approve(tip, both, ONE)


def cut_before(world: World) -> str:
    forge = world.forge
    topic = forge.draft(world.tip, ONE)
    frank = world.rules.with_person("frank", ["approver"], world.home.public("frank"))
    return forge.approve(forge.policy(world.tip, frank.after()), topic, ONE, by="frank")


def voted_again(world: World) -> str:
    forge, tip = world.forge, team(world)
    old = forge.vote(forge.draft(tip, ONE), tip, ONE)
    tip = new_policy(world, tip, "bob", max_staleness="1d")
    return forge.approve(tip, forge.vote(old, tip, ONE), ONE)


def written_apart(world: World) -> str:
    tip = team(world, threshold=1, separation_of_duties=True)
    return world.forge.approve(tip, world.forge.draft(tip, ONE, by="erin"), ONE)


GOOD: dict[str, Callable[[World], str]] = {
    "every kind": everything,
    "two lines of votes": joined,
    "a topic cut before the policy changed": cut_before,
    "a vote in a new epoch": voted_again,
    "an author apart": written_apart,
    "two approvers": lambda world: voted(world, team(world), ("bob", "approve")),
    "a no that was taken back": lambda world: voted(world, team(world), ("bob", "reject"), ("bob", "approve")),
    "a no of the closer": lambda world: voted(world, team(world), ("alice", "reject"), ("bob", "approve")),
    "a no that only does not count": lambda world: voted(
        world, team(world, reject="count"), ("carol", "reject"), ("bob", "approve")
    ),
    "a policy of two": lambda world: new_policy(world, team(world), "carol", threshold=1),
}


def retired(world: World, **knobs: object) -> str:
    tip = world.forge.policy(world.tip, world.rules.without("bob").after())
    return world.forge.approved(tip, ONE, by="bob", **knobs)


def old_fork(world: World) -> str:
    tip = world.forge.approved(world.forge.policy(world.tip, world.rules.without("bob").after()), ONE)
    return world.forge.approve(world.tip, tip, ONE, by="bob")


def self_granted(world: World) -> str:
    rules = world.rules.with_person("mallory", ["approver", "policy"], world.home.public("mallory")).after()
    return world.forge.approved(world.forge.policy(world.tip, rules, by="mallory"), ONE, by="mallory")


def stolen(world: World) -> str:
    forge = world.forge
    _, signature = without_signature(forge.data[forge.approved(world.tip, TWO)])
    return forge.approved(world.tip, ONE, sign=lambda _: signature)


def with_files(world: World, **files: bytes | None) -> str:
    """An approval whose tree has other files, or lacks some."""
    forge = world.forge
    topic = forge.draft(world.tip, ONE)
    paths = {
        "item": path_of(world.item),
        "extra": path_of(TWO),
        "own": path_of(ONE),
        "policy": POLICY,
        "signers": SIGNERS,
    }
    tree = dict(forge.files[topic])
    for name, data in files.items():
        tree.pop(paths[name], None)
        if data is not None:
            tree[paths[name]] = (FILE, forge.blob(data))
    said = {"Ops-Digest": digest(files["own"])} if files.get("own") else {}
    return forge.approve(world.tip, topic, ONE, files=tree, trailers=said)


def changed_after_the_vote(world: World) -> str:
    forge, tip = world.forge, team(world)
    topic = forge.vote(forge.draft(tip, ONE), tip, ONE)
    return forge.approve(tip, forge.write(topic, ONE, text_of(ONE, "Changed.")), ONE)


def twice(world: World) -> str:
    tip = world.forge.revoke(world.forge.approved(world.tip, ONE), ONE)
    return world.forge.approved(tip, ONE)


def two_drafts(world: World) -> str:
    forge = world.forge
    both = forge.draft(forge.draft(world.tip, TWO), ONE)
    return forge.approve(world.tip, both, ONE, files=forge.files[forge.draft(world.tip, ONE)])


def two_keys(world: World) -> str:
    keys = [world.home.public("alice"), world.home.public("alice2")]
    rules = world.rules.with_person("alice", ["approver", "policy"], *keys).after(threshold=2)
    return voted(world, world.forge.policy(world.tip, rules), ("alice2", "approve"))


def octopus(world: World) -> str:
    one, two = world.forge.draft(world.tip, ONE), world.forge.draft(world.tip, TWO)
    return world.forge.approve(world.tip, one, ONE, parents=(world.tip, one, two))


def direct(world: World) -> str:
    return world.forge.approve(world.tip, world.forge.draft(world.tip, ONE), ONE, parents=(world.tip,))


def epoch_back(world: World) -> str:
    return world.forge.policy(world.forge.policy(world.tip, world.rules.after()), world.rules)


def own_draft(world: World, **knobs: object) -> str:
    tip = team(world, threshold=1, separation_of_duties=True)
    return world.forge.approve(tip, world.forge.draft(tip, ONE, **knobs), ONE)


def lowered_alone(world: World) -> str:
    return new_policy(world, team(world), threshold=1)


def elsewhere(world: World) -> str:
    return voted(world, team(world), ("bob", "approve"), trailers={"Ops-Repo": "0" * 40})


PGP = b"-----BEGIN PGP SIGNATURE-----\n\niHUEABYKAB0WIQTz\n=abcd\n-----END PGP SIGNATURE-----\n"
BAD: dict[str, Callable[[World], str]] = {
    "a retired key": retired,
    "a retired key on an old fork": old_fork,
    "a self-granted key": self_granted,
    "a key of nobody": lambda world: world.forge.approved(world.tip, ONE, by="mallory"),
    "no signature": lambda world: world.forge.approved(world.tip, ONE, by=None),
    "a stolen signature": stolen,
    "an extra file": lambda world: with_files(world, extra=text_of(TWO)),
    "another text": lambda world: with_files(world, own=text_of(ONE, "Evil.")),
    "a policy inside": lambda world: with_files(world, policy=world.rules.after().toml()),
    "signers inside": lambda world: with_files(world, signers=b""),
    "an earlier item removed": lambda world: with_files(world, item=None),
    "an earlier item rewritten": lambda world: with_files(world, item=text_of(world.item, "Evil.")),
    "OpenPGP": lambda world: world.forge.approved(world.tip, ONE, sign=lambda _: PGP),
    "another namespace": lambda world: world.forge.approved(world.tip, ONE, namespace="file"),
    "an octopus": octopus,
    "a direct commit": direct,
    "two drafts in a topic": two_drafts,
    "an id twice": twice,
    "one person twice": lambda world: voted(world, team(world), ("alice", "approve")),
    "two keys of one person": two_keys,
    "a change after the vote": changed_after_the_vote,
    "the author as approver": lambda world: own_draft(world, by="alice"),
    "a draft that nobody signed": own_draft,
    "a vote signed again": lambda world: voted(
        world, team(world), ("carol", "approve"), trailers={"Ops-Signer": "bob"}
    ),
    "a vote for another repository": elsewhere,
    "a vote of an older epoch": lambda world: voted(
        world, team(world), ("bob", "approve"), trailers={"Ops-Epoch": "1"}
    ),
    "a vote that was withdrawn": lambda world: voted(world, team(world), ("bob", "approve"), ("bob", "withdraw")),
    "a standing no": lambda world: voted(world, team(world), ("bob", "approve"), ("carol", "reject")),
    "an epoch that goes back": epoch_back,
    "a policy by too few": lowered_alone,
    "a revocation by an author": lambda world: world.forge.revoke(world.tip, world.item, by="erin"),
    "a plan by an auditor": lambda world: world.forge.plan(world.tip, by="dave"),
    "a trailer twice": lambda world: world.forge.approved(
        world.tip, ONE, before=lambda data: data + b"Ops-Kind: approve\n"
    ),
    "an encoding": lambda world: world.forge.approved(
        world.tip, ONE, before=lambda data: data.replace(b"\n\n", b"\nencoding latin1\n\n", 1)
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_both_accept_an_honest_history(world: World, verifier: independent.Verifier, name: str) -> None:
    tip = GOOD[name](world)
    verifier.verify(tip)
    assert world.gate(tip).tip == tip


@pytest.mark.parametrize("name", BAD)
def test_both_refuse_a_hostile_history(world: World, verifier: independent.Verifier, name: str) -> None:
    tip = BAD[name](world)
    with pytest.raises(independent.Refused):
        verifier.verify(tip)
    with pytest.raises(OpsError) as caught:
        world.gate(tip)
    assert caught.value.code == "bad_history"


def test_both_refuse_another_root(world: World, verifier: independent.Verifier) -> None:
    other = world.forge.init(world.rules, subject="init: another")
    with pytest.raises(independent.Refused, match="another root"):
        verifier.verify(other)
    with pytest.raises(OpsError):
        world.gate(other)


@pytest.fixture(scope="module")
def honest(world: World) -> list[str]:
    """A chain that holds every kind of decision."""
    return world.chain(everything(world))


def test_plain_git_verifies_each_decision_with_the_signers_of_its_first_parent(
    world: World, honest: list[str], tmp_path: Path
) -> None:
    signers = tmp_path / "signers"
    for before, commit in zip([honest[0], *honest], honest, strict=False):
        signers.write_bytes(world.git("cat-file", "blob", f"{before}:{SIGNERS}").encode() + b"\n")
        world.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", commit)


def test_git_merges_each_topic_to_the_tree_that_was_signed(world: World, honest: list[str]) -> None:
    approvals = [oid for oid in honest if len(world.forge.parents[oid]) == 2]
    assert len(approvals) == 3
    for oid in approvals:
        merged = world.git("merge-tree", "--write-tree", *world.forge.parents[oid])
        assert merged == world.git("rev-parse", f"{oid}^{{tree}}")


def test_the_first_parents_are_one_commit_for_each_decision(world: World, honest: list[str]) -> None:
    world.put(honest[-1])
    listed = world.git("log", "--first-parent", "--format=%H %s", "ops/approved").split("\n")
    assert [line.split()[0] for line in listed] == honest[::-1]
    with world.ws(world.state()) as ws:
        assert [decision.commit for decision in ws.approvals.log()] == honest[::-1]


def test_a_clone_of_the_approved_branch_holds_no_text_of_a_draft(site: Site, tmp_path: Path) -> None:
    with site.ws() as ws:
        pending = ws.drafts.create(NewDraft(prompt="CANARY-OF-A-PENDING-DRAFT"))
        good = ws.drafts.create(NewDraft(prompt="Do the approved thing."))
        refused = ws.drafts.create(NewDraft(prompt="CANARY-OF-A-REJECTED-DRAFT"))
        ws.drafts.reject(refused.ulid, "no")
        ws.approvals.approve(good.ulid)
        ws.drafts.create(NewDraft(prompt="CANARY-OF-A-LATER-DRAFT"))
    clone = tmp_path / "clone"
    source = f"file://{site.path}"
    site.home.git("clone", "-q", "--bare", "--single-branch", "--branch", "ops/approved", source, str(clone))
    batch = site.home.git("cat-file", "--batch-all-objects", "--batch", cwd=clone)
    assert "Do the approved thing." in batch
    assert "CANARY" not in batch
    assert pending.ulid not in batch
    assert refused.ulid not in batch


def test_the_independent_verifier_accepts_what_opsctl_writes(site: Site) -> None:
    with site.ws() as ws:
        one, two = (ws.drafts.create(NewDraft(prompt=f"Do {n}.")) for n in (1, 2))
        ws.approvals.approve(one.ulid)
        ws.approvals.approve(two.ulid)
        ws.approvals.revoke(one.ulid, "not needed")
        ws.governing.set_plan(b'id = "p"\ntitle = "P"\nstatus = "active"\n')
        ws.governing.set_policy(ws.governing.policy()[1].replace(b'max_staleness = ""', b'max_staleness = "7d"'))
        root = ws.root()
    script = Path(independent.__file__)
    command = [sys.executable, "-I", str(script), str(site.path), root]
    done = subprocess.run([*command, site.tip()], capture_output=True, text=True, env=site.home.environ, check=False)
    assert (done.returncode, done.stdout) == (0, "every decision verifies\n"), done.stderr
    draft = site.tip("ops/drafts")
    done = subprocess.run([*command, draft], capture_output=True, text=True, env=site.home.environ, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_the_independent_verifier_imports_nothing_of_opsctl() -> None:
    source = Path(independent.__file__).read_text(encoding="utf-8")
    assert not [line for line in source.splitlines() if "import" in line and "opsctl" in line.split("import", 1)[1]]
    assert len(source.splitlines()) < 260


def test_m1_what_is_served_is_the_blob_that_the_signed_tree_names(world: World, honest: list[str]) -> None:
    world.put(honest[-1])
    with world.ws(world.state()) as ws:
        for item in (world.item, TWO):
            found, data = ws.approvals.get(item)
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            assert oid == world.git("rev-parse", f"{found.decision.commit}:{path_of(item)}") == found.decision.blob
            assert oid == world.git("rev-parse", f"{honest[-1]}:{path_of(item)}")


def test_m4_deleting_what_was_remembered_changes_nothing(world: World, honest: list[str]) -> None:
    """Of a good history, and of one that closes the gate."""
    state = world.state()
    bad = world.forge.approved(honest[-1], ulid(4), by="mallory")

    def answers() -> list[object]:
        found: list[object] = []
        for tip in (honest[-1], bad):
            world.put(tip)
            with world.ws(state) as ws:
                for ask in (
                    ws.approvals.log,
                    lambda ws=ws: ws.approvals.get(TWO),
                    lambda ws=ws: ws.approvals.get(ONE),
                    ws.drafts.list,
                    ws.governing.policy,
                ):
                    try:
                        found.append(ask())
                    except OpsError as error:
                        found.append((error.code, error.message, error.detail))
        return found

    before = answers()
    assert answers() == before
    ledgers = list(Path(state).glob("opsctl/*/ledger.sqlite*"))
    assert [path.name for path in ledgers if path.suffix == ".sqlite"] == ["ledger.sqlite"]
    for path in ledgers:
        path.unlink()
    assert answers() == before
    shutil.rmtree(state)
    assert answers() == before
    for path in Path(state).glob("opsctl/*/ledger.sqlite"):
        path.write_bytes(b"no database at all")
    assert answers() == before
    assert world.git("rev-parse", DRAFTS) == world.drafts
