"""qtool prune."""

# fmt: off
from __future__ import annotations

import click

from qtool.cli import options
from qtool.cli.options import Registered

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
@click.option("--only", multiple=True, metavar="PATTERN",
              help="Prune these nodes only: glob, re:REGEX, op type, FROM..TO. Repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these nodes as they are.")
@options.threads_option
@options.json_option
@options.verbosity_options
def prune(input_, output, threads, as_json, **rest):
    """Make weights zero and let the others make up for them.

    Zeros make a packed file smaller; they make a model faster only where a runtime skips them.

    \b
    qtool prune --input model.qtm --sparsity 0.5 --output sparse.qtm
    """
    from qtool import formats
    from qtool.cli.compress_text import show_weights
    from qtool.cli.console import track
    from qtool.stages._weight_report import weight_report
    from qtool.stages.prune import Options
    from qtool.stages.prune import prune as run

    chosen = {key: rest.pop(key) for key in set(rest) - set(options.DATA_KEYS)}
    wanted = Options(**chosen)  # fails on a contradiction before anything is read
    options.check_json(as_json, output)
    model = formats.load(input_)
    data = options.open_data(model, rest, labels=wanted.max_drop is not None)
    result = run(model, data=data, threads=threads, progress=track, **chosen)
    report = weight_report(model, result, data)
    show_weights(report)
    formats.save(result, output)
    if as_json:
        options.print_json(report.to_json())
