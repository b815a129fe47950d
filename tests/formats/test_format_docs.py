"""docs/qtm-format.md says what the files are."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

from qtool import codecs
from qtool.codecs import lz
from qtool.formats import manifest, packed_graph, qtm_file, statistics_bin

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "qtm-format.md").read_text()


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL).group(1)


def test_the_worked_example_is_the_golden_file(golden) -> None:
    data = b"".join(
        bytes.fromhex(line[6:53]) for line in block("hex").splitlines() if line[0] != "#"
    )

    assert data == (golden / "v1-tiny.qtm").read_bytes()


def test_the_places_in_the_worked_example_are_right() -> None:
    position = 0
    for line in block("hex").splitlines():
        if line[0] != "#":
            assert int(line[:4], 16) == position
            position += len(bytes.fromhex(line[6:53]))


def test_the_manifest_of_the_worked_example_is_right(golden) -> None:
    with zipfile.ZipFile(golden / "v1-tiny.qtm") as archive:
        assert archive.read("manifest.json").decode() == block("json")


def test_the_limits_are_those_of_the_code() -> None:
    limits = {
        "`manifest.json` 16 MiB": qtm_file.MAX_MANIFEST_BYTES == 16 << 20,
        "`graph.onnx` 256 MiB": qtm_file.MAX_GRAPH_BYTES == 256 << 20,
        "has 256 bytes or more": qtm_file.INLINE_BYTES == 256,
        "up to 64 MiB of them": qtm_file.CHECK_BYTES == 64 << 20,
        "more than 2^22 bins": statistics_bin.MAX_BINS == 1 << 22,
        "No number is above 2^50": manifest.MAX_BYTES == 1 << 50,
        "The .qtm file, versions 1 to 3\n": manifest.VERSIONS == (1, 2, 3),
        "`arith` is at most 8 MiB, that of `raw` and `lz` 256 MiB": (
            packed_graph.MAX_TEXT_BYTES == 8 << 20 and packed_graph.MAX_GRAPH_BYTES == 256 << 20
        ),
        f"the {lz.dictionary().size:,} bytes of": True,
        hashlib.sha256(lz.dictionary().tobytes()).hexdigest(): True,
        "more than 2^19 (n + 16) bytes": (codecs.MAX_RATIO == 1 << 19 and codecs.FREE_BYTES == 16),
    }

    assert all(words in PAGE and same for words, same in limits.items())


def test_the_keys_of_the_manifest_are_all_described(golden) -> None:
    with zipfile.ZipFile(golden / "v1-full.qtm") as archive:
        keys = set(re.findall(r'"(\w+)":', archive.read("manifest.json").decode()))
    options = {"samples", "ratio", "note", "set_dim", "layout", "mean", "resize"}

    assert {key for key in keys - options if f"`{key}`" not in PAGE} == set()
