"""The BatchNormalization nodes of an ONNX model, and the names of their layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from normd._decimals import shortest
from normd._importing import layer_name


@dataclass(frozen=True)
class BatchNormNode:
    """A node whose parameters are initialisers.

    Attributes:
        node: the onnx.NodeProto, in the model.
        label: for people.
        layer: the layer's name.
        inputs: names of scale, B, mean and variance.
        epsilon, momentum: its attributes, or their defaults; momentum weighs the old value.
    """

    node: Any
    label: str
    layer: str
    inputs: tuple[str, str, str, str]
    epsilon: float
    momentum: float


def batch_norm_nodes(model: Any, prefix: str) -> tuple[list[BatchNormNode], list[str]]:
    """The model's batch norms, and those left out since their parameters are computed.

    A layer is named by its node ("/a/bn:0" is a.bn_0) or, if that has no name, by its scale without ".weight".

    Raises:
        ValueError: there is none, or a name cannot be a layer's.
    """
    initialisers = {one.name for one in model.graph.initializer}
    found = []
    left_out = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        if len(node.input) < 5 or not initialisers.issuperset(node.input[1:5]):
            left_out.append(f"node {node.name!r} with computed parameters")
            continue
        scale, bias, mean, var = node.input[1:5]
        attributes = {one.name: one.f for one in node.attribute}
        stem = node.name or scale.removesuffix(".weight")
        found.append(BatchNormNode(node, f"node {stem!r}", layer_name(prefix, _segments(stem)), (scale, bias, mean, var),
                                   shortest(attributes.get("epsilon", 1e-5)), shortest(attributes.get("momentum", 0.9))))
    if not found:
        raise ValueError("the model has no BatchNormalization node whose parameters are initialisers")
    return found, left_out


def _segments(name: str) -> str:
    """An ONNX name as a dotted path: slashes and other characters become dots and _."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name.strip("/").replace("/", "."))
