"""The command line. This module runs first, so it imports only what is there already."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

SIGNALLED = 128  # plus the signal: what a shell reports for a program that a signal ended
INTERRUPTED = SIGNALLED + signal.SIGINT


def main() -> None:
    """Run the `qtool` program."""
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # an old terminal need not know every character of a name
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    from qtool.cli.main import qtool

    qtool.main()


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Answer Ctrl-C and kill: as Python does Ctrl-C, but inside an import end at once.

    A KeyboardInterrupt in the middle of an import would reach the user as whatever numpy or
    onnxruntime make of it, and while importing there is nothing to clean up.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"error: interrupted; nothing was written\n")
            os._exit(SIGNALLED + signum)
        frame = frame.f_back
    raise KeyboardInterrupt(signum)
