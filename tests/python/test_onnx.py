"""ONNX's batch-norm vectors, as packaged by Debian (libonnx-testdata), judge the preset `reference`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import normd
from onnx_backend import Model

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
    outputs = load(folder, "output")
    results = Model(client, layer, onnx.load(folder / "model.onnx").graph).run(load(folder, "input"))
    assert len(results) == len(outputs)
    for result, want in zip(results, outputs):
        assert result.dtype == want.dtype
        np.testing.assert_allclose(result, want, rtol=0, atol=TOLERANCE)
