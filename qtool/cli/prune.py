"""qtool prune."""

# fmt: off
from __future__ import annotations

import click

from qtool.cli import options
from qtool.cli.options import Registered
from qtool.cli.weights import rewrite

STAGE = "qtool.stages.prune"


@click.command()
@options.input_option
@options.output_option
@click.option("--sparsity", type=float, metavar="S", help="Share of weights that become 0.")
@click.option("--scope", default="layer", show_default=True,
              type=Registered(STAGE, "SCOPES", "scope"),
              help="layer: S of each. global: S of all, more where it costs less.")
@click.option("--pattern", default="unstructured", show_default=True, metavar="PATTERN",
              help="unstructured, N:M (such as 2:4), block16x4, block1x4, or channel, which "
              "removes channels from the graph.")
@click.option("--method", type=Registered("qtool.compress.pruners", "PRUNERS", "method"),
              help="How weights are chosen and made up for.  "
              "[default: obs with Gram statistics, else magnitude]")
@click.option("--target-ratio", type=float, metavar="R",
              help="Make the packed file R times smaller than the float32 weights.")
@click.option("--max-drop", type=float, metavar="POINTS",
              help="Prune as far as the metric on --data drops by no more.")
@options.data_options
@options.selection_options("Prune")
@options.threads_option
@options.json_option
@options.verbosity_options
def prune(input_, output, threads, as_json, **rest):
    """Make weights zero and let the others make up for them.

    Zeros make a packed file smaller; they make a model faster only where a runtime skips them.

    \b
    qtool prune --input model.qtm --sparsity 0.5 --output sparse.qtm
    """
    rewrite("prune", input_, output, rest, threads=threads, as_json=as_json)
