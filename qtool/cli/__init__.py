"""The command line. This module runs first, so it imports only what is there already."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def main() -> None:
    """Run the `qtool` program."""
    signal.signal(signal.SIGINT, interrupt)
    from qtool.cli.main import qtool

    qtool.main()


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Answer Ctrl-C: as Python does, but inside an import end the process at once.

    A KeyboardInterrupt in the middle of an import would reach the user as whatever numpy or
    onnxruntime make of it, and while importing there is nothing to clean up.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"error: interrupted; nothing was written\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
