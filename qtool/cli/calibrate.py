"""qtool calibrate."""

from __future__ import annotations

import re

import click

from qtool.cli import options

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def shard(ctx, param, value):
    """Return "2/8" as (2, 8)."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value or "1/1")
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is no shard, such as 2/8", ctx, param)
    return value and (int(match[1]), int(match[2]))


def size(ctx, param, value):
    """Return "2G" as 2000000000."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([KMG]?)B?", (value or "0").upper())
    if match is None:
        raise click.BadParameter(f"{value!r} is no size, such as 500M or 2G", ctx, param)
    return value and int(float(match[1]) * UNITS[match[2]])


@click.command()
@options.input_option
@options.statistics_output_option
@options.data_options
@options.data_free_option
@click.option(
    "--tensors", multiple=True, metavar="GLOB",
    help="Observe these tensors. Repeatable.  [default: those that quantize needs]",
)  # fmt: skip
@click.option(
    "--shard", callback=shard, metavar="I/N",
    help="Take part I of N of the samples; qtool merge joins the parts.",
)  # fmt: skip
@click.option(
    "--gram", is_flag=True, help="Also sum x x^T over the inputs x of each weighted layer."
)
@click.option(
    "--memory", callback=size, metavar="SIZE",
    help="Stay under SIZE (500M, 2G), with --gram in several passes.  [default: no limit]",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, metavar="N",
    help="Samples that a thread takes at once. The result is the same for any number.",
)  # fmt: skip
@options.threads_option
@options.verbosity_options
def calibrate(input_, output, tensors, shard, gram, memory, batch, threads, **rest):
    """Run sample data and add the statistics of tensors: range, zeros, and a histogram.

    counts[k] = number of values x with k 2^e <= x < (k + 1) 2^e, e the same for any order or batch.

    \b
    qtool calibrate --input model.onnx --data samples.npz --output calibrated.qtm
    """  # noqa: D301
    from qtool import formats
    from qtool.cli.console import track
    from qtool.stages.calibrate import calibrate as run

    options.require_data(rest)
    model = formats.load(input_)
    result = run(
        model, data=options.open_data(model, rest), tensors=tensors or None, shard=shard, gram=gram,
        memory=memory, batch=batch, threads=threads, progress=track,
    )  # fmt: skip
    formats.save(result, output)
