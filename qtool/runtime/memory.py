"""How much memory this process has, and how much running a model will take."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import onnx_ir as ir

from qtool.model import Model
from qtool.runtime.ort import INLINE_BYTES
from qtool.shapes import shapes, size, tensor_bytes

FLOAT_BYTES = 4
SESSION_BYTES = 30 << 20  # of a session without weights, measured with onnxruntime 1.31
COPIES = 5  # of the weights at the worst moment of loading: protobufs, tensors, packed tensors
LARGE_COPIES = 2  # the same where the weights go through a file


def resident_bytes() -> int:
    """Return the memory that this process has now, or its peak where only that is known."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return _most_resident()


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):  # ru_maxrss would count what the parent had
                return int(line.split()[1]) * 1024
    return _most_resident()


def give_back() -> None:
    """Give the system what was freed, where the C library keeps it and can be told to (glibc)."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _most_resident() -> int:
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def session_bytes(model: Model, outputs: Iterable[str], threads: int) -> int:
    """Return about what an OrtSession takes that runs in threads and returns these outputs.

    Outputs live until a run ends. Tensors whose shape is not known count as nothing.
    """
    weights = [value.const_value for value in model.graph.initializers.values()]
    fixed = sum(tensor_bytes(w) for w in weights if w is not None and w.dtype != ir.DataType.STRING)
    known = shapes(model)
    alive = sum(FLOAT_BYTES * (size(known.get(name)) or 0) for name in outputs)
    copies = COPIES if fixed <= INLINE_BYTES else LARGE_COPIES
    return SESSION_BYTES + copies * fixed + threads * alive
