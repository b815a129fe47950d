"""The inputs of a layer's weights and its outputs, at some of the positions of one sample.

Shape legend: as in qtool/quant/moments.py; S spatial dims.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.statistics.gram import Layer, Window

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def positions(output: Array, layer: Layer, most: int, sample: int) -> Indices:
    """Return up to `most` positions of the output of a sample, spread evenly, others in each."""
    count = output.size // (output.shape[1] if layer.window else output.shape[-1])
    taken = min(count, most)
    return np.asarray((np.arange(taken) * count // max(taken, 1) + 7 * sample) % max(count, 1))


def outputs_at(output: Array, layer: Layer, at: Indices) -> Float64:
    """Return the outputs of all channels at positions, (groups, channels, n)."""
    last = np.moveaxis(output, 1, -1) if layer.window else output
    rows = last.reshape(-1, last.shape[-1])[at].astype(np.float64)
    return np.ascontiguousarray(rows.T).reshape(layer.groups, -1, len(at))


def inputs_at(x: Array, zero: int, layer: Layer, at: Indices) -> Float64:
    """Return the integers, less their zero point, that the weights meet: (groups, n, depth)."""
    centred = x.astype(np.float64) - zero
    if layer.window is None:
        return centred.reshape(1, -1, layer.depth)[:, at]
    view = windows(centred, layer.window)
    dims = len(layer.window.kernel)
    first = np.moveaxis(view, 1, 1 + dims)  # (N, *outputs, C, *kernel)
    picked = first[np.unravel_index(at, first.shape[: 1 + dims])]
    return np.ascontiguousarray(
        picked.reshape(len(at), layer.groups, layer.depth).transpose(1, 0, 2)
    )


def windows(x: Array, window: Window) -> Array:
    """Return a view of the windows, (N, C, *outputs, *kernel)."""
    size, dims = x.shape[2:], len(window.kernel)
    before, output = window.placed(size)
    reach = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    needed = [(n - 1) * s + r for n, s, r in zip(output, window.strides, reach, strict=True)]
    after = [max(0, n - s - b) for n, s, b in zip(needed, size, before, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    axes = tuple(range(2, 2 + dims))
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    outer = tuple(slice(0, n, s) for n, s in zip(
        (a - r + 1 for a, r in zip(needed, reach, strict=True)), window.strides, strict=True
    ))  # fmt: skip
    inner = tuple(slice(None, None, d) for d in window.dilations)
    return np.asarray(view[(slice(None), slice(None), *outer, *inner)])
