"""Sample data <-> what a model is fed. PRESETS are the preprocessings known by name."""

from __future__ import annotations

from qtool.data.presets import PRESETS, read_preprocess
from qtool.data.samples import Sample, Samples
from qtool.data.sources import open_samples

__all__ = ["PRESETS", "Sample", "Samples", "open_samples", "read_preprocess"]
