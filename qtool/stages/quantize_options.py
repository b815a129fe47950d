"""What quantize can be asked for: the names an option may have, and what contradicts what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from qtool.errors import UsageError
from qtool.quant.absorbers import ABSORBERS
from qtool.quant.encode import WeightScheme
from qtool.quant.equalizers import EQUALIZERS
from qtool.quant.layer_types import LayerType, parse
from qtool.quant.pair_sums import TARGETS
from qtool.quant.rounding import ROUNDINGS
from qtool.quant.weights import WEIGHT_METHODS
from qtool.registry import lookup
from qtool.stages._options import changed
from qtool.statistics.ranges import RANGES

MODES = ("auto", "static", "dynamic", "weight-only")
FORMATS = ("qdq", "qoperator")
ACTIVATIONS = ("uint8", "int8", "uint16", "int16")
WEIGHTS = ("int8", "uint8", "int4", "uint4", "int3", "uint3")
FEW_BITS = ("int3", "int4")  # endings of the types that clipping weights can pay for
ROUNDING = ("auto", *ROUNDINGS, "sequential")
CORRECTIONS = ("auto", "none", "sequential", "analytic")
BY_SAMPLES = ("auto", "sequential")
EQUALIZE = ("auto", "none", *EQUALIZERS)
ABSORB = ("auto", "none", *ABSORBERS)
SMOOTH = ("auto", "none")
TWINS = ("auto", "none")
BY_DATA = (
    *(("equalize", name) for name in EQUALIZERS),
    *(("absorb", name) for name in ABSORBERS),
    ("rounding", "sequential"),
    ("correct", "sequential"),
)  # options with values that need samples
BY_BATCH_NORM = (("correct", "analytic"), ("absorb", "batch-norm"))

CHOICES: Mapping[str, tuple[str, Collection[str]]] = {
    "mode": ("mode", MODES),
    "format": ("format", FORMATS),
    "activations": ("activation type", ACTIVATIONS),
    "weights": ("weight type", WEIGHTS),
    "range": ("range method", RANGES),
    "rounding": ("rounding", ROUNDING),
    "correct": ("bias correction", CORRECTIONS),
    "equalize": ("equalizer", EQUALIZE),
    "absorb": ("absorber", ABSORB),
    "smooth": ("smoothing", SMOOTH),
    "twins": ("twins", TWINS),
    "target": ("target", TARGETS),
    "weight_method": ("weight method", WEIGHT_METHODS),
}


@dataclass(frozen=True)
class Options:
    """What quantize does; the names are those of the command line."""

    mode: str = "auto"
    format: str = "qdq"
    activations: str = "uint8"
    activation_symmetric: bool = False
    weights: str = "int8"
    weight_symmetric: bool | None = None  # None: but for zero points of few bits, by error
    weight_method: str | None = None  # None: minmax for 8 bits, mse for fewer
    rounding: str = "auto"  # descent where there are Gram matrices, else nearest
    per_channel: bool = True
    block_size: int | None = None
    range: str = "mse"
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()  # PATTERN=TYPE, types for single layers; the last match counts
    equalize: str = "auto"  # error, with samples, where it is sure to pay
    absorb: str = "auto"  # samples, or batch-norm for made ones, where it is sure to pay
    smooth: str = "auto"  # with samples, where the predicted error falls
    twins: str = "auto"  # with samples, for 8 bits
    correct: str = "auto"  # sequential where there are samples
    target: str | None = None  # avx2: 7 bits for the channels that would saturate there
    integer_outputs: bool = False

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            UsageError: one is unknown, or two contradict each other.
        """
        for field, (kind, known) in CHOICES.items():
            name = getattr(self, field)
            if name is not None:
                lookup(dict.fromkeys(known), name, kind)
        if self.format == "qoperator" and self.activations.endswith("16"):
            raise UsageError(f"--format qoperator has no {self.activations} form; use --format qdq")
        if self.mode == "dynamic" and not all(kind.is_float for kind in self._kinds()):
            raise UsageError("--mode dynamic: --layer can only say float there")
        if self.block_size and self.mode in ("static", "dynamic"):
            raise UsageError("--block-size goes with --mode weight-only")

    def _kinds(self) -> list[LayerType]:
        return [parse(text)[1] for text in self.layers]

    @property
    def is_wide(self) -> bool:
        """Whether there are weights of 3 or 4 bits or 16-bit activations, which opset 21 has."""
        return self.has_few_bits or self.has_wide_activations

    @property
    def has_wide_activations(self) -> bool:
        """Whether there are activations of 16 bits."""
        wide = any(kind.activation_bits == 16 for kind in self._kinds())
        return wide or self.activations.endswith("16")

    @property
    def has_few_bits(self) -> bool:
        """Whether there are weights of 3 or 4 bits."""
        kinds = self._kinds()
        return self.weights.endswith(FEW_BITS) or any(kind.weight_bits in (3, 4) for kind in kinds)

    @property
    def needs_grams(self) -> bool:
        """Whether Gram matrices are asked for by name."""
        return self.rounding not in ("auto", "nearest", "sequential")

    def is_sequential(self, data: Any) -> bool:
        """Return whether weights are fitted to what the quantized layers before give."""
        chosen = self.rounding == "auto" and self.weight_method is None and self.has_few_bits
        return data is not None and (self.rounding == "sequential" or chosen)

    @property
    def scheme(self) -> WeightScheme:
        """How weights are quantized."""
        return WeightScheme(
            self.weights,
            self.weight_method or ("mse" if self.weights.endswith(FEW_BITS) else "minmax"),
            per_channel=self.per_channel,
            symmetric=self.weight_symmetric is not False,
            narrow=self.weight_symmetric is not False,
            block_size=self.block_size if self.mode == "weight-only" else 0,
        )

    @property
    def wants_twins(self) -> bool:
        """Whether channels that never change become copies of others; --layer may say 4 bits."""
        eight = not self.weights.endswith(FEW_BITS) and not self.has_wide_activations
        return self.twins == "auto" and eight

    def changed(self) -> dict[str, Any]:
        """Return the options that are not the defaults, for the history."""
        return changed(self)
