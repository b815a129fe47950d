from __future__ import annotations

import json

import numpy as np
import pytest
from quant.graphs import model_of

from qtool.model import BatchNormStatistics, Model
from qtool.quant.chains import chains
from qtool.quant.equalize import ChannelStatistics, observed_names
from qtool.quant.twins import KEY, aligned, find_twins, with_twins
from qtool.runtime.ort import OrtSession

DEAD, LOUD = 2, 5  # a channel that is always 0, and one that the reader multiplies by most


def separable(rng, *, pads=0, constant=-1.0):
    """Return conv -> Clip -> depthwise conv -> Relu -> conv, one channel of which never changes."""
    w1, w3 = rng.normal(size=(8, 3, 3, 3)), rng.normal(size=(4, 8, 1, 1))
    w1[DEAD], w3[:, LOUD] = 0.0, w3[:, LOUD] * 20
    b1, b2 = np.full(8, 2.0), np.full(8, 1.0)
    b1[DEAD] = b2[DEAD] = constant
    w2 = np.abs(rng.normal(size=(8, 1, 3, 3))) / 5
    return model_of(
        f"""
        net (float[1, 3, 10, 10] x, float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2,
             float[4,8,1,1] w3, float[4] b3, float low, float high) => (float[1, 4, h, w] y) {{
            a = Conv(x, w1, b1)
            b = Clip(a, low, high)
            c = Conv<group = 8>(b, w2, b2)
            d = Relu(c)
            y = Conv<pads = [{pads}, {pads}, {pads}, {pads}]>(d, w3, b3)
        }}
        """,
        w1=(w1 / 4).astype(np.float32), b1=b1.astype(np.float32), w2=w2.astype(np.float32),
        b2=b2.astype(np.float32), w3=w3.astype(np.float32),
        b3=rng.normal(size=4).astype(np.float32), low=np.float32(0), high=np.float32(6),
    )  # fmt: skip


def inputs(rng, n=8):
    return [rng.uniform(-1, 1, (1, 3, 10, 10)).astype(np.float32) for _ in range(n)]


def run(model: Model, x, outputs=None):
    return OrtSession(model, outputs=outputs).run({"x": x})


def known(model: Model, samples):
    names = observed_names(model)
    runs = [{"x": x, **run(model, x, [n for n in names if n != "x"])} for x in samples]
    found = {}
    for name in names:
        values = np.stack([one[name] for one in runs]).astype(np.float64)
        axes = tuple(i for i in range(values.ndim) if i != 2)
        found[name] = ChannelStatistics(
            values.min(axes), values.max(axes), values.mean(axes), values.var(axes)
        )
    return found


def twins_of(model, samples):
    return find_twins(model, known(model, samples), levels=255)


def test_the_place_of_a_channel_that_never_changes_goes_to_the_costliest(rng):
    model = separable(rng)

    found = twins_of(model, inputs(rng))

    assert np.flatnonzero(found["a"].sources == LOUD).tolist() == [DEAD, LOUD]


def test_channels_that_change_keep_their_place(rng):
    found = twins_of(separable(rng), inputs(rng))

    kept = np.arange(8) != DEAD
    assert np.array_equal(found["a"].sources[kept], np.arange(8)[kept])


@pytest.mark.parametrize("constant", [-1.0, 0.7])
def test_the_model_stays_the_same_function(rng, constant):
    model, samples = separable(rng, constant=constant), inputs(rng)

    twinned = with_twins(model, twins_of(model, samples))

    for x in samples:
        want = run(model, x)["y"]
        assert np.allclose(run(twinned, x)["y"], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_padding_a_constant_is_not_what_a_bias_can_do(rng):
    assert twins_of(separable(rng, pads=1, constant=0.7), inputs(rng)) == {}


def test_shifts_of_copies_add_up_to_nothing(rng):
    shifts = twins_of(separable(rng), inputs(rng))["a"].shifts

    assert np.any(shifts != 0)
    assert np.allclose(shifts.sum(1), 0, atol=1e-12)


def test_copies_round_finer(rng):
    model, samples = separable(rng), inputs(rng)
    twinned = with_twins(model, twins_of(model, samples))
    step = 6 / 255  # Clip's

    def error(one: Model) -> float:
        total = 0.0
        weight, bias = (one.graph.initializers[n].const_value.numpy() for n in ("w3", "b3"))
        for x in samples:
            d = run(one, x, ["d"])["d"]
            y = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], np.rint(d / step) * step)
            total += np.square(y + bias[:, None, None] - run(model, x)["y"]).sum()
        return total

    assert error(twinned) < error(model) / 2


def test_a_reference_gets_the_twins_that_the_model_has(rng):
    model, samples = separable(rng), inputs(rng)
    twinned = with_twins(model, twins_of(model, samples))

    found = aligned(model, twinned)

    for name in ("b", "d"):
        want = run(twinned, samples[0], [name])[name]
        assert np.array_equal(run(found, samples[0], [name])[name], want)


DAMAGED = (
    "", "[]", '{"a":1}', '{"a":[[0],[0],[0]]}', '{"z":[[0],[1],[0],[1,1]]}',
    '{"a":[[0],[9],[0],[1,1]]}', '{"a":[[0],[1],[0],[1]]}', '{"a":[[],[],[],[1,1]]}',
)  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_record_is_ignored(rng, damaged):
    model = separable(rng)
    other = model.copy()
    other.ir.metadata_props[KEY] = damaged

    assert aligned(model, other) is model


def test_the_record_is_small_and_json(rng):
    model = separable(rng)
    twinned = with_twins(model, twins_of(model, inputs(rng)))

    text = twinned.ir.metadata_props[KEY]
    assert list(json.loads(text)) == ["a"]
    assert len(text) < 100


def test_batch_norm_statistics_follow_the_copies(rng):
    model = separable(rng)
    mean = np.arange(8, dtype=np.float32)
    model.batch_norm["a"] = BatchNormStatistics(mean, np.ones(8, np.float32))

    found = with_twins(model, twins_of(model, inputs(rng))).batch_norm["a"]

    assert abs(found.mean[DEAD] - LOUD) < 0.1


def test_a_chain_ends_where_another_op_reads_the_channels(rng):
    model = model_of(
        """
        net (float[1, 3, 4, 4] x, float[8,3,1,1] w1, float[8] b1, float[4,8,1,1] w2)
             => (float[1, 4, 4, 4] y, float[1, 8, 4, 4] z) {
            a = Conv(x, w1, b1)
            z = Sigmoid(a)
            y = Conv(a, w2)
        }
        """,
        w1=rng.normal(size=(8, 3, 1, 1)).astype(np.float32), b1=np.zeros(8, np.float32),
        w2=rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
    )  # fmt: skip

    assert chains(model) == []
