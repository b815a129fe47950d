#!/usr/bin/env python3
"""Quantizes a float model with one of the tools that bench_accuracy.py compares qtool with.

    accuracy_peers.py WAY SOURCE TARGET SAMPLES

WAY is one of WAYS, or "onnxsim, WAY": onnxsim simplifies SOURCE first. SAMPLES is an .npy, one
entry for each run of the model's single input. It needs onnxruntime, nncf and onnxsim (the extra
`qtool[bench]`), but not qtool: it may run in an interpreter of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx

SIMPLIFY = "onnxsim, "  # in front of a way
OLDEST_OPSET = 13  # with scales for each channel; the tools ask users to convert older models


def input_name(model: onnx.ModelProto) -> str:
    """Return the name of the one input that is not a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in weights)
    return name


def feeds(model: onnx.ModelProto, samples: Any) -> list[dict[str, Any]]:
    """Return what each run feeds the model with."""
    name = input_name(model)
    return [{name: np.ascontiguousarray(sample)} for sample in samples]


def onnxruntime(model: onnx.ModelProto, samples: Any, target: str, *, method: str) -> None:
    """Static, QDQ, a scale for each channel; the rest as onnxruntime has it."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds(model, samples))

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(
        model, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        calibrate_method=CalibrationMethod[method],
    )  # fmt: skip


def nncf(model: onnx.ModelProto, samples: Any, target: str, *, fast: bool) -> None:
    """NNCF's defaults, with all samples."""
    import nncf

    data = nncf.Dataset(feeds(model, samples))
    done = nncf.quantize(model, data, subset_size=len(samples), fast_bias_correction=fast)
    onnx.save(done, target)


def onnxsim(model: onnx.ModelProto, samples: Any, target: str, **options: Any) -> None:
    """The quantization that onnxsim itself has."""
    import onnxsim

    onnx.save(onnxsim.quantize_static(model, feeds(model, samples), **options), target)


def simplified(source: str) -> onnx.ModelProto:
    """Return what onnxsim makes of the model."""
    import onnxsim

    model, passed = onnxsim.simplify(onnx.load(source))
    if not passed:
        raise ValueError("onnxsim's own check fails")
    return model


def at_least(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return the model at an opset of at least version."""
    if all(entry.version >= version for entry in model.opset_import if not entry.domain):
        return model
    return onnx.version_converter.convert_version(model, version)


WAYS: dict[str, Callable[[onnx.ModelProto, Any, str], None]] = {
    "onnxruntime MinMax": partial(onnxruntime, method="MinMax"),
    "onnxruntime Percentile": partial(onnxruntime, method="Percentile"),
    "NNCF fast": partial(nncf, fast=True),
    "NNCF full": partial(nncf, fast=False),
    "onnxsim": onnxsim,
    "onnxsim full graph": partial(onnxsim, full_graph=True, method="auto"),
}


def main() -> None:
    way, source, target, samples = sys.argv[1:]
    model = simplified(source) if way.startswith(SIMPLIFY) else onnx.load(source)
    model = at_least(model, OLDEST_OPSET)
    WAYS[way.removeprefix(SIMPLIFY)](model, np.load(samples, mmap_mode="r"), target)


if __name__ == "__main__":
    main()
