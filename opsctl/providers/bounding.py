"""An iterator that ends in time, whatever it hangs in: it runs in a thread that keeps no process alive."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from opsctl.errors import OpsError
from opsctl.providers.failure import Failed, translated

T = TypeVar("T")


class _Last:
    """The end of a stream, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def bounded(start: Callable[[], Iterator[T]], end: float, cut: Callable[[], None]) -> Iterator[T]:
    """What an iterator yields, until the deadline; then `Failed`. `cut` has to make the iterator end soon.

    Raises `Failed`, or an `OpsError` that the iterator raised.
    """
    box: queue.Queue[T | _Last] = queue.Queue(maxsize=8)
    gone = threading.Event()

    def put(item: T | _Last) -> None:
        while not gone.is_set():
            try:
                box.put(item, timeout=0.2)
                break
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in start():
                put(item)
                if gone.is_set():
                    return
            put(_Last(None))
        except BaseException as error:  # it is raised again by the one who waits
            put(_Last(error))

    try:
        threading.Thread(target=work, name="opsctl-provider", daemon=True).start()
    except RuntimeError:
        raise OpsError("no_memory", "this process may start no more threads") from None
    try:
        while True:
            try:
                item = box.get(timeout=max(0.001, end - time.monotonic()))
            except queue.Empty:
                item = _Last(Failed("provider_offline", "no whole answer came in time"))
            if isinstance(item, _Last):
                if item.error:
                    raise translated(item.error) from None
                return
            if time.monotonic() > end:
                raise Failed("provider_offline", "no whole answer came in time")
            yield item
    finally:
        gone.set()
        cut()
