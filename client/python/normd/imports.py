"""Batch norms of ONNX models and Keras, and running statistics of Stable-Baselines3, as layers.

PyTorch's stand in normd.state_dict, the way back in normd.exports.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from normd._decimals import one_minus
from normd._importing import (Array, Found, ImportedLayer, ImportReport, NegativeVariance, OnExisting, store, values,
                              variances)
from normd._onnx import batch_norm_nodes
from normd.client import Client
from normd.types import LayerState

__all__ = ["ImportReport", "ImportedLayer", "import_keras", "import_onnx", "import_running_mean_std"]


def import_onnx(client: Client, model: Any, *, prefix: str = "", negative_variance: NegativeVariance = "error",
                on_existing: OnExisting = "error", progress: bool = False) -> ImportReport:
    """Makes a layer of every BatchNormalization node whose scale, B, mean and variance are initialisers.

    A layer is named by its node ("/a/bn:0" is a.bn_0) or, if that has no name, by its scale's initialiser without
    ".weight". ONNX's momentum weighs the old value: update_weight is 1 minus it. The variance is the population's
    (opset 14 and later). Needs the package onnx. Everything is checked before the first layer is made.

    Args:
        model: onnx.ModelProto, or the path of one.
        progress: show how far it is, if tqdm is installed.

    Raises:
        ValueError: no such node, or as normd.state_dict.import_state_dict.
        AlreadyExistsError: a layer exists and on_existing is "error"; no layer was made.
    """
    import onnx
    from onnx import numpy_helper

    if isinstance(model, (str, os.PathLike)):
        model = onnx.load(os.fspath(model))
    arrays: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    nodes, left_out = batch_norm_nodes(model, prefix)
    found = []
    for one in nodes:
        scale, bias, mean, var = one.inputs
        remarks: list[str] = []
        running_mean = values(arrays, mean)
        length = len(running_mean)
        state = LayerState(running_mean=running_mean,
                           running_var=variances(arrays, var, length, negative_variance, remarks),
                           gamma=values(arrays, scale, length), beta=values(arrays, bias, length))
        remarks.append(f"momentum {one.momentum:g} of the old value")
        found.append(Found(one.layer, state, one.inputs, one.epsilon, one_minus(one.momentum), remarks,
                           preset="reference"))
    return store(client, found, [*arrays, *left_out], on_existing, progress)


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
    one = Found(name, state, tuple(names), eps, one_minus(momentum), remarks, preset="keras_fused" if fused else "keras")
    return store(client, [one], arrays, on_existing)


def import_running_mean_std(client: Client, name: str, statistics: Any, *, eps: float = 1e-8, clip: float = 10.0,
                            on_existing: OnExisting = "error") -> ImportReport:
    """Makes an observation normalizer's layer of Stable-Baselines3's or Gym's RunningMeanStd, or anything alike.

    VecNormalize keeps it as `obs_rms`. The way back is normd.exports.export_running_mean_std.

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
