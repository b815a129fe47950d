from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import model_of

from qtool.quant.encodings import encodings

QLINEAR = """
g (uint8[1,3,4,4] x, float s, uint8 z, int8[2,3,1,1] w, float[2] t, int8[2] v)
=> (uint8[a,b,c,d] y) { y = QLinearConv(x, s, z, w, t, v, s, z) }
"""
QDQ = """
g (float[4] x, float s, uint8 z, int8[4] w, float t) => (float[4] y)
{ q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z) d = DequantizeLinear(w, t)
  y = Add(r, d) }
"""
SCALARS = {"s": np.array(0.5, np.float32), "z": np.array(4, np.uint8)}


def by_name(text, **constants):
    return {e.name: e for e in encodings(model_of(text, **constants))}


def test_activations_and_weights_of_a_qdq_graph():
    found = by_name(QDQ, **SCALARS, w=np.ones(4, np.int8), t=np.array(0.25, np.float32))

    assert {name: (e.kind, e.dtype, e.scale, e.zero_point) for name, e in found.items()} == {
        "q": ("activation", "uint8", (0.5, 0.5), (4, 4)),
        "w": ("weight", "int8", (0.25, 0.25), (0, 0)),
    }


def test_an_activation_knows_its_float_tensor():
    found = by_name(QDQ, **SCALARS, w=np.ones(4, np.int8), t=np.array(0.25, np.float32))

    assert (found["q"].real, found["w"].real) == ("x", "d")


def test_tensors_of_integer_operators_are_found():
    found = by_name(
        QLINEAR,
        **SCALARS,
        w=np.ones((2, 3, 1, 1), np.int8),
        t=np.array([0.1, 0.2], np.float32),
        v=np.zeros(2, np.int8),
    )

    assert {name: (e.n_scales, e.axis) for name, e in found.items()} == {
        "x": (1, None),
        "w": (2, 0),
        "y": (1, None),
    }


def test_the_range_is_what_the_integers_can_say():
    found = by_name(QDQ, **SCALARS, w=np.ones(4, np.int8), t=np.array(0.25, np.float32))

    assert found["q"].range == (-2.0, 125.5)


@pytest.mark.parametrize("name", ["scale", "zero_point", "range"])
def test_qparams_computed_at_run_time_are_unknown(name):
    found = by_name("g (float[4] x) => (uint8[4] y, float s, uint8 z) "
                    "{ q, s, z = DynamicQuantizeLinear(x) d = DequantizeLinear(q, s, z) "
                    "y = QuantizeLinear(d, s, z) }")  # fmt: skip

    assert getattr(found["y"], name) is None
