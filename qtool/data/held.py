"""A few samples in memory, for stages that look at each many times."""

from __future__ import annotations

from itertools import islice

from qtool.data.samples import Sample, Samples


class Held(list[Sample]):
    """Samples in memory, and where they come from, as Samples says it."""

    def __init__(self, items: list[Sample], data: Samples) -> None:
        super().__init__(items)
        self.source, self.preprocess = data.source, data.preprocess
        self.n = len(items)


def hold(data: Samples, most: int) -> Held:
    """Return at most this many samples, spread evenly over the data where its length is known."""
    if data.n is None:
        return Held(list(islice(data, most)), data)
    n = min(most, len(data))
    return Held([data[i * len(data) // n] for i in range(n)], data)
