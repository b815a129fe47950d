"""What prune, cluster and compress print on standard error."""

from __future__ import annotations

from typing import Any

from qtool.cli import console

COLUMNS = (
    "layer", "op", "weights ", "zeros % ", "values ", "bits ", "error % ", "measured % ",
)  # fmt: skip


def show_weights(report: Any) -> None:
    """Print a line for each layer: zeros, values, bits, errors; and the averages."""
    total = f"{sum(layer.weights for layer in report.layers):,}"
    average = f"{100 * report.sparsity:.1f}", "", f"{report.bits:.2f}", "", ""
    rows = [*map(_row, report.layers), ("all", "", total, *average)]
    console.show("weights: output errors relative to its variance", COLUMNS, rows)


def _row(layer: Any) -> tuple[str, ...]:
    return (
        layer.name, layer.op, f"{layer.weights:,}", f"{100 * layer.sparsity:.1f}",
        str(layer.values), f"{layer.bits:.2f}", _percent(layer.predicted),
        _percent(layer.measured),
    )  # fmt: skip


def _percent(error: float | None) -> str:
    return "" if error is None else f"{100 * error:.3g}"


def show_trials(found: Any) -> None:
    """Print the trade-off: a line for each trial, by size, the chosen one marked."""
    columns = ("bytes ", "ratio ", f"{found.metric} drop ", "95 % interval ", "agreement ", "")
    console.show("trade-off", columns, map(_trial, found.trials))


def _trial(trial: Any) -> tuple[str, ...]:
    low_high = "" if trial.drop_ci95 is None else "{:.2f} to {:.2f}".format(*trial.drop_ci95)
    numbers = ["" if x is None else f"{x:.2f}" for x in (trial.drop, trial.agreement)]
    mark = "chosen" if trial.chosen else "" if trial.passed else "drops too much"
    return f"{trial.bytes:,}", f"{trial.ratio:.2f}", numbers[0], low_high, numbers[1], mark
