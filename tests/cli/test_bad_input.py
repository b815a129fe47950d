"""Every command given every kind of bad input: one line, the right exit code, nothing left over."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

FLOAT = TensorProto.FLOAT
WEIGHTS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
KERNEL = np.ones((4, 3, 3, 3), np.float32)
QUIET = {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
MODELS_IN = {  # where a command reads a model: the words before and after its name
    "freeze": ("freeze -o {out}.onnx -i", ""),
    "calibrate": ("calibrate --data d.npz -o {out}.qtm -i", ""),
    "merge": ("merge -o {out}.qtm", "base.qtm"),
    "quantize": ("quantize -o {out}.onnx -i", ""),
    "quantize --statistics": ("quantize -i base.onnx -o {out}.onnx --statistics", ""),
    "evaluate": ("evaluate --data d.npz -i", ""),
    "evaluate --reference": ("evaluate -i base.onnx --data d.npz --reference", ""),
    "inspect": ("inspect", ""),
    "inspect --diff": ("inspect --diff base.onnx", ""),
}
if find_spec("jinja2") and find_spec("matplotlib"):
    MODELS_IN |= {
        "report": ("report -o {out}.html -i", ""),
        "report --reference": ("report -o {out}.html -i base.onnx --reference", ""),
    }
WRITERS = {
    "freeze": "freeze -i base.onnx",
    "calibrate": "calibrate -i base.onnx --data d.npz --threads 1",
    "merge": "merge s1.qtm s2.qtm",
    "quantize": "quantize -i base.onnx",
}


def value(name, *shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, list(shape))


def onnx_bytes(nodes, inputs, outputs, weights=(), opset=17, ir_version=8, domains=()):
    tensors = [w if isinstance(w, TensorProto) else numpy_helper.from_array(w, n)
               for n, w in weights]  # fmt: skip
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    return made.SerializeToString()


def matmul(**more):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    return onnx_bytes(nodes, [value("x", "N", 6)], [value("y", "N", 4)], [("w", WEIGHTS)], **more)


def one_node(op, inputs, shape, *, out=None, weights=(), dtype=FLOAT, domain="", **attributes):
    domains = (domain,) if domain else ()
    node = helper.make_node(op, inputs, ["y"], domain=domain, **attributes)
    ends = [value("x", *shape, dtype=dtype)], [value("y", *(shape if out is None else out))]
    return onnx_bytes([node], *ends, weights, domains=domains)


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def picture(**options):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of good files: base.onnx conv.onnx base.qtm s1.qtm s2.qtm other.qtm d.npz."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "base.onnx").write_bytes(matmul())
    conv = one_node("Conv", ["x", "w"], ("N", 3, 8, 8), out=("N", 4, 6, 6), weights=[("w", KERNEL)])
    (folder / "conv.onnx").write_bytes(conv)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((20, 6)).astype(np.float32), rng.integers(0, 4, 20)
    np.savez(folder / "d.npz", x=x, y=y)
    np.savez(folder / "dc.npz", x=rng.standard_normal((4, 3, 8, 8)).astype(np.float32))
    from qtool import formats
    from qtool.data import open_samples
    from qtool.stages.calibrate import calibrate

    def calibrated(model, data, out, **options):
        loaded = formats.load(folder / model)
        samples = open_samples(str(folder / data), loaded.inputs())
        formats.save(calibrate(loaded, data=samples, threads=1, **options), folder / out)

    calibrated("base.onnx", "d.npz", "base.qtm")
    calibrated("base.onnx", "d.npz", "s1.qtm", shard=(1, 2))
    calibrated("base.onnx", "d.npz", "s2.qtm", shard=(2, 2))
    calibrated("conv.onnx", "dc.npz", "other.qtm", shard=(2, 2))
    return folder


@pytest.fixture
def refused(cli, given, tmp_path, monkeypatch):
    """Runs a command that must fail as all failures should; returns its error line."""
    monkeypatch.chdir(given)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(typed: str, code: int = 1, *, input: bytes | None = None, last: str | None = None):
        words = typed.format(out=tmp_path / "out", tmp=tmp_path).split()
        result = cli(*words, *([] if last is None else [last]), input=input)
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert (result.exit_code, result.stdout) == (code, ""), result.stderr
        assert errors == result.stderr.splitlines()[-1:], result.stderr
        assert not [path for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))]
        return errors[0].removeprefix("error: ")

    return run


# ---------------------------------------------------------------- files that are no models

NO_MODELS = {
    "missing.onnx": (None, "there is no such file"),
    "missing.qtm": (None, "there is no such file"),
    "folder.onnx": ("folder", "it is a folder"),
    "folder.qtm": ("folder", "it is a folder"),
    "folder": ("folder", "folder is a folder; a model file ends in .onnx or .qtm"),
    "empty.onnx": (b"", "is empty"),
    "empty.qtm": (b"", "is empty"),
    "half.onnx": (matmul()[:90], "truncated"),
    "half.qtm": ("base.qtm", "truncated"),
    "random.onnx": (np.random.default_rng(2).bytes(3000), "is not an ONNX model"),
    "random.qtm": (np.random.default_rng(2).bytes(3000), "is not a .qtm"),
    "png.onnx": (picture(), "a PNG image"),
    "zip.qtm": (zipped(a="b"), "a ZIP file"),
    "text.onnx": (b"hello\nworld\n", "text"),
    "onnx.qtm": (matmul(), "an ONNX model"),
    "qtm.onnx": ("base.qtm whole", "a .qtm model"),
    "html.onnx": (b"<!DOCTYPE html><html>", "a web page"),
    "model.pt": (b"", "a model file ends in .onnx or .qtm"),
}


@pytest.mark.parametrize("command", MODELS_IN)
@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_model_is_named_and_refused(refused, given, tmp_path, command, name):
    content, found = NO_MODELS[name]
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        whole = (given / "base.qtm").read_bytes()
        path.write_bytes(whole if content.endswith("whole") else whole[: len(whole) // 2])
    elif content is not None:
        path.write_bytes(content)
    before, after = MODELS_IN[command]

    line = refused(f"{before} {path} {after}", 2 if name in ("model.pt", "folder") else 1)

    assert str(path) in line
    assert found in line


@pytest.mark.parametrize("command", MODELS_IN)
def test_an_empty_pipe_is_refused(refused, command):
    before, after = MODELS_IN[command]

    assert refused(f"{before} - {after}", input=b"") == (
        "standard input is empty: did the command before the pipe fail?"
    )


@pytest.mark.parametrize(
    "typed",
    [
        "freeze -o {out}.onnx -i", "freeze -i base.onnx -o", "freeze -i base.onnx -o {out}.onnx "
        "--weights", "freeze -i base.onnx -o {out}.onnx --outputs", "calibrate -i base.onnx -o "
        "{out}.qtm --data", "calibrate -i base.onnx --random -o {out}.qtm --memory", "merge -o "
        "{out}.qtm", "quantize -i base.onnx -o {out}.onnx --statistics", "evaluate -i base.onnx "
        "--data d.npz --reference", "inspect", "inspect base.onnx --tensor",
    ],
)  # fmt: skip
def test_a_shell_variable_that_nobody_set_is_found(refused, typed):
    line = refused(typed, 2, last="")

    assert re.fullmatch("what follows [^ ]+ is empty; is a shell variable not set[?]", line)


# ---------------------------------------------------------------- hostile models


def external(location, offset=None, length=None, dims=(6, 4)):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=1)
    for key, number in (("location", location), ("offset", offset), ("length", length)):
        if number is not None:
            tensor.external_data.add(key=key, value=str(number))
    return tensor


def with_external(*args, **more):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    tensor = external(*args, **more)
    return onnx_bytes([node], [value("x", "N", 6)], [value("y", "N", 4)], [("w", tensor)])


HOSTILE = {
    "outside": (with_external("../../../../etc/passwd"), "outside of the model's folder"),
    "absolute": (with_external("/etc/passwd"), "outside of the model's folder"),
    "device": (with_external("/dev/zero"), "outside of the model's folder"),
    "link": (with_external("link.bin"), "a link that leads out of the model's folder"),
    "pipe": (with_external("pipe.bin"), "no regular file"),
    "gone": (with_external("none.bin"), "it belongs beside the .onnx file"),
    "negative": (with_external("w.bin", -5), "external offset of '-5'"),
    "beyond": (with_external("w.bin", 10**12), "which has 96"),
    "10-tb": (with_external("w.bin", dims=(10**6, 10**6)), "which has 96"),
    "absurd": (with_external("w.bin", dims=(2**40, 2**40)), "absurd shape"),
    "cycle": (one_node("Add", ["x", "y"], (6,)), "the graph has a cycle"),
    "unmade": (one_node("Relu", ["q"], (6,)), "which nothing produces"),
    "twice": (
        onnx_bytes([helper.make_node("Relu", ["x"], ["y"])] * 2, [value("x", 6)], [value("y", 6)]),
        "defined twice",
    ),
    "opset-huge": (matmul(opset=2**40), "opset"),
    "ir-99": (matmul(ir_version=99), "99"),
}


@pytest.mark.parametrize("command", ["freeze", "calibrate", "quantize", "evaluate", "inspect"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models_are_refused_before_anything_is_done(refused, tmp_path, command, name):
    content, found = HOSTILE[name]
    (tmp_path / "m.onnx").write_bytes(content)
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "link.bin").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.bin")

    assert found in refused(f"{MODELS_IN[command][0]} {{tmp}}/m.onnx")


def sequence():
    tensor = helper.make_tensor_sequence_value_info("x", FLOAT, ["N", 6])
    node = helper.make_node("SequenceAt", ["x", "i"], ["y"])
    return onnx_bytes([node], [tensor], [value("y", "N", 6)], [("i", np.array(0, np.int64))])


BIG_RANGE = [
    (name, np.array(number, np.float32)) for name, number in (("a", 0), ("b", 1e12), ("c", 1e-3))
]
UNFIT = {
    "huge-input": (one_node("Relu", ["x"], (1, 10**11)), "takes 400.0 GB in each run"),
    "batch-0": (one_node("Relu", ["x"], (0, 6)), "has a batch of 0"),
    "strings": (one_node("Identity", ["x"], ("N",), dtype=TensorProto.STRING), "takes strings"),
    "sequence": (sequence(), "takes a sequence of float32"),
    "no-inputs": (
        onnx_bytes(
            [helper.make_node("Relu", ["w"], ["y"])], [], [value("y", 6, 4)], [("w", WEIGHTS)]
        ),
        "takes no inputs",
    ),
    "unknown-op": (one_node("FooBar", ["x"], (6,)), "FooBar"),
    "custom-op": (one_node("Foo", ["x"], (6,), domain="my.own"), "my.own"),
    "no-rank": (
        onnx_bytes(
            [helper.make_node("Relu", ["x"], ["y"])],
            [helper.make_tensor_value_info("x", FLOAT, None)],
            [value("y", None)],
        ),
        "has no known rank",
    ),
    "huge-range": (one_node("Range", ["a", "b", "c"], (6,), weights=BIG_RANGE), "onnxruntime"),
}


@pytest.mark.parametrize("command", ["calibrate", "quantize", "evaluate"])
@pytest.mark.parametrize("name", UNFIT)
def test_models_that_cannot_be_run_say_why(refused, tmp_path, command, name):
    content, found = UNFIT[name]
    (tmp_path / "m.onnx").write_bytes(content)
    rest = {
        "calibrate": "-o {out}.qtm --threads 1",
        "quantize": "-o {out}.onnx --mode static --threads 1",
        "evaluate": "--reference {tmp}/m.onnx --threads 1",
    }

    assert found in refused(f"{command} -i {{tmp}}/m.onnx --random --samples 2 {rest[command]}")


@pytest.mark.parametrize("name", ["huge-input", "huge-range", "unknown-op", "sequence"])
def test_models_that_cannot_be_run_are_still_frozen_and_shown(cli, tmp_path, name):
    (tmp_path / "m.onnx").write_bytes(UNFIT[name][0])

    frozen = cli("freeze", "-i", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx")
    shown = cli("inspect", tmp_path / "out.onnx")

    assert (frozen.exit_code, shown.exit_code) == (0, 0)
    assert "Traceback" not in frozen.stderr + shown.stderr


def test_outputs_that_are_no_tensors_are_passed_over(cli, tmp_path):
    out = helper.make_tensor_sequence_value_info("y", FLOAT, ["N", 6])
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    (tmp_path / "m.onnx").write_bytes(onnx_bytes([node], [value("x", "N", 6)], [out]))

    observed = cli("calibrate", "-i", tmp_path / "m.onnx", "--random", "-o", tmp_path / "out.qtm")
    measured = cli("evaluate", "-i", tmp_path / "m.onnx", "--reference", tmp_path / "m.onnx",
                   "--random")  # fmt: skip

    assert observed.exit_code == 0
    assert "output 'y' is no tensor" in measured.stderr


def test_a_fixed_batch_takes_random_samples(cli, tmp_path):
    (tmp_path / "m.onnx").write_bytes(one_node("Relu", ["x"], (8, 6)))

    result = cli("calibrate", "-i", tmp_path / "m.onnx", "--random", "-o", tmp_path / "out.qtm")

    assert result.exit_code == 0, result.stderr


def test_names_of_any_kind_come_through(cli, tmp_path):
    names = ["x", "вес\n\t", "../../[a]*{b}", "n" * 50_000, "\x1b[31m"]
    nodes = [helper.make_node("Relu", [a], [b], name=b) for a, b in zip(names, [*names[1:], "y"],
                                                                       strict=True)]  # fmt: skip
    path = tmp_path / "sp ace\nnew line é" / "m o.onnx"
    path.parent.mkdir()
    path.write_bytes(onnx_bytes(nodes, [value("x", "N", 6)], [value("y", "N", 6)]))

    observed = cli("calibrate", "-i", path, "--random", "-o", path.with_suffix(".qtm"))
    shown = cli("inspect", path.with_suffix(".qtm"), "--json")

    assert (observed.exit_code, shown.exit_code) == (0, 0), observed.stderr + shown.stderr


# ---------------------------------------------------------------- data that does not fit

X, Y = np.ones((20, 6), np.float32), np.arange(20) % 4
WITH_NAN = X.copy()
WITH_NAN[13, 2] = np.nan
ARRAYS = {
    "name": ({"q": X, "r": X, "y": Y}, "no array named 'x': known: q, r, y"),
    "shape": ({"x": X[:, :5], "y": Y}, "shape [20,5], which does not fit input x: float32[N,6]"),
    "rank": ({"x": X[:, 0], "y": Y}, "which does not fit input x: float32[N,6]"),
    "complex": ({"x": X.astype(complex), "y": Y}, "complex128 values cannot be fed to input x"),
    "text": ({"x": X.astype(str), "y": Y}, "text values cannot be fed to input x"),
    "nan": ({"x": WITH_NAN, "y": Y}, "row 13: input 'x' holds NaN or infinite values"),
    "inf": ({"x": X * np.float32(np.inf), "y": Y}, "row 0: input 'x' holds NaN or inf"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "holds no samples"),
    "objects": ({"x": np.array([X, None], object), "y": Y[:2]}, "pickled Python objects"),
    "nothing": ({}, "no array named 'x'"),
}
LABELS = {
    "count": (Y[:5], 1, "5 labels for 20 samples"),
    "range": (Y + 100, 1, "label 100 is not one of the output's classes 0..3"),
    "negative": (Y - 9, 1, "label -9 is not one of the output's classes 0..3"),
    "text": (Y.astype(str), 1, "are no numbers"),
    "nan": (np.full(20, np.nan), 1, "the labels hold NaN"),
    "missing": (None, 2, "nothing to compare with: give --reference, or samples with labels"),
}


@pytest.mark.parametrize("command", ["calibrate", "quantize", "evaluate", "freeze"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit_are_named(refused, tmp_path, command, name):
    arrays, found = ARRAYS[name]
    np.savez(tmp_path / "a.npz", **arrays)
    rest = {"evaluate": "", "calibrate": "-o {out}.qtm"}.get(command, "-o {out}.onnx")

    line = refused(f"{command} -i base.onnx --data {{tmp}}/a.npz {rest}")

    assert f"{tmp_path}/a.npz" in line
    assert found in line


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_do_not_fit_are_named(refused, tmp_path, name):
    labels, code, found = LABELS[name]
    np.savez(tmp_path / "a.npz", x=X, **({} if labels is None else {"y": labels}))

    assert found in refused("evaluate -i base.onnx --threads 1 --data {tmp}/a.npz", code)


HEADER = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
SOURCES = {
    "none.npz": (None, 1, "there is no such file or folder"),
    "a.csv": (b"1,2", 2, "is no source of samples"),
    "a.npz": (b"", 1, "is not a .npz file"),
    "b.npz": (zipped(**{"x.npy": b"junk"}), 1, "x"),
    "a.npy": (b"", 1, "is not a .npy file"),
    "b.npy": ((HEADER % b"1000000000, 6").ljust(127) + b"\n", 1, "needs 24000000128 bytes"),
    "a.txt": (b"", 1, "lists no pictures"),
    "b.txt": (b"\xff\xfe\x00", 1, "is not UTF-8 text"),
    "folder": ("folder", 1, "holds no samples"),
    "none:f": (None, 2, "cannot import"),
    "a.py:f": (b"def f(:", 2, "SyntaxError"),
    "b.py:f": (b"import sys\nsys.exit(0)", 2, "SystemExit"),
    "c.py:f": (b"def f(): raise ValueError('two\\nlines')", 1, "ValueError: two lines"),
    "d.py:f": (b"def f():\n    yield {'x': [0.0] * 6}\n    exit(0)", 1, "SystemExit"),
    "e.py:f": (b"def f(): yield {'q': 1, 'r': 2}", 1, "no array named 'x': known: q, r"),
    "f.py:g": (b"def f(): yield 1", 2, "no function named 'g'"),
    "g.py:f": (b"def f(): return iter(())", 1, "yielded no samples"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_that_hold_no_samples_are_named(refused, tmp_path, name):
    content, code, found = SOURCES[name]
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name.split(":")[0]).write_bytes(content)

    assert found in refused(
        f"calibrate -i base.onnx --threads 1 -o {{out}}.qtm --data {{tmp}}/{name}", code
    )


@pytest.mark.parametrize(
    ("rows", "code", "found"),
    [
        ("[a:b]", 2, "ends in no range of samples, such as [0:100]"),
        ("[1:2:3:4]", 2, "ends in no range of samples"),
        ("[50:60]", 1, "the range takes none of its 20 samples"),
    ],
)
def test_a_range_that_takes_nothing_is_named(refused, rows, code, found):
    assert found in refused(f"calibrate -i base.onnx -o {{out}}.qtm --data d.npz{rows}", code)


PICTURES = {
    "cut": ({"a.png": picture()[:45]}, "a.png is damaged or cut short"),
    "none": ({"a.png": b""}, "a.png is not a picture"),
    "bomb": (
        {"a.png": picture()[:16] + (10**5).to_bytes(4, "big") * 2 + picture()[24:]}, "a.png",
    ),
    "csv-gone": ({"a.png": picture(), "labels.csv": b"file,label\nb.png,1\n"}, "no such file"),
    "csv-text": ({"a.png": picture(), "labels.csv": b"file,label\na.png,cat\n"}, "line 2"),
    "csv-short": ({"a.png": picture(), "labels.csv": b"file,label\na.png\n"}, "line 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_cannot_be_used_are_named(refused, tmp_path, name):
    files, found = PICTURES[name]
    (tmp_path / "p").mkdir()
    for file, content in files.items():
        (tmp_path / "p" / file).write_bytes(content)
    typed = "evaluate -i conv.onnx --reference conv.onnx --preprocess unit --threads 1 --data"

    assert found in refused(f"{typed} {{tmp}}/p")


@pytest.mark.parametrize(
    ("name", "content", "code", "found"),
    [
        ("none.toml", None, 1, "No such file"),
        ("p.toml", b"mean = [", 2, "is not TOML"),
        ("p.json", b"[" * 100_000, 2, "is not JSON"),
        ("p.toml", b"\xff\xfe", 2, "is not UTF-8"),
        ("p.toml", b"colour = 1", 2, "no preprocessing key named 'colour'"),
        ("p.toml", b"std = [0, 0, 0]", 2, "std"),
        ("p.toml", b"mean = [nan, 0, 0]", 2, "mean"),
        ("p.toml", b"resize = 1000000000", 2, "resize"),
        ("imagnet", None, 2, "did you mean 'imagenet'?"),
    ],
)
def test_preprocessing_that_is_wrong_is_named(refused, tmp_path, name, content, code, found):
    if content is not None:
        (tmp_path / name).write_bytes(content)
        name = str(tmp_path / name)

    typed = f"calibrate -i conv.onnx --data dc.npz -o {{out}}.qtm --preprocess {name}"

    assert found in refused(typed, code)


# ---------------------------------------------------------------- options

FREEZE = "freeze -i base.onnx -o {out}.onnx"
CALIBRATE = "calibrate -i base.onnx --data d.npz -o {out}.qtm"
QUANTIZE = "quantize -i base.onnx -o {out}.onnx"
EVALUATE = "evaluate -i base.onnx --data d.npz"
TYPED = {
    f"{CALIBRATE} --threads 0": "0 is not in the range x>=1",
    f"{CALIBRATE} --threads x": "'x' is not a whole number; see qtool calibrate --help",
    f"{CALIBRATE} --samples 0": "0 is not in the range x>=1",
    f"{CALIBRATE} --batch 0": "0 is not in the range x>=1",
    f"{CALIBRATE} --seed x": "'x' is not a whole number",
    f"{CALIBRATE} --shard 3/2": "'3/2' is no shard, such as 2/8",
    f"{CALIBRATE} --shard 0/0": "'0/0' is no shard, such as 2/8",
    f"{CALIBRATE} --memory lots": "'lots' is no size, such as 500M or 2G",
    f"{CALIBRATE} --memory 1K": "is too little: running the model needs",
    f"{CALIBRATE} --tensors z*": "no float tensor matches 'z*'",
    f"{CALIBRATE} --random": "--data and --random contradict each other",
    "calibrate -i base.onnx -o {out}.qtm": "give --data, or --random",
    "calibrate -i base.onnx --random -o {out}.onnx": "an ONNX file cannot hold statistics",
    f"{QUANTIZE} --mode statik": "did you mean 'static'?",
    f"{QUANTIZE} --mode static": "give --data, or run qtool calibrate first",
    f"{QUANTIZE} --format qoperator": "give --data or statistics",
    f"{QUANTIZE} --format qoperator --activations int16": "use --format qdq",
    f"{QUANTIZE} --mode static --block-size 32": "--block-size goes with --mode weight-only",
    f"{QUANTIZE} --only nothing": "--only 'nothing' matches no node or tensor",
    f"{QUANTIZE} --exclude re:(": "is no regular expression",
    f"{QUANTIZE} --exclude a..b": "no node or tensor is named 'b'",
    f"{QUANTIZE} --min-coverage abc": "'abc' is no percentage, such as 95%",
    f"{QUANTIZE} --min-coverage nan": "'nan' is no percentage",
    f"{QUANTIZE} --samples 5": "--samples is about samples: give them with --data",
    f"{QUANTIZE} --shuffle": "--shuffle is about samples",
    "quantize -i base.onnx --json -o -": "choose one",
    f"{FREEZE} --set-dim N": "'N' is not NAME=SIZE, such as batch=1",
    f"{FREEZE} --set-dim N=0": "a size is 1 to",
    f"{FREEZE} --set-dim N=99999999999999999999": "is not NAME=SIZE",
    f"{FREEZE} --set-dim N=1 --set-dim N=2": "'N' is given twice",
    f"{FREEZE} --set-dim q=1": "no dim named 'q': known: N",
    f"{FREEZE} --outputs q": "no node of the model has an output named 'q'",
    f"{FREEZE} --no-check --random": "samples are for the check",
    f"{EVALUATE} --metric top9": "did you mean 'top5'?",
    f"{EVALUATE} --metric agreement": "agreement needs --reference",
    f"{EVALUATE} --max-drop 1": "give it with --reference",
    f"{EVALUATE} --reference base.onnx --max-drop nan": "nan is no finite number",
    f"{EVALUATE} --reference base.onnx --confident": "give it with --max-drop",
    f"{EVALUATE} --output-name q": "no output named 'q': known: y",
    f"{EVALUATE} --runtime x": "no runtime named 'x'",
    "evaluate -i base.onnx": "give --data, or --random",
    "inspect base.onnx --tensor q": "is named 'q'",
    "inspect --diff base.onnx": "give two models, not 1",
    "inspect base.onnx --set-dim n=x": "'n=x' is not NAME=SIZE",
    "merge -o {out}.qtm": "give the shards to merge",
    "merge s1.qtm -o {out}.qtm": "1 of 2 shards are missing: 2/2",
    "merge s1.qtm s1.qtm -o {out}.qtm": "shard 1/2 is given twice",
    "Freeze": "did you mean 'freeze'?",
}


@pytest.mark.parametrize("typed", TYPED)
def test_wrong_options_are_wrong_usage(refused, typed):
    assert TYPED[typed] in refused(typed, 2)


MISMATCHES = {
    "merge s1.qtm other.qtm -o {out}.qtm": "other.qtm is another model than s1.qtm",
    "merge base.qtm s2.qtm -o {out}.qtm": "base.qtm is complete, no shard",
    "merge base.onnx s2.qtm -o {out}.qtm": "base.onnx has no statistics",
    "quantize -i base.onnx --statistics other.qtm -o {out}.onnx": "are of another model",
    "quantize -i base.onnx --statistics base.onnx -o {out}.onnx": "holds no statistics",
    "evaluate -i base.onnx --reference conv.onnx --data d.npz": "the reference x: float32[N,3,8,8]",
    "freeze -i base.onnx --weights d.npz -o {out}.onnx": "missing from the file: w",
    f"{EVALUATE} --reference base.onnx --label-key z": "no array of labels named 'z': known: ",
}


@pytest.mark.parametrize("typed", MISMATCHES)
def test_files_that_do_not_belong_together_are_refused(refused, typed):
    assert MISMATCHES[typed] in refused(typed)


def test_a_model_that_is_quantized_already_is_wondered_at(cli, given, tmp_path):
    words = ("--data", given / "d.npz", "--threads", "1", "-o", tmp_path / "q.onnx")

    first = cli("quantize", "-i", given / "base.onnx", *words)
    again = cli("quantize", "-i", tmp_path / "q.onnx", *words)

    advice = "warning: the model is quantized already: give the float one it was made from"
    assert advice not in first.stderr
    assert advice in again.stderr


def test_a_coverage_that_is_not_reached_leaves_no_file(refused):
    assert "of the MACs compute in integers, 95 % are needed" in refused(
        f"{QUANTIZE} --min-coverage 95%", 3
    )


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("quantize -i s1.qtm", "the statistics are of shard 1/2 only"),
        ("quantize -i base.onnx --data d.npz --mode dynamic", "the samples are not used"),
    ],
)
def test_what_is_not_used_is_said(cli, given, tmp_path, monkeypatch, typed, found):
    monkeypatch.chdir(given)

    result = cli(*typed.split(), "-o", tmp_path / "out.onnx")

    assert result.exit_code == 0
    assert f"warning: {found}" in result.stderr


# ---------------------------------------------------------------- outputs, signals, streams


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize(
    ("output", "code", "found"),
    [
        ("{tmp}/none/m.qtm", 1, "there is no folder"),
        ("{tmp}", 2, "is a folder"),
        ("{tmp}/folder.qtm", 1, "it is a folder"),
        ("m.pt", 2, "a model file ends in .onnx or .qtm"),
        ("{tmp}/" + "a" * 300 + ".qtm", 1, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_first(
    refused, tmp_path, command, output, code, found
):
    (tmp_path / "folder.qtm").mkdir()

    assert found in refused(f"{WRITERS[command]} -o {output}", code)


def start(*words, **options):
    pipe = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "stdin": subprocess.DEVNULL} | options
    options["env"] = {**os.environ, **QUIET, **options.get("env", {})}
    return subprocess.Popen([sys.executable, "-m", "qtool", *map(str, words)], **options)


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))


@pytest.mark.parametrize("ending", ["onnx", "qtm"])
def test_a_full_disk_leaves_the_old_file(given, tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    path.write_bytes(b"old")

    ended = start("freeze", "-q", "-i", given / "base.onnx", "-o", path, preexec_fn=small_files)
    _, errors = ended.communicate()

    assert (ended.returncode, errors) == (
        1,
        f"error: cannot write {path}: File too large\n".encode(),
    )
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", [path.name])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("typed", "found"),
    [("freeze -q -i base.onnx -o -", "standard output"), ("inspect base.onnx --json", "write")],
)
def test_a_full_disk_behind_stdout_is_one_line(given, typed, found):
    with open("/dev/full", "wb") as full:
        ended = start(*typed.split(), stdout=full, cwd=given)
        _, errors = ended.communicate()

    assert ended.returncode == 1
    assert re.fullmatch(f"error: .*{found}.*: No space left on device\n", errors.decode())


def test_a_model_into_a_closed_pipe_ends_quietly(given):
    with start("freeze", "-q", "-i", given / "base.onnx", "-o", "-") as ended:
        ended.stdout.close()

        assert (ended.stderr.read(), ended.wait()) == (b"", 128 + signal.SIGPIPE)


@pytest.fixture
def endless(tmp_path):
    """A model whose loop runs for years."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [value("i", dtype=TensorProto.INT64), value("c", dtype=TensorProto.BOOL), value("v", 1)],
        [value("go", dtype=TensorProto.BOOL), value("w", 1)],
    )
    times = [("n", np.array(2**62, np.int64)), ("on", np.array(True))]
    content = one_node("Loop", ["n", "on", "x"], (1,), weights=times, body=body)
    (tmp_path / "endless.onnx").write_bytes(content)
    return tmp_path / "endless.onnx"


def wait_for_thread(pid):
    """Wait until the program runs more than its main thread: onnxruntime is at work, or soon."""
    until = time.monotonic() + 30
    while len(os.listdir(f"/proc/{pid}/task")) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_of_onnxruntime(endless, tmp_path, sent):
    running = start("freeze", "-i", endless, "-o", tmp_path / "out.qtm")
    wait_for_thread(running.pid)
    running.send_signal(sent)
    _, errors = running.communicate(timeout=30)

    assert running.returncode == 128 + sent
    assert errors.endswith(b"error: interrupted; nothing was written\n")
    assert os.listdir(tmp_path) == [endless.name]


def test_two_writers_of_one_file_leave_one_whole_file(given, tmp_path, cli):
    both = [start("freeze", "-i", given / "base.onnx", "-o", tmp_path / "out.onnx") for _ in "ab"]

    assert [(one.communicate(), one.returncode)[1] for one in both] == [0, 0]
    assert os.listdir(tmp_path) == ["out.onnx"]
    onnx.checker.check_model(tmp_path / "out.onnx")


@pytest.mark.parametrize(
    "env",
    [
        {"COLUMNS": "20"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"TMPDIR": "/none"},
    ],
    ids=lambda env: next(iter(env)),
)
def test_any_terminal_can_show_any_name(tmp_path, env):
    node = helper.make_node("Relu", ["входы"], ["y"], name="имя")
    (tmp_path / "м.onnx").write_bytes(
        onnx_bytes([node], [value("входы", "N", 6)], [value("y", "N", 6)])
    )

    ended = start("inspect", "--tensors", tmp_path / "м.onnx", env=env)
    _, errors = ended.communicate()

    assert (ended.returncode, errors) == (0, b"")
