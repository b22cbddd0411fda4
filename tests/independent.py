"""A second verifier, with nothing but git and a pinned root: no line of opsctl, nothing but `git` asked about objects.

Usage: python tests/independent.py REPOSITORY ROOT TIP. It knows thresholds, votes, separation of duties and rules for
everybody; it does not read rules by path or executor, or whether a key was touched (git cannot tell).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib

TWO = {".opsctl/policy.toml", ".opsctl/allowed_signers"}
PATH = re.compile(r"ops/\d{4}/\d\d/\d\d/([0-7][0-9A-HJKMNP-TV-Z]{25})\.md")
ROLES = {"approve": {"approver"}, "revoke": {"approver", "policy", "auditor"}, "plan": {"approver", "policy"}}
ROLES |= {"policy": {"policy"}, "init": {"policy"}}
FORM = re.compile(r"tree \w{40}\n(parent \w{40}\n){0,2}author [^\n]*\ncommitter [^\n]*\ngpgsig [^\n]*(\n [^\n]*)*")


class Refused(Exception):
    """A commit that does not count, and why."""


class Verifier:
    """Judges the first parents of a tip, from a root."""

    def __init__(self, repository: str, root: str) -> None:
        self.repository, self.root = repository, root
        self.good: dict[str, set[str]] = {}  # the ids that were approved up to a commit that was judged good

    def git(self, *arguments: str, allowed: bytes = b"") -> tuple[int, bytes, str]:
        with tempfile.NamedTemporaryFile() as file:
            file.write(allowed)
            file.flush()
            settings = [
                f"gpg.ssh.allowedSignersFile={file.name}",
                "gpg.program=/bin/false",
                "gpg.x509.program=/bin/false",
            ]
            options = [part for setting in settings for part in ("-c", setting)]
            command = ["git", "-C", self.repository, "--no-replace-objects", *options, *arguments]
            done = subprocess.run(command, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr.decode()

    def read(self, *arguments: str) -> bytes:
        status, out, _ = self.git(*arguments)
        return out if status == 0 else self.no(f"git {' '.join(arguments)} failed")

    def no(self, why: str) -> bytes:
        raise Refused(why)

    def verify(self, tip: str) -> None:
        chain = self.read("rev-list", "--first-parent", "--reverse", tip).decode().split()
        if chain[0] != self.root:
            self.no("another root")
        for before, commit in zip(["", *chain], chain, strict=False):
            if commit not in self.good:
                ulid = self.judge(before, commit)
                self.good[commit] = self.good.get(before, set()) | ({ulid} if ulid else set())

    def judge(self, before: str, commit: str) -> str | None:
        raw = self.read("cat-file", "commit", commit)
        head, _, message = raw.decode().partition("\n\n")
        if b"\0" in raw or FORM.fullmatch(head) is None:
            self.no("form")
        parents, said = re.findall(r"^parent (\w+)$", head, re.M), self.trailers(message)
        kind, after, now = said.get("Ops-Kind", ""), self.files(commit), self.files(before)
        changed = {path for path in after.keys() | now.keys() if after.get(path) != now.get(path)}
        rules = self.policy(before or commit)
        who = self.signer(commit, before or commit)
        roles = next((set(p["roles"]) for p in rules["principal"] if p["name"] == who), set())
        if (
            kind not in ROLES
            or (kind == "init") == bool(before)
            or not roles & ROLES[kind]
            or said["Ops-Signer"] != who
        ):
            self.no(f"{who} may not {kind}, or says another name")
        if before and said.get("Ops-Repo") != self.root:
            self.no("another repository")
        if said.get("Ops-Epoch") != str(rules["epoch"] + (kind == "policy")) or (not before and rules["epoch"] != 1):
            self.no("epoch")
        if any(mode != "100644" for mode, _ in (after[path] for path in changed & after.keys())):
            self.no("mode")
        if kind in ("init", "policy"):
            return self.policy_change(commit, before, parents, changed, rules, who)
        if kind == "plan":
            return None if changed == {"plan.toml"} and len(parents) == 1 and "plan.toml" in after else self.no("plan")
        if (
            len(changed) != 1
            or (match := PATH.fullmatch(path := changed.pop())) is None
            or said.get("Ops-Id") != match[1]
        ):
            return self.no("not one item")
        mode, blob = (after if kind == "approve" else now).get(path, ("", ""))
        data = self.read("cat-file", "blob", blob) if blob else b""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if not blob or said.get("Ops-Digest") != digest or len(parents) != (2 if kind == "approve" else 1):
            self.no("digest or parents")
        if kind == "approve":
            if match[1] in self.good[before] or f'id = "d_{match[1]}"'.encode() not in data:
                self.no("an id returns, or the file says another")
            if self.files(parents[1]).get(path) != (mode, blob):
                self.no("not the text of the topic")
            named = {"Ops-Digest": digest, "Ops-Id": match[1]}
            needed = [
                rules.get("threshold", 1),
                *(r["threshold"] for r in rules.get("rule", []) if r.keys() <= {"threshold"}),
            ]
            self.people(before, parents[1], {path}, named, rules, who, "approver", max(needed))
        return match[1] if kind == "approve" else None

    def policy_change(
        self, commit: str, before: str, parents: list[str], changed: set[str], old: dict, who: str
    ) -> None:
        new = self.policy(commit)
        rows = [f'{p["name"]} namespaces="git" {key}\n' for p in new["principal"] for key in p["keys"]]
        if "".join(sorted(rows)).encode() != self.read("cat-file", "blob", f"{commit}:.opsctl/allowed_signers"):
            self.no("allowed_signers")
        if (
            not changed <= TWO
            or ".opsctl/policy.toml" not in changed
            or new["epoch"] != (old["epoch"] + 1 if before else 1)
        ):
            self.no("policy")
        every = [
            old.get("policy_threshold", 1),
            old.get("threshold", 1),
            *(r["threshold"] for r in old.get("rule", [])),
        ]
        if len(parents) != (0 if not before else 2 if max(every) > 1 else 1):
            self.no("parents of a policy")
        if len(parents) == 2:
            data = self.read("cat-file", "blob", f"{commit}:.opsctl/policy.toml")
            named = {"Ops-Digest": "sha256:" + hashlib.sha256(data).hexdigest()}
            if any(self.files(parents[1])[path] != self.files(commit)[path] for path in TWO):
                self.no("not the policy of the topic")
            self.people(before, parents[1], TWO, named, old, who, "policy", max(every))

    def people(
        self,
        before: str,
        tip: str,
        own: set[str],
        named: dict[str, str],
        rules: dict,
        closer: str,
        role: str,
        needed: int,
    ) -> None:
        """Judge the commits of a topic and count who stands behind it."""
        topic = self.read("rev-list", "--reverse", "--topo-order", tip, f"^{before}").decode().split() or self.no(
            "no topic"
        )
        policy = hashlib.sha256(self.read("cat-file", "blob", f"{before}:.opsctl/policy.toml")).hexdigest()
        named = named | {
            "Ops-Kind": "vote",
            "Ops-Repo": self.root,
            "Ops-Epoch": str(rules["epoch"]),
            "Ops-Policy": f"sha256:{policy}",
        }
        holders = {p["name"] for p in rules["principal"] if role in p["roles"]}
        above: dict[str, set[str]] = {}
        writes, votes, authors = set(), [], set()
        for oid in topic:
            head, _, message = self.read("cat-file", "commit", oid).decode().partition("\n\n")
            parents, files = re.findall(r"^parent (\w+)$", head, re.M), self.files(oid)
            above[oid] = {oid}.union(*(above.get(parent, set()) for parent in parents))
            changed = {
                p
                for one in parents
                for p in files.keys() ^ self.files(one).keys() or files
                if files.get(p) != self.files(one).get(p)
            }
            if not parents or not changed <= own or (len(parents) > 1 and (changed or not set(parents) <= set(topic))):
                self.no(f"topic commit {oid} does more than its own")
            if changed:
                writes.add(oid)
                if rules.get("separation_of_duties") and role == "approver":
                    authors.add(self.signer(oid, before))
            elif len(parents) == 1 and (vote := self.vote(oid, message, before, named, holders)):
                votes.append((oid, *vote))
        votes = [vote for vote in votes if writes <= above[vote[0]]]
        last = [v for v in votes if not any(o[1] == v[1] and o[0] != v[0] and v[0] in above[o[0]] for o in votes)]
        words = {name: {word for _, other, word in last if other == name} for _, name, _ in last} | {
            closer: {"approve"}
        }
        if rules.get("reject", "block") == "block" and any("reject" in word for word in words.values()):
            self.no("somebody is against it")
        if len({name for name, word in words.items() if word == {"approve"}} - authors) < needed:
            self.no("too few")

    def vote(
        self, oid: str, message: str, before: str, named: dict[str, str], holders: set[str]
    ) -> tuple[str, str] | None:
        """Who voted, and the word, if the vote names all that it must and plain git finds it signed by that person."""
        said = self.trailers(message, strict=False)
        who = said.get("Ops-Signer", "")
        fits = named.items() <= said.items() and ("Ops-Id" in said) == ("Ops-Id" in named) and "Ops-Seen" in said
        return (who, said.get("Ops-Vote", "")) if fits and who in holders and self.signed(oid, before) == who else None

    def signed(self, commit: str, before: str) -> str | None:
        """Whose signature plain git finds good with the signers of the commit before."""
        allowed = self.read("cat-file", "blob", f"{before}:.opsctl/allowed_signers")
        status, _, said = self.git("verify-commit", commit, allowed=allowed)
        match = re.match(r'Good "git" signature for (\S+) with ', said)
        return match[1] if match and status == 0 else None

    def signer(self, commit: str, before: str) -> str:
        return self.signed(commit, before) or str(self.no("no good signature"))

    def policy(self, commit: str) -> dict:
        return tomllib.loads(self.read("cat-file", "blob", f"{commit}:.opsctl/policy.toml").decode())

    def files(self, commit: str) -> dict[str, tuple[str, str]]:
        if not commit:
            return {}
        rows = [
            row.split(None, 3) for row in os.fsdecode(self.read("ls-tree", "-r", "-t", "-z", commit)).split("\0") if row
        ]
        files = {path: (mode, oid) for mode, kind, oid, path in rows if kind != "tree"}
        folders = {path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)}
        if len({row[3] for row in rows}) != len(rows) or folders != {
            path for _, kind, _, path in rows if kind == "tree"
        }:
            self.no("a name twice, or an empty folder")
        return files

    def trailers(self, message: str, *, strict: bool = True) -> dict[str, str]:
        last = re.split(r"\n[ \t]*\n", message.rstrip("\n"))[-1].split("\n")
        rows = [line.partition(": ") for line in last if line[:4].lower() == "ops-"]
        found = {name: value for name, _, value in rows}
        if len(found) != len(rows) or (
            strict and not all(re.fullmatch(r"Ops-[A-Z][A-Za-z-]*", name) for name in found)
        ):
            self.no("trailers")
        return found


if __name__ == "__main__":
    try:
        Verifier(sys.argv[1], sys.argv[2]).verify(sys.argv[3])
    except Refused as refused:
        sys.exit(f"refused: {refused}")
    print("every decision verifies")
