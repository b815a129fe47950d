"""merge: joins the statistics of shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from qtool.errors import DataError, FormatError, ModelError, UsageError
from qtool.model import Model, Statistics, Step
from qtool.statistics import gram, histogram

T = TypeVar("T")


def merge(models: Sequence[Model], *, names: Sequence[str] | None = None) -> Model:
    """Return the model that calibrating on all samples at once would have given, byte for byte.

    The models are those of `calibrate` with all shards of the same data, in any order. names say
    what each is called in errors.

    Raises:
        UsageError: a shard is missing or given twice.
        ModelError: a model has no statistics, is no shard, or is another model.
        DataError: the shards were not calibrated alike.
    """
    names = names or [f"model {i + 1}" for i in range(len(models))]
    found = [_statistics(model, name) for model, name in zip(models, names, strict=True)]
    _check_alike(models, found, names)
    _check_complete(found, names)
    in_order = sorted(range(len(found)), key=lambda i: shard(found[i]))
    parts = [found[i] for i in in_order]
    statistics = Statistics(
        model=parts[0].model,
        source=parts[0].source,
        n_samples=sum(part.n_samples for part in parts),
        tensors=_joined([part.tensors for part in parts], histogram.merged, "tensor"),
        grams=_joined([part.grams for part in parts], gram.merged, "layer"),
    )
    first = models[in_order[0]]
    history = (*first.history[:-1], _whole(first.history[-1], statistics))
    return replace(first, statistics=statistics, history=history)


def _statistics(model: Model, name: str) -> Statistics:
    statistics = model.statistics
    if statistics is None:
        raise ModelError(f"{name} has no statistics; make it with qtool calibrate --shard")
    if not statistics.shards:
        raise ModelError(f"{name} is complete, no shard; there is nothing to merge it with")
    if not model.history or model.history[-1].command != "calibrate":
        raise ModelError(f"{name} was changed after qtool calibrate; merge its shards first")
    return statistics


def _check_alike(
    models: Sequence[Model], found: Sequence[Statistics], names: Sequence[str]
) -> None:
    """Check that all shards are of one model, of one kind of data, and of as many shards."""
    for model, statistics, name in zip(models, found, names, strict=True):
        if statistics.model != found[0].model:
            raise ModelError(f"{name} is another model than {names[0]}; merge shards of one model")
        for what, one, other in (
            ("data", statistics.source, found[0].source),
            ("number of shards", shard(statistics)[1], shard(found[0])[1]),
            ("samples", _of(model), _of(models[0])),
            ("preprocessing", model.preprocess, models[0].preprocess),
            ("history", _alike(model), _alike(models[0])),
        ):
            if one != other:
                raise DataError(
                    f"{name} and {names[0]} differ in their {what}; "
                    "calibrate all shards with the same data and options"
                )


def _check_complete(found: Sequence[Statistics], names: Sequence[str]) -> None:
    """Check that every shard is there, once."""
    given: dict[int, str] = {}
    for statistics, name in zip(found, names, strict=True):
        index, n = shard(statistics)
        if index in given:
            raise UsageError(f"shard {index}/{n} is given twice: {given[index]} and {name}")
        given[index] = name
    missing = [f"{i}/{n}" for i in islice((i for i in range(1, n + 1) if i not in given), 9)]
    if missing:
        more = " ..." if len(missing) > 8 else ""
        raise UsageError(
            f"{n - len(given)} of {n} shards are missing: {', '.join(missing[:8])}{more}"
        )


def shard(statistics: Statistics) -> tuple[int, int]:
    """Return (2, 8) of a shard "2/8".

    Raises:
        FormatError: there is something else.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})", statistics.shards[0])
    if match is None or len(statistics.shards) != 1 or int(match[1]) > int(match[2]):
        raise FormatError(f"statistics name their shard {statistics.shards!r}, which is none")
    return int(match[1]), int(match[2])


def _joined(
    parts: Sequence[Mapping[str, T]], join: Callable[[Iterable[T]], T], kind: str
) -> dict[str, T]:
    """Return the join of what each part has under a name.

    Raises:
        DataError: not all parts have the same names, or an entry cannot be joined.
    """
    joined = {}
    for name in parts[0]:
        if not all(name in part for part in parts):
            raise DataError(f"{kind} {name!r} is not in all shards; calibrate them alike")
        try:
            joined[name] = join(part[name] for part in parts)
        except DataError as error:
            raise DataError(f"{kind} {name!r}: {error}") from error
    extra = next((name for part in parts for name in part if name not in joined), None)
    if extra is not None:
        raise DataError(f"{kind} {extra!r} is not in all shards; calibrate them alike")
    return joined


def _of(model: Model) -> Any:
    """Return the hash of the data that a shard is part of; None of files that have none."""
    return model.history[-1].options.get("whole")


def _alike(model: Model) -> Sequence[Step]:
    """Return the history with what differs from shard to shard left out."""
    last = model.history[-1]
    options = {k: v for k, v in last.options.items() if k not in ("shard", "samples", "whole")}
    return (*model.history[:-1], replace(last, options=options))


def _whole(step: Step, statistics: Statistics) -> Step:
    """Return the step of the run without --shard."""
    options: dict[str, Any] = {k: v for k, v in step.options.items() if k not in ("shard", "whole")}
    return replace(step, options=options | {"samples": statistics.n_samples})
