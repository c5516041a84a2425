"""Presets under their frameworks' own words.

A preset is a name the server knows; these functions add settings given as that framework gives them. Only here does
`momentum` appear, and it means what the named framework means by it:

    client.create_layer("bn1", 64, preset=normd.presets.keras(momentum=0.99))   # weight 0.01 for the new batch
    client.create_layer("bn1", 64, preset=normd.presets.pytorch(momentum=0.1))  # weight 0.1 for the new batch
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

from normd._decimals import one_minus
from normd.types import Averaging


@dataclass(frozen=True)
class Preset:
    """A preset's name and the settings (keywords of Client.create_layer) that differ from it."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def reference() -> Preset:
    """running = 0.9 * running + 0.1 * batch, population variance, eps 1e-5."""
    return Preset("reference")


def pytorch(momentum: Optional[float] = 0.1, eps: float = 1e-5) -> Preset:
    """torch.nn.BatchNorm*: momentum weighs the new batch; None averages all batches; sample variance."""
    if momentum is None:
        return Preset("pytorch", {"eps": eps, "averaging": Averaging.CUMULATIVE})
    return Preset("pytorch", {"eps": eps, "update_weight": momentum})


def onnx(momentum: float = 0.9, epsilon: float = 1e-5) -> Preset:
    """ONNX BatchNormalization 14 and 15: momentum weighs the old statistics; population variance."""
    return Preset("reference", {"eps": epsilon, "update_weight": one_minus(momentum)})


def keras(momentum: float = 0.99, epsilon: float = 1e-3, *, fused: bool = False) -> Preset:
    """keras.layers.BatchNormalization: momentum weighs the old statistics. `fused`: Keras 2 on rank 4."""
    return Preset("keras_fused" if fused else "keras", {"eps": epsilon, "update_weight": one_minus(momentum)})


def flax(momentum: float = 0.99, epsilon: float = 1e-5) -> Preset:
    """flax.linen.BatchNorm: momentum weighs the old statistics."""
    return Preset("flax", {"eps": epsilon, "update_weight": one_minus(momentum)})


def haiku(decay_rate: float, eps: float = 1e-5) -> Preset:
    """haiku.BatchNorm: decay_rate weighs the old statistics, and the start's weight is removed (zero-debias)."""
    return Preset("haiku", {"eps": eps, "update_weight": one_minus(decay_rate)})


def standard_scaler() -> Preset:
    """sklearn.preprocessing.StandardScaler.partial_fit: exact mean and variance of everything seen."""
    return Preset("standard_scaler")


def rl_observation(clip: float = 10.0, epsilon: float = 1e-8) -> Preset:
    """Stable-Baselines3's VecNormalize: exact statistics of everything seen, folded in first, clipped."""
    return Preset("rl_observation", {"clip": clip, "eps": epsilon})
