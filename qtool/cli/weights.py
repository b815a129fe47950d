"""What prune and cluster do alike: load, change the weights, show what became of them, save."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qtool.cli import options


def rewrite(
    name: str, input_: str, output: str, given: dict[str, Any], *, threads: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run the stage of this name; given holds its Options and what data_options gave."""
    from qtool import formats
    from qtool.cli.compress_text import show_weights
    from qtool.cli.console import track
    from qtool.stages._weight_report import weight_report

    stage = import_module(f"qtool.stages.{name}")
    chosen = {key: given.pop(key) for key in set(given) - set(options.DATA_KEYS)}
    wanted = stage.Options(**chosen)  # fails on a contradiction before anything is read
    options.check_json(as_json, output)
    model = formats.load(input_)
    data = options.open_data(model, given, labels=getattr(wanted, "max_drop", None) is not None)
    result = getattr(stage, name)(model, data=data, threads=threads, progress=track, **chosen)
    report = weight_report(model, result, data)
    show_weights(report)
    formats.save(result, output)
    if as_json:
        options.print_json(report.to_json())
