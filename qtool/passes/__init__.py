"""Passes: Model -> Model with the same outputs; their registry is in running order."""

from __future__ import annotations

from qtool.passes.constants import bind_defaults, lift_constants
from qtool.passes.fold_affine import fold_affine
from qtool.passes.fold_constants import fold_constants
from qtool.passes.fold_shapes import fold_shapes
from qtool.passes.merge_layout import merge_layout
from qtool.passes.remove_identities import remove_identities
from qtool.passes.remove_unused import remove_unused
from qtool.passes.rewriting import Pass

PASSES: dict[str, Pass] = {  # in the order in which `qtool freeze` runs them, again and again
    "bind-defaults": bind_defaults,
    "lift-constants": lift_constants,
    "remove-identities": remove_identities,
    "fold-shapes": fold_shapes,
    "fold-constants": fold_constants,
    "fold-affine": fold_affine,
    "merge-layout": merge_layout,
    "remove-unused": remove_unused,
}
