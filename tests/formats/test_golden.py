"""Every file of tests/golden is read, or refused, as it was when it was frozen."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool import formats
from qtool.codecs import CODECS
from qtool.errors import QtoolError
from qtool.formats import onnx_file, qtm_file
from qtool.model import fingerprint

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
GOOD = sorted(path.name for path in GOLDEN.glob("v1-*.qtm"))
PACKED = sorted(path.name for path in GOLDEN.glob("v3-*.qtm"))
OLD = sorted(path.name for path in GOLDEN.glob("v2-*.qtm"))
BAD = [
    line.split("\t")
    for line in (GOLDEN / "bad" / "expected.tsv").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("name", GOOD)
def test_a_golden_file_is_read(golden, builders, name) -> None:
    model = builders[name[3:-4]]()

    assert fingerprint(formats.load(golden / name)) == fingerprint(model)


@pytest.mark.parametrize("name", GOOD)
def test_the_writer_still_gives_the_golden_bytes(golden, builders, monkeypatch, name) -> None:
    monkeypatch.setattr(qtm_file, "__version__", "0.1.0")

    assert qtm_file.dumps(builders[name[3:-4]]()) == (golden / name).read_bytes()


@pytest.mark.parametrize("name", [*OLD, *PACKED])
def test_a_packed_golden_file_is_read(golden, packed_builders, name) -> None:
    model = packed_builders[name[3:-4]]()

    assert fingerprint(formats.load(golden / name)) == fingerprint(model)


@pytest.mark.parametrize("name", PACKED)
def test_packing_still_gives_the_golden_bytes(golden, packed_builders, monkeypatch, name) -> None:
    monkeypatch.setattr(qtm_file, "__version__", "0.1.0")
    file = io.BytesIO()

    qtm_file.write_packed(packed_builders[name[3:-4]](), file)

    assert file.getvalue() == (golden / name).read_bytes()


@pytest.mark.parametrize("name", GOOD)
def test_the_onnx_writer_still_gives_the_golden_bytes(golden, builders, name) -> None:
    name = name[3:-4]

    assert onnx_file.dumps(builders[name]()) == (golden / f"{name}.onnx").read_bytes()


SMALL = [name for name in [*GOOD, *OLD, *PACKED] if name != "v2-codecs.qtm"]


@pytest.mark.parametrize("name", SMALL)
def test_the_plain_reader_sees_the_same_tensors(golden, name) -> None:
    from read_qtm import Qtm

    plain = Qtm(str(golden / name))

    model = formats.load(golden / name)
    stored = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if name in plain.tensors and name != "blocks"  # of a million zeros
    }
    assert stored
    for name, tensor in stored.items():
        bits = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}
        values, found = tensor.numpy(), plain.tensor(name)
        if tensor.dtype.bitwidth >= 8:
            unsigned = bits[values.itemsize]
            np.testing.assert_array_equal(found.view(unsigned), values.view(unsigned))
        elif tensor.dtype != ir.DataType.FLOAT4E2M1:
            np.testing.assert_array_equal(found, values.astype(np.int8))


def test_the_plain_reader_sees_the_same_statistics(golden) -> None:
    from read_qtm import Qtm

    plain = Qtm(str(golden / "v1-full.qtm")).statistics()
    model = formats.load(golden / "v1-full.qtm")

    for name, table in model.statistics.tensors.items():
        found = plain["histograms"][name]
        assert found.pop("counts") == table.counts.tolist()
        assert found == {key: getattr(table, key) for key in found}
    for name, gram in model.statistics.grams.items():
        np.testing.assert_array_equal(plain["grams"][name]["values"], gram.values)
    np.testing.assert_array_equal(plain["batch_norm"]["h"]["mean"], model.batch_norm["h"].mean)


def test_the_plain_reader_runs_alone(golden, tmp_path) -> None:
    script = GOLDEN.parents[1] / "scripts" / "read_qtm.py"
    command = [sys.executable, "-I", script, golden / "v1-tiny.qtm", "w", tmp_path / "w.npy"]

    subprocess.run(command, check=True)

    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), np.arange(64, dtype=np.float32))
    assert "qtool" not in [line.split()[1] for line in script.read_text().splitlines()
                           if line.startswith(("import ", "from "))]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "message"), BAD)
def test_a_bad_file_is_refused_in_one_line(golden, monkeypatch, name, kind, message) -> None:
    monkeypatch.chdir(golden / "bad")
    known = ", ".join(f"{codec.id} ({name})" for name, codec in CODECS.items())
    newest = {
        "{ir}": onnx.IR_VERSION, "{opset}": onnx.defs.onnx_opset_version(), "{codecs}": known,
    }  # fmt: skip
    for key, number in newest.items():
        message = message.replace(key, str(number))
    if name == "device.onnx" and not hasattr(onnx, "NodeDeviceConfigurationProto"):
        pytest.skip("this onnx does not know about devices")

    with pytest.raises(QtoolError) as caught:
        fingerprint(formats.load(name))  # reads every tensor

    assert (type(caught.value).__name__, str(caught.value)) == (kind, message)


def test_every_bad_file_has_its_message(golden) -> None:
    files = {path.name for path in (golden / "bad").iterdir()} - {"expected.tsv"}

    assert {row[0] for row in BAD} == files


def test_no_golden_file_is_missing() -> None:
    script = GOLDEN.parents[1] / "scripts" / "freeze_golden.py"

    subprocess.run([sys.executable, script, "--check"], check=True)


def test_golden_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*.*")) < 500_000
