"""The runtime against ONNX's own tests of each op: what it runs is right, and the rest it names.

Inputs behind the first are bound as constants where a node is refused otherwise: shapes, axes and
bounds have to be known when a Program is made.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from qtool.errors import UnsupportedError
from qtool.model import Model
from qtool.runtime import Session
from qtool.runtime.lower import LOWERINGS
from qtool.runtime.program import DTYPES

#: Names of ONNX's tests of ops in LOWERINGS that are refused, and why.
REFUSED = {
    "cubic|antialias|tf_crop|not_larger|not_smaller": "modes of Resize that are not in use",
    "empty_set|zero_size|reordered|out_of_bounds|greater_than_end": "tensors without elements",
    "training": "training mode",
    "dropout.*mask": "training mode",
    "with_argmax": "indices of MaxPool",
    "quantizelinear_blocked": "activations in blocks",
    "spacetodepth_crd": "order of channels",
    "log_sum_exp": "float64",
}
#: Where onnxruntime and the runtime differ from ONNX's test.
OTHERWISE = {
    "resize_downsample_scales_linear_align_corners": "the size of the result is rounded before",
    "averagepool_2d_ceil_last_window_starts_on_pad": "ONNX's test has four digits",
}


class Case(NamedTuple):
    name: str
    model: onnx.ModelProto
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


def cases() -> Iterator[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    for case in found:
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].domain or nodes[0].op_type not in LOWERINGS:
            continue
        values = [[_array(v) for v in side] for side in case.data_sets[0]]
        if all(v is not None and str(v.dtype) in DTYPES for side in values for v in side):
            yield Case(case.name.removeprefix("test_"), case.model, *values)


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return None if isinstance(value, list | dict | onnx.SequenceProto) else np.asarray(value)


@cache
def by_op() -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases():
        found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def run(case: Case, *, bound: bool) -> list[np.ndarray]:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    if case.model.graph.node[0].op_type == "LayerNormalization":
        del model.graph.output[1:], model.graph.node[0].output[1:]
    fed = model.graph.input[:1] if bound else model.graph.input[:]
    feeds = dict(zip((v.name for v in case.model.graph.input), case.inputs, strict=True))
    constants = {name: x for name, x in feeds.items() if name not in {v.name for v in fed}}
    model.graph.initializer.extend(numpy_helper.from_array(x, n) for n, x in constants.items())
    del model.graph.input[:]
    model.graph.input.extend(fed)
    session = Session(Model(ir.from_proto(model)))
    return session.run(None, {v.name: feeds[v.name] for v in fed})


def outcome(case: Case) -> list[np.ndarray] | None:
    for bound in (False, True):
        try:
            return run(case, bound=bound)
        except UnsupportedError:
            pass
    return None


def _is(case: Case, patterns: dict[str, str]) -> bool:
    return any(re.search(pattern, case.name) for pattern in patterns)


def check(case: Case) -> str | None:
    """Return what is wrong with a case, None when nothing is."""
    made = outcome(case)
    if made is None:
        return None if _is(case, REFUSED) else "refused"
    for y, expected in zip(made, case.outputs, strict=False):
        if y.shape != expected.shape or y.dtype != expected.dtype:
            return f"{y.dtype}{y.shape}, not {expected.dtype}{expected.shape}"
        if not np.allclose(y, expected, rtol=1e-5, atol=1e-6, equal_nan=True):
            return None if _is(case, OTHERWISE) else "wrong"
    return None


@pytest.mark.slow  # ONNX takes seconds to make its cases
def test_ops_pass_the_tests_of_onnx():
    wrong = {
        f"{op} {case.name}": what
        for op, found in by_op().items()
        for case in found
        if (what := check(case)) is not None
    }

    assert wrong == {}
    assert sum(map(len, by_op().values())) > 500
