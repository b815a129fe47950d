"""What a person sees: lines, tables and progress on standard error."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

T = TypeVar("T")

MOST_REASONS = 12  # rows of a table of reasons


class _Lines(logging.Handler):
    """Prints what the library logs as plain lines; warnings say that they are."""

    def emit(self, record: logging.LogRecord) -> None:
        word = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        stderr().print(
            f"{word}{record.getMessage()}", highlight=False, markup=False, soft_wrap=True
        )


class _Console(Console):
    """Leaves it to main() to end the program when nobody reads on; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise


def listen(level: int) -> None:
    """Send what the library logs at this level and above to standard error."""
    logger = logging.getLogger("qtool")
    logger.setLevel(level)
    logger.handlers = [_Lines()]
    logger.propagate = False


def stderr() -> Console:
    """Return the console of standard error; rich honours NO_COLOR."""
    return _Console(stderr=True)


def show(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table to standard error; columns that end in a space are aligned right."""
    if logging.getLogger("qtool").level > logging.INFO:
        return
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.strip(), justify="right" if column.endswith(" ") else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    stderr().print(table)


def track(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    """Yield the items under a progress bar, which shows only on a terminal."""
    console = stderr()
    if not console.is_terminal or logging.getLogger("qtool").level > logging.INFO:
        yield from items
        return
    with Progress(console=console, transient=True) as progress:
        yield from progress.track(items, total=total, description=label)


def show_packing(path: str, packing: Any) -> None:
    """Say how small a packed file is."""
    if packing.n_bytes is not None:
        sizes = f"{packing.n_bytes:,} bytes, from {packing.weight_bytes:,} bytes of weights"
        logging.getLogger("qtool").info("%s: %s: %.2fx", path, sizes, packing.ratio)


def show_coverage(coverage: Any) -> None:
    """Print what of a model computes in integers, and why the rest does not."""
    shares = {
        "nodes": coverage.by_nodes,
        "MACs": coverage.by_macs,
        "weight bytes": coverage.by_bytes,
    }
    show(
        "coverage",
        ("", "integer arithmetic ", "integer weights "),
        (
            (name, f"{100 * share.fraction:.1f} %", f"{100 * share.weights_fraction:.1f} %")
            for name, share in shares.items()
        ),
    )
    left: dict[tuple[str, str], list[str]] = {}
    for node in sorted(coverage.float_nodes, key=lambda node: not node.has_macs):
        kind = node.op_type if node.has_macs else "without MACs"
        left.setdefault((kind, _general(node.reason)), []).append(node.name)
    if left:
        show(
            "not in integers",
            ("n ", "op", "why", "such as"),
            (
                (len(names), op, reason, ", ".join(names[:2]))
                for (op, reason), names in list(left.items())[:MOST_REASONS]
            ),
        )
    if len(left) > MOST_REASONS:
        more = len(left) - MOST_REASONS
        stderr().print(f"... and for {more} more reasons: qtool inspect --json names every node")


def _general(reason: str) -> str:
    """Return a reason without the names in it, so that equal ones can be counted together."""
    return re.sub(r" '[^']*'", "", reason)
