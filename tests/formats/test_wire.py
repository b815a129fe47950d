from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from qtool.errors import FormatError
from qtool.formats import wire


def proto(weights: np.ndarray, **tensor: object) -> onnx.ModelProto:
    """A model with the weights as an initializer, in a Constant, and in a subgraph."""
    initializer = numpy_helper.from_array(weights, "w")
    for field, value in tensor.items():
        setattr(initializer, field, value)
    constant = helper.make_node("Constant", [], ["c"], value=initializer)
    inner = helper.make_graph([], "inner", [], [], [initializer])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([constant, node], "g", [], [], [initializer])
    return helper.make_model(graph)


def test_large_values_are_taken_out_everywhere(rng) -> None:
    model = proto(rng.random(2000, np.float32)).SerializeToString()

    rest = onnx.ModelProto.FromString(wire.take_out(memoryview(model)))

    found = rest.graph.initializer[0]
    entries = {entry.key: entry.value for entry in found.external_data}
    start, length = int(entries["offset"]), int(entries["length"])
    assert entries["location"] == wire.HERE
    assert model[start : start + length] == proto(rng.random(0)).SerializeToString()[:0] + (
        onnx.ModelProto.FromString(model).graph.initializer[0].raw_data
    )
    assert rest.ByteSize() < 1000


def test_packed_floats_are_taken_out_too() -> None:
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2000], np.arange(2000.0))
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))

    rest = onnx.ModelProto.FromString(wire.take_out(memoryview(model.SerializeToString())))

    assert not rest.graph.initializer[0].float_data
    assert rest.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL


def test_small_values_stay(rng) -> None:
    model = proto(rng.random(9, np.float32)).SerializeToString()

    assert wire.take_out(memoryview(model)) == model


def test_what_is_put_in_is_what_protobuf_writes(rng) -> None:
    weights = rng.random(2000, np.float32)
    model = proto(weights, doc_string="words")
    whole = model.SerializeToString(deterministic=True)
    rest = wire.take_out(memoryview(whole))

    pieces = wire.put_in(rest, lambda tensor: memoryview(weights.tobytes()))

    assert b"".join(pieces) == whole


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 9))
def test_damage_raises_format_error_or_gives_bytes(noise: bytes, at: int, cut: int) -> None:
    good = proto(np.zeros(1200, np.float32)).SerializeToString()
    try:
        wire.take_out(memoryview(good[:at] + noise + good[at + cut :]))
    except FormatError as error:
        assert "damaged" in str(error) or "nested" in str(error)  # noqa: PT017


def test_nesting_is_bounded() -> None:
    data = b""
    for _ in range(200):
        for tag in (0x32, 0x2A, 0x0A):  # graph of an attribute of a node of a graph
            data = bytes([tag]) + wire._varint(len(data)) + data

    with pytest.raises(FormatError, match="nested too deeply"):
        wire.take_out(memoryview(b"\x3a" + wire._varint(len(data)) + data))
