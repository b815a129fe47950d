"""Packed .qtm files: version 2."""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool import formats
from qtool.formats import qtm_file, tensors
from qtool.model import Model, fingerprint


def packed(model: Model, **options) -> bytes:
    file = io.BytesIO()
    qtm_file.write_packed(model, file, **options)
    return file.getvalue()


def weights(rng) -> dict[str, np.ndarray]:
    """Return tensors that each codec is made for, and difficult ones."""
    bell = np.rint(rng.normal(0, 20, (64, 32, 3, 3))).astype(np.int8)
    shared = rng.normal(0, 1, 31).astype(np.float32)[rng.integers(0, 31, 5000)]
    odd = np.frombuffer(rng.bytes(4 * 300), np.float32).copy()
    odd[:4] = [np.nan, -0.0, np.inf, -np.inf]
    pruned = rng.normal(0, 1, 9000).astype(np.float32) * (rng.random(9000) < 0.3)
    return {
        "bell": bell, "shared": shared, "odd": odd, "pruned": pruned.astype(np.float32),
        "zeros": np.zeros((100, 100), np.float32), "none": np.zeros((0, 7), np.float32),
        "half": rng.normal(0, 1, 999).astype(np.float16), "flags": rng.random(77) < 0.5,
        "brain": rng.normal(0, 1, 999).astype(ml_dtypes.bfloat16),
        "long": np.arange(40).astype(np.int64), "scalar": np.array(3, np.int64),
        "double": rng.normal(0, 1, 300), "wide": rng.normal(0, 1, 90).astype(np.complex128),
        "nibbles": rng.integers(-8, 8, 1001).astype(ml_dtypes.int4),
    }  # fmt: skip


@pytest.fixture
def model(rng) -> Model:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.zeros(1, np.float32), "unused")],
    )
    made = Model(ir.serde.deserialize_model(helper.make_model(graph, ir_version=10)))
    for name, values in weights(rng).items():
        tensor = ir.Tensor(values, name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype))
        value.shape = ir.Shape(values.shape)
        made.graph.register_initializer(value)
    text = ir.StringTensor([b"a" * 99, b"\xff"], shape=ir.Shape([2]), name="text")
    value = ir.Value(name="text", const_value=text, type=ir.TensorType(ir.DataType.STRING))
    value.shape = ir.Shape([2])
    made.graph.register_initializer(value)
    return made


def test_every_bit_comes_back(model) -> None:
    loaded = qtm_file.loads(packed(model), name="m")

    for name, value in model.graph.initializers.items():
        if name != "text":
            found = loaded.graph.initializers[name].const_value
            assert found.tobytes() == value.const_value.tobytes(), name
    assert fingerprint(loaded) == fingerprint(model)


def test_the_bytes_do_not_depend_on_the_threads(model) -> None:
    assert packed(model, threads=1) == packed(model, threads=3)


def test_a_packed_model_packs_to_the_same_bytes(model) -> None:
    once = packed(model)

    assert packed(qtm_file.loads(once, name="m")) == once


def test_max_is_not_larger(model) -> None:
    assert len(packed(model, max=True)) <= len(packed(model))


def test_it_unpacks_to_what_was_never_packed(model) -> None:
    assert qtm_file.dumps(qtm_file.loads(packed(model), name="m")) == qtm_file.dumps(model)


@pytest.mark.parametrize("name", ["tiny", "dtypes", "full"])
def test_golden_models_come_back(builders, name) -> None:
    model = builders[name]()

    loaded = qtm_file.loads(packed(model), name="m")

    assert qtm_file.dumps(loaded) == qtm_file.dumps(model)


def test_the_size_is_known_without_a_file(model, tmp_path) -> None:
    formats.pack(model, tmp_path / "m.qtm")

    assert formats.packed_size(model) == (tmp_path / "m.qtm").stat().st_size


def test_equal_tensors_are_stored_once(model) -> None:
    before = len(packed(model))
    again = ir.Tensor(model.graph.initializers["bell"].const_value.numpy().copy(), name="again")
    value = ir.Value(name="again", const_value=again, type=ir.TensorType(again.dtype))
    value.shape = ir.Shape(again.shape.numpy())
    model.graph.register_initializer(value)

    assert len(packed(model)) < before + 100


def test_the_chain_of_codecs_can_be_seen(model) -> None:
    loaded = qtm_file.loads(packed(model), name="m")

    stored = loaded.graph.initializers["shared"].const_value

    assert isinstance(stored, tensors.StoredTensor)
    assert stored.chain().startswith("codebook(")
