from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from quant.graphs import model_of

from qtool.errors import ModelError, UsageError
from qtool.model import Statistics, TensorStatistics
from qtool.stages.describe import describe

NET = "g (float[2] x, float[4] w, float s, uint8 z) => (float[2] y) { %s }"
QUANTIZED = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"
VALUES = {
    "w": np.array([-1, 0, 0, 3], np.float32),
    "s": np.array(0.5, np.float32),
    "z": np.array(0, np.uint8),
}


def model(body="y = Relu(x)", **tensors):
    statistics = Statistics("hash", "samples", 10, tensors=tensors) if tensors else None
    return replace(model_of(NET % body, **VALUES), statistics=statistics)


def halves(first, counts, n_zeros=0):
    """Statistics with bins of width 0.5 from first / 2 on."""
    known = np.array(counts, np.int64)
    top = (first + len(counts)) / 2
    return TensorStatistics(first / 2, top, int(known.sum()), n_zeros, -1, first, known)


def test_a_weight_is_described_by_its_values():
    found = describe(model(), "w")

    assert (found.minimum, found.maximum, found.n_zeros, found.n_distinct) == (-1, 3, 2, 3)


def test_the_histogram_counts_every_value():
    assert sum(describe(model(), "w").counts) == 4


def test_the_histogram_of_one_value_has_one_bin():
    flat = model_of(NET % "y = Relu(x)", **VALUES | {"w": np.full(4, 1e30, np.float32)})

    assert describe(flat, "w").counts == (4,)


def test_bins_of_integers_hold_whole_numbers():
    known = VALUES | {"w": np.arange(4, dtype=np.float32), "z": np.array(200, np.uint8)}

    found = describe(model_of(NET % "y = Relu(x)", **known), "z")

    assert (found.edges, found.counts) == ((199.5, 200.5), (1,))


@pytest.mark.parametrize("values", [np.arange(-128, 127), np.arange(33), np.array([7])])
def test_every_integer_is_in_one_of_few_bins(values):
    known = VALUES | {"w": values.astype(np.int8)}

    found = describe(model_of(NET.replace("float[4] w", "int8[n] w") % "y = Relu(x)", **known), "w")

    assert (sum(found.counts), len(found.counts) <= 32) == (len(values), True)


def test_percentiles_of_a_large_weight_are_close(monkeypatch):
    values = np.linspace(-3, 5, 5000, dtype=np.float32)[::-1]
    large = model_of(
        NET.replace("float[4] w", "float[n] w") % "y = Relu(x)", **VALUES | {"w": values}
    )
    monkeypatch.setattr("qtool.stages.describe.CHUNK", 1000)

    found = describe(large, "w")

    np.testing.assert_allclose(
        [value for _, value in found.percentiles],
        np.percentile(values, [p for p, _ in found.percentiles]),
        atol=8 / 4999,
    )


def test_an_empty_weight_has_no_values():
    known = VALUES | {"w": np.zeros(0, np.float32)}

    found = describe(model_of(NET.replace("[4] w", "[0] w") % "y = Relu(x)", **known), "w")

    assert (found.count, found.minimum, found.maximum) == (0, 0.0, 0.0)


def test_nan_and_infinity_are_counted_apart():
    bad = np.array([np.nan, np.inf, 1, 2], np.float32)

    found = describe(model_of(NET % "y = Relu(x)", **VALUES | {"w": bad}), "w")

    assert (found.n_not_finite, found.count, found.maximum) == (2, 2, 2.0)


def test_an_activation_is_described_by_its_statistics():
    found = describe(model(x=halves(-2, [1, 3, 5, 1])), "x")

    assert (found.kind, found.source, found.edges, found.counts) == (
        "activation",
        "10 samples",
        (-1.0, -0.5, 0.0, 0.5, 1.0),
        (1, 3, 5, 1),
    )


def test_many_bins_are_joined_in_pairs():
    found = describe(model(x=halves(-50, [1] * 100)), "x")

    assert (len(found.counts) <= 32, sum(found.counts), found.edges[1] % 1) == (True, 100, 0)


def test_percentiles_put_zeros_at_zero():
    found = describe(model(x=halves(0, [90, 10], n_zeros=80)), "x")

    assert (dict(found.percentiles)[50.0], dict(found.percentiles)[99.0]) == (
        0.0,
        pytest.approx(0.95),
    )


def test_the_range_of_a_quantized_activation_comes_with_what_it_clips():
    found = describe(model(QUANTIZED, x=halves(254, [6, 4])), "x")

    assert (found.encoding.range, found.n_clipped) == ((0.0, 127.5), pytest.approx(2.0))


def test_an_activation_without_statistics_says_how_to_get_them():
    with pytest.raises(
        ModelError, match="has no statistics of 'y'; make some with qtool calibrate"
    ):
        describe(model(), "y")


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(UsageError, match="no tensor of 5 is named 'ww'; did you mean 'w'"):
        describe(model(), "ww")


def test_a_description_is_json():
    found = describe(model(QUANTIZED, x=halves(254, [6, 4])), "x")

    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["encoding"]["dtype"] == "uint8"
