"""Weights and epsilons as the decimal numbers that were meant."""

from __future__ import annotations

from decimal import Decimal
from typing import Union

import numpy as np


def one_minus(weight: float) -> float:
    """1 - weight in decimal: 1 - 0.99 in binary is 0.010000000000000009, not the 0.01 that was meant."""
    return float(1 - Decimal(repr(float(weight))))


def shortest(value: Union[float, np.float32]) -> float:
    """The decimal number that a float32 was meant to be: 0.9 there is 0.89999998."""
    return float(str(np.float32(value)))
