from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import model_of

from qtool import formats
from qtool.data import open_samples
from qtool.quant.pair_sums import INT16_MAX, hazard_channels, hazards
from qtool.stages.calibrate import calibrate
from qtool.stages.quantize import quantize


@pytest.fixture
def node(rng):
    model = model_of(
        "net (float[n, 6, 4, 4] x, float[5,6,3,3] w) => (float[n, 5, 2, 2] y) { y = Conv(x, w) }",
        w=rng.normal(size=(5, 6, 3, 3)).astype(np.float32),
    )
    return model.graph[0]


def saturates(rows, largest):
    """Try the extremes of each pair of products, as vpmaddubsw would see them."""
    found = []
    for channel, row in enumerate(rows):
        row = np.append(row, 0) if len(row) % 2 else row
        for w0, w1 in row.reshape(-1, 2).astype(int):
            sums = [a * w0 + b * w1 for a in (0, largest) for b in (0, largest)]
            if max(sums) > INT16_MAX or min(sums) < -INT16_MAX - 1:
                found.append(channel)
                break
    return found


@pytest.mark.parametrize("largest", [255, 200, 140, 100])
def test_the_channels_are_those_that_the_instruction_saturates(node, rng, largest):
    weight = rng.integers(-127, 128, (5, 6, 3, 3)).astype(np.int8)
    weight[1] //= 3

    channels, worst = hazard_channels(weight, node, largest)

    first = saturates(weight.reshape(5, -1), largest)
    last = saturates(np.moveaxis(weight, 1, -1).reshape(5, -1), largest)
    assert channels == sorted({*first, *last})
    assert (worst > INT16_MAX) == bool(channels)


def test_7_bit_weights_are_no_hazard(node, rng):
    weight = rng.integers(-64, 65, (5, 6, 3, 3)).astype(np.int8)

    assert hazard_channels(weight, node, 255)[0] == []


@pytest.fixture
def calibrated(rng, tmp_path):
    model = model_of(
        "net (float[n, 16] x, float[16,8] w) => (float[n, 8] y) { y = Gemm(x, w) }",
        w=np.full((16, 8), 0.5, np.float32),
    )
    np.savez(tmp_path / "x.npz", x=rng.uniform(0, 1, (32, 16)).astype(np.float32))
    return calibrate(model, data=open_samples(str(tmp_path / "x.npz"), model.inputs()))


def test_equal_large_weights_are_a_hazard(calibrated):
    (found,) = hazards(quantize(calibrated, range="minmax"))

    assert found.calibrated
    assert (len(found.channels), found.n_channels, found.largest_activation) == (8, 8, 255)
    assert found.worst == 255 * 254


def test_a_calibrated_maximum_below_the_grids_clears_a_layer(calibrated):
    from dataclasses import replace

    quantized = quantize(calibrated, range="minmax")
    statistics = quantized.statistics
    known = {n: replace(t, maximum=t.maximum / 3) for n, t in statistics.tensors.items()}
    smaller = replace(quantized, statistics=replace(statistics, tensors=known))

    (found,) = hazards(smaller)

    assert (found.channels, found.largest_activation) == ((), 85)


def test_the_command_lists_the_layers(calibrated, tmp_path, cli):
    formats.save(quantize(calibrated), tmp_path / "q.onnx")

    done = cli("inspect", "--target", "avx2", tmp_path / "q.onnx")

    assert done.exit_code == 0, done.stderr
    assert "layers: 1 of 1 can saturate" in done.stdout
    assert "255 (not calibrated)" in done.stdout
