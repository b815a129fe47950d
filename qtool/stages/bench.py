"""bench: how fast the native runtime is, beside others in the same process and the same minute."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool import formats
from qtool.errors import QtoolError, UsageError
from qtool.model import Dim, Json, Model, TensorSpec
from qtool.registry import lookup
from qtool.runtime import RUNTIMES
from qtool.runtime.footprint import footprint, open_session
from qtool.runtime.peaks import Peaks, measure
from qtool.runtime.timing import Times, interleave
from qtool.runtime.trial import random_feeds
from qtool.stages.evaluate import common_inputs

NATIVE, NONE = "native", "none"
SECONDS = 5.0  # of one number of threads
PROFILES = 30  # runs that per-op times are the mean of


@dataclass(frozen=True)
class Contestant:
    """A model in a runtime. model: "input", or "against" for another one."""

    runtime: str
    model: str
    path: str

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.runtime if self.model == "input" else f"{self.runtime}, {self.model}"


@dataclass(frozen=True)
class Timing:
    """One contestant with one number of threads.

    ratio: its time over the native runtime's, the median over the rounds, with their quartiles;
    more than 1 means that the native runtime is faster.
    """

    runtime: str
    model: str
    threads: int
    median_ms: float
    min_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    runs: int
    rounds: int
    load_ms: float
    peak_mb: float


@dataclass(frozen=True)
class OpSpeed:
    """One op of the native runtime.

    share: of the peak of its kernel's instruction, or for ops without multiply-accumulates of a
    copy within the cache; None where that is not known.
    """

    name: str
    op: str
    kernel: str
    ms: float
    gmacs: float
    gb: float
    share: float | None


@dataclass(frozen=True)
class Bench:
    """What bench measured; ops and peaks are of the first number of threads."""

    machine: str
    cores: int
    feeds: Mapping[str, tuple[int, ...]]
    timings: tuple[Timing, ...]
    ops: tuple[OpSpeed, ...] = ()
    peaks: Peaks | None = None

    def to_json(self) -> dict[str, Json]:
        """Return what was measured as a JSON object."""
        return asdict(self)


def bench(
    model: Model,
    *,
    against: str = "onnxruntime",
    against_model: Model | None = None,
    threads: Sequence[int] = (1,),
    batch: int = 1,
    dims: Mapping[str, int] | None = None,
    seconds: float = SECONDS,
    per_op: bool = False,
    progress: Callable[..., Any] = lambda items, _l, _t: items,
) -> Bench:
    """Return how long a run of model takes in the native runtime and in others, on random inputs.

    against is a runtime of RUNTIMES, or none, that runs the same model; against_model, such as the
    float one, runs in onnxruntime. All are timed burst by burst in turn, for about so many seconds
    for each number of threads. Load time and memory are measured in processes of their own.

    Raises:
        UnsupportedError: the native runtime cannot run the model.
        UsageError: a dim of an input is open, or batch contradicts the model.
        DataError: the models take different inputs.
    """
    check_request(against)
    feeds = feeds_of(common_inputs(model, against_model), batch, dims or {})
    with tempfile.TemporaryDirectory(prefix="qtool-") as folder:
        contestants = _contestants(Path(folder), model, against, against_model)
        fed = str(Path(folder) / "feeds.npz")
        np.savez(fed, **feeds)  # type: ignore[arg-type]
        timings: list[Timing] = []
        for n in progress(threads, "timing", len(threads)):
            timings += _timings(contestants, feeds, fed, n, seconds)
        ops: tuple[OpSpeed, ...] = ()
        peaks = measure(threads[0]) if per_op else None
        if peaks is not None:
            ops = _ops(contestants[0].path, feeds, threads[0], peaks)
    shapes = {name: array.shape for name, array in feeds.items()}
    return Bench(machine(), os.cpu_count() or 1, shapes, tuple(timings), ops, peaks)


def check_request(against: str) -> None:
    """Raise UsageError for an unknown runtime."""
    lookup(
        dict.fromkeys([NONE, *(name for name in RUNTIMES if name != NATIVE)]), against, "runtime"
    )


def feeds_of(
    inputs: Sequence[TensorSpec], batch: int, dims: Mapping[str, int]
) -> dict[str, npt.NDArray[Any]]:
    """Return random inputs of a batch, with the sizes of dims for what the model leaves open.

    Raises:
        UsageError: the model fixes another batch, or a dim is still open.
    """
    specs = [_sized(spec, batch, dims) for spec in inputs]
    unused = set(dims) - {d for spec in inputs for d in spec.shape or ()}
    if unused:
        raise UsageError(f"no input has a dim named {min(unused)!r}")
    return random_feeds(specs)


def _sized(spec: TensorSpec, batch: int, dims: Mapping[str, int]) -> TensorSpec:
    if spec.shape is None:
        raise UsageError(f"input {spec.name!r} has no known rank; freeze the model with its shapes")
    sizes: list[Dim] = []
    for axis, d in enumerate(spec.shape):
        size = dims.get(d, d) if isinstance(d, str) else d
        if axis == 0 and not isinstance(size, int):
            size = batch
        if not isinstance(size, int):
            name = d or f"axis {axis}"
            raise UsageError(f"the size of {spec} is open: give it with --set-dim {name}=SIZE")
        sizes.append(size)
    if batch != 1 and sizes and sizes[0] != batch:
        raise UsageError(f"the model fixes its batch at {sizes[0]}: {spec}; leave --batch out")
    return TensorSpec(spec.name, spec.dtype, tuple(sizes))


def machine() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _contestants(
    folder: Path, model: Model, against: str, against_model: Model | None
) -> list[Contestant]:
    """Return who takes part, the native runtime first; their models are written into folder."""
    path = str(folder / "input.onnx")
    formats.save(model, path)
    found = [Contestant(NATIVE, "input", path)]
    if against != NONE:
        found.append(Contestant(against, "input", path))
    if against_model is not None:
        other = str(folder / "against.onnx")
        formats.save(against_model, other)
        found.append(Contestant("onnxruntime", "against", other))
    return found


def _timings(
    contestants: Sequence[Contestant],
    feeds: Mapping[str, npt.NDArray[Any]],
    fed: str,
    threads: int,
    seconds: float,
) -> list[Timing]:
    runs = {c.name: _tried(c, threads, feeds) for c in contestants}
    times = interleave(runs, seconds=seconds)
    del runs  # their threads would be in the way
    native = times[contestants[0].name]
    return [_timing(c, times[c.name], native, fed, threads) for c in contestants]


def _tried(
    c: Contestant, threads: int, feeds: Mapping[str, npt.NDArray[Any]]
) -> Callable[[], object]:
    """Return a function that runs the model, after one run to see that it can."""
    run = partial(open_session(c.runtime, c.path, threads).run, None, feeds)
    try:
        run()
    except QtoolError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise QtoolError(f"{c.name} could not run on random inputs: {text}") from error
    return run


def _timing(c: Contestant, mine: Times, native: Times, fed: str, threads: int) -> Timing:
    ratio, low, high = mine.over(native)
    return Timing(
        runtime=c.runtime,
        model=c.model,
        threads=threads,
        median_ms=mine.median,
        min_ms=mine.minimum,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        runs=len(mine.all),
        rounds=len(mine.rounds),
        **footprint(c.runtime, c.path, fed, threads),
    )


def _ops(
    path: str, feeds: Mapping[str, npt.NDArray[Any]], threads: int, peaks: Peaks
) -> tuple[OpSpeed, ...]:
    found = open_session(NATIVE, path, threads).profile(feeds, PROFILES)
    return tuple(_speed(op, peaks) for op in found)


def _speed(op: Any, peaks: Peaks) -> OpSpeed:
    seconds = max(op.ms / 1e3, 1e-12)
    gmacs, gb = op.macs / seconds / 1e9, op.n_bytes / seconds / 1e9
    peak = peaks.gmacs.get(op.kernel.rpartition("__")[2]) if op.macs else peaks.gb
    share = None if not peak else (gmacs if op.macs else gb) / peak
    return OpSpeed(op.name, op.op, op.kernel, op.ms, gmacs, gb, share)
