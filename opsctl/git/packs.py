"""All packs of some object folders: which one has an object. A pack that cannot be used hides no other."""

from __future__ import annotations

import os
from collections.abc import Sequence

from opsctl.git.loose import out_of_reach
from opsctl.git.packed import Pack
from opsctl.git.packindex import BrokenPack

_FEW = 4
_OPEN = 32
"""Packs that are held open at once."""


class Packs:
    """Looked for when first asked, the newest first, and again when an object is missing: a gc may have moved it."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders
        self._packs: dict[str, Pack | None] = {}
        self._order: list[str] | None = None
        self.faults: dict[str, str] = {}
        """What is wrong with packed objects, by id, and with whole packs."""

    @property
    def are_few(self) -> bool:
        """True if asking all of them costs less than a look at the disk."""
        if self._order is None:
            self.refresh()
        return len(self._order or ()) <= _FEW

    def has(self, oid: str) -> bool:
        """True if a pack names the object; says nothing about its content."""
        name = bytes.fromhex(oid)
        return any(pack and pack.find(name) for pack in map(self._pack, self._stems()))

    def read(self, oid: str, limit: int) -> tuple[str, bytes] | None:
        """Kind and content of a packed object, or None where no pack has it whole. Raises `too_large`, `disk`."""
        name = bytes.fromhex(oid)
        for stem in self._stems():
            pack = self._pack(stem)
            offset = pack.find(name) if pack else 0
            if not pack or not offset:
                continue
            try:
                found = pack.read(oid, offset, limit)
            except FileNotFoundError:
                continue
            except BrokenPack as error:
                self.faults[oid] = str(error)
            except OSError as error:
                raise out_of_reach(oid, error) from None
            else:
                self._prefer(stem)
                return found
        return None

    def refresh(self) -> None:
        """Look for packs anew; one that was open may have gone, or have another content under its name."""
        self._packs.clear()
        self._order = [stem for folder in self._folders for stem in _stems(folder)]

    def _stems(self) -> list[str]:
        if self._order is None:
            self.refresh()
        return self._order or []

    def _pack(self, stem: str) -> Pack | None:
        return self._packs[stem] if stem in self._packs else self._opened(stem)

    def _opened(self, stem: str) -> Pack | None:
        try:
            pack = Pack(stem)
        except FileNotFoundError:
            return None
        except (BrokenPack, ValueError) as error:
            self.faults[stem] = f"{os.path.basename(stem)}.idx: {error}"
            pack = None
        except OSError as error:
            raise out_of_reach(f"index {os.path.basename(stem)}", error) from None
        self._packs[stem] = pack
        return pack

    def _prefer(self, stem: str) -> None:
        """Ask this one first next time; close the one that was asked for longest ago, if many are open."""
        order = self._stems()
        if order[0] == stem:
            return
        order.remove(stem)
        order.insert(0, stem)
        opened = [pack for stem in order if (pack := self._packs.get(stem)) and pack.is_open]
        for pack in opened[_OPEN:]:
            pack.close()


def _stems(folder: str) -> list[str]:
    """The packs of one folder without their endings, newest first."""
    try:
        found = [f"{folder}/pack/{name[:-4]}" for name in os.listdir(f"{folder}/pack") if name.endswith(".idx")]
    except OSError:
        return []
    return found if len(found) < 2 else sorted(found, key=_made_at, reverse=True)


def _made_at(stem: str) -> float:
    try:
        return os.stat(f"{stem}.idx").st_mtime
    except OSError:
        return 0.0
