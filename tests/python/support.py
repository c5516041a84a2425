"""What several tests compare with."""

from __future__ import annotations

import os

import numpy as np

# What design.md promises of y: 4 units in the last place of float32, absolute below 1.
Y_TOLERANCE = 4 * 2.0**-24


def y_error(y: np.ndarray, want: np.ndarray) -> float:
    """Error of y against float64, in units of what is allowed: at most 1 is good."""
    return float((np.abs(y - want) / (Y_TOLERANCE * np.maximum(1, np.abs(want)))).max())


def axes(x: np.ndarray, layout: str = "channels_first") -> tuple[int, ...]:
    """The axes that statistics are taken over."""
    channel = 1 if layout == "channels_first" else x.ndim - 1
    return tuple(axis for axis in range(x.ndim) if axis != channel)


def along(values: np.ndarray, x: np.ndarray, layout: str = "channels_first") -> np.ndarray:
    """Per-channel values, shaped to broadcast with x."""
    shape = [1] * x.ndim
    shape[1 if layout == "channels_first" else -1] = len(values)
    return np.asarray(values, np.float64).reshape(shape)


def normalize(x: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float, gamma: np.ndarray | None = None,
              beta: np.ndarray | None = None, layout: str = "channels_first") -> np.ndarray:
    """The formula, in float64."""
    y = (x.astype(np.float64) - along(mean, x, layout)) / np.sqrt(along(var, x, layout) + eps)
    if gamma is not None and beta is not None:
        y = y * along(gamma, x, layout) + along(beta, x, layout)
    return y


def moments(x: np.ndarray, layout: str = "channels_first") -> tuple[np.ndarray, np.ndarray, int]:
    """Mean, population variance and number of values of each channel, in float64, in two passes."""
    wide, over = x.astype(np.float64), axes(x, layout)
    # Shifted, so that the sum of large values does not round.
    shift = wide.mean(over, keepdims=True)
    mean = shift + (wide - shift).mean(over, keepdims=True)
    var = ((wide - mean) ** 2).mean(over)
    return mean.reshape(-1), var, wide.size // len(var)


def shared_memory_of(process: int) -> list[str]:
    """Names of shared memory that a client in this process has left."""
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"normd-client-{process}-")]
