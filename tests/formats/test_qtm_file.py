from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qtool import formats
from qtool.errors import FormatError
from qtool.formats import container, manifest, onnx_file, qtm_file, tensors
from qtool.model import Model, fingerprint

NAMES = ("tiny", "dtypes", "full")


def member_of(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_comes_back(builders, name) -> None:
    model = builders[name]()

    found = qtm_file.loads(qtm_file.dumps(model), name="m")

    assert fingerprint(found) == fingerprint(model)


@pytest.mark.parametrize("name", NAMES)
def test_saving_again_gives_the_same_bytes(builders, name) -> None:
    data = qtm_file.dumps(builders[name]())

    assert qtm_file.dumps(qtm_file.loads(data, name="m")) == data


def test_every_tensor_comes_back_bit_for_bit(builders) -> None:
    model = builders["dtypes"]()

    found = qtm_file.loads(qtm_file.dumps(model), name="m")

    for name, value in model.graph.initializers.items():
        tensor, back = value.const_value, found.graph.initializers[name].const_value
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        if tensor.dtype == ir.DataType.STRING:
            assert list(back.string_data()) == list(tensor.string_data())
        else:
            assert back.tobytes() == tensor.tobytes()
            assert back.numpy().tobytes() == tensor.numpy().tobytes()


def test_what_qtool_knows_comes_back(full) -> None:
    found = qtm_file.loads(qtm_file.dumps(full), name="m")

    assert found.history == full.history
    assert found.preprocess == full.preprocess
    assert found.source == full.source
    assert (found.statistics.model, found.statistics.shards) == (full.statistics.model, ("2/8",))
    assert set(found.statistics.tensors) == {"h", "empty"}
    np.testing.assert_array_equal(
        found.statistics.grams["w"].values, full.statistics.grams["w"].values
    )
    np.testing.assert_array_equal(found.batch_norm["h"].mean, full.batch_norm["h"].mean)


def test_a_tensor_with_two_names_is_stored_once(full) -> None:
    model = qtm_file.loads(qtm_file.dumps(full), name="m")

    places = {model.graph.initializers[name].const_value.place for name in ("w", "v")}

    assert len(places) == 1


def test_tensors_are_aligned_in_the_file(full, tmp_path) -> None:
    data = memoryview(qtm_file.dumps(full))

    members = container.read(data, "m", qtm_file.MEMBERS)

    assert members["tensors.bin"].start % 64 == 0
    assert members["statistics.bin"].start % 64 == 0


def test_any_zip_program_can_read_it(full) -> None:
    with zipfile.ZipFile(io.BytesIO(qtm_file.dumps(full))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            m for m in qtm_file.MEMBERS if m not in (qtm_file.GRAPH_2, qtm_file.PACKED)
        ]


def test_unpacked_it_is_an_onnx_model_with_external_data(builders, tmp_path) -> None:
    model = builders["tiny"]()
    with zipfile.ZipFile(io.BytesIO(qtm_file.dumps(model))) as archive:
        archive.extractall(tmp_path)

    found = onnx_file.load(tmp_path / "graph.onnx")

    assert fingerprint(found) == fingerprint(model)


def test_the_argument_stays_as_it_was(full) -> None:
    before = onnx_file.dumps(full)

    qtm_file.dumps(full)

    assert onnx_file.dumps(full) == before


def test_a_file_can_be_saved_onto_itself(builders, tmp_path) -> None:
    path = tmp_path / "m.qtm"
    formats.save(builders["dtypes"](), path)
    data = path.read_bytes()

    formats.save(formats.load(path), path)

    assert path.read_bytes() == data


def test_damage_in_a_large_file_is_found_on_use(builders, monkeypatch) -> None:
    monkeypatch.setattr(qtm_file, "CHECK_BYTES", 0)
    data = bytearray(qtm_file.dumps(builders["tiny"]()))
    member = container.read(memoryview(bytes(data)), "m", qtm_file.MEMBERS)["tensors.bin"]
    data[member.start] ^= 1
    tensor = qtm_file.loads(bytes(data), name="m").graph.initializers["w"].const_value

    with pytest.raises(FormatError, match="m: tensor 'w' is damaged"):
        tensor.numpy()


def test_damage_does_not_survive_a_save(builders, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(qtm_file, "CHECK_BYTES", 0)
    data = bytearray(qtm_file.dumps(builders["tiny"]()))
    member = container.read(memoryview(bytes(data)), "m", qtm_file.MEMBERS)["tensors.bin"]
    data[member.start] ^= 1
    model = qtm_file.loads(bytes(data), name="m")

    with pytest.raises(FormatError, match="damaged"):
        formats.save(model, tmp_path / "m.qtm")

    assert os.listdir(tmp_path) == []


def test_pages_of_mapped_tensors_are_given_back(tmp_path) -> None:
    values = np.ones(1 << 22, np.float32)
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 21}), ir_version=10)
    for name in "abcdefgh":
        tensor = ir.Tensor(values, name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype))
        model.graph.register_initializer(value)
    formats.save(Model(model), tmp_path / "m.qtm")
    loaded = formats.load(tmp_path / "m.qtm")
    before = resident_bytes()

    for value in loaded.graph.initializers.values():
        assert float(value.const_value.numpy().sum()) == values.size

    assert resident_bytes() - before < 3 * values.nbytes


def resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        pytest.skip("no /proc here")
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_tensor_that_does_not_fit_its_shape_is_refused() -> None:
    class Lying(ir.LazyTensor):
        def tobytes(self) -> bytes:
            return bytes(9)

    tensor = Lying(lambda: None, ir.DataType.FLOAT, ir.Shape([64]), name="w")

    with pytest.raises(Exception, match="tensor 'w' has 9 bytes of data; its shape needs 256"):
        list(tensors.chunks(tensor, 256))


def test_a_version_of_a_thousand_digits_is_refused_in_few_words() -> None:
    data = b'{"format": "qtm", "version": ' + b"9" * 1000 + b"}"

    with pytest.raises(FormatError, match=r"'version' is out of range$"):
        manifest.loads(data, "m.qtm")
