"""qtool quantize."""

# fmt: off
from __future__ import annotations

import os

import click

from qtool.cli import options
from qtool.cli.calibrate import size
from qtool.cli.options import Registered
from qtool.cli.recipe import finish, recipe_options

STAGE = "qtool.stages.quantize_options"
# Samples run in threads of their own; numpy, imported later, would add its own to each product.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@click.command()
@options.input_option
@options.output_option
@click.option("--mode", default="auto", show_default=True,
              type=Registered(STAGE, "MODES", "mode"),
              help="static: integers everywhere, needs --data or statistics. dynamic: ranges at "
              "run time. weight-only: integers in the file, float arithmetic. auto: static where "
              "it can, else MatMul and Gemm dynamic and other weights weight-only.")
@click.option("--statistics", metavar="QTM", help="Take the statistics from this calibrated model.")
@options.data_options
@options.data_free_option
@click.option("--range", "range", default="mse", show_default=True,
              type=Registered("qtool.statistics.ranges", "RANGES", "range method"),
              help="How the ranges of activations follow from their statistics. auto: with "
              "--data, by the error at the outputs of the layers that read a tensor.")
@click.option("--activations", default="uint8", show_default=True,
              type=Registered(STAGE, "ACTIVATIONS", "activation type"),
              help="Integers of activations.")
@click.option("--activation-symmetric/--activation-asymmetric", default=False, show_default=True,
              help="Whether real 0 is the middle of the activation integers.")
@click.option("--weights", default="int8", show_default=True,
              type=Registered(STAGE, "WEIGHTS", "weight type"),
              help="Integers of weights.")
@click.option("--weight-symmetric/--weight-asymmetric", default=None,
              help="Whether weights use -127..127 with zero point 0.  [default: symmetric; "
              "with 3 and 4 bits and known inputs, zero points by error]")
@click.option("--weight-method",
              type=Registered("qtool.quant.weights", "WEIGHT_METHODS", "weight method"),
              help="How the scales of weights follow from their values.  "
              "[default: minmax for 8 bits, mse for fewer]")
@click.option("--rounding", default="auto", show_default=True,
              type=Registered(STAGE, "ROUNDING", "rounding"),
              help="How weights become integers: nearest, or by the error of the layer's output "
              "from the Gram matrices of calibrate --gram; sequential: with --data, layer after "
              "layer on what the quantized ones before give. auto: sequential for weights of 3 "
              "and 4 bits, else descent where there are matrices.")
@click.option("--equalize", default="auto", show_default=True,
              type=Registered(STAGE, "EQUALIZE", "equalizer"),
              help="With --data: scale channels against the layers that read them, which leaves "
              "the model the same function. error: for the least predicted error; ranges: for "
              "equal ranges of weights. auto: error, for 8 bits, where it pays.")
@click.option("--absorb", default="auto", show_default=True,
              type=Registered(STAGE, "ABSORB", "absorber"),
              help="With --data: what channels never fall below goes into the biases of the layers "
              "that read them, so that ranges end lower. samples: by their minimum; batch-norm: "
              "mean - 3 std in training. auto: samples (--data-free: batch-norm), where it pays.")
@click.option("--smooth", default="auto", show_default=True,
              type=Registered(STAGE, "SMOOTH", "smoothing"),
              help="auto: with --data, move wide channels of activations into the weights of the "
              "linear layers that read them, where the predicted error falls (SmoothQuant).")
@click.option("--twins", default="auto", show_default=True,
              type=Registered(STAGE, "TWINS", "twins"),
              help="auto: with --data and 8 bits, let channels that never change become copies of "
              "those whose rounding hurts most, so that these round finer.")
@click.option("--correct", default="auto", show_default=True,
              type=Registered(STAGE, "CORRECTIONS", "bias correction"),
              help="sequential: with --data, layer after layer, shift biases so that each channel "
              "has the mean of the float model. analytic: by what batch-norm statistics let "
              "expect, without samples. auto: the first with --data, else the second.")
@click.option("--target", type=Registered("qtool.quant.pair_sums", "TARGETS", "target"),
              help="avx2: 7 bits for the channels whose products would saturate there.")
@click.option("--per-channel/--per-tensor", default=True, show_default=True,
              help="A weight scale for each output channel, or one for all.")
@click.option("--block-size", type=click.IntRange(0), metavar="N",
              help="With --mode weight-only: a scale for every N weights along the depth; 0 never. "
              " [default: 32 for weights of 3 and 4 bits]")
@click.option("--format", default="qdq", show_default=True,
              type=Registered(STAGE, "FORMATS", "format"),
              help="QuantizeLinear/DequantizeLinear pairs, or QLinearConv and its like.")
@click.option("--only", multiple=True, metavar="PATTERN",
              help="Quantize these nodes only: glob, re:REGEX, op type, FROM..TO. Repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these nodes in float.")
@click.option("--exclude-from", metavar="FILE", multiple=True, callback=options.lines,
              help="Take --exclude patterns from a file, one a line.")
@click.option("--layer", "layers", multiple=True, metavar="PATTERN=TYPE",
              help="Types of these nodes: float, w3, w4, w8, a8, a16 or w4a16. Repeatable; the "
              "last match counts.")
@click.option("--layers-from", metavar="FILE", multiple=True, callback=options.lines,
              help="Take --layer PATTERN=TYPE from a file, one a line.")
@click.option("--mixed", metavar="SIZE", callback=size,
              help="Give each layer 8 or 4-bit weights (or float, where there is room), so that "
              "the least is lost within SIZE (500K, 1.2M) of weights. Goes by --data, or a model "
              "of calibrate --gram.")
@click.option("--integer-outputs/--float-outputs", default=False, show_default=True,
              help="Whether what only the model's outputs depend on is quantized too.")
@click.option("--min-coverage", callback=options.percent, metavar="95%",
              help="Exit 3 when less than this share of the MACs computes in integers.")
@click.option("--check/--no-check", default=None,
              help="Run the result once in onnxruntime.  [default: up to 1 GB]")
@recipe_options
@options.threads_option
@options.json_option
@options.verbosity_options
def quantize(input_, output, statistics, min_coverage, as_json, threads, check,
             exclude_from, layers_from, mixed, replayed, save_recipe, **rest):
    """Quantize weights and activations to integers.

    q = saturate(round(real / scale) + zero_point). Prints what is covered and why the rest is not.

    \b
    qtool quantize --input model.onnx --data samples.npz --output q.onnx
    """
    from qtool import formats
    from qtool.cli.console import show_coverage, track
    from qtool.quant.coverage import coverage
    from qtool.stages.quantize import quantize as run
    from qtool.stages.quantize_options import Options

    rest["exclude"] += exclude_from
    rest["layers"] = layers_from + rest["layers"]
    samples = {key: rest[key] for key in (*options.DATA_KEYS, "data_free")}
    chosen = {key: rest.pop(key) for key in set(rest) - set(samples)}
    Options(**chosen)  # fails on a contradiction before anything is read
    if mixed is not None and not (chosen["mode"] in ("auto", "static")
                                  and chosen["weights"].endswith("8")):
        raise click.UsageError("--mixed chooses between 8 and 4-bit weights of a static model: "
                               "leave --mode and --weights out")
    options.check_json(as_json, output)
    model = formats.load(input_)
    given = options.load_statistics(statistics)
    data = options.open_data(model, rest)
    if mixed is not None:
        chosen["layers"] = mixture_layers(model, mixed, data, given, threads, chosen)
    result = run(model, data=data, statistics=given, threads=threads, check=check, progress=track,
                 **chosen)
    covered = coverage(result)
    show_coverage(covered)
    covered.require(min_coverage)
    formats.save(result, output)
    finish(replayed, save_recipe, model=model, result=result, samples=samples)
    if as_json:
        options.print_json(covered.to_json())


def mixture_layers(model, budget, data, statistics, threads, chosen):
    """Return the types of layers: of the mixture, and behind them, so that they win, as typed."""
    from dataclasses import replace

    from qtool.cli.console import track
    from qtool.stages.calibrate import cores
    from qtool.stages.mixed import layers_within

    known = model if statistics is None else replace(model, statistics=statistics)
    given = {key: chosen[key] for key in ("range", "per_channel", "only", "exclude", "layers")}
    found = layers_within(known, budget, data=data, threads=threads or cores(), progress=track,
                          **given)
    return (*found, *chosen["layers"])
