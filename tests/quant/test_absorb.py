from __future__ import annotations

import json

import numpy as np
import pytest
from quant.graphs import model_of, node, ops
from quant.test_equalize import inputs, statistics

from qtool.model import BatchNormStatistics, Model, array
from qtool.quant.absorb import absorption
from qtool.quant.absorbers import ABSORBERS
from qtool.quant.equalize import ChannelStatistics, problem
from qtool.quant.equalizers import EQUALIZERS
from qtool.quant.equalizers.noise import predicted
from qtool.quant.offsets import offset_ties
from qtool.quant.rescale import OFFSETS, Change, aligned, named, rescaled
from qtool.runtime.ort import OrtSession


def biased(rng, activation="Relu(a)", between="Identity(b)", conv="", n=6, bias=20.0):
    """Return conv -> activation -> an op -> conv; every third channel has a high bias."""
    edges = rng.normal(size=(4, n, 3, 3)) / 60
    edges -= edges.mean((2, 3), keepdims=True)  # so that the outputs do not depend on the biases
    high = np.where(np.arange(6) % 3 == 0, bias, 0.0).astype(np.float32)
    return model_of(
        f"""
        net (float[1, 3, 8, 8] x, float[6,3,1,1] w1, float[6] b1, float[4,{n},3,3] w2,
             float[6] slope, float low, float limit) => (float[1, 4, h, w] y) {{
            a = Conv(x, w1, b1)
            b = {activation}
            c = {between}
            y = Conv{conv}(c, w2)
        }}
        """,
        w1=rng.normal(size=(6, 3, 1, 1)).astype(np.float32), b1=high,
        w2=edges.astype(np.float32),
        slope=np.full(6, 0.1, np.float32), low=np.float32(0), limit=np.float32(24),
    )  # fmt: skip


PASS = {
    "relu": {},
    "leaky": {"activation": "LeakyRelu<alpha = 0.1>(a)"},
    "clip": {"activation": "Clip(a, low, limit)"},
    "clip that cuts": {"activation": "Clip(a, low, limit)", "bias": 23.5},
    "max": {"between": "MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(b)"},
    "average": {"between": "AveragePool<kernel_shape = [3,3], pads = [1,1,1,1]>(b)"},
    "concat": {"between": "Concat<axis = 1>(b, b)", "n": 12},
    "valid": {"conv": '<auto_pad = "VALID">'},
}
STAY = {
    "pads": {"conv": "<pads = [1,1,1,1]>"},
    "same": {"conv": '<auto_pad = "SAME_UPPER">'},
    "zeros in an average": {
        "between": "AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>(b)"
    },
    "sum": {"between": "Add(b, b)"},
}


def find(model, samples, method="samples", factors=None, *, per_channel=True):
    known = statistics(model, samples)
    found = problem(model, known, per_channel=per_channel)
    assert found is not None
    can = absorption(model, found, known, ABSORBERS[method])
    return can, can(np.ones(len(found.lower)) if factors is None else factors)


def change(can, made):
    return Change({}, named(can.tied, made.offsets, 0.0))


@pytest.mark.parametrize("name", PASS)
@pytest.mark.parametrize("fold", [False, True])
def test_the_model_with_absorbed_biases_is_the_same_function(rng, name, fold):
    model, samples = biased(rng, **PASS[name]), inputs(rng)
    can, made = find(model, samples)

    changed = rescaled(model, change(can, made), fold=fold)

    assert made.n_ranges >= 1
    for x in samples:
        want, got = (OrtSession(m, outputs=["y"]).run({"x": x})["y"] for m in (model, changed))
        np.testing.assert_allclose(want, got, atol=1e-4)


def test_ranges_end_lower_and_the_predicted_error_falls(rng):
    model, samples = biased(rng), inputs(rng)
    can, made = find(model, samples)
    changed = rescaled(model, change(can, made))

    top = [max(OrtSession(m, outputs=["b"]).run({"x": x})["b"].max() for x in samples)
           for m in (model, changed)]  # fmt: skip

    assert top[1] < top[0] / 2
    assert made.error < predicted(can.problem, np.ones(len(can.problem.lower))) / 2


def test_only_what_lowers_the_range_is_absorbed(rng):
    can, made = find(biased(rng), inputs(rng))

    assert 0 < (made.offsets > 0).sum() <= 2  # channels 0 and 3 of 6
    assert np.all(made.offsets <= can.reach)


@pytest.mark.parametrize("name", STAY)
def test_what_no_offset_passes_stays(rng, name):
    model = biased(rng, **STAY[name])
    can, made = find(model, inputs(rng))

    assert not can.reach.any()
    assert not made.offsets.any()


def test_reasons_say_why_a_tensor_stays(rng):
    model = biased(rng, **STAY["pads"])

    assert offset_ties(model).reasons[node(model, "c").outputs[0]] == "a padded Conv reads it"


def test_without_high_biases_nothing_is_absorbed(rng):
    can, made = find(biased(rng, bias=0.0), inputs(rng))

    assert made.n_ranges == 0
    assert not made.offsets.any()
    assert can.utmost.layers == can.problem.layers


def test_factors_and_offsets_go_together(rng):
    model, samples = biased(rng, **PASS["clip"]), inputs(rng)
    can, _ = find(model, samples, per_channel=False)
    factors = EQUALIZERS["error"](can.utmost)
    both = Change(named(can.problem.ties, factors, 1.0), named(can.tied, can(factors).offsets, 0.0))

    assert both.factors
    assert both.offsets
    for fold in (False, True):
        changed = rescaled(model, both, fold=fold)
        for x in samples:
            want, got = (OrtSession(m, outputs=["y"]).run({"x": x})["y"] for m in (model, changed))
            np.testing.assert_allclose(want, got, atol=1e-4)


def test_a_clip_gets_its_limit_less_the_offset(rng):
    model, samples = biased(rng, **PASS["clip"]), inputs(rng)
    can, made = find(model, samples)
    offsets = made.offsets[can.tied.ids[node(model, "b").outputs[0]]]

    exact, folded = (rescaled(model, change(can, made), fold=fold) for fold in (False, True))

    np.testing.assert_allclose(array(node(exact, "b").inputs[1]).ravel(), 24 - offsets)
    assert ops(folded) == ops(model)
    assert float(array(node(folded, "b").inputs[2])) == pytest.approx(24 - offsets.max())


def test_a_reference_is_shifted_like_the_model_by_what_the_model_records(rng):
    model, samples = biased(rng, **PASS["clip"]), inputs(rng)
    changed = rescaled(model, change(*find(model, samples)))

    same = aligned(model, changed)

    for name in ("a", "b", "y"):
        want, got = (
            OrtSession(m, outputs=[name]).run({"x": samples[0]})[name] for m in (changed, same)
        )
        np.testing.assert_array_equal(want, got)


@pytest.mark.parametrize("record", ["[]", '{"a":[1,2]}', '{"a":[]}', '{"y":[0,1,1,1,1]}', "{"])
def test_a_record_that_does_not_fit_is_mentioned_and_ignored(rng, record, caplog):
    model = biased(rng)
    changed = model.copy()
    changed.ir.metadata_props[OFFSETS] = record

    assert aligned(model, changed) is model
    assert "the reference has not the tensors" in caplog.text


def test_offsets_are_recorded_exactly(rng):
    model, samples = biased(rng), inputs(rng)
    can, made = find(model, samples)
    changed = rescaled(model, change(can, made))

    exponent, *counts = json.loads(changed.ir.metadata_props[OFFSETS])["a"]

    ids = can.tied.ids[node(model, "a").outputs[0]]
    np.testing.assert_array_equal(np.ldexp(np.array(counts, float), exponent), made.offsets[ids])


def test_batch_norm_absorbs_three_deviations_below_the_mean(rng):
    seen = ChannelStatistics(*(np.zeros(2) for _ in range(4)))
    trained = BatchNormStatistics(np.array([5, 2], np.float32), np.array([1, 1], np.float32))

    np.testing.assert_array_equal(ABSORBERS["batch-norm"](seen, trained), [2, -1])
    assert ABSORBERS["batch-norm"](seen, None) is None


def test_batch_norm_statistics_are_shifted_along(rng):
    model = biased(rng)
    mean = array(node(model, "a").inputs[2])
    known = BatchNormStatistics(mean, np.full(6, 1.8, np.float32))
    model = Model(model.ir, batch_norm={"a": known})
    can, made = find(model, inputs(rng), "batch-norm")

    changed = rescaled(model, change(can, made))

    ids = can.tied.ids[node(model, "a").outputs[0]]
    assert made.offsets.max() == pytest.approx(20 - 3 * 1.8, abs=0.1)
    np.testing.assert_allclose(changed.batch_norm["a"].mean, mean - made.offsets[ids], rtol=1e-5)
    np.testing.assert_array_equal(changed.batch_norm["a"].std, known.std)
