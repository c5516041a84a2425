"""Batch norms of ONNX models and Keras, and running statistics of Stable-Baselines3, as layers.

PyTorch's stand in normd.state_dict.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from normd._importing import (Array, Found, ImportedLayer, ImportReport, NegativeVariance, OnExisting, layer_name, store,
                              values, variances)
from normd.client import Client
from normd.types import LayerState

__all__ = ["ImportReport", "ImportedLayer", "import_keras", "import_onnx", "import_running_mean_std"]


def import_onnx(client: Client, model: Any, *, prefix: str = "", negative_variance: NegativeVariance = "error",
                on_existing: OnExisting = "error") -> ImportReport:
    """Makes a layer of every BatchNormalization node whose scale, B, mean and variance are initialisers.

    A layer is named by its node ("/a/bn:0" is a.bn_0) or, if that has no name, by its scale's initialiser without
    ".weight". ONNX's momentum
    weighs the old value: update_weight is 1 minus it. The variance is the population's (opset 14 and later). Needs the
    package onnx. Everything is checked before the first layer is made.

    Args:
        model: onnx.ModelProto, or the path of one.

    Raises:
        ValueError: no such node, or as normd.state_dict.import_state_dict.
        AlreadyExistsError: a layer exists and on_existing is "error"; no layer was made.
    """
    import onnx
    from onnx import numpy_helper

    if isinstance(model, (str, os.PathLike)):
        model = onnx.load(os.fspath(model))
    arrays: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    found = []
    left_out = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        inputs = list(node.input[1:5])
        if len(inputs) != 4 or any(name not in arrays for name in inputs):
            left_out.append(f"node {node.name!r} with computed parameters")
            continue
        scale, bias, mean, var = inputs
        attributes = {one.name: one.f for one in node.attribute}
        stem = node.name or scale.removesuffix(".weight")
        remarks: list[str] = []
        running_mean = values(arrays, mean)
        length = len(running_mean)
        state = LayerState(running_mean=running_mean,
                           running_var=variances(arrays, var, length, negative_variance, remarks),
                           gamma=values(arrays, scale, length), beta=values(arrays, bias, length))
        momentum = attributes.get("momentum", 0.9)
        remarks.append(f"momentum {momentum:g} of the old value")
        # Attributes are float32: 0.9 there is 0.89999998.
        found.append(Found(layer_name(prefix, _segments(stem)), state, tuple(inputs), _shortest(attributes.get("epsilon", 1e-5)),
                           1 - _shortest(momentum), remarks, preset="reference"))
    if not found:
        raise ValueError("the model has no BatchNormalization node whose parameters are initialisers")
    return store(client, found, [*arrays, *left_out], on_existing)


def import_keras(client: Client, name: str, weights: Sequence[npt.ArrayLike], *, momentum: float = 0.99,
                 eps: float = 1e-3, scale: bool = True, center: bool = True, fused: bool = False,
                 negative_variance: NegativeVariance = "error", on_existing: OnExisting = "error") -> ImportReport:
    """Makes a layer of what a Keras BatchNormalization's get_weights() returns.

    Args:
        weights: gamma (with scale), beta (with center), moving_mean, moving_variance, in this order.
        momentum: Keras's, the weight of the old value: update_weight is 1 minus it.
        fused: the layer was trained with Keras's fused kernel, whose moving variance is the sample variance.

    Raises:
        ValueError: another number of arrays, or as normd.state_dict.import_state_dict.
        AlreadyExistsError: the layer exists and on_existing is "error".
    """
    names = [*(["gamma"] if scale else []), *(["beta"] if center else []), "moving_mean", "moving_variance"]
    if len(weights) != len(names):
        raise ValueError(f"{name}: there are {len(weights)} arrays, want {len(names)}: {', '.join(names)}")
    arrays = {key: np.asarray(array) for key, array in zip(names, weights)}
    remarks = [f"momentum {momentum:g} of the old value"]
    mean = values(arrays, "moving_mean")
    length = len(mean)
    affine = scale or center
    state = LayerState(running_mean=mean,
                       running_var=variances(arrays, "moving_variance", length, negative_variance, remarks),
                       gamma=values(arrays, "gamma", length, default=1) if affine else np.empty(0),
                       beta=values(arrays, "beta", length, default=0) if affine else np.empty(0))
    one = Found(name, state, tuple(names), eps, 1 - momentum, remarks, preset="keras_fused" if fused else "keras")
    return store(client, [one], arrays, on_existing)


def import_running_mean_std(client: Client, name: str, statistics: Any, *, eps: float = 1e-8, clip: float = 10.0,
                            on_existing: OnExisting = "error") -> ImportReport:
    """Makes an observation normalizer's layer of Stable-Baselines3's or Gym's RunningMeanStd, or anything alike.

    VecNormalize keeps it as `obs_rms`. The way back is RunningNormalizer.obs_rms.

    Args:
        statistics: has `mean` and `var` of any one shape, whose values are the channels, and `count`.
        eps: VecNormalize's epsilon.
        clip: VecNormalize's clip_obs.

    Raises:
        ValueError: as normd.state_dict.import_state_dict, and for a count that is not above 0.
        AlreadyExistsError: the layer exists and on_existing is "error".
    """
    count = float(statistics.count)
    if not 0 < count < np.inf:
        raise ValueError(f"{name}: count is {count}, want a finite number above 0")
    arrays = {"mean": np.ravel(np.asarray(statistics.mean)), "var": np.ravel(np.asarray(statistics.var))}
    mean = values(arrays, "mean")
    var = variances(arrays, "var", len(mean), "error", [])
    state = LayerState(running_mean=mean, running_var=var, sample_count=np.full(len(mean), count))
    one = Found(name, state, ("mean", "var", "count"), eps, None, [f"{count:g} values"], preset="rl_observation",
                settings={"clip": clip})
    return store(client, [one], arrays, on_existing)


def _segments(name: str) -> str:
    """An ONNX name as a dotted path: slashes and other characters become dots and _."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name.strip("/").replace("/", "."))


def _shortest(value: Union[float, np.float32]) -> float:
    """The decimal number that a float32 was meant to be."""
    return float(str(np.float32(value)))
