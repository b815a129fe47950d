"""Lowering: what each tensor of an ONNX graph has become so far, and the ops that made it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.qparams import QParams, dequantize, limits, quantize
from qtool.runtime.lower.values import (
    Dequantized,
    Held,
    Known,
    Quantized,
    Value,
    channels_first,
    channels_last,
    dtype_of,
    known_reals,
    shape_of,
)
from qtool.runtime.program import DTYPES, Array, Buffer, Loop, Op, Tensor, Walk

SHIFT = 128  # from int8 to uint8


class Unreached(Exception):
    """An input comes from a node that could not be lowered, which has been reported."""


class Lowering:
    """The values of the tensors of one graph, and the ops in running order.

    Functions in LOWERINGS get this and a node. They read inputs in the form that they want,
    emit ops, and give() each output its value. Conversions are emitted once and remembered.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.ops: list[Op] = []
        self.values: dict[ir.Value, Value] = {}
        self.done: set[ir.Node] = set()  # fused into a node before them
        self.node = ""  # name of the node that is being lowered
        self._converted: dict[tuple[object, ...], Tensor] = {}
        self._keep: list[object] = []  # arrays whose id() is a key

    # Values of the graph

    def value(self, value: ir.Value | None) -> Value:
        """Return what an input has become.

        Raises:
            Unreached: nothing, since the node that makes it is not supported.
        """
        assert value is not None
        found = self.values.get(value)
        if found is None:
            raise Unreached
        return found

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Return the dims of a tensor."""
        return shape_of(self.value(value))

    def dtype(self, value: ir.Value | None) -> str:
        """Return the numpy name of the element type that a tensor has in ONNX."""
        return dtype_of(self.value(value))

    def give(self, value: ir.Value, made: Value) -> None:
        """Set what a tensor has become."""
        self.values[value] = made

    def known(self, value: ir.Value | None) -> Array | None:
        """Return the elements of a tensor that does not depend on the model's inputs, or None."""
        if value is None:
            return None
        found = self.value(value)
        if isinstance(found, Dequantized) and isinstance(found.q, Known):
            found = Known(known_reals(found))
            self.values[value] = found
        return found.array if isinstance(found, Known) else None

    def need(self, value: ir.Value | None, what: str) -> Array:
        """Return the elements of a tensor that must be known.

        Raises:
            UnsupportedError: it is computed at run time.
        """
        found = self.known(value)
        if found is None:
            raise UnsupportedError(f"its {what} is computed at run time")
        return found

    # Forms of a value

    def held(self, value: ir.Value | None) -> Held:
        """Return a tensor in memory with ONNX's element type, in whichever layout it is."""
        known = self.known(value)
        return self.as_held(self.value(value)) if known is None else Held(self.constant(known))

    def as_held(self, found: Value) -> Held:
        """Return a value in memory with ONNX's element type, in whichever layout it is."""
        if isinstance(found, Known):
            return Held(self.constant(found.array))
        if isinstance(found, Held):
            return self._unshifted(found)
        if isinstance(found.q, Known):
            return Held(self.constant(known_reals(found)))
        return self._real(found)

    def plain_value(self, value: ir.Value | None) -> Known | Held:
        """Return integers or other elements as they are, of a value that is not dequantized."""
        found = self.value(value)
        assert not isinstance(found, Dequantized)
        return found

    def plain(self, value: ir.Value | None) -> Tensor:
        """Return a tensor in memory, its axes in ONNX's order."""
        return self.as_plain(self.held(value))

    def last(self, value: ir.Value | None) -> Tensor:
        """Return a tensor in memory, its axis 1 moved to the end."""
        return self.as_last(self.held(value))

    def as_plain(self, held: Held) -> Tensor:
        """Return the memory of a value with axes in ONNX's order."""
        if not held.channels_last:
            return held.tensor
        return self.transposed(held.tensor, channels_first(range(len(held.shape))))

    def as_last(self, held: Held) -> Tensor:
        """Return the memory of a value with its axis 1 moved to the end."""
        if held.channels_last or len(held.shape) < 3:
            return held.tensor
        return self.transposed(held.tensor, channels_last(range(len(held.shape))))

    def quantized(self, value: ir.Value | None, *, wide: bool = False) -> Quantized | None:
        """Return a tensor as operands of an integer op, None when it is not such.

        Of 8 bits as uint8; where wide, of 16 bits as it is.
        """
        found = self.value(value)
        if not isinstance(found, Dequantized) or found.reals is not None:
            return None
        if found.qparams.scale.ndim or found.block:
            return None
        if wide and found.qparams.dtype in ("int16", "uint16"):
            held = found.q if isinstance(found.q, Held) else Held(self.constant(found.q.array))
            scale, zero = scalar_qparams(found.qparams)
            return Quantized(held.tensor, scale, zero, held.channels_last)
        if found.qparams.dtype not in ("int8", "uint8"):
            return None
        q = self.unsigned(found.q)
        zero = int(found.qparams.zero_point) + SHIFT * (found.qparams.dtype == "int8")
        return Quantized(q.tensor, np.float32(found.qparams.scale), zero, q.channels_last)

    def unsigned(self, q: Known | Held) -> Held:
        """Return 8-bit integers as uint8, int8 shifted by 128."""
        if isinstance(q, Known):
            signed = q.array.dtype == np.int8
            shift = SHIFT if signed else 0
            array = (q.array.astype(np.int16) + shift).astype(np.uint8)
            return Held(self.constant(array), shifted=signed)
        if q.tensor.dtype == "uint8":
            return q
        tensor = self._flipped(q.tensor.viewed(q.tensor.shape, "uint8"))
        return Held(tensor, q.channels_last, shifted=True)

    def _unshifted(self, held: Held) -> Held:
        if not held.shifted:
            return held
        flipped = self._flipped(held.tensor)
        return Held(flipped.viewed(flipped.shape, "int8"), held.channels_last)

    def _flipped(self, x: Tensor) -> Tensor:
        """Return the sum of uint8 elements and 128, modulo 256."""
        key = ("flipped", x)
        if key not in self._converted:
            table = (np.arange(256) + SHIFT).astype(np.uint8)
            self._converted[key] = self.table(x, table)
        return self._converted[key]

    def _real(self, found: Dequantized) -> Held:
        key = ("real", found)
        assert isinstance(found.q, Held)
        if key not in self._converted:
            q, params = found.q, found.qparams
            if params.dtype not in ("int8", "uint8") or params.scale.ndim:
                return self._real_of_slices(found)
            x = self.unsigned(q)
            if found.reals is not None:
                with np.errstate(over="ignore"):
                    reals = self.by_byte(found).astype(np.float32)
                y = self.table(x.tensor, reals)
            else:
                zero = int(params.zero_point) + SHIFT * x.shifted
                y = self.make("float32", x.tensor.shape)
                self.emit("Dequantize", [x.tensor], [y], [zero], [float(params.scale)])
            self._converted[key] = y
            self._keep.append(found)
        return Held(self._converted[key], found.q.channels_last)

    def _real_of_slices(self, found: Dequantized) -> Held:
        """Return the float32 values of integers of any type, with a scale for each slice or one."""
        assert isinstance(found.q, Held)
        held = self._unshifted(found.q)
        params = found.qparams
        if params.dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
            raise UnsupportedError(f"it reads dequantized {params.dtype} activations")
        if params.scale.ndim:
            held = Held(self.as_plain(held))
        scale = self.constant(np.ascontiguousarray(params.scale.reshape(-1)))
        zeros = params.zero_point.astype(params.dtype).reshape(-1)
        zero = self.constant(zeros) if zeros.any() else None
        key = ("real", found)
        y = self.slices("DequantizeWide", held.tensor, scale, zero, params.axis, "float32")
        self._converted[key] = y
        self._keep.append(found)
        return Held(y, held.channels_last)

    def slices(
        self, code: str, x: Tensor, scale: Tensor, zero: Tensor | None, axis: int | None, dtype: str
    ) -> Tensor:
        """Emit QuantizeWide or DequantizeWide, with a scale for each slice along axis, or one."""
        if not x.contiguous:
            raise UnsupportedError("it quantizes a slice of a wider tensor")
        shape = x.shape
        cut = (1, 1, x.size)
        if scale.size > 1:
            assert axis is not None
            axis %= len(shape)
            if scale.size != shape[axis] or (zero is not None and zero.size != scale.size):
                raise UnsupportedError("its scales do not fit its axis")
            cut = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        y = self.make(dtype, shape)
        self.emit(code, [x, scale, zero], [y], cut)
        return y

    def by_byte(self, found: Dequantized) -> npt.NDArray[np.float64]:
        """Return the real values of a dequantized 8-bit tensor, for each of its uint8 bytes."""
        if found.reals is not None:
            return found.reals
        low, high = limits(found.qparams.dtype)
        return dequantize(np.arange(low, high + 1), found.qparams).astype(np.float64)

    def requantized(self, found: Dequantized, qparams: QParams) -> Held:
        """Return what QuantizeLinear makes of a function of 8-bit integers, by a table, eq. 16.

        Nothing is emitted where the integers stay as they are.
        """
        x, shifted = self.unsigned(found.q), qparams.dtype == "int8"
        with np.errstate(over="ignore"):
            reals = self.by_byte(found).astype(np.float32)
        table = (quantize(reals, qparams) + SHIFT * shifted).astype(np.uint8)
        same = np.array_equal(table, np.arange(256))
        if isinstance(found.q, Known) and x.tensor.buffer.values is not None:
            return Held(self.constant(table[x.tensor.buffer.values]), shifted=shifted)
        return Held(x.tensor if same else self.table(x.tensor, table), x.channels_last, shifted)

    # Ops

    def make(self, dtype: str, shape: Sequence[int]) -> Tensor:
        """Return a new tensor in the arena.

        Raises:
            UnsupportedError: it has no elements, or no element type of a Program.
        """
        if dtype not in DTYPES:
            raise UnsupportedError(f"the runtime has no {dtype} tensors")
        if 0 in shape:
            raise UnsupportedError("it makes a tensor without elements")
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        return Tensor(dtype, tuple(map(int, shape)), Buffer("arena", n_bytes))

    def constant(self, array: Array) -> Tensor:
        """Return a tensor of these elements."""
        key = ("constant", id(array))
        if key not in self._converted:
            if str(array.dtype) not in DTYPES or not array.size:
                raise UnsupportedError(f"the runtime has no {array.dtype}{list(array.shape)}")
            buffer = Buffer("constant", array.nbytes, array)
            self._converted[key] = Tensor(str(array.dtype), array.shape, buffer)
            self._keep.append(array)
        return self._converted[key]

    def emit(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[Tensor],
        ints: Sequence[int] = (),
        floats: Sequence[float] = (),
        *,
        macs: int = 0,
        walk: Walk | None = None,
    ) -> None:
        """Add an op that is named after the node being lowered."""
        made = Op(code, tuple(inputs), tuple(outputs), tuple(map(int, ints)), tuple(floats))
        made.name, made.macs, made.walk = self.node, macs, walk
        self.ops.append(made)

    def table(self, x: Tensor, table: Array) -> Tensor:
        """Emit y = table[x] and return y."""
        y = self.make(str(table.dtype), x.shape)
        self.emit("Table", [x, self.constant(table)], [y])
        return y

    def transposed(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """Return x with its axes in another order: order[i] is the old axis of axis i."""
        key = ("transposed", x, tuple(order))
        if key not in self._converted:
            self._converted[key] = self._transpose(x, order)
        return self._converted[key]

    def _transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        shape = [x.shape[axis] for axis in order]
        long = [axis for axis in order if x.shape[axis] != 1]
        if long == sorted(long) and x.contiguous:
            return x.viewed(shape)
        if x.buffer.kind == "constant" and x.buffer.values is not None and x.contiguous:
            values = x.buffer.values.reshape(-1)[x.start : x.start + x.size].reshape(x.shape)
            return self.constant(np.ascontiguousarray(values.transpose(order)))
        y = self.make(x.dtype, shape)
        loops = [
            Loop(dim, axis, 1, i, 1) for i, (dim, axis) in enumerate(zip(shape, order, strict=True))
        ]
        zeros = (0,) * len(shape)
        self.emit("Copy", [x], [y], walk=Walk(tuple(loops), zeros, zeros))
        return y


def scalar_qparams(qparams: QParams) -> tuple[np.float32, int]:
    """Return scale and zero point of uint8 elements, for 8-bit qparams per tensor."""
    shift = SHIFT if qparams.dtype == "int8" else 0
    return np.float32(qparams.scale), int(qparams.zero_point) + shift
