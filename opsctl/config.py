"""The user's own folders: trust pins, what was seen. Never read from a repository. Imports errors and toml.

`$XDG_CONFIG_HOME/opsctl/trust.toml` holds one row a clone; `$XDG_STATE_HOME/opsctl/<root>-<clone>/` what this machine
verified there. Both are outside every repository, so a clone that arrives in an archive brings no beliefs along.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opsctl import toml
from opsctl.errors import OpsError


@dataclass(frozen=True, slots=True)
class Places:
    """The three folders."""

    config: Path
    state: Path
    cache: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Places:
        """From XDG variables (absolute paths only, as that specification asks) and HOME. Raises `bad_config`.

        Without a home in the user database `~` stays as it is: a folder that a repository may bring along.
        """
        home = Path(environ.get("HOME") or os.path.expanduser("~"))
        if not home.is_absolute():
            message = f"your home folder is {os.fspath(home)[:80]!a}, which is no absolute path"
            raise OpsError("bad_config", message, hint="set HOME to the absolute path of your home folder")
        return cls(
            _xdg(environ, "XDG_CONFIG_HOME", home / ".config") / "opsctl",
            _xdg(environ, "XDG_STATE_HOME", home / ".local" / "state") / "opsctl",
            _xdg(environ, "XDG_CACHE_HOME", home / ".cache") / "opsctl",
        )

    def memory(self, root: str, common: Path) -> Path:
        """The folder of what was verified for one root in one clone."""
        return self.state / f"{root[:16]}-{_clone(common)}"

    def spent(self, root: str) -> Path:
        """The file of how often items of one root were run, by all its clones on this machine."""
        return self.state / f"spent-{root[:16]}.sqlite"

    def clones(self, common: Path) -> Path:
        """The folder in which the runs of one clone work."""
        return self.cache / "runs" / _clone(common)

    def memories(self, common: Path) -> list[Path]:
        """The folders of one clone, whatever its root."""
        return sorted(self.state.glob(f"*-{_clone(common)}"))


def _clone(common: Path) -> str:
    return hashlib.sha256(os.fsencode(common)).hexdigest()[:16]


def _xdg(environ: Mapping[str, str], name: str, default: Path) -> Path:
    value = environ.get(name, "")
    return Path(value) if os.path.isabs(value) else default


@dataclass(frozen=True, slots=True)
class Pin:
    """The root that one clone trusts, and the signing key that `init --key` chose for it, if any."""

    clone: str
    root: str
    key: str | None = None


class Pins:
    """`trust.toml`."""

    def __init__(self, places: Places) -> None:
        self.path = places.config / "trust.toml"

    def find(self, common: Path) -> Pin | None:
        """The pin of a clone, by its absolute common directory. Raises `bad_config`."""
        return next((pin for pin in self._load() if pin.clone == _spelled(common)), None)

    def set(self, common: Path, root: str, key: str | None) -> None:
        """Pin a root for a clone, in place of an earlier pin of the same clone. Raises `disk`."""
        try:
            with _locked(self.path):
                rest = [pin for pin in self._load() if pin.clone != _spelled(common)]
                rows = [*rest, Pin(_spelled(common), root, key)]
                write_file(self.path, "\n".join(_format(pin) for pin in rows).encode())
        except OSError as error:
            hint = "make room, or mend the permissions of your configuration folder"
            raise OpsError("disk", f"{self.path} could not be written", cause=str(error), hint=hint) from None

    def _load(self) -> list[Pin]:
        try:
            table = toml.loads(self.path.read_text(encoding="utf-8"))
            return [_pin(row) for row in table.get("clone", [])]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "mend the file, or move it away and pin again with `opsctl trust`"
            raise OpsError("bad_config", f"{self.path} cannot be used", cause=str(error), hint=hint) from None


def _pin(row: dict[str, Any]) -> Pin:
    pin = Pin(row["path"], row["root"], row.get("key"))
    if not all(isinstance(value, str) for value in (pin.clone, pin.root, pin.key or "")) or not is_root(pin.root):
        raise ValueError("a [[clone]] needs a path and the 40 hex digits of a root")
    return pin


def is_root(text: str) -> bool:
    """True for the full id of a commit."""
    return re.fullmatch(r"[0-9a-f]{40}", text) is not None


def _spelled(path: Path) -> str:
    """A path as TOML can hold it; one that is not UTF-8 is spelled in hex."""
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "hex:" + raw.hex()


def _format(pin: Pin) -> str:
    key = f"key = {json.dumps(pin.key)}\n" if pin.key else ""
    return f'[[clone]]\npath = {json.dumps(pin.clone, ensure_ascii=False)}\nroot = "{pin.root}"\n{key}'


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest tip that verified in this clone. `moving_to` is set while `sync` replaces unpublished decisions."""

    root: str
    tip: str
    count: int
    moving_to: str | None = None
    at: str | None = None
    """When a remote last brought or confirmed something, UTC."""

    published: str | None = None
    """The newest tip that a remote is known to have had; nothing before it is ever signed again."""


class Memory:
    """The high-water mark of one clone: `seen.json`. Losing it loses only the protection against a way back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "seen.json"

    def load(self) -> Seen | None:
        """The mark, or None where nothing was verified yet. Raises `bad_config`."""
        try:
            return Seen(**json.loads(self._path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError) as error:
            hint = f"if you know why: rm {shlex.quote(str(self._path))}; the history is then verified anew"
            raise OpsError("bad_config", f"{self._path} cannot be used", cause=str(error), hint=hint) from None

    def change(self, change: Callable[[Seen | None], Seen | None]) -> None:
        """Read, change, write, with no other process in between; a change to None or the same writes nothing."""
        try:
            with _locked(self._path):
                before = self.load()
                after = change(before)
                if after is not None and after != before:
                    write_file(self._path, json.dumps(_row(after)).encode())
        except OSError as error:
            raise OpsError("disk", f"{self._path} could not be written", cause=str(error)) from None

    def raise_to(self, mark: Seen) -> None:
        """Move the mark forward; never back."""
        self.change(lambda now: mark if now is None or mark.count > now.count else None)

    def begin_move(self, mark: Seen, to: str) -> None:
        """Note that the tip is about to be replaced by `to`, knowingly."""
        self.change(lambda now: replace(now or mark, moving_to=to))

    def neighbours(self) -> Iterator[Seen]:
        """The marks of other clones of the same root on this machine."""
        prefix = self.folder.name.split("-")[0]
        for folder in sorted(self.folder.parent.glob(f"{prefix}-*")):
            if folder != self.folder and (mark := Memory(folder)._readable()):
                yield mark

    def _readable(self) -> Seen | None:
        try:
            return self.load()
        except OpsError:
            return None


def _row(mark: Seen) -> dict[str, object]:
    return {name: getattr(mark, name) for name in Seen.__slots__}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file so that a crash leaves the old or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
