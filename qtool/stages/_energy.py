"""The energy of arithmetic and memory, from the table of a published survey.

M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9:
rough costs in 45 nm at 0.9 V. Newer processes take less of each, in about the same proportions.
"""

from __future__ import annotations

# Picojoules of one operation.
INT8_MULTIPLY = 0.2
INT32_ADD = 0.1
FLOAT_MULTIPLY = 3.7
FLOAT_ADD = 0.9

# Picojoules of an access to 64 bits.
SRAM_1MB = 100.0
DRAM = 1300.0  # the lower end of 1.3 to 2.6 nJ

INT8_MAC = INT8_MULTIPLY + INT32_ADD
FLOAT_MAC = FLOAT_MULTIPLY + FLOAT_ADD
ACCESS_BYTES = 8


def microjoules(
    *, macs: int, is_float: bool, weight_bytes: float, activation_bytes: float
) -> float:
    """Return the energy of one inference of a layer.

    Weights come from DRAM once, activations from and to 1 MB of SRAM once; what a processor spends
    on instructions, and on its registers, is not in it.
    """
    arithmetic = macs * (FLOAT_MAC if is_float else INT8_MAC)
    weights = weight_bytes / ACCESS_BYTES * DRAM
    activations = activation_bytes / ACCESS_BYTES * SRAM_1MB
    return (arithmetic + weights + activations) / 1e6
