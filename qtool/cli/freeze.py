"""qtool freeze."""

# fmt: off
from __future__ import annotations

import click

from qtool.cli import options
from qtool.cli.options import Registered


def names(ctx, param, values):
    """Return the names of a repeatable, comma-separated option."""
    return [name for value in values for name in value.split(",") if name]


@click.command()
@options.input_option
@options.output_option
@click.option("--weights", metavar="FILE",
              help="Checkpoint (.npz or .safetensors) to bind to inputs and initializers, by name.")
@click.option("--set-dim", "dims", multiple=True, callback=options.sizes, metavar="NAME=SIZE",
              help="Fix a dynamic dim of the inputs; INPUT:AXIS=SIZE for one without a name. "
              "Repeatable.")
@click.option("--outputs", multiple=True, callback=names, metavar="NAME,...",
              help="Cut the graph: these tensors become its outputs. Repeatable.")
@click.option("--pass", "passes", multiple=True, metavar="NAME",
              type=Registered("qtool.passes", "PASSES", "pass"),
              help="Run this pass only; docs/freeze.md lists them. Repeatable.  [default: all]")
@click.option("--check/--no-check", default=None,
              help="Run before and after in onnxruntime and compare.  [default: up to 1 GB]")
@options.data_options
@options.verbosity_options
def freeze(input_, output, passes, **rest):
    """Turn a training or checkpoint graph into an inference graph.

    Weights become constants, BatchNormalization and other constant factors fold into the layer
    beside them, constant expressions are computed, and what does nothing is removed.

    \b
    qtool freeze --input model.onnx --set-dim batch=1 --output frozen.onnx
    """
    from qtool import formats
    from qtool.cli.console import show
    from qtool.stages.freeze import freeze as run
    from qtool.stages.freeze import summary

    given = {key: rest.pop(key) for key in options.DATA_KEYS}
    if rest["check"] is False and (given["data"] or given["random"]):
        raise click.UsageError("samples are for the check; leave them or --no-check out")
    model = formats.load(input_)
    frozen = run(model, data=lambda prepared: options.open_data(prepared, given),
                 seed=given["seed"], **rest, **({"passes": passes} if passes else {}))
    show("frozen", ("", "before ", "after "), summary(model, frozen))
    formats.save(frozen, output)
