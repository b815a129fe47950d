"""Which weight of a model is to blame where a tensor of it is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from qtool.errors import DataError
from qtool.model import Model, array


@contextmanager
def weights_blamed(model: Model) -> Iterator[None]:
    """Let a DataError of what the model computes name the weight that is not finite, if any."""
    try:
        yield
    except DataError as error:
        name = _bad_weight(model)
        if name is None:
            raise
        raise DataError(
            f"{error}: weight {name!r} of the model holds NaN or infinity; export it again"
        ) from error


def _bad_weight(model: Model) -> str | None:
    for name, value in model.graph.initializers.items():
        values = array(value)
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            return name
    return None
