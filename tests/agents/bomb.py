"""Forks without end but within a bound: every process starts another one and goes, at most so many seconds long."""

import os
import signal
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end = time.monotonic() + 10
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < end:
            time.sleep(0.02)
            if os.fork():
                os._exit(0)
        os._exit(0)
print("bomb", flush=True)
time.sleep(0.3 if "--ends" in sys.argv else 60)
