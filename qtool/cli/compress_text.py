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
