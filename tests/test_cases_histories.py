"""Histories that need more than a forged commit: a real OpenPGP key, a real rebase, a fork that was once honest."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from histories import Forge, World, new_world, ulid

ONE, TWO, THREE = ulid(2), ulid(3), ulid(4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("cases")) as made:
        yield made


@pytest.fixture
def forge(world: World) -> Forge:
    return world.forge


@pytest.fixture
def keyring() -> Iterator[Path]:
    """A keyring with Alice's OpenPGP key, which git trusts as its own."""
    if shutil.which("gpg") is None:
        pytest.skip("no gpg on this machine")
    with tempfile.TemporaryDirectory(prefix="gpg") as name:  # a short path: the agent's socket lies below it
        folder = Path(name)
        make = ["gpg", "--homedir", name, "--batch", "--passphrase", "", "--quick-generate-key"]
        done = subprocess.run([*make, "Alice <alice@example.com>", "ed25519", "sign"], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"gpg makes no key here: {done.stderr.decode()[-200:]}")
        try:
            yield folder
        finally:
            subprocess.run(["gpgconf", "--homedir", name, "--kill", "all"], capture_output=True, check=False)


def test_ap_18_an_openpgp_signature_that_git_calls_good_never_counts(
    world: World, forge: Forge, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign(payload: bytes) -> bytes:
        command = ["gpg", "--homedir", str(keyring), "--batch", "--armor", "--detach-sign"]
        return subprocess.run(command, input=payload, capture_output=True, check=True).stdout

    merge = forge.approved(world.tip, ONE, sign=sign)
    environ = {**world.home.environ, "GNUPGHOME": str(keyring)}
    monkeypatch.setenv("GNUPGHOME", str(keyring))
    git = ["git", "-c", "gpg.format=openpgp", "verify-commit", merge]
    said = subprocess.run(git, cwd=forge.path, env=environ, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "Good signature" in said.stderr
    world.refuses(merge, "signature", "no SSH signature")
    vote = forge.vote(forge.draft(world.tip, TWO), world.tip, TWO, sign=sign)
    tip = forge.policy(world.tip, world.rules.after(threshold=2))
    world.refuses(forge.approve(tip, vote, TWO), "threshold", "1 of 2")


def test_cases_a_vote_that_a_real_rebase_signed_again_does_not_count(
    world: World, forge: Forge, tmp_path: Path
) -> None:
    """`git rebase` keeps the author and the message of Bob's vote, and signs it with the key of who rebases."""
    tip = forge.policy(world.tip, world.rules.after(threshold=2))
    topic = forge.draft(tip, ONE)
    vote = forge.vote(topic, tip, ONE, by="bob", author="bob <bob@example.com>")
    world.accepts(forge.approve(tip, vote, ONE), ONE)
    world.put(tip)
    world.git("update-ref", "refs/heads/topic", vote)
    clone = tmp_path / "clone"
    world.home.git("clone", "-q", "--branch", "topic", str(forge.path), str(clone))
    world.home.git("rebase", "-q", "--no-ff", "--keep-empty", "--gpg-sign", tip, cwd=clone)
    rebased = world.home.git("rev-parse", "HEAD", cwd=clone)
    assert rebased != vote
    assert world.home.git("log", "-1", "--format=%an", cwd=clone) == "bob"
    assert "Ops-Signer: bob" in world.home.git("log", "-1", "--format=%B", cwd=clone)
    world.git("fetch", "-q", str(clone), "HEAD")
    forge.files[rebased] = forge.files[vote]
    world.refuses(forge.approve(tip, rebased, ONE), "threshold", "1 of 2")
    world.accepts(forge.approve(tip, forge.vote(vote, tip, ONE, by="carol"), ONE), ONE)


def test_cases_a_retired_key_that_extends_an_honest_fork_cannot_swallow_the_tip(world: World, forge: Forge) -> None:
    """Bob was an approver when he made the fork, so its first commit is good; what he merges later is not."""
    fork = forge.approved(world.tip, TWO, by="bob")
    world.accepts(fork, TWO)
    tip = forge.policy(world.tip, world.rules.without("bob").after())
    tip = forge.approved(tip, ONE)
    world.accepts(tip, ONE)
    swallowed = forge.approve(fork, tip, ONE, by="bob")
    world.refuses(swallowed, "topic")
    files = {**forge.files[tip], **forge.files[fork]}
    world.refuses(forge.approve(fork, tip, ONE, by="bob", files=files), "topic")
    world.refuses(forge.approved(swallowed, THREE), "topic", at=swallowed)
    back = world.state()
    assert world.gate(tip, back).tip == tip
    world.put(fork)
    with world.ws(back) as ws:
        report = ws.verification.verify()
    assert not report.ok
    assert [finding.rule for finding in report.findings] == ["rollback"]


def test_cases_a_vote_of_another_gate_with_the_same_people_does_not_count(world: World, forge: Forge) -> None:
    """The same policy, draft and text in another repository: Bob's yes there is none here."""
    tip = forge.policy(world.tip, world.rules.after(threshold=2))
    other = forge.init(world.rules, subject="init: another gate")
    other_tip = forge.policy(other, world.rules.after(threshold=2))
    ballot = forge.ballot(other_tip, "bob", "approve")
    topic = forge.draft(tip, ONE)
    world.refuses(forge.approve(tip, forge.vote(topic, tip, ONE, trailers=ballot), ONE), "threshold", "1 of 2")
    world.accepts(forge.approve(tip, forge.vote(topic, tip, ONE), ONE), ONE)
