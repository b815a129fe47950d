"""run: what a model computes for given samples, and the classes that it finds best."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data import Samples
from qtool.errors import DataError, UnsupportedError, UsageError
from qtool.formats.atomic import check_target, explained, replacing
from qtool.model import Json, Model
from qtool.registry import lookup
from qtool.runtime import RUNTIMES
from qtool.runtime.sweep import sweep
from qtool.stages._scoring import is_classes, rows_of
from qtool.stages.evaluate import available_cores, loads_of

Array = npt.NDArray[Any]
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever they are written


@dataclass(frozen=True)
class Outputs:
    """Arrays (samples, ...) by output name, and where each sample comes from."""

    values: Mapping[str, Array]
    where: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """Return types and shapes as a JSON object, not the values."""
        return {
            "samples": len(self.where),
            "outputs": {
                name: {"dtype": str(v.dtype), "shape": list(v.shape)}
                for name, v in self.values.items()
            },
        }


@dataclass(frozen=True)
class Guess:
    """One class with its score; name is its line of --labels, or its number."""

    index: int
    name: str
    score: float


def run(
    model: Model,
    *,
    data: Samples,
    runtime: str = "native",
    threads: int | None = None,
    progress: Callable[[Iterable[Any], str, int | None], Iterable[Any]] = lambda items, _l, _t: (
        items
    ),
) -> Outputs:
    """Return the outputs for all samples, in their order; they are the same for any threads.

    Raises:
        UnsupportedError: the runtime cannot run the model.
        DataError: outputs of different samples differ in shape.
    """
    session = lookup(RUNTIMES, runtime, "runtime")(model, threads=1)
    found: dict[int, tuple[list[str], dict[str, Array]]] = {}

    def see(sample: Any, outputs: Mapping[str, Array]) -> None:
        rows = {name: rows_of(values, sample) for name, values in outputs.items()}
        places = [f" #{i}" for i in range(sample.n)] if sample.n > 1 else [""]
        found[sample.index] = ([f"{sample.where}{place}" for place in places], rows)

    loads, total = loads_of(data)
    sweep(session, progress(loads, "running", total), see, threads=threads or available_cores())
    ordered = [found[index] for index in sorted(found)]
    values = {name: _joined(name, ordered) for name in ordered[0][1]}
    return Outputs(values, tuple(where for wheres, _ in ordered for where in wheres))


def _joined(name: str, ordered: Sequence[tuple[list[str], Mapping[str, Array]]]) -> Array:
    first = ordered[0][1][name].shape[1:]
    for wheres, rows in ordered:
        if rows[name].shape[1:] != first:
            raise DataError(
                f"{wheres[0]}: output {name!r} has shape {rows[name].shape[1:]}, before it was "
                f"{first}; run samples of different sizes apart, as with --data 'NAME[0:1]'"
            )
    return np.concatenate([rows[name] for _, rows in ordered])


def best(
    outputs: Outputs, k: int, *, name: str | None, labels: Sequence[str] | None
) -> list[list[Guess]]:
    """Return the k classes of highest score of each sample; of equal ones the first comes first.

    Raises:
        UsageError: there are several outputs, or none of this name.
        UnsupportedError: the output is not one score per class.
        DataError: labels are not one name for each class.
    """
    if name is None and len(outputs.values) > 1:
        raise UsageError(
            f"the model has the outputs {', '.join(outputs.values)}; say which one --top is of "
            "with --output-name"
        )
    name = name or next(iter(outputs.values))
    values = lookup(outputs.values, name, "output")
    if not is_classes(values):
        raise UnsupportedError(
            f"output {name!r} of shape {values.shape} is not one score per class; choose another "
            "with --output-name, or leave --top out"
        )
    scores = values.reshape(len(values), -1)
    if labels is not None and len(labels) != scores.shape[1]:
        raise DataError(
            f"there are {len(labels)} labels and {scores.shape[1]} classes; give one per line"
        )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [
        [Guess(int(i), labels[i] if labels else str(i), float(row[i])) for i in chosen]
        for row, chosen in zip(scores, order, strict=True)
    ]


def read_labels(path: str) -> list[str]:
    """Return the lines of a text file.

    Raises:
        DataError: it cannot be read, or is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"cannot read labels {path}: {reason}") from error


def check_request(
    *, runtime: str, output: str | None, top: int | None, labels: bool, reference: bool, json: bool
) -> None:
    """Check what can be checked before anything is read.

    Raises:
        UsageError: the options do not go together, or name nothing.
        QtoolError: the output cannot be written there.
    """
    lookup(RUNTIMES, runtime, "runtime")
    if top is None and (labels or reference):
        raise UsageError(f"--{'labels' if labels else 'reference'} goes with --top")
    if output is None and top is None and not json:
        raise UsageError("nothing to show: give --output for the values, or --top for classes")
    if output is None:
        return
    if not output.endswith(".npz"):
        raise UsageError(f"{output}: outputs are written as .npz; give a name that ends so")
    check_target(output)


def save_outputs(outputs: Outputs, path: str | os.PathLike[str]) -> None:
    """Write an .npz with one array per output, completely or not at all."""
    with replacing(path) as file, explained(path), zipfile.ZipFile(file, "w") as archive:
        for name, values in outputs.values.items():
            member = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
