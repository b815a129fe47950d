from __future__ import annotations

import pytest
from quant.graphs import conv_net

from qtool.errors import UsageError
from qtool.quant.layer_types import LayerType, layer_types, parse


@pytest.mark.parametrize(
    ("text", "bits"),
    [("w4", (4, None)), ("a16", (None, 16)), ("w4a16", (4, 16)), ("w8", (8, None))],
)
def test_a_type_names_the_bits_of_weights_and_activations(text, bits):
    pattern, kind = parse(f"re:^a=b$={text}")

    assert (pattern, kind.weight_bits, kind.activation_bits) == ("re:^a=b$", *bits)


@pytest.mark.parametrize("text", ["conv", "conv=", "conv=w5", "conv=int4", "=w4", "re:[=w4"])
def test_what_is_no_type_is_refused(text):
    with pytest.raises(UsageError):
        parse(text)


def test_the_sign_is_that_of_all_layers():
    kind = LayerType("", weight_bits=4, activation_bits=16)

    assert [kind.weights("uint8"), kind.activations("int8")] == ["uint4", "int16"]


def test_the_last_match_counts(rng):
    model = conv_net(rng)

    found = layer_types(model, ["Conv=w4", "d=float"])

    assert {n.outputs[0].name: k.is_float for n, k in found.items()} == {"a": False, "d": True}


def test_a_pattern_that_matches_nothing_is_refused(rng):
    with pytest.raises(UsageError, match=r"--layer 'covn' matches no node"):
        layer_types(conv_net(rng), ["covn=w4"])
