"""Statistics of tensors and layers: histograms, Gram matrices, and the ranges that follow."""
