"""Every codec of the registry keeps the same promises."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool import codecs
from qtool.codecs import CODECS
from qtool.errors import FormatError, UsageError

SPECIFICATION = Path(__file__).resolve().parents[2] / "docs" / "qtm-format.md"
BYTES = hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, min_side=0))


@pytest.mark.parametrize("name", CODECS)
@given(values=BYTES)
def test_values_come_back(name, values) -> None:
    data, links = codecs.encode(values, [name])

    found = codecs.decode(memoryview(data), links, values.dtype, values.shape)

    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("first", CODECS)
@pytest.mark.parametrize("second", CODECS)
@given(values=BYTES)
def test_values_come_back_through_two_codecs(first, second, values) -> None:
    data, links = codecs.encode(values, [first, second])

    found = codecs.decode(memoryview(data), links, values.dtype, values.shape)

    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.binary(max_size=60), shape=hnp.array_shapes(max_dims=2))
def test_damaged_bytes_raise_format_error(name, data, shape) -> None:
    links = [{"id": CODECS[name].id}]

    with suppress(FormatError):
        codecs.decode(memoryview(data), links, np.dtype(np.int8), shape)


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
