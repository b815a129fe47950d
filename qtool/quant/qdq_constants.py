"""Integer constants with the DequantizeLinear in front of their readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Names, add_initializer, array, attribute
from qtool.qparams import QParams
from qtool.quant.weights import STORAGE, to_storage


class Constants:
    """Adds integer constants and qparams to a graph, each of them once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.names = Names(graph)
        self._graph = graph
        self._params: dict[int, tuple[QParams, list[ir.Value]]] = {}
        self._dequantized: dict[tuple[Any, ...], ir.Value] = {}
        self._replaced: dict[str, ir.Value] = {}
        self._numbers: dict[str, int] = {}

    def short(self, stem: str) -> str:
        """Return a new name that costs few bytes: each stands in a file two or three times."""
        number = self._numbers[stem] = self._numbers.get(stem, 0) + 1
        return self.names(f"{stem}{number}")

    def params(self, qparams: QParams) -> list[ir.Value]:
        """Return the scale and zero_point initializers; tensors of one group share them."""
        if id(qparams) not in self._params:
            zero = qparams.zero_point.astype(STORAGE[qparams.dtype])
            added = [
                add_initializer(self._graph, self.short("scale"), qparams.scale),
                add_initializer(self._graph, self.short("zero"), zero),
            ]
            self._params[id(qparams)] = qparams, added  # holding qparams keeps its id its own
        return self._params[id(qparams)][1]

    def added(self, name: str, values: npt.NDArray[Any]) -> ir.Value:
        """Return a new constant."""
        return add_initializer(self._graph, self.names(name), values)

    def dequantized(
        self,
        value: ir.Value,
        values: npt.NDArray[np.float32],
        qparams: QParams,
        integers: npt.NDArray[np.int32] | None = None,
    ) -> ir.Value:
        """Return the output of a DequantizeLinear of the constant, one for each qparams.

        integers are those nearest to the values, if none are given.
        """
        key = (value, qparams.scale.tobytes(), qparams.zero_point.tobytes(), qparams.axis)
        if key not in self._dequantized:
            stored = to_storage(values, qparams)
            if integers is not None:
                stored = integers.astype(STORAGE[qparams.dtype])
            self._dequantized[key] = self.dequantize(value, stored, qparams)
        return self._dequantized[key]

    def dequantize(self, value: ir.Value, integers: npt.NDArray[Any], qparams: QParams) -> ir.Value:
        """Return the output of a new DequantizeLinear of integers that replace a constant.

        A zero point of 0 is left out: per channel it would cost a byte or four each. A Gemm's
        weight keeps it: onnxruntime before 1.24 refuses scales of another shape.
        """
        q = add_initializer(self._graph, self.names(f"{value.name}_q"), integers)
        if value.is_initializer():
            self._replaced.setdefault(value.name or "", q)
        inputs = [q, add_initializer(self._graph, self.short("scale"), qparams.scale)]
        of_gemm = any(node.op_type == "Gemm" for node in value.consumers())
        if qparams.zero_point.any() or (of_gemm and qparams.dtype in STORAGE):
            zero = qparams.zero_point.astype(STORAGE[qparams.dtype])
            inputs.append(add_initializer(self._graph, self.short("zero"), zero))
        attributes = {} if qparams.axis is None else {"axis": qparams.axis}
        node = ir.node("DequantizeLinear", inputs, attributes, name="")
        output = node.outputs[0]
        output.name = self.short("dq")
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), q.shape
        self._graph.insert_before(self._graph[0], node)
        return output

    def finish(self) -> None:
        """Remove the constants that nobody reads any more; integers take over their names."""
        for name, value in list(self._graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del self._graph.initializers[name]
        for name, value in self._replaced.items():
            if name not in self._graph.initializers:
                value.name = name


def read_qparams(node: ir.Node | None) -> QParams | None:
    """Return the constant qparams of a QuantizeLinear or DequantizeLinear; None if computed."""
    scale = None if node is None else array(node.inputs[1])
    if node is None or scale is None:
        return None
    zero = array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    integers = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtype = "uint8" if integers is None or integers.dtype is None else str(integers.dtype.numpy())
    dtype = dtype if zero is None else str(zero.dtype)
    zeros = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    if scale.size == 1:
        scale, zeros = scale.reshape(()), zeros.reshape(())
    axis = attribute(node, "axis", 1) if scale.ndim else None
    return QParams(scale.astype(np.float32), zeros, dtype, axis)
