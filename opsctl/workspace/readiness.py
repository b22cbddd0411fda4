"""Whether this machine can carry a run out at all. It is asked before a run is made, so that none is used up."""

from __future__ import annotations

from pathlib import Path

from opsctl.executors.clone import PrivateClone
from opsctl.executors.sandbox import walled
from opsctl.providers import connect
from opsctl.providers import settings as providers
from opsctl.runners import load
from opsctl.runterms import Terms
from opsctl.workspace.base import Base


def check(base: Base, terms: Terms, sandbox: bool | None) -> None:
    """Raises `no_runner`, `no_sandbox`, `network_refused`, `no_provider`, `bad_config`."""
    if terms.executor == "exec":
        clone = PrivateClone(Path("/nonexistent"), base.repo.common, "work", {})  # nothing is made of it
        runner = load(base.places).get(terms.runner)
        walled(runner, base.environ, base.places, clone, asked=sandbox, network=terms.network)
    elif terms.executor == "provider":
        connect(providers.load(base.places).get(None), base.environ)
