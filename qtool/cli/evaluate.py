"""qtool evaluate."""

from __future__ import annotations

import click

from qtool.cli import options


@click.command()
@options.input_option
@click.option("--reference", metavar="MODEL", help="Model to compare with, usually the float one.")
@options.data_options
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Samples that are run together, where the model allows it.")  # fmt: skip
@click.option("--metric", metavar="NAME",
              help="top1, top5, auc, mse, rmse, sqnr, cosine, max-abs, agreement or "
              "module:function.  [default: top1 for labels, else agreement or sqnr]")  # fmt: skip
@click.option("--target", type=click.Choice(["labels", "input", "reference"]),
              help="What outputs are compared with.  [default: by the metric]")  # fmt: skip
@click.option("--output-name", metavar="NAME", help="Output to measure.  [default: the only one]")
@click.option("--max-drop", type=click.FloatRange(0), metavar="X",
              callback=options.finite,
              help="Fail, with exit code 3, if the metric is worse by more than X than the "
              "reference's: points of top1, top5, agreement; else the metric's unit.")  # fmt: skip
@click.option("--confident", is_flag=True,
              help="Fail only if the drop is beyond --max-drop with 95 % confidence.")  # fmt: skip
@click.option("--runtime", default="onnxruntime", show_default=True, metavar="NAME",
              help="What runs the model: onnxruntime or native; the reference runs in "
              "onnxruntime.")  # fmt: skip
@options.threads_option
@options.json_option
@options.verbosity_options
def evaluate(input_, reference, output_name, runtime, threads, as_json, max_drop, confident,
             metric, target, **sampling):  # fmt: skip
    """Measure accuracy on sample data, and the drop from a reference.

    \b
    qtool evaluate -i q.onnx --reference model.onnx --data labelled.npz --max-drop 1.0
    qtool evaluate -i q.onnx --reference model.onnx --data pictures/ --metric agreement
    """
    from qtool import formats
    from qtool.cli import console
    from qtool.errors import CheckFailed
    from qtool.stages import evaluate as stage

    stage.check_request(metric, target, runtime=runtime, reference=reference is not None,
                        max_drop=max_drop, confident=confident,
                        preprocess=sampling["preprocess"])  # fmt: skip
    options.require_data(sampling)
    model = formats.load(input_)
    other = formats.load(reference) if reference else None
    samples = stage.samples_for(model, other, metric=metric, target=target, **sampling)
    report = stage.evaluate(
        model, data=samples, reference=other, metric=metric, target=target, output=output_name,
        max_drop=max_drop, confident=confident, runtime=runtime, threads=threads,
        progress=console.track,
    )  # fmt: skip
    console.show("evaluation", ("", "value "), report.table())
    if as_json:
        options.print_json(report.to_json())
    if report.passed is False:
        raise CheckFailed(str(report.reason))
