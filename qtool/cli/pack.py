"""qtool pack."""

from __future__ import annotations

import click

from qtool.cli import options
from qtool.errors import UsageError


def check_packed(ctx, param, path):
    """Return path, or fail when it is not the name of a file that can be packed."""
    if options.check_ending(path).lower().endswith(".onnx"):
        raise UsageError(f"{path}: an ONNX file cannot be packed; write a .qtm")
    return path


@click.command()
@options.input_option
@click.option("--output", "-o", metavar="QTM", required=True, callback=check_packed,
              help="Model to write: .qtm, or - for standard output.")  # fmt: skip
@click.option("--max", "maximal", is_flag=True,
              help="Also try arithmetic coding: 1 us per weight, to pack and to load.")  # fmt: skip
@options.threads_option
@options.json_option
@options.verbosity_options
def pack(input_, output, maximal, threads, as_json):
    """Save a model with the codecs that make each tensor smallest, losslessly.

    Every command reads the result as any other model; `qtool unpack` gives back the same bits.

    \b
    qtool pack --input q.onnx --output q.qtm
    """
    from qtool import formats
    from qtool.cli.console import show_packing, track
    from qtool.stages.pack import pack as run

    options.check_json(as_json, output)
    found = run(formats.load(input_), output, max=maximal, threads=threads, progress=track)
    show_packing(output, found)
    if as_json:
        options.print_json(found.to_json())
