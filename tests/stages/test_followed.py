from __future__ import annotations

import compressible
import numpy as np
import pytest
from compressible import Fed, relative

from qtool.runtime.ort import OrtSession
from qtool.stages._followed import Follower, followed, shift, some
from qtool.stages._weights import Edit, weight_layers
from qtool.stages.calibrate import calibrate
from qtool.stages.cluster import Clustering, Options, clusterable, sensitivities

CONV = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[1,4,7,9] x) => (float[1,6,H,W] y)
{{
    a = Mul(x, m)
    y = Conv <{0}> (a, w, b)
}}
"""


def conv(attributes, group, rng):
    """Return a calibrated model of a Conv behind a Mul, and its samples."""
    model = compressible.bound(
        CONV.format(attributes),
        {"m": (1, 4, 1, 1), "w": (6, 4 // group, 3, 3), "b": (6,)},
        rng,
    )
    samples = [Fed({"x": rng.normal(size=(1, 4, 7, 9)).astype(np.float32)}) for _ in range(20)]
    return calibrate(model, data=samples, gram=True), samples


def louder(model, factor):
    """Return a copy whose Mul gives factor times as much."""
    copy = model.copy()
    value = copy.graph.initializers["m"]
    Edit(copy).store(value, (value.const_value.numpy() * factor).astype(np.float32))
    return copy


@pytest.mark.parametrize(
    ("attributes", "group"),
    [("pads=[1,1,1,1]", 1), ("strides=[2,1], pads=[0,1,2,0]", 1), ("dilations=[2,2]", 1),
     ('auto_pad="SAME_UPPER", strides=[2,2]', 1), ("group=2, pads=[1,1,1,1]", 2)],
)  # fmt: skip
def test_a_convolution_makes_up_for_an_input_that_was_scaled(attributes, group, rng):
    model, samples = conv(attributes, group, rng)
    [layer] = weight_layers(model)

    found = Follower(model, samples, 1).of(louder(model, 0.95), layer)

    moved = (
        followed(layer.rows, layer.hessian, found) - layer.rows
    )  # 1 / 0.95 of them would be exact
    part = np.sum(moved * layer.rows) / np.sum(layer.rows**2)
    assert 0.015 < part < 0.053  # the fewer samples, the less
    np.testing.assert_allclose(moved, part * layer.rows, atol=0.02 * np.abs(layer.rows).max())


def test_the_bias_takes_up_what_is_left(rng):
    model, samples = conv("pads=[1,1,1,1]", 1, rng)
    [layer] = weight_layers(model)
    candidate = louder(model, 0.95)
    found = Follower(model, samples, 1).of(candidate, layer)
    [mine] = weight_layers(candidate)

    Edit(candidate).add_bias(mine, shift(layer.rows, layer.rows, found))

    outputs = [
        [OrtSession(m).run(s.feeds)["y"].mean((0, 2, 3)) for s in samples]
        for m in (model, candidate)
    ]
    np.testing.assert_allclose(*(np.mean(o, 0) for o in outputs), atol=1e-5)


def test_only_what_the_activation_lets_through_counts():
    model, samples = compressible.network()
    first = weight_layers(model)[0]  # a Relu is behind it

    found = Follower(model, samples, 1).of(model, first)

    name = first.node.outputs[0].name
    outputs = [OrtSession(model, outputs=[name]).run(s.feeds)[name] for s in samples]
    assert found.seen[0, :, -1].sum() == np.sum(np.stack(outputs) > 0)
    assert np.all(found.rest == 0)  # nothing before it has changed


def test_layers_in_turn_err_less_than_each_alone():
    model, samples = compressible.network()
    layers = clusterable(model, Options(method="grid", bits=3))
    given = model, layers, sensitivities(model, layers, samples), Options(method="grid", bits=3), 1
    slope = 2.0 ** -Clustering(*given).start(1400)

    alone = Clustering(*given).final(slope)
    in_turn = Clustering(*given, some(samples)).final(slope)

    assert relative(model, in_turn, samples) < 0.9 * relative(model, alone, samples)


def test_threads_do_not_change_a_bit():
    model, samples = compressible.network()
    layer = weight_layers(model)[1]
    candidate = model.copy()

    one, two = (Follower(model, samples, n).of(candidate, layer) for n in (1, 2))

    assert np.array_equal(one.cross, two.cross)
    assert np.array_equal(one.seen, two.seen)


def test_streams_without_numbers_are_not_followed():
    assert some(iter([1, 2])) == []
    assert some(None) == []


@pytest.mark.parametrize(("size", "wanted"), [(10, 600), (1 << 19, 128)])
def test_more_samples_are_held_where_they_are_small(size, wanted):
    data = [Fed({"x": np.zeros(size, np.float32)})] * 600

    assert len(some(data)) == wanted
