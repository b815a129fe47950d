"""Whether freezing kept what a model computes: both are run in onnxruntime and compared."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import open_samples
from qtool.errors import ModelError, QtoolError
from qtool.model import Model, TensorSpec
from qtool.runtime.ort import OrtSession

log = logging.getLogger("qtool")

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

N_SAMPLES = 4
SIZES = (64, 32, 128, 256, 512, 16, 8, 1)  # tried for a dim that nobody set
ATTEMPTS = 64
MOST_ELEMENTS = 1 << 24  # of an input whose sizes are guessed
LIMITS = {"float16": 5e-2, "bfloat16": 2e-1}  # of the relative difference; others: LIMIT
LIMIT = 1e-3
FLIPS = 0.1  # of elements that are no floats
SMALLEST = 1e-6  # an absolute difference that is rounding at the scale of 1, as after a Sigmoid
MARGIN = 16  # over the difference that another order of the same additions makes


@dataclass(frozen=True)
class Difference:
    """The largest differences of one output over all samples.

    relative is to the largest absolute value of the output. Of integers, booleans and strings,
    both are the share of elements that differ: an index flips where two scores are about equal.
    """

    output: str
    dtype: str
    absolute: float
    relative: float

    def within(self, noise: float = 0.0) -> bool:
        """Whether rounding can explain it, where rounding alone has made a difference of noise."""
        floats = self.dtype.startswith(("float", "bfloat"))
        limit = max(LIMITS.get(self.dtype, LIMIT) if floats else FLIPS, MARGIN * noise)
        return self.absolute <= SMALLEST or self.relative <= limit


def check(before: Model, after: Model, *, data: Any, seed: int) -> list[Difference] | None:
    """Return how far the outputs of two models differ, or None when before cannot be run.

    data are Samples, of which a few are used, or None for random ones.

    Raises:
        ModelError: after cannot be run, or differs by more than rounding explains.
    """
    try:
        session = OrtSession(before)
    except QtoolError as error:
        log.warning("not checked: %s", error)
        return None
    runs = _first_runs(before, session, data, seed)
    if not runs:
        return None
    frozen = OrtSession(after)
    found = [_compare(expected, frozen.run(_needed(after, feeds))) for feeds, expected in runs]
    largest = [max(same, key=lambda d: _order(d.relative)) for same in zip(*found, strict=True)]
    for difference in largest:
        log.info(
            "checked output %s on %d %s samples: largest difference %.3g (relative %.3g)",
            difference.output, len(runs), "given" if data is not None else "random",
            difference.absolute, difference.relative,
        )  # fmt: skip
    far = _beyond_noise(before, runs, [d for d in largest if not d.within()])
    if far:
        raise ModelError(
            f"freezing changed output {far[0].output!r} by {far[0].absolute:.3g} (relative "
            f"{far[0].relative:.3g}), more than rounding explains; report this as a bug, and use "
            "--no-check or leave passes out with --pass until it is fixed"
        )
    for difference in largest:
        if difference.relative > LIMIT:
            log.info(
                "output %s: that is rounding; its values are small, or the net amplifies it",
                difference.output,
            )
    return largest


def _beyond_noise(
    before: Model, runs: list[tuple[Feeds, dict[str, Array]]], far: list[Difference]
) -> list[Difference]:
    """Return those that are much larger than what onnxruntime's own optimizations make.

    A deep net can amplify the rounding of one layer, and random inputs bring that out.
    """
    if not far:
        return []
    plain = OrtSession(before, optimize=False)
    noise: dict[str, float] = {}
    for feeds, expected in runs:
        for found in _compare(expected, plain.run(feeds)):
            noise[found.output] = max(noise.get(found.output, 0.0), _order(found.relative))
    return [d for d in far if not d.within(noise[d.output])]


def _order(relative: float) -> float:
    return np.inf if np.isnan(relative) else relative


def _needed(model: Model, feeds: Feeds) -> dict[str, Array]:
    return {spec.name: feeds[spec.name] for spec in model.inputs()}


def _first_runs(
    model: Model, session: OrtSession, data: Any, seed: int
) -> list[tuple[Feeds, dict[str, Array]]]:
    """Return a few inputs that the model runs on, with its outputs."""
    if data is not None:
        return [(s.feeds, session.run(s.feeds)) for s in islice(data, N_SAMPLES)]
    problem = "an input has no known rank"
    for specs in islice(_sized(model.inputs()), ATTEMPTS):
        try:
            samples = open_samples(None, specs, random=True, samples=N_SAMPLES, seed=seed)
            return [(s.feeds, session.run(s.feeds)) for s in samples]
        except QtoolError as error:
            problem = str(error)
    log.warning("not checked: no random input fits the model (%s); give --data", problem)
    return []


def _sized(specs: list[TensorSpec]) -> Iterator[list[TensorSpec]]:
    """Yield the inputs with sizes for their dynamic dims: 1 for a batch, else all of SIZES."""
    if any(spec.shape is None for spec in specs):
        return
    unknown = {
        _key(spec, axis): None
        for spec in specs
        for axis, d in enumerate(spec.shape or ())
        if not isinstance(d, int)
    }
    batches = {_key(spec, 0) for spec in specs if spec.shape}
    free = [key for key in unknown if key not in batches]
    same = ((size,) * len(free) for size in SIZES)
    for sizes in [*same, *product(SIZES, repeat=min(len(free), 2))]:
        chosen = {**dict.fromkeys(batches, 1), **dict(zip(free, sizes, strict=False))}
        sized = [
            replace(
                spec,
                shape=tuple(
                    d if isinstance(d, int) else chosen.get(_key(spec, axis), 1)
                    for axis, d in enumerate(spec.shape or ())
                ),
            )
            for spec in specs
        ]
        if not free or all(_elements(spec) <= MOST_ELEMENTS for spec in sized):
            yield sized
        if not free:
            return


def _elements(spec: TensorSpec) -> int:
    return prod(d for d in spec.shape or () if isinstance(d, int))


def _key(spec: TensorSpec, axis: int) -> str:
    d = spec.shape[axis] if spec.shape is not None else None
    return d if isinstance(d, str) else f"{spec.name}:{axis}"


def _compare(expected: Mapping[str, Any], got: Mapping[str, Any]) -> list[Difference]:
    return [_difference(name, expected[name], got[name]) for name in expected]


def _difference(name: str, expected: Any, got: Any) -> Difference:
    """Compare one output; infinite where the two have not even the same shape and type."""
    a, b = np.asarray(expected), np.asarray(got)
    dtype = str(a.dtype)
    if a.shape != b.shape or a.dtype != b.dtype:
        return Difference(name, dtype, np.inf, np.inf)
    if a.dtype.kind != "f" and dtype != "bfloat16":
        share = float(np.mean(a != b)) if a.size else 0.0
        return Difference(name, dtype, share, share)
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    absolute = float(apart.max(initial=0.0))
    scale = float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
    return Difference(name, dtype, absolute, absolute / scale if scale and absolute else absolute)
