from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool import formats
from qtool.errors import DataError, UsageError
from qtool.formats import qtm_file
from qtool.model import Model, fingerprint
from qtool.shapes import infer_shapes
from qtool.stages.calibrate import calibrate
from qtool.stages.merge import merge
from qtool.statistics.gram import gram_layers, matrix
from qtool.statistics.histogram import BYTES

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N,2,H,W] x) => (float[N,3] y)
<float[3,2,3,3] w = {%s}, float[3,3] v = {1,0,-1, 0.5,0.25,0, 2,-2,1}>
{
    c = Conv <pads=[1,1,1,1]> (x, w)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = MatMul(f, v)
}
"""


@dataclass
class Fed:
    feeds: dict
    where: str
    n: int = 1


@dataclass
class Stream:
    """Samples that can only be iterated."""

    items: list
    n: None = None
    source: str = "samples"
    preprocess: dict = field(default_factory=lambda: {"scale": 1})

    def __iter__(self):
        return iter(self.items)


@pytest.fixture(scope="module")
def model():
    weights = np.random.default_rng(1).standard_normal(54).astype(np.float32)
    return Model(ir.from_onnx_text(TEXT % ",".join(map(str, weights))))


@pytest.fixture(scope="module")
def samples():
    """Ten samples of different sizes."""
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((1, 2, 5 + i % 3, 4 + i), np.float32) for i in range(10)]
    return [Fed({"x": x}, f"sample {i}") for i, x in enumerate(arrays)]


def content(model):
    """Return the model as bytes."""
    return qtm_file.dumps(model)


def test_statistics_are_those_of_the_tensors(model, samples):
    statistics = calibrate(model, data=samples).statistics

    x = np.concatenate([sample.feeds["x"].ravel() for sample in samples])
    found = statistics.tensors["x"]
    assert (found.minimum, found.maximum, found.count) == (x.min(), x.max(), x.size)
    assert found.counts.sum() == x.size
    assert (statistics.model, statistics.n_samples) == (fingerprint(model), 10)


def test_the_model_itself_is_not_edited(model, samples):
    before = content(model)

    calibrate(model, data=samples, gram=True)

    assert content(model) == before


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_bytes_do_not_depend_on_order_batch_threads_or_shards(model, samples, data):
    gram = data.draw(st.booleans())
    whole = content(calibrate(model, data=samples, gram=gram, threads=1))
    draw = {
        "threads": data.draw(st.integers(1, 3)),
        "batch": data.draw(st.integers(1, 11)),
        "data": [samples[i] for i in data.draw(st.permutations(range(10)))],
        "gram": gram,
    }
    n = data.draw(st.integers(1, 4))

    shards = [calibrate(model, **draw, shard=(i, n)) for i in range(1, n + 1)]
    shards = [qtm_file.loads(content(shard), name="shard") for shard in shards]

    order = data.draw(st.permutations(range(n)))
    assert content(merge([shards[i] for i in order])) == whole
    assert content(calibrate(model, **draw)) == whole


def test_streams_give_what_lists_give(model, samples):
    of_list = calibrate(replace(model, preprocess={"scale": 1}), data=samples, threads=2)

    of_stream = calibrate(model, data=Stream(samples), threads=2, batch=3)

    assert content(of_stream) == content(of_list)


def test_shards_of_a_stream_are_those_of_a_list(model, samples):
    of_list = calibrate(model, data=samples, shard=(2, 3)).statistics

    of_stream = calibrate(model, data=Stream(samples), shard=(2, 3)).statistics

    assert of_stream.n_samples == of_list.n_samples == 3
    assert repr(of_stream) == repr(of_list)


def test_gram_is_that_of_the_layer_input(model, samples):
    found = calibrate(model, data=samples, gram=True).statistics.grams

    assert set(found) == {"c", "y"}
    assert found["c"].count == sum(s.feeds["x"][0, 0].size for s in samples)
    f = calibrate(model, data=samples, tensors=["f"]).statistics.tensors["f"]
    assert np.diag(matrix(found["y"])[0])[:-1].max() <= 10 * max(f.maximum, -f.minimum) ** 2


def test_a_memory_budget_changes_the_passes_only(model, samples, monkeypatch, caplog):
    whole = calibrate(model, data=samples, gram=True)
    monkeypatch.setattr("qtool.stages.calibrate.resident_bytes", lambda: 0)
    monkeypatch.setattr("qtool.stages.calibrate.peak_bytes", lambda: 0)
    monkeypatch.setattr("qtool.stages.calibrate.SPARE_BYTES", 0)
    monkeypatch.setattr("qtool.stages.calibrate.session_bytes", lambda *args: 0)
    caplog.set_level(logging.INFO, "qtool")
    first, _ = gram_layers(infer_shapes(model))
    more = first.scratch_bytes + max(first.scratch_bytes, first.state_bytes)
    memory = 4 * BYTES + first.state_bytes + more

    limited = calibrate(model, data=samples, gram=True, memory=memory, threads=1)

    assert "2 Gram matrices, 2 passes; predicted peak memory 1M" in caplog.text
    assert content(limited) == content(whole)


@pytest.mark.parametrize("gram", [False, True])
def test_too_little_memory_is_refused_before_anything_runs(model, gram):
    with pytest.raises(UsageError, match=r"--memory 1M is too little: .* needs \d+M"):
        calibrate(model, data=[Fed({}, "never")], gram=gram, memory=1000)


def test_by_default_only_what_quantization_needs_is_observed(model, samples):
    found = calibrate(model, data=samples).statistics.tensors

    assert "x" in found
    assert "c" not in found  # Relu is folded into its range


def test_tensors_are_chosen_by_globs(model, samples):
    found = calibrate(model, data=samples, tensors=["c", "[pf]"]).statistics.tensors

    assert set(found) == {"c", "f", "p"}


def test_inputs_alone_can_be_observed(model, samples):
    assert set(calibrate(model, data=samples, tensors=["x"]).statistics.tensors) == {"x"}


def test_a_glob_that_matches_nothing_is_refused(model, samples):
    with pytest.raises(UsageError, match="no float tensor matches 'q\\*'"):
        calibrate(model, data=samples, tensors=["x", "q*"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_name_tensor_and_sample(model, samples, bad):
    broken = Fed({"x": np.full((1, 2, 4, 4), bad, np.float32)}, "row 7 of x.npz")

    with pytest.raises(DataError, match="row 7 of x.npz: tensor 'x': .*32 (val|inf)"):
        calibrate(model, data=[*samples, broken, *samples], threads=2)


def test_a_weight_that_is_not_finite_is_named(samples):
    model = Model(ir.from_onnx_text(TEXT % ",".join(["1"] * 54)))
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    weight[1, 0, 0, 0] = np.nan
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")

    with pytest.raises(DataError, match="tensor '.*NaN, 0 infinite: weight 'w' of the model holds"):
        calibrate(model, data=samples)


def test_a_sample_that_does_not_fit_is_named(model, samples):
    broken = Fed({"x": np.ones((1, 3, 4, 4), np.float32)}, "row 7 of x.npz")

    with pytest.raises(Exception, match="^row 7 of x.npz: onnxruntime could not run the model"):
        calibrate(model, data=[*samples, broken])


@pytest.mark.parametrize("data", [[], Stream([])])
def test_no_samples_are_refused(model, data):
    with pytest.raises(DataError, match="there are no samples$"):
        calibrate(model, data=data)


@pytest.mark.parametrize("make", [list, Stream])
def test_an_empty_shard_is_refused(model, samples, make):
    with pytest.raises(DataError, match="no samples in shard 11/12; use fewer shards"):
        calibrate(model, data=make(samples), shard=(11, 12))


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0), (-1, 4)])
def test_a_shard_that_cannot_be_is_refused(model, samples, shard):
    with pytest.raises(UsageError, match="there is no shard"):
        calibrate(model, data=samples, shard=shard)


def test_an_error_in_the_data_reaches_the_caller(model, samples):
    def failing():
        yield from samples[:4]
        raise DataError("the file ends early")

    with pytest.raises(DataError, match="the file ends early"):
        calibrate(model, data=Stream(failing()), threads=2)


def test_subgraphs_are_left_out_and_said_so(samples, caplog):
    model = Model(
        ir.from_onnx_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N,2,H,W] x, bool flag) => (float[N,2,H,W] y)
        {
            a = Relu(x)
            y = If (flag) <
                then_branch = g1 () => (float[N,2,H,W] t) { t = Relu(a) },
                else_branch = g2 () => (float[N,2,H,W] e) { e = Neg(a) }
            >
        }
    """)
    )
    caplog.set_level(logging.INFO, "qtool")
    fed = [Fed({**s.feeds, "flag": np.array(True)}, s.where) for s in samples]

    found = calibrate(model, data=fed, tensors=["*"]).statistics.tensors

    assert set(found) == {"x", "a", "y"}
    assert caplog.text.count("2 tensors inside subgraphs (If, Loop, Scan) are not observed") == 1


def write(model, tmp_path, samples):
    formats.save(model, tmp_path / "m.onnx")
    arrays = [s.feeds["x"][:, :, :5, :4] for s in samples]
    np.savez(tmp_path / "d.npz", x=np.concatenate(arrays))
    return tmp_path / "m.onnx", tmp_path / "d.npz"


def test_command_writes_a_model_with_statistics(model, samples, tmp_path, cli):
    path, data = write(model, tmp_path, samples)

    result = cli("calibrate", "-i", path, "--data", data, "-o", tmp_path / "c.qtm", "--gram")

    assert result.exit_code == 0, result.stderr
    loaded = formats.load(tmp_path / "c.qtm")
    assert loaded.statistics.n_samples == 10
    assert set(loaded.statistics.grams) == {"c", "y"}
    assert loaded.history[-1].options == {"samples": 10, "source": "samples", "gram": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "c.onnx", "--random"], "c.onnx: an ONNX file cannot hold statistics; write a .qtm"),
        (["-o", "c.qtm"], "no samples: give --data, or --random to try without"),
    ],
)
def test_command_checks_what_is_typed_before_it_reads(options, message, cli):
    result = cli("calibrate", "-i", "missing.onnx", *options)

    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")


@pytest.mark.parametrize("option", [["--shard", "3/2"], ["--shard", "x"], ["--memory", "many"]])
def test_command_refuses_wrong_values(option, cli):
    result = cli("calibrate", "-i", "missing.onnx", "--random", "-o", "c.qtm", *option)

    assert result.exit_code == 2
    assert option[1] in result.stderr


def with_sizes(model):
    """Return the model for inputs of 200 x 200, which random samples need to know."""
    copy = model.copy()
    copy.graph.inputs[0].shape = ir.Shape(["N", 2, 200, 200])
    return copy


def test_interrupt_exits_130_and_writes_nothing(model, samples, tmp_path):
    path, _ = write(with_sizes(model), tmp_path, samples)
    command = [sys.executable, "-m", "qtool", "calibrate", "-i", str(path), "--random", "-o"]
    command += [str(tmp_path / "c.qtm"), "--samples", "100000000", "--threads", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)

    assert "predicted peak memory" in line
    assert (process.returncode, rest) == (130, "error: interrupted; nothing was written\n")
    assert not list(tmp_path.glob("*c.qtm*"))
