from __future__ import annotations

import json

import numpy as np
import pytest
from quant.test_absorb import biased

import qtool
from qtool.data import open_samples
from qtool.errors import FormatError
from qtool.formats import load, save
from qtool.formats.manifest import steps
from qtool.stages._decisions import Decisions

OFF = {"equalize": "none", "twins": "none", "absorb": "none", "smooth": "none",
       "rounding": "nearest", "correct": "none", "range": "minmax"}  # fmt: skip


@pytest.fixture
def given(tmp_path, rng):
    """A net with two high biases, and samples for it."""
    save(biased(rng), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 3, 8, 8)).astype(np.float32))
    model = load(tmp_path / "m.onnx")
    return model, open_samples(str(tmp_path / "x.npz"), model.inputs())


def decided(given, **options):
    model, data = given
    return qtool.quantize(model, data=data, **options).history[-1].decided


def test_with_all_off_nothing_is_chosen(given):
    assert decided(given, **OFF) == {**OFF, "mode": "static"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("rounding", "gptq"), ("rounding", "descent"), ("rounding", "sequential"),
     ("correct", "sequential"), ("range", "mse"), ("range", "percentile"), ("range", "entropy")],
)  # fmt: skip
def test_each_algorithm_runs_alone(given, option, value):
    found = decided(given, **{**OFF, option: value})

    chosen = found[option]
    assert value in (chosen, chosen["*"] if isinstance(chosen, dict) else chosen)
    assert {k: v for k, v in found.items() if k not in (option, "mode", "correct")} == {
        k: v for k, v in OFF.items() if k not in (option, "correct")
    }


@pytest.mark.parametrize(("option", "value"), [("equalize", "ranges"), ("absorb", "samples")])
def test_what_steps_aside_says_by_how_little(given, option, value):
    found = decided(given, **{**OFF, option: value})

    assert found[option]["tried"] == value
    assert found[option]["method"] in (value, "none")
    assert isinstance(found[option]["predicted_db"], float)


def test_auto_is_resolved(given):
    found = decided(given)

    assert found["absorb"]["method"] == "samples"
    assert found["absorb"]["predicted_db"] > 1.6
    assert found["rounding"] == "descent"
    assert found["correct"] == "sequential"
    assert "mse" in json.dumps(found["range"])


def test_ranges_of_auto_are_those_of_the_method_that_it_took(given):
    found = decided(given, range="auto")["range"]

    assert set(found.values() if isinstance(found, dict) else [found]) <= {
        "mse",
        "minmax",
        "outputs",
    }


def test_without_samples_the_mode_and_the_rounding_are_said(given):
    model, _ = given
    found = qtool.quantize(model, mode="weight-only").history[-1].decided

    assert found == {"mode": "weight-only", "rounding": "nearest"}


@pytest.mark.parametrize("ending", ["onnx", "qtm"])
def test_files_keep_what_was_decided(given, tmp_path, ending):
    model, data = given
    made = qtool.quantize(model, data=data)
    save(made, tmp_path / f"q.{ending}")

    assert load(tmp_path / f"q.{ending}").history[-1] == made.history[-1]


def test_the_most_frequent_choice_stands_for_all():
    found = Decisions()

    found.each("range", {"a": "mse", "b": "minmax", "c": "mse"})
    found.each("rounding", {"a": "nearest", "b": "nearest"})
    found.each("none", {})

    assert found.found == {"range": {"*": "mse", "b": "minmax"}, "rounding": "nearest"}


def test_decisions_in_a_file_that_are_no_object_are_refused():
    row = {"command": "quantize", "options": {}, "version": "1", "decided": 3}

    with pytest.raises(FormatError, match="'decided' is 3; dict is needed"):
        steps([row], "a file")
