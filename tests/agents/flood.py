"""Prints as many bytes as it is told to, in lines of many sizes, then one last line."""

import os
import sys

size = int(sys.argv[1])
block = (b"a line of ordinary length that an agent might print\n" * 400 + b"x" * 9000 + b"\n") * 20
while size > 0:
    size -= os.write(1, block[:size])
print("\nthe end")
