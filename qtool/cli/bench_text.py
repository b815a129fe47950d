"""How `qtool bench` shows what it measured."""

from __future__ import annotations

from typing import Any

from qtool.cli import console

TIMES = (
    "runtime", "model", "threads ", "median ms ", "min ms ", "ratio ", "quartiles ", "load ms ",
    "memory MB ",
)  # fmt: skip
OPS = ("op", "node", "kernel", "ms ", "GMAC/s ", "GB/s ", "% of peak ")


def show(bench: Any) -> None:
    """Print the times, and the ops where they were measured, on standard error."""
    console.show(f"{bench.machine}, {bench.cores} cores", TIMES, map(_timing, bench.timings))
    if bench.peaks is None:
        return
    console.show("ops", OPS, map(_op, bench.ops))
    rates = [(f"{kernel}, GMAC/s", f"{rate:.0f}") for kernel, rate in bench.peaks.gmacs.items()]
    copy = ("copy in the cache, GB/s", f"{bench.peaks.gb:.0f}")
    console.show("peaks, measured now", ("", "value "), [*rates, copy])


def _timing(timing: Any) -> tuple[str, ...]:
    return (
        timing.runtime,
        timing.model,
        str(timing.threads),
        f"{timing.median_ms:.3f}",
        f"{timing.min_ms:.3f}",
        f"{timing.ratio:.2f}",
        f"{timing.ratio_low:.2f} to {timing.ratio_high:.2f}",
        f"{timing.load_ms:.0f}",
        f"{timing.peak_mb:.1f}",
    )


def _op(op: Any) -> tuple[str, ...]:
    return (
        op.op,
        op.name,
        op.kernel,
        f"{op.ms:.4f}",
        f"{op.gmacs:.1f}" if op.gmacs else "",
        f"{op.gb:.1f}",
        "" if op.share is None else f"{100 * op.share:.0f}",
    )
