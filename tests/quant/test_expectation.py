from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quant.graphs import model_of, node

import qtool
from qtool.data import open_samples
from qtool.errors import UsageError
from qtool.model import BatchNormStatistics
from qtool.quant.expectation import Moments, _clipped, expected
from qtool.runtime.ort import OrtSession


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (0.0, 6.0), (-1.0, 2.0), (-np.inf, 1.0)])
def test_a_clipped_normal_has_the_moments_that_sampling_shows(rng, low, high):
    one = Moments(np.array([-4.0, -0.5, 0.0, 1.0, 5.5, 20.0]), np.array([1.0, 2.0, 0.5, 3.0, 1, 2]))
    drawn = np.clip(rng.normal(one.mean, one.std, (200_000, 6)), low, high)

    found = _clipped(one, low, high)

    np.testing.assert_allclose(found.mean, drawn.mean(0), atol=0.03)
    np.testing.assert_allclose(found.std, drawn.std(0), atol=0.03)


def test_a_channel_that_never_varies_stays_what_it_is():
    found = _clipped(Moments(np.array([-1.0, 2.0]), np.zeros(2)), 0.0, np.inf)

    np.testing.assert_allclose(found.mean, [0, 2], atol=1e-9)
    np.testing.assert_allclose(found.std, 0, atol=1e-5)


def net(rng):
    """Return conv -> relu -> two branches -> add and concat -> conv -> pool -> gemm."""
    model = model_of(
        """
        net (float[1, 3, 16, 16] x, float[8,3,3,3] w1, float[8] b1, float[8,1,1,1] w2, float[8] b2,
             float[4,16,1,1] w3, float[5,4] w4) => (float[1, 5] y) {
            a = Conv(x, w1, b1)
            b = Relu(a)
            c = Conv<group = 8>(b, w2, b2)
            d = Add(c, b)
            e = Concat<axis = 1>(d, b)
            f = Conv(e, w3)
            g = GlobalAveragePool(f)
            h = Flatten(g)
            y = Gemm<transB = 1>(h, w4)
        }
        """,
        w1=(rng.normal(size=(8, 3, 3, 3)) / 3).astype(np.float32),
        b1=rng.normal(size=8).astype(np.float32),
        w2=rng.normal(size=(8, 1, 1, 1)).astype(np.float32),
        b2=rng.normal(size=8).astype(np.float32),
        w3=rng.normal(size=(4, 16, 1, 1)).astype(np.float32),
        w4=rng.normal(size=(5, 4)).astype(np.float32),
    )
    samples = rng.normal(size=(64, 1, 3, 16, 16)).astype(np.float32)
    values = np.stack([OrtSession(model, outputs=["a"]).run({"x": x})["a"] for x in samples])
    known = BatchNormStatistics(values.mean((0, 1, 3, 4)), values.std((0, 1, 3, 4)))
    return replace(model, batch_norm={"a": known}), samples


def test_means_follow_through_relu_layers_sums_concatenations_and_pools(rng):
    model, samples = net(rng)
    found = {value.name: moments for value, moments in expected(model).items()}

    session = OrtSession(model, outputs=list("abcdefghy"))
    runs = [session.run({"x": x}) for x in samples]
    for name in "abcdefghy":
        seen = np.concatenate([run[name] for run in runs])
        mean = seen.mean(tuple(i for i in range(seen.ndim) if i != 1))
        np.testing.assert_allclose(found[name].mean, mean, atol=0.1)


def test_what_nothing_is_known_of_is_left_out(rng):
    model, _ = net(rng)

    found = expected(replace(model, batch_norm={}))

    assert found == {}
    assert node(model, "a").inputs[0] not in expected(model)


def test_biases_take_the_expected_error(rng, tmp_path):
    model, samples = net(rng)
    np.savez(tmp_path / "x.npz", x=samples[:, 0])
    data = open_samples(str(tmp_path / "x.npz"), model.inputs())
    calibrated = qtool.calibrate(model, data=data)

    def offset(correct):
        made = qtool.quantize(
            calibrated, rounding="nearest", correct=correct, weights="int4", activations="int16"
        )
        sessions = [OrtSession(one) for one in (made, model)]
        runs = [[s.run({"x": x})["y"] for x in samples] for s in sessions]
        return float(np.abs(np.mean(runs[0], axis=0) - np.mean(runs[1], axis=0)).mean())

    assert offset("analytic") < 0.5 * offset("none")
    assert offset("auto") == offset("analytic")


def test_without_batch_norm_statistics_it_is_refused(rng, tmp_path):
    model, samples = net(rng)
    np.savez(tmp_path / "x.npz", x=samples[:, 0])
    bare = replace(model, batch_norm={})
    calibrated = qtool.calibrate(bare, data=open_samples(str(tmp_path / "x.npz"), model.inputs()))

    with pytest.raises(UsageError, match="--correct analytic needs batch-norm statistics"):
        qtool.quantize(calibrated, correct="analytic")
