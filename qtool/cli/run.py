"""qtool run."""

from __future__ import annotations

import click

from qtool.cli import options


@click.command()
@options.input_option
@click.option("--output", "-o", metavar="NPZ", help="Write the outputs here: one array for each.")
@click.option("--runtime", default="native", show_default=True, metavar="NAME",
              help="What runs the model: native or onnxruntime.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), metavar="K",
              help="Print the K classes of highest score of each sample.")  # fmt: skip
@click.option("--labels", metavar="TXT", help="Names of the classes, one per line.")
@click.option("--reference", metavar="MODEL",
              help="Print its classes beside the model's; it runs in onnxruntime.")  # fmt: skip
@click.option("--output-name", metavar="NAME", help="Output of --top.  [default: the only one]")
@options.data_options
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Samples that are run together, where the model allows it.")  # fmt: skip
@options.threads_option
@options.json_option
@options.verbosity_options
def run(input_, output, runtime, top, labels, reference, output_name, threads, as_json, **sampling):
    """Run a model on samples: write its outputs, or print the best classes.

    \b
    qtool run --input q.qtm --data x.npz --output y.npz
    qtool run -i q.onnx --reference model.onnx --data pictures/ --top 5 --labels names.txt
    """
    from qtool import formats
    from qtool.cli import console, run_text
    from qtool.stages import run as stage
    from qtool.stages.evaluate import samples_for

    stage.check_request(runtime=runtime, output=output, top=top, labels=labels is not None,
                        reference=reference is not None, json=as_json)  # fmt: skip
    options.require_data(sampling)
    names = None if labels is None else stage.read_labels(labels)
    models = {"model": formats.load(input_)}
    if reference is not None:
        models["reference"] = formats.load(reference)
    samples = samples_for(*models.values(), metric="sqnr", target="reference", **sampling)
    with_runtimes = zip(models.items(), (runtime, "onnxruntime"), strict=False)
    outputs = {
        what: stage.run(one, data=samples, runtime=by, threads=threads, progress=console.track)
        for (what, one), by in with_runtimes
    }
    guesses = {} if top is None else {
        what: stage.best(found, top, name=output_name, labels=names)
        for what, found in outputs.items()
    }  # fmt: skip
    if output is not None:
        stage.save_outputs(outputs["model"], output)
    run_text.show(outputs["model"], guesses, as_json)
