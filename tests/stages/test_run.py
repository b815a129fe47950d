from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool import formats
from qtool.data import open_samples
from qtool.errors import DataError, UnsupportedError, UsageError
from qtool.runtime import RUNTIMES
from qtool.runtime.ort import OrtSession
from qtool.stages.quantize import quantize
from qtool.stages.run import Outputs, best, run, save_outputs

N = 7


@pytest.fixture
def x(rng):
    return rng.normal(size=(N, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def source(tmp_path, x):
    np.savez(tmp_path / "x.npz", x=x)
    return str(tmp_path / "x.npz")


@pytest.fixture
def int8(rng, source):
    net = conv_net(rng)
    return quantize(net, data=open_samples(source, net.inputs()), mode="static", check=False)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}])
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_those_of_one_run_on_all(int8, source, x, runtime, options, batch):
    data = open_samples(source, int8.inputs(), batch=batch)

    found = run(int8, data=data, runtime=runtime, **options)

    wanted = OrtSession(int8).run({"x": x})["y"]
    np.testing.assert_allclose(found.values["y"], wanted, rtol=1e-5, atol=1e-6)
    assert len(found.where) == N


def test_samples_are_named_by_file_and_row(int8, source):
    found = run(int8, data=open_samples(source, int8.inputs()))

    assert [where.split("/")[-1] for where in found.where][:2] == ["x.npz row 0", "x.npz row 1"]


def test_the_file_has_the_same_bytes_every_time_and_numpy_reads_it(tmp_path, rng):
    values = {"file": rng.normal(size=(2, 3)), "a/b": rng.integers(0, 9, (2,))}
    outputs = Outputs(values, ("0", "1"))

    for name in ("one.npz", "two.npz"):
        save_outputs(outputs, tmp_path / name)

    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as read:
        assert set(read) == set(values)
        np.testing.assert_array_equal(read["file"], values["file"])


def scores(*rows):
    return Outputs({"y": np.array(rows, np.float32)}, tuple(map(str, range(len(rows)))))


def test_the_best_classes_come_first_and_of_equal_ones_the_first():
    (found,) = best(scores([1, 3, 2, 3]), 3, name=None, labels=["a", "b", "c", "d"])

    assert [(g.index, g.name, g.score) for g in found] == [(1, "b", 3), (3, "d", 3), (2, "c", 2)]


def test_asking_for_more_classes_than_there_are_gives_all():
    assert len(best(scores([1, 2]), 5, name=None, labels=None)[0]) == 2


def test_labels_must_be_one_for_each_class():
    with pytest.raises(DataError, match="there are 3 labels and 2 classes"):
        best(scores([1, 2]), 1, name=None, labels=["a", "b", "c"])


def test_an_output_that_is_no_scores_has_no_best_classes():
    outputs = Outputs({"y": np.zeros((1, 4, 5), np.float32)}, ("0",))

    with pytest.raises(UnsupportedError, match="not one score per class"):
        best(outputs, 1, name=None, labels=None)


def test_of_several_outputs_one_must_be_chosen():
    outputs = Outputs(dict.fromkeys("ab", np.zeros((1, 4), np.float32)), ("0",))

    with pytest.raises(UsageError, match="outputs a, b; say which one"):
        best(outputs, 1, name=None, labels=None)


def test_outputs_of_different_shapes_are_refused(tmp_path):
    model = model_of("net (float[n, m] x) => (float[n, k] y) { y = Relu(x) }")
    (tmp_path / "d").mkdir()
    for n in (2, 3):
        np.save(tmp_path / "d" / f"{n}.npy", np.zeros((1, n), np.float32))

    with pytest.raises(DataError, match="run samples of different sizes apart"):
        run(model, data=open_samples(str(tmp_path / "d"), model.inputs()), runtime="onnxruntime")


def test_what_the_native_runtime_cannot_run_is_named():
    model = model_of("net (float[n, 4] x) => (float[n, 4] y) { y = Det(x) }", opset=11)

    with pytest.raises(UnsupportedError, match="Det"):
        run(model, data=open_samples(None, model.inputs(), random=True, samples=1))


def test_a_model_read_from_a_file_runs(tmp_path, int8, source):
    formats.save(int8, tmp_path / "q.qtm")
    loaded = formats.load(tmp_path / "q.qtm")

    found = run(loaded, data=open_samples(source, loaded.inputs()))

    assert found.values["y"].shape == (N, 5)
