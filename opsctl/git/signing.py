"""Signing as git does it: the user's `gpg.ssh.program`, else ssh-agent, else `ssh-keygen -Y sign` with a key file.

A program that the repository's own configuration names is never run. The environment of the signer is small, its
time is bounded, and a passphrase is asked once for each command.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opsctl import sshsig
from opsctl.errors import OpsError
from opsctl.git.command import Setting, expanded, program
from opsctl.sshsig import PublicKey, SignatureFormatError

AGENT_S = 3.0
"""An agent that does not list its keys by then is taken for absent."""

MACHINE_S = 5.0
"""Seconds for a signature where nobody is at a terminal."""

PERSON_S = 90.0
"""Seconds for a signature where a person may have to type a passphrase or touch a key."""

_KEPT = ("HOME", "SSH_AUTH_SOCK", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "LANG", "TERM", "SSH_SK_PROVIDER")
_SIGN = ("-Y", "sign", "-n", "git")
_MAKE = "ssh-keygen -t ed25519 -f ~/.ssh/id_ed25519 && git config --global user.signingkey ~/.ssh/id_ed25519.pub"


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that can sign: its public part, and its file (None: only an agent has it)."""

    key: PublicKey
    path: Path | None
    source: str
    is_own: bool = True
    """False if the repository's own configuration names it."""


class Signer:
    """Signs payloads with one identity. Use as a context: what it started for a passphrase ends with it."""

    def __init__(
        self, identity: Identity, settings: Sequence[Setting], environ: Mapping[str, str], *, interactive: bool
    ) -> None:
        self.identity = identity
        self._environ = environ
        self._program = _own(settings, "gpg.ssh.program")
        self._timeout_s = _timeout(environ, interactive)
        self._interactive = interactive
        self._agent: str | None = None
        self._listed: bool | None = None
        self._closing = contextlib.ExitStack()

    @property
    def key(self) -> PublicKey:
        """The public key."""
        return self.identity.key

    def __enter__(self) -> Signer:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def sign(self, payload: bytes) -> bytes:
        """The armoured signature. Raises `signing_failed`, also when the signer does not answer in time."""
        if self._needs_passphrase() and not self._program:
            self._ask_once()
        if not self._program and self.identity.path and self._agent is None and not self._in_agent():
            return self._run(
                [program("ssh-keygen", self._environ), *_SIGN, "-f", os.fspath(self.identity.path)], payload
            )
        try:
            return self._with_folder(payload)
        except OSError as error:
            raise _failed("the temporary folder could not be used", str(error)) from None

    def _with_folder(self, payload: bytes) -> bytes:
        """Sign where the signer has to be given files."""
        with tempfile.TemporaryDirectory(prefix="opsctl-") as folder:
            options = self._key_options(Path(folder))
            if self._program:
                return self._by_program(self._program, Path(folder), options, payload)
            return self._run([program("ssh-keygen", self._environ), *_SIGN, *options], payload)

    def _by_program(self, name: str, folder: Path, options: list[str], payload: bytes) -> bytes:
        """As git calls it: the data in a file, the signature beside it."""
        buffer = folder / "data"
        buffer.write_bytes(payload)
        path = expanded(name, self._environ)
        command = [path if os.path.isabs(path) else program(name, self._environ)]
        command += [*_SIGN, *options, os.fspath(buffer)]
        self._run(command, b"")
        try:
            return (folder / "data.sig").read_bytes()
        except OSError as error:
            raise _failed(f"{name} wrote no signature", str(error)) from None

    def _key_options(self, folder: Path) -> list[str]:
        """The key file, or the public key with the request to use the agent."""
        if self.identity.path and self._agent is None and not self._in_agent():
            return ["-f", os.fspath(self.identity.path)]
        if self._agent is None and not self._in_agent():
            hint = "load it with ssh-add, or set user.signingkey to the file of its private key"
            raise OpsError("signing_failed", f"the ssh-agent does not have {self.key.fingerprint}", hint=hint)
        public = folder / "key.pub"
        public.write_text(self.key.line + "\n", encoding="ascii")
        return ["-U", "-f", os.fspath(public)]

    def _needs_passphrase(self) -> bool:
        path = self.identity.path
        return path is not None and self._agent is None and is_encrypted(path) and not self._in_agent()

    def _in_agent(self) -> bool:
        """True if the user's agent has the key; asked once, for an agent that hangs costs seconds."""
        if self._listed is None:
            self._listed = any(other.blob == self.key.blob for other in agent_keys(self._environ))
        return self._listed

    def _ask_once(self) -> None:
        """Start an agent of our own for the rest of the command and let ssh-add ask for the passphrase."""
        path = os.fspath(self.identity.path or "")
        if not self._interactive:
            hint = f"unlock it first: ssh-add {shlex.quote(path)}"
            raise OpsError("signing_failed", "the key has a passphrase and nobody is here to type it", hint=hint)
        self._agent = self._closing.enter_context(_private_agent(self._environ))
        done = subprocess.run([program("ssh-add", self._environ), "-q", path], env=self._environment(), check=False)
        if done.returncode != 0:
            raise _failed("the passphrase was not accepted", "ssh-add")

    def _run(self, command: list[str], stdin: bytes) -> bytes:
        if self._interactive and self.key.is_hardware:
            print("touch your security key…", file=sys.stderr)
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                timeout=self._timeout_s,
                env=self._environment(),
                check=False,
                start_new_session=not self._interactive,  # without a terminal nothing may find one to prompt on
            )
        except subprocess.TimeoutExpired:
            raise _failed(f"the signer did not answer in {self._timeout_s:g} s", command[0]) from None
        except OSError as error:
            raise _failed("the signer could not be started", str(error)) from None
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _failed("the signer failed", lines[-1][:300] if lines else f"exit {done.returncode}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = {name: self._environ[name] for name in _KEPT if name in self._environ}
        if self._interactive and "SSH_ASKPASS" in self._environ:
            kept["SSH_ASKPASS"] = self._environ["SSH_ASKPASS"]
        return kept | ({"SSH_AUTH_SOCK": self._agent} if self._agent else {})


def _timeout(environ: Mapping[str, str], interactive: bool) -> float:
    given = environ.get("OPSCTL_SIGN_TIMEOUT", "")
    if given and not (given.isascii() and given.isdecimal() and len(given) < 9 and 1 <= int(given) <= 3600):
        raise OpsError("bad_config", f"OPSCTL_SIGN_TIMEOUT={given[:40]!a} is not a number of seconds from 1 to 3600")
    return float(given) if given else PERSON_S if interactive else MACHINE_S


@contextlib.contextmanager
def _private_agent(environ: Mapping[str, str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="opsctl-agent-") as folder:
        socket = os.path.join(folder, "socket")
        command = [program("ssh-agent", environ), "-D", "-a", socket]
        agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(environ))
        try:
            for _ in range(200):
                if os.path.exists(socket):
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(0.01)
            yield socket
        finally:
            agent.terminate()
            agent.wait()


def _failed(message: str, cause: str) -> OpsError:
    hint = "check the key with: echo x | ssh-keygen -Y sign -n git -f KEY"
    return OpsError("signing_failed", message, cause=cause, hint=hint)


def identity(chosen: str | None, settings: Sequence[Setting], cwd: Path, environ: Mapping[str, str]) -> Identity:
    """The key to sign with: the one chosen, else git's `user.signingkey`, else the only usable key of the agent.

    Raises `no_signing_key` with the command that makes a key.
    """
    if chosen:
        return _from_setting(chosen, cwd, "chosen with --key", environ)
    values = [setting for setting in settings if setting.key == "user.signingkey"]
    formats = [setting.value for setting in settings if setting.key == "gpg.format"]
    if values and (formats[-1:] == ["ssh"] or _looks_like_ssh(values[-1].value)):
        found = _from_setting(values[-1].value, cwd, f"user.signingkey in {values[-1].origin}", environ)
        return replace(found, is_own=values[-1].is_own)
    keys = agent_keys(environ)
    if len(keys) == 1:
        return Identity(keys[0], None, "ssh-agent")
    if keys:
        hint = "choose one: git config --global user.signingkey 'key::ssh-ed25519 AAAA…'"
        raise OpsError("no_signing_key", f"the ssh-agent has {len(keys)} keys that could sign", hint=hint)
    cause = f"user.signingkey is {values[-1].value[:40]!a}, which is no SSH key" if values else None
    raise OpsError("no_signing_key", "no SSH key to sign with", cause=cause, hint=f"make one: {_MAKE}")


def _looks_like_ssh(value: str) -> bool:
    return value.startswith(("key::", "ssh-", "sk-", "ecdsa-", "/", "~", ".")) or value.endswith(".pub")


def _from_setting(value: str, cwd: Path, source: str, environ: Mapping[str, str]) -> Identity:
    """A path to a private or public key, `key::<public key>`, or a literal public key."""
    literal = value.removeprefix("key::")
    if literal.startswith(("ssh-", "sk-ssh-", "sk-ecdsa-", "ecdsa-sha2-")):
        return Identity(_public(literal, source), None, source)
    path = cwd / expanded(value, environ)
    private = path.with_suffix("") if path.suffix == ".pub" else path
    public = private.with_name(private.name + ".pub")
    try:
        line = public.read_text(encoding="utf-8") if public.is_file() else _derived(private, environ)
    except (OSError, UnicodeDecodeError) as error:
        hint = f"name an existing key, or make one: {_MAKE}"
        raise OpsError("no_signing_key", f"{value!a} cannot be read ({source})", cause=str(error), hint=hint) from None
    return Identity(_public(line, source), private if private.is_file() else None, source)


def _derived(private: Path, environ: Mapping[str, str]) -> str:
    if not private.is_file():
        raise FileNotFoundError(f"no such file: {private}")
    command = [program("ssh-keygen", environ), "-y", "-P", "", "-f", os.fspath(private)]
    env = dict(environ)
    done = subprocess.run(command, capture_output=True, timeout=AGENT_S, check=False, text=True, env=env)
    if done.returncode != 0:
        raise OSError(f"{private} is no private key without a passphrase, and {private}.pub is missing")
    return done.stdout


def _public(line: str, source: str) -> PublicKey:
    try:
        return sshsig.parse_public_key(line.strip())
    except SignatureFormatError as error:
        message = f"the key does not count ({source})"
        raise OpsError("no_signing_key", message, cause=str(error), hint=f"make one that does: {_MAKE}") from None


def agent_keys(environ: Mapping[str, str]) -> list[PublicKey]:
    """The keys of the user's ssh-agent that could sign; none when there is no agent, or it does not answer."""
    environment = {name: environ[name] for name in _KEPT if name in environ}
    if not environment.get("SSH_AUTH_SOCK"):
        return []
    command = [program("ssh-add", environ), "-L"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=AGENT_S, env=environment, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return []
    keys = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(SignatureFormatError):
            keys.append(sshsig.parse_public_key(line))
    return keys


def keys_at_home(environ: Mapping[str, str]) -> list[str]:
    """The public keys in ~/.ssh that could sign and have their private key beside them, as a person types them."""
    found = []
    for path in sorted(Path(expanded("~/.ssh", environ)).glob("*.pub")):
        with contextlib.suppress(OSError, UnicodeDecodeError, SignatureFormatError):
            if path.is_file() and path.with_suffix("").is_file() and path.stat().st_size < 16_384:
                sshsig.parse_public_key(path.read_text(encoding="utf-8").strip())
                found.append(f"~/.ssh/{shlex.quote(path.name)}")
    return found


def is_encrypted(path: Path) -> bool:
    """True if a private key file has a passphrase: the cipher stands in clear at its beginning."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        raw = base64.b64decode("".join(lines[1:3]) + "==")
    except (OSError, ValueError):
        return False
    magic = b"openssh-key-v1\0"
    if raw.startswith(magic):
        return raw[len(magic) :][4:8] != b"none"
    return any("ENCRYPTED" in line for line in lines[:3])


def generate(path: Path, comment: str, environ: Mapping[str, str], *, interactive: bool) -> Path:
    """Make an Ed25519 key, asking for a passphrase where a person can answer. An existing key is kept."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = [] if interactive else ["-N", ""]
    command = [program("ssh-keygen", environ), "-q", "-t", "ed25519", "-C", comment, "-f", os.fspath(path), *options]
    stdin = None if interactive else subprocess.DEVNULL
    done = subprocess.run(command, stdin=stdin, env=dict(environ), check=False)
    if done.returncode != 0:
        raise OpsError("no_signing_key", "ssh-keygen made no key", hint=f"make one yourself: {_MAKE}")
    return path


def _own(settings: Sequence[Setting], key: str) -> str | None:
    values = [setting.value for setting in settings if setting.key == key and setting.is_own]
    return values[-1] if values and values[-1] not in ("", "ssh-keygen") else None
