"""The trust rule against whole histories: each is built with real keys and put to a Workspace, cold and warm."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Site
from histories import (
    APPROVED,
    DRAFTS,
    EMPTY_TREE,
    EXECUTABLE,
    FILE,
    FOLDER,
    GITLINK,
    PLAN,
    POLICY,
    SIGNERS,
    SYMLINK,
    Forge,
    Rules,
    World,
    digest,
    new_world,
    path_of,
    text_of,
    ulid,
    with_signature,
    without_signature,
)
from webauthn import P256_ORDER, SoftPasskey, envelope, strings

from opsctl import topic as topics
from opsctl.errors import OpsError
from opsctl.workspace.drafts import Filter, NewDraft

ONE, TWO, THREE = ulid(2), ulid(3), ulid(4)
ORIGIN = "http://opsctl.localhost:9325"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("trust")) as made:
        yield made


@pytest.fixture
def forge(world: World) -> Forge:
    return world.forge


def team(world: World, **settings: object) -> str:
    """The tip under a policy with other settings; two approvers are needed unless they say otherwise."""
    return world.forge.policy(world.tip, world.rules.after(**{"threshold": 2, **settings}))


def ruled(world: World, *tables: dict[str, object], **settings: object) -> str:
    """The tip under a policy with further rules."""
    return world.forge.policy(world.tip, world.rules.after(*tables, **settings))


# -- honest histories --------------------------------------------------------------------------------------------


def test_an_honest_history_of_every_kind_verifies(world: World, forge: Forge) -> None:
    tip = forge.plan(world.tip)
    first = forge.draft(tip, ONE)
    tip = forge.approved(tip, TWO, by="bob")
    tip = forge.revoke(tip, world.item, by="dave")
    tip = forge.approve(tip, forge.write(first, ONE, text_of(ONE, "Better.")), ONE, by="carol")
    tip = forge.policy(tip, world.rules.without("erin").after(max_staleness="7d"))
    tip = forge.plan(tip, title="Plan two", by="carol")
    gate = world.accepts(tip, ONE, TWO)
    assert gate.policy.epoch == 2
    assert gate.policy.max_staleness == "7d"
    world.git("fsck", "--strict", "--no-dangling")


def test_the_old_merges_of_a_retired_approver_stay_good(world: World, forge: Forge) -> None:
    tip = forge.approved(world.tip, ONE, by="bob")
    tip = forge.policy(tip, world.rules.without("bob").after())
    world.accepts(forge.approved(tip, TWO, by="carol"), ONE, TWO)


def test_a_topic_cut_before_a_policy_change_is_merged_by_the_new_approver(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    frank = world.rules.with_person("frank", ["approver"], world.home.public("frank"))
    tip = forge.policy(world.tip, frank.after())
    world.accepts(forge.approve(tip, topic, ONE, by="frank"), ONE)


def test_a_vote_given_again_in_a_new_epoch_counts(world: World, forge: Forge) -> None:
    tip = team(world)
    old = forge.vote(forge.draft(tip, ONE), tip, ONE, by="bob")
    rules = forge.rules[tip].after(max_staleness="1d")
    tip = forge.policy(tip, rules, topic=forge.policy_vote(forge.policy_topic(tip, rules), tip, rules, by="carol"))
    new = forge.vote(old, tip, ONE, by="bob")
    world.refuses(forge.approve(tip, old, ONE), "threshold", "1 of 2")
    world.accepts(forge.approve(tip, new, ONE), ONE)


def test_a_signature_over_sha256_counts(world: World, forge: Forge) -> None:
    world.accepts(forge.approved(world.tip, ONE, hash_algorithm="sha256"), ONE)


def test_an_ecdsa_key_counts_and_the_mirrored_signature_is_the_same_decision(world: World, forge: Forge) -> None:
    world.home.key("gina", kind="ecdsa")
    tip = forge.policy(world.tip, world.rules.with_person("gina", ["approver"], world.home.public("gina")).after())
    merge = forge.approved(tip, ONE, by="gina")
    world.accepts(merge, ONE)
    payload, armored = without_signature(forge.data[merge])
    raw = base64.b64decode(b"".join(armored.split(b"\n")[1:-2]))
    fields, rest = [], raw[10:]
    while rest:
        size = int.from_bytes(rest[:4], "big")
        fields.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    proof = fields[4][4 + int.from_bytes(fields[4][:4], "big") + 4 :]
    size = int.from_bytes(proof[:4], "big")
    r, s = proof[4 : 4 + size], int.from_bytes(proof[8 + size :], "big")
    twin = P256_ORDER - s
    mirrored = strings(r, twin.to_bytes(twin.bit_length() // 8 + 1, "big"))
    other = with_signature(payload, envelope(fields[0], strings(b"ecdsa-sha2-nistp256", mirrored)))
    twin_oid = forge.raw("commit", other)
    assert twin_oid != merge
    gate = world.gate(twin_oid)
    assert gate.scratch.decided(ONE)
    forge.files[twin_oid], forge.parents[twin_oid] = forge.files[merge], forge.parents[merge]
    forge.rules[twin_oid], forge.root_of[twin_oid] = forge.rules[merge], forge.root_of[merge]
    world.refuses(forge.approved(twin_oid, ONE), "approve")
    tip = forge.revoke(twin_oid, ONE)
    world.refuses(forge.approve(tip, merge, ONE), "approve", "never returns")
    world.refuses(forge.approved(tip, ONE, by="gina"), "approve", "never returns")


def test_dates_and_names_in_a_commit_decide_nothing(world: World, forge: Forge) -> None:
    old = datetime(1970, 1, 1, tzinfo=UTC)
    tip = forge.approved(world.tip, ONE, author="Mallory <mallory@example.com>", when=old)
    tip = forge.approved(tip, TWO, by="bob", author="alice <alice@example.com>", when=datetime(9000, 1, 1, tzinfo=UTC))
    decisions = world.accepts(tip, ONE, TWO)
    assert decisions.count == 4


def test_a_date_past_every_calendar_is_no_traceback(world: World, forge: Forge) -> None:
    def far(data: bytes) -> bytes:
        head, _, message = data.partition(b"\n\n")
        lines = head.split(b"\n")
        lines[3:5] = [b" ".join([*line.split(b" ")[:-2], b"9" * 18, b"-0000"]) for line in lines[3:5]]
        return b"\n".join(lines) + b"\n\n" + message

    world.accepts(forge.approved(world.tip, ONE, before=far), ONE)


def test_other_trailers_and_prose_are_free(world: World, forge: Forge) -> None:
    merge = forge.approved(
        world.tip,
        ONE,
        subject="approve: it\n\nOps-Kind: revoke\nops-foo: bar\n Ops-Epoch: 9\n\nWords.",
        before=lambda data: data + b"Signed-off-by: Alice <alice@example.com>\nChange-Id: I1\n and more\n",
    )
    world.accepts(merge, ONE)


def test_reasons_and_the_way_a_decision_came_may_be_recorded(world: World, forge: Forge) -> None:
    more = {"Ops-Reason": "why not", "Ops-Via": "http", "Ops-Allowed-Chars": "U+200D U+FE0F U+1F600"}
    world.accepts(forge.approved(world.tip, ONE, trailers=more), ONE)


@pytest.mark.parametrize("value", ["U+200d", "200D", "U+200D,U+FE0F", "U+200D  U+FE0F", "U+20", "U+1234567"])
def test_allowed_characters_are_listed_in_one_form(world: World, forge: Forge, value: str) -> None:
    merge = forge.approved(world.tip, ONE, trailers={"Ops-Allowed-Chars": value})
    world.refuses(merge, "form", "Ops-Allowed-Chars")


def test_nobody_needs_to_sign_a_draft_without_separation_of_duties(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE, by="mallory")
    topic = forge.write(topic, ONE, text_of(ONE, "PGP"), sign=lambda _: PGP, by="erin")
    world.accepts(forge.approve(world.tip, topic, ONE), ONE)


def test_a_topic_may_delete_its_file_and_add_it_again(world: World, forge: Forge) -> None:
    topic = forge.write(forge.draft(world.tip, ONE), ONE, None)
    topic = forge.write(topic, ONE, text_of(ONE, "Again."))
    world.accepts(forge.approve(world.tip, topic, ONE), ONE)


def test_a_topic_may_join_its_own_lines_where_their_trees_are_equal(world: World, forge: Forge) -> None:
    tip = team(world, threshold=3)
    topic = forge.draft(tip, ONE)
    joined = forge.join(forge.vote(topic, tip, ONE, by="bob"), forge.vote(topic, tip, ONE, by="carol"))
    world.accepts(forge.approve(tip, joined, ONE), ONE)


def test_one_content_that_two_lines_arrive_at_is_one_topic(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    one = forge.write(topic, ONE, text_of(ONE, "Same."))
    two = forge.write(forge.write(topic, ONE, text_of(ONE, "Other.")), ONE, text_of(ONE, "Same."))
    world.accepts(forge.approve(world.tip, forge.join(one, two), ONE), ONE)


def test_a_topic_cut_twice_may_come_in_one_merge_only_if_the_trees_are_equal(world: World, forge: Forge) -> None:
    tip = forge.plan(world.tip)
    joined = forge.join(forge.draft(world.tip, ONE), forge.draft(tip, ONE))
    world.refuses(forge.approve(tip, joined, ONE), "topic", "merge of more")


def test_a_plain_git_merge_with_the_trailers_verifies(world: World, forge: Forge, tmp_path: Path) -> None:
    topic = forge.draft(world.tip, ONE)
    ours = forge.approve(world.tip, topic, ONE)
    world.put(world.tip)
    world.git("update-ref", "refs/heads/topic", topic)
    clone = tmp_path / "clone"
    world.home.git("clone", "-q", "--branch", "ops/approved", str(forge.path), str(clone))
    message = forge.data[ours].split(b"\n\n", 1)[1].decode()
    world.home.git("merge", "-q", "-S", "--no-ff", "-m", message, "origin/topic", cwd=clone)
    theirs = world.home.git("rev-parse", "HEAD", cwd=clone)
    world.git("fetch", "-q", str(clone), "HEAD")
    assert world.gate(theirs).tip == theirs
    assert world.git("rev-parse", f"{theirs}^{{tree}}") == world.git("rev-parse", f"{ours}^{{tree}}")


# -- who signed --------------------------------------------------------------------------------------------------

PGP = b"""-----BEGIN PGP SIGNATURE-----

iHUEABYKAB0WIQTzZ0QmVqN1yZ0xJ0o4l0m5b0b0bAUCZ4d0AAAKCRA4l0m5b0b0
bAABAQD9
=abcd
-----END PGP SIGNATURE-----
"""
CMS = b"-----BEGIN SIGNED MESSAGE-----\nMIIB\n-----END SIGNED MESSAGE-----\n"


def test_ap_01_unsigned_commit_closes_the_gate(world: World, forge: Forge) -> None:
    world.refuses(forge.approved(world.tip, ONE, by=None), "signature", "not signed")


def test_ap_01_everything_after_an_unsigned_commit_is_refused(world: World, forge: Forge) -> None:
    bad = forge.approved(world.tip, ONE, by=None)
    world.refuses(forge.approved(bad, TWO), "signature", at=bad)


def test_ap_02_merge_by_unknown_key_is_refused_with_its_fingerprint(world: World, forge: Forge) -> None:
    finding = world.refuses(forge.approved(world.tip, ONE, by="mallory"), "signature", world.fingerprint("mallory"))
    assert finding.fingerprint == world.fingerprint("mallory")


def test_ap_02_unknown_key_that_says_it_is_alice_is_refused(world: World, forge: Forge) -> None:
    merge = forge.approved(world.tip, ONE, by="mallory", trailers={"Ops-Signer": "alice"})
    world.refuses(merge, "signature", world.fingerprint("mallory"))


def test_ap_03_signed_commit_that_edits_an_approved_file_is_refused(world: World, forge: Forge) -> None:
    files = {**forge.files[world.tip], path_of(world.item): (FILE, forge.blob(text_of(world.item, "Evil.")))}
    names = {"Ops-Kind": "approve", "Ops-Id": world.item, "Ops-Digest": digest(text_of(world.item, "Evil."))}
    world.refuses(forge.plan(world.tip, files=files, trailers=names), "kind", "1 parents")
    world.refuses(forge.plan(world.tip, files=files), "plan")
    world.refuses(forge.revoke(world.tip, world.item, files=files), "revoke")


def test_ap_08_key_retired_after_its_first_approval_cannot_make_a_second(world: World, forge: Forge) -> None:
    tip = forge.approved(world.tip, ONE, by="bob")
    tip = forge.policy(tip, world.rules.without("bob").after())
    world.accepts(tip, ONE)
    world.refuses(forge.approved(tip, TWO, by="bob"), "signature", world.fingerprint("bob"))


def test_ap_08_back_dating_does_not_bring_a_retired_key_back(world: World, forge: Forge) -> None:
    tip = forge.policy(world.tip, world.rules.without("bob").after())
    merge = forge.approved(tip, ONE, by="bob", when=datetime(2025, 1, 15, 10, 0, 1, tzinfo=UTC))
    world.refuses(merge, "signature", world.fingerprint("bob"))


def test_a_retired_key_cannot_extend_an_old_fork_and_merge_the_tip_into_it(world: World, forge: Forge) -> None:
    tip = forge.policy(world.tip, world.rules.without("bob").after())
    tip = forge.approved(tip, ONE)
    fork = forge.approve(world.tip, tip, ONE, by="bob")
    world.refuses(fork, "topic")
    swallowed = forge.commit(
        forge.files[tip], (world.tip, tip), by="bob", trailers={"Ops-Kind": "plan", "Ops-Signer": "bob"}
    )
    world.refuses(swallowed, "form")


@pytest.mark.parametrize("kind", ["revoke", "plan", "policy"])
def test_single_parent_decisions_cannot_be_merged_as_a_topic(world: World, forge: Forge, kind: str) -> None:
    second = {
        "revoke": forge.revoke(world.tip, world.item),
        "plan": forge.plan(world.tip),
        "policy": forge.policy(world.tip, world.rules.after()),
    }[kind]
    topic = forge.draft(second, ONE)
    world.refuses(forge.approve(world.tip, topic, ONE), "topic", "touches")


def test_a_self_granted_key_is_refused(world: World, forge: Forge) -> None:
    granted = world.rules.with_person("mallory", ["approver", "policy"], world.home.public("mallory")).after()
    policy = forge.policy(world.tip, granted, by="mallory")
    world.refuses(policy, "signature", world.fingerprint("mallory"))
    world.refuses(forge.approved(policy, ONE, by="mallory"), "signature", at=policy)


def test_a_policy_change_does_not_hold_for_the_commit_that_makes_it(world: World, forge: Forge) -> None:
    everyone = world.rules.with_person("erin", ["author", "policy"], world.home.public("erin")).after()
    world.refuses(forge.policy(world.tip, everyone, by="erin"), "role", world.fingerprint("erin"))


@pytest.mark.parametrize("key", ["dave", "erin"])
def test_only_an_approver_approves(world: World, forge: Forge, key: str) -> None:
    finding = world.refuses(forge.approved(world.tip, ONE, by=key), "role", key)
    assert finding.fingerprint == world.fingerprint(key)


def test_somebody_who_only_governs_does_not_approve(world: World, forge: Forge) -> None:
    tip = forge.policy(world.tip, world.rules.with_person("carol", ["policy"], world.home.public("carol")).after())
    world.refuses(forge.approved(tip, ONE, by="carol"), "role")
    world.accepts(forge.plan(tip, by="carol"))


def test_a_signature_copied_from_another_commit_is_refused(world: World, forge: Forge) -> None:
    _, stolen = without_signature(forge.data[forge.approved(world.tip, TWO, by="bob")])
    world.refuses(forge.approved(world.tip, ONE, by="bob", sign=lambda _: stolen), "signature", "did not sign")


def test_the_signer_named_must_be_the_one_who_signed(world: World, forge: Forge) -> None:
    merge = forge.approved(world.tip, ONE, by="bob", trailers={"Ops-Signer": "alice"})
    world.refuses(merge, "signer", "says alice", world.fingerprint("bob"))


def test_ap_16_signature_of_another_namespace_is_refused(world: World, forge: Forge) -> None:
    for namespace in ("file", "email", "git@acme", "opsctl"):
        world.refuses(forge.approved(world.tip, ONE, namespace=namespace), "signature", "namespace")


@pytest.mark.parametrize("armored", [PGP, CMS], ids=["openpgp", "x509"])
def test_ap_18_openpgp_and_x509_never_count(world: World, forge: Forge, armored: bytes) -> None:
    world.refuses(forge.approved(world.tip, ONE, sign=lambda _: armored), "signature", "no SSH signature")


def test_ap_18_two_signature_headers_are_refused(world: World, forge: Forge) -> None:
    for other in (PGP, forge.sign(b"x", "mallory")):
        world.refuses(
            forge.approved(world.tip, ONE, after=lambda data, other=other: with_signature(data, other)), "form"
        )


def test_an_rsa_key_cannot_enter_the_policy(world: World, forge: Forge) -> None:
    world.home.key("rsa", kind="rsa")
    rules = world.rules.with_person("bob", ["approver"], world.home.public("rsa")).after()
    world.refuses(forge.policy(world.tip, rules), "policy", "ssh-rsa")


def test_every_spelling_of_a_signature_but_one_is_refused(world: World, forge: Forge) -> None:
    def respelled(change: Callable[[bytes], bytes]) -> str:
        return forge.approved(world.tip, ONE, sign=lambda payload: change(forge.sign(payload, "alice")))

    for change in (
        lambda armored: armored.replace(b"\n", b"\r\n"),
        lambda armored: armored.replace(b"-----END", b"\n-----END"),
        lambda armored: armored + armored,
        lambda armored: armored.replace(b"U1NIU0lH", b"U1NIU0lH ", 1),
    ):
        world.refuses(respelled(change), "signature")


# -- strict form -------------------------------------------------------------------------------------------------


def headers(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    """A change of the lines before the message."""

    def changed(data: bytes) -> bytes:
        head, _, message = data.partition(b"\n\n")
        return b"\n".join(change(head.split(b"\n"))) + b"\n\n" + message

    return changed


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "an encoding": headers(lambda rows: [*rows, b"encoding ISO-8859-1"]),
    "an encoding that says UTF-8": headers(lambda rows: [*rows, b"encoding UTF-8"]),
    "a merged tag": headers(lambda rows: [*rows, b"mergetag object " + b"1" * 40, b" type commit", b" tag v1"]),
    "a header of an unknown name": headers(lambda rows: [*rows, b"HG:extra branch:default"]),
    "a second signature format": headers(lambda rows: [*rows, b"gpgsig-sha256 x"]),
    "a header before the parents": headers(lambda rows: [rows[0], b"x y", *rows[1:]]),
    "the committer before the author": headers(lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]]),
    "the parents before the tree": headers(lambda rows: [rows[1], rows[0], *rows[2:]]),
    "a parent after the author": headers(lambda rows: [*rows[:2], rows[3], rows[2], *rows[4:]]),
    "two trees": headers(lambda rows: [rows[0], *rows]),
    "two authors": headers(lambda rows: [*rows[:4], *rows[3:]]),
    "no committer": headers(lambda rows: [*rows[:4], *rows[5:]]),
    "a parent in upper case": headers(lambda rows: [*rows[:2], b"parent " + rows[2][7:].upper(), *rows[3:]]),
    "a parent with a space": headers(lambda rows: [*rows[:2], rows[2] + b" ", *rows[3:]]),
    "a parent cut short": headers(lambda rows: [*rows[:2], rows[2][:-1], *rows[3:]]),
    "an author without a date": headers(lambda rows: [*rows[:3], b"author A <a@b>", *rows[4:]]),
    "an author with a negative date": headers(lambda rows: [*rows[:3], b"author A <a@b> -1 +0000", *rows[4:]]),
    "an author with an odd zone": headers(lambda rows: [*rows[:3], b"author A <a@b> 1 UTC", *rows[4:]]),
    "an author with two addresses": headers(lambda rows: [*rows[:3], b"author A <a@b> <c@d> 1 +0000", *rows[4:]]),
    "an author that is not UTF-8": headers(lambda rows: [*rows[:3], b"author \xff <a@b> 1 +0000", *rows[4:]]),
    "an author with a carriage return": headers(lambda rows: [*rows[:3], b"author A\r <a@b> 1 +0000", *rows[4:]]),
    "a NUL in the message": lambda data: data + b"\0more\n",
    "a message that is not UTF-8": lambda data: data.replace(b"approve: ", b"approve: \xff", 1),
    "a lone surrogate in the message": lambda data: data.replace(b"approve: ", b"approve: \xed\xa0\x80", 1),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_signed_commit_in_another_form_is_refused(world: World, forge: Forge, name: str) -> None:
    world.refuses(forge.approved(world.tip, ONE, before=FORMS[name]), "form")


@pytest.mark.parametrize("name", FORMS)
def test_a_commit_whose_form_is_changed_after_signing_is_refused(world: World, forge: Forge, name: str) -> None:
    world.refuses(forge.approved(world.tip, ONE, after=FORMS[name]), "form")


def test_a_signature_that_is_not_the_last_header_is_refused(world: World, forge: Forge) -> None:
    moved = headers(lambda rows: [*rows[:3], *rows[5:], *rows[3:5]])
    world.refuses(forge.approved(world.tip, ONE, after=moved), "form")


def test_a_commit_without_a_message_is_refused(world: World, forge: Forge) -> None:
    world.refuses(forge.approved(world.tip, ONE, message=""), "kind")
    world.refuses(forge.approved(world.tip, ONE, after=lambda data: data.partition(b"\n\n")[0] + b"\n"), "form")


def test_a_malformed_tip_does_not_hide_which_commit_was_the_last_good_one(world: World, forge: Forge) -> None:
    bad, state = forge.approved(world.tip, ONE, before=FORMS["an encoding"]), world.state()
    world.gate(world.tip, state)
    with pytest.raises(OpsError) as caught:
        world.gate(bad, state)
    assert caught.value.detail["good"] == world.tip


# -- trailers ----------------------------------------------------------------------------------------------------

APPENDED = {
    "a trailer twice": b"Ops-Epoch: 1\n",
    "a trailer twice with another value": b"Ops-Kind: revoke\n",
    "a trailer in lower case": b"ops-reason: x\n",
    "a trailer in upper case": b"OPS-REASON: x\n",
    "an unknown trailer": b"Ops-Extra: x\n",
    "a trailer in mixed case": b"Ops-reason: x\n",
    "a folded trailer": b"Ops-Reason: one\n two\n",
    "a trailer folded with a tab": b"Ops-Reason: one\n\ttwo\n",
    "an empty trailer": b"Ops-Reason:\n",
    "a trailer of spaces": b"Ops-Reason:   \n",
    "a trailer without a space": b"Ops-Reason:x\n",
    "a trailer with a space before the colon": b"Ops-Reason : x\n",
    "a trailer with a space at the end": b"Ops-Reason: x \n",
    "a trailer with a carriage return": b"Ops-Reason: x\r\n",
    "a trailer of another kind": b"Ops-Vote: approve\n",
    "a policy digest": b"Ops-Policy: sha256:" + b"0" * 64 + b"\n",
    "a line that only begins like a trailer": b"Ops-\n",
    "words in a further paragraph": b"\nThat was all.\n",
    "a trailer in a further paragraph": b"\nOps-Reason: x\n",
    "a second set of trailers": b"\nOps-Kind: plan\nOps-Epoch: 1\n",
    "a line of spaces": b"   \nOps-Reason: x\n",
}
ENDED = ("words in a further paragraph", "a trailer in a further paragraph", "a line of spaces")
"""These leave a last paragraph that says no kind."""


@pytest.mark.parametrize("name", APPENDED)
def test_an_approval_with_doubtful_trailers_is_refused(world: World, forge: Forge, name: str) -> None:
    bad = forge.approved(world.tip, ONE, before=lambda data: data + APPENDED[name])
    world.refuses(bad, "kind" if name in ENDED else "form")


@pytest.mark.parametrize("name", ["Ops-Kind", "Ops-Epoch", "Ops-Signer", "Ops-Repo", "Ops-Id", "Ops-Digest"])
def test_an_approval_without_one_of_its_trailers_is_refused(world: World, forge: Forge, name: str) -> None:
    merge = forge.approved(world.tip, ONE, trailers={name: None})
    world.refuses(merge, "kind" if name == "Ops-Kind" else "form", name)


WRONG = {
    "Ops-Kind": ["init", "vote", "draft", "merge", "Approve", "approve,revoke"],
    "Ops-Epoch": ["0", "2", "01", "+1", "1.0", "\u0661", "one"],
    "Ops-Repo": ["0" * 40, "1" * 64, "HEAD"],
    "Ops-Id": [TWO, ONE.lower(), "d_" + ONE, ONE[:-1]],
    "Ops-Digest": ["sha256:" + "0" * 64, "sha1:" + "0" * 40, digest(text_of(ONE)).upper(), digest(text_of(ONE))[7:]],
    "Ops-Signer": ["bob", "Alice", "alice@example.com"],
}
RULE_OF = {"Ops-Kind": "kind", "Ops-Epoch": "epoch", "Ops-Repo": "form", "Ops-Signer": "signer"}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_an_approval_that_says_something_else_than_it_does_is_refused(
    world: World, forge: Forge, name: str, value: str
) -> None:
    world.refuses(forge.approved(world.tip, ONE, trailers={name: value}), RULE_OF.get(name, "approve"))


def test_trailers_before_the_last_paragraph_do_not_count(world: World, forge: Forge) -> None:
    merge = forge.approved(world.tip, ONE, before=lambda data: data.replace(b"\n\nOps-", b"\n\nOps-", 1) + b"\n---\n")
    world.refuses(merge, "kind")


@pytest.mark.parametrize("blank", ["\u00a0", "\u2028", "\u3000", "\x0c", "\x1f"])
def test_a_line_that_git_does_not_take_for_blank_hides_no_trailers(world: World, forge: Forge, blank: str) -> None:
    hidden = f"\n\nOps-Kind: revoke\n{blank}\nOps-".encode()
    world.refuses(forge.approved(world.tip, ONE, before=lambda data: data.replace(b"\n\nOps-", hidden, 1)), "form")


# -- the shape of an approval ------------------------------------------------------------------------------------


def test_an_octopus_merge_is_refused(world: World, forge: Forge) -> None:
    one, two = forge.draft(world.tip, ONE), forge.draft(world.tip, TWO)
    world.refuses(forge.approve(world.tip, one, ONE, parents=(world.tip, one, two)), "form", "3 parents")


def test_a_direct_commit_that_adds_a_file_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    world.refuses(forge.approve(world.tip, topic, ONE, parents=(world.tip,)), "kind", "1 parents")


def test_a_fast_forward_to_the_topic_is_refused(world: World, forge: Forge) -> None:
    world.refuses(forge.draft(world.tip, ONE, by="alice"), "kind", "'draft'")


def test_parents_in_the_wrong_order_are_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE, by="alice")
    world.refuses(forge.approve(world.tip, topic, ONE, parents=(topic, world.tip)), "kind", at=topic)


def test_a_second_parent_that_is_the_first_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    world.refuses(forge.approve(world.tip, topic, ONE, parents=(world.tip, world.tip)), "topic", "no commit of its own")


def test_a_second_parent_that_was_merged_before_is_refused(world: World, forge: Forge) -> None:
    old = forge.parents[world.tip][1]
    topic = forge.draft(world.tip, ONE)
    for second in (old, world.root):
        world.refuses(forge.approve(world.tip, topic, ONE, parents=(world.tip, second)), "topic", "no commit")


def test_a_topic_of_an_unrelated_history_is_refused(world: World, forge: Forge) -> None:
    files = {path_of(ONE): (FILE, forge.blob(text_of(ONE)))}
    alone = forge.commit(files, (), by=None)
    world.refuses(forge.approve(world.tip, alone, ONE), "topic", "no parent")
    cut = forge.draft(forge.commit({}, (), by=None), ONE)
    world.refuses(forge.approve(world.tip, cut, ONE), "topic", "no parent")


def test_a_topic_of_another_gate_is_refused(world: World, forge: Forge) -> None:
    other = forge.init(world.rules, trailers={"Ops-Signer": "alice"}, subject="init: other")
    world.refuses(forge.approve(world.tip, forge.draft(other, ONE), ONE), "topic", "no parent")


def test_an_approval_made_for_another_repository_is_refused(world: World, forge: Forge) -> None:
    other = forge.init(world.rules, subject="init: another")
    world.refuses(forge.approved(world.tip, ONE, trailers={"Ops-Repo": other}), "form", other[:12])


def test_an_item_approved_twice_is_refused(world: World, forge: Forge) -> None:
    tip = forge.approved(world.tip, ONE)
    same = forge.approve(tip, forge.draft(world.tip, ONE, text_of(ONE, "Other.")), ONE)
    world.refuses(same, "approve", "not exactly one file")


def test_a_revoked_id_never_returns(world: World, forge: Forge) -> None:
    tip = forge.revoke(forge.approved(world.tip, ONE), ONE)
    world.accepts(tip)
    world.refuses(forge.approved(tip, ONE), "approve", "never returns")
    later = forge.plan(forge.approved(tip, TWO))
    world.refuses(forge.approved(later, ONE), "approve", "never returns")


# -- the tree of an approval -------------------------------------------------------------------------------------


def changed_tree(world: World, change: Callable[[dict[str, tuple[str, str]]], object], **knobs: Any) -> str:
    """An approval of the second item whose tree is changed."""
    forge = world.forge
    topic = forge.draft(world.tip, ONE)
    files = dict(forge.files[topic])
    change(files)
    return forge.approve(world.tip, topic, ONE, files=files, **knobs)


def test_an_extra_approved_file_in_the_merge_is_refused(world: World, forge: Forge) -> None:
    extra = (FILE, forge.blob(text_of(TWO)))
    world.refuses(changed_tree(world, lambda files: files.update({path_of(TWO): extra})), "approve", "not exactly one")


def test_text_that_differs_from_the_reviewed_draft_is_refused(world: World, forge: Forge) -> None:
    evil = text_of(ONE, "Evil.")
    merge = changed_tree(
        world,
        lambda files: files.update({path_of(ONE): (FILE, forge.blob(evil))}),
        trailers={"Ops-Digest": digest(evil)},
    )
    world.refuses(merge, "approve", "not the topic's")


def test_an_older_text_of_the_topic_is_refused(world: World, forge: Forge) -> None:
    first = forge.draft(world.tip, ONE)
    second = forge.write(first, ONE, text_of(ONE, "Mended."))
    merge = forge.approve(
        world.tip, second, ONE, files=forge.files[first], trailers={"Ops-Digest": digest(text_of(ONE))}
    )
    world.refuses(merge, "approve", "not the topic's")


def test_a_policy_change_inside_an_approval_is_refused(world: World, forge: Forge) -> None:
    frank = world.rules.with_person("frank", ["approver"], world.home.public("frank"))
    fresh = forge.governed(world.tip, frank.after())
    for path in (POLICY, SIGNERS):
        world.refuses(changed_tree(world, lambda files, path=path: files.update({path: fresh[path]})), "approve")


def test_an_earlier_item_removed_or_rewritten_by_an_approval_is_refused(world: World, forge: Forge) -> None:
    world.refuses(changed_tree(world, lambda files: files.pop(path_of(world.item))), "approve", "not exactly one")
    evil = (FILE, forge.blob(text_of(world.item, "Evil.")))
    world.refuses(changed_tree(world, lambda files: files.update({path_of(world.item): evil})), "approve")
    mode = (EXECUTABLE, forge.files[world.tip][path_of(world.item)][1])
    world.refuses(changed_tree(world, lambda files: files.update({path_of(world.item): mode})), "approve")


def test_a_whole_tree_replaced_is_refused_without_reading_all_of_it(world: World, forge: Forge) -> None:
    many = {path_of(ulid(100 + n)): (FILE, forge.blob(text_of(ulid(100 + n)))) for n in range(20)}
    world.refuses(changed_tree(world, lambda files: files.update(many)), "kind", "changes more")


@pytest.mark.parametrize("mode", [EXECUTABLE, SYMLINK, GITLINK])
def test_gt_01_gt_02_gt_03_an_entry_that_is_no_plain_file_is_refused(world: World, forge: Forge, mode: str) -> None:
    target = forge.blob(b"/etc/passwd") if mode == SYMLINK else forge.blob(text_of(ONE))
    oid = world.tip if mode == GITLINK else target
    files = {**forge.files[world.tip], path_of(ONE): (mode, oid)}
    topic = forge.commit(files, (world.tip,), by=None)
    world.refuses(forge.approve(world.tip, topic, ONE, files=files), "approve", f"mode {mode}")


def test_gt_03_a_mode_that_only_the_merge_changes_is_refused(world: World, forge: Forge) -> None:
    blob = forge.blob(text_of(ONE))
    world.refuses(changed_tree(world, lambda files: files.update({path_of(ONE): (EXECUTABLE, blob)})), "approve")


@pytest.mark.parametrize("mode", ["100664", "040000", "100600", "0", "100755644"])
def test_a_mode_that_git_never_writes_is_refused(world: World, forge: Forge, mode: str) -> None:
    files = {**forge.files[world.tip], path_of(ONE): (mode, forge.blob(text_of(ONE)))}
    topic = forge.draft(world.tip, ONE)
    world.refuses(forge.approve(world.tip, topic, ONE, files=files), "form", "tree")


def test_an_empty_folder_is_refused_wherever_it_is(world: World, forge: Forge) -> None:
    forge.raw("tree", b"")
    for path in ("ops/2030", "zzz", path_of(ONE)[:-4]):
        world.refuses(
            changed_tree(world, lambda files, path=path: files.update({path: (FOLDER, EMPTY_TREE)})), "approve"
        )
    emptied = dict(forge.files[world.tip])
    emptied[path_of(world.item).rsplit("/", 1)[0]] = (FOLDER, EMPTY_TREE)
    del emptied[path_of(world.item)]
    world.refuses(forge.revoke(world.tip, world.item, files=emptied), "revoke")


def with_root_entries(world: World, change: Callable[[list[tuple[str, str, str]]], list[tuple[str, str, str]]]) -> str:
    """An approval of the second item whose outermost tree has other rows."""
    forge = world.forge
    topic = forge.draft(world.tip, ONE)
    folders = {path.split("/")[0] for path in forge.files[topic]}
    rows = []
    for name in sorted(folders):
        inner = {p.split("/", 1)[1]: entry for p, entry in forge.files[topic].items() if p.startswith(name + "/")}
        rows.append((FOLDER, name, forge.tree(inner)))
    return forge.approve(world.tip, topic, ONE, tree=forge.entries(change(rows), is_sorted=False))


def test_trees_that_are_not_in_order_or_name_something_twice_are_refused(world: World, forge: Forge) -> None:
    world.accepts(with_root_entries(world, lambda rows: rows), ONE)
    world.refuses(with_root_entries(world, lambda rows: rows[::-1]), "form", "tree")
    world.refuses(with_root_entries(world, lambda rows: [*rows, rows[-1]]), "form", "tree")


def test_a_file_beside_a_folder_of_the_same_name_is_refused(world: World, forge: Forge) -> None:
    evil = forge.blob(b"hidden from one reader, shown by the other")
    world.refuses(with_root_entries(world, lambda rows: [rows[0], (FILE, "ops", evil), rows[1]]), "form")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_gt_05_tree_entries_that_no_path_can_hold_are_refused(world: World, forge: Forge, name: str) -> None:
    row = (FILE, name, forge.blob(b"x"))
    world.refuses(with_root_entries(world, lambda rows: sorted([*rows, row], key=in_order)), "form")


def test_gt_05_a_name_that_is_not_utf8_is_refused_in_words_that_can_be_printed(world: World, forge: Forge) -> None:
    row = (FILE, "a\udcffb", forge.blob(b"x"))
    finding = world.refuses(with_root_entries(world, lambda rows: sorted([*rows, row], key=in_order)), "approve")
    assert "a\udcffb" in finding.message


def in_order(row: tuple[str, str, str]) -> str:
    return row[1] + "/" * (row[0] == FOLDER)


FOLDER_OF_ONE = path_of(ONE).rsplit("/", 1)[0]
ODD = {
    "a newline": f"{FOLDER_OF_ONE}/{ONE}.md\n",
    "an option": f"{FOLDER_OF_ONE}/-rf",
    "a backslash": f"{FOLDER_OF_ONE}\\{ONE}.md",
    "a dot at the end": f"{FOLDER_OF_ONE}/{ONE}.md.",
    "a space at the end": f"{FOLDER_OF_ONE}/{ONE}.md ",
    "a device": f"{FOLDER_OF_ONE}/CON",
    "git's folder": ".git/hooks/post-checkout",
    "git's folder in disguise": ".git\u200c/config",
    "git's short name": "git~1",
    "modules": ".gitmodules",
    "attributes": f"{FOLDER_OF_ONE}/.gitattributes",
    "lower case": f"{FOLDER_OF_ONE}/{ONE.lower()}.md",
    "another suffix": f"{FOLDER_OF_ONE}/{ONE}.txt",
    "no suffix": f"{FOLDER_OF_ONE}/{ONE}",
    "the kind before the id": f"{FOLDER_OF_ONE}/d_{ONE}.md",
    "another day": f"ops/2025/01/14/{ONE}.md",
    "no such day": f"ops/2025/02/30/{ONE}.md",
    "no day": f"ops/{ONE}.md",
    "a deeper folder": f"{FOLDER_OF_ONE}/x/{ONE}.md",
    "the closed folder": f"closed/{FOLDER_OF_ONE.removeprefix('ops/')}/{ONE}.md",
    "digits of another script": f"ops/\u0662\u0660\u0662\u0665/01/15/{ONE}.md",
    "the folder in upper case": "OPS/" + path_of(ONE).removeprefix("ops/"),
    "a folder of the file's name": f"{path_of(ONE)}/x",
    "an id past the last day": "ops/9999/12/31/" + "7ZZZZZZZZZZZZZZZZZZZZZZZZZ" + ".md",
    "the plan": PLAN,
    "the plan in another folder": "ops/plan.toml",
    "the policy's folder": ".opsctl/extra",
}


@pytest.mark.parametrize("name", ODD)
def test_gt_05_an_item_at_an_odd_path_is_refused(world: World, forge: Forge, name: str) -> None:
    files = {**forge.files[world.tip], ODD[name]: (FILE, forge.blob(text_of(ONE)))}
    topic = forge.commit(files, (world.tip,), by=None)
    trailers = {"Ops-Digest": digest(text_of(ONE))}
    world.refuses(forge.approve(world.tip, topic, ONE, files=files, trailers=trailers), "approve", "not the file")


def test_gt_06_two_spellings_of_one_id_cannot_both_be_approved(world: World, forge: Forge) -> None:
    tip = forge.approved(world.tip, ONE)
    files = {**forge.files[tip], f"{FOLDER_OF_ONE}/{ONE.lower()}.md": (FILE, forge.blob(text_of(ONE)))}
    topic = forge.commit(files, (tip,), by=None)
    world.refuses(forge.approve(tip, topic, ONE, files=files), "approve")


def test_gt_26_front_matter_with_another_id_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE, text_of(ONE, said=TWO))
    world.refuses(forge.approve(world.tip, topic, ONE), "document", TWO)


TEXTS = {
    "no front matter": b"Do it.\n",
    "an open front matter": b"+++\nid = 1\n",
    "an unknown key": text_of(ONE, head="surprise = 1\n"),
    "a key twice": text_of(ONE, head='title = "again"\n'),
    "NUL": text_of(ONE, "a\0b"),
    "no UTF-8": text_of(ONE) + b"\xff",
    "no prompt": text_of(ONE, " "),
    "nested too deeply": text_of(ONE, head=f"x = {'[' * 3000}{']' * 3000}\n"),
    "a number of ten thousand digits": text_of(ONE, head=f"x = {'9' * 10000}\n"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_draft_is_refused(world: World, forge: Forge, name: str) -> None:
    world.refuses(forge.approve(world.tip, forge.draft(world.tip, ONE, TEXTS[name]), ONE), "document")


def test_gt_09_a_file_over_256_kib_is_refused_by_its_size(world: World, forge: Forge) -> None:
    edge = text_of(ONE, "x" * (256 * 1024 - len(text_of(ONE, ""))))
    assert len(edge) == 256 * 1024
    world.accepts(forge.approve(world.tip, forge.draft(world.tip, ONE, edge), ONE), ONE)
    over = forge.draft(world.tip, ONE, edge + b"x")
    world.refuses(forge.approve(world.tip, over, ONE), "object", "262,145 bytes")


def test_a_tree_of_a_thousand_folders_in_each_other_is_refused_without_a_traceback(world: World, forge: Forge) -> None:
    merge = changed_tree(world, lambda files: files.update({"deep": (FOLDER, abyss(forge))}))
    world.refuses(merge, "approve")


def test_a_tree_that_unfolds_to_millions_of_files_is_refused_at_once(world: World, forge: Forge) -> None:
    world.refuses(changed_tree(world, lambda files: files.update({"bomb": (FOLDER, bomb(forge))})), "kind")


# -- topics ------------------------------------------------------------------------------------------------------


def test_a_topic_with_two_drafts_is_refused(world: World, forge: Forge) -> None:
    both = forge.draft(forge.draft(world.tip, TWO), ONE)
    world.refuses(forge.approve(world.tip, both, ONE, files=forge.files[forge.draft(world.tip, ONE)]), "topic", TWO)
    merged = forge.approve(world.tip, both, ONE, files=forge.files[both])
    world.refuses(merged, "approve", "not exactly one")


@pytest.mark.parametrize("path", [POLICY, PLAN, "src/app.py", ".gitattributes"])
def test_a_topic_that_touches_another_path_is_refused_even_if_it_takes_it_back(
    world: World, forge: Forge, path: str
) -> None:
    files = {**forge.files[world.tip], path: (FILE, forge.blob(b"other"))}
    detour = forge.commit(forge.files[world.tip], (forge.commit(files, (world.tip,), by=None),), by=None)
    world.refuses(forge.approve(world.tip, forge.draft(detour, ONE), ONE), "topic", "touches")


def test_a_topic_that_brings_several_files_at_once_is_refused(world: World, forge: Forge) -> None:
    files = {**forge.files[world.tip], "a": (FILE, forge.blob(b"a")), "b": (FILE, forge.blob(b"b"))}
    detour = forge.commit(forge.files[world.tip], (forge.commit(files, (world.tip,), by=None),), by=None)
    world.refuses(forge.approve(world.tip, forge.draft(detour, ONE), ONE), "topic", "more than its own file")


def test_a_topic_whose_file_was_executable_in_between_is_refused(world: World, forge: Forge) -> None:
    topic = forge.write(forge.draft(world.tip, ONE, mode=EXECUTABLE), ONE, text_of(ONE, "Plain."))
    world.refuses(forge.approve(world.tip, topic, ONE), "topic", "mode 100755")


def test_a_join_of_unequal_trees_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    joined = forge.join(topic, forge.write(topic, ONE, text_of(ONE, "Other.")))
    world.refuses(forge.approve(world.tip, joined, ONE), "topic", "merge of more")
    lying = forge.join(topic, topic, files={**forge.files[topic], "x": (FILE, forge.blob(b"x"))})
    world.refuses(forge.approve(world.tip, lying, ONE, files=forge.files[topic]), "topic", "merge of more")


def test_a_join_with_what_was_approved_is_refused(world: World, forge: Forge) -> None:
    tip = forge.plan(world.tip)
    topic = forge.draft(world.tip, ONE)
    files = {**forge.files[tip], path_of(ONE): forge.files[topic][path_of(ONE)]}
    world.refuses(forge.approve(tip, forge.join(topic, tip, files=files), ONE), "topic", "merge of more")


def test_a_merge_of_the_drafts_branch_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    files = {**forge.files[world.drafts], path_of(ONE): forge.files[topic][path_of(ONE)]}
    drafts = forge.commit(files, (world.drafts, topic), by=None)
    merged = {**forge.files[world.tip], path_of(ONE): forge.files[topic][path_of(ONE)]}
    world.refuses(forge.approve(world.tip, drafts, ONE, files=merged), "topic")


def test_a_topic_commit_in_another_form_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE, before=lambda data: data.replace(b"\n\n", b"\nencoding latin1\n\n", 1))
    world.refuses(forge.approve(world.tip, topic, ONE), "topic", topic[:12])


def test_a_topic_that_is_missing_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    for second in ("1" * 40, forge.tree(forge.files[topic])):
        merge = forge.approve(world.tip, topic, ONE, parents=(world.tip, second))
        world.refuses(merge, "object", second)


def test_a_topic_that_deletes_its_file_cannot_be_merged(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    gone = forge.write(topic, ONE, None)
    merge = forge.approve(world.tip, gone, ONE, files=forge.files[topic], trailers={"Ops-Digest": digest(text_of(ONE))})
    world.refuses(merge, "approve", "not the topic's")


def test_a_topic_without_any_content_cannot_be_merged(world: World, forge: Forge) -> None:
    empty = forge.commit(forge.files[world.tip], (world.tip,), by=None)
    files = forge.files[forge.draft(world.tip, ONE)]
    trailers = {"Ops-Digest": digest(text_of(ONE))}
    world.refuses(forge.approve(world.tip, empty, ONE, files=files, trailers=trailers), "approve", "not the topic's")


def test_a_topic_of_too_many_commits_is_refused(world: World, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "LIMIT", 8)
    topic = forge.draft(world.tip, ONE)
    for number in range(8):
        topic = forge.write(topic, ONE, text_of(ONE, f"Version {number}."))
    world.refuses(forge.approve(world.tip, topic, ONE), "topic", "at most 8")


# -- revocations and plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["alice", "dave"])
def test_ap_23_a_signed_revocation_takes_effect_at_once(world: World, forge: Forge, key: str) -> None:
    tip, state = forge.approved(world.tip, ONE), world.state()
    world.gate(tip, state)
    world.put(forge.revoke(tip, ONE, by=key))
    with world.ws(state) as ws:
        with pytest.raises(OpsError) as caught:
            ws.approvals.get(ONE)
        assert caught.value.code == "already_decided"
        assert key in caught.value.message
        assert ws.approvals.get(world.item)[0].document.ulid == world.item


def test_a_revocation_by_an_author_or_a_stranger_is_refused(world: World, forge: Forge) -> None:
    world.refuses(forge.revoke(world.tip, world.item, by="erin"), "role", world.fingerprint("erin"))
    world.refuses(forge.revoke(world.tip, world.item, by="mallory"), "signature", world.fingerprint("mallory"))
    world.refuses(forge.revoke(world.tip, world.item, by=None), "signature")


def test_a_revocation_of_two_items_is_refused(world: World, forge: Forge) -> None:
    tip = forge.approved(world.tip, ONE)
    files = {path: entry for path, entry in forge.files[tip].items() if not path.startswith("ops/")}
    world.refuses(forge.revoke(tip, ONE, files=files), "revoke", "not exactly one")


def test_a_revocation_of_nothing_or_of_something_else_is_refused(world: World, forge: Forge) -> None:
    tip = forge.plan(world.tip)
    for gone in (PLAN, POLICY, SIGNERS):
        files = {path: entry for path, entry in forge.files[tip].items() if path != gone}
        names = {"Ops-Id": ONE, "Ops-Digest": digest(b"")}
        world.refuses(forge.revoke(tip, ONE, files=files, trailers=names), "revoke", "not the file")
    world.refuses(forge.revoke(world.tip, ONE), "revoke", "changes nothing")
    both = {"Ops-Id": ONE}
    world.refuses(forge.revoke(world.tip, world.item, trailers=both), "revoke", "not the file")
    world.refuses(forge.revoke(world.tip, world.item, trailers={"Ops-Digest": digest(b"x")}), "revoke", "names")


def test_a_revocation_by_a_merge_or_in_another_epoch_is_refused(world: World, forge: Forge) -> None:
    topic = forge.draft(world.tip, ONE)
    world.refuses(forge.revoke(world.tip, world.item, parents=(world.tip, topic)), "kind", "2 parents")
    world.refuses(forge.revoke(world.tip, world.item, trailers={"Ops-Epoch": "2"}), "epoch")


def test_a_second_revocation_is_refused(world: World, forge: Forge) -> None:
    tip = forge.revoke(world.tip, world.item)
    world.refuses(forge.revoke(tip, world.item), "revoke")


def test_a_plan_with_another_file_is_refused(world: World, forge: Forge) -> None:
    plan = forge.files[forge.plan(world.tip)]
    extra = (FILE, forge.blob(text_of(ONE)))
    world.refuses(forge.plan(world.tip, files={**plan, path_of(ONE): extra}), "plan")
    world.refuses(forge.plan(world.tip, files={**plan, "ops/plan.toml": extra}), "plan")
    world.refuses(forge.plan(world.tip, files=forge.files[world.tip]), "plan", "changes nothing")
    world.refuses(forge.plan(world.tip, files={**plan, PLAN: (EXECUTABLE, plan[PLAN][1])}), "plan")
    world.refuses(forge.plan(world.tip, files={**plan, PLAN: (FILE, forge.blob(b"id = 1"))}), "plan")
    tip = forge.plan(world.tip)
    world.refuses(forge.plan(tip, files=forge.files[world.tip]), "plan")


def test_a_plan_by_an_auditor_an_author_or_a_merge_is_refused(world: World, forge: Forge) -> None:
    for key in ("dave", "erin"):
        world.refuses(forge.plan(world.tip, by=key), "role", world.fingerprint(key))
    world.refuses(forge.plan(world.tip, parents=(world.tip, forge.draft(world.tip, ONE))), "kind", "2 parents")


def test_a_decision_of_one_kind_cannot_do_the_work_of_another(world: World, forge: Forge) -> None:
    for kind in ("revoke", "plan", "policy"):
        trailers = {"Ops-Kind": kind}
        world.refuses(
            forge.approved(world.tip, ONE, trailers=trailers),
            {"revoke": "kind", "plan": "form", "policy": "form"}[kind],
        )
        bare = {"Ops-Kind": kind, "Ops-Id": None, "Ops-Digest": None}
        if kind != "revoke":
            world.refuses(forge.approved(world.tip, ONE, trailers=bare), "kind" if kind == "plan" else "policy")


# -- the policy --------------------------------------------------------------------------------------------------


def test_a_policy_with_an_extra_file_is_refused(world: World, forge: Forge) -> None:
    rules = world.rules.after()
    for path in (".opsctl/extra.toml", ".opsctl/policy.toml.bak", "README.md", path_of(ONE)):
        files = {**forge.governed(world.tip, rules), path: (FILE, forge.blob(text_of(ONE)))}
        world.refuses(forge.policy(world.tip, rules, files=files), "policy", path)


def test_allowed_signers_that_do_not_follow_from_the_policy_are_refused(world: World, forge: Forge) -> None:
    rules = world.rules.with_person("frank", ["approver"], world.home.public("frank")).after()
    good = forge.governed(world.tip, rules)
    mallory = f'alice namespaces="git" {world.home.public("mallory")}\n'.encode()
    lines = rules.signers().splitlines(keepends=True)
    for data in (
        rules.signers() + mallory,
        b"# who\n" + rules.signers(),
        b"".join(lines[::-1]),
        b"".join(lines[:-1]),
        rules.signers()[:-1],
        rules.signers().replace(b' namespaces="git"', b""),
        rules.signers().replace(b"\n", b"\r\n"),
        b"",
    ):
        files = {**good, SIGNERS: (FILE, forge.blob(data))}
        world.refuses(forge.policy(world.tip, rules, files=files), "policy", "allowed_signers")
    stale = {**good, SIGNERS: forge.files[world.tip][SIGNERS]}
    world.refuses(forge.policy(world.tip, rules, files=stale), "policy", "allowed_signers")
    world.accepts(forge.policy(world.tip, rules))


def test_allowed_signers_cannot_change_without_the_policy(world: World, forge: Forge) -> None:
    mallory = world.rules.signers() + f'alice namespaces="git" {world.home.public("mallory")}\n'.encode()
    files = {**forge.files[world.tip], SIGNERS: (FILE, forge.blob(mallory))}
    world.refuses(forge.policy(world.tip, world.rules.after(), files=files), "policy")


def test_policy_files_of_another_mode_or_missing_are_refused(world: World, forge: Forge) -> None:
    rules = world.rules.with_person("frank", ["approver"], world.home.public("frank")).after()
    good = forge.governed(world.tip, rules)
    for path in (POLICY, SIGNERS):
        for mode in (EXECUTABLE, SYMLINK):
            files = {**good, path: (mode, good[path][1])}
            world.refuses(forge.policy(world.tip, rules, files=files), "policy")
        files = {name: entry for name, entry in good.items() if name != path}
        world.refuses(forge.policy(world.tip, rules, files=files), "policy", "deleted")


def test_an_epoch_that_jumps_stays_or_goes_back_is_refused(world: World, forge: Forge) -> None:
    tip = forge.policy(world.tip, world.rules.after())
    rules = forge.rules[tip]
    for epoch in (1, 2, 4, 1_000_000_000):
        data = Rules(rules.people, epoch, {**rules.settings, "max_staleness": "1d"})
        world.refuses(forge.policy(tip, data), "epoch")
        world.refuses(forge.policy(tip, data, trailers={"Ops-Epoch": "3"}), "epoch")
    world.accepts(forge.policy(tip, Rules(rules.people, 3, rules.settings)))


BAD_POLICIES: dict[str, Callable[[bytes], bytes]] = {
    "no TOML": lambda data: data + b"=",
    "an unknown key": lambda data: b"trust_everyone = true\n" + data,
    "a key twice": lambda data: b"epoch = 2\n" + data,
    "another version": lambda data: data.replace(b"version = 1", b"version = 2"),
    "a threshold of nothing": lambda data: b"threshold = 0\n" + data,
    "a threshold below nothing": lambda data: b"threshold = -1\n" + data,
    "a threshold that is a truth": lambda data: b"threshold = true\n" + data,
    "a threshold that is no whole number": lambda data: b"threshold = 1.0\n" + data,
    "a way to reject that does not exist": lambda data: b'reject = "ignore"\n' + data,
    "a role that does not exist": lambda data: data.replace(b'"auditor"', b'"root"'),
    "a person without a role": lambda data: data.replace(b'["auditor"]', b"[]"),
    "a name with a pattern": lambda data: data.replace(b'"dave"', b'"*"'),
    "a name with a space": lambda data: data.replace(b'"dave"', b'"dave eve"'),
    "a name with a comma": lambda data: data.replace(b'"dave"', b'"dave,alice"'),
    "two people of one name": lambda data: data.replace(b'name = "dave"', b'name = "Alice"'),
    "a key with options": lambda data: data.replace(b'keys = ["ssh-', b'keys = ["cert-authority ssh-', 1),
    "a key that is none": lambda data: data.replace(b'keys = ["ssh-ed25519 AAAA', b'keys = ["ssh-ed25519 BAAA', 1),
    "an origin with a path": lambda data: b'passkey_origins = ["http://a/b"]\n' + data,
    "NUL": lambda data: data + b"#\0",
    "no UTF-8": lambda data: data + b"#\xff",
    "nested too deeply": lambda data: b"audience = " + b"[" * 3000 + b"]" * 3000 + b"\n" + data,
}


@pytest.mark.parametrize("name", BAD_POLICIES)
def test_a_policy_that_cannot_be_read_is_refused(world: World, forge: Forge, name: str) -> None:
    rules = world.rules.after()
    data = BAD_POLICIES[name](rules.toml())
    assert data != rules.toml()
    files = {**forge.governed(world.tip, rules), POLICY: (FILE, forge.blob(data))}
    world.refuses(forge.policy(world.tip, rules, files=files), "policy")


def test_one_key_cannot_belong_to_two_people(world: World, forge: Forge) -> None:
    rules = world.rules.with_person("frank", ["approver"], world.home.public("bob")).after()
    world.refuses(forge.policy(world.tip, rules), "policy", "one key stands twice")


def test_a_policy_that_its_own_people_cannot_satisfy_is_refused(world: World, forge: Forge) -> None:
    public, rules = world.home.public, world.rules
    one = rules.without("bob").without("carol")
    for bad in (
        rules.after(threshold=4),
        rules.after(policy_threshold=4),
        one.after(threshold=2),
        one.without("dave").without("erin").after(separation_of_duties=True),
        rules.after({"threshold": 4}),
        rules.after({"threshold": 2, "approvers": ["alice"]}),
        rules.after({"threshold": 1, "approvers": ["dave"]}),
        rules.after({"threshold": 1, "approvers": ["nobody"]}),
        rules.after(require_presence=True),
        one.with_person("alice", ["approver"], public("alice")).after(),
        one.with_person("alice", ["policy"], public("alice")).after(),
    ):
        world.refuses(forge.policy(world.tip, bad), "policy")


def test_a_policy_that_demands_presence_needs_somebody_present_who_governs(world: World, forge: Forge) -> None:
    passkey = SoftPasskey()
    rules = world.rules.with_person("pat", ["approver"], passkey.public_line)
    bad = rules.after(require_presence=True, passkey_origins=[ORIGIN])
    world.refuses(forge.policy(world.tip, bad), "policy")


def test_a_policy_whose_only_approvers_have_passkeys_needs_an_origin(world: World, forge: Forge) -> None:
    passkey = SoftPasskey()
    rules = world.rules.without("bob").without("carol").with_person("alice", ["policy"], world.home.public("alice"))
    rules = rules.with_person("pat", ["approver", "policy"], passkey.public_line)
    world.refuses(forge.policy(world.tip, rules.after()), "policy")


def test_a_policy_by_somebody_without_that_role_is_refused(world: World, forge: Forge) -> None:
    tip = forge.policy(world.tip, world.rules.with_person("bob", ["approver"], world.home.public("bob")).after())
    rules = forge.rules[tip]
    for key in ("bob", "dave", "erin"):
        world.refuses(forge.policy(tip, rules.after(), by=key), "role", world.fingerprint(key))
    world.refuses(forge.policy(tip, rules.after(), by="mallory"), "signature")


def test_a_policy_by_a_merge_where_one_signature_is_enough_is_refused(world: World, forge: Forge) -> None:
    rules = world.rules.after()
    world.refuses(forge.policy(world.tip, rules, topic=forge.policy_topic(world.tip, rules)), "kind", "2 parents")


def two_signed(world: World, tip: str, rules: Rules, *, by: str = "alice", voter: str = "bob", **knobs: Any) -> str:
    """A policy that two people signed."""
    forge = world.forge
    topic = forge.policy_vote(forge.policy_topic(tip, rules), tip, rules, by=voter, **knobs)
    return forge.policy(tip, rules, topic=topic, by=by)


def test_ap_13_a_threshold_lowered_by_one_signer_is_refused(world: World, forge: Forge) -> None:
    tip = team(world)
    lower = forge.rules[tip].after(threshold=1)
    world.refuses(forge.policy(tip, lower), "kind", "1 parents")
    world.refuses(forge.policy(tip, lower, topic=forge.policy_topic(tip, lower)), "threshold", "1 of 2")
    world.accepts(two_signed(world, tip, lower))


def test_ap_13_the_threshold_of_a_rule_guards_the_policy_too(world: World, forge: Forge) -> None:
    tip = ruled(world, {"threshold": 3, "paths": ["infra/**"]})
    rules = forge.rules[tip].after()
    world.refuses(two_signed(world, tip, rules), "threshold", "2 of 3")
    topic = forge.policy_vote(forge.policy_topic(tip, rules), tip, rules, by="bob")
    topic = forge.policy_vote(topic, tip, rules, by="carol")
    world.accepts(forge.policy(tip, rules, topic=topic))


def test_a_policy_of_two_signatures_refuses_votes_that_do_not_count(world: World, forge: Forge) -> None:
    tip = team(world, threshold=1, policy_threshold=2)
    rules = forge.rules[tip].after(max_staleness="2d")
    for knobs in (
        {"voter": "alice"},
        {"voter": "dave"},
        {"voter": "mallory"},
        {"word": "withdraw"},
        {"namespace": "file"},
        {"trailers": {"Ops-Digest": digest(b"other")}},
        {"trailers": {"Ops-Epoch": "1"}},
        {"trailers": {"Ops-Epoch": "3"}},
        {"trailers": {"Ops-Repo": "0" * 40}},
        {"trailers": {"Ops-Policy": digest(rules.toml())}},
        {"trailers": {"Ops-Id": ONE}},
        {"trailers": {"Ops-Seen": None}},
    ):
        world.refuses(two_signed(world, tip, rules, **knobs), "threshold", "1 of 2")
    world.refuses(two_signed(world, tip, rules, word="reject"), "votes", "bob")
    world.refuses(two_signed(world, tip, rules, by="dave"), "role")
    world.accepts(two_signed(world, tip, rules))


def test_a_policy_topic_that_touches_more_or_says_something_else_is_refused(world: World, forge: Forge) -> None:
    tip = team(world, threshold=1, policy_threshold=2)
    rules = forge.rules[tip].after()
    other = forge.rules[tip].after(max_staleness="9d")
    detour = forge.commit({**forge.files[tip], "x": (FILE, forge.blob(b"x"))}, (tip,), by=None)
    topic = forge.policy_vote(forge.policy_topic(detour, rules), tip, rules)
    world.refuses(forge.policy(tip, rules, topic=topic), "topic", "touches")
    topic = forge.policy_vote(forge.policy_topic(tip, other), tip, rules)
    world.refuses(forge.policy(tip, rules, topic=topic), "policy", "not the topic's")
    late = forge.commit(
        forge.governed(tip, rules), (forge.policy_vote(forge.policy_topic(tip, other), tip, rules),), by=None
    )
    world.refuses(forge.policy(tip, rules, topic=late), "threshold")


def test_a_vote_on_a_draft_is_no_vote_on_a_policy(world: World, forge: Forge) -> None:
    """The text of a draft and that of a policy could be one and the same bytes only if the id were not in the vote."""
    tip = team(world, threshold=1, policy_threshold=2)
    rules = forge.rules[tip].after()
    world.refuses(two_signed(world, tip, rules, trailers={"Ops-Id": ONE}), "threshold")
    tip2 = two_signed(world, tip, forge.rules[tip].after(threshold=2))
    anonymous = forge.vote(forge.draft(tip2, ONE), tip2, ONE, trailers={"Ops-Id": None})
    world.refuses(forge.approve(tip2, anonymous, ONE), "threshold", "1 of 2")


def test_an_unchanged_policy_with_a_new_epoch_is_allowed(world: World, forge: Forge) -> None:
    assert world.accepts(forge.policy(world.tip, world.rules.after())).policy.epoch == 2
    world.refuses(forge.policy(world.tip, world.rules), "policy", "changes nothing")


# -- enough people -----------------------------------------------------------------------------------------------


def voted(world: World, tip: str, *votes: tuple[str, dict[str, Any]], closer: str = "alice") -> str:
    """The approval of a draft with these votes, one after the other."""
    forge = world.forge
    topic = forge.draft(tip, ONE)
    for by, knobs in votes:
        topic = forge.vote(topic, tip, ONE, by=by, **knobs)
    return forge.approve(tip, topic, ONE, by=closer)


def test_ap_12_one_signature_where_two_are_needed_is_refused(world: World) -> None:
    tip = team(world)
    world.refuses(voted(world, tip), "threshold", "1 of 2", "alice, bob, carol may sign")
    world.accepts(voted(world, tip, ("bob", {})), ONE)


def test_one_person_does_not_count_twice(world: World, forge: Forge) -> None:
    tip = team(world)
    world.refuses(voted(world, tip, ("alice", {})), "threshold", "1 of 2")
    world.refuses(voted(world, tip, ("alice", {}), ("alice", {})), "threshold", "1 of 2")
    keys = [world.home.public("alice"), world.home.public("alice2")]
    two_keys = world.rules.with_person("alice", ["approver", "policy"], *keys)
    tip = forge.policy(world.tip, two_keys.after(threshold=2))
    world.refuses(voted(world, tip, ("alice2", {})), "threshold", "1 of 2")
    world.accepts(voted(world, tip, ("bob", {}), closer="alice2"), ONE)


NO_VOTE: dict[str, dict[str, Any]] = {
    "another digest": {"trailers": {"Ops-Digest": digest(b"another")}},
    "an older epoch": {"trailers": {"Ops-Epoch": "1"}},
    "a later epoch": {"trailers": {"Ops-Epoch": "3"}},
    "another policy": {"trailers": {"Ops-Policy": digest(b"another")}},
    "no policy": {"trailers": {"Ops-Policy": None}},
    "another repository": {"trailers": {"Ops-Repo": "0" * 40}},
    "another id": {"trailers": {"Ops-Id": TWO}},
    "another kind": {"trailers": {"Ops-Kind": "approve"}},
    "another word": {"trailers": {"Ops-Vote": "yes"}},
    "the word in upper case": {"trailers": {"Ops-Vote": "APPROVE"}},
    "no word": {"trailers": {"Ops-Vote": None}},
    "no tip seen": {"trailers": {"Ops-Seen": None}},
    "a trailer that votes do not have": {"trailers": {"Ops-Via": "http"}},
    "a trailer twice": {"before": lambda data: data + b"Ops-Vote: approve\n"},
    "another namespace": {"namespace": "file"},
    "no signature": {"sign": lambda payload: b""},
    "an OpenPGP signature": {"sign": lambda payload: PGP},
    "another signer's name": {"trailers": {"Ops-Signer": "carol"}},
    "a withdrawal": {"word": "withdraw"},
}


@pytest.mark.parametrize("name", NO_VOTE)
def test_a_vote_that_names_something_else_does_not_count(world: World, forge: Forge, name: str) -> None:
    world.refuses(voted(world, team(world), ("bob", NO_VOTE[name])), "threshold", "1 of 2")


@pytest.mark.parametrize("key", ["dave", "erin", "mallory"])
def test_a_vote_by_somebody_who_does_not_approve_does_not_count(world: World, key: str) -> None:
    tip = team(world)
    world.refuses(voted(world, tip, (key, {})), "threshold", "1 of 2")
    world.accepts(voted(world, tip, (key, {"word": "reject"}), ("bob", {})), ONE)


def test_a_vote_that_changes_the_tree_does_not_count(world: World, forge: Forge) -> None:
    tip = team(world)
    topic = forge.draft(tip, ONE)
    new = text_of(ONE, "Slipped in with the vote.")
    files = {**forge.files[topic], path_of(ONE): (FILE, forge.blob(new))}
    vote = forge.vote(topic, tip, ONE, files=files, trailers={"Ops-Digest": digest(new)})
    world.refuses(forge.approve(tip, vote, ONE), "threshold", "1 of 2")


def test_a_vote_before_the_last_change_of_content_does_not_count(world: World, forge: Forge) -> None:
    tip = team(world)
    topic = forge.vote(forge.draft(tip, ONE), tip, ONE)
    changed = forge.write(topic, ONE, text_of(ONE, "Changed after the vote."))
    world.refuses(forge.approve(tip, changed, ONE), "threshold", "1 of 2")
    restored = forge.write(changed, ONE, text_of(ONE))
    world.refuses(forge.approve(tip, restored, ONE), "threshold", "1 of 2")
    world.accepts(forge.approve(tip, forge.vote(restored, tip, ONE), ONE), ONE)


def test_a_vote_on_a_line_that_did_not_see_a_change_does_not_count(world: World, forge: Forge) -> None:
    tip = team(world)
    topic = forge.draft(tip, ONE)
    line = forge.write(forge.write(topic, ONE, text_of(ONE, "Other.")), ONE, text_of(ONE))
    joined = forge.join(forge.vote(topic, tip, ONE), line)
    world.refuses(forge.approve(tip, joined, ONE), "threshold", "1 of 2")
    world.accepts(forge.approve(tip, forge.vote(joined, tip, ONE), ONE), ONE)


def test_approve_then_withdraw_does_not_count(world: World) -> None:
    tip = team(world)
    world.refuses(voted(world, tip, ("bob", {}), ("bob", {"word": "withdraw"})), "threshold", "1 of 2")
    world.accepts(voted(world, tip, ("bob", {}), ("bob", {"word": "withdraw"}), ("bob", {})), ONE)


def test_an_outstanding_reject_blocks(world: World) -> None:
    tip = team(world)
    no, back = {"word": "reject"}, {"word": "withdraw"}
    world.refuses(voted(world, tip, ("bob", {}), ("carol", no)), "votes", "carol voted against")
    world.refuses(voted(world, world.tip, ("carol", no)), "votes", "carol")
    world.accepts(voted(world, tip, ("carol", no), ("bob", {}), ("carol", back)), ONE)
    world.accepts(voted(world, tip, ("carol", no), ("carol", {})), ONE)


def test_the_closing_merge_replaces_the_closers_own_vote(world: World) -> None:
    tip = team(world)
    world.accepts(voted(world, tip, ("alice", {"word": "reject"}), ("bob", {})), ONE)
    world.accepts(voted(world, tip, ("alice", {"word": "withdraw"}), ("bob", {})), ONE)


def test_a_reject_is_only_not_counted_where_the_policy_says_so(world: World) -> None:
    tip = team(world, reject="count")
    world.accepts(voted(world, tip, ("carol", {"word": "reject"}), ("bob", {})), ONE)
    world.refuses(voted(world, tip, ("bob", {"word": "reject"})), "threshold", "1 of 2")
    world.refuses(voted(world, tip, ("bob", {}), ("bob", {"word": "reject"})), "threshold", "1 of 2")


def test_a_reject_of_an_older_text_or_epoch_does_not_block(world: World, forge: Forge) -> None:
    topic = forge.vote(forge.draft(world.tip, ONE), world.tip, ONE, by="bob", word="reject")
    world.refuses(forge.approve(world.tip, topic, ONE), "votes", "bob")
    world.accepts(forge.approve(world.tip, forge.write(topic, ONE, text_of(ONE, "Better.")), ONE), ONE)
    later = forge.policy(world.tip, world.rules.after())
    world.accepts(forge.approve(later, topic, ONE), ONE)


def test_yes_and_no_of_one_person_on_two_lines_count_as_no(world: World, forge: Forge) -> None:
    for reject, rule in (("block", "votes"), ("count", "threshold")):
        tip = team(world, reject=reject)
        topic = forge.draft(tip, ONE)
        yes, no = forge.vote(topic, tip, ONE), forge.vote(topic, tip, ONE, word="reject")
        for joined in (forge.join(yes, no), forge.join(no, yes)):
            world.refuses(forge.approve(tip, joined, ONE), rule)
        world.accepts(forge.approve(tip, forge.vote(joined, tip, ONE), ONE), ONE)


def test_yes_and_withdrawal_of_one_person_on_two_lines_count_as_neither(world: World, forge: Forge) -> None:
    tip = team(world)
    topic = forge.draft(tip, ONE)
    joined = forge.join(forge.vote(topic, tip, ONE), forge.vote(topic, tip, ONE, word="withdraw"))
    world.refuses(forge.approve(tip, joined, ONE), "threshold", "1 of 2")


def test_two_keys_of_one_person_have_one_vote(world: World, forge: Forge) -> None:
    keys = [world.home.public("bob"), world.home.public("bob2")]
    rules = world.rules.with_person("bob", ["approver", "policy"], *keys).after(threshold=3)
    tip = forge.policy(world.tip, rules)
    world.refuses(voted(world, tip, ("bob", {}), ("bob2", {})), "threshold", "2 of 3")
    two = forge.policy(world.tip, world.rules.with_person("bob", ["approver", "policy"], *keys).after(threshold=2))
    world.refuses(voted(world, two, ("bob", {}), ("bob2", {"word": "withdraw"})), "threshold", "1 of 2")
    topic = forge.draft(two, ONE)
    joined = forge.join(forge.vote(topic, two, ONE, by="bob"), forge.vote(topic, two, ONE, by="bob2", word="reject"))
    world.refuses(forge.approve(two, joined, ONE), "votes", "bob")


def test_votes_by_retired_keys_do_not_count(world: World, forge: Forge) -> None:
    rules = world.rules.with_person("bob", ["approver", "policy"], world.home.public("bob2"))
    tip = forge.policy(world.tip, rules.after(threshold=2))
    world.refuses(voted(world, tip, ("bob", {})), "threshold", "1 of 2")
    world.accepts(voted(world, tip, ("bob", {"word": "reject"}), ("bob2", {})), ONE)


def test_a_vote_signed_again_by_somebody_else_does_not_count(world: World, forge: Forge) -> None:
    tip = team(world)
    rebased = voted(world, tip, ("alice", {"trailers": {"Ops-Signer": "bob"}}))
    world.refuses(rebased, "threshold", "1 of 2")
    world.refuses(voted(world, tip, ("carol", {"trailers": {"Ops-Signer": "bob"}})), "threshold", "1 of 2")


def test_a_vote_copied_onto_another_topic_does_not_count(world: World, forge: Forge) -> None:
    tip = team(world)
    _, stolen = without_signature(forge.data[forge.vote(forge.draft(tip, ONE), tip, ONE)])
    other = forge.draft(tip, ONE, subject="draft: the same text again")
    world.refuses(forge.approve(tip, forge.vote(other, tip, ONE, sign=lambda _: stolen), ONE), "threshold", "1 of 2")


def test_a_vote_that_is_a_join_does_not_count(world: World, forge: Forge) -> None:
    tip = team(world)
    topic = forge.draft(tip, ONE)
    one, two = forge.vote(topic, tip, ONE, by="mallory"), forge.vote(topic, tip, ONE, by="dave")
    world.refuses(forge.approve(tip, forge.vote(one, tip, ONE, parents=(one, two)), ONE), "threshold", "1 of 2")


def test_a_vote_merged_with_an_earlier_item_does_not_count_again(world: World, forge: Forge) -> None:
    tip = team(world)
    merged = voted(world, tip, ("bob", {}))
    topic = forge.draft(forge.parents[merged][1], TWO)
    files = {**forge.files[merged], path_of(TWO): forge.files[topic][path_of(TWO)]}
    world.refuses(forge.approve(merged, topic, TWO, files=files), "threshold", "1 of 2")


def test_a_decision_is_no_vote(world: World, forge: Forge) -> None:
    """A signed approval of another clone, put into the topic as if it were its author's yes."""
    tip = team(world)
    topic = forge.draft(tip, ONE)
    other = forge.approve(tip, topic, ONE, by="bob")
    world.refuses(forge.approve(tip, other, ONE), "topic", "merge of more")


# -- rules -------------------------------------------------------------------------------------------------------

EXEC = '[run]\nexecutor = "exec"\n'


def targeted(world: World, tip: str, head: str, *voters: str, closer: str = "alice") -> str:
    """The approval of a draft whose front matter says more."""
    forge = world.forge
    topic = forge.draft(tip, ONE, text_of(ONE, head=head))
    for by in voters:
        topic = forge.vote(topic, tip, ONE, by=by)
    return forge.approve(tip, topic, ONE, by=closer)


def paths(*globs: str) -> str:
    return f"[target]\npaths = {json.dumps(list(globs))}\n"


@pytest.mark.parametrize(
    "head",
    [
        "",
        "[target]\npaths = []\n",
        paths("infra/main.tf"),
        paths("infra"),
        paths("infra/**"),
        paths("**"),
        paths("*"),
        paths("in*"),
        paths("i?fra/x"),
        paths("[i]nfra/x"),
        paths("{infra,src}/x"),
        paths("src/**", "infra/x"),
        paths("INFRA/x"),
        paths("Infra/x"),
        paths("!src/**"),
    ],
)
def test_a_rule_by_paths_asks_whatever_could_touch_them(world: World, head: str) -> None:
    tip = ruled(world, {"paths": ["infra/**"], "threshold": 2})
    world.refuses(targeted(world, tip, head), "threshold", "1 of 2")
    world.accepts(targeted(world, tip, head, "bob"), ONE)


def test_a_rule_by_paths_leaves_others_alone(world: World) -> None:
    tip = ruled(world, {"paths": ["infra/**"], "threshold": 2})
    for head in (paths("src/**"), paths("docs/infra/x"), paths("infrared/x"), paths("src/*", "docs/?")):
        world.accepts(targeted(world, tip, head), ONE)


def test_a_rule_by_executors_asks_those_and_drafts_that_name_none(world: World) -> None:
    tip = ruled(world, {"executors": ["exec"], "threshold": 2})
    for head in ("", EXEC, '[run]\nrunner = "x"\n'):
        world.refuses(targeted(world, tip, head), "threshold", "1 of 2")
    world.accepts(targeted(world, tip, '[run]\nexecutor = "claim"\n'), ONE)


def test_a_rule_by_both_applies_only_where_both_match(world: World) -> None:
    tip = ruled(world, {"executors": ["exec"], "paths": ["infra/**"], "threshold": 2})
    world.refuses(targeted(world, tip, paths("infra/x") + EXEC), "threshold")
    world.accepts(targeted(world, tip, paths("src/x") + EXEC), ONE)
    world.accepts(targeted(world, tip, paths("infra/x") + '[run]\nexecutor = "claim"\n'), ONE)


def test_a_rule_that_names_approvers_counts_no_others(world: World) -> None:
    tip = ruled(world, {"threshold": 1, "approvers": ["carol"]})
    world.refuses(targeted(world, tip, ""), "threshold", "0 of 1 (carol may sign)")
    world.accepts(targeted(world, tip, "", closer="carol"), ONE)
    tip = ruled(world, {"threshold": 2, "approvers": ["bob", "carol"]})
    world.refuses(targeted(world, tip, "", "bob"), "threshold", "1 of 2")
    world.accepts(targeted(world, tip, "", "bob", "carol"), ONE)


def test_every_matching_rule_must_be_satisfied(world: World) -> None:
    rules = [{"threshold": 1, "approvers": ["bob"]}, {"threshold": 1, "approvers": ["carol"]}]
    tip = ruled(world, *rules)
    world.refuses(targeted(world, tip, "", "bob"), "threshold", "carol")
    world.refuses(targeted(world, tip, "", "carol"), "threshold", "bob")
    world.accepts(targeted(world, tip, "", "bob", "carol"), ONE)
    world.accepts(targeted(world, tip, "", "bob", closer="carol"), ONE)


def test_labels_decide_nothing(world: World) -> None:
    tip = ruled(world, {"paths": ["infra/**"], "threshold": 2})
    world.refuses(targeted(world, tip, 'labels = ["risk:low"]\n' + paths("infra/x")), "threshold")


def test_a_rule_of_one_does_not_lower_the_threshold(world: World) -> None:
    tip = ruled(world, {"threshold": 1, "paths": ["docs/**"]}, threshold=2)
    world.refuses(targeted(world, tip, paths("docs/x")), "threshold", "1 of 2")


def test_a_rule_by_paths_asks_for_other_spellings_of_the_same_letters(world: World) -> None:
    tip = ruled(world, {"paths": ["caf\u00e9/**"], "threshold": 2})
    world.refuses(targeted(world, tip, paths("cafe\u0301/x")), "threshold", "1 of 2")


# -- separation of duties ----------------------------------------------------------------------------------------


def apart(world: World, **settings: object) -> str:
    return team(world, separation_of_duties=True, **{"threshold": 1, **settings})


def test_ap_09_the_author_does_not_count_as_approver(world: World, forge: Forge) -> None:
    tip = apart(world)
    topic = forge.draft(tip, ONE, by="alice")
    world.refuses(forge.approve(tip, topic, ONE), "threshold", "0 of 1")
    world.accepts(forge.approve(tip, topic, ONE, by="bob"), ONE)
    world.accepts(forge.approve(tip, forge.vote(topic, tip, ONE), ONE), ONE)


def test_ap_09_who_edits_a_draft_does_not_count_either(world: World, forge: Forge) -> None:
    tip = apart(world)
    topic = forge.write(forge.draft(tip, ONE, by="erin"), ONE, text_of(ONE, "Mine."), by="alice")
    topic = forge.write(topic, ONE, text_of(ONE), by="erin")
    world.refuses(forge.approve(tip, topic, ONE), "threshold", "0 of 1")
    world.accepts(forge.approve(tip, topic, ONE, by="carol"), ONE)


def test_ap_09_a_second_key_of_the_author_is_still_the_author(world: World, forge: Forge) -> None:
    keys = [world.home.public("alice"), world.home.public("alice2")]
    rules = world.rules.with_person("alice", ["approver", "policy"], *keys).after(separation_of_duties=True)
    tip = forge.policy(world.tip, rules)
    world.refuses(forge.approve(tip, forge.draft(tip, ONE, by="alice2"), ONE), "threshold", "0 of 1")


def test_ap_09_a_draft_that_nobody_signed_is_refused(world: World, forge: Forge) -> None:
    tip = apart(world)
    world.refuses(forge.approved(tip, ONE), "author", "not signed")
    mallory = forge.draft(tip, ONE, by="mallory")
    world.refuses(forge.approve(tip, mallory, ONE), "author", world.fingerprint("mallory"))
    edited = forge.write(forge.draft(tip, ONE, by="erin"), ONE, text_of(ONE, "Later."))
    world.refuses(forge.approve(tip, edited, ONE), "author", edited[:12])


def test_ap_09_the_author_line_of_a_draft_proves_nothing(world: World, forge: Forge) -> None:
    tip = apart(world)
    topic = forge.draft(tip, ONE, by="alice", author="Erin <erin@example.com>")
    world.refuses(forge.approve(tip, topic, ONE), "threshold", "0 of 1")


def test_ap_09_an_author_who_closes_needs_the_others_in_full(world: World, forge: Forge) -> None:
    tip = apart(world, threshold=2)
    topic = forge.vote(forge.draft(tip, ONE, by="alice"), tip, ONE)
    world.refuses(forge.approve(tip, topic, ONE), "threshold", "1 of 2")
    world.refuses(forge.approve(tip, topic, ONE, by="bob"), "threshold", "1 of 2")
    world.accepts(forge.approve(tip, topic, ONE, by="carol"), ONE)
    world.accepts(forge.approve(tip, forge.vote(topic, tip, ONE, by="carol"), ONE), ONE)


def test_ap_09_policies_have_no_author(world: World, forge: Forge) -> None:
    tip = apart(world, policy_threshold=2)
    world.accepts(two_signed(world, tip, forge.rules[tip].after()))


# -- presence and passkeys ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passkey() -> SoftPasskey:
    return SoftPasskey(origin=ORIGIN)


def with_passkey(world: World, passkey: SoftPasskey, **settings: object) -> str:
    """A tip where Pat approves and governs with a passkey."""
    rules = world.rules.with_person("pat", ["approver", "policy"], passkey.public_line)
    return world.forge.policy(world.tip, rules.after(**{"passkey_origins": [ORIGIN], **settings}))


def test_a_passkey_counts_where_its_origin_is_listed(world: World, forge: Forge, passkey: SoftPasskey) -> None:
    tip = with_passkey(world, passkey)
    world.accepts(forge.approved(tip, ONE, by="pat", sign=passkey.sign), ONE)
    for origins in ([], ["https://opsctl.localhost:9325"], ["http://opsctl.localhost"]):
        closed = with_passkey(world, passkey, passkey_origins=origins)
        world.refuses(forge.approved(closed, ONE, by="pat", sign=passkey.sign), "signature", "not listed")


@pytest.mark.parametrize(
    "knobs",
    [
        {"flags": 0x04},
        {"flags": 0x01},
        {"flags": 0x00},
        {"flags": 0x45},
        {"origin": "http://evil.example"},
        {"origin_field": "http://evil.example"},
        {"cross_origin": True},
        {"extra": {"topOrigin": "http://evil.example"}},
        {"rp_id": "evil.example"},
        {"type": "webauthn.create"},
        {"challenge": b"something else"},
        {"namespace": "file"},
        {"order": ("challenge", "type", "origin", "crossOrigin")},
        {"extra": {"origin": ORIGIN}},
        {"trailing": b"x"},
    ],
    ids=str,
)
def test_a_passkey_signature_that_lacks_something_is_refused(
    world: World, forge: Forge, passkey: SoftPasskey, knobs: dict[str, Any]
) -> None:
    tip = with_passkey(world, passkey)
    merge = forge.approved(tip, ONE, by="pat", sign=lambda payload: passkey.sign(payload, **knobs))
    world.refuses(merge, "signature")


def test_a_passkey_that_signed_outside_a_browser_is_refused(world: World, forge: Forge, passkey: SoftPasskey) -> None:
    tip = with_passkey(world, passkey)
    merge = forge.approved(tip, ONE, by="pat", sign=passkey.sign_as_security_key)
    world.refuses(merge, "signature", "outside a browser")


def test_a_passkey_of_somebody_else_is_refused(world: World, forge: Forge, passkey: SoftPasskey) -> None:
    tip = with_passkey(world, passkey)
    world.refuses(forge.approved(tip, ONE, by="pat", sign=SoftPasskey(origin=ORIGIN).sign), "signature", "no principal")


def test_presence_shuts_software_keys_out(world: World, forge: Forge, passkey: SoftPasskey) -> None:
    tip = with_passkey(world, passkey, require_presence=True)
    world.refuses(forge.approved(tip, ONE), "role", "alice", "touch")
    world.refuses(forge.plan(tip), "role")
    world.refuses(forge.revoke(tip, world.item), "role")
    world.refuses(forge.policy(tip, forge.rules[tip].after()), "role")
    world.accepts(forge.approved(tip, ONE, by="pat", sign=passkey.sign), ONE)
    world.accepts(forge.revoke(tip, world.item, by="dave"))
    world.accepts(forge.policy(tip, forge.rules[tip].after(), by="pat", sign=passkey.sign))


def test_presence_counts_no_vote_of_a_software_key_but_hears_its_no(
    world: World, forge: Forge, passkey: SoftPasskey
) -> None:
    other = SoftPasskey(origin=ORIGIN)
    both = ["approver", "policy"]
    rules = world.rules.with_person("pat", both, passkey.public_line).with_person("quinn", both, other.public_line)
    settings = {"passkey_origins": [ORIGIN], "require_presence": True, "threshold": 2}
    tip = forge.policy(world.tip, rules.after(**settings))
    topic = forge.draft(tip, ONE)

    def closed(tip_of_topic: str) -> str:
        return forge.approve(tip, tip_of_topic, ONE, by="pat", sign=passkey.sign)

    world.refuses(closed(forge.vote(topic, tip, ONE, by="bob")), "threshold", "1 of 2")
    good = forge.vote(topic, tip, ONE, by="quinn", sign=other.sign)
    world.accepts(closed(good), ONE)
    world.refuses(closed(forge.vote(good, tip, ONE, by="bob", word="reject")), "votes", "bob")
    weak = forge.vote(topic, tip, ONE, by="quinn", sign=lambda payload: other.sign(payload, flags=0x01))
    world.refuses(closed(weak), "threshold", "1 of 2")


def test_a_security_key_counts_under_presence_only_with_a_touch(world: World, forge: Forge) -> None:
    key = SoftPasskey(rp_id="ssh:")
    rules = world.rules.with_person("pat", ["approver", "policy"], key.public_line)
    tip = forge.policy(world.tip, rules.after(require_presence=True))
    world.accepts(forge.approved(tip, ONE, by="pat", sign=key.sign_as_security_key), ONE)
    untouched = forge.approved(tip, ONE, by="pat", sign=lambda payload: key.sign_as_security_key(payload, flags=0))
    world.refuses(untouched, "role", "touch")
    free = forge.policy(world.tip, rules.after())
    sign = {"sign": lambda payload: key.sign_as_security_key(payload, flags=0)}
    world.accepts(forge.approved(free, ONE, by="pat", **sign), ONE)


# -- the root and its pin ----------------------------------------------------------------------------------------


def rooted(world: World, root: str, tmp_path: Path) -> dict[str, str]:
    """An environment that trusts another root, without any pin."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "OPSCTL_TRUST_ROOT": root}


def root_of(world: World, rules: Rules | None = None, **knobs: Any) -> str:
    return world.forge.init(rules or world.rules, **knobs)


def test_a_root_that_is_none_is_refused(world: World, forge: Forge, tmp_path: Path) -> None:
    rules = world.rules
    good = {POLICY: (FILE, forge.blob(rules.toml())), SIGNERS: (FILE, forge.blob(rules.signers()))}
    second = Rules(rules.people, 2, rules.settings)
    forge.raw("tree", b"")
    for rule, root in {
        "signature": root_of(world, by=None, trailers={"Ops-Signer": "alice"}),
        "role": root_of(world, by="dave"),
        "root": root_of(world, files={**good, "README.md": (FILE, forge.blob(b"x"))}),
        "policy": root_of(world, files={POLICY: good[POLICY]}),
        "form": root_of(world, trailers={"Ops-Repo": "0" * 40}),
        "epoch": root_of(world, trailers={"Ops-Epoch": "2"}),
        "kind": root_of(world, trailers={"Ops-Kind": "policy", "Ops-Repo": "0" * 40}),
        "signer": root_of(world, trailers={"Ops-Signer": "bob"}),
    }.items():
        with pytest.raises(OpsError) as caught:
            world.gate(root, **rooted(world, root, tmp_path))
        finding = caught.value.detail["finding"]
        assert (caught.value.code, finding.rule, finding.commit) == ("bad_history", rule, root)
    for root in (
        root_of(world, by="mallory", trailers={"Ops-Signer": "alice"}),
        root_of(world, second),
        root_of(world, files={POLICY: good[POLICY], SIGNERS: (FILE, forge.blob(b""))}),
        root_of(world, files={SIGNERS: good[SIGNERS]}),
        root_of(world, files={**good, ".opsctl/x": (FOLDER, EMPTY_TREE)}),
        root_of(world, files={**good, POLICY: (EXECUTABLE, good[POLICY][1])}),
        root_of(world, namespace="file"),
    ):
        with pytest.raises(OpsError, match=root[:12]) as caught:
            world.gate(root, **rooted(world, root, tmp_path))
        assert caught.value.code == "bad_history"


def test_a_root_alone_is_a_history(world: World, tmp_path: Path) -> None:
    root = root_of(world, subject="init: alone")
    assert world.gate(root, **rooted(world, root, tmp_path)).count == 1


def test_another_root_is_refused_although_it_is_sound(world: World, forge: Forge) -> None:
    other = root_of(world, subject="init: another gate")
    tip = forge.approved(other, ONE)
    with pytest.raises(OpsError, match="not with the pinned root") as caught:
        world.gate(tip)
    finding = caught.value.detail["finding"]
    assert (caught.value.code, finding.rule, finding.commit) == ("bad_history", "root", other)


def test_a_history_that_merges_the_pinned_root_as_second_parent_is_refused(world: World, forge: Forge) -> None:
    other = root_of(world, subject="init: swallowing gate")
    merge = forge.approve(other, world.tip, world.item)
    with pytest.raises(OpsError, match="not with the pinned root"):
        world.gate(merge)


def test_a_chain_that_starts_behind_the_pinned_commit_is_refused(world: World, forge: Forge, tmp_path: Path) -> None:
    """Pinning a commit in the middle does not make it a root."""
    with pytest.raises(OpsError, match="has a parent") as caught:
        world.gate(forge.plan(world.tip), **rooted(world, world.tip, tmp_path))
    assert caught.value.detail["finding"].rule == "root"


def test_ap_34_no_pin_refuses_approved_content_and_says_how_to_pin(world: World, tmp_path: Path) -> None:
    world.put(world.tip)
    with world.ws(world.state(), XDG_CONFIG_HOME=str(tmp_path)) as ws:
        for ask in (ws.gate, lambda: ws.approvals.get(world.item)):
            with pytest.raises(OpsError) as caught:
                ask()
            assert caught.value.code == "no_trust"
            assert "opsctl trust" in (caught.value.hint or "")
        assert [draft.ulid for draft in ws.drafts.list()] == [world.pending]


def test_ap_34_a_changed_pin_refuses_everything(world: World, tmp_path: Path) -> None:
    world.put(world.tip)
    pins = tmp_path / "opsctl" / "trust.toml"
    pins.parent.mkdir()
    common = world.forge.path / ".git"
    for root, code in (("0" * 40, "bad_history"), (world.tip, "bad_history"), ("short", "bad_config")):
        pins.write_text(f'[[clone]]\npath = "{common}"\nroot = "{root}"\n')
        with world.ws(world.state(), XDG_CONFIG_HOME=str(tmp_path)) as ws, pytest.raises(OpsError) as caught:
            ws.approvals.get(world.item)
        assert caught.value.code == code
        assert caught.value.hint
    pins.write_text("[[clone]\n")
    with world.ws(world.state(), XDG_CONFIG_HOME=str(tmp_path)) as ws, pytest.raises(OpsError) as caught:
        ws.approvals.get(world.item)
    assert caught.value.code == "bad_config"


def test_ap_34_the_pin_of_another_clone_never_counts(world: World, tmp_path: Path) -> None:
    world.put(world.tip)
    pins = tmp_path / "opsctl" / "trust.toml"
    pins.parent.mkdir()
    pins.write_text(f'[[clone]]\npath = "{world.forge.path}"\nroot = "{world.root}"\n')
    with world.ws(world.state(), XDG_CONFIG_HOME=str(tmp_path)) as ws, pytest.raises(OpsError) as caught:
        ws.gate()
    assert caught.value.code == "no_trust"


def test_the_variable_counts_only_where_there_is_no_pin(world: World, tmp_path: Path) -> None:
    other = root_of(world, subject="init: the one of the variable")
    assert world.gate(world.tip, OPSCTL_TRUST_ROOT=other).standing.root == world.root
    with pytest.raises(OpsError, match="pinned root"):
        world.gate(other, OPSCTL_TRUST_ROOT=other)
    with pytest.raises(OpsError, match="pinned root"):
        world.gate(world.tip, **rooted(world, other, tmp_path))
    assert world.gate(world.tip, **rooted(world, world.root, tmp_path)).tip == world.tip


@pytest.mark.parametrize("value", ["HEAD", "0" * 39, "ops/approved", "\u0660" * 40])
def test_a_variable_that_is_no_commit_opens_nothing(world: World, tmp_path: Path, value: str) -> None:
    with pytest.raises(OpsError):
        world.gate(world.tip, **rooted(world, value, tmp_path))


def test_a_variable_that_is_a_path_makes_no_folder_outside_the_state(world: World, tmp_path: Path) -> None:
    state = tmp_path / "state" / "deep"
    environ = rooted(world, "../../outside-the-state-folder", tmp_path)
    with pytest.raises(OpsError):
        world.gate(world.tip, str(state), **environ)
    assert [path for path in tmp_path.rglob("*.sqlite") if state / "opsctl" not in path.parents] == []


# -- no way back, and a gate that closes -------------------------------------------------------------------------


def test_a_tip_that_went_back_closes_the_gate_until_it_returns(world: World, forge: Forge) -> None:
    tip, state = forge.plan(forge.approved(world.tip, ONE)), world.state()
    world.gate(tip, state)
    for back in (forge.parents[tip][0], world.tip, world.root):
        world.put(back)
        with world.ws(state) as ws:
            for item in (world.item, ONE):
                with pytest.raises(OpsError) as caught:
                    ws.approvals.get(item)
                assert (caught.value.code, caught.value.detail["seen"]) == ("rolled_back", tip)
                assert tip[:12] in caught.value.message
            assert world.pending in [draft.ulid for draft in ws.drafts.list()]
    world.put(tip)
    with world.ws(state) as ws:
        assert ws.approvals.get(ONE)[0].document.ulid == ONE


def test_an_equal_looking_fork_is_a_way_back(world: World, forge: Forge) -> None:
    topic, state = forge.draft(world.tip, ONE), world.state()
    one, two = forge.approve(world.tip, topic, ONE), forge.approve(world.tip, topic, ONE)
    assert one != two
    world.gate(one, state)
    with pytest.raises(OpsError) as caught:
        world.gate(two, state)
    assert caught.value.code == "rolled_back"
    longer = forge.plan(forge.plan(two), title="Longer")
    with pytest.raises(OpsError) as caught:
        world.gate(longer, state)
    assert caught.value.code == "rolled_back"
    world.gate(forge.plan(one), state)
    assert world.gate(two).tip == two


def test_a_seen_tip_that_was_merged_as_second_parent_does_not_pass_for_the_chain(world: World, forge: Forge) -> None:
    """A revocation has one parent and touches one path: could a fork swallow it as its topic?"""
    merged = forge.approved(world.tip, ONE)
    seen, state = forge.revoke(merged, ONE), world.state()
    world.gate(seen, state)
    topic = forge.write(seen, ONE, text_of(ONE, "Back again."))
    fork = forge.approve(world.tip, topic, ONE)
    with pytest.raises(OpsError) as caught:
        world.gate(fork, state)
    assert caught.value.kind == "integrity"


def test_a_branch_that_is_gone_is_a_way_back(world: World) -> None:
    state = world.state()
    world.gate(world.tip, state)
    world.git("update-ref", "-d", APPROVED)
    with world.ws(state) as ws, pytest.raises(OpsError) as caught:
        ws.gate()
    assert caught.value.code == "rolled_back"
    assert world.tip in (caught.value.hint or "")
    assert world.gate(world.tip, state).tip == world.tip


@pytest.mark.parametrize("bad", ["unsigned", "malformed"])
def test_a_closed_gate_shows_drafts_refuses_the_rest_and_opens_again(world: World, forge: Forge, bad: str) -> None:
    state = world.state()
    world.gate(world.tip, state)
    knobs: dict[str, Any] = {"by": None} if bad == "unsigned" else {"before": FORMS["an encoding"]}
    world.put(forge.approved(world.tip, ONE, **knobs))
    with world.ws(state) as ws:
        drafts = [draft.ulid for draft in ws.drafts.list()]
        assert world.pending in drafts
        assert ws.drafts.get(world.pending).document.ulid == world.pending
        for ask in (
            lambda: ws.approvals.get(world.item),
            lambda: ws.approvals.get(ONE),
            ws.approvals.log,
            ws.governing.plan,
            ws.governing.policy,
            lambda: ws.drafts.list(Filter(status="approved")),
        ):
            with pytest.raises(OpsError) as caught:
                ask()
            assert caught.value.code == "bad_history"
    for act in (
        lambda ws: ws.approvals.approve(world.pending),
        lambda ws: ws.approvals.revoke(world.item, "no"),
        lambda ws: ws.drafts.create(NewDraft(prompt="New.")),
        lambda ws: ws.drafts.edit(world.pending, prompt="Changed."),
        lambda ws: ws.drafts.reject(world.pending, "no"),
    ):
        with world.ws(state) as ws, pytest.raises(OpsError) as caught:
            act(ws)
        assert caught.value.code == "bad_history"
    assert world.git("rev-parse", DRAFTS) == world.drafts
    world.put(world.tip)
    with world.ws(state) as ws:
        assert ws.approvals.get(world.item)[0].document.ulid == world.item
        assert [draft.ulid for draft in ws.drafts.list()] == [world.pending]


def test_a_closed_gate_lists_only_what_is_pending(world: World, forge: Forge) -> None:
    state = world.state()
    world.gate(world.tip, state)
    world.put(forge.approved(world.tip, ONE, by=None))
    with world.ws(state) as ws:
        assert [draft.ulid for draft in ws.drafts.list()] == [world.pending]


def test_a_gate_closed_by_a_malformed_commit_lists_only_what_is_pending(world: World, forge: Forge) -> None:
    state = world.state()
    world.gate(world.tip, state)
    world.put(forge.approved(world.tip, ONE, before=FORMS["an encoding"]))
    with world.ws(state) as ws:
        assert [draft.ulid for draft in ws.drafts.list()] == [world.pending]


def test_a_later_good_commit_does_not_mend_a_bad_one(world: World, forge: Forge) -> None:
    bad = forge.approved(world.tip, ONE, by="mallory")
    world.refuses(forge.revoke(bad, ONE), "signature", at=bad)
    world.refuses(forge.policy(forge.plan(bad), world.rules.after()), "signature", at=bad)


def test_a_symbolic_branch_is_refused(world: World) -> None:
    world.git("update-ref", "refs/heads/elsewhere", world.tip)
    world.git("symbolic-ref", APPROVED, "refs/heads/elsewhere")
    try:
        with world.ws(world.state()) as ws, pytest.raises(OpsError) as caught:
            ws.gate()
        assert caught.value.code == "ref_conflict"
    finally:
        world.git("symbolic-ref", "-d", APPROVED)


def test_a_branch_that_names_a_tag_is_refused(world: World) -> None:
    world.git("tag", "-f", "-a", "-m", "x", "t1", world.tip)
    (world.forge.path / ".git" / APPROVED).write_text(world.git("rev-parse", "refs/tags/t1") + "\n")
    with world.ws(world.state()) as ws, pytest.raises(OpsError) as caught:
        ws.gate()
    assert caught.value.kind == "integrity"
    world.put(world.tip)


# -- cut histories, missing and replaced objects -----------------------------------------------------------------


def test_ap_31_a_shallow_clone_is_refused_as_incomplete(world: World, forge: Forge, tmp_path: Path) -> None:
    tip = forge.plan(forge.approved(world.tip, ONE))
    world.put(tip)
    clone = tmp_path / "clone"
    source = f"file://{forge.path}"
    world.home.git("clone", "-q", "--depth", "1", "--branch", "ops/approved", source, str(clone))
    world.home.git("update-ref", DRAFTS, "HEAD", cwd=clone)
    environ = {**world.home.environ, **rooted(world, world.root, tmp_path), "XDG_STATE_HOME": world.state()}
    with Site(world.home, clone).ws() as plain:
        plain.environ = environ
        plain.places = type(plain.places).of(environ)
        plain.pins = type(plain.pins)(plain.places)
        with pytest.raises(OpsError, match="history incomplete") as caught:
            plain.gate()
    assert (caught.value.code, caught.value.kind) == ("history_incomplete", "integrity")


@pytest.mark.parametrize("place", ["shallow", "info/grafts"])
def test_ap_31_a_cut_that_git_believes_changes_nothing(world: World, forge: Forge, place: str) -> None:
    tip = forge.plan(forge.approved(world.tip, ONE, by="mallory"))
    cut = world.forge.path / ".git" / place
    cut.parent.mkdir(exist_ok=True)
    cut.write_text(f"{tip}\n")
    try:
        with pytest.raises(OpsError) as caught:
            world.gate(tip)
        assert caught.value.code == "bad_history"
        assert world.gate(world.tip).tip == world.tip
    finally:
        cut.unlink()


def test_a_replaced_commit_is_not_believed(world: World, forge: Forge) -> None:
    bad = forge.approved(world.tip, ONE, by="mallory")
    good = forge.approve(world.tip, forge.parents[bad][1], ONE)
    world.git("replace", bad, good)
    try:
        world.refuses(bad, "signature", world.fingerprint("mallory"))
    finally:
        world.git("replace", "-d", bad)


@pytest.mark.parametrize("what", ["tip", "parent", "tree", "blob", "policy", "topic"])
def test_a_missing_object_is_refused(world: World, forge: Forge, what: str) -> None:
    tip = forge.policy(world.tip, world.rules.after(max_staleness=f"{len(what)}d", audience=what))
    tip = forge.approve(tip, forge.draft(tip, ONE, text_of(ONE, what)), ONE)
    policy = forge.parents[tip][0]
    names = {
        "tip": tip,
        "parent": policy,
        "tree": world.git("rev-parse", f"{tip}^{{tree}}"),
        "blob": forge.files[tip][path_of(ONE)][1],
        "policy": forge.files[tip][POLICY][1],
        "topic": forge.parents[tip][1],
    }
    oid = names[what]
    path = forge.path / ".git" / "objects" / oid[:2] / oid[2:]
    kept, state = path.read_bytes(), world.state()
    world.put(tip)
    path.unlink()
    try:
        with world.ws(state) as ws, pytest.raises(OpsError, match=oid) as caught:
            ws.gate()
        assert caught.value.kind == "integrity"
        assert caught.value.detail["finding"].commit in (tip, policy)
    finally:
        path.write_bytes(kept)
    assert world.gate(tip, state).tip == tip


def test_an_altered_object_is_refused_not_served(world: World, forge: Forge) -> None:
    tip, state = forge.approved(world.tip, ONE), world.state()
    world.gate(tip, state)
    oid = forge.files[tip][path_of(ONE)][1]
    path = forge.path / ".git" / "objects" / oid[:2] / oid[2:]
    other = forge.blob(text_of(ONE, "Evil."))
    kept = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes((forge.path / ".git" / "objects" / other[:2] / other[2:]).read_bytes())
    try:
        with world.ws(state) as ws, pytest.raises(OpsError) as caught:
            ws.approvals.get(ONE)
        assert caught.value.code == "corrupt_object"
        with pytest.raises(OpsError):
            world.gate(tip)
    finally:
        path.write_bytes(kept)


def test_what_was_remembered_under_another_version_of_the_rule_is_judged_again(world: World, forge: Forge) -> None:
    bad, state = forge.approved(world.tip, ONE, by=None), world.state()
    world.gate(world.tip, state)
    ledger = next(Path(state).rglob("ledger.sqlite"))
    with sqlite3.connect(ledger) as database:
        database.execute("UPDATE about SET version = version - 1")
        database.execute(
            "INSERT INTO chain (position, oid, kind, ulid, data) VALUES (2, ?, 'approve', ?, '{}')", (bad, ONE)
        )
    with pytest.raises(OpsError) as caught:
        world.gate(bad, state)
    assert caught.value.code == "bad_history"


# -- the working side cannot open or close anything ---------------------------------------------------------------


def test_gt_24_a_policy_on_the_drafts_branch_is_never_read(world: World, forge: Forge) -> None:
    own = world.rules.with_person("mallory", ["approver", "policy"], world.home.public("mallory")).after()
    drafts = forge.commit(forge.governed(world.drafts, own), (world.drafts,), by=None)
    world.put(world.tip, drafts=drafts)
    with world.ws(world.state(), key="mallory") as ws:
        assert "mallory" not in [who.name for who in ws.gate().policy.principals]
        with pytest.raises(OpsError) as caught:
            ws.approvals.approve(world.pending)
        assert caught.value.code == "role"
    assert world.git("rev-parse", APPROVED) == world.tip


DRAFTS_TIPS: dict[str, Callable[[World], str]] = {
    "an encoding header": lambda world: world.forge.commit(
        world.forge.files[world.drafts], (world.drafts,), by=None, before=FORMS["an encoding"]
    ),
    "a merged tag": lambda world: world.forge.commit(
        world.forge.files[world.drafts], (world.drafts,), by=None, before=FORMS["a merged tag"]
    ),
    "an unsorted tree": lambda world: world.forge.commit(
        world.forge.files[world.drafts],
        (world.drafts,),
        by=None,
        tree=world.forge.entries(
            [(FILE, "z", world.forge.blob(b"z")), (FILE, "a", world.forge.blob(b"a"))], is_sorted=False
        ),
    ),
}


@pytest.mark.parametrize("name", DRAFTS_TIPS)
def test_whatever_lands_on_the_drafts_branch_approved_content_is_served(world: World, forge: Forge, name: str) -> None:
    world.put(world.tip, drafts=DRAFTS_TIPS[name](world))
    with world.ws(world.state()) as ws:
        assert ws.approvals.get(world.item)[0].document.ulid == world.item


@pytest.mark.parametrize("name", DRAFTS_TIPS)
def test_a_drafts_branch_of_another_form_is_refused_without_a_traceback(world: World, name: str) -> None:
    world.put(world.tip, drafts=DRAFTS_TIPS[name](world))
    with world.ws(world.state()) as ws:
        assert ws.gate().tip == world.tip
        with pytest.raises(OpsError) as caught:
            ws.drafts.list()
    assert caught.value.kind == "integrity"
    assert caught.value.hint


def bomb(forge: Forge) -> str:
    """A tree of a million million files in thirteen objects."""
    inner = forge.entries([(FILE, f"{n}", forge.blob(b"x")) for n in range(10)])
    for _ in range(11):
        inner = forge.entries([(FOLDER, f"{n}", inner) for n in range(10)])
    return inner


def abyss(forge: Forge) -> str:
    """One file below two thousand folders."""
    inner = forge.entries([(FILE, "x", forge.blob(b"x"))])
    for _ in range(2000):
        inner = forge.entries([(FOLDER, "d", inner)])
    return inner


def test_a_drafts_branch_that_unfolds_to_millions_of_files_keeps_nobody_waiting(world: World, forge: Forge) -> None:
    files = {**forge.files[world.drafts], "ops/bomb": (FOLDER, bomb(forge))}
    world.put(world.tip, drafts=forge.commit(files, (world.drafts,), by=None))
    with world.ws(world.state()) as ws:
        read, reads = ws.repo.tree, 0

        def counted(oid: str) -> Any:
            nonlocal reads
            reads += 1
            if reads > 20_000:
                raise TimeoutError
            return read(oid)

        ws.repo.tree = counted
        assert ws.approvals.get(world.item)[0].document.ulid == world.item


def test_a_drafts_branch_of_a_thousand_folders_in_each_other_is_no_traceback(world: World, forge: Forge) -> None:
    files = {**forge.files[world.drafts], "ops/deep": (FOLDER, abyss(forge))}
    world.put(world.tip, drafts=forge.commit(files, (world.drafts,), by=None))
    with world.ws(world.state()) as ws:
        assert ws.approvals.get(world.item)[0].document.ulid == world.item


def test_a_tree_that_is_none_is_refused_in_no_time(world: World, forge: Forge) -> None:
    merge = forge.approved(world.tip, ONE, tree=forge.raw("tree", b"1 " * 10_000))
    before = time.process_time()
    with pytest.raises(OpsError):
        world.gate(merge)
    assert time.process_time() - before < 0.5


def test_ap_20_a_rejected_draft_cannot_be_approved(site: Site) -> None:
    with site.ws() as ws:
        draft = ws.drafts.create(NewDraft(prompt="Do it."))
        ws.drafts.reject(draft.ulid, "no")
    before = site.tip()
    with site.ws() as ws, pytest.raises(OpsError) as caught:
        ws.approvals.approve(draft.ulid)
    assert (caught.value.code, site.tip()) == ("already_decided", before)


def test_ap_22_an_approved_file_changed_on_the_drafts_branch_is_served_as_approved(world: World, forge: Forge) -> None:
    evil = {**forge.files[world.drafts], path_of(world.item): (FILE, forge.blob(text_of(world.item, "Evil.")))}
    world.put(world.tip, drafts=forge.commit(evil, (world.drafts,), by="alice"))
    with world.ws(world.state()) as ws:
        assert ws.approvals.get(world.item)[1] == text_of(world.item)
        assert ws.drafts.get(world.item).status == "approved"
        assert "Evil" not in ws.drafts.get(world.item).document.prompt
        with pytest.raises(OpsError) as caught:
            ws.drafts.edit(world.item, prompt="More evil.")
        assert caught.value.code == "already_decided"


def test_ap_25_without_a_key_there_is_no_merge(site: Site) -> None:
    with site.ws() as ws:
        draft = ws.drafts.create(NewDraft(prompt="Do it."))
    before = site.tip()
    with site.ws() as ws:
        ws.choose_key(str(site.home.path / "no-such-key"))
        with pytest.raises(OpsError) as caught:
            ws.approvals.approve(draft.ulid)
    assert (caught.value.code, site.tip()) == ("no_signing_key", before)


def test_what_opsctl_writes_is_what_the_rule_asks(site: Site) -> None:
    """The decisions that Workspace makes, read back by a fresh process from nothing but the repository."""
    with site.ws() as ws:
        one, two = (ws.drafts.create(NewDraft(prompt=f"Do {n}.")) for n in (1, 2))
        ws.drafts.edit(one.ulid, prompt="Do it better.")
        ws.approvals.approve(one.ulid, expect=ws.drafts.get(one.ulid).digest)
        ws.approvals.approve(two.ulid)
        ws.approvals.revoke(two.ulid, "not needed")
        ws.governing.set_plan(b'id = "p"\ntitle = "P"\nstatus = "active"\n')
        policy = ws.governing.policy()[1]
        ws.governing.set_policy(policy.replace(b'max_staleness = ""', b'max_staleness = "7d"'))
    shutil.rmtree(site.home.environ["XDG_STATE_HOME"])
    with site.ws() as ws:
        kinds = [decision.kind for decision in ws.approvals.log()]
        assert kinds == ["policy", "plan", "revoke", "approve", "approve", "init"]
        found, data = ws.approvals.get(one.ulid)
        blob = b"blob %d\0" % len(data) + data
        assert hashlib.sha1(blob, usedforsecurity=False).hexdigest() == found.decision.blob
    site.fsck()
