"""What the importers share: checked batch norms, layers made of them, and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import numpy as np
import numpy.typing as npt

from normd.client import Client
from normd.errors import AlreadyExistsError, Code, NotFoundError
from normd.types import LayerState

Array = npt.NDArray[Any]
OnExisting = Literal["error", "skip", "overwrite"]
NegativeVariance = Literal["error", "clamp"]


@dataclass(frozen=True)
class ImportedLayer:
    """One batch norm and what became of it."""

    name: str
    num_channels: int
    eps: float
    # Weight of the new batch; None: every batch (cumulative) or value (pooled) weighs the same.
    update_weight: Optional[float]
    preset: str
    # Where its numbers came from.
    keys: tuple[str, ...]
    # "created", "overwritten" or "skipped".
    outcome: str
    # What was missing and which default was taken, what was clamped.
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        weight = "equal weights" if self.update_weight is None else f"update_weight {self.update_weight:g}"
        return "; ".join([f"{self.name}: {self.outcome}, {self.num_channels} channels, preset {self.preset}, "
                          f"eps {self.eps:g}, {weight}", *self.remarks])


@dataclass(frozen=True)
class ImportReport:
    """What an import has done. str() is for people."""

    layers: tuple[ImportedLayer, ...]
    # Names of arrays that belong to no batch norm.
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        left_out = f", {len(self.ignored)} other keys left out" if self.ignored else ""
        return "\n".join([f"{len(self.layers)} batch norms{left_out}", *(f"  {layer}" for layer in self.layers)])


@dataclass
class Found:
    """A batch norm, checked."""

    name: str
    state: LayerState
    # Where its numbers came from.
    keys: tuple[str, ...]
    eps: float
    # Weight of the new batch; None: the averaging needs none.
    update_weight: Optional[float]
    remarks: list[str] = field(default_factory=list)
    preset: str = "pytorch"
    # Other settings.
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def num_channels(self) -> int:
        return len(self.state.running_mean)


def values(arrays: Mapping[str, Array], key: str, length: Optional[int] = None, default: Optional[float] = None,
           ) -> npt.NDArray[np.float64]:
    """A list of finite numbers in float64."""
    if key not in arrays and default is not None and length is not None:
        return np.full(length, float(default))
    array = np.asarray(arrays[key])
    if array.dtype.kind != "f" or array.ndim != 1 or (length is not None and len(array) != length):
        want = "a list" if length is None else f"{length} values, as many as the mean has,"
        raise ValueError(f"{key} has shape {array.shape} and dtype {array.dtype}, want {want} of floating-point numbers")
    values = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"{key}[{bad[0]}] is {values[bad[0]]} ({bad.size} such channels), want finite numbers")
    return values


def variances(arrays: Mapping[str, Array], key: str, length: int, negative_variance: NegativeVariance,
              remarks: list[str]) -> npt.NDArray[np.float64]:
    """A list of finite numbers of 0 or more."""
    var = values(arrays, key, length)
    negative = np.flatnonzero(var < 0)
    if negative.size and negative_variance == "error":
        raise ValueError(f"{key}[{negative[0]}] is {var[negative[0]]:g} ({negative.size} such channels), want a "
                         "variance of 0 or more, or negative_variance=\"clamp\"")
    if negative.size:
        remarks.append(f"{negative.size} negative variances became 0")
    return np.maximum(var, 0)


def store(client: Client, found: Sequence[Found], arrays: Iterable[str], on_existing: OnExisting) -> ImportReport:
    existing = {one.name for one in found if _exists(client, one.name)}
    if existing and on_existing == "error":
        names = ", ".join(sorted(existing)[:3])
        raise AlreadyExistsError(
            Code.ALREADY_EXISTS, f"{len(existing)} of {len(found)} layers exist already ({names}, ...): nothing was made; "
                                 "skip or overwrite them, or give another prefix")
    layers = []
    for one in found:
        outcome = "created"
        if one.name in existing and on_existing == "skip":
            outcome = "skipped"
        elif one.name in existing:
            client.set_state(one.name, one.state, reset_optimizer=True)
            outcome = "overwritten"
        else:
            settings: dict[str, Any] = {"eps": one.eps, "affine": one.state.gamma.size > 0, **one.settings}
            if one.update_weight is not None:
                settings["update_weight"] = one.update_weight
            client.create_layer(one.name, one.num_channels, one.preset, initial_state=one.state, **settings)
        layers.append(ImportedLayer(one.name, one.num_channels, one.eps, one.update_weight, one.preset, one.keys,
                                    outcome, tuple(one.remarks)))
    used = {key for one in found for key in one.keys}
    return ImportReport(tuple(layers), tuple(key for key in arrays if key not in used))


def _exists(client: Client, name: str) -> bool:
    try:
        client.get_layer(name, with_state=False)
    except NotFoundError:
        return False
    return True
