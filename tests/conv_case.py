"""Random integer convolutions: what the native kernels and what the reference make of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import reference

from qtool import _native
from qtool.qparams import QParams

UNTOUCHED = 170  # what the binding fills y with


def qparams(zero_point):
    return QParams(np.float32(1), np.uint8(zero_point), "uint8")


@dataclass
class Case:
    """One convolution of x (n, h, w, c) with w (o, kh, kw, c / groups), as the binding takes it."""

    image: tuple[int, int, int, int]
    out_c: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    x_zero_point: int = 0
    y_limits: tuple[int, int, int] = (0, 0, 255)
    extra: dict = field(default_factory=dict)  # more arguments of the binding
    seed: int = 0
    most: bool = False  # only the largest x and w

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        channels = self.image[3] // self.groups
        shape = (self.out_c, *self.kernel, channels)
        if self.most:
            self.x = rng.choice(np.array([0, 255], np.uint8), self.image, p=[0.05, 0.95])
            sign = rng.choice(np.array([-1, 1], np.int8), (self.out_c, 1, 1, 1))
            self.w = np.broadcast_to(127 * sign, shape).astype(np.int8)
        else:
            self.x = rng.integers(0, 256, self.image, dtype=np.uint8)
            self.w = rng.integers(-127, 128, shape, dtype=np.int8)
        self.bias = rng.integers(-9999, 9999, self.out_c, dtype=np.int32)
        depth = channels * self.kernel[0] * self.kernel[1]
        steps = 50 / (127 * 127 * np.sqrt(depth))
        self.scale = (steps * rng.uniform(0.5, 2, self.out_c)).astype(np.float32)

    def accumulators(self):
        """Return bias + sum, eq. 3, as (n, p, q, o)."""
        x = reference.centred(self.x.transpose(0, 3, 1, 2), qparams(self.x_zero_point))
        w = self.w.astype(np.int64).transpose(0, 3, 1, 2)
        acc = reference.conv_sum(x, w, self.strides, self.pads, self.dilations, self.groups)
        acc = reference.accumulated(acc, qparams(0), self.bias.reshape(-1, 1, 1))
        return acc.transpose(0, 2, 3, 1)

    def expected(self):
        """Return requantize(accumulators), eq. 5, uint8."""
        zero, low, high = self.y_limits
        return reference.requantize(
            self.accumulators(), self.scale, qparams(zero), (low, high)
        ).astype(np.uint8)

    def run(self, variant, **arguments):
        """Return what the kernel makes; raises ValueError where it does not support the case."""
        return _native.conv(
            variant,
            self.x,
            self.w,
            self.bias,
            self.scale,
            strides=self.strides,
            dilations=self.dilations,
            pads=self.pads,
            groups=self.groups,
            x_zero_point=self.x_zero_point,
            y_limits=self.y_limits,
            **self.extra,
            **arguments,
        )
