from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtool.formats.deflate import deflate

SKEWED = bytes(
    random.Random(0).choices(range(30), [2.0**-i for i in range(30)], k=100_000)
)  # codes that would be longer than 15 bits


def compressed(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@given(st.binary(max_size=3000) | st.text("ab\n", max_size=3000).map(str.encode))
def test_zlib_undoes_deflate(data: bytes) -> None:
    assert zlib.decompress(deflate(data), -15) == data


@pytest.mark.parametrize("data", [b"", b"a", bytes(70_000), SKEWED, bytes(range(256)) * 400])
def test_zlib_undoes_deflate_of_extremes(data: bytes) -> None:
    assert zlib.decompress(deflate(data), -15) == data


def test_text_gets_nearly_as_small_as_with_zlib() -> None:
    with open(__file__, "rb") as file:
        text = file.read()

    assert len(deflate(text)) < 1.1 * len(compressed(text))


def test_output_is_frozen() -> None:
    data = b"the same bytes on every machine, the same bytes in every year"

    assert deflate(data).hex() == FROZEN


FROZEN = (
    "5dcab109c0400805d055fe0059ca840f5a6840e5c0edafbae6fad74a9438f14eb3f007b89803974f"
    "2df8e00276c0507203"
)
