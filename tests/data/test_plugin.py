from __future__ import annotations

import numpy as np
import pytest

from qtool.data import open_samples
from qtool.errors import DataError, UsageError
from qtool.model import TensorSpec

SPECS = [TensorSpec("x", "float32", ("N", 5))]
SOURCE = """
import numpy as np
def dicts():
    for i in range(3):
        yield {"x": np.full((1, 5), i, np.float32), "y": np.array([i])}
def pairs():
    for i in range(3):
        yield np.full(5, i, np.float32), i
def batches():
    yield np.repeat(np.arange(3, dtype=np.float32)[:, None], 5, axis=1), np.arange(3)
def arrays():
    yield from (np.full(5, i, np.float32) for i in range(3))
def fails():
    yield np.zeros(5, np.float32)
    raise KeyError("gone")
def nans():
    yield np.zeros(5, np.float32)
    yield np.full(5, np.nan, np.float32)
def nothing():
    return []
def objects():
    return [object()]
def no_iterable():
    return 3
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    return lambda name: f"{tmp_path / 'mine.py'}:{name}"


@pytest.mark.parametrize("name", ["dicts", "pairs", "batches"])
def test_what_a_function_yields_are_labelled_samples(source, name):
    samples = open_samples(source(name), SPECS, labels=True)

    for _ in range(2):
        assert [(s.feeds["x"][0, 0], s.label.tolist()) for s in samples] == [
            (0, [0]), (1, [1]), (2, [2]),
        ]  # fmt: skip


def test_arrays_alone_are_samples_without_labels(source):
    assert [s.label for s in open_samples(source("arrays"), SPECS)] == [None] * 3


def test_samples_limits_a_function(source):
    assert len(list(open_samples(source("dicts"), SPECS, samples=2))) == 2


def test_batch_groups_what_a_function_yields(source):
    assert [s.n for s in open_samples(source("arrays"), SPECS, batch=2)] == [2, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "fails failed: KeyError: 'gone'"),
        ("nans", "item 1: input 'x' holds NaN"),
        ("nothing", "yielded no samples"),
        ("objects", "is a object, not an array of numbers"),
        ("no_iterable", "failed: TypeError"),
    ],
)
def test_what_goes_wrong_is_named(source, name, message):
    with pytest.raises(DataError) as raised:
        list(open_samples(source(name), SPECS))

    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:dcits", "no function named 'dcits': did you mean 'dicts'? known: arrays"),
        ("gone.py:f", "cannot import gone.py"),
        ("no.such.module:f", "cannot import no.such.module"),
        ("json:", "no function named ''"),
    ],
)
def test_a_function_that_is_not_there_is_wrong_usage(tmp_path, source, name, message):
    with pytest.raises(UsageError) as raised:
        open_samples(name.format(source("").removesuffix(":")), SPECS)

    assert message in str(raised.value)


def test_a_function_has_its_own_order(source):
    with pytest.raises(UsageError, match="leave --shuffle"):
        open_samples(source("dicts"), SPECS, shuffle=True)


def test_a_module_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "qtool_test_module.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)

    found = list(open_samples("qtool_test_module:pairs", SPECS))

    np.testing.assert_array_equal(found[2].feeds["x"], np.full((1, 5), 2))
