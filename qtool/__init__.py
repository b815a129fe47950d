"""qtool makes trained ONNX models smaller and faster, and proves that they still work.

The library is `load`, `save` and one function per stage, each imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "qtool.formats",
    "save": "qtool.formats",
    "bench": "qtool.stages.bench",
    "calibrate": "qtool.stages.calibrate",
    "cluster": "qtool.stages.cluster",
    "compress": "qtool.stages.compress",
    "evaluate": "qtool.stages.evaluate",
    "freeze": "qtool.stages.freeze",
    "inspect": "qtool.stages.inspect",
    "merge": "qtool.stages.merge",
    "pack": "qtool.stages.pack",
    "prune": "qtool.stages.prune",
    "quantize": "qtool.stages.quantize",
    "report": "qtool.stages.report",
    "run": "qtool.stages.run",
    "sensitivity": "qtool.stages.sensitivity",
    "tune": "qtool.stages.tune",
    "unpack": "qtool.stages.pack",
    "verify": "qtool.stages.verify",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qtool' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
