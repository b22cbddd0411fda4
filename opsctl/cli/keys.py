"""Single key presses from a terminal, and a pager that needs no other program."""

from __future__ import annotations

import os
import shutil
import sys
import termios
import tty
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def _one_at_a_time() -> Iterator[int]:
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def press() -> str:
    """The next key. Escape sequences (arrows) come as one string; end of input is an empty one."""
    with _one_at_a_time() as descriptor:
        return os.read(descriptor, 16).decode("utf-8", "replace")


def page(lines: Iterable[str]) -> bool:
    """Print lines, stopping at each full screen. False if the person left before the end was shown."""
    height = max(5, shutil.get_terminal_size().lines - 2)
    width = max(20, shutil.get_terminal_size().columns)
    shown = 0
    for line in lines:
        rows = 1 + len(line) // width
        if shown + rows > height and shown:
            if not _more():
                return False
            shown = 0
        print(line)
        shown += rows
    return True


def _more() -> bool:
    sys.stdout.write("-- space: more, q: enough --")
    sys.stdout.flush()
    key = press()
    sys.stdout.write("\r\x1b[K" if os.environ.get("TERM") != "dumb" else "\n")
    return key not in ("q", "Q", "\x1b", "")
