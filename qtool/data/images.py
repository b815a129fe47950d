"""Pictures in a folder or a list: which files, which labels, and decoding them safely."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qtool.data.inputs import Input
from qtool.data.preprocess import MAX_PIXELS, Preprocess
from qtool.data.samples import Item
from qtool.errors import DataError, QtoolError

Array = npt.NDArray[Any]
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
LABELS = "labels.csv"


@dataclass(frozen=True)
class Picture:
    """A picture file, its label if known, and the line of the list that names it."""

    path: Path
    label: int | float | None = None
    where: str = ""


class Images:
    """A source: one sample per picture, decoded when read."""

    kind = "samples"
    slow = True
    floats = False

    def __init__(self, pictures: Sequence[Picture], target: Input, preprocess: Preprocess) -> None:
        self._pictures, self._input, self._preprocess = pictures, target, preprocess
        self.n: int | None = len(pictures)

    def read(self, index: int) -> Item:
        """Return the picture as uint8 (H, W) or (H, W, 3), resized and cropped."""
        picture = self._pictures[index]
        pixels = decode(picture.path, self._preprocess)
        if self._preprocess.layout == "NCHW":
            pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        elif pixels.ndim == 2:
            pixels = pixels[..., None]
        label = None if picture.label is None else np.asarray(picture.label)
        return Item(
            {self._input.name: pixels}, frozenset([self._input.name]), label, str(picture.path)
        )

    def items(self) -> Iterator[Item]:
        """Yield all pictures."""
        yield from map(self.read, range(len(self._pictures)))

    def check(self, order: Sequence[int]) -> None:
        """Raise DataError naming the first of these files that is missing or no picture."""
        for index in order:
            picture = self._pictures[index]
            try:
                check_picture(picture.path)
            except DataError as error:
                raise DataError(f"{picture.where}{error}") from None

    def integers(self, name: str) -> bool:
        """Return False: how pictures become numbers is always said."""
        return False

    def labels(self, order: Sequence[int]) -> Array | None:
        """Return the labels of these pictures; None if one has none."""
        labels = [self._pictures[index].label for index in order]
        return None if None in labels else np.array(labels)


def check_picture(path: Path) -> None:
    """Raise DataError if the file is missing, or its header is no picture's or a huge one's."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height, mode = image.width, image.height, image.mode
    except Exception as error:  # Pillow's plug-ins raise many kinds on damaged headers
        raise DataError(_unreadable(path, error)) from None
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path} is {width}x{height}; pictures may have {MAX_PIXELS} pixels at most"
        )
    if mode.startswith(("I", "F")):
        raise DataError(f"{path} has {mode} pixels; use 8 bits per channel, or arrays in an .npz")


def decode(path: Path, preprocess: Preprocess) -> Array:
    """Return a picture file as uint8 (H, W) or (H, W, 3) RGB, converted, resized and cropped.

    Raises:
        DataError: the file is missing, damaged or cut short.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return preprocess.picture(image)
    except QtoolError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise DataError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return f"{path}: there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return f"{path}: {error.strerror}"
    if isinstance(error, UnidentifiedImageError):
        return f"{path} is not a picture that Pillow can read"
    return f"{path} is damaged or cut short: {error}"


def pictures_in(folder: Path) -> list[Picture]:
    """Return the pictures of a folder: of its labels.csv, in it, or in one folder per class.

    Classes are the folders' numbers where all names are numbers, else their places in sorted
    order. [] where there are none.
    """
    if (folder / LABELS).is_file():
        return _listed(folder / LABELS, _csv_rows(folder / LABELS))
    flat = _files(folder)
    if flat:
        return [Picture(path) for path in flat]
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and _files(p))
    numbered = all(p.name.isdecimal() for p in classes)
    return [
        Picture(path, int(folder_.name) if numbered else number)
        for number, folder_ in enumerate(classes)
        for path in _files(folder_)
    ]


def pictures_of_list(path: Path) -> list[Picture]:
    """Return the pictures of a .txt: one file per line, relative to it, and maybe a label."""
    return _listed(path, _txt_rows(path))


Row = tuple[int, str, str | None]  # line, file, label


def _listed(path: Path, rows: list[Row]) -> list[Picture]:
    roots = [path.parent, path.parent / "images"]
    found = []
    for line, file, text in rows:
        where = f"{path} line {line}: "
        if "\0" in file:
            raise DataError(f"{where}the name of the file holds a NUL character")
        place = next((root / file for root in roots if (root / file).is_file()), roots[0] / file)
        found.append(Picture(place, _label(text, where), where))
    return found


def _label(text: str | None, where: str) -> int | float | None:
    if text is None:
        return None
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if np.isfinite(number):
            return number
    raise DataError(f"{where}label {text!r} is not a number")


def _csv_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file; a header may name the columns file and label."""
    lines = [(n, row) for n, row in enumerate(csv.reader(_text(path).splitlines()), 1) if row]
    if not lines:
        return []
    header = [cell.strip().lower() for cell in lines[0][1]]
    file, label = 0, 1
    if "file" in header or "label" in header:
        if not {"file", "label"} <= set(header):
            raise DataError(f"{path}: columns {', '.join(header)}; needs the columns file, label")
        file, label, lines = header.index("file"), header.index("label"), lines[1:]
    rows: list[Row] = []
    for n, row in lines:
        if len(row) <= max(file, label):
            raise DataError(f"{path} line {n}: {len(row)} columns; needs file and label")
        rows.append((n, row[file].strip(), row[label].strip()))
    return rows


def _txt_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    for n, line in enumerate(_text(path).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        parts = text.replace(",", " ").replace("\t", " ").rsplit(maxsplit=1)
        if len(parts) == 2 and not parts[1].lower().endswith(ENDINGS):
            rows.append((n, text[: len(parts[0])].rstrip(), parts[1]))
        else:
            rows.append((n, text, None))
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise QtoolError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None


def _files(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir()
        if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file()
    )  # fmt: skip
