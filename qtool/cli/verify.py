"""qtool verify."""

from __future__ import annotations

import click

from qtool.cli import options


@click.command()
@options.input_option
@click.option("--reference", metavar="MODEL", help="The float model, to say what int8 costs.")
@options.data_options
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Samples that are run together, where the model allows it.")  # fmt: skip
@click.option("--min-sqnr", type=float, callback=options.finite, metavar="DB",
              help="Fail, with exit code 3, where an output's signal to noise ratio against the "
              "reference is lower.")  # fmt: skip
@click.option("--max-lsb", type=click.IntRange(0), metavar="N",
              help="Fail where an integer differs by more from onnxruntime's.")  # fmt: skip
@click.option("--min-agreement", metavar="95%", callback=options.percent,
              help="Fail where fewer samples get the reference's class.")  # fmt: skip
@options.threads_option
@options.json_option
@options.verbosity_options
def verify(input_, reference, min_sqnr, max_lsb, min_agreement, threads, as_json, **sampling):
    """Compare the native runtime with onnxruntime, layer by layer, and with the float model.

    SQNR = 10 log10(sum float**2 / sum (int8 - float)**2). LSB is one step of a layer's integers.

    \b
    qtool verify --input q.onnx --reference model.onnx --data samples.npz --max-lsb 1
    """
    from qtool import formats
    from qtool.cli import console, verify_text
    from qtool.errors import CheckFailed
    from qtool.stages import verify as stage
    from qtool.stages.evaluate import samples_for

    stage.check_request(min_sqnr, min_agreement, reference is not None)
    options.require_data(sampling)
    model = formats.load(input_)
    other = formats.load(reference) if reference else None
    samples = samples_for(model, other, metric="sqnr", target="reference", **sampling)
    report = stage.verify(
        model, data=samples, reference=other, min_sqnr=min_sqnr, max_lsb=max_lsb,
        min_agreement=min_agreement, threads=threads, progress=console.track,
    )  # fmt: skip
    verify_text.show(report)
    if as_json:
        options.print_json(report.to_json())
    if report.passed is False:
        raise CheckFailed("; ".join(report.failures))
