"""`python -m tests.bench`: measure and print the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from opsctl.git.repo import library_versions
from tests.bench.cases import CASES, Unmeasured
from tests.bench.lab import Lab
from tests.bench.measure import Plan, Row, table


def main() -> int:
    """Exit 0 if everything was measured, whether the targets were met or not; the table says that."""
    options = _parser().parse_args()
    plan = Plan(sorted(set(options.sizes)), options.repeat)
    started, rows, missing = time.monotonic(), [], []
    with Lab(options.keep, _say) as lab:
        for name in options.only or CASES:
            _say(f"measuring {name}")
            try:
                rows += CASES[name](lab, plan)
            except Unmeasured as reason:
                missing.append(f"{name}: {reason}")
    facts = _facts() | {"seconds": round(time.monotonic() - started, 1)}
    if options.json:
        print(json.dumps({"machine": facts, "rows": [row.for_json() for row in rows], "missing": missing}, indent=1))
    else:
        _print(facts, rows, missing)
    return 1 if missing else 0


def _print(facts: dict[str, object], rows: list[Row], missing: list[str]) -> None:
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("Medians of wall time, both sides taking turns.\n")
    print(table(rows))
    for line in missing:
        print(f"not measured: {line}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print everything that was measured as JSON")
    parser.add_argument("--sizes", type=_sizes, default=[1_000, 10_000, 100_000], help="approved items: 1k,10k,100k")
    parser.add_argument("--only", action="append", choices=list(CASES), help="one case; may be given again")
    parser.add_argument("--repeat", type=int, help="turns of each side, in place of what each case thinks right")
    parser.add_argument("--keep", type=Path, default=_default_keep(), help="where built repositories are kept")
    return parser


def _sizes(text: str) -> list[int]:
    sizes = [int(part[:-1]) * 1000 if part.endswith("k") else int(part) for part in text.split(",")]
    if min(sizes) < 1:
        raise ValueError("a size is at least 1")
    return sizes


def _default_keep() -> Path:
    return Path(tempfile.gettempdir()) / f"opsctl-bench-{os.getuid()}"


def _facts() -> dict[str, object]:
    git = subprocess.run(["git", "version"], capture_output=True, text=True, check=True).stdout.split()[2]
    load = f"{os.getloadavg()[0]:.1f}"
    return {
        "python": platform.python_version(),
        "git": git,
        **library_versions(),
        "cores": os.cpu_count(),
        "load": load,
    }


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
