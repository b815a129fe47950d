"""Passes: Model -> Model with the same outputs; their registry is in running order."""

from __future__ import annotations

from qtool.passes.constants import bind_defaults, lift_constants
from qtool.passes.fold_affine import fold_affine
from qtool.passes.fold_constants import fold_constants
from qtool.passes.fold_shapes import fold_shapes
from qtool.passes.fuse_activations import fuse_gelu, fuse_hardsigmoid, fuse_hardswish
from qtool.passes.fuse_layernorm import fold_into_layernorm, fuse_layernorm
from qtool.passes.lower_batchnorm import lower_batchnorm
from qtool.passes.merge_layout import merge_layout
from qtool.passes.padding import explicit_pads, merge_pad
from qtool.passes.plain_forms import plain_gemm, plain_sum
from qtool.passes.remove_identities import remove_identities
from qtool.passes.remove_unused import remove_unused
from qtool.passes.resolve_if import resolve_if
from qtool.passes.rewriting import Pass
from qtool.passes.unflatten_softmax import unflatten_softmax

PASSES: dict[str, Pass] = {  # in the order in which `qtool freeze` runs them, again and again
    "bind-defaults": bind_defaults,
    "lift-constants": lift_constants,
    "remove-identities": remove_identities,
    "fold-shapes": fold_shapes,
    "fold-constants": fold_constants,
    "resolve-if": resolve_if,
    "unflatten-softmax": unflatten_softmax,
    "explicit-pads": explicit_pads,
    "merge-pad": merge_pad,
    "plain-gemm": plain_gemm,
    "plain-sum": plain_sum,
    "fuse-hardsigmoid": fuse_hardsigmoid,
    "fuse-hardswish": fuse_hardswish,
    "fuse-gelu": fuse_gelu,
    "fuse-layernorm": fuse_layernorm,
    "fold-into-layernorm": fold_into_layernorm,
    "fold-affine": fold_affine,
    "merge-layout": merge_layout,
    "lower-batchnorm": lower_batchnorm,
    "remove-unused": remove_unused,
}
