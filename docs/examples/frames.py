#!/usr/bin/env python3
"""Marks its frames for downbeat: frames.py [SOCKET [FRAMES]]. See docs/frames.md."""

import socket
import sys
import time
from contextlib import contextmanager


class Marks:
    """Sends marks to downbeat. Never waits, and nothing happens when nobody listens."""

    def __init__(self, path="/run/downbeat/frames.sock"):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)

    def send(self, *lines):
        try:
            self.socket.sendto("\n".join(lines).encode("ascii"), self.path)
        except OSError:
            pass  # A frame is worth more than its mark.

    @contextmanager
    def frame(self, name, deadline_ns=None):
        """Marks the frame `name` around a `with` block."""
        deadline = [] if deadline_ns is None else [f"DEADLINE_NS={deadline_ns}"]
        self.send(*deadline, f"FRAME_BEGIN={name}")
        try:
            yield
        finally:
            self.send(f"FRAME_END={name}")


def main():
    marks = Marks(*sys.argv[1:2])
    frames = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    for number in range(frames):
        with marks.frame(str(number), deadline_ns=10_000_000):
            time.sleep(0.002)  # The work of a frame.
        time.sleep(0.018)


if __name__ == "__main__":
    main()
