"""open_samples: from what the user named to Samples."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.arrays import Stored, stored_arrays
from qtool.data.folder import Tables, array_files, is_one_table
from qtool.data.images import Images, Picture, pictures_in, pictures_of_list
from qtool.data.inputs import Input, make_input
from qtool.data.plugin import Plugin
from qtool.data.preprocess import Preprocess
from qtool.data.presets import PRESETS, read_preprocess
from qtool.data.random_samples import RandomSamples
from qtool.data.samples import Samples, Source
from qtool.data.synthetic import SyntheticPictures
from qtool.data.table import Table, choose_arrays, choose_label
from qtool.data.tensor_files import TestDataSets, data_sets
from qtool.errors import DataError, QtoolError, UnsupportedError, UsageError
from qtool.model import TensorSpec

MAX_FEED_BYTES = 1 << 32  # of one input in one run
READY = "; floating-point arrays count as preprocessed"
log = logging.getLogger("qtool")


def open_samples(
    source: str | None,
    specs: list[TensorSpec],
    *,
    preprocess: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    shuffle: bool = False,
    random: bool = False,
    data_free: bool = False,
    seed: int = 0,
    label_key: str = "y",
    labels: bool | None = False,
    batch: int = 1,
) -> Samples:
    """Return the samples that source names, made to fit the inputs specs of a model.

    source: an .npz, .npy or .txt file, a folder, or module:function; see docs/data.md. A suffix
    [start:stop:step] takes these samples only, [!start:stop:step] all others. labels: True must
    be there, None are used if there.
    batch: samples per feed, for models whose batch axis is dynamic; else the model's own.

    Raises:
        UsageError: the options contradict each other, or name no source or preprocessing.
        DataError: the data does not fit the model, is empty, or holds NaN; names file and row.
    """
    rows = Rows(slice(None))
    inputs, spec = _inputs(specs, preprocess)
    fixed = _fixed_batch(inputs)
    if random:
        if source is not None:
            raise UsageError("--data and --random contradict each other; give one of them")
        inputs = [replace(target, preprocess=None) for target in inputs]
        found: Source = RandomSamples(inputs, samples, seed, rows=fixed != 1)
    elif data_free:
        found = _made(source, inputs, spec, samples, seed)
    elif source is None:
        raise UsageError("no samples: name them with --data, or use --random")
    else:
        source, rows = split_rows(source)
        found = _open(source, inputs, spec, label_key, labels)
        if spec is not None and isinstance(preprocess, str) and found.floats:
            spec = replace(spec, floats=True)
            inputs = [t if t.preprocess is None else replace(t, preprocess=spec) for t in inputs]
        _say(found, inputs)
    order = None
    if found.n is not None:
        order = _order(found.n, rows, samples, shuffle, seed)
        if not len(order):
            raise DataError(
                f"{source} holds no samples"
                if found.n == 0
                else f"{source}: the range takes none of its {found.n} samples"
            )
        found.check(order)
    elif shuffle or not rows.is_all:
        raise UsageError(f"{source} yields samples in its own order; leave --shuffle and [:] out")
    return Samples(
        found,
        inputs,
        order=order,
        limit=samples,
        batch=fixed or batch,
        padded=fixed is not None,
        preprocess=None if spec is None else spec.to_json(),
    )


def _made(
    source: str | None, inputs: list[Input], spec: Preprocess | None, n: int | None, seed: int
) -> SyntheticPictures:
    """Return made pictures for the one input of a model."""
    if source is not None:
        raise UsageError("--data and --data-free contradict each other; give one of them")
    if spec is None:
        raise UsageError(
            "--data-free makes pictures: say how pixels become what the model takes, "
            "with --preprocess"
        )
    if len(inputs) != 1:
        raise DataError(
            f"the model has {len(inputs)} inputs: --data-free makes pictures for a single one; "
            "give samples with --data"
        )
    return SyntheticPictures(inputs[0], spec, n, seed)


def _open(
    name: str,
    inputs: list[Input],
    spec: Preprocess | None,
    label_key: str,
    labels: bool | None,
) -> Source:
    """Return the source of this name, by what is there."""
    path = Path(name)
    try:
        if path.is_dir():
            return _open_folder(path, inputs, spec, label_key, labels)
        if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
            return _table(path, inputs, label_key, labels)
        if path.is_file() and path.suffix.lower() == ".txt":
            return _images(pictures_of_list(path), path, inputs, spec, labels)
    except OSError as error:
        raise QtoolError(f"cannot read {name}: {error.strerror or error}") from None
    if ":" in name and not path.exists():
        return Plugin(name, inputs, label_key, labels)
    if not path.exists():
        raise QtoolError(f"cannot read {name}: there is no such file or folder")
    raise UsageError(
        f"{name} is no source of samples: give an .npz, .npy or .txt file, a folder of arrays or "
        "pictures, or module:function"
    )


def _open_folder(
    path: Path,
    inputs: list[Input],
    spec: Preprocess | None,
    label_key: str,
    labels: bool | None,
) -> Source:
    if sets := data_sets(path):
        return TestDataSets(sets, inputs, labels)
    pictures = pictures_in(path)
    files = array_files(path)
    if pictures and files:
        raise DataError(f"{path} holds both pictures and arrays; keep them in two folders")
    if pictures:
        return _images(pictures, path, inputs, spec, labels)
    if not files:
        raise DataError(f"{path} holds no samples: no pictures, .npy, .npz or test_data_set_*")
    if is_one_table(files, inputs):
        arrays = {p.stem: a for p in files if p.suffix == ".npy" for a in stored_arrays(p).values()}
        return _make_table(arrays, path, inputs, label_key, labels)
    return Tables([_table(file, inputs, label_key, labels) for file in files])


def _table(path: Path, inputs: Sequence[Input], label_key: str, labels: bool | None) -> Table:
    return _make_table(stored_arrays(path), path, inputs, label_key, labels)


def _make_table(
    arrays: Mapping[str, Stored],
    path: Path,
    inputs: Sequence[Input],
    label_key: str,
    labels: bool | None,
) -> Table:
    label = choose_label(arrays, label_key, labels, str(path))
    return Table(choose_arrays(arrays, inputs, str(path)), inputs, label, str(path))


def _images(
    pictures: Sequence[Picture],
    path: Path,
    inputs: Sequence[Input],
    spec: Preprocess | None,
    labels: bool | None,
) -> Images:
    if not pictures:
        raise DataError(f"{path} lists no pictures")
    if len(inputs) != 1:
        raise UnsupportedError(f"{path}: pictures feed models of one input; this has {len(inputs)}")
    if spec is None:
        raise UsageError(
            f"{path} holds pictures: say how the model takes them with --preprocess "
            f"{'|'.join(PRESETS)} or a .toml/.json file"
        )
    if spec.layout is None:
        raise UsageError(
            f"cannot tell whether input {inputs[0]} is NCHW or NHWC; say layout in the "
            "preprocessing file"
        )
    if labels is False:
        pictures = [replace(picture, label=None) for picture in pictures]
    elif labels and (bare := next((p for p in pictures if p.label is None), None)):
        raise DataError(
            f"{bare.where}{bare.path} has no label; give a labels.csv (file,label) or one folder "
            "per class"
        )
    return Images(pictures, inputs[0], spec)


def _inputs(
    specs: Sequence[TensorSpec], given: str | Mapping[str, Any] | None
) -> tuple[list[Input], Preprocess | None]:
    """Return the inputs, and the preprocessing of those that it is for."""
    if not specs:
        raise UnsupportedError("the model takes no inputs: there is nothing to feed")
    plain = [make_input(spec) for spec in specs]
    for target in plain:
        _check_size(target)
    pictures = [t for t in plain if t.shape is not None and len(t.shape) == 4] or plain[:1]
    spec = read_preprocess(given, pictures[0].shape)
    if spec is None:
        return plain, None
    names = list(spec.inputs) or [t.name for t in (pictures if len(plain) > 1 else plain)]
    for name in names:
        if name not in (known := [t.name for t in plain]):
            raise UsageError(
                f"preprocessing is for input {name!r}; the model has {', '.join(known)}"
            )
        if spec.dtype and spec.dtype != next(t.dtype.name for t in plain if t.name == name):
            raise UsageError(
                f"preprocessing gives {spec.dtype}; input {name!r} takes another dtype"
            )
    return [replace(t, preprocess=spec) if t.name in names else t for t in plain], spec


def _check_size(target: Input) -> None:
    """Refuse an input that takes no samples, or more than MAX_FEED_BYTES in each run."""
    if target.shape and target.shape[0] == 0:
        raise UnsupportedError(f"input {target} has a batch of 0: there is nothing to feed")
    n_bytes = target.dtype.itemsize * prod(d for d in target.shape or () if isinstance(d, int))
    if n_bytes > MAX_FEED_BYTES:
        raise UnsupportedError(
            f"input {target} takes {n_bytes / 1e9:.1f} GB in each run, of which qtool feeds at "
            f"most {MAX_FEED_BYTES / 1e9:.1f} GB; make the model with smaller dims"
        )


def _say(found: Source, inputs: Iterable[Input]) -> None:
    """Log, once, how raw data becomes inputs."""
    for target in inputs:
        if target.preprocess is not None:
            done = target.preprocess.describe(pictures=isinstance(found, Images))
            ready = "" if target.preprocess.floats or not found.floats else READY
            log.info("input %s: %s%s", target, done, ready)
        elif found.integers(target.name) and target.dtype.kind == "f":
            log.warning(
                "input %s: integers are fed as they are; if the model wants them scaled, say so "
                "with --preprocess",
                target,
            )


@dataclass(frozen=True)
class Rows:
    """Which samples of a source: those of a slice, or all others."""

    taken: slice
    others: bool = False

    @property
    def is_all(self) -> bool:
        """Whether every source has all of them."""
        return self.taken == slice(None) and not self.others

    def of(self, n: int) -> Sequence[int]:
        """Return their indices among n samples."""
        chosen = range(n)[self.taken]
        return [i for i in range(n) if i not in chosen] if self.others else chosen


def split_rows(source: str) -> tuple[str, Rows]:
    """Return "a.npz" and its rows for "a.npz[0:9]", "a.npz[::4]" or "a.npz[!::4]"."""
    match = re.fullmatch(r"(.+)\[(!?)(-?\d*):(-?\d*)(?::(\d*))?\]", source)
    if match is None or Path(source).exists() or match[5] == "0":
        if re.search(r"\[[^]/]*:[^]/]*\]$", source) and not Path(source).exists():
            raise UsageError(f"{source} ends in no range of samples, such as [0:100] or [::4]")
        return source, Rows(slice(None))
    ends = (int(text) if text not in ("", "-", None) else None for text in match.groups()[2:])
    return match[1], Rows(slice(*ends), match[2] == "!")


def _order(n: int, rows: Rows, samples: int | None, shuffle: bool, seed: int) -> Sequence[int]:
    """Return the chosen samples' indices in the order they are taken."""
    chosen = rows.of(n)
    if shuffle:
        shuffled = np.random.default_rng(seed & (2**64 - 1)).permutation(np.array(chosen))
        return [int(i) for i in shuffled[:samples]]
    return chosen[:samples]


def _fixed_batch(inputs: Iterable[Input]) -> int | None:
    """Return the batch that the model fixes: the static first dim, where all inputs agree.

    None where it is dynamic; 1 where inputs do not agree: then the first axis is not the batch,
    and samples are not grouped.
    """
    first = {t.shape[0] if isinstance(t.shape[0], int) else None for t in inputs if t.shape}
    if len(first) > 1:
        return 1
    return first.pop() if first else None
