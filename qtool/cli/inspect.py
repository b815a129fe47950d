"""qtool inspect."""

from __future__ import annotations

import click

from qtool.cli import explain, options


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--input", "-i", "input_", metavar="MODEL",
    help="Model to read: .onnx, .qtm, or - for .qtm on standard input.",
)  # fmt: skip
@click.option("--tensors", is_flag=True, help="Also list every weight and every tensor's qparams.")
@click.option("--tensor", metavar="NAME", help="Show the values of one tensor, as a histogram.")
@click.option("--diff", is_flag=True, help="Show what changed from the first to the second model.")
@click.option(
    "--set-dim", "dims", multiple=True, metavar="NAME=SIZE", callback=options.sizes,
    help="Size of a symbolic dim of the inputs; repeat for several.  [default: batch 1]",
)  # fmt: skip
@click.option(
    "--sensitivity",
    is_flag=True,
    help="Show what each quantized layer loses, why, and the option against it.",
)
@click.option("--reference", metavar="MODEL", help="With --sensitivity: the float model.")
@options.data_options
@click.option(
    "--exclude-from",
    "exclude_file",
    metavar="FILE",
    help="With --sensitivity: write the layers that make half of the noise, for "
    "quantize --exclude-from.",
)
@click.option(
    "--cost",
    is_flag=True,
    help="Show what each layer takes: MACs, bytes, time at this machine's roofline, "
    "energy; and the Q/DQ pairs that do not fuse.",
)
@click.option(
    "--target",
    type=click.Choice(["avx2"]),
    help="Show where this instruction set would saturate sums of two products.",
)
@options.threads_option
@options.json_option
@options.verbosity_options
def inspect(
    models, input_, tensors, tensor, diff, dims, as_json, sensitivity, cost, target, **rest
):
    """Show what is in a model: ops, sizes, MACs, qparams, coverage, history.

    MACs are multiply-accumulates of one run. One fact per line, for grep.

    \b
    qtool inspect model.onnx
    qtool inspect --input m.qtm --tensor conv1_out
    qtool inspect --diff model.onnx q.onnx
    qtool inspect --sensitivity q.onnx --reference model.onnx --data samples.npz
    """
    paths = [*([] if input_ is None else [input_]), *models]
    if len(paths) != 1 + diff:
        raise click.UsageError(f"give {'two models' if diff else 'one model'}, not {len(paths)}")
    if tensor is not None and (diff or tensors):
        raise click.UsageError("--tensor goes without --tensors and --diff")
    for path in paths:
        options.check_ending(path)
    views = ["sensitivity"] * sensitivity + ["cost"] * cost + ["target"] * bool(target)
    explain.check(views, rest, diff or tensors or tensor is not None)
    from qtool import formats
    from qtool.cli.inspect_text import show
    from qtool.stages.compare import compare
    from qtool.stages.describe import describe
    from qtool.stages.inspect import inspect as stage

    loaded = [formats.load(path) for path in paths]
    if sensitivity:
        explain.show_sensitivity(loaded[0], rest, as_json)
    elif cost:
        explain.show_costs(loaded[0], dims, as_json)
    elif target:
        explain.show_hazards(loaded[0], as_json)
    elif diff:
        show(compare(*loaded, dims=dims), paths, as_json)
    elif tensor is not None:
        show(describe(loaded[0], tensor), paths, as_json)
    else:
        show(stage(loaded[0], dims=dims, values=tensors), paths, as_json)
