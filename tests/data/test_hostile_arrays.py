from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.data import open_samples
from qtool.errors import FormatError, QtoolError
from qtool.model import TensorSpec

SPECS = [TensorSpec("x", "float32", ("N", None))]


def npz(save):
    file = io.BytesIO()
    save(file, x=np.ones((4, 5), np.float32), y=np.arange(4))
    return file.getvalue()


FILES = {"stored.npz": npz(np.savez), "deflated.npz": npz(np.savez_compressed)}


CHANGES = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=300)
@given(changes=CHANGES)
def test_damaged_files_raise_only_qtool_errors(name, changes, tmp_path_factory):
    content = bytearray(FILES[name])
    for place, value in changes:
        content[place % len(content)] = value
    path: Path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)

    with suppress(QtoolError):
        list(open_samples(str(path), SPECS, labels=None))


def header(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "shape", ["(10000000000, 10)", "(-1, 4)", "(4, -1)", f"({10**30},)", f"(5, 0, {10**30})", "()"]
)
def test_absurd_shapes_take_no_memory(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(header(shape) + bytes(16))

    with pytest.raises(QtoolError):
        list(open_samples(str(tmp_path / "a.npy"), SPECS))


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header("(1000000000, 10)") + bytes(1000))

    with pytest.raises(FormatError, match="needs 40000000128 bytes but the file has 1128"):
        open_samples(str(tmp_path / "a.npz"), SPECS)


def test_a_member_larger_than_the_disk_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("qtool.data.arrays.MAX_IN_MEMORY", 10)
    monkeypatch.setattr("qtool.data.arrays.shutil.disk_usage", lambda _: type("U", (), {"free": 9}))
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((9, 9), np.float32))

    with pytest.raises(QtoolError, match="unpacks to 452 bytes but .* has only 9 free"):
        open_samples(str(tmp_path / "a.npz"), SPECS)[0]
