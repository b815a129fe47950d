from __future__ import annotations

import numpy as np
import pytest
from quant.graphs import conv_net, model_of, node

from qtool.model import Statistics, TensorStatistics
from qtool.quant.plan import observed, plan


def groups(made):
    return [{v.name for v in g.members} for g in made.groups]


def test_all_but_the_last_softmax_compute_in_integers(rng):
    made = plan(conv_net(rng))

    assert [n.op_type for n in made.nodes] == [
        "Conv", "Relu", "Conv", "Add", "MaxPool", "Flatten", "Gemm",
    ]  # fmt: skip
    assert list(made.reasons.values()) == [
        "only the model's outputs depend on it: kept in float for precision"
    ]


def test_a_relu_shares_the_qparams_of_the_convolution_before_it(rng):
    made = plan(conv_net(rng))

    assert {"a", "r"} in groups(made)


def test_ops_that_only_move_elements_share_qparams(rng):
    made = plan(conv_net(rng))

    assert {"e", "m", "f"} in groups(made)


def test_the_last_gemm_gives_float_without_qparams(rng):
    made = plan(conv_net(rng))

    assert not any("g" in names for names in groups(made))


def test_integer_outputs_quantize_the_tail_too(rng):
    made = plan(conv_net(rng), integer_outputs=True)

    assert not made.reasons
    assert {"g"} in groups(made)


def test_only_tensors_that_hold_all_values_of_their_group_are_observed(rng):
    assert observed(conv_net(rng)) == ["x", "r", "d", "e", "g", "y"]


def test_an_unselected_node_stays_float_with_its_reason(rng):
    model = conv_net(rng)

    made = plan(model, lambda n: "--exclude d" if n is node(model, "d") else None)

    assert node(model, "d") not in made.nodes
    assert made.reasons[node(model, "d")] == "--exclude d"


def test_a_concat_shares_qparams_with_all_its_inputs(rng):
    model = model_of(
        """
        net (float[1,2,4,4] x, float[2,2,1,1] w) => (float[1,2,4,4] y) {
            a = Conv(x, w)
            b = Conv(x, w)
            c = Concat<axis = 2>(a, b)
            y = Conv(c, w)
        }
        """,
        w=rng.normal(size=(2, 2, 1, 1)).astype(np.float32),
    )

    made = plan(model)

    shared = next(g for g in made.groups if len(g.members) == 3)
    assert {v.name for v in shared.members} == {"a", "b", "c"}
    assert [v.name for v in shared.observed] == ["c"]


def masked(rng):
    return model_of(
        """
        net (float[1,4,8] x, float[1,1,4] mask, float[8,8] w) => (float[1,4,8] y) {
            q = MatMul(x, w)
            t = Transpose<perm = [0,2,1]>(q)
            s = MatMul(q, t)
            m = Add(s, mask)
            p = Softmax(m)
            y = MatMul(p, q)
        }
        """,
        w=rng.normal(size=(8, 8)).astype(np.float32),
    )


def test_a_mask_computed_at_run_time_is_never_quantized(rng):
    model = masked(rng)
    wide = TensorStatistics(-1e9, 0.0, 4, 2, 30, -1, np.array([2, 2], np.int64))

    made = plan(model, statistics=Statistics("", "samples", 1, tensors={"mask": wide}))

    assert "additive mask" in made.reasons[node(model, "m")]
    assert not any("mask" in names for names in groups(made))


def test_a_matmul_and_the_bias_after_it_are_one_layer(rng):
    model = model_of(
        """
        net (float[1,4,8] x, float[8,8] w, float[8] b, float[8,2] v) => (float[1,4,2] y) {
            a = MatMul(x, w)
            c = Add(a, b)
            y = MatMul(c, v)
        }
        """,
        w=rng.normal(size=(8, 8)).astype(np.float32),
        b=rng.normal(size=8).astype(np.float32),
        v=rng.normal(size=(8, 2)).astype(np.float32),
    )

    made = plan(model)

    assert groups(made) == [{"x"}, {"c"}]
    assert made.biased == {node(model, "a"): node(model, "c")}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Conv(x, x)", "its weight is computed at run time"),
        ("a = Sqrt(x)", "Sqrt has no integer form"),
        ("a = Relu(x)", "only the model's outputs depend on it"),
    ],
)
def test_a_node_without_an_integer_form_says_why(body, reason):
    model = model_of(f"net (float[1,1,1,1] x) => (float[1,1,1,1] a) {{ {body} }}")

    made = plan(model)

    assert reason in made.reasons[node(model, "a")]
