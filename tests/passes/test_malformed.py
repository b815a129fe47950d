from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from passes.cases import CASES
from passes.graphs import parse

from qtool.errors import ModelError, QtoolError
from qtool.formats.validate import check_model
from qtool.model import Model
from qtool.stages.freeze import freeze

N_MUTANTS = 300
SMALL = [(g, w) for _, g, w, _ in CASES.values() if "400000" not in g]
OPS = [node.op_type for graph, weights in SMALL for node in parse(graph, **weights).graph]
INTEGERS = (-(2**62), -5, -1, 0, 1, 3, 7, 2**31)
RESHAPED = (
    lambda a: a.reshape(-1),
    lambda a: a[None],
    lambda a: a.ravel()[: a.size // 2],
    lambda a: a.astype(np.float16),
    lambda a: a.astype(np.int64),
    lambda a: np.zeros(0, a.dtype),
    np.zeros_like,
)


def mutate_attribute(attribute: onnx.AttributeProto, chance: random.Random) -> None:
    if attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(INTEGERS)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = chance.choice(INTEGERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = chance.choice([0.0, float("nan"), float("inf")])
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = b"unheard of"


def mutate(graph: onnx.GraphProto, chance: random.Random) -> None:
    node: Any = chance.choice(graph.node)
    used = [name for n in graph.node for name in n.input]
    kind = chance.randrange(8)
    if kind == 0:
        node.op_type = chance.choice(OPS)
    elif kind == 1 and node.input:
        del node.input[chance.randrange(len(node.input))]
    elif kind == 2 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(["", *used])
    elif kind == 3 and node.attribute:
        del node.attribute[chance.randrange(len(node.attribute))]
    elif kind == 4 and node.attribute:
        mutate_attribute(chance.choice(node.attribute), chance)
    elif kind == 5 and graph.initializer:
        tensor = chance.choice(graph.initializer)
        values = chance.choice(RESHAPED)(onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values), tensor.name))
    elif kind == 6:
        node.output.append(f"more{chance.randrange(9)}")
    else:
        value = chance.choice([*graph.input, *graph.output])
        value.type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("seed", range(N_MUTANTS // 50))
def test_a_broken_graph_is_frozen_or_refused_in_words(seed):
    for number in range(50):  # no other exception may leave freeze
        chance = random.Random(1000 * seed + number)
        graph, weights = chance.choice(SMALL)
        proto = ir.to_proto(parse(graph, **weights).ir)
        for _ in range(chance.randint(1, 3)):
            mutate(proto.graph, chance)
        try:
            is_sorted = check_model(proto, "mutant", lambda location: 0)
            model = Model(ir.from_proto(proto))
            if is_sorted:
                freeze(model, check=False)
        except QtoolError:
            pass


@pytest.mark.parametrize(
    ("graph", "problem"),
    [
        ("{ y = Conv(x) }", "the node of 'y' .Conv, opset 13. has 1 inputs and needs 2 to 3"),
        ("{ y = Conv(, x) }", "lacks its input 'X'"),
        ("{ y = Cast(x) }", "lacks its attribute 'to'"),
        ('{ y = Cast<to="float">(x) }', "has an attribute 'to' of type STRING, and needs INT"),
        ("{ y, z = Relu(x) }", "has 2 outputs and needs 1"),
    ],
)
def test_a_node_that_is_not_as_defined_is_named(graph, problem):
    model = parse(f"g (float[N,3] x) => (float[N,3] y) {graph}")

    with pytest.raises(ModelError, match=problem):
        freeze(model)
