"""An onnx.backend that has a normd server do the work of BatchNormalization."""

from __future__ import annotations

import itertools
from typing import Any, Optional, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

import normd


class Model:
    """A graph of one BatchNormalization node; each run has a layer of its own."""

    def __init__(self, client: normd.Client, layer: str, graph: Any) -> None:
        self._client = client
        self._names = (f"{layer}.{number}" for number in itertools.count(1))
        self._node, = graph.node
        assert self._node.op_type == "BatchNormalization"
        self._attributes = {attribute.name: onnx.helper.get_attribute_value(attribute)
                            for attribute in self._node.attribute}
        self._known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._fed = [value.name for value in graph.input if value.name not in self._known]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The node's outputs."""
        known = {**self._known, **dict(zip(self._fed, inputs))}
        x, gamma, beta, mean, var = (known[name] for name in self._node.input)
        preset = normd.presets.onnx(self._attributes.get("momentum", 0.9), self._attributes.get("epsilon", 1e-5))
        state = normd.LayerState(running_mean=mean, running_var=var, gamma=gamma, beta=beta)
        layer = next(self._names)
        self._client.create_layer(layer, len(mean), preset, initial_state=state)
        if not self._attributes.get("training_mode", 0):
            return [self._client.infer(layer, x).output]
        y = self._client.train_step(layer, x).y
        after = self._client.get_layer(layer).state
        assert y is not None and after is not None
        return [y, after.running_mean.astype(mean.dtype), after.running_var.astype(var.dtype)]


class Backend:
    """What onnx.backend.test wants of a backend. Set `client` and `layer` first."""

    client: Optional[normd.Client] = None
    layer = ""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **settings: Any) -> bool:
        return [node.op_type for node in model.graph.node] == ["BatchNormalization"]

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **settings: Any) -> Model:
        assert cls.client is not None
        return Model(cls.client, cls.layer, model.graph)
