"""Small QDQ graphs whose inputs and outputs are the integers, so that they compare bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import helper as h

from qtool.model import Model
from qtool.qparams import DTYPES, QParams
from qtool.runtime import Session

ISAS = ("scalar", "avx2", "avx512", "amx")
OPSET = 20


def per_tensor(scale: float, zero: int, dtype: str = "uint8") -> QParams:
    return QParams(np.array(scale, np.float32), np.array(zero, np.int32), dtype)


def integers(rng, shape: Sequence[int], qparams: QParams) -> np.ndarray:
    low, high = DTYPES[qparams.dtype]
    return rng.integers(low, high + 1, shape).astype(qparams.dtype)


def weight(rng, shape: Sequence[int], axis: int | None = 0) -> tuple[np.ndarray, QParams]:
    """Return int8 weights -127..127 and their qparams, per channel along axis."""
    w = rng.integers(-127, 128, shape).astype(np.int8)
    size = () if axis is None else (shape[axis],)
    scale = rng.uniform(1e-3, 2e-2, size).astype(np.float32)
    return w, QParams(scale, np.zeros(size, np.int32), "int8", axis, True)


@st.composite
def activations(draw) -> QParams:
    """Draw qparams of 8-bit activations, zero points often at the ends."""
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    low, high = DTYPES[dtype]
    zero = draw(st.one_of(st.sampled_from([low, high]), st.integers(low, high)))
    return per_tensor(draw(st.sampled_from([0.5, 0.037, 0.0041])), zero, dtype)


class Graph:
    """Collects the nodes and tensors of a model."""

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.feeds: dict[str, np.ndarray] = {}

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def feed(self, values: np.ndarray, dims: Sequence[Any] | None = None) -> str:
        name = f"in{len(self.inputs)}"
        kind = h.np_dtype_to_tensor_dtype(values.dtype)
        shape = values.shape if dims is None else dims
        self.inputs.append(h.make_tensor_value_info(name, kind, shape))
        self.feeds[name] = values
        return name

    def node(self, op: str, *inputs: str, n_outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op}{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(h.make_node(op, inputs, names, name=names[0], **attributes))
        return names[0] if n_outputs == 1 else names

    def params(self, qparams: QParams) -> tuple[str, str]:
        zero = qparams.zero_point.astype(qparams.dtype)
        return self.constant(qparams.scale), self.constant(zero)

    def dequantize(self, name: str, qparams: QParams) -> str:
        axis = {} if qparams.axis is None else {"axis": qparams.axis}
        return self.node("DequantizeLinear", name, *self.params(qparams), **axis)

    def quantize(self, name: str, qparams: QParams) -> str:
        return self.node("QuantizeLinear", name, *self.params(qparams))

    def real(self, values: np.ndarray, qparams: QParams) -> str:
        """Return an input of integers, dequantized."""
        return self.dequantize(self.feed(values), qparams)

    def fixed(self, values: np.ndarray, qparams: QParams) -> str:
        """Return a constant of integers, dequantized."""
        return self.dequantize(self.constant(values), qparams)

    def output(self, name: str, dtype: str, rank: int) -> None:
        kind = h.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(h.make_tensor_value_info(name, kind, [None] * rank))

    def model(self) -> Model:
        graph = h.make_graph(self.nodes, "test", self.inputs, self.outputs, self.constants)
        opsets = [h.make_opsetid("", self.opset), h.make_opsetid("com.microsoft", 1)]
        return Model(ir.from_proto(h.make_model(graph, opset_imports=opsets, ir_version=10)))

    def run(self, isa: str | None = None, threads: int = 1) -> list[np.ndarray]:
        session = Session(self.model(), threads=threads, isa=isa)
        return session.run(None, self.feeds)

    def onnxruntime(self) -> list[np.ndarray]:
        """Return what onnxruntime computes, without fusing."""
        from qtool.runtime.ort import OrtSession

        return list(OrtSession(self.model(), optimize=False).run(self.feeds).values())


def kernels(graph: Graph, feeds: Mapping[str, np.ndarray]) -> list[str]:
    """Return the kernels of the ops of a graph."""
    return [op.kernel for op in Session(graph.model()).profile(feeds, times=1)]
