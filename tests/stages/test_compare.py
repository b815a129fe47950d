from __future__ import annotations

import json

import numpy as np
from quant.graphs import conv_net, model_of

from qtool.stages.compare import Change, compare

NET = "g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }"


def net(*values, text=NET):
    return model_of(text, w=np.array(values, np.float32))


def test_a_model_is_the_same_as_itself(rng):
    model = conv_net(rng)

    assert compare(model, model.copy()).same


def test_a_changed_value_is_measured():
    found = compare(net(1, 2), net(1, 2.5))

    assert found.constants == (Change("w", "float32[2]", "float32[2]", 0.5),)


def test_equal_nan_is_no_change():
    assert compare(net(1, np.nan), net(1, np.nan)).same


def test_a_value_that_became_nan_is_a_change():
    assert compare(net(1, 2), net(1, np.nan)).constants[0].difference == "not finite"


def test_a_changed_shape_is_a_change_of_type():
    found = compare(net(1, 2), net(1, text=NET.replace("float[2] w", "float[1] w")))

    assert found.constants == (Change("w", "float32[2]", "float32[1]"),)


def test_ops_are_counted_on_both_sides():
    found = compare(net(1, 2), net(1, 2, text=NET.replace("Add", "Mul")))

    assert found.ops == (Change("Add", 1, 0, -1), Change("Mul", 0, 1, 1))


def test_constants_that_come_and_go_are_named():
    other = model_of(NET.replace(" w", " v").replace(", w)", ", v)"), v=np.zeros(2, np.float32))

    changes = compare(net(1, 2), other).constants

    assert [(c.what, c.before, c.after) for c in changes] == [
        ("w", "float32[2]", None),
        ("v", None, "float32[2]"),
    ]


def test_totals_that_change_are_listed(rng):
    found = compare(conv_net(rng), net(1, 2))

    assert {"macs", "parameters", "weight_bytes", "nodes"} < {c.what for c in found.totals}


def test_a_comparison_is_json(rng):
    made = compare(conv_net(rng), net(1, 2)).to_json()

    assert json.loads(json.dumps(made))["same"] is False
