"""The quadratic form of the error that rounding makes of a layer's output."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qtool.hessian import inverse_factor
from qtool.quant.rounding.grid import Float64


@dataclass
class Form:
    """error = (w - w') h (w - w')^T for each row; h (K, K) is symmetric and positive definite."""

    h: Float64
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _factor: Float64 | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Make h what native code takes."""
        self.h = np.ascontiguousarray(self.h, np.float64)

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """Columns from the largest diagonal element down."""
        return np.argsort(-np.diagonal(self.h), kind="stable")

    @property
    def factor(self) -> Float64:
        """The U of hessian.inverse_factor with columns in that order; computed once."""
        with self._lock:
            if self._factor is None:
                order = self.order
                self._factor = inverse_factor(np.ascontiguousarray(self.h[np.ix_(order, order)]))
            return self._factor
