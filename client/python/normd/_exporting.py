"""What the exporters share: layers read and checked, numbers in a framework's words, and the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Optional

import numpy as np
import numpy.typing as npt

from normd._decimals import one_minus
from normd.client import Client
from normd.errors import Code, NotFoundError
from normd.types import Averaging, Float64Array, Layer, LayerConfig, LayerState, TrainingStatistics, VarianceEstimator

Array = npt.NDArray[Any]
OnMissing = Literal["error", "skip"]
Estimator = Literal["keep", "convert"]


@dataclass(frozen=True)
class ExportedLayer:
    """One layer and where it went."""

    name: str
    version: int
    num_channels: int
    # What it was written to, in the framework's words.
    target: str
    # What was written.
    keys: tuple[str, ...]
    eps: float
    # As the framework means it; None: it has none.
    momentum: Optional[float]
    # What was converted, and what of the layer the framework has no place for.
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        momentum = "no momentum" if self.momentum is None else f"momentum {self.momentum:g}"
        return "; ".join([f"{self.name}: version {self.version}, {self.num_channels} channels, to {self.target}, "
                          f"eps {self.eps:g}, {momentum}", *self.remarks])


@dataclass(frozen=True)
class ExportReport:
    """What an export has done. str() is for people."""

    layers: tuple[ExportedLayer, ...]
    # Batch norms of the target that were left as they were.
    left_alone: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = f", {len(self.left_alone)} batch norms left alone" if self.left_alone else ""
        return "\n".join([f"{len(self.layers)} layers{left}", *(f"  {layer}" for layer in self.layers)])


def read_layers(client: Client, names: Iterable[str], on_missing: OnMissing) -> dict[str, Layer]:
    """The layers of these names, with their state.

    Raises:
        NotFoundError: one does not exist, unless on_missing is "skip"; or none does.
    """
    if on_missing not in ("error", "skip"):
        raise ValueError(f"on_missing is {on_missing!r}, want 'error' or 'skip'")
    found: dict[str, Layer] = {}
    missing = []
    for name in names:
        try:
            found[name] = client.get_layer(name)
        except NotFoundError:
            missing.append(name)
    if missing and (on_missing == "error" or not found):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise NotFoundError(Code.NOT_FOUND, f"{len(missing)} of {len(missing) + len(found)} layers do not exist ({shown}): "
                                            "nothing was written; give another prefix, or on_missing=\"skip\"")
    return found


def state_of(layer: Layer) -> LayerState:
    """The state of a layer with running statistics, whose numbers are all finite."""
    if not layer.config.track_running_stats:
        raise ValueError(f"{layer.name} keeps no running statistics (track_running_stats is False), want a layer that does")
    return finite_state(layer)


def finite_state(layer: Layer) -> LayerState:
    """The state of a layer, whose numbers are all finite."""
    state = layer.state
    assert state is not None
    for what in ("running_mean", "running_var", "gamma", "beta"):
        array = getattr(state, what)
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise ValueError(f"{layer.name}: {what}[{bad[0]}] is {array[bad[0]]} ({bad.size} such channels), want finite "
                             "numbers: reset_statistics or set_state mends a layer")
    return state


def gamma_and_beta(layer: Layer, remarks: list[str]) -> tuple[Float64Array, Float64Array]:
    """What a target with both gets: ones and zeros of a layer that has none."""
    state = layer.state
    assert state is not None
    if layer.config.affine:
        return state.gamma, state.beta
    remarks.append("the layer is not affine: gamma 1, beta 0")
    return np.ones(layer.config.num_channels), np.zeros(layer.config.num_channels)


def check_identity(layer: Layer, target: str, *, gamma: bool = True, beta: bool = True) -> None:
    """Raises unless the layer does without the gamma and beta that its target has no place for."""
    state = layer.state
    assert state is not None
    for what, array, lacking, want in (("gamma", state.gamma, gamma, 1), ("beta", state.beta, beta, 0)):
        bad = np.flatnonzero(array != want)
        if lacking and bad.size:
            raise ValueError(f"{layer.name}: {what}[{bad[0]}] is {array[bad[0]]:g}, but {target} has no {what}: want "
                             f"{want} in all channels")


def variance(layer: Layer, want: VarianceEstimator, estimator: Estimator, target: str, remarks: list[str]) -> Float64Array:
    """running_var, and which variance it is.

    It stays the number that normalizes on the server, or becomes the variance that the target's own updates yield: by
    the count, which is exact on a pooled layer. In any other average each batch was divided by a count of its own.
    """
    if estimator not in ("keep", "convert"):
        raise ValueError(f"estimator is {estimator!r}, want 'keep' or 'convert'")
    state = layer.state
    assert state is not None
    have = layer.config.running_var_estimator
    if have == want:
        return state.running_var
    names = {VarianceEstimator.POPULATION: "population (over n)", VarianceEstimator.SAMPLE: "sample (over n - 1)"}
    if estimator == "keep":
        remarks.append(f"running_var is that of the {names[have]}, kept as it is; {target}'s own is of the {names[want]}")
        return state.running_var
    if layer.config.averaging is not Averaging.POOLED:
        raise ValueError(f"{layer.name}: running_var is that of the {names[have]}, which an average "
                         f"({layer.config.averaging.name.lower()}) cannot change into that of the {names[want]}: want a "
                         "pooled layer, or estimator=\"keep\"")
    count = state.sample_count
    few = np.flatnonzero(count <= 1)
    if few.size:
        raise ValueError(f"{layer.name}: sample_count[{few[0]}] is {count[few[0]]:g}, want above 1 to convert running_var")
    remarks.append(f"running_var converted from {names[have]} to {names[want]}")
    converted: Float64Array = state.running_var * (count / (count - 1) if want == VarianceEstimator.SAMPLE
                                                   else (count - 1) / count)
    return converted


def old_weight(config: LayerConfig, target: str, remarks: list[str]) -> Optional[float]:
    """The momentum of frameworks where it weighs the old value; None: the layer's average has none."""
    if config.update_weight is None:
        remarks.append(f"{config.averaging.name.lower()} average, which {target} does not have: no momentum")
        return None
    momentum = one_minus(config.update_weight)
    remarks.append(f"momentum {momentum:g} of the old value (update_weight {config.update_weight:g})")
    return momentum


def remark_on_rest(layer: Layer, target: str, remarks: list[str]) -> None:
    """What of the layer a plain batch norm has no place for."""
    config = layer.config
    if config.averaging is Averaging.EXPONENTIAL_DEBIASED:
        remarks.append(f"{target}'s average is not debiased")
    if config.normalize_training_with is not TrainingStatistics.BATCH:
        remarks.append(f"training normalizes with running statistics here, with the batch's in {target}")
    if config.clip is not None:
        remarks.append(f"clip {config.clip:g} is lost")
    if layer.state is not None and layer.state.skipped_batches.any():
        remarks.append("skipped_batches is lost")


def rounded(layer: Layer, what: str, exact: Float64Array, dtype: npt.DTypeLike) -> Array:
    """The values in the target's type.

    Raises:
        ValueError: one is too large for it.
    """
    with np.errstate(over="ignore"):
        array: Array = exact.astype(dtype)
    check_size(layer, what, exact, bool(np.isfinite(array).all()), np.dtype(dtype))
    return array


def check_size(layer: Layer, what: str, exact: Float64Array, fits: bool, dtype: object) -> None:
    """Raises unless all values fit."""
    if not fits:
        raise ValueError(f"{layer.name}: {what} has values up to {np.abs(exact).max():g}, too large for {dtype}")


def single_precision_eps(layer: Layer, var: Array) -> float:
    """eps where the target keeps it in float32, which must keep the square root above 0."""
    eps = layer.config.eps
    if np.float32(eps) == 0 and not (var > 0).all():
        raise ValueError(f"{layer.name}: eps {eps:g} is 0 in float32, and running_var is 0 in channel "
                         f"{np.flatnonzero(~(var > 0))[0]}: want a larger eps (update_layer)")
    return eps
