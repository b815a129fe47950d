"""Made pictures, for calibration without samples: dead leaves (Lee, Mumford and Huang, 2001).

Opaque leaves of random place, size, form and colour that hide each other, shaded and textured.
Sizes follow r^-3: then the pictures look alike at all scales, and have the edges, the flat areas
and the 1/f^2 spectrum of photographs, which noise of any spectrum has not.

Shape legend: H, W height and width of a picture; 3 channels R, G, B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.inputs import Input
from qtool.data.preprocess import Preprocess
from qtool.data.random_samples import MadeSamples, random_shape
from qtool.data.samples import Item
from qtool.errors import DataError

Array = npt.NDArray[Any]
DEFAULT_N = 64
LEAVES = 4000  # at most; a picture is mostly covered after some hundreds
SMALLEST = (0.005, 0.1)  # radii, as shares of the longer side: the smallest of a picture's leaves
LARGEST = 0.5
COVERED = 0.998  # of a picture: the rest shows the ground
KEPT_BYTES = 1 << 26  # of pictures that are kept for the next pass


class SyntheticPictures(MadeSamples):
    """A source: picture i depends on the seed and i only."""

    kind = "synthetic"
    slow = True
    floats = False

    def __init__(self, target: Input, preprocess: Preprocess, n: int | None, seed: int) -> None:
        """Make pictures of the size that the input takes.

        Raises:
            DataError: the input takes no pictures.
        """
        dims = random_shape(target)[1:]
        self._layout = preprocess.layout or "NCHW"
        channels = dims[0] if self._layout == "NCHW" else dims[-1]
        if len(dims) != 3 or channels not in (1, 3):
            raise DataError(
                f"input {target.name!r} of shape {'x'.join(map(str, dims))} takes no pictures: "
                "there is nothing to make up; give samples with --data"
            )
        self._size = dims[1:] if self._layout == "NCHW" else dims[:2]
        self._name, self._channels, self._seed = target.name, channels, seed & (2**64 - 1)
        self.n: int | None = DEFAULT_N if n is None else n
        self._made: dict[int, Array] = {}

    def read(self, index: int) -> Item:
        """Return picture index, uint8, in the layout of the model."""
        pixels = self._made.get(index)
        if pixels is None:
            pixels = self._make(index)
            if len(self._made) * pixels.nbytes < KEPT_BYTES:
                self._made[index] = pixels
        return Item({self._name: pixels}, frozenset([self._name]), None, f"made picture {index}")

    def _make(self, index: int) -> Array:
        pixels = dead_leaves(np.random.default_rng([self._seed, index]), *self._size)
        if self._channels == 1:
            pixels = np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
        if self._layout == "NCHW":
            pixels = np.moveaxis(pixels, -1, 0)
        return pixels

    def integers(self, name: str) -> bool:
        """Return True: they are pixels."""
        return True


def dead_leaves(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a picture, uint8 (H, W, 3).

    Leaves are laid from the front to the back, each where nothing is yet, until nothing shows
    through. Light, contrast, colour and the size of the smallest differ from picture to picture.
    """
    picture = np.zeros((height, width, 3), np.float32)
    empty = np.ones((height, width), bool)
    side = max(height, width)
    smallest = max(1.0, side * float(np.exp(rng.uniform(*np.log(SMALLEST)))))
    light, contrast = rng.uniform(60, 190), rng.uniform(30, 80)
    tint, colourful = rng.normal(0, 12, 3), rng.uniform(5, 45)
    for number in range(LEAVES):
        radius = _radius(rng, smallest, max(LARGEST * side, 2 * smallest))
        y, x = rng.uniform(-radius, height + radius), rng.uniform(-radius, width + radius)
        colour = light + tint + rng.normal(0, contrast) + rng.normal(0, colourful, 3)
        slope = rng.normal(0, contrast / 4, 2) / radius
        rows = slice(max(0, int(y - radius)), max(0, min(height, int(y + radius) + 2)))
        columns = slice(max(0, int(x - radius)), max(0, min(width, int(x + radius) + 2)))
        dy = (np.arange(rows.start, rows.stop)[:, None] - y) / radius
        dx = (np.arange(columns.start, columns.stop) - x) / radius
        seen = empty[rows, columns] & _leaf(rng, dy, dx)
        shade = (slope[0] * dy + slope[1] * dx)[seen] * radius
        picture[rows, columns][seen] = colour + shade[:, None]
        empty[rows, columns] &= ~seen
        if number % 16 == 0 and np.count_nonzero(empty) < (1 - COVERED) * empty.size:
            break
    picture[empty] = light + tint
    picture += rng.uniform(2, 20) * _texture(rng, height, width)[..., None]
    for _ in range(rng.integers(0, 3)):
        picture = _softened(picture)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _radius(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a radius with density r^-3 between the limits."""
    return float((low**-2 - rng.random() * (low**-2 - high**-2)) ** -0.5)


def _leaf(rng: np.random.Generator, dy: Array, dx: Array) -> npt.NDArray[np.bool_]:
    """Return where a leaf is, of radius 1 at the origin: an ellipse or a rectangle, turned."""
    angle, flat = rng.uniform(0, np.pi), rng.uniform(0.2, 1.0)
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = (np.cos(angle) * dy - np.sin(angle) * dx) / flat
    if rng.random() < 0.5:
        return np.asarray(along * along + across * across <= 1)
    return np.asarray((np.abs(along) <= 0.7) & (np.abs(across) <= 0.7))


def _texture(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return noise with a 1/f amplitude, of variance 1."""
    noise = np.fft.rfft2(rng.normal(size=(height, width)))
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    noise /= np.maximum(f, 1 / max(height, width))
    made = np.fft.irfft2(noise, s=(height, width))
    return np.asarray((made - made.mean()) / max(float(made.std()), 1e-9), np.float32)


def _softened(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the picture as a lens shows it: each pixel takes a quarter from its neighbours."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.asarray(0.5 * picture + 0.125 * around, np.float32)
