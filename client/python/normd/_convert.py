"""Our values <-> messages of normd.v1. Tensors: _tensors.py."""

from __future__ import annotations

import datetime
from typing import Any, Iterable, Optional, Sequence, Union

import numpy as np

# Any to mypy: see pyproject.toml.
from normd.v1 import normalization_service_pb2, resources_pb2
from normd.moments import Moments
from normd.types import (Adam, Averaging, Float64Array, FloatArray, Int64Array, Layer, LayerConfig, LayerState,
                         MergeMomentsResult, NonFinitePolicy, Optimizer, SGD, Snapshot, TrainingStatistics,
                         VarianceEstimator)

_ENUMS = {"averaging": Averaging, "running_var_estimator": VarianceEstimator,
          "normalize_training_with": TrainingStatistics, "non_finite_policy": NonFinitePolicy}
SETTINGS = ("eps", "averaging", "update_weight", "running_var_estimator", "normalize_training_with", "affine",
            "track_running_stats", "clip", "non_finite_policy", "frozen")

# One value per channel, in any form that NumPy reads.
PerChannel = Union[Sequence[float], FloatArray]


def per_channel(values: Iterable[float]) -> Float64Array:
    """A repeated double field as an array of its own."""
    return np.array(values, np.float64)


def indices(values: Iterable[int]) -> Int64Array:
    """A repeated int64 field as an array of its own."""
    return np.array(values, np.int64)


def to_doubles(values: Optional[PerChannel], what: str) -> Optional[Float64Array]:
    """One value per channel for a repeated double field; None stays None."""
    if values is None:
        return None
    array = np.asarray(values)
    if array.ndim != 1 or not (array.size == 0 or np.issubdtype(array.dtype, np.number)):
        raise ValueError(f"{what} has shape {array.shape} and dtype {array.dtype}, want one number per channel")
    return array.astype(np.float64)


def to_config(num_channels: Optional[int], settings: dict[str, Any]) -> Any:
    """A LayerConfig message. Enums are given as members or as their names in any case."""
    config = resources_pb2.LayerConfig()
    if num_channels is not None:
        config.num_channels = num_channels
    for name, value in settings.items():
        if name not in SETTINGS:
            raise TypeError(f"unknown setting {name!r}, want one of: {', '.join(SETTINGS)}")
        if value is None:
            continue
        if name in _ENUMS:
            value = to_enum(name, value)
        setattr(config, name, value)
    return config


def to_enum(name: str, value: Any) -> int:
    """The enum value of a setting, from a member or a name."""
    kind = _ENUMS[name]
    if isinstance(value, str):
        try:
            return int(kind[value.upper()])
        except KeyError:
            pass
    elif isinstance(value, kind):
        return int(value)
    raise ValueError(f"{name} is {value!r}, want one of: {', '.join(member.name.lower() for member in kind)}")


def from_config(config: Any) -> LayerConfig:
    """A LayerConfig of ours."""
    return LayerConfig(
        num_channels=config.num_channels,
        eps=config.eps,
        averaging=Averaging(config.averaging),
        update_weight=config.update_weight if config.HasField("update_weight") else None,
        running_var_estimator=VarianceEstimator(config.running_var_estimator),
        normalize_training_with=TrainingStatistics(config.normalize_training_with),
        affine=config.affine,
        track_running_stats=config.track_running_stats,
        clip=config.clip if config.HasField("clip") else None,
        non_finite_policy=NonFinitePolicy(config.non_finite_policy),
        frozen=config.frozen)


def to_state(state: LayerState) -> Any:
    """A LayerState message."""
    return resources_pb2.LayerState(
        running_mean=to_doubles(state.running_mean, "running_mean"),
        running_var=to_doubles(state.running_var, "running_var"),
        sample_count=to_doubles(state.sample_count, "sample_count"),
        num_batches_tracked=state.num_batches_tracked,
        skipped_batches=[int(count) for count in state.skipped_batches],
        gamma=to_doubles(state.gamma, "gamma"),
        beta=to_doubles(state.beta, "beta"))


def from_state(state: Any) -> LayerState:
    """A LayerState of ours."""
    return LayerState(
        running_mean=per_channel(state.running_mean),
        running_var=per_channel(state.running_var),
        sample_count=per_channel(state.sample_count),
        num_batches_tracked=state.num_batches_tracked,
        skipped_batches=indices(state.skipped_batches),
        gamma=per_channel(state.gamma),
        beta=per_channel(state.beta),
        inv_std=per_channel(state.inv_std))


def from_layer(layer: Any) -> Layer:
    """A Layer of ours."""
    return Layer(
        name=layer.name, uid=layer.uid, preset=layer.preset, config=from_config(layer.config),
        state=from_state(layer.state) if layer.HasField("state") else None,
        version=layer.version, content_hash=layer.content_hash, etag=layer.etag,
        create_time=layer.create_time.ToDatetime(datetime.timezone.utc),
        update_time=layer.update_time.ToDatetime(datetime.timezone.utc), affine_group=layer.affine_group)


def from_snapshot(snapshot: Any) -> Snapshot:
    """A Snapshot of ours."""
    return Snapshot(name=snapshot.name, layer=snapshot.layer, prefix=snapshot.prefix, num_layers=snapshot.num_layers,
                    create_time=snapshot.create_time.ToDatetime(datetime.timezone.utc))


def set_optimizer(request: Any, optimizer: Optional[Optimizer]) -> None:
    """Fills BackwardRequest.optimizer."""
    if optimizer is None:
        return
    if isinstance(optimizer, SGD):
        request.sgd.CopyFrom(normalization_service_pb2.Sgd(
            learning_rate=optimizer.learning_rate, momentum=optimizer.momentum, dampening=optimizer.dampening,
            nesterov=optimizer.nesterov, weight_decay=optimizer.weight_decay))
    elif isinstance(optimizer, Adam):
        request.adam.CopyFrom(normalization_service_pb2.Adam(
            learning_rate=optimizer.learning_rate, beta1=optimizer.beta1, beta2=optimizer.beta2, eps=optimizer.eps,
            weight_decay=optimizer.weight_decay, decoupled_weight_decay=optimizer.decoupled_weight_decay))
    else:
        raise TypeError(f"optimizer is {optimizer!r}, want normd.SGD, normd.Adam or normd.AdamW")


def to_moments(moments: Moments) -> Any:
    """A Moments message."""
    return normalization_service_pb2.Moments(
        count=moments.count, mean=moments.mean, m2=moments.m2, min=moments.min, max=moments.max,
        non_finite_count=moments.non_finite_count)


def from_merge(answer: Any) -> MergeMomentsResult:
    """The value of a MergeMomentsResponse."""
    return MergeMomentsResult(
        version=answer.version, content_hash=answer.content_hash, running_mean=per_channel(answer.running_mean),
        running_var=per_channel(answer.running_var), sample_count=per_channel(answer.sample_count),
        num_batches_tracked=answer.num_batches_tracked, replayed=answer.replayed)
