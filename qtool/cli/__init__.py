"""The command line. This module runs first, so it imports only what is there already."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def stop_at_once(*_: object) -> NoReturn:
    """End the program from a signal handler: there is nothing yet to clean up."""
    os.write(2, b"error: interrupted; nothing was written\n")
    os._exit(INTERRUPTED)


def main() -> None:
    """Run the `qtool` program.

    Until the command's modules are imported Ctrl-C ends the process at once: a KeyboardInterrupt
    in the middle of an import reaches the user as an error of numpy or onnxruntime.
    """
    signal.signal(signal.SIGINT, stop_at_once)
    from qtool.cli.main import qtool

    qtool.main()
