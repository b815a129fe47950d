"""A real network becomes the same file on any number of threads and with kernels of other CPUs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from qtool import _native

SAMPLES = 8


@pytest.fixture(scope="module")
def network(zoo, tmp_path_factory):
    """Visual wake words, which is equalized, and photographs of 96 x 96."""
    folder = tmp_path_factory.mktemp("vww")
    with np.load(zoo / "data" / "vww-coco128" / "vww_coco128_96.npz") as arrays:
        np.savez(folder / "x.npz", x=arrays["x"][:SAMPLES])
    source = zoo / "models" / "mlperf-tiny-mobilenetv1-0.25-vww" / "model.onnx"
    command = [sys.executable, "-m", "qtool", "freeze", "-q", "-i", source, "-o", folder / "m.onnx"]
    subprocess.run(list(map(str, command)), check=True)
    return folder


def made(folder, command, threads, isa=None):
    """Return what a command writes, and what it says, with no more than the kernels of isa."""
    found = np.show_config("dicts")["SIMD Extensions"]["found"]
    limits = {"QTOOL_ISA": isa, "NPY_DISABLE_CPU_FEATURES": " ".join(found)} if isa else {}
    output = folder / f"{threads}.{isa}.qtm"
    typed = [sys.executable, "-m", "qtool", *command, "-i", folder / "m.onnx", "-o", output]
    typed += ["--data", folder / "x.npz", "--preprocess", "unit", "--threads", threads]
    done = subprocess.run(
        list(map(str, typed)), env=os.environ | limits, capture_output=True, text=True, check=True
    )
    return output.read_bytes(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["calibrate", "--gram"], "28 Gram matrices"),
        (["quantize"], "equalized"),
        (["quantize", "--weights", "int4"], "raising the opset"),
    ],
    ids=["calibrate", "int8", "int4"],
)
def test_threads_and_instruction_sets_do_not_change_a_byte(network, command, said):
    here, log = made(network, command, threads=1)

    assert said in log
    for isa in ("scalar", "avx2", "avx512"):
        if _native.isas()[isa]:
            assert made(network, command, threads=2, isa=isa)[0] == here, isa
