from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import model_of

import qtool
from qtool.data import open_samples
from qtool.formats import save
from qtool.qparams import from_range
from qtool.quant.plan import plan
from qtool.runtime.ort import OrtSession
from qtool.shapes import infer_shapes
from qtool.stages._output_ranges import OutputRanges
from qtool.stages.calibrate import calibrate
from qtool.statistics.histogram import merged
from qtool.statistics.ranges import RANGES

GRID = {"levels": 256, "symmetric": False}


def net(rng, ignored=1e-3):
    """Return a net whose channel 0 reaches 20 times as far as the others, and counts `ignored`."""
    far = np.ones(8)
    far[0] = 20
    w1 = rng.normal(size=(8, 3, 1, 1)) * far[:, None, None, None]
    w2 = rng.normal(size=(4, 8, 1, 1)) * np.where(far > 1, ignored, 1)[:, None, None]
    return model_of(
        """
        net (float[1, 3, 8, 8] x, float[8,3,1,1] w1, float[8] b1, float[4,8,1,1] w2, float[4] b2)
             => (float[1, 4, 8, 8] y) {
            a = Conv(x, w1, b1)
            b = Relu(a)
            y = Conv(b, w2, b2)
        }
        """,
        w1=w1.astype(np.float32), b1=np.zeros(8, np.float32), w2=w2.astype(np.float32),
        b2=np.zeros(4, np.float32),
    )  # fmt: skip


@pytest.fixture
def data(rng, tmp_path):
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(24, 3, 8, 8)).astype(np.float32))
    return lambda model: open_samples(str(tmp_path / "x.npz"), model.inputs())


def chosen(model, samples, name, threads=1):
    """Return the range of a tensor, and what the histogram alone would give."""
    ranges = OutputRanges(model, samples, threads)
    known = calibrate(model, data=samples).statistics
    typed = infer_shapes(model)
    group = next(g for g in plan(typed).groups if name in [v.name for v in g.members])
    found = merged([known.tensors[v.name] for v in group.observed])
    pair = ranges(group, found, lambda low, high: from_range(low, high, "uint8"), **GRID)
    return pair, RANGES["auto"](found, **GRID)


def test_what_the_reader_hardly_sees_is_clipped(rng, data):
    model = net(rng)

    (_, high), (_, plain) = chosen(model, data(model), "b")

    assert high < plain / 2


def test_what_the_reader_sees_is_kept(rng, data):
    model = net(rng, ignored=1.0)

    found, (_, plain) = chosen(model, data(model), "b")

    assert found is None or found[1] > plain / 2


def test_a_tensor_that_no_layer_reads_is_left_to_its_histogram(rng, data):
    model = net(rng)

    found, _ = chosen(model, data(model), "y")

    assert found is None


def test_the_outputs_are_better(rng, data):
    model = net(rng)
    samples = data(model)
    made = [qtool.quantize(model, data=samples, range=r, equalize="none") for r in ("mse", "auto")]

    session = OrtSession(model)
    errors = [
        sum(
            float(np.square(OrtSession(one).run(s.feeds)["y"] - session.run(s.feeds)["y"]).sum())
            for s in samples
        )
        for one in made
    ]

    assert errors[1] < errors[0] / 4


def test_the_bytes_do_not_depend_on_the_number_of_threads(rng, data, tmp_path):
    model = net(rng)
    for n in (1, 2):
        made = qtool.quantize(model, data=data(model), range="auto", threads=n)
        save(made, tmp_path / f"{n}.onnx")

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
