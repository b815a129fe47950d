"""95 % confidence intervals, exact ones for counts and resampled ones for the rest.

Legend: n samples; of these b where only the reference is right and c where only the model is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
LEVEL = 0.95
Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2
RESAMPLES = 2000
MAX_DRAWS = 100_000_000  # of all resamples together
SEED = 0


def clopper_pearson(hits: int, n: int) -> Interval:
    """Return the exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934)."""
    tail = (1 - LEVEL) / 2
    low = 0.0 if hits == 0 else _solve(lambda p: beta_cdf(p, hits, n - hits + 1) - tail)
    high = 1.0 if hits == n else _solve(lambda p: beta_cdf(p, hits + 1, n - hits) - (1 - tail))
    return low, high


def mcnemar(b: int, c: int) -> float:
    """Return the exact two-sided p-value of "both are right equally often".

    The binomial test of b out of b + c at 1/2 (McNemar, Psychometrika 12, 1947).
    """
    few, m = min(b, c), b + c
    return 1.0 if b == c else min(1.0, 2 * beta_cdf(0.5, m - few, few + 1))


def paired(b: int, c: int, n: int) -> Interval:
    """Return an interval of the difference of two paired proportions, estimated by (b - c) / n.

    It is Tango's score interval (Statistics in Medicine 17, 1998), whose coverage holds for few
    and for no discordant pairs too, widened where needed to cover (2 p - 1) (b + c) / n for p in
    the exact interval of b out of b + c; so it leaves 0 out only if the exact McNemar test
    rejects at 5 %.
    """
    low, high = tango(b, c, n)
    if b + c:
        p_low, p_high = clopper_pearson(b, b + c)
        low = min(low, (2 * p_low - 1) * (b + c) / n)
        high = max(high, (2 * p_high - 1) * (b + c) / n)
    return low, high


def tango(b: int, c: int, n: int) -> Interval:
    """Return all differences d that the score test does not reject.

    T(d) = (b - c - n d) / sqrt(n (2 q + d (1 - d))), |T| <= Z, where q is the maximum likelihood
    estimate of the probability of c under d: the larger root of
    2 n q^2 + ((2 n - b + c) d - b - c) q - c d (1 - d) = 0.
    """

    def score(d: float) -> float:
        half = ((2 * n - b + c) * d - b - c) / 2
        q = (math.sqrt(max(0.0, half * half + 2 * n * c * d * (1 - d))) - half) / (2 * n)
        spread = n * (2 * q + d * (1 - d))
        gap = b - c - n * d
        return gap / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, gap)

    estimate = (b - c) / n
    low = -1.0 if b - c == -n else _solve(lambda d: Z - score(d), -1.0, estimate)
    high = 1.0 if b - c == n else _solve(lambda d: -Z - score(d), estimate, 1.0)
    return low, high


def bootstrap(value: Callable[[npt.NDArray[np.intp]], float], n: int) -> Interval | None:
    """Return the percentile interval of value(indices) over samples drawn again with repetition.

    The draws depend on n only (Efron and Tibshirani, 1993, chapter 13). None where a value is
    not finite or there are fewer than two samples.
    """
    if n < 2:
        return None
    rng = np.random.default_rng(SEED)
    count = max(200, min(RESAMPLES, MAX_DRAWS // n))
    values = np.array([value(rng.integers(0, n, n)) for _ in range(count)])
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b) for 0 <= x <= 1 and a, b > 0.

    By its continued fraction (DLMF 8.17.22), evaluated with Lentz's method.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _off_zero(1 + numerator * d, tiny)
            c = _off_zero(1 + numerator / c, tiny)
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return result


def _off_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _solve(rising: Callable[[float], float], low: float = 0.0, high: float = 1.0) -> float:
    """Return where a rising function crosses 0 between low and high, by bisection."""
    for _ in range(60):
        middle: Any = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2
