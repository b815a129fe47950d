from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime.quantization.calibrate import HistogramCollector

from qtool.errors import UsageError
from qtool.model import TensorStatistics
from qtool.statistics.density import density, error, sqnr_db
from qtool.statistics.histogram import Histogram
from qtool.statistics.ranges import RANGES

kl = import_module("qtool.statistics.ranges.entropy")  # the name in the package is the function

N = 20_000
GRIDS = [(256, False), (256, True), (16, False), (16, True)]
METHODS = sorted(RANGES)


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=N)
    tensors = {
        "normal": normal,
        "laplace": rng.laplace(size=N),
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(3 * normal, 0, 6),
        "gelu": 3 * normal / (1 + np.exp(-5 * normal)),
        "heavy": rng.standard_t(2, N),
        "cauchy": rng.standard_cauchy(N),
        "uniform": rng.uniform(-1, 3, N),
        "shifted": normal + 10,
        "negative": -np.abs(normal),
        "spike": np.append(normal, 1000.0),
        "image": rng.integers(0, 256, N) / 255,
        "sparse": np.where(rng.random(N) < 0.999, 0, normal),
    }
    return {name: x.astype(np.float32) for name, x in tensors.items()}


DENSE = tensors()
ODD = {
    "constant": np.full(9, 3.7),
    "zeros": np.zeros(9),
    "one": np.array([-2.5]),
    "negative zero": np.array([-0.0, 1.0]),
    "on a bin": np.array([0.0, 4.0, 4.0]),
    "tiny": np.linspace(-1e-38, 2e-38, 50),
    "subnormal": np.array([1e-45, -3e-39]),
    "huge": np.linspace(-1e38, 3e38, 50),
    "widest": np.array([-1.0, 1.0]) * float(np.finfo(np.float32).max),
    "one large": np.append(np.zeros(99_999), 1e30),
    "none": np.array([]),
}
CASES = DENSE | {name: x.astype(np.float32) for name, x in ODD.items()}


def collect(x: np.ndarray) -> TensorStatistics:
    histogram = Histogram()
    histogram.update(np.asarray(x, np.float32))
    return histogram.finish()


def true_error(x: np.ndarray, low: float, high: float, levels: int, symmetric: bool) -> float:
    """Return the squared error of quantizing the samples themselves, eq. 1, 2, 6 and 7."""
    x = x.astype(np.float64)
    half = levels // 2
    if symmetric:
        scale, zero = max(-low / half, high / (levels - 1 - half)), half
    else:
        scale = (high - low) / (levels - 1)
        zero = min(max(round(-low / scale), 0), levels - 1)
    q = np.clip(np.rint(x / scale) + zero, 0, levels - 1)
    return float(np.sum((x - scale * (q - zero)) ** 2))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("levels", "symmetric"), [*GRIDS, (65536, False), (65536, True)])
def test_range_holds_zero_and_lies_within_the_data(name, case, levels, symmetric):
    x = CASES[case]

    low, high = RANGES[name](collect(x), levels=levels, symmetric=symmetric)

    assert min(x.min(initial=0), 0) <= low <= 0 <= high <= max(x.max(initial=0), 0)
    assert (low < high) == bool(np.any(x))
    assert low < 0 or math.copysign(1, low) == 1, "-0.0"


@pytest.mark.parametrize("name", METHODS)
@given(
    x=hnp.arrays(np.int16, st.integers(1, 60)),
    exponent=st.integers(-80, 80),
    grid=st.sampled_from(GRIDS),
)
def test_scaling_by_a_power_of_two_scales_the_range(name, x, exponent, grid):
    levels, symmetric = grid
    x = x.astype(np.float32)

    low, high = RANGES[name](collect(x), levels=levels, symmetric=symmetric)
    scaled = RANGES[name](collect(np.ldexp(x, exponent)), levels=levels, symmetric=symmetric)

    assert scaled == (math.ldexp(low, exponent), math.ldexp(high, exponent))


@pytest.mark.parametrize("name", METHODS)
@given(
    x=hnp.arrays(
        np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32)
    ),
    grid=st.sampled_from(GRIDS),
)
def test_any_data_gives_a_range_within_it(name, x, grid):
    levels, symmetric = grid

    low, high = RANGES[name](collect(x), levels=levels, symmetric=symmetric)

    assert min(x.min(), 0) <= low <= 0 <= high <= max(x.max(), 0)
    assert (low < high) == bool(np.any(x))


@pytest.mark.parametrize("name", METHODS)
def test_fine_grids_clip_nothing_but_what_percentile_does(name):
    x = DENSE["heavy"]

    limits = RANGES[name](collect(x), levels=65536, symmetric=False)

    assert (limits == (x.min(), x.max())) == (name != "percentile")


@pytest.mark.parametrize("case", sorted(set(DENSE) - {"image"}))
@pytest.mark.parametrize(("levels", "symmetric"), GRIDS)
@pytest.mark.parametrize("shrink", [1.0, 0.7, 0.2])
def test_predicted_error_is_that_of_the_samples(case, levels, symmetric, shrink):
    x = DENSE[case]
    statistics = collect(x)
    low, high = (shrink * v for v in RANGES["minmax"](statistics, levels=256, symmetric=False))

    unit = 2.0**statistics.exponent
    predicted = unit**2 * error(
        density(statistics), low / unit, high / unit, levels=levels, symmetric=symmetric
    )

    # The samples' own error scatters by about 1 / sqrt(N); within a bin their place is not known.
    bins = np.sqrt(N * np.sum(x.astype(np.float64) ** 2)) * unit / 100
    actual = true_error(x, low, high, levels, symmetric)
    assert abs(predicted - actual) <= 0.03 * actual + (bins if case in ("cauchy", "spike") else 0)


def candidates(low: float, high: float, *, symmetric: bool) -> list[tuple[float, float]]:
    """Return ranges inside [low, high]: 28 reaches, or 28 x 28 pairs."""
    shares = np.concatenate([[0.02, 0.04, 0.07, 0.12], np.linspace(0.15, 1, 24)])
    if symmetric:
        reach = shares * max(-low, high)
        return [(max(-t, low), min(t, high)) for t in reach]
    return [
        (low * f, high * g) for f in (shares if low else [1]) for g in (shares if high else [1])
    ]


@pytest.mark.parametrize("case", sorted(DENSE))
@pytest.mark.parametrize(("levels", "symmetric"), GRIDS)
def test_mse_finds_what_brute_force_on_the_samples_finds(case, levels, symmetric):
    x = DENSE[case][-5000:]
    statistics = collect(x)
    widest = RANGES["minmax"](statistics, levels=levels, symmetric=symmetric)

    found = RANGES["mse"](statistics, levels=levels, symmetric=symmetric)

    ranges = candidates(*widest, symmetric=symmetric)
    best = min(true_error(x, *limits, levels, symmetric) for limits in ranges)
    assert true_error(x, *found, levels, symmetric) <= 1.02 * best + 1e-9


@pytest.mark.parametrize("case", sorted(DENSE))
@pytest.mark.parametrize(("levels", "symmetric"), GRIDS)
def test_mse_is_not_worse_than_any_other_method(case, levels, symmetric):
    statistics = collect(DENSE[case])

    sqnr = {
        name: sqnr_db(
            statistics,
            *method(statistics, levels=levels, symmetric=symmetric),
            levels=levels,
            symmetric=symmetric,
        )
        for name, method in RANGES.items()
    }

    assert sqnr["mse"] >= sqnr["minmax"]
    assert sqnr["mse"] >= max(sqnr.values()) - 0.05


@given(
    x=hnp.arrays(
        np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32)
    ),
    grid=st.sampled_from(GRIDS),
)
def test_mse_is_never_worse_than_minmax(x, grid):
    levels, symmetric = grid
    statistics = collect(x)

    mse, minmax = (
        sqnr_db(
            statistics,
            *RANGES[name](statistics, levels=levels, symmetric=symmetric),
            levels=levels,
            symmetric=symmetric,
        )
        for name in ("mse", "minmax")
    )

    assert mse >= minmax - 1e-9


def test_mse_keeps_a_grid_that_the_data_lie_on():
    assert RANGES["mse"](collect(DENSE["image"]), levels=256, symmetric=False) == (0, 1)


def test_zeros_do_not_move_the_range_of_mse_and_entropy():
    x = DENSE["relu"][DENSE["relu"] > 0]
    sparse = np.append(x, np.zeros(50 * N))

    for name in ("mse", "entropy"):
        alone, among_zeros = (
            RANGES[name](collect(v), levels=256, symmetric=False) for v in (x, sparse)
        )
        assert alone == among_zeros, name


@pytest.mark.parametrize("case", ["normal", "relu", "gelu", "shifted", "uniform", "negative"])
@pytest.mark.parametrize("percent", [99.0, 99.9, 100.0])
def test_percentile_is_numpys_within_a_bin(case, percent):
    x = DENSE[case]
    statistics = collect(x)

    found = RANGES["percentile"](statistics, levels=256, symmetric=False, percent=percent)

    tail = (100 - percent) / 2
    low, high = np.percentile(x.astype(np.float64), [tail, 100 - tail])
    np.testing.assert_allclose(found, (min(low, 0), max(high, 0)), atol=2.0**statistics.exponent)


@pytest.mark.parametrize("percent", [50, 100.5, -1, math.nan])
def test_percentile_refuses_a_percent_that_is_none(percent):
    with pytest.raises(UsageError, match="choose one above 50, up to 100"):
        RANGES["percentile"](collect([1.0]), levels=256, symmetric=False, percent=percent)


def test_percentile_of_a_rare_spike_keeps_the_spike():
    low, high = RANGES["percentile"](collect(CASES["one large"]), levels=256, symmetric=False)

    assert (low, high) == (0, np.float32(1e30))


def test_auto_keeps_the_extremes_where_clipping_gains_little():
    statistics = collect(DENSE["uniform"])

    assert RANGES["auto"](statistics, levels=256, symmetric=False) == (
        statistics.minimum,
        statistics.maximum,
    )


def test_auto_clips_where_it_gains_much():
    statistics = collect(DENSE["laplace"])

    limits = [RANGES[n](statistics, levels=16, symmetric=False) for n in ("auto", "mse")]

    assert limits[0] == limits[1]
    assert limits[0][1] < 0.7 * statistics.maximum


def naive_divergence(first, counts, low, high, scale, zero, levels):
    """Return KL(P || Q) of the range [low, high), in bins, from P and Q written out."""
    bins = np.arange(low, high)
    inside = np.array([counts[k - first] if 0 <= k - first < len(counts) else 0.0 for k in bins])
    p, q = inside.copy(), np.zeros(len(bins))
    p[0] += counts[: max(low - first, 0)].sum()
    p[-1] += counts[max(high - first, 0) :].sum()
    steps = np.clip(np.floor((bins + 0.5) / scale + zero + 0.5), 0, levels - 1)
    for step in np.unique(steps):
        filled = (steps == step) & (inside > 0)
        q[filled] = inside[filled].sum() / max(filled.sum(), 1)
    q[(q == 0) & (p > 0)] = 1e-4
    p, q, total, kept = p[p > 0], q[p > 0], p.sum(), inside.sum()
    return float(np.sum(p / total * np.log((p / total) / (q / kept))))


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize(("first", "n"), [(0, 700), (-700, 700), (-350, 700), (-40, 700)])
def test_divergence_is_that_of_the_distributions_written_out(first, n, levels, rng):
    counts = rng.poisson(3 * np.exp(-np.abs(np.arange(first, first + n)) / 60)).astype(np.float64)
    low, high = min(first, 0), max(first + n, 0)
    reach = np.arange(300, 700, 23)
    lows, highs = np.maximum(-reach, low), np.minimum(reach, high)
    scale = (highs - lows) / (levels - 1)
    zero = np.rint(-lows / scale)

    bounds = kl._bounds(lows, highs, scale, zero, levels)
    found = kl._divergence(counts, bounds - first)

    expected = [
        naive_divergence(first, counts, *candidate, levels)
        for candidate in zip(lows, highs, scale, zero, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("freedom", [2, 3])
def test_entropy_agrees_with_onnxruntime_at_the_same_bins(freedom, monkeypatch):
    x = np.random.default_rng(freedom).standard_t(freedom, 200_000)
    x = np.append(x[np.abs(x) < 63.9], [-64, 63.99]).astype(np.float32)  # 2048 bins of 1/16
    monkeypatch.setattr(kl, "BINS", 1024)
    monkeypatch.setattr(kl, "CANDIDATES", 1024)

    collector = HistogramCollector("entropy", True, 2048, 256, 99.99, "same")
    collector.collect({"x": [x]})
    low, high, *_ = collector.compute_collection_result()["x"]
    found = RANGES["entropy"](collect(x), levels=256, symmetric=True)

    np.testing.assert_allclose(found, (low, high), rtol=0.05)
