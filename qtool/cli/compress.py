"""qtool compress."""

# fmt: off
from __future__ import annotations

import click

from qtool.cli import options
from qtool.cli.pack import check_packed
from qtool.errors import UsageError


@click.command()
@options.input_option
@click.option("--output", "-o", metavar="QTM", required=True, callback=check_packed,
              help="Packed model to write: .qtm.")
@click.option("--max-drop", type=float, metavar="POINTS",
              help="The smallest file whose metric on --data drops by no more.")
@click.option("--target-size", type=int, metavar="BYTES", help="A file of at most so many bytes.")
@click.option("--target-ratio", type=float, metavar="R",
              help="A file R times smaller than the float32 weights.")
@options.data_options
@click.option("--calibration", metavar="DATA",
              help="Samples for the Gram statistics.  [default: those that the model has, else "
              "each 4th of --data, and the others measure]")
@click.option("--trials", type=click.IntRange(1), default=10, show_default=True, metavar="N",
              help="Evaluate at most N models.")
@options.selection_options("Compress")
@click.option("--max", "maximal", is_flag=True,
              help="Also try arithmetic coding: 1 us per weight, to pack and to load.")
@click.option("--plot", metavar="SVG", help="Draw size against drop, with the chosen point.")
@click.option("--recipe", metavar="JSON",
              help="Write the decision; without a budget, do what it says.")
@options.threads_option
@options.json_option
@options.verbosity_options
def compress(input_, output, maximal, plot, recipe, threads, as_json, only, exclude, trials,
             calibration, max_drop, target_size, target_ratio, **rest):
    """Make the smallest packed model inside a budget.

    Statistics decide how coarse each layer's weights are; at most 10 models are evaluated. The best
    so far is always in the output, and a run that was stopped goes on where it was.

    \b
    qtool compress --input model.onnx --data test.npz --max-drop 1 --output small.qtm
    """
    from qtool import formats
    from qtool.cli.compress_text import show_trials
    from qtool.cli.console import track
    from qtool.stages import compress as stage

    options.check_json(as_json, output)
    given = (max_drop, target_size, target_ratio)
    sampling = {key: rest[key] for key in options.DATA_KEYS if key not in ("data", "random")}
    sampling = {key: value for key, value in sampling.items() if value}
    if recipe and given == (None, None, None):
        model = stage.replay(
            formats.load(input_), stage.load_recipe(recipe), data=rest["data"], threads=threads,
            calibration=calibration, sampling=sampling, progress=track,
        )
        stage.write(model, output, max=maximal, threads=threads)
        return
    budget = stage.Budget(*given)
    if rest["data"] is None:
        raise UsageError("the layers are measured and models evaluated on samples: give --data")
    found = stage.compress(
        formats.load(input_), data=rest["data"], output=output, budget=budget, only=only,
        exclude=exclude, trials=trials, max=maximal, threads=threads, progress=track,
        calibration=calibration, sampling=sampling,
    )
    show_trials(found)
    if recipe:
        stage.save_recipe(found.recipe, recipe)
    if plot:
        stage.plot(found, plot, max_drop)
    if as_json:
        options.print_json(found.to_json())
