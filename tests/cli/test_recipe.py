from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAD = {"format": "qtool recipe", "version": 1, "command": "quantize"}
TYPED = ("--weights", "int4", "--per-tensor", "--rounding", "gptq", "--only", "Gemm")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, its quantized form and the recipe of it."""
    folder = tmp_path_factory.mktemp("recipe")
    source = "sample_models"
    typed = [
        "quantize", "-i", f"{source}/mlp.onnx", "--data", f"{source}/calibration.npz[0:50]",
        "--preprocess", f"{source}/preprocess.toml", *TYPED,
        "--save-recipe", folder / "recipe.json", "-o", folder / "first.onnx",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "qtool", *map(str, typed)], cwd=ROOT, check=True)
    return folder


@pytest.fixture
def replay(made, cli, sample_models, monkeypatch, tmp_path):
    monkeypatch.chdir(sample_models.parent)

    def run(*typed, recipe=None):
        path = made / "recipe.json"
        if recipe is not None:
            path = tmp_path / "recipe.json"
            path.write_text(recipe if isinstance(recipe, str) else json.dumps(recipe))
        model = sample_models / "mlp.onnx"
        output = tmp_path / "again.onnx"
        return cli("quantize", "-i", model, "--recipe", path, *typed, "-o", output), output

    return run


def test_a_replay_gives_the_same_bytes(made, replay):
    result, output = replay()

    assert result.exit_code == 0
    assert output.read_bytes() == (made / "first.onnx").read_bytes()
    assert "the result is that of the recipe" in result.stderr


def test_a_recipe_holds_what_is_not_the_default(made):
    options = json.loads((made / "recipe.json").read_text())["options"]

    assert options["rounding"] == "gptq"
    assert options["per_channel"] is False
    assert options["data"].endswith("calibration.npz[0:50]")
    assert "range" not in options


def test_typed_options_win_and_the_difference_is_told(made, replay):
    result, output = replay("--weights", "int8")

    assert output.stat().st_size > (made / "first.onnx").stat().st_size
    assert "the result is not that of the recipe" in result.stderr


def test_a_recipe_by_hand_needs_options_only(replay):
    result, output = replay(recipe={**HEAD, "options": {"mode": "weight-only"}})

    assert result.exit_code == 0
    assert "made with another model" in result.stderr
    assert output.exists()


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("{", "it is no JSON"),
        ("[]", "is no recipe"),
        ({**HEAD, "command": "prune", "options": {}}, "a recipe of 'prune', not of 'quantize'"),
        ({**HEAD, "version": 2, "options": {}}, "of version 1"),
        ({**HEAD, "options": {"rang": "mse"}}, "did you mean 'range'?"),
        ({**HEAD, "options": {"output": "x.onnx"}}, "no option in"),
        ({**HEAD, "options": {"range": 3}}, "option 'range' cannot be 3"),
        ({**HEAD, "options": {"range": "best"}}, "no range method named 'best'"),
        ({**HEAD, "options": {"exclude": "Conv"}}, "option 'exclude' cannot be"),
        ({**HEAD, "options": {"per_channel": 1}}, "option 'per_channel' cannot be 1"),
        ({**HEAD, "options": {"block_size": -1}}, "not in the range"),
    ],
)
def test_what_is_no_recipe_is_refused(replay, recipe, says):
    result, output = replay(recipe=recipe)

    assert result.exit_code in (1, 2)
    assert says in result.stderr
    assert not output.exists()


def test_a_missing_recipe_is_named(cli, sample_models, tmp_path):
    given = ("-i", sample_models / "mlp.onnx", "--recipe", tmp_path / "none.json")
    result = cli("quantize", *given, "-o", tmp_path / "q.onnx")

    assert result.exit_code == 1
    assert "none.json: No such file" in result.stderr


@pytest.mark.parametrize(
    "options",
    [{"range": "auto", "weight_method": "mse", "target": "avx2"}, {"rounding": "sequential"},
     {"equalize": "ranges", "absorb": "samples"}, {"smooth": "none", "correct": "none"}],
    ids=str,
)  # fmt: skip
def test_an_algorithm_is_chosen_by_recipe_as_by_option(replay, sample_models, options, cli):
    samples = ("--data", sample_models / "calibration.npz[0:20]", "--preprocess",
               sample_models / "preprocess.toml")  # fmt: skip
    typed = []
    for name, value in options.items():
        typed += [f"--{name.replace('_', '-')}", value]

    result, output = replay(*samples, recipe={**HEAD, "options": options})
    first = output.read_bytes()
    again = cli("quantize", "-i", sample_models / "mlp.onnx", *samples, *typed, "-o", output)

    assert (result.exit_code, again.exit_code) == (0, 0), result.stderr + again.stderr
    assert output.read_bytes() == first


def test_a_recipe_holds_what_was_decided_and_a_replay_says_what_is_otherwise(made, replay):
    recipe = json.loads((made / "recipe.json").read_text())

    assert recipe["decided"]["mode"] == "static"
    result, _ = replay(recipe={**recipe, "decided": {**recipe["decided"], "correct": "analytic"}})
    assert 'correct: "sequential"; the recipe\'s: "analytic"' in result.stderr


def test_decisions_that_are_no_object_are_refused(replay):
    result, _ = replay(recipe={**HEAD, "options": {}, "decided": []})

    assert result.exit_code == 1
    assert "'decided' is no object" in result.stderr
