from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import compressible
import numpy as np
import pytest
from compressible import relative, values

import qtool
from qtool.errors import CheckFailed, DataError, UnsupportedError, UsageError
from qtool.stages import compress as stage
from qtool.stages.compress import Budget, compress


@pytest.fixture(scope="module")
def network():
    return compressible.network()


@pytest.fixture
def data(network, tmp_path):
    x = np.concatenate([sample.feeds["x"] for sample in network[1]])
    np.savez(tmp_path / "test.npz", x=x)
    return str(tmp_path / "test.npz")


def packed(path):
    return qtool.load(path)


def test_a_target_ratio_is_met_with_one_trial(network, data, tmp_path):
    output = tmp_path / "small.qtm"

    found = compress(network[0], data=data, output=output, budget=Budget(target_ratio=1.6))

    full = sum(v.const_value.nbytes for v in network[0].graph.initializers.values())
    assert output.stat().st_size == found.trials[0].bytes <= full / 1.6
    assert len(found.trials) == 1
    assert relative(network[0], packed(output), network[1]) < 0.05


def test_a_drop_is_kept_by_the_smallest_trial_that_does(network, data, tmp_path):
    output = tmp_path / "small.qtm"

    found = compress(network[0], data=data, output=output, budget=Budget(max_drop=60), trials=4)

    passing = [trial for trial in found.trials if trial.passed]
    assert [t.chosen for t in found.trials].count(True) == 1
    assert next(t for t in found.trials if t.chosen).bytes == min(t.bytes for t in passing)
    assert len(found.trials) <= 4


def test_a_second_run_evaluates_nothing(network, data, tmp_path, monkeypatch):
    budget, output = Budget(target_ratio=1.6), tmp_path / "small.qtm"
    first = compress(network[0], data=data, output=output, budget=budget)
    monkeypatch.setattr(stage, "evaluate", lambda *a, **k: pytest.fail("evaluated"))

    again = compress(network[0], data=data, output=output, budget=budget)

    assert again.trials == first.trials


@pytest.mark.parametrize("damage", [{"drop": "x"}, {"drop_ci95": [1]}, {"passed": None}])
def test_a_damaged_trial_is_evaluated_again(network, data, tmp_path, damage):
    budget, output = Budget(target_ratio=1.6), tmp_path / "small.qtm"
    first = compress(network[0], data=data, output=output, budget=budget)
    kept = tmp_path / "small.qtm.trials"
    kept.write_text("".join(
        json.dumps({**json.loads(line), **damage}) + "\n" for line in kept.read_text().splitlines()
    ))  # fmt: skip

    assert compress(network[0], data=data, output=output, budget=budget).trials == first.trials


def test_a_recipe_gives_the_same_weights(network, data, tmp_path):
    budget = Budget(target_ratio=1.6)
    found = compress(network[0], data=data, output=tmp_path / "a.qtm", budget=budget)
    stage.save_recipe(found.recipe, tmp_path / "r.json")

    again = stage.replay(network[0], stage.load_recipe(tmp_path / "r.json"), data=data)

    names = found.model.graph.initializers
    assert all(np.array_equal(values(found.model, n), values(again, n)) for n in names)


def test_a_recipe_makes_the_same_file_of_a_model_without_statistics(network, data, tmp_path):
    bare, budget = replace(network[0], statistics=None), Budget(target_ratio=1.5)
    found = compress(bare, data=data, output=tmp_path / "a.qtm", budget=budget)

    again = stage.replay(bare, found.recipe, data=data)

    stage.write(again, tmp_path / "b.qtm", max=False, threads=1)
    assert (tmp_path / "a.qtm").read_bytes() == (tmp_path / "b.qtm").read_bytes()


def test_a_recipe_says_that_it_needs_the_samples(network, data, tmp_path):
    budget = Budget(target_ratio=1.6)
    found = compress(network[0], data=data, output=tmp_path / "a.qtm", budget=budget)

    with pytest.raises(UsageError, match="give --data"):
        stage.replay(network[0], found.recipe)


def test_statistics_are_made_when_there_are_none(network, data, tmp_path):
    bare = replace(network[0], statistics=None)

    found = compress(bare, data=data, output=tmp_path / "a.qtm", budget=Budget(target_ratio=1.5))

    assert found.trials[0].ratio >= 1.5


def test_the_best_is_kept_when_none_meets_the_budget(network, data, tmp_path, monkeypatch):
    output, evaluate = tmp_path / "small.qtm", stage.evaluate
    monkeypatch.setattr(
        stage, "evaluate", lambda *args, **more: replace(evaluate(*args, **more), drop=9.0)
    )

    with pytest.raises(CheckFailed, match="trials drops"):
        compress(network[0], data=data, output=output, budget=Budget(max_drop=0), trials=1)

    assert relative(network[0], packed(output), network[1]) < 0.5


@pytest.mark.parametrize(
    "given",
    [{}, {"max_drop": 1, "target_ratio": 2}, {"max_drop": -1}, {"target_size": 0},
     {"target_ratio": 1}, {"max_drop": float("nan")}],
)  # fmt: skip
def test_budgets_that_are_none_are_refused(given):
    with pytest.raises(UsageError):
        Budget(**given)


def test_an_impossible_size_is_said(network, data, tmp_path):
    with pytest.raises(UnsupportedError, match="smallest"):
        compress(network[0], data=data, output=tmp_path / "a.qtm", budget=Budget(target_size=10))


@pytest.mark.parametrize("recipe", [{}, {"format": "qtool recipe", "version": 1, "slope": 1,
                                         "sensitivity": {}, "options": {}}])  # fmt: skip
def test_other_recipes_are_refused(network, recipe):
    with pytest.raises(DataError, match="recipe"):
        stage.replay(network[0], recipe)


def test_the_command_writes_file_plot_and_recipe(network, data, tmp_path, cli):
    qtool.save(network[0], tmp_path / "m.qtm")

    result = cli("compress", "-i", tmp_path / "m.qtm", "--data", data, "--target-ratio", 1.6,
                 "-o", tmp_path / "s.qtm", "--plot", tmp_path / "c.svg",
                 "--recipe", tmp_path / "r.json", "--json")  # fmt: skip

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["trials"][0]["chosen"]
    assert ElementTree.parse(tmp_path / "c.svg").getroot().tag.endswith("svg")
    replayed = cli("compress", "-i", tmp_path / "m.qtm", "--recipe", tmp_path / "r.json",
                   "--data", data, "-o", tmp_path / "t.qtm")  # fmt: skip
    assert replayed.exit_code == 0, replayed.stderr
    assert (tmp_path / "t.qtm").read_bytes() == (tmp_path / "s.qtm").read_bytes()


def test_the_history_says_what_was_asked_for(network, data, tmp_path):
    output = tmp_path / "s.qtm"

    compress(network[0], data=data, output=output, budget=Budget(target_ratio=1.2),
             calibration=data + "[::2]", exclude=("Gemm",), max=True)  # fmt: skip

    step = qtool.load(output).history[-1]
    assert step.options.pop("slope") > 0
    assert step.options == {
        "target_ratio": 1.2, "max": True, "calibration": True, "exclude": ["Gemm"]
    }  # fmt: skip


def test_the_command_needs_data(network, tmp_path, cli):
    qtool.save(network[0], tmp_path / "m.qtm")

    result = cli("compress", "-i", tmp_path / "m.qtm", "--max-drop", 1, "-o", tmp_path / "s.qtm")

    assert result.exit_code == 2
    assert "--data" in result.stderr
