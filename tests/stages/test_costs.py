from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool import formats
from qtool.cli.explain import cost_lines, hazard_lines
from qtool.data import open_samples
from qtool.stages._energy import microjoules
from qtool.stages.costs import Island, Machine, costs, entropy_bytes, measured
from qtool.stages.quantize import quantize

MACHINE = Machine(integer_gmacs=400, float_gmacs=100, cache_gb=80, memory_gb=8)


@pytest.fixture
def net(rng, tmp_path):
    model = conv_net(rng)
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(8, 3, 8, 8)).astype(np.float32))
    return model, open_samples(str(tmp_path / "x.npz"), model.inputs())


def test_a_layer_moves_its_inputs_outputs_and_weights(net):
    found = costs(net[0], machine=MACHINE)

    first = found.layers[0]
    assert (first.name, first.form, first.macs) == ("a", "float", 4 * 64 * 27)
    assert first.weight_bytes == 4 * 4 * 27
    assert first.activation_bytes == 4 * (3 * 64 + 4 * 64)
    assert first.intensity == first.macs / (first.weight_bytes + first.activation_bytes)


def test_time_is_the_slower_of_arithmetic_and_memory():
    compute = MACHINE.milliseconds(4_000_000, True, 8, 8)
    memory = MACHINE.milliseconds(8, True, 8_000_000, 80_000_000)

    assert compute == pytest.approx(0.04)
    assert memory == pytest.approx(2.0)


def test_integers_take_a_quarter_of_the_bytes_and_less_energy(net):
    model, samples = net
    quantized = costs(quantize(model, data=samples), machine=MACHINE)
    plain = costs(model, machine=MACHINE)

    assert quantized.layers[0].form == "integer"
    assert quantized.layers[0].activation_bytes * 4 == plain.layers[0].activation_bytes
    assert quantized.total("now")[1] < plain.total("now")[1] / 3
    assert plain.total("now") == pytest.approx(plain.total("float"))
    assert plain.weight_bytes["packed"] < plain.weight_bytes["int8"]


def test_energy_is_that_of_the_table():
    found = microjoules(macs=1_000_000, is_float=True, weight_bytes=8e6, activation_bytes=8e6)

    assert found == pytest.approx(4.6 + 1300 + 100)
    assert microjoules(macs=10**6, is_float=False, weight_bytes=0, activation_bytes=0) == (
        pytest.approx(0.3)
    )


def test_entropy_of_integers_is_exact():
    assert entropy_bytes(np.repeat(np.arange(4, dtype=np.int8), 100)) == pytest.approx(100)
    assert entropy_bytes(np.zeros(50, np.int8)) == 0


def test_a_weight_that_is_not_finite_takes_a_byte_for_each_value():
    assert entropy_bytes(np.array([[1, np.nan], [np.inf, 0]], np.float32)) == 4


def test_an_island_and_its_grids_are_named(rng, tmp_path):
    model = model_of(
        """
        net (float[1, 4, 8, 8] x, float[8,4,1,1] w, float[2,8,1,1] v, float[2,2,1,1] u)
            => (float[1, 2, 8, 8] y) {
            a = Conv(x, w)
            b = Softplus(a)
            d = Conv(b, v)
            y = Conv(d, u)
        }
        """,
        w=rng.normal(size=(8, 4, 1, 1)).astype(np.float32),
        v=rng.normal(size=(2, 8, 1, 1)).astype(np.float32),
        u=rng.normal(size=(2, 2, 1, 1)).astype(np.float32),
    )
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(8, 4, 8, 8)).astype(np.float32))
    samples = open_samples(str(tmp_path / "x.npz"), model.inputs())

    found = costs(quantize(model, data=samples), machine=MACHINE)

    assert [island.nodes for island in found.islands] == [("b",)]
    assert {(g.op, g.beside) for g in found.grids} == {
        ("DequantizeLinear", "b"), ("QuantizeLinear", "b"),
    }  # fmt: skip
    assert found.grids[0].bytes == 5 * 8 * 64
    assert found.islands[0].ms > found.islands[0].integer_ms


def test_this_machine_has_a_roofline():
    found = measured()

    assert found.integer_gmacs > 0 < found.float_gmacs
    assert found.cache_gb > 0 < found.memory_gb


def test_the_command_shows_costs_as_text_and_json(net, tmp_path, cli):
    formats.save(net[0], tmp_path / "m.onnx")

    text = cli("inspect", "--cost", tmp_path / "m.onnx")
    found = json.loads(cli("inspect", "--cost", tmp_path / "m.onnx", "--json").stdout)

    assert "total int8, weights packed: at least" in text.stdout
    assert {"ms", "uj"} == set(found["totals"]["int8"])
    assert sum(layer["macs"] for layer in found["layers"]) > 0


def test_two_views_at_once_are_refused(tmp_path, cli):
    done = cli("inspect", "--cost", "--sensitivity", tmp_path / "m.onnx")

    assert (done.exit_code, "are two views" in done.stderr) == (2, True)


def test_a_large_island_is_named_by_its_ends(net):
    found = costs(net[0], machine=MACHINE)
    nodes = tuple("abcdefg")

    lines = list(cost_lines(replace(found, islands=(Island(nodes, 0, 1.0, 0.5),))))

    assert "island a .. g (7 nodes): at least 1000.0 us, in integers 500.0 us" in lines


def test_a_model_without_integers_has_no_hazards():
    assert list(hazard_lines([])) == [
        "layers: none multiplies 8-bit integers: give what qtool quantize wrote"
    ]
