"""Which providers answer, and which local model server there is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait

from opsctl.config import Places
from opsctl.errors import OpsError
from opsctl.providers import connect
from opsctl.providers.port import Health, ProviderSettings
from opsctl.providers.settings import DEFAULT, ProviderFile, load, path_of, save

LOCAL = ("local_ollama", "lm_studio", "llama_cpp")
"""Entries of the first file that name a server of this machine, in the order in which they are preferred."""


def check_all(places: Places, environ: Mapping[str, str], name: str | None, *, deadline_s: float) -> dict[str, Health]:
    """The health of every provider (or of one), side by side, within the deadline. Raises `no_provider`, `bad_config`."""
    file = load(places)
    if name is not None or not (file.providers or file.faults):
        file.get(name)
    wanted = [settings for settings in file.providers.values() if name in (None, settings.name)]
    found = {one: Health(False, 0.0, None, fault.message) for one, fault in file.faults.items() if name is None}
    begun = time.monotonic()
    pool = ThreadPoolExecutor(max_workers=max(1, len(wanted)))
    running = {pool.submit(_health, settings, environ, deadline_s): settings for settings in wanted}
    done, _ = wait(running, timeout=deadline_s)
    pool.shutdown(wait=False, cancel_futures=True)
    for future, settings in running.items():
        late = Health(False, time.monotonic() - begun, None, "it did not answer in time")
        found[settings.name] = future.result() if future in done else late
    return {one: found[one] for one in file.table["providers"] if one in found}


def _health(settings: ProviderSettings, environ: Mapping[str, str], deadline_s: float) -> Health:
    try:
        return connect(settings, environ).health(deadline_s)
    except OpsError as fault:
        return Health(False, 0.0, None, fault.message)


def begin(places: Places, environ: Mapping[str, str]) -> tuple[ProviderFile, list[str]]:
    """Write the first file, with the local server that answers as the active one. An existing file stays as it is."""
    path = path_of(places)
    if path.exists():
        return load(places), [f"{path} is there already; it was not changed"]
    save(places, DEFAULT)
    said = []
    for name, health in check_all(places, environ, None, deadline_s=2.0).items():
        if name in LOCAL and health.ok:
            said.append(f"{name} answers")
    answering = [name for name in LOCAL if f"{name} answers" in said]
    if answering:
        save(places, {**DEFAULT, "active": answering[0]})
    return load(places), said or ["no local model server answers on its usual port"]
