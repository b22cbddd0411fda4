"""The entry point of `opsctl`, `git-ops` and `python -m opsctl`. Imports nothing heavy before it knows what for."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from opsctl import __version__

        print(f"opsctl {__version__}")
        return
    from opsctl.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
