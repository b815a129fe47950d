"""Program: ops, tensors and constants in the form that the native runtime runs, and their bytes.

docs/kernels.md specifies the bytes; qtool/native/runtime/program.cpp checks them.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAGIC = b"QTPROG\0\1"
VERSION = 1
ALIGN = 64
MAX_RANK = 6

# fmt: off
DTYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "int32": 4, "int64": 5, "uint16": 6, "int16": 7,
    "bool": 8, "float64": 9,
}
OPCODES = {  # as qtool/native/runtime/ops.inc has them
    "Quantize": 1, "Dequantize": 2, "Conv": 3, "Table": 4, "AddInt8": 5, "MulInt8": 6,
    "MaxPool": 7, "AveragePool": 8, "Copy": 9, "Fill": 10, "Softmax": 11, "BinaryFloat": 12,
    "UnaryFloat": 13, "Gather": 14, "Binary": 15, "Where": 16, "Cast": 17, "Reduce": 18,
    "ArgExtreme": 19, "ResizeLinear": 20, "Normalize": 21, "SoftmaxInt8": 22,
    "ConvFloat": 23, "MatMulFloat": 24, "Lstm": 25, "Gru": 26, "ConvWide": 27,
    "MatMulWide": 28, "DynamicQuantize": 29, "QuantizeWide": 30, "DequantizeWide": 31, "Rnn": 32,
}
# fmt: on
KINDS = {"arena": 0, "constant": 1, "input": 2, "output": 3}


@dataclass(eq=False)
class Buffer:
    """Memory that tensors lie in.

    kind is a key of KINDS. offset is the place in the arena or among the constants, in bytes; of
    an input or output of the model its position.
    """

    kind: str
    n_bytes: int
    values: Array | None = None  # of a constant
    offset: int = 0


@dataclass(eq=False)
class Tensor:
    """A dense tensor, or a slice of the last axis of a wider one.

    start counts elements from the buffer's begin, pitch those between rows of the last axis.
    """

    dtype: str
    shape: tuple[int, ...]
    buffer: Buffer
    start: int = 0
    pitch: int = 0

    def __post_init__(self) -> None:
        self.pitch = self.pitch or self.columns

    @property
    def columns(self) -> int:
        """The size of the last axis."""
        return self.shape[-1] if self.shape else 1

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """The bytes of an element."""
        return np.dtype(self.dtype).itemsize

    @property
    def contiguous(self) -> bool:
        """Whether there is nothing between the rows."""
        return self.pitch == self.columns or self.size == self.columns

    @property
    def spanned_bytes(self) -> int:
        """The bytes from the first to the last element."""
        rows = self.size // self.columns
        return ((rows - 1) * self.pitch + self.columns) * self.item_bytes

    def viewed(self, shape: Sequence[int], dtype: str | None = None) -> Tensor:
        """Return the same memory as a tensor of another shape or a type of the same width."""
        assert math.prod(shape) == self.size
        assert self.contiguous or (bool(shape) and shape[-1] == self.columns)
        pitch = 0 if self.contiguous else self.pitch
        return Tensor(dtype or self.dtype, tuple(shape), self.buffer, self.start, pitch)


@dataclass(frozen=True)
class Loop:
    """One loop of a Copy: its steps along an axis of x and one of y; a step of 0 stays."""

    n: int
    x_axis: int
    x_step: int
    y_axis: int
    y_step: int


@dataclass(frozen=True)
class Walk:
    """What a Copy walks over: loops, outermost first, from one element of x and of y on."""

    loops: tuple[Loop, ...]
    x_start: tuple[int, ...]  # coordinates
    y_start: tuple[int, ...]

    def ints(self, x: Tensor, y: Tensor) -> tuple[int, ...]:
        """Return the parameters of Copy."""
        x_strides, y_strides = strides(x), strides(y)
        starts = [
            sum(at * stride for at, stride in zip(start, of, strict=True))
            for start, of in ((self.x_start, x_strides), (self.y_start, y_strides))
        ]
        steps = [
            (loop.n, loop.x_step * x_strides[loop.x_axis], loop.y_step * y_strides[loop.y_axis])
            for loop in self.loops
        ]
        return (*starts, *(value for step in steps for value in step))


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the elements from one index of each axis to the next."""
    steps, step = [1], tensor.pitch
    for dim in reversed(tensor.shape[1:-1]):
        steps.append(step)
        step *= dim
    return tuple(reversed([*steps, step][: len(tensor.shape)]))


@dataclass(eq=False)
class Op:
    """One step. ints and floats are the op's parameters, as its file in native/ops lists them."""

    code: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    ints: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()
    name: str = ""  # of the node that it comes from
    macs: int = 0  # multiply-accumulates
    walk: Walk | None = None  # of a Copy: gives its ints

    @property
    def parameters(self) -> tuple[int, ...]:
        """The integer parameters as they are stored."""
        if self.walk is None:
            return self.ints
        x, y = self.inputs[0], self.outputs[0]
        assert x is not None
        return self.walk.ints(x, y)

    def tensors(self) -> Iterable[Tensor]:
        """Return the inputs that are there, and the outputs."""
        yield from (t for t in self.inputs if t is not None)
        yield from self.outputs


@dataclass
class Program:
    """Ops in running order; every arena buffer has its offset."""

    ops: list[Op]
    inputs: list[Tensor]
    outputs: list[Tensor]
    arena_bytes: int
    names: dict[str, list[str]] = field(default_factory=dict)  # "inputs", "outputs"

    def to_bytes(self) -> bytes:
        """Return what the native runtime loads."""
        writer = _Writer(self)
        return b"".join([writer.head(), *writer.constants.parts()])

    def parts(self) -> tuple[bytes, Constants]:
        """Return to_bytes() up to the constants, and what finds those without copying them all."""
        writer = _Writer(self)
        return writer.head(), writer.constants


class Constants:
    """A Program's constants one after the other, each at a multiple of ALIGN."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._arrays: list[Array] = []
        self.n_bytes = 0

    def add(self, values: Array) -> int:
        """Return the offset that the array, which need not be contiguous, is given."""
        begin = self.n_bytes
        self._begins.append(begin)
        self._arrays.append(values)
        self.n_bytes += values.nbytes + -values.nbytes % ALIGN
        return begin

    def __call__(self, offset: int) -> tuple[int, Array]:
        """Return the bytes of the array around this offset, and the offset of its first one."""
        i = bisect_right(self._begins, offset) - 1
        return self._begins[i], _bytes_of(self._arrays[i])

    def parts(self) -> Iterable[bytes | memoryview]:
        """Yield all bytes of the section."""
        for values in self._arrays:
            yield _bytes_of(values).data
            yield bytes(-values.nbytes % ALIGN)


def _bytes_of(values: Array) -> Array:
    return np.require(values, requirements=["C", "A"]).reshape(-1).view(np.uint8)


class _Writer:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._ids: dict[Tensor, int] = {}
        self._offsets: dict[Buffer, int] = {}
        self.constants = Constants()

    def head(self) -> bytes:
        program = self._program
        ops = b"".join(self._op(op) for op in program.ops)
        io = [self._id(t) for t in (*program.inputs, *program.outputs)]
        tensors = b"".join(map(self._tensor, self._ids))
        parts: list[bytes] = []
        at = 128
        offsets = []
        io_bytes = struct.pack(f"<{len(io)}i", *io)
        for content in (tensors, ops, io_bytes):
            offsets.append(at)
            parts += [content, bytes(-len(content) % ALIGN)]
            at += len(content) + -len(content) % ALIGN
        counts = (len(self._ids), len(program.ops), len(program.inputs), len(program.outputs))
        header = MAGIC + struct.pack(
            "<6I7Q", VERSION, *counts, 0, offsets[0], offsets[1], len(ops), at,
            self.constants.n_bytes, program.arena_bytes, offsets[2],
        )  # fmt: skip
        return b"".join([header.ljust(128, b"\0"), *parts])

    def _op(self, op: Op) -> bytes:
        n = (len(op.inputs), len(op.outputs))
        ids = [-1 if t is None else self._id(t) for t in (*op.inputs, *op.outputs)]
        ids += [0] * (len(ids) % 2)
        ints, floats = op.parameters, op.floats
        head = struct.pack("<HBBHH", OPCODES[op.code], *n, len(ints), len(floats))
        form = f"<{len(ids)}i{len(ints)}q{len(floats)}f{len(floats) % 2 * 4}x"
        return head + struct.pack(form, *ids, *ints, *floats)

    def _id(self, tensor: Tensor) -> int:
        return self._ids.setdefault(tensor, len(self._ids))

    def _tensor(self, tensor: Tensor) -> bytes:
        rank = len(tensor.shape)
        shape = tensor.shape
        if rank > MAX_RANK:
            shape, rank = (tensor.size // tensor.columns, tensor.columns), 2
        dims = (*shape, *[0] * (MAX_RANK - rank))
        kind = tensor.buffer.kind
        head = struct.pack(
            "<4Bi6i", DTYPES[tensor.dtype], rank, KINDS[kind], 0, tensor.pitch, *dims
        )
        offset = self._offset(tensor.buffer)
        if kind in ("arena", "constant"):
            offset += tensor.start * tensor.item_bytes
        else:
            assert tensor.start == 0
        return (head + struct.pack("<QQ", offset, tensor.spanned_bytes)).ljust(64, b"\0")

    def _offset(self, buffer: Buffer) -> int:
        if buffer.kind != "constant":
            return buffer.offset
        if buffer not in self._offsets:
            assert buffer.values is not None
            self._offsets[buffer] = self.constants.add(buffer.values)
        return self._offsets[buffer]
