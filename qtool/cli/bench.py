"""qtool bench."""

from __future__ import annotations

import click

from qtool.cli import options


@click.command()
@options.input_option
@click.option("--against", default="onnxruntime", show_default=True, metavar="NAME",
              help="Runtime that runs the same model: onnxruntime or none.")  # fmt: skip
@click.option("--against-model", metavar="MODEL",
              help="Model, such as the float one, that onnxruntime runs too.")  # fmt: skip
@click.option("--threads", default="1", show_default=True, metavar="N[,N]...",
              callback=options.counts, help="Numbers of threads.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Size of the batch.")  # fmt: skip
@click.option("--set-dim", "dims", multiple=True, metavar="NAME=SIZE", callback=options.sizes,
              help="Size of a symbolic dim of the inputs; repeat for several.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0.1), callback=options.finite, default=5,
              show_default=True, metavar="S",
              help="Time for each number of threads.")  # fmt: skip
@click.option("--per-op", is_flag=True,
              help="Also show each op of the native runtime, and the peak.")  # fmt: skip
@options.json_option
@options.verbosity_options
def bench(input_, against, against_model, threads, batch, dims, seconds, per_op, as_json):
    """Time the native runtime beside onnxruntime, on random inputs.

    All run in one process, in turn. A ratio is another's time over the native runtime's.

    \b
    qtool bench --input q.onnx --against-model model.onnx --threads 1,2
    """
    from qtool import formats
    from qtool.cli import bench_text, console
    from qtool.stages import bench as stage

    stage.check_request(against)
    model = formats.load(input_)
    other = formats.load(against_model) if against_model else None
    found = stage.bench(
        model, against=against, against_model=other, threads=threads, batch=batch, dims=dims,
        seconds=seconds, per_op=per_op, progress=console.track,
    )  # fmt: skip
    bench_text.show(found)
    if as_json:
        options.print_json(found.to_json())
