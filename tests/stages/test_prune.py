from __future__ import annotations

import compressible
import numpy as np
import pytest
from compressible import packed, relative, values

from qtool.errors import UnsupportedError, UsageError
from qtool.stages._weight_report import weight_report
from qtool.stages.calibrate import calibrate
from qtool.stages.prune import prune
from qtool.stages.quantize import quantize


@pytest.fixture(scope="module")
def network():
    return compressible.network()


def zeros(model, name):
    return float(np.mean(values(model, name) == 0))


def test_half_of_every_dense_layer_goes(network):
    found = prune(network[0], sparsity=0.5)

    assert [zeros(found, name) for name in ("w", "v", "m")] == pytest.approx([0.5] * 3, abs=0.02)


def test_depthwise_weights_and_biases_stay(network):
    found = prune(network[0], sparsity=0.9)

    assert zeros(found, "dw") == 0
    assert np.array_equal(values(found, "dw"), values(network[0], "dw"))


def test_compensation_keeps_outputs_closer(network):
    model, samples = network

    errors = {
        method: relative(model, prune(model, sparsity=0.5, method=method), samples)
        for method in ("obs", "magnitude")
    }

    assert errors["obs"] < errors["magnitude"] / 2


def test_global_scope_meets_the_total_and_costs_less(network):
    model, samples = network

    found = prune(model, sparsity=0.5, scope="global", data=samples)

    shares = {name: zeros(found, name) for name in ("w", "v", "m")}
    sizes = {name: values(found, name).size for name in shares}
    total = sum(shares[n] * sizes[n] for n in shares) / sum(sizes.values())
    assert total == pytest.approx(0.5, abs=0.08)
    assert len({round(share, 1) for share in shares.values()}) > 1


def test_a_target_ratio_is_met(network):
    full = sum(v.const_value.nbytes for v in network[0].graph.initializers.values())

    found = prune(network[0], target_ratio=1.3)

    assert packed(found) <= full / 1.3


def test_without_statistics_the_smallest_go_and_it_is_said(network, caplog):
    from dataclasses import replace

    with caplog.at_level("INFO"):
        found = prune(replace(network[0], statistics=None), sparsity=0.5)

    kept = values(found, "v") != 0
    before = np.abs(values(network[0], "v"))
    assert before[kept].min() >= before[~kept].max()
    assert "magnitude" in caplog.text


def test_the_report_predicts_what_is_measured(network):
    model, samples = network
    found = prune(model, sparsity=0.5)

    report = weight_report(model, found, samples)

    first = report.layers[0]
    assert first.predicted == pytest.approx(first.measured, rel=0.3)
    assert report.to_json()["layers"][0]["sparsity"] == pytest.approx(0.5, abs=0.02)


def test_excluded_layers_stay(network):
    found = prune(network[0], sparsity=0.5, exclude=("Conv",))

    assert (zeros(found, "w"), zeros(found, "v")) == (0, pytest.approx(0.5, abs=0.02))


@pytest.mark.parametrize(
    "options",
    [{}, {"sparsity": 0.5, "target_ratio": 2.0}, {"sparsity": 1.0},
     {"pattern": "2:4", "sparsity": 0.5}, {"pattern": "round", "sparsity": 0.5},
     {"scope": "x", "sparsity": 0.5}, {"max_drop": 1.0},
     {"method": "x", "sparsity": 0.5}, {"target_ratio": 1.0},
     {"pattern": "channel", "target_ratio": 2.0}],
)  # fmt: skip
def test_options_that_contradict_are_refused(network, options):
    with pytest.raises(UsageError):
        prune(network[0], **options)


def test_integers_are_refused(network):
    with pytest.raises(UnsupportedError, match="prune the float model"):
        prune(quantize(network[0]), sparsity=0.5)


def test_the_command_prints_a_table_and_json(network, cli, tmp_path):
    import json

    import qtool

    qtool.save(network[0], tmp_path / "m.qtm")

    result = cli("prune", "-i", tmp_path / "m.qtm", "--pattern", "2:4", "-o", tmp_path / "p.onnx",
                 "--json")  # fmt: skip

    assert result.exit_code == 0
    assert json.loads(result.stdout)["sparsity"] == pytest.approx(0.44, abs=0.06)
    assert "zeros" in result.stderr


@pytest.mark.parametrize("method", [None, "magnitude"])
def test_channels_go_for_good(network, method):
    found = prune(network[0], sparsity=0.5, pattern="channel", method=method)

    shapes = {name: values(found, name).shape for name in ("w", "b", "dw", "v", "u", "m")}
    assert shapes == {
        "w": (8, 4, 3, 3), "b": (8,), "dw": (8, 1, 3, 3), "v": (20, 8), "u": (20,), "m": (20, 6),
    }  # fmt: skip


def test_readers_make_up_for_channels(network):
    model, samples = network

    errors = {
        method: relative(
            model, prune(model, sparsity=0.25, pattern="channel", method=method), samples
        )
        for method in ("obs", "magnitude")
    }

    assert errors["obs"] < errors["magnitude"] / 10


def test_a_share_of_all_weights_goes_with_the_cheapest_channels(network):
    model, samples = network

    found = prune(model, sparsity=0.3, pattern="channel", scope="global", data=samples)

    names = [name for name, v in model.graph.initializers.items() if v.const_value.size > 50]
    before, after = (sum(values(m, name).size for name in names) for m in (model, found))
    assert 0.6 * before < after <= 0.7 * before


RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N,3,6,6] x) => (float[N,5] y)
{
    a = Conv <pads=[1,1,1,1]> (x, w0)
    r = Relu(a)
    b = Conv <pads=[1,1,1,1]> (r, w1)
    s = Add(r, b)
    k = Mul(s, scale)
    c = Conv (k, w2)
    d = Concat <axis=1> (k, c)
    f = Flatten(d)
    y = Gemm <transB=1> (f, v)
}
"""
SHAPES = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "scale": (1, 8, 1, 1), "w2": (4, 8, 1, 1),
          "v": (5, 12 * 36)}  # fmt: skip


def test_channels_go_through_residuals_and_concats(rng):
    model = compressible.bound(RESIDUAL, SHAPES, rng)
    dead = [1, 4]  # of which nothing is ever read
    for name, axis in (("w1", 1), ("w2", 1)):
        np.moveaxis(values(model, name), axis, 0)[dead] = 0
    values(model, "v").reshape(5, 12, 36)[:, [*dead, 10]] = 0
    feeds = [compressible.Fed({"x": rng.normal(size=(2, 3, 6, 6)).astype(np.float32)})]

    found = prune(model, sparsity=0.25, pattern="channel", method="magnitude")

    shapes = {name: values(found, name).shape for name in SHAPES}
    assert shapes == {"w0": (6, 3, 3, 3), "w1": (6, 6, 3, 3), "scale": (1, 6, 1, 1),
                      "w2": (3, 6, 1, 1), "v": (5, 9 * 36)}  # fmt: skip
    np.testing.assert_allclose(
        compressible.outputs(found, feeds), compressible.outputs(model, feeds), rtol=1e-4, atol=1e-4
    )


def test_layers_in_turn_make_up_for_channels(rng):
    bare = compressible.bound(RESIDUAL, SHAPES, rng)
    feeds = [
        compressible.Fed({"x": rng.normal(size=(2, 3, 6, 6)).astype(np.float32).cumsum(3)})
        for _ in range(400)
    ]
    model = calibrate(bare, data=feeds[:300], gram=True)
    given = {"sparsity": 0.5, "pattern": "channel"}

    alone, in_turn = (prune(model, data=data, **given) for data in (None, feeds[:300]))

    assert relative(model, in_turn, feeds[300:]) < 0.9 * relative(model, alone, feeds[300:])


def test_why_no_channel_can_go_is_said(network):
    with pytest.raises(UnsupportedError, match="no channel can be removed: .*excluded"):
        prune(network[0], sparsity=0.5, pattern="channel", only=("MatMul",))
