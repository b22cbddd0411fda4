"""Which providers answer, and which local model server there is."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterable, Mapping

from opsctl.config import Places
from opsctl.errors import OpsError
from opsctl.providers import connect
from opsctl.providers.port import Health, ProviderSettings
from opsctl.providers.settings import DEFAULT, ProviderFile, load, path_of, save, written

CHECK_S = 4.5
"""Seconds for all of `provider check`, whose promise is five."""

LOCAL = ("local_ollama", "lm_studio", "llama_cpp")
"""Entries of the first file that name a server of this machine, in the order in which they are preferred."""


def check_all(
    places: Places, environ: Mapping[str, str], name: str | None, *, deadline_s: float = CHECK_S
) -> dict[str, Health]:
    """The health of every provider (or of one), side by side, in time. Raises `no_provider`, `bad_config`."""
    file = load(places)
    if name is not None or not (file.providers or file.faults):
        file.get(name)
    wanted = [settings for settings in file.providers.values() if name in (None, settings.name)]
    found = {one: Health(False, 0.0, None, fault.message) for one, fault in file.faults.items() if name is None}
    found |= _side_by_side(wanted, environ, deadline_s)
    return {one: found[one] for one in file.table["providers"] if one in found}


def _side_by_side(
    wanted: Iterable[ProviderSettings], environ: Mapping[str, str], deadline_s: float
) -> dict[str, Health]:
    """Each in a thread that keeps no process alive."""
    end = time.monotonic() + deadline_s
    found = {one.name: Health(False, deadline_s, None, "it did not answer in time") for one in wanted}
    answers: dict[str, Health] = {}

    def ask(settings: ProviderSettings) -> None:
        try:
            answers[settings.name] = connect(settings, environ).health(max(0.1, end - time.monotonic()))
        except OpsError as fault:
            answers[settings.name] = Health(False, 0.0, None, fault.message)

    threads = [threading.Thread(target=ask, args=(one,), daemon=True) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end + 0.2 - time.monotonic()))
    return found | answers.copy()


def begin(places: Places, environ: Mapping[str, str]) -> tuple[ProviderFile, list[str]]:
    """Write the first file; the local server that answers is the active one, with a model that it has.

    An existing file stays as it is. No vendor is asked, so no key leaves the machine.
    """
    path = path_of(places)
    if path.exists() or path.is_symlink():
        return load(places), [f"{path} is there already; it was not changed"]
    save(places, written(DEFAULT))
    file, table, said = load(places), copy.deepcopy(DEFAULT), list[str]()
    healths = _side_by_side([file.providers[name] for name in LOCAL], environ, 2.0)
    answering = [name for name in LOCAL if healths[name].ok]
    for name in answering:
        health = healths[name]
        if not health.model and health.models:
            table["providers"][name]["model"] = health.models[0]
        said.append(f"{name} answers; its model: {table['providers'][name]['model']}")
    if answering:
        save(places, written({**table, "active": answering[0]}))
    return load(places), said or ["no local model server answers on its usual port"]
