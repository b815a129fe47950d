from __future__ import annotations

import numpy as np
import pytest

from qtool.data import open_samples
from qtool.data.synthetic import dead_leaves
from qtool.errors import DataError, UsageError
from qtool.model import TensorSpec

RGB = [TensorSpec("x", "float32", ("n", 3, 24, 32))]


def pictures(specs, n=3, preprocess="unit", **options):
    opened = open_samples(None, specs, preprocess=preprocess, samples=n, data_free=True, **options)
    return [np.asarray(next(iter(sample.feeds.values()))) for sample in opened]


@pytest.mark.parametrize(
    ("shape", "preprocess"),
    [
        (("n", 3, 24, 32), "unit"),
        (("n", 1, 24, 32), {"channels": "GRAY", "scale": 1 / 255}),
        (("n", 24, 32, 3), {"layout": "NHWC", "scale": 1 / 255}),
    ],
)
def test_pictures_have_the_size_and_layout_of_the_input(shape, preprocess):
    made = pictures([TensorSpec("x", "float32", shape)], preprocess=preprocess)

    assert [x.shape for x in made] == [(1, *shape[1:])] * 3
    assert all(x.dtype == np.float32 and 0 <= x.min() < x.max() <= 1 for x in made)


def test_a_picture_depends_on_the_seed_and_its_number_only():
    first, again, other = pictures(RGB), pictures(RGB, 2), pictures(RGB, seed=1)

    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


def test_preprocessing_is_done_as_with_photographs():
    unit, tf = pictures(RGB)[0], pictures(RGB, preprocess="tf")[0]

    np.testing.assert_allclose(tf, unit * 2 - 1, atol=1e-5)


def test_the_spectrum_falls_as_that_of_photographs():
    """The amplitude of natural pictures falls as f^-a, a about 1 (Field 1987); white noise: 0."""
    rng = np.random.default_rng(3)
    grey = [dead_leaves(rng, 64, 64).mean(-1) for _ in range(24)]
    power = np.mean([np.abs(np.fft.rfft2(g - g.mean())) ** 2 for g in grey], axis=0)
    f = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64))
    chosen = (f > 0.03) & (f < 0.4)

    slope = np.polyfit(np.log(f[chosen]), np.log(power[chosen]) / 2, 1)[0]

    assert -1.8 < slope < -0.7


@pytest.mark.parametrize("shape", [("n", 10), ("n", 5, 8, 8), ("n", 3, 8, 8, 8)])
def test_an_input_that_takes_no_pictures_is_refused(shape):
    with pytest.raises((DataError, UsageError), match=r"pictures|layout|preprocess"):
        pictures([TensorSpec("x", "float32", shape)])


def test_without_preprocessing_it_asks_for_one():
    with pytest.raises(UsageError, match="--data-free .* --preprocess"):
        pictures(RGB, preprocess=None)


def test_samples_and_data_free_contradict_each_other():
    with pytest.raises(UsageError, match="contradict"):
        open_samples("x.npz", RGB, preprocess="unit", data_free=True)


def test_two_inputs_are_refused():
    with pytest.raises(DataError, match="2 inputs"):
        pictures([*RGB, TensorSpec("y", "float32", ("n", 3, 8, 8))])
