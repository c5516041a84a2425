"""Layers as batch norms of ONNX models and Keras, and as running statistics of Stable-Baselines3.

PyTorch's stand in normd.state_dict (export_module, export_state_dict), the way in is normd.imports. Each function
checks everything before it writes anything, and its report says what was converted: momentum, the variance's
estimator, and what of a layer the framework has no place for.

running_var stays the number that the server normalizes with (estimator="keep"), so that the framework's inference gives
what infer() gives, whatever its own training would divide by; the report says which variance it is. With "convert" it
becomes the framework's own: exactly, by sample_count, on pooled layers; others are refused.
"""

from __future__ import annotations

import os
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from normd._exporting import (Array, Estimator, ExportedLayer, ExportReport, OnMissing, check_identity, gamma_and_beta,
                              old_weight, read_layers, remark_on_rest, rounded, single_precision_eps, state_of, variance)
from normd._onnx import BatchNormNode, batch_norm_nodes
from normd.client import Client
from normd.types import Averaging, Layer, VarianceEstimator

__all__ = ["ExportReport", "ExportedLayer", "export_keras", "export_onnx", "export_running_mean_std"]


def export_onnx(client: Client, model: Any, *, prefix: str = "", output: Union[str, "os.PathLike[str]", None] = None,
                estimator: Estimator = "keep", on_missing: OnMissing = "error") -> ExportReport:
    """Writes layers into the initialisers of a model's BatchNormalization nodes, and into their epsilon and momentum.

    Each node takes the layer that imports.import_onnx would make of it. Initialisers keep their type and shape. A node
    whose layer has no update_weight (pooled, cumulative) keeps its momentum. Needs the package onnx.

    Args:
        model: onnx.ModelProto, which is changed; or the path of one, which is changed unless `output` is given.
        prefix: put before each node's name.
        output: path of the changed model; a ModelProto is saved only if there is one.
        estimator: see the module.
        on_missing: what to do with a node without a layer: refuse, or leave it alone.

    Raises:
        ValueError: no such node; a layer does not fit its node; an initialiser that other nodes read, too.
        NotFoundError: a layer is missing and on_missing is "error", or all are.
    """
    import onnx
    from onnx import numpy_helper

    if isinstance(model, (str, os.PathLike)):
        output = model if output is None else output
        model = onnx.load(os.fspath(model))
    nodes, _ = batch_norm_nodes(model, prefix)
    names = [one.layer for one in nodes]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"several batch norms have the name {min(repeated)!r}")
    layers = read_layers(client, names, on_missing)
    nodes = [one for one in nodes if one.layer in layers]
    initialisers = {one.name: one for one in model.graph.initializer}
    _check_own(model, nodes)
    written: dict[str, Array] = {}
    exported = []
    for one in nodes:
        layer, remarks = layers[one.layer], list[str]()
        state = state_of(layer)
        gamma, beta = gamma_and_beta(layer, remarks)
        var = variance(layer, VarianceEstimator.POPULATION, estimator, "ONNX", remarks)
        for key, exact in zip(one.inputs, (gamma, beta, state.running_mean, var)):
            old = numpy_helper.to_array(initialisers[key])
            if initialisers[key].data_type == onnx.TensorProto.BFLOAT16 or old.dtype.kind != "f" or old.shape != exact.shape:
                kind = onnx.TensorProto.DataType.Name(initialisers[key].data_type)
                raise ValueError(f"{layer.name}: initialiser {key!r} of {one.label} has shape {old.shape} and type {kind}, "
                                 f"want {exact.shape} of FLOAT16, FLOAT or DOUBLE")
            array = rounded(layer, key, exact, old.dtype)
            if key in written and not np.array_equal(written[key], array):
                raise ValueError(f"initialiser {key!r} belongs to several nodes, whose layers differ: {one.label} has "
                                 f"{layer.name}")
            written[key] = array
        eps = single_precision_eps(layer, written[one.inputs[3]])
        momentum = old_weight(layer.config, "ONNX", remarks)
        remark_on_rest(layer, "ONNX", remarks)
        if momentum is None:
            momentum = one.momentum
        remarks += [f"{key} {before:g} -> {after:g}" for key, before, after in
                    (("epsilon", one.epsilon, eps), ("momentum", one.momentum, momentum)) if before != after]
        exported.append(ExportedLayer(layer.name, layer.version, layer.config.num_channels, one.label, one.inputs, eps,
                                      momentum, tuple(remarks)))
    # From here on nothing fails but the disk.
    for key, array in written.items():
        initialisers[key].CopyFrom(numpy_helper.from_array(array, key))
    for one, done in zip(nodes, exported):
        for key, before, after in (("epsilon", one.epsilon, done.eps), ("momentum", one.momentum, done.momentum)):
            if before != after:
                _set_attribute(onnx, one.node, key, after)
    if output is not None:
        _save(onnx, model, os.fspath(output))
    return ExportReport(tuple(exported), tuple(name for name in names if name not in layers))


def export_keras(client: Client, name: str, *, scale: bool = True, center: bool = True, fused: bool = False,
                 dtype: npt.DTypeLike = np.float32, estimator: Estimator = "keep") -> tuple[list[Array], ExportReport]:
    """What a Keras BatchNormalization's set_weights() takes, and the report with its momentum and eps.

        >>> weights, report = export_keras(client, "net.bn1")
        >>> layer = keras.layers.BatchNormalization(momentum=report.layers[0].momentum, epsilon=report.layers[0].eps)
        >>> layer.build(shape)
        >>> layer.set_weights(weights)

    Args:
        scale, center: as the Keras layer has them: whether gamma and beta are among the weights.
        fused: the layer trains with Keras's fused kernel, whose moving variance is the sample variance.
        dtype: of the arrays.
        estimator: see the module.

    Returns:
        gamma (with scale), beta (with center), moving_mean, moving_variance, in this order.

    Raises:
        ValueError: the layer keeps no statistics, or has a gamma or beta that Keras's layer does not.
        NotFoundError: there is no such layer.
    """
    layer = client.get_layer(name)
    remarks: list[str] = []
    check_identity(layer, "Keras's layer", gamma=not scale, beta=not center)
    state = state_of(layer)
    gamma, beta = gamma_and_beta(layer, remarks) if scale or center else (np.empty(0), np.empty(0))
    want = VarianceEstimator.SAMPLE if fused else VarianceEstimator.POPULATION
    var = variance(layer, want, estimator, "Keras", remarks)
    parts = {**({"gamma": gamma} if scale else {}), **({"beta": beta} if center else {}),
             "moving_mean": state.running_mean, "moving_variance": var}
    weights = [rounded(layer, key, exact, dtype) for key, exact in parts.items()]
    eps = single_precision_eps(layer, weights[-1])
    momentum = old_weight(layer.config, "Keras", remarks)
    remark_on_rest(layer, "Keras", remarks)
    done = ExportedLayer(name, layer.version, layer.config.num_channels, "Keras's weights", tuple(parts), eps, momentum,
                         tuple(remarks))
    return weights, ExportReport((done,))


def export_running_mean_std(client: Client, name: str, target: Any) -> ExportReport:
    """Writes an observation normalizer's layer into Stable-Baselines3's or Gym's RunningMeanStd, or anything alike.

    The variance becomes the population's, by which such an object goes on counting.

    Args:
        target: has `mean` and `var` of any one shape, whose values are the channels, and `count`; or is a VecNormalize,
            whose obs_rms is meant, and whose epsilon and clip_obs become the layer's.

    Raises:
        ValueError: the layer has seen nothing, has other channels, or gamma and beta, which such an object has not.
        NotFoundError: there is no such layer.
    """
    normalizer = target if hasattr(target, "obs_rms") else None
    statistics = target if normalizer is None else normalizer.obs_rms
    lacking = [key for key in ("mean", "var", "count") if not hasattr(statistics, key)]
    if lacking:
        raise ValueError(f"{type(statistics).__name__} has no {' and no '.join(lacking)}, want a RunningMeanStd, or a "
                         "VecNormalize with one obs_rms")
    layer = client.get_layer(name)
    state = state_of(layer)
    check_identity(layer, "a RunningMeanStd")
    shape = np.shape(statistics.mean)
    if np.size(statistics.mean) != layer.config.num_channels or np.shape(statistics.var) != shape:
        raise ValueError(f"{name} has {layer.config.num_channels} channels, but mean has shape {shape} and var "
                         f"{np.shape(statistics.var)}, want as many values in each")
    count = float(state.sample_count.max())
    if count <= 0:
        raise ValueError(f"{name}: sample_count is 0, want a layer that has seen something")
    remarks = [f"{count:g} values"]
    if state.sample_count.min() != count:
        remarks.append(f"its channels have seen between {state.sample_count.min():g} and {count:g}: the largest counts for all")
    pooled = layer.config.averaging is Averaging.POOLED
    if not pooled:
        remarks.append(f"{layer.config.averaging.name.lower()} average: mean and var are not those of all values")
    var = variance(layer, VarianceEstimator.POPULATION, "convert" if pooled else "keep", "RunningMeanStd", remarks)
    clip = layer.config.clip
    mean = rounded(layer, "mean", state.running_mean, _floating(statistics.mean)).reshape(shape)
    var = rounded(layer, "var", var, _floating(statistics.var)).reshape(shape)
    if normalizer is None:
        bound = "no clip" if clip is None else f"clip {clip:g}"
        remarks.append(f"eps {layer.config.eps:g} and {bound} have no place in it")
    else:
        for key, value in (("epsilon", layer.config.eps), ("clip_obs", np.inf if clip is None else clip)):
            if getattr(normalizer, key, None) != value:
                remarks.append(f"{key} {getattr(normalizer, key, None)} -> {value:g}")
                setattr(normalizer, key, value)
    statistics.mean, statistics.var, statistics.count = mean, var, count
    done = ExportedLayer(name, layer.version, layer.config.num_channels, type(target).__name__, ("mean", "var", "count"),
                         layer.config.eps, None, tuple(remarks))
    return ExportReport((done,))


def _check_own(model: Any, nodes: list[BatchNormNode]) -> None:
    """Raises unless only batch norms that are written read what is written."""
    owner = {key: one.label for one in nodes for key in one.inputs}
    writing = {id(one.node) for one in nodes}
    for node in model.graph.node:
        for place, key in enumerate(node.input):
            if key in owner and not (id(node) in writing and place in range(1, 5)):
                raise ValueError(f"initialiser {key!r} of {owner[key]} is read by node {node.name!r} ({node.op_type}), too: "
                                 "want one of its own")


def _floating(values: Any) -> np.dtype[Any]:
    """The type of values that may still be Python's or integers."""
    dtype = np.asarray(values).dtype
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _set_attribute(onnx: Any, node: Any, name: str, value: Any) -> None:
    for one in node.attribute:
        if one.name == name:
            one.f = value
            return
    node.attribute.append(onnx.helper.make_attribute(name, float(value)))


def _save(onnx: Any, model: Any, path: str) -> None:
    """All of the file or nothing."""
    partial = f"{path}.partial"
    try:
        onnx.save(model, partial)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
