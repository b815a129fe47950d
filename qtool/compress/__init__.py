"""Fewer bits for weights: pruning, shared values and grids, with H of the layer's input."""
