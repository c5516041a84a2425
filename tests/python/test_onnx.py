"""ONNX's batch-norm vectors, as packaged by Debian (libonnx-testdata), judge the preset `reference`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import normd

DATA = Path("/usr/share/libonnx-testdata/data")
NODES = sorted((DATA / "node").glob("test_batchnorm_*"))
CONVERTED = sorted((DATA / "pytorch-converted").glob("test_BatchNorm*"))
# What evaluating the formula in float64 differs from the shipped float32 vectors by is 1.1e-6.
TOLERANCE = 2e-6


def test_all_vectors_are_there() -> None:
    assert len(NODES) == 4
    assert len(CONVERTED) == 5


def load(folder: Path, kind: str) -> list[np.ndarray]:
    files = sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    arrays = []
    for file in files:
        tensor = onnx.TensorProto()
        tensor.ParseFromString(file.read_bytes())
        arrays.append(numpy_helper.to_array(tensor))
    return arrays


@pytest.mark.parametrize("folder", NODES + CONVERTED, ids=lambda folder: folder.name)
def test_vector(client: normd.Client, layer: str, folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx").graph
    node, = (node for node in graph.node if node.op_type == "BatchNormalization")
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fed = [value.name for value in graph.input if value.name not in known]
    known.update(zip(fed, load(folder, "input")))
    x, gamma, beta, mean, var = (known[name] for name in node.input)
    outputs = load(folder, "output")

    preset = normd.presets.onnx(attributes.get("momentum", 0.9), attributes.get("epsilon", 1e-5))
    state = normd.LayerState(running_mean=mean, running_var=var, gamma=gamma, beta=beta)
    client.create_layer(layer, len(mean), preset, initial_state=state)
    if attributes.get("training_mode", 0):
        y = client.train_step(layer, x).y
        after = client.get_layer(layer).state
        np.testing.assert_allclose(after.running_mean, outputs[1], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(after.running_var, outputs[2], rtol=0, atol=TOLERANCE)
    else:
        y = client.infer(layer, x).output
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y, outputs[0], rtol=0, atol=TOLERANCE)
