"""qtool tune."""

# fmt: off
from __future__ import annotations

import click

from qtool.cli import options
from qtool.cli.calibrate import size
from qtool.cli.options import Registered


@click.command()
@options.input_option
@options.output_option
@options.data_options
@click.option("--max-drop", type=click.FloatRange(0), required=True, metavar="X",
              callback=options.finite, help="The budget: how much worse than the float model's the "
              "metric may be, as in evaluate.")
@click.option("--goal", default="size", show_default=True,
              type=Registered("qtool.stages._ladder", "GOALS", "goal"),
              help="size: 4-bit weights where they cost little. latency: integers where they can.")
@click.option("--calibration", metavar="DATA", help="Samples to calibrate on.  [default: every "
              "fourth of --data; the others measure]")
@click.option("--metric", metavar="NAME", help="As in evaluate.  [default: top1 for labels]")
@click.option("--target", type=click.Choice(["labels", "input", "reference"]), help="As there.")
@click.option("--confident", is_flag=True,
              help="Beyond the budget only where the whole 95 % interval is.")
@click.option("--trials", type=click.IntRange(1), default=8, show_default=True, metavar="N",
              help="Evaluations at most.")
@click.option("--time", "seconds", callback=options.duration, metavar="TIME",
              help="Stop after TIME (90s, 10m, 2h) with the best so far.  [default: no limit]")
@click.option("--memory", callback=size, metavar="SIZE",
              help="Stay under SIZE (500M, 4G).  [default: no limit]")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Trials that run at a time.")
@click.option("--executor", metavar="MODULE:FUNCTION",
              help="Run trials on the concurrent.futures.Executor that this function returns.")
@click.option("--range", "range", default="mse", show_default=True,
              type=Registered("qtool.statistics.ranges", "RANGES", "range method"),
              help="As in quantize.")
@click.option("--per-channel/--per-tensor", default=True, show_default=True, help="As there.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these nodes in float.")
@options.threads_option
@options.json_option
@options.verbosity_options
def tune(input_, output, threads, as_json, executor, seconds, **rest):
    """Search for the cheapest quantized model whose metric drops by at most X.

    At most 8 paired evaluations. OUTPUT always holds the best so far; OUTPUT.tune/ the journal,
    with which the same command goes on where it was. Prints the commands that do the same.

    \b
    qtool tune --input model.onnx --data labelled.npz --max-drop 0.5 --output best.onnx
    """
    from qtool.cli import tune_text

    options.check_json(as_json, output)
    tune_text.check(input_, output, rest)
    found = tune_text.run(input_, output, executor, seconds=seconds, threads=threads, **rest)
    tune_text.show(found, output)
    if as_json:
        options.print_json(found.to_json())
    tune_text.require(found)
