"""What a node computes from constants, by ONNX's own reference implementation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

Array = npt.NDArray[Any]


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array] | None:
    """Return the outputs of a node of the ONNX domain, or None when the reference refuses it.

    opset is the version of the ONNX domain. The node must not have subgraphs.
    """
    from onnx.reference import ReferenceEvaluator  # slow to import

    proto = ir.to_proto(node)
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    outputs = [f"y{i}" if value.name else "" for i, value in enumerate(node.outputs)]
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(outputs)
    graph = onnx.helper.make_graph([proto], "node", [], [])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in names if name)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name)
    model = onnx.ModelProto(graph=graph, ir_version=10)
    model.opset_import.append(onnx.OperatorSetIdProto(domain="", version=opset))
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]
        except Exception:  # the node stays as it is: running the model will tell what is wrong
            return None
