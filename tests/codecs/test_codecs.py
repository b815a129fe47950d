"""Every codec of the registry keeps the same promises."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool import _native, codecs
from qtool.codecs import CODECS
from qtool.errors import FormatError, UsageError

SPECIFICATION = Path(__file__).resolve().parents[2] / "docs" / "qtm-format.md"
ISAS = [isa for isa, there in _native.isas().items() if there]
SHAPES = hnp.array_shapes(max_dims=3, min_side=0, max_side=40)
DTYPES = st.sampled_from([
    np.uint8, np.int8, np.bool_, np.int16, np.float16, ml_dtypes.bfloat16, np.int32, np.float32,
    np.int64, np.float64, np.complex64, np.complex128,
])  # fmt: skip


@st.composite
def tensors(draw) -> np.ndarray:
    """Return values as weights have them: few kinds, many zeros, a bell curve, or any bits."""
    dtype, shape = np.dtype(draw(DTYPES)), draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = int(np.prod(shape)) * dtype.itemsize
    kind = draw(st.sampled_from(["bits", "bell", "few", "zeros", "same"]))
    if kind == "bell" and dtype.kind != "b":
        return rng.normal(0, 9, shape).astype(np.int8).astype(dtype)
    data = rng.integers(0, 2 if dtype.kind == "b" else 256, size, np.uint8)
    if kind in ("few", "same") and data.size:
        pool = data.reshape(-1, dtype.itemsize)[: 1 if kind == "same" else 20]
        data = pool[rng.integers(0, len(pool), size // dtype.itemsize)]
    if kind == "zeros":
        data = data.reshape(-1, dtype.itemsize) * (rng.random((size // dtype.itemsize, 1)) < 0.2)
    return np.frombuffer(data.astype(np.uint8).tobytes(), dtype).reshape(shape)


def assert_same(found: np.ndarray, values: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert found.tobytes() == values.tobytes()


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60)
@given(values=tensors())
def test_values_come_back(name, values) -> None:
    with suppress(FormatError):  # the codec cannot hold them
        data, links = codecs.encode(values, [name])

        assert_same(codecs.decode(memoryview(data), links, values.dtype, values.shape), values)


@pytest.mark.parametrize("slow", [False, True], ids=["default", "max"])
@settings(max_examples=100)
@given(values=tensors())
def test_the_smallest_comes_back(slow, values) -> None:
    data, links = codecs.smallest(values, max=slow)

    assert_same(codecs.decode(memoryview(data), links, values.dtype, values.shape), values)
    assert len(data) <= values.nbytes + 8
    assert codecs.chain(memoryview(data), links)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [name for name in CODECS if name != "scaled"])
def test_every_instruction_set_decodes_alike(name, isa, rng) -> None:
    values = np.rint(rng.normal(0, 3, 200_001)).astype(np.float32)
    values = values if name in ("codebook", "sparse", "planes") else values.astype(np.int8)
    if name == "blocks":
        values = np.tile(values, 50)
    data, links = codecs.encode(values, [name])

    found = codecs.decode(memoryview(data), links, values.dtype, values.shape, isa=isa)

    assert_same(found, values)


@pytest.mark.parametrize("first", CODECS)
@pytest.mark.parametrize("second", CODECS)
@settings(max_examples=10)
@given(values=tensors())
def test_values_come_back_through_two_codecs(first, second, values) -> None:
    with suppress(FormatError):
        data, links = codecs.encode(values, [first, second])

        assert_same(codecs.decode(memoryview(data), links, values.dtype, values.shape), values)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.binary(max_size=60), shape=hnp.array_shapes(max_dims=2))
def test_random_bytes_raise_format_error(name, data, shape) -> None:
    links = [{"id": CODECS[name].id}]

    with suppress(FormatError):
        codecs.decode(memoryview(data), links, np.dtype(np.int8), shape)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=60)
@given(values=tensors(), where=st.floats(0, 1), flip=st.integers(1, 255), cut=st.booleans())
def test_damaged_streams_raise_format_error(name, values, where, flip, cut) -> None:
    with suppress(FormatError):
        data, links = codecs.encode(values, [name])
        damaged = bytearray(data)
        if damaged:
            damaged[int(where * (len(damaged) - 1))] ^= flip
            damaged = damaged[: int(where * len(damaged))] if cut else damaged
        found = codecs.decode(memoryview(damaged), links, values.dtype, values.shape)

        assert found.shape == values.shape


def test_multiples_of_another_row_take_a_few_bytes(rng) -> None:
    scales = rng.random(300).astype(np.float32)
    values = scales * np.float32(0.0123)
    row = codecs.smallest(scales)

    data, links = codecs.smallest(values, others={7: scales})

    assert len(data) == 5
    found = codecs.decode(
        memoryview(data), links, values.dtype, values.shape,
        row=lambda number: {7: (row[1][0]["id"], memoryview(row[0]))}[number],
    )  # fmt: skip
    assert_same(found, values)


def test_ids_are_never_shared() -> None:
    assert len({codec.id for codec in CODECS.values()}) == len(CODECS)


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_is_specified(name) -> None:
    assert f"| {CODECS[name].id} | `{name}` |" in SPECIFICATION.read_text()


def test_raw_is_the_memory_itself() -> None:
    data = bytes(range(12))

    values = codecs.decode(memoryview(data), [{"id": 0}], np.dtype("<i4"), (3,))

    assert values.base is not None
    assert values.tobytes() == data


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(UsageError, match="no codec named 'rwa': did you mean 'raw'"):
        codecs.encode(np.zeros(1, np.uint8), ["rwa"])


def test_an_unknown_id_asks_for_a_newer_qtool() -> None:
    with pytest.raises(FormatError, match=r"codec 200 is unknown; this qtool knows 0 \(raw\)"):
        codecs.check([{"id": 200}], 1, 1)


def test_a_few_bytes_cannot_be_terabytes() -> None:
    with pytest.raises(FormatError, match="cannot be 1099511627776 encoded ones: a bomb"):
        codecs.check([{"id": CODECS["codebook"].id}], 20, 1 << 40)
