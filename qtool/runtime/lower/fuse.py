"""Fusions over the ops of a Program: two ops become one with the same results, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qtool.runtime.lower.relocate import Uses
from qtool.runtime.program import Array, Buffer, Op, Tensor

# Places in the inputs and parameters of Conv, see native/ops/conv.cpp.
TABLE, RESIDUAL, FLOAT_BIAS = 4, 5, 6
X_ZERO, Y_ZERO, Y_MIN, Y_MAX, RESIDUAL_ZERO = 9, 10, 11, 12, 13
PADS = 4
# Of ConvWide, see native/ops/conv_wide.cpp, and functions of BinaryFloat.
WIDE_SCALE, WIDE_FLOAT_BIAS = 3, 6
ADD, MUL = 0, 2
MOST_WIDE_DEPTH = 1 << 15  # of 8-bit products whose sum fits int32

Fusion = Callable[[Op, Uses], bool]


def fuse(ops: Sequence[Op]) -> list[Op]:
    """Return the ops with every fusion made that applies; ops are edited."""
    kept = list(ops)
    changed = True
    while changed:
        uses = Uses(kept)
        changed = any([FUSIONS[op.code](op, uses) for op in kept if op.code in FUSIONS])
        kept = [op for op in kept if op.code != GONE]
    return kept


GONE = ""  # the code of an op that is part of another one now


def _into_producer(op: Op, tensor: Tensor | None, uses: Uses, code: str) -> Op | None:
    """Return the op of this code that alone writes a tensor which op alone reads."""
    if tensor is None or tensor.buffer.kind != "arena":
        return None
    writers, readers = uses.writers[tensor.buffer], uses.readers[tensor.buffer]
    if len(writers) != 1 or readers != [op] or writers[0].code != code:
        return None
    y = writers[0].outputs[0]
    same = y.size == tensor.size and y.start == tensor.start and y.columns == tensor.columns
    return writers[0] if same and y.dtype == tensor.dtype else None


def _take_over(producer: Op, op: Op) -> None:
    """Let producer write what op wrote."""
    y = op.outputs[0]
    producer.outputs = (y.viewed(producer.outputs[0].shape, y.dtype),)
    op.code = GONE


def _table(op: Op, uses: Uses) -> bool:
    """Conv then Table, and Table then Table."""
    first = _into_producer(op, op.inputs[0], uses, "Table")
    if first is not None:
        return _tables(first, op)
    conv = _into_producer(op, op.inputs[0], uses, "Conv")
    if conv is None or conv.inputs[TABLE] or conv.inputs[RESIDUAL] or not _is_one_table(op):
        return False
    conv.inputs = _with(conv.inputs, TABLE, op.inputs[1])
    _take_over(conv, op)
    return True


def _is_one_table(op: Op) -> bool:
    """Return whether a Table has one for all channels, and gives uint8."""
    table = op.inputs[1]
    return table is not None and table.shape == (256,) and op.outputs[0].dtype == "uint8"


def _tables(first: Op, second: Op) -> bool:
    before, after = _values(first.inputs[1]), _values(second.inputs[1])
    if before is None or after is None or before.dtype != np.uint8:
        return False
    if before.shape != (256,) or after.shape != (256,):
        return False
    second.inputs = (first.inputs[0], _constant(after[before]))
    first.code = GONE
    return True


def _sum(op: Op, uses: Uses) -> bool:
    """Conv then AddInt8: the other operand is added as the residual."""
    if _same_source(op, uses):
        return True
    a, b = op.inputs
    if a is None or b is None or a.shape != b.shape or a.shape != op.outputs[0].shape:
        return False
    for i in sorted((0, 1), key=lambda i: -uses.written(op.inputs[i])):
        conv, other = _into_producer(op, op.inputs[i], uses, "Conv"), (a, b)[1 - i]
        if conv is None or conv.inputs[TABLE] or conv.inputs[RESIDUAL]:
            continue
        if uses.written(other) > uses.index[conv]:
            continue
        shape = conv.outputs[0].shape
        conv.inputs = _with(conv.inputs, RESIDUAL, other.viewed(shape))
        zeros, (zero, low, high) = op.ints[:2], op.ints[2:5]
        conv.ints = (*conv.ints[:RESIDUAL_ZERO], zeros[1 - i], zero, low, high)
        conv.floats = (op.floats[i], op.floats[1 - i])
        _take_over(conv, op)
        return True
    return False


def _same_source(op: Op, uses: Uses) -> bool:
    """AddInt8 and MulInt8 of one tensor, or tables of it: x * sigmoid(x) is a table."""
    roots = [uses.table_of(tensor) for tensor in op.inputs]
    (a, a_table), (b, b_table) = roots
    if a is None or b is None or a.buffer is not b.buffer or a.start != b.start:
        return False
    if not a.shape == b.shape == op.outputs[0].shape or a.pitch != b.pitch:
        return False
    left, right = a_table.astype(np.int64) - op.ints[0], b_table.astype(np.int64) - op.ints[1]
    zero, low, high = op.ints[2:5]
    floats = [np.float32(f) for f in op.floats]
    with np.errstate(over="ignore"):
        if op.code == "MulInt8":
            steps = (left * right).astype(np.float32) * floats[0]
        else:
            steps = left.astype(np.float32) * floats[0] + right.astype(np.float32) * floats[1]
    table = np.clip(np.rint(steps), low - zero, high - zero) + zero
    op.code, op.inputs, op.ints, op.floats = "Table", (a, _constant(table.astype(np.uint8))), (), ()
    return True


def _float(op: Op, uses: Uses) -> bool:
    if op.ints == (MUL,):
        return _wide_scale(op, uses)
    return op.ints == (ADD,) and any(
        _float_bias(op, uses, code, place)
        for code, place in (("Conv", FLOAT_BIAS), ("ConvWide", WIDE_FLOAT_BIAS))
    )


def _wide_scale(op: Op, uses: Uses) -> bool:
    """ConvWide with int32 sums, Cast to float32, product with a scale that is known at run time.

    The product becomes the convolution, since the scale may be computed after that.
    """
    for i in (0, 1):
        cast, scale = _into_producer(op, op.inputs[i], uses, "Cast"), op.inputs[1 - i]
        if cast is None or scale is None or cast.outputs[0].dtype != "float32":
            continue
        conv = _into_producer(cast, cast.inputs[0], uses, "ConvWide")
        if conv is None or conv.outputs[0].dtype != "int32" or not scale.contiguous:
            continue
        y, made = op.outputs[0], conv.outputs[0]
        fits = scale.size == 1 or (scale.size == scale.columns == made.columns)
        if not fits or y.size != made.size or y.columns != made.columns or not y.contiguous:
            continue
        if conv.macs > MOST_WIDE_DEPTH * made.size:
            continue
        op.code, op.name, op.macs, op.ints = "ConvWide", conv.name, conv.macs, conv.ints
        op.inputs = _with(conv.inputs, WIDE_SCALE, scale)
        op.outputs = (y.viewed(made.shape),)
        conv.code = cast.code = GONE
        return True
    return False


def _float_bias(op: Op, uses: Uses, code: str, place: int) -> bool:
    """Conv or ConvWide with a float result, then the sum with one constant per channel."""
    for i in (0, 1):
        conv, bias = _into_producer(op, op.inputs[i], uses, code), op.inputs[1 - i]
        if conv is None or conv.inputs[place] or bias is None:
            continue
        n = conv.outputs[0].columns
        values = _values(bias)
        if values is None or values.shape[-1:] != (n,) or values.size != n:
            continue
        conv.inputs = _with(conv.inputs, place, _constant(values.reshape(n)))
        _take_over(conv, op)
        return True
    return False


def _copy(op: Op, uses: Uses) -> bool:
    """Quantize, then from channels first to channels last."""
    x, y = op.inputs[0], op.outputs[0]
    if op.walk is None or x is None or len(x.shape) != 4 or any(op.walk.y_start):
        return False
    quantize = _into_producer(op, x, uses, "Quantize")
    if quantize is None or quantize.ints[3] or quantize.outputs[0].shape != x.shape:
        return False
    n, c, h, w = x.shape
    axes = [(loop.n, loop.x_axis, loop.x_step, loop.y_axis, loop.y_step) for loop in op.walk.loops]
    if axes != [(n, 0, 1, 0, 1), (h, 2, 1, 1, 1), (w, 3, 1, 2, 1), (c, 1, 1, 3, 1)]:
        return False
    quantize.ints = (*quantize.ints[:3], 1)
    quantize.outputs = (y,)
    op.code = GONE
    return True


def _pads(op: Op, uses: Uses) -> bool:
    """Pad of an image with real 0, then Conv: the pads are the Conv's."""
    x = op.inputs[0]
    if x is None or x.buffer.kind != "arena" or uses.readers[x.buffer] != [op]:
        return False
    writers = uses.writers[x.buffer]
    if [w.code for w in writers] != ["Fill", "Copy"] or writers[0].ints != (op.ints[X_ZERO],):
        return False
    source, walk = writers[1].inputs[0], writers[1].walk
    if source is None or walk is None or any(walk.x_start) or len(source.shape) != 4:
        return False
    identity = [(n, i, 1, i, 1) for i, n in enumerate(source.shape)]
    if [(v.n, v.x_axis, v.x_step, v.y_axis, v.y_step) for v in walk.loops] != identity:
        return False
    begin = walk.y_start
    end = [y - b - n for y, b, n in zip(x.shape, begin, source.shape, strict=True)]
    if begin[0] or begin[3] or end[0] or end[3] or source.buffer.kind != "arena":
        return False
    pads = [p + more for p, more in zip(op.ints[PADS:], (*begin[1:3], *end[1:3]), strict=False)]
    op.ints = (*op.ints[:PADS], *pads, *op.ints[PADS + 4 :])
    op.inputs = _with(op.inputs, 0, source)
    for writer in writers:
        writer.code = GONE
    return True


def _with(
    inputs: tuple[Tensor | None, ...], i: int, tensor: Tensor | None
) -> tuple[Tensor | None, ...]:
    return (*inputs[:i], tensor, *inputs[i + 1 :])


def _values(tensor: Tensor | None) -> Array | None:
    if tensor is None or tensor.buffer.values is None or not tensor.contiguous:
        return None
    values = tensor.buffer.values.reshape(-1)[tensor.start : tensor.start + tensor.size]
    return values.reshape(tensor.shape)


def _constant(values: Array) -> Tensor:
    values = np.ascontiguousarray(values)
    return Tensor(str(values.dtype), values.shape, Buffer("constant", values.nbytes, values))


FUSIONS: dict[str, Fusion] = {
    "Table": _table,
    "AddInt8": _sum,
    "MulInt8": _same_source,
    "BinaryFloat": _float,
    "Copy": _copy,
    "Conv": _pads,
}
