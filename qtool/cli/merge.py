"""qtool merge."""

from __future__ import annotations

import click

from qtool.cli import options


@click.command()
@click.argument("shards", nargs=-1, metavar="SHARD...")
@click.option("--input", "-i", "inputs", multiple=True, metavar="SHARD",
              help="Shard to read, as the arguments are. Repeatable.")  # fmt: skip
@options.statistics_output_option
@options.verbosity_options
def merge(shards, inputs, output):
    """Join the statistics of all shards of one calibration.

    The result has the bytes that `qtool calibrate` without --shard would have written.

    \b
    qtool calibrate -i model.onnx --data samples.npz --shard 1/2 -o 1.qtm
    qtool calibrate -i model.onnx --data samples.npz --shard 2/2 -o 2.qtm
    qtool merge 1.qtm 2.qtm -o calibrated.qtm
    """  # noqa: D301
    from qtool import formats
    from qtool.stages.merge import merge as run

    names = [*shards, *inputs]
    if not names:
        raise click.UsageError("give the shards to merge: .qtm files of qtool calibrate --shard")
    formats.save(run([formats.load(name) for name in names], names=names), output)
