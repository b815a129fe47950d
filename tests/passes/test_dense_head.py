from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import model_of, ops

from qtool.passes.dense_head import dense_head
from qtool.runtime.ort import OrtSession
from qtool.shapes import infer_shapes


def head(rng, last="Flatten(d)", spatial=1, bias=", b"):
    pool = "GlobalAveragePool(x)" if spatial == 1 else "Relu(x)"
    return infer_shapes(model_of(
        f"""
        net (float[2, 3, 4, 4] x, float[5,3,1,1] w, float[5] b, int64[2] s) => (float[m, n] y) {{
            c = {pool}
            d = Conv(c, w{bias})
            e = {last}
            y = Softmax(e)
        }}
        """,
        w=rng.normal(size=(5, 3, 1, 1)).astype(np.float32),
        b=rng.normal(size=5).astype(np.float32), s=np.array([-1, 5]),
    ))  # fmt: skip


@pytest.mark.parametrize("last", ["Flatten(d)", "Reshape(d, s)"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_pooled_convolution_becomes_a_gemm(rng, last, bias):
    model = head(rng, last, bias=bias)

    made = dense_head(model)

    assert ops(made) == ["GlobalAveragePool", "Flatten", "Gemm", "Softmax"]
    x = {"x": rng.normal(size=(2, 3, 4, 4)).astype(np.float32)}
    want, got = (OrtSession(m).run(x)["y"] for m in (model, made))
    assert np.allclose(got, want, atol=1e-6)


def test_the_tensor_behind_the_flatten_keeps_its_name(rng):
    gemm = next(node for node in dense_head(head(rng)).graph if node.op_type == "Gemm")

    assert gemm.outputs[0].name == "e"


def test_channels_of_several_elements_stay_a_convolution(rng):
    model = head(rng, "Flatten(d)", spatial=4)

    assert dense_head(model) is model
