"""llama.cpp's own server around the tiny model, in a process of its own, on a port that the system chooses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def serve(model: str, key: str) -> None:
    """Serve until the standard input ends; the address goes to the standard output."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"tiny-random"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_ctx, params.n_predict, params.n_parallel = 1024, 64, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.sampling.seed = 20
    server = xllamacpp.Server(params)
    print(f"\nLISTENING {server.listening_address}", flush=True)
    sys.stdin.read()


@contextmanager
def running(model: Path, key: str) -> Iterator[str]:
    """A server; what comes out is its origin."""
    with subprocess.Popen(
        [sys.executable, __file__, str(model), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("LISTENING "):
                    yield line.split()[1].rstrip("/")
                    return
            raise AssertionError("the model server did not start")
        finally:
            process.kill()


if __name__ == "__main__":
    serve(*sys.argv[1:])
