from __future__ import annotations

import math

import numpy as np
import pytest

from qtool.errors import DataError, UnsupportedError
from qtool.metrics import METRICS, REFERENCE, custom, label_problem

PAIRED = [name for name, metric in METRICS.items() if REFERENCE in metric.against]


def value(name, outputs, target):
    return METRICS[name].value(METRICS[name].rows(np.asarray(outputs), np.asarray(target)))


@pytest.mark.parametrize("name", METRICS)
def test_rows_do_not_depend_on_how_samples_are_grouped(name, rng):
    outputs = rng.normal(size=(12, 2 if name == "auc" else 7)).astype(np.float32)
    target = rng.integers(0, 2, 12)
    if target.size and name not in ("top1", "top5", "auc"):
        target = rng.normal(size=outputs.shape).astype(np.float32)
    rows = METRICS[name].rows

    together = rows(outputs, target)
    apart = np.concatenate([rows(outputs[i : i + 5], target[i : i + 5]) for i in (0, 5, 10)])

    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("name", [n for n in PAIRED if METRICS[n].perfect is not None])
def test_equal_outputs_have_the_perfect_value(name, rng):
    outputs = rng.normal(size=(4, 6))

    assert value(name, outputs, outputs) == pytest.approx(METRICS[name].perfect)


@pytest.mark.parametrize("name", PAIRED)
def test_a_worse_output_has_a_worse_value(name, rng):
    target = rng.normal(size=(64, 6))
    noise = rng.normal(size=(64, 6))

    near, far = (value(name, target + size * noise, target) for size in (0.1, 3.0))

    assert (near > far) is METRICS[name].higher_is_better


def test_top1_takes_the_first_of_equal_scores():
    assert value("top1", [[1.0, 1.0], [1.0, 1.0]], [0, 1]) == 50.0


def test_top5_takes_the_first_five_of_equal_scores():
    assert value("top5", np.zeros((8, 8)), np.arange(8)) == 62.5


def test_top1_of_nan_is_a_miss():
    assert value("top1", [[np.nan, 0.0], [0.0, 1.0]], [0, 1]) == 50.0


def test_top1_takes_integer_outputs_as_classes():
    assert value("top1", np.array([3, 4]), [3, 5]) == 50.0


def test_top1_ignores_axes_of_size_one():
    assert value("top1", np.eye(3).reshape(3, 3, 1, 1), [[0], [1], [0]]) == pytest.approx(200 / 3)


@pytest.mark.parametrize("label", [-1, 3, 1.5])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(DataError, match=f"label {label} is not"):
        value("top1", np.eye(3), [0, label, 1])


def test_the_place_of_a_wrong_label_is_told():
    assert label_problem(np.array([0, 1, 9, 8]), np.eye(4)) == (
        2,
        "label 9 is not one of the output's classes 0..3",
    )


def test_one_hot_labels_are_refused():
    with pytest.raises(DataError, match="not one class for each of 3 samples"):
        value("top1", np.eye(3), np.eye(3))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1), (2,)])
def test_outputs_that_are_no_classes_are_refused(shape):
    with pytest.raises(UnsupportedError, match="not one score per class"):
        value("top1", np.zeros(shape), [0, 0])


def test_auc_counts_pairs_and_ties_by_half(rng):
    score, label = rng.integers(0, 5, 60).astype(float), rng.integers(0, 2, 60)
    gap = score[label == 1][:, None] - score[label == 0][None]

    assert value("auc", score, label) == pytest.approx(np.mean((gap > 0) + 0.5 * (gap == 0)))


def test_auc_of_two_scores_is_that_of_their_difference(rng):
    scores, label = rng.normal(size=(60, 2)), rng.integers(0, 2, 60)

    assert value("auc", scores, label) == value("auc", scores[:, 1] - scores[:, 0], label)


def test_auc_of_one_class_is_not_a_number():
    assert math.isnan(value("auc", [0.1, 0.2], [1, 1]))


@pytest.mark.parametrize("labels", [[0, 2], [0, 0.5], [0]])
def test_auc_refuses_other_labels(labels):
    with pytest.raises(DataError, match="one label, 0 or 1"):
        value("auc", [0.1, 0.2], labels)


def test_mse_weighs_elements_not_samples():
    metric = METRICS["mse"]
    rows = [metric.rows(np.ones((1, n)), np.zeros((1, n)) + (n == 3)) for n in (1, 3)]

    assert metric.value(np.concatenate(rows)) == 0.25


def test_rmse_is_the_root_of_mse():
    assert value("rmse", [[3.0, 4.0]], [[0.0, 0.0]]) == pytest.approx(math.sqrt(12.5))


def test_sqnr_is_in_decibels():
    assert value("sqnr", [[1.1, 0.0]], [[1.0, 0.0]]) == pytest.approx(20)


def test_sqnr_of_equal_outputs_is_infinite():
    assert value("sqnr", [[1.0]], [[1.0]]) == math.inf


def test_cosine_of_zeros():
    assert value("cosine", [[0.0], [0.0]], [[0.0], [1.0]]) == 0.5


def test_max_abs_is_the_largest_of_all():
    assert value("max-abs", [[1.0, -2.0], [0.0, 5.0]], [[0.0, 0.0], [0.0, 1.0]]) == 4.0


@pytest.mark.parametrize("name", ["mse", "cosine", "sqnr", "max-abs"])
def test_targets_of_another_shape_are_refused(name):
    with pytest.raises(DataError, match="cannot be compared"):
        value(name, np.zeros((2, 3)), np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("function", "expected"), [(lambda o, t: (o == t).mean(axis=1), 0.75), (lambda o, t: 3, 3)]
)
def test_a_users_function_is_averaged(function, expected):
    metric = custom(function, "mine:f")

    rows = metric.rows(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 0]]))

    assert metric.value(rows) == expected


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda o, t: [1, 2, 3], "returned 3 numbers for 2"), (lambda o, t: 1 / 0, "ZeroDivision")],
)
def test_a_users_function_that_fails_is_named(function, message):
    with pytest.raises(DataError, match=message):
        custom(function, "mine:f").rows(np.zeros((2, 2)), np.zeros(2))
