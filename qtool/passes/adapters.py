"""The operators whose new form onnx.version_converter gets wrong, or makes needlessly complex.

Each adapter changes one node in place, from the form of the version before to that of its version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import Names, array, attribute
from qtool.passes.rewriting import Array, graph_of, rank, static_shape


@dataclass(frozen=True)
class Context:
    """A node to adapt, and names for what is put beside it."""

    node: ir.Node
    names: Names

    def constant(self, values: Array) -> ir.Value:
        """Put a Constant before the node, which also works in functions, and return its output."""
        made = ir.node("Constant", [], {"value": ir.Tensor(values)})
        made.name = made.outputs[0].name = self.names(f"{self.node.outputs[0].name}_constant")
        made.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(values.dtype))
        made.outputs[0].shape = ir.Shape(values.shape)
        graph_of(self.node).insert_before(self.node, made)
        return made.outputs[0]


Adapter = Callable[[Context], None]

GROWS = "qtool.grows"  # in a node's meta: its scales, whatever they are, are at least 1


def _as_before(context: Context) -> None:
    """Only types, defaults or documentation changed."""


def _spatial(context: Context) -> None:
    """BatchNormalization 9 has no per-element form any more."""
    if attribute(context.node, "spatial", 1) != 1:
        raise UnsupportedError("it normalizes each element by itself (spatial = 0)")
    context.node.attributes.pop("spatial", None)


def _training_outputs(context: Context) -> None:
    """BatchNormalization 14 says with an attribute what it said by having more outputs."""
    if len(context.node.outputs) > 1:
        raise UnsupportedError("it is in training form; freeze the model first")


def _softmax(context: Context) -> None:
    """Softmax 13 works on one axis; before, on all axes from the given one (default 1) on.

    Over the last axis, both are the same. Else flatten, so that all these axes are the last one,
    and restore the shape after.
    """
    node, n = context.node, rank(context.node.inputs[0])
    axis = attribute(node, "axis", 1)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    if axis == -1 or (n is not None and axis % n == n - 1) or _rest_is_one(node, axis):
        if axis != -1 and n is not None and axis % n != n - 1:
            node.attributes["axis"] = ir.AttrInt64("axis", axis)
        return
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    shape = ir.node("Shape", [source])
    flat = ir.node("Flatten", [source], {"axis": axis})
    wide = ir.node(node.op_type, flat.outputs, {"axis": -1})
    back = ir.node("Reshape", [wide.outputs[0], shape.outputs[0]])
    for made, what in ((shape, "shape"), (flat, "flat"), (wide, "wide")):
        made.name = made.outputs[0].name = context.names(f"{output.name}_{what}")
    back.name = node.name
    ir.convenience.replace_nodes_and_values(
        graph_of(node), node, [node], [shape, flat, wide, back], [output], back.outputs
    )


def _rest_is_one(node: ir.Node, axis: int) -> bool:
    """Tell whether only the given axis, of all from it on, is longer than 1: (N, C, 1, 1)."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return shape is not None and all(d == 1 for d in list(shape)[axis % max(len(shape), 1) + 1 :])


def _upsample(context: Context) -> None:
    """Upsample, gone since 10, is a Resize that never shrinks."""
    context.node.op_type = "Resize"
    context.node.meta[GROWS] = True


def _resize(context: Context) -> None:
    """Resize 11: how Resize 10 and Upsample map coordinates is one choice among several."""
    node, scales = context.node, context.node.inputs[1]
    mode, values = attribute(node, "mode", "nearest"), array(scales)
    shrinks = values is not None and bool((values < 1).any())
    grows = bool(node.meta.get(GROWS)) or (values is not None and bool((values >= 1).all()))
    if mode == "nearest" and not grows and (values is None or bool((values > 1).any())):
        raise UnsupportedError("its scales are computed, or go both ways, and opset 10 rounds each "
                               "way differently")  # fmt: skip
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "asymmetric"
    )
    if mode == "nearest":
        rounding = "ceil" if shrinks else "floor"  # as onnxruntime does it: opset 10 does not say
        node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", rounding)
    roi = context.constant(np.zeros(0, np.float32))
    node.resize_inputs(3)
    node.replace_input_with(1, roi)
    node.replace_input_with(2, scales)


def _half_pixel(context: Context) -> None:
    """Resize 13 has no tf_half_pixel_for_nn any more."""
    if attribute(context.node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise UnsupportedError("its coordinate_transformation_mode is tf_half_pixel_for_nn")


def _grid_sample(context: Context) -> None:
    """GridSample 20 calls bilinear linear, and bicubic cubic."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = attribute(context.node, "mode", "bilinear")
    context.node.attributes["mode"] = ir.AttrString("mode", names.get(mode, mode))


def _group_norm(context: Context) -> None:
    """GroupNormalization 21 has a scale and a bias per channel; before, per group."""
    node, shape = context.node, static_shape(context.node.inputs[1])
    dims = node.inputs[0].shape if node.inputs[0] is not None else None
    groups = attribute(node, "num_groups")
    n_channels = dims[1] if dims is not None and len(dims) > 1 else None
    for index in (1, 2):
        values = array(node.inputs[index])
        if values is None or shape is None or not isinstance(n_channels, int):
            raise UnsupportedError("its scale and bias are computed, or its channels unknown")
        node.replace_input_with(index, context.constant(np.repeat(values, n_channels // groups)))


def _scan(context: Context) -> None:
    """Scan 9 has no batch axis any more."""
    raise UnsupportedError("Scan of opset 8 loops over a batch axis")


ANYTHING = ("Constant", "If", "Loop", "Scan")  # only the types of what passes through them grew

ADAPTERS: dict[tuple[str, int], Adapter] = {
    **{(op_type, version): _as_before for op_type in ANYTHING for version in range(8, 29)},
    ("BatchNormalization", 9): _spatial,
    ("BatchNormalization", 14): _training_outputs,
    ("GridSample", 20): _grid_sample,
    ("GroupNormalization", 21): _group_norm,
    ("Hardmax", 13): _softmax,
    ("LogSoftmax", 13): _softmax,
    ("Resize", 11): _resize,
    ("Resize", 13): _half_pixel,
    ("Scan", 9): _scan,
    ("Softmax", 13): _softmax,
    ("Upsample", 10): _upsample,
}
