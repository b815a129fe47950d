from __future__ import annotations

import compressible
import numpy as np
import onnx_ir as ir
import pytest
from compressible import packed, relative, values

from qtool.errors import UnsupportedError, UsageError
from qtool.model import array
from qtool.stages.cluster import cluster
from qtool.stages.prune import prune
from qtool.stages.quantize import quantize


@pytest.fixture(scope="module")
def network():
    return compressible.network()


def test_every_tensor_has_few_values(network):
    model, samples = network

    found = cluster(model, clusters=16)

    assert all(np.unique(values(found, name)).size <= 16 for name in ("w", "v"))
    assert relative(model, found, samples) < 0.02


def test_bits_are_those_of_the_average(network):
    found = cluster(network[0], bits=4)

    sizes = {name: np.unique(values(found, name)).size for name in ("w", "v")}
    assert min(sizes.values()) <= 16 <= max(sizes.values())


def test_a_grid_is_smaller_at_equal_error(network):
    model, samples = network
    shared = cluster(model, clusters=16)

    found = cluster(model, method="grid", bits=4)

    assert relative(model, found, samples) < relative(model, shared, samples) * 1.5
    assert packed(found) < packed(shared)


@pytest.mark.parametrize("method", ["kmeans", "grid"])
def test_a_target_ratio_is_met(network, method):
    model = network[0]
    full = sum(v.const_value.nbytes for v in model.graph.initializers.values())

    found = cluster(model, method=method, target_ratio=1.5, data=network[1])

    assert packed(found) <= full / 1.5


def test_zeros_stay_zeros(network):
    sparse = prune(network[0], sparsity=0.5)

    found = cluster(sparse, clusters=8)

    assert np.all(values(found, "v")[values(sparse, "v") == 0] == 0)


def test_a_quantized_model_stays_on_its_grid(network):
    model, samples = network
    quantized = quantize(model, data=None)

    found = cluster(quantized, clusters=16)

    integers = [v for v in found.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    large = [np.asarray(array(v)) for v in integers if v.const_value.size >= 256]
    assert large
    assert all(np.unique(x).size <= 16 for x in large)
    assert [n.op_type for n in found.graph] == [n.op_type for n in quantized.graph]
    assert relative(model, found, samples) < 0.05


def test_scales_and_biases_make_up_for_shared_integers(network, monkeypatch):
    model, samples = network
    quantized = quantize(model, data=None)
    fitted = cluster(quantized, clusters=4, only=("Conv", "Gemm"))
    monkeypatch.setattr("qtool.stages.cluster.refit", lambda *given: None)

    plain = cluster(quantized, clusters=4, only=("Conv", "Gemm"))

    assert relative(quantized, fitted, samples) < 0.9 * relative(quantized, plain, samples)
    for node in fitted.graph:
        if node.op_type in ("Conv", "Gemm"):
            x, w, b = (array(value.producer().inputs[1]) for value in node.inputs)
            assert np.array_equal(np.broadcast_to(x * w, b.shape), b)


def test_threads_do_not_change_a_bit(network):
    one, two = (cluster(network[0], method="grid", bits=3, threads=n) for n in (1, 2))

    for name in one.graph.initializers:
        assert np.array_equal(values(one, name), values(two, name))


def test_the_argument_is_not_edited(network):
    model = network[0]
    before = {name: values(model, name).copy() for name in model.graph.initializers}

    cluster(model, clusters=4)

    assert all(np.array_equal(values(model, name), x) for name, x in before.items())


@pytest.mark.parametrize(
    "options",
    [{}, {"bits": 4, "clusters": 8}, {"bits": 0}, {"clusters": 1}, {"target_ratio": 0.5},
     {"method": "grid", "clusters": 8}, {"method": "best", "bits": 4}, {"init": "x", "bits": 4}],
)  # fmt: skip
def test_options_that_contradict_are_refused(network, options):
    with pytest.raises(UsageError):
        cluster(network[0], **options)


def test_nothing_to_cluster_is_said(network):
    with pytest.raises(UnsupportedError, match="no constant weight"):
        cluster(network[0], bits=4, only=("Relu",))


def test_a_ratio_out_of_reach_is_said(network):
    with pytest.raises(UnsupportedError, match="smallest"):
        cluster(network[0], method="grid", target_ratio=50.0)
