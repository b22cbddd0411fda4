"""Talking to a remote through git alone: credential helpers, ssh settings and proxies work as the user set them.

A repository's own settings that would send the talk elsewhere are refused, so that nobody wonders; that they do
nothing is the work of the line. What a remote sends is checked and bounded.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opsctl.errors import OpsError
from opsctl.git.command import Setting, failed
from opsctl.git.line import Line

_NOT_FROM_A_REPOSITORY = re.compile(
    r"core\.(sshcommand|gitproxy)|credential\..*|remote\..*\.(vcs|uploadpack|receivepack|proxy)|url\..*|"
    r"http\.(?!(.*\.)?(postbuffer|lowspeed\w+|version|extraheader|sslverify|sslcainfo|maxrequests)$).*",
    re.DOTALL,
)
"""Settings that run a program, write a file, or send the talk elsewhere; only the user's own configuration may."""

_TRANSPORT = re.compile(r"[a-z][a-z0-9+.-]*://|[A-Za-z0-9._@-]+:(?!:)|/|\.{1,2}/|~|[^:]*$")
_PUSH_OPTIONS = (
    "--atomic",
    "--porcelain",
    "--no-verify",
    "--no-signed",
    "--no-follow-tags",
    "--recurse-submodules=no",
    "--receive-pack=git-receive-pack",
)
_STAY = "http.followRedirects=false"
"""Git 2.39 sends the first host's password on to the second, once it has it and is not asked again (RM-17)."""

_FETCH_OPTIONS = (
    *("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"),
    *("--refmap=", "--upload-pack=git-upload-pack"),
)
_FETCH_GUARDS = (
    _STAY,
    "fetch.fsckObjects=true",
    "transfer.fsckObjects=true",
    "fetch.unpackLimit=1",
    "fetch.writeCommitGraph=false",
)
_PUSH_GUARDS = (_STAY, "push.followTags=false", "push.pushOption=")
_GOT = "refs/got/"
_SCHEMES = ("https://", "http://", "ssh://", "git://", "file://", "git+ssh://")


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote by name and address."""

    name: str
    url: str
    push_url: str


@dataclass(frozen=True, slots=True)
class Push:
    """One ref to push: the local commit (None: delete), and what the remote is known to have (None: nothing)."""

    ref: str
    new: str | None
    known: str | None


def choose(settings: Sequence[Setting], name: str | None) -> Remote:
    """The remote: the one named, else `opsctl.remote`, else origin, else the only one. Raises `unsafe_remote`."""
    _refuse_programs(settings)
    values: dict[str, list[str]] = {}
    for setting in settings:
        if setting.key.startswith("remote.") and setting.key.endswith((".url", ".pushurl")):
            values.setdefault(setting.key, []).append(setting.value)
    names = [key.removeprefix("remote.").removesuffix(".url") for key in values if key.endswith(".url")]
    default = [setting.value for setting in settings if setting.key == "opsctl.remote"][-1:]
    wanted = name or (default[0] if default else None) or ("origin" if "origin" in names else None)
    if wanted is None and len(names) == 1:
        wanted = names[0]
    if wanted is None or wanted not in names:
        known = ", ".join(names) or "none"
        raise OpsError("bad_input", f"no remote {wanted or ''!a}; known: {known}", hint="git remote add origin URL")
    url = _checked(values[f"remote.{wanted}.url"][0])
    return Remote(wanted, url, _checked(values.get(f"remote.{wanted}.pushurl", [url])[0]))


def _refuse_programs(settings: Sequence[Setting]) -> None:
    for setting in settings:
        if not setting.is_own and _NOT_FROM_A_REPOSITORY.fullmatch(setting.key):
            hint = f"if you want it, set it in your own configuration: git config --global {shlex.quote(setting.key)} …"
            message = (
                f"the repository's own configuration sets {setting.key}, which could run a program or write a file"
            )
            raise OpsError("unsafe_remote", message, hint=hint)


def _checked(url: str) -> str:
    """The address, if it names a transport that runs nothing but git, ssh or http."""
    scheme_is_known = "://" not in url or url.startswith(_SCHEMES)
    host = url.split("://", 1)[-1]
    if url.startswith("-") or "::" in url.split("/")[0] or host.startswith("-") or not scheme_is_known:
        hint = "use https://, ssh://, user@host:path or a path"
        raise OpsError(
            "unsafe_remote", f"the remote's address {_masked(url)[:80]!a} is not one that is used here", hint=hint
        )
    if re.search(r"[\x00-\x1f\x7f]", url) or not _TRANSPORT.match(url) or "@-" in url:
        raise OpsError(
            "unsafe_remote", f"the remote's address {_masked(url)[:80]!a} cannot be used", hint="git remote -v"
        )
    return url


def fetch(line: Line, remote: Remote, prefixes: Sequence[str], have: Iterable[str]) -> dict[str, str]:
    """Fetch the refs whose names begin so; returns them as the remote names them. None of them is a ref here.

    `have` are commits that need not be sent. Raises `remote_failed`, `not_adopted`.
    """
    line.has(have)
    specs = [f"+{prefix}*:{_GOT}{prefix}*" for prefix in prefixes]
    status, _, stderr = line.run(["fetch", *_FETCH_OPTIONS, "--", remote.url, *specs], guards=_FETCH_GUARDS)
    if status != 0:
        error = failed("fetch", stderr)
        code = "not_adopted" if b"fsck" in stderr or b"error in" in stderr else "remote_failed"
        hint = f"git fetch {shlex.quote(remote.name)}"
        raise OpsError(code, f"{remote.name} could not be fetched", cause=_masked(error.cause or ""), hint=hint)
    return {name.removeprefix(_GOT): oid for name, oid in line.refs(_GOT).items()}


def push(line: Line, remote: Remote, pushes: Sequence[Push]) -> str | None:
    """Push all refs or none. Returns None when the remote took them, else why it did not, in one line.

    Raises `remote_failed` when it could not be reached.
    """
    leases = [f"--force-with-lease={one.ref}:{one.known or ''}" for one in pushes]
    specs = [f"{one.new or ''}:{one.ref}" for one in pushes]
    arguments = ["push", *_PUSH_OPTIONS, *leases, "--", remote.push_url, *specs]
    status, stdout, stderr = line.run(arguments, guards=_PUSH_GUARDS)
    if status == 0:
        return None
    refused = [row for row in stdout.decode("utf-8", "replace").splitlines() if row.startswith("!")]
    said = [row for row in stderr.decode("utf-8", "replace").splitlines() if row.startswith("remote:")]
    if refused or said or b"atomic" in stderr:
        lines = [row.split("\t")[-1] for row in refused if "atomic push failed" not in row]
        return "; ".join([*lines[:3], *said[:3]]) or failed("push", stderr).cause or "the push was refused"
    cause = _masked(failed("push", stderr).cause or "")
    raise OpsError("remote_failed", f"{remote.name} could not be reached", cause=cause, hint="run `opsctl sync` again")


def _masked(text: str) -> str:
    """Without the name and password that an address may hold."""
    return re.sub(r"(^|://)[^/\s]*@", r"\1…@", text)


def is_local(remote: Remote) -> Path | None:
    """The folder of a remote that is a plain path on this machine."""
    path = remote.url.removeprefix("file://")
    return Path(path) if os.path.isabs(path) and os.path.isdir(path) else None
