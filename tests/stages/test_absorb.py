from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from quant.test_absorb import biased
from stages.test_equalize import sqnr

import qtool
from qtool.data import open_samples
from qtool.errors import UsageError
from qtool.formats import load, save
from qtool.model import BatchNormStatistics, Model, array, fingerprint
from qtool.quant.absorb import absorption
from qtool.quant.absorbers import ABSORBERS
from qtool.quant.equalize import problem
from qtool.quant.rescale import Change, named, rescaled
from qtool.runtime.ort import OrtSession
from qtool.shapes import infer_shapes
from qtool.stages._rescale import channel_statistics


@pytest.fixture
def high(tmp_path, rng):
    """A net with two high biases, and samples for it."""
    model = biased(rng)
    save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 3, 8, 8)).astype(np.float32))
    model = load(tmp_path / "m.onnx")
    return model, open_samples(str(tmp_path / "x.npz"), model.inputs())


@pytest.mark.parametrize("equalize", ["none", "error"])
def test_absorbed_biases_leave_more_of_the_range_to_what_varies(high, equalize):
    model, data = high
    plain, absorbed = (
        qtool.quantize(model, data=data, equalize=equalize, absorb=how)
        for how in ("none", "samples")
    )

    assert sqnr(model, absorbed, data) > sqnr(model, plain, data) + 2


def test_by_itself_it_runs_where_it_is_sure_to_pay(high, monkeypatch):
    model, data = high

    def make(how):
        return fingerprint(qtool.quantize(model, data=data, equalize="none", absorb=how))

    assert make("auto") == make("samples")
    monkeypatch.setattr("qtool.stages._transform.SURE_GAIN", 100.0)
    assert make("auto") == make("none")


def test_batch_norm_statistics_say_how_much_without_the_samples(high, caplog):
    model, data = high
    bias = array(next(n for n in model.graph if n.outputs[0].name == "a").inputs[2])
    known = BatchNormStatistics(bias, np.full(6, 1.8, np.float32))
    model = Model(model.ir, batch_norm={"a": known})

    with caplog.at_level("INFO", "qtool"):
        qtool.quantize(model, data=data, equalize="none", absorb="batch-norm")

    assert "absorbed the biases of 2 channels in 1 ranges" in caplog.text


@pytest.mark.parametrize("method", ["samples", "batch-norm"])
def test_without_what_it_needs_it_is_refused(high, method):
    model, data = high
    calibrated = qtool.calibrate(model, data=data)

    with pytest.raises(UsageError, match=f"--absorb {method} .* give"):
        qtool.quantize(calibrated, absorb=method)


def test_batch_norm_without_statistics_is_refused(high):
    model, data = high

    with pytest.raises(UsageError, match="--absorb batch-norm needs batch-norm statistics"):
        qtool.quantize(model, data=data, absorb="batch-norm")


def test_where_nothing_is_won_the_model_stays_and_it_says_so(rng, high, caplog):
    _, data = high
    plain = biased(rng, bias=0.5)
    with caplog.at_level("INFO", "qtool"):
        made = [qtool.quantize(plain, data=data, equalize="none", absorb=how)
                for how in ("auto", "none")]  # fmt: skip

    assert "no bias absorbed" in caplog.text
    assert fingerprint(made[0]) == fingerprint(made[1])


def test_layers_are_compared_with_the_shifted_reference(high, tmp_path):
    model, data = high
    save(qtool.quantize(model, data=data, equalize="none", absorb="samples"), tmp_path / "q.onnx")

    found = qtool.verify(load(tmp_path / "q.onnx"), reference=model, data=data)

    known = [layer.sqnr for layer in found.layers if layer.sqnr is not None]
    assert known
    assert min(known) > 20


def test_threads_do_not_change_a_byte(high, tmp_path):
    model, data = high
    for threads in (1, 2):
        made = qtool.quantize(model, data=data, absorb="samples", threads=threads)
        save(made, tmp_path / f"{threads}.onnx")

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("mobilenetv1-0.25-vww", 1), ("fc-autoencoder-ad", 10), ("squeezenet1_1-torchvision", 1)],
)
def test_real_models_compute_the_same_with_all_absorbed_that_can_be(zoo, name, least):
    (path,) = (zoo / "models").glob(f"*{name}/model.onnx")
    model = infer_shapes(qtool.freeze(load(path)))
    data = open_samples(None, model.inputs(), random=True, samples=4)
    loads = [partial(data.__getitem__, i) for i in range(4)]
    known = channel_statistics(model, loads, threads=1)
    found = problem(model, known, per_channel=True)
    can = absorption(model, found, known, ABSORBERS["samples"])

    changed = rescaled(model, Change({}, named(can.tied, can.reach, 0.0)))

    assert np.count_nonzero(can.reach) >= least
    for sample in data:
        want, got = (next(iter(OrtSession(m).run(sample.feeds).values())) for m in (model, changed))
        np.testing.assert_allclose(want, got, atol=1e-4 * np.abs(want).max())
