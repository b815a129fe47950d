"""qtool report."""

from __future__ import annotations

import click

from qtool.cli import options


@click.command()
@options.input_option
@click.option("--reference", metavar="MODEL", help="Model to compare with, usually the float one.")
@click.option("--output", "-o", metavar="HTML", required=True,
              help="Page to write: .html, or - for standard output.")  # fmt: skip
@options.data_options
@click.option("--metric", metavar="NAME", help="As in qtool evaluate.  [default: by the data]")
@click.option("--target", type=click.Choice(["labels", "input", "reference"]),
              help="What outputs are compared with.  [default: by the metric]")  # fmt: skip
@click.option("--output-name", metavar="NAME", help="Output to measure.  [default: the only one]")
@click.option("--labels", metavar="TXT", help="Names of the classes, one per line.")
@click.option(
    "--curve",
    metavar="JSON",
    help="Trials of tune (OUTPUT.tune/journal.jsonl) or compress (OUTPUT.trials) to draw.",
)
@click.option("--layer-samples", type=click.IntRange(0), default=32, show_default=True, metavar="N",
              help="Samples for the error and the histogram of each layer.")  # fmt: skip
@click.option("--worst", type=click.IntRange(0, 100), default=12, show_default=True, metavar="N",
              help="Samples to show, those that changed most.")  # fmt: skip
@options.threads_option
@options.json_option
@options.verbosity_options
def report(input_, reference, output, output_name, labels, curve, worst, layer_samples, threads,
           as_json, metric, target, **sampling):  # fmt: skip
    """Write one HTML page about a quantized model: size, accuracy, error of each layer.

    The page is complete in itself. Without --data or --reference it says what it can.

    \b
    qtool report --input q.qtm --reference model.onnx --data labelled.npz --output report.html
    """
    from qtool.cli import report_page

    report_page.write(
        input_, reference, output, sampling=sampling, labels=labels, curve=curve,
        as_json=as_json, threads=threads, metric=metric, target=target, output_name=output_name,
        layer_samples=layer_samples, n_worst=worst,
    )  # fmt: skip
