"""qtool unpack."""

from __future__ import annotations

import click

from qtool.cli import options


@click.command()
@options.input_option
@options.output_option
@options.verbosity_options
def unpack(input_, output):
    """Save a packed model plain again, with the bits that were packed.

    \b
    qtool unpack --input q.qtm --output q.onnx
    """
    from qtool import formats
    from qtool.stages.pack import unpack as run

    run(formats.load(input_), output)
