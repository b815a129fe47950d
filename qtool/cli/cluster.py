"""qtool cluster."""

# fmt: off
from __future__ import annotations

import click

from qtool.cli import options
from qtool.cli.options import Registered
from qtool.cli.weights import rewrite

STAGE = "qtool.stages.cluster"


@click.command()
@options.input_option
@options.output_option
@click.option("--method", default="kmeans", show_default=True,
              type=Registered(STAGE, "METHODS", "method"),
              help="kmeans: few float32 values a tensor. grid: int8 steps rounded for the bits "
              "that packing needs; smaller at equal error.")
@click.option("--bits", type=float, metavar="B",
              help="Bits of a weight on average; layers get more or fewer by sensitivity.")
@click.option("--clusters", type=int, metavar="K", help="Values of every tensor: 2 to 256.")
@click.option("--target-ratio", type=float, metavar="R",
              help="Make the packed file R times smaller than the float32 weights.")
@click.option("--init", default="optimal", show_default=True,
              type=Registered("qtool.compress.codebook", "INITS", "init"),
              help="Where k-means starts.")
@options.data_options
@options.selection_options("Cluster")
@options.threads_option
@options.json_option
@options.verbosity_options
def cluster(input_, output, threads, as_json, **rest):
    """Let weights share few values, so that `qtool pack` makes the file small.

    Gram statistics (qtool calibrate --gram) make it several times more exact; --data measures
    which layers matter.

    \b
    qtool cluster --input model.qtm --bits 5 --output small.qtm
    """
    rewrite("cluster", input_, output, rest, threads=threads, as_json=as_json)
