"""What a report says of single samples: the classes that both models find, and the worst ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import Sample, Samples
from qtool.metrics import LABELS
from qtool.runtime import Runner
from qtool.runtime.sweep import sweep
from qtool.stages._layer_sums import sqnr
from qtool.stages._scoring import Scores, Task, is_classes, rows_of, score
from qtool.stages.evaluate import loads_of

Array = npt.NDArray[Any]
Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]

# In the order of what to look at first; without labels only the third and the last are there.
KINDS = ("lost", "changed", "won", "same")


@dataclass(frozen=True)
class Seen:
    """One sample. feed, row: where it is in the data. sqnr: of the worst output, in dB.

    kind, of KINDS: only the reference's class is right; the classes differ; only the model's is
    right; they are the same. None where outputs are no classes or there is no reference.
    """

    feed: int
    row: int
    where: str
    label: int | None
    guess: int | None
    reference_guess: int | None
    sqnr: float | None
    kind: str | None


def look(
    task: Task,
    sessions: Sequence[Runner],
    data: Samples,
    *,
    threads: int,
    progress: Progress,
) -> tuple[list[list[Scores]], list[Seen]]:
    """Return the scores of all samples, and what was seen of each; sessions: model, reference.

    Neither depends on threads.
    """
    scores: dict[int, list[Scores]] = {}
    samples: dict[int, list[Seen]] = {}
    other = sessions[1] if len(sessions) > 1 else None

    def see(sample: Any, outputs: Mapping[str, Array]) -> None:
        real = None if other is None else other.run(sample.feeds)
        scores[sample.index] = score(task, sample, outputs, real)
        samples[sample.index] = list(_seen(task, sample, outputs, real))

    loads, total = loads_of(data)
    try:
        sweep(sessions[0], progress(loads, "evaluating", total), see, threads=threads)
    except BaseException:
        if other is not None:
            other.cancel()
        raise
    order = sorted(scores)
    return [scores[i] for i in order], [one for i in order for one in samples[i]]


def _seen(
    task: Task, sample: Sample, outputs: Mapping[str, Array], real: Mapping[str, Array] | None
) -> Iterator[Seen]:
    pairs = [
        (rows_of(outputs[name], sample), None if real is None else rows_of(real[other], sample))
        for name, other in task.outputs.items()
    ]
    mine, theirs = pairs[0]
    like_input = any(feed.shape == mine.shape for feed in sample.feeds.values())
    classes = is_classes(mine) and not like_input and task.target != "input"
    labels = _labels(task, sample) if classes else None
    for row in range(min(sample.n, len(mine))):
        guess = _class(mine[row]) if classes else None
        other = _class(theirs[row]) if classes and theirs is not None else None
        label = None if labels is None else int(labels[row])
        yield Seen(
            sample.index, row, sample.where, label, guess, other,
            _worst_sqnr(pairs, row), _kind(label, guess, other),
        )  # fmt: skip


def _labels(task: Task, sample: Sample) -> Array | None:
    """Return one whole number per sample, where labels are that."""
    label = sample.label
    if task.target != LABELS or label is None or label.dtype.kind not in "biu":
        return None
    return label.reshape(-1) if label.size == sample.n else None


def _class(scores: Array) -> int:
    return int(np.argmax(scores.reshape(-1)))


def _kind(label: int | None, guess: int | None, other: int | None) -> str | None:
    if guess is None or other is None:
        return None
    if guess == other:
        return "same"
    if label == other:
        return "lost"
    return "won" if label == guess else "changed"


def _worst_sqnr(pairs: Sequence[tuple[Array, Array | None]], row: int) -> float | None:
    found = []
    for mine, theirs in pairs:
        if theirs is None or row >= len(theirs) or theirs.shape != mine.shape:
            continue
        real = theirs[row].reshape(-1).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = mine[row].reshape(-1) - real
            value = sqnr(float(real @ real), float(apart @ apart))
        if value is not None:
            found.append(value)
    return min(found, default=None)


def worst(samples: Iterable[Seen], n: int) -> list[Seen]:
    """Return the n samples that quantization changed most: by kind, then by SQNR."""

    def badness(one: Seen) -> tuple[int, float, int, int]:
        place = KINDS.index(one.kind) if one.kind in KINDS else len(KINDS)
        return place, np.inf if one.sqnr is None else one.sqnr, one.feed, one.row

    return sorted(samples, key=badness)[:n]
