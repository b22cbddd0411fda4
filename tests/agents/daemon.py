"""Leaves its parent by a double fork in a session of its own, ignores what can be ignored, and sleeps."""

import os
import signal
import sys
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if "--silent" in sys.argv:
            os.closerange(0, 64)
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
