from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import model_of, node, ops

from qtool.model import BatchNormStatistics, Model, array
from qtool.quant.equalize import ChannelStatistics, observed_names, problem
from qtool.quant.equalizers import EQUALIZERS
from qtool.quant.equalizers.noise import importance, predicted, terms
from qtool.quant.rescale import KEY, STEPS, aligned, equalized
from qtool.quant.ties import ties
from qtool.runtime.ort import OrtSession


def spread(rng, *shape, decades=2.0):
    """Weights whose output channels differ by so many powers of ten."""
    scale = 10 ** rng.uniform(-decades / 2, decades / 2, shape[0])
    return (rng.normal(size=shape) * scale.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)


def separable(rng, activation="Relu(a)", second="Relu(c)"):
    """Return conv -> activation -> depthwise conv -> activation -> conv -> pool -> gemm."""
    return model_of(
        f"""
        net (float[1, 3, 8, 8] x, float[6,3,3,3] w1, float[6] b1, float[6,1,3,3] w2, float[6] b2,
             float[8,6,1,1] w3, float[8] b3, float[4, 8] w4, float[4] b4, float low, float high)
             => (float[1, 4] y) {{
            a = Conv<pads = [1,1,1,1]>(x, w1, b1)
            b = {activation}
            c = Conv<pads = [1,1,1,1], group = 6>(b, w2, b2)
            d = {second}
            e = Conv(d, w3, b3)
            f = Relu(e)
            g = GlobalAveragePool(f)
            h = Flatten(g)
            y = Gemm<transB = 1>(h, w4, b4)
        }}
        """,
        w1=spread(rng, 6, 3, 3, 3), b1=rng.normal(size=6).astype(np.float32),
        w2=spread(rng, 6, 1, 3, 3), b2=rng.normal(size=6).astype(np.float32),
        w3=spread(rng, 8, 6, 1, 1), b3=rng.normal(size=8).astype(np.float32),
        w4=spread(rng, 4, 8), b4=rng.normal(size=4).astype(np.float32),
        low=np.float32(0), high=np.float32(6),
    )  # fmt: skip


def residual(rng):
    """Return two branches that meet in an Add, and a Concat of that with its input."""
    return model_of(
        """
        net (float[1, 3, 8, 8] x, float[4,3,1,1] w1, float[4,4,3,3] w2, float[4] b2,
             float[5,8,1,1] w3) => (float[1, 5, 8, 8] y) {
            a = Conv(x, w1)
            b = Relu(a)
            c = Conv<pads = [1,1,1,1]>(b, w2, b2)
            d = Add(c, b)
            e = Relu(d)
            f = Concat<axis = 1>(e, b)
            y = Conv(f, w3)
        }
        """,
        w1=spread(rng, 4, 3, 1, 1), w2=spread(rng, 4, 4, 3, 3),
        b2=rng.normal(size=4).astype(np.float32), w3=spread(rng, 5, 8, 1, 1),
    )  # fmt: skip


MODELS = {
    "relu": separable,
    "clip": lambda rng: separable(rng, "Clip(a, low, high)", "Clip(c, low, high)"),
    "leaky": lambda rng: separable(rng, "LeakyRelu<alpha = 0.1>(a)"),
    "residual": residual,
}


def inputs(rng, n=8):
    return [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(n)]


def statistics(model: Model, samples):
    """Return the channel statistics of a model on samples."""
    names = observed_names(model)
    session = OrtSession(model, outputs=[n for n in names if n != "x"])
    runs = [{"x": x, **session.run({"x": x})} for x in samples]
    found = {}
    for name in names:
        values = np.stack([run[name] for run in runs]).astype(np.float64)
        axes = tuple(i for i in range(values.ndim) if i != 2)
        found[name] = ChannelStatistics(
            values.min(axes), values.max(axes), values.mean(axes), values.var(axes)
        )
    return found


def make(model, samples, *, per_channel=False):
    found = problem(model, statistics(model, samples), per_channel=per_channel)
    assert found is not None
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", EQUALIZERS)
def test_the_equalized_model_is_the_same_function(rng, name, method):
    model = MODELS[name](rng)
    factors = EQUALIZERS[method](make(model, inputs(rng)))

    changed = equalized(model, factors)

    assert (factors != 1).any()
    for x in inputs(rng):
        want, got = (OrtSession(m).run({"x": 3 * x})["y"] for m in (model, changed))
        assert np.abs(want - got).max() <= 1e-5 * max(1.0, np.abs(want).max())


def test_a_clip_gets_its_limit_per_channel(rng):
    model = MODELS["clip"](rng)
    factors = EQUALIZERS["error"](make(model, inputs(rng)))

    changed = equalized(model, factors)

    assert "Clip" not in ops(changed)
    limits = array(node(changed, "b").inputs[1])
    np.testing.assert_allclose(
        limits.ravel(), 6 * factors[ties(model).ids[node(model, "b").outputs[0]]]
    )


def test_folded_clips_stay_and_never_cut_what_the_samples_showed(rng):
    model, samples = MODELS["clip"](rng), inputs(rng)
    factors = EQUALIZERS["error"](make(model, samples))

    folded = equalized(model, factors, fold=True)

    assert ops(folded) == ops(model)
    for x in samples:
        want, got = (OrtSession(m).run({"x": x})["y"] for m in (model, folded))
        assert np.abs(want - got).max() <= 1e-5 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_error_predicts_less_error_than_the_plain_model_and_equal_ranges(rng, name, per_channel):
    known = make(MODELS[name](rng), inputs(rng), per_channel=per_channel)

    chosen = predicted(known, EQUALIZERS["error"](known))

    assert chosen <= predicted(known, np.ones(len(known.lower)))
    assert chosen <= 1.05 * predicted(known, EQUALIZERS["ranges"](known))


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_slope_of_the_smooth_error_is_its_derivative(rng, per_channel):
    known = make(MODELS["residual"](rng), inputs(rng), per_channel=per_channel)
    goal = terms(known, importance(known), 16.0)
    u = rng.normal(size=len(known.lower)) / 3

    _, slope = goal(u)

    for i in range(len(u)):
        step = np.zeros(len(u))
        step[i] = 1e-5
        assert slope[i] == pytest.approx((goal(u + step)[0] - goal(u - step)[0]) / 2e-5, abs=1e-6)


def test_ranges_meet_on_both_sides_of_a_channel(rng):
    model = separable(rng)
    factors = EQUALIZERS["ranges"](make(model, inputs(rng)))

    changed = equalized(model, factors)

    made = np.abs(array(node(changed, "e").inputs[1])).max((1, 2, 3))
    read = np.abs(array(node(changed, "y").inputs[1])).max(0)
    np.testing.assert_allclose(made, read, rtol=0.1)


def test_channels_that_meet_in_a_sum_or_a_concat_share_their_factor(rng):
    model = residual(rng)
    tied = ties(model)
    ids = {v.name: i.tolist() for v, i in tied.ids.items()}

    assert ids["b"] == ids["c"] == ids["d"]
    assert ids["f"] == ids["e"] + ids["b"]


def test_what_enters_and_leaves_the_model_keeps_its_factor(rng):
    tied = ties(residual(rng))
    free = {v.name: tied.free[i].any() for v, i in tied.ids.items()}

    assert not free["x"]
    assert not free["y"]
    assert free["b"]


@pytest.mark.parametrize("op", ["Sigmoid(a)", "HardSwish(a)", "Add(a, k)"])
def test_another_op_fixes_its_tensors_and_says_why(rng, op):
    model = model_of(
        f"""
        net (float[1, 3, 4, 4] x, float[4,3,1,1] w1, float[1,4,1,1] k, float[2,4,1,1] w2)
             => (float[1, 2, 4, 4] y) {{
            a = Conv(x, w1)
            b = {op}
            y = Conv(b, w2)
        }}
        """,
        w1=spread(rng, 4, 3, 1, 1), w2=spread(rng, 2, 4, 1, 1), k=np.ones((1, 4, 1, 1), np.float32),
    )  # fmt: skip
    tied = ties(model)

    assert not tied.free.any()
    assert op.split("(")[0] in tied.reasons[node(model, "a").outputs[0]]


def test_a_weight_that_two_layers_read_stays(rng):
    model = model_of(
        """
        net (float[1, 3, 4, 4] x, float[3,3,1,1] w) => (float[1, 3, 4, 4] y) {
            a = Conv(x, w)
            b = Relu(a)
            y = Conv(b, w)
        }
        """,
        w=spread(rng, 3, 3, 1, 1),
    )

    assert not ties(model).free.any()


def test_batch_norm_statistics_are_scaled_along(rng):
    model = separable(rng)
    known = BatchNormStatistics(np.ones(6, np.float32), np.full(6, 2, np.float32))
    model = Model(model.ir, batch_norm={"a": known})
    factors = EQUALIZERS["ranges"](make(model, inputs(rng)))

    changed = equalized(model, factors)

    scale = factors[ties(model).ids[node(model, "a").outputs[0]]]
    np.testing.assert_allclose(changed.batch_norm["a"].mean, scale, rtol=1e-6)
    np.testing.assert_allclose(changed.batch_norm["a"].std, 2 * scale, rtol=1e-6)


def test_a_reference_is_scaled_like_the_model_by_what_the_model_records(rng):
    model = MODELS["clip"](rng)
    samples = inputs(rng)
    changed = equalized(model, EQUALIZERS["error"](make(model, samples)), fold=True)

    same = aligned(model, changed)

    x = samples[0]
    for name in ("b", "d", "f", "y"):
        want, got = (OrtSession(m, outputs=[name]).run({"x": x})[name] for m in (changed, same))
        np.testing.assert_allclose(want, got, atol=1e-5)


def test_without_a_record_the_reference_stays(rng):
    model = separable(rng)

    assert aligned(model, model) is model


@pytest.mark.parametrize(
    "record", ["", "[]", '{"a":[1]}', '{"none":[1]}', '{"y":[1,1,1,1]}', '{"a":[9e9]}', '{"a":"b"}']
)
def test_a_record_that_does_not_fit_is_mentioned_and_ignored(rng, record, caplog):
    model = separable(rng)
    changed = model.copy()
    changed.ir.metadata_props[KEY] = record

    assert aligned(model, changed) is model
    assert "the reference has not the tensors" in caplog.text


def test_factors_are_powers_on_the_grid(rng):
    known = make(MODELS["clip"](rng), inputs(rng))
    for method in EQUALIZERS.values():
        steps = np.log2(method(known)) * STEPS

        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
