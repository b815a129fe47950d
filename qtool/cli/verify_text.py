"""How `qtool verify` shows what it found."""

from __future__ import annotations

import math
from typing import Any

from qtool.cli import console

LAYERS = ("layer", "op", "SQNR dB ", "lost dB ", "exact % ", "max LSB ", "mean LSB ", "ends % ", "")
OUTPUTS = ("output", "SQNR dB ", "onnxruntime's ", "agreement % ", "exact % ", "max apart ")


def show(report: Any) -> None:
    """Print the layers, the outputs, and where error first enters, on standard error."""
    console.show("layers", LAYERS, map(_layer, report.layers))
    console.show("outputs", OUTPUTS, map(_output, report.outputs))
    entering = [layer.name for layer in report.layers if layer.enters]
    first = report.first_difference
    rows = [
        ("samples", report.samples),
        ("largest difference from onnxruntime", f"{report.max_lsb} LSB"),
        ("first layer that differs", first or "none: every integer is onnxruntime's"),
        ("layers where a difference enters", len(entering)),
        ("loses most against float", report.most_lost or ""),
        ("seconds", f"{report.seconds:.2f}"),
    ]
    console.show("verification", ("", "value"), rows)


def _layer(layer: Any) -> tuple[str, ...]:
    return (
        layer.name,
        layer.op,
        _digits(layer.sqnr),
        _digits(layer.lost),
        _share(layer.exact),
        "" if layer.max_lsb is None else str(layer.max_lsb),
        "" if layer.mean_lsb is None else f"{layer.mean_lsb:.2g}",
        "" if layer.saturated is None else f"{100 * layer.saturated:.2f}",
        "enters" if layer.enters else "",
    )


def _output(output: Any) -> tuple[str, ...]:
    return (
        output.name,
        _digits(output.sqnr),
        _digits(output.sqnr_onnxruntime),
        _digits(output.agreement),
        _share(output.exact),
        f"{output.max_abs:.3g}",
    )


def _share(value: float) -> str:
    """Return percent, which are 100 only where all are."""
    return "100" if value == 1 else f"{math.floor(value * 1e6) / 1e4:.4f}"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
