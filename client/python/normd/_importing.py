"""What the importers share: checked batch norms, layers made of them, and the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import numpy as np
import numpy.typing as npt

from normd import _progress
from normd.client import Client
from normd.errors import AlreadyExistsError, Code, NotFoundError
from normd.types import Layer, LayerConfig, LayerState

Array = npt.NDArray[Any]
OnExisting = Literal["error", "skip", "overwrite"]
NegativeVariance = Literal["error", "clamp"]

# As the server has it.
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_MAX_NAME_BYTES = 256


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


def layer_name(prefix: str, name: str) -> str:
    """The layer's name for a batch norm, which may have none itself."""
    check_prefix(prefix)
    full = prefix + name if name else prefix[:-1]
    if not full:
        raise ValueError("a batch norm has no name: want a prefix to name its layer")
    if not _NAME.fullmatch(full) or len(full) > _MAX_NAME_BYTES:
        raise ValueError(f"{full!r} cannot be a layer's name: want segments of letters, digits, _ and - with dots between "
                         f"them, {_MAX_NAME_BYTES} bytes at most")
    return full


def check_prefix(prefix: str) -> None:
    """Raises unless a prefix takes whole segments of a name."""
    if prefix and not prefix.endswith("."):
        raise ValueError(f"the prefix is {prefix!r}, want one that ends with a dot")


def store(client: Client, found: Sequence[Found], arrays: Iterable[str], on_existing: OnExisting,
          progress: bool = False) -> ImportReport:
    """Makes the layers, after a look at all of those that exist already."""
    names = [one.name for one in found]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"several batch norms have the name {min(repeated)!r}")
    existing = {one.name: layer for one in _progress.shown(found, progress, "looking")
                if (layer := _existing(client, one.name)) is not None}
    if existing and on_existing == "error":
        shown = ", ".join(sorted(existing)[:3])
        raise AlreadyExistsError(
            Code.ALREADY_EXISTS, f"{len(existing)} of {len(found)} layers exist already ({shown}, ...): nothing was made; "
                                 "skip or overwrite them, or give another prefix")
    if on_existing == "overwrite":
        for one in found:
            if one.name in existing:
                _check_fits(one, existing[one.name].config)
    layers = []
    for one in _progress.shown(found, progress, "storing"):
        if one.name not in existing:
            outcome, layer = "created", _create(client, one)
        elif on_existing == "skip":
            outcome, layer = "skipped", existing[one.name]
        else:
            outcome, layer = "overwritten", client.set_state(one.name, one.state, reset_optimizer=True)
        layers.append(ImportedLayer(one.name, layer.config.num_channels, layer.config.eps, layer.config.update_weight,
                                    layer.preset, one.keys, outcome, tuple(one.remarks)))
    used = {key for one in found for key in one.keys}
    return ImportReport(tuple(layers), tuple(key for key in arrays if key not in used))


def _create(client: Client, one: Found) -> Layer:
    settings: dict[str, Any] = {"eps": one.eps, "affine": one.state.gamma.size > 0, **one.settings}
    if one.update_weight is not None:
        settings["update_weight"] = one.update_weight
    return client.create_layer(one.name, one.num_channels, one.preset, initial_state=one.state, **settings)


def _check_fits(one: Found, config: LayerConfig) -> None:
    affine = one.state.gamma.size > 0
    if config.num_channels != one.num_channels or config.affine != affine or not config.track_running_stats:
        raise ValueError(f"{one.name} has {config.num_channels} channels, affine {config.affine} and track_running_stats "
                         f"{config.track_running_stats} on the server, want {one.num_channels}, {affine} and True")


def _existing(client: Client, name: str) -> Optional[Layer]:
    try:
        return client.get_layer(name, with_state=False)
    except NotFoundError:
        return None
