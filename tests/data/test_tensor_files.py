from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from qtool.data import open_samples
from qtool.errors import DataError, FormatError
from qtool.model import TensorSpec

SPECS = [TensorSpec("a", "float32", (1, 2)), TensorSpec("b", "int64", (3,))]


def write(folder, name, array, tensor_name=""):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(numpy_helper.from_array(array, tensor_name).SerializeToString())


def data_set(folder, value, names=("", "")):
    write(folder, "input_0.pb", np.full((1, 2), value, np.float32), names[0])
    write(folder, "input_1.pb", np.full(3, value, np.int64), names[1])


def test_folders_are_samples_in_the_order_of_their_numbers(tmp_path):
    for number in (0, 2, 10):
        data_set(tmp_path / f"test_data_set_{number}", number)

    samples = list(open_samples(str(tmp_path), SPECS))

    assert [s.feeds["b"][0] for s in samples] == [0, 2, 10]
    assert samples[0].feeds["a"].shape == (1, 2)


def test_names_decide_over_places(tmp_path):
    write(tmp_path, "input_0.pb", np.ones(3, np.int64), "b")
    write(tmp_path, "input_1.pb", np.zeros((1, 2), np.float32), "a")

    (sample,) = open_samples(str(tmp_path), SPECS)

    assert sample.feeds["b"].tolist() == [1, 1, 1]


def test_the_first_output_is_the_label(tmp_path):
    data_set(tmp_path, 1)
    write(tmp_path, "output_0.pb", np.array([[5.0]]))

    (sample,) = open_samples(str(tmp_path), SPECS, labels=True)

    assert sample.label.tolist() == [[5.0]]


def test_a_wrong_shape_is_found_before_anything_runs(tmp_path):
    data_set(tmp_path / "test_data_set_0", 0)
    write(tmp_path / "test_data_set_0", "input_1.pb", np.zeros(4, np.int64))

    with pytest.raises(DataError, match=r"shape \[4\] does not fit input b: int64\[3\]"):
        open_samples(str(tmp_path), SPECS)


def test_a_missing_input_is_named(tmp_path):
    write(tmp_path, "input_0.pb", np.zeros((1, 2), np.float32))

    with pytest.raises(DataError, match="holds 1 inputs; the model takes 2: a, b"):
        open_samples(str(tmp_path), SPECS)


def test_damaged_bytes_are_refused(tmp_path):
    data_set(tmp_path, 0)
    (tmp_path / "input_1.pb").write_bytes(b"\xff" * 20)

    with pytest.raises(FormatError, match=r"input_1\.pb is not an ONNX tensor"):
        open_samples(str(tmp_path), SPECS)


def test_values_in_another_file_are_refused(tmp_path):
    data_set(tmp_path, 0)
    tensor = TensorProto(name="b", data_type=TensorProto.INT64, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    (tmp_path / "input_1.pb").write_bytes(tensor.SerializeToString())

    with pytest.raises(FormatError, match="keeps its values in another file"):
        open_samples(str(tmp_path), SPECS)
