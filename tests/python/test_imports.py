"""ONNX, Keras and Stable-Baselines3, judged by the formulas of their documentation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import normd
from normd import imports

RNG = np.random.default_rng(3)
SCALE, BIAS, MEAN = (RNG.normal(size=4).astype(np.float32) for _ in range(3))
VAR = RNG.uniform(0.5, 2, size=4).astype(np.float32)


def model(name: str = "/features/norm0/BatchNormalization", **attributes: float) -> onnx.ModelProto:
    node = helper.make_node("BatchNormalization", ["x", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["y"], name=name,
                            **attributes)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["in"], ["x"]), node], "g",
        [info("in", TensorProto.FLOAT, ["n", 4])], [info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, key) for key, array in
         (("bn.weight", SCALE), ("bn.bias", BIAS), ("bn.mean", MEAN), ("bn.var", VAR), ("other", SCALE))])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])


def test_onnx(client: normd.Client, layer: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(epsilon=1e-3, momentum=0.8), str(path))
    report = imports.import_onnx(client, path, prefix=f"{layer}.")
    name = f"{layer}.features.norm0.BatchNormalization"
    assert [one.name for one in report.layers] == [name] and report.ignored == ("other",)
    config = client.get_layer(name).config
    assert config.eps == 1e-3 and config.update_weight == pytest.approx(0.2, rel=1e-15)
    assert "momentum 0.8 of the old value" in str(report)

    x = RNG.normal(size=(8, 4)).astype(np.float32)
    # The operator's definition, ONNX BatchNormalization-15.
    want = (x.astype(np.float64) - MEAN) / np.sqrt(VAR.astype(np.float64) + 1e-3) * SCALE + BIAS
    np.testing.assert_allclose(client.infer(name, x).output, want, rtol=1e-5, atol=1e-6)
    client.train_step(name, x)
    state = client.get_layer(name).state
    assert state is not None
    np.testing.assert_allclose(state.running_var, 0.8 * VAR.astype(np.float64) + 0.2 * x.astype(np.float64).var(axis=0),
                               rtol=1e-12)


def test_onnx_without_names_and_without_batch_norms(client: normd.Client, layer: str) -> None:
    report = imports.import_onnx(client, model(name=""), prefix=f"{layer}.")
    assert report.layers[0].name == f"{layer}.bn"
    assert client.get_layer(f"{layer}.bn").config.update_weight == pytest.approx(0.1, rel=1e-15)
    odd = imports.import_onnx(client, model(name="/block/bn:0"), prefix=f"{layer}.")
    assert odd.layers[0].name == f"{layer}.block.bn_0"
    twice = model()
    twice.graph.node.append(twice.graph.node[1])
    with pytest.raises(ValueError, match="several batch norms have the name"):
        imports.import_onnx(client, twice, prefix=f"{layer}.twice.")
    computed = model(name="first")
    computed.graph.node.append(helper.make_node("BatchNormalization", ["x", "a", "b", "c", "d"], ["z"], name="second"))
    assert "node 'second' with computed parameters" in imports.import_onnx(client, computed, prefix=f"{layer}.c.").ignored
    empty = model()
    del empty.graph.node[1]
    with pytest.raises(ValueError, match="no BatchNormalization node"):
        imports.import_onnx(client, empty)


@pytest.mark.parametrize("fused", [False, True])
def test_keras(client: normd.Client, layer: str, fused: bool) -> None:
    imports.import_keras(client, layer, [SCALE, BIAS, MEAN, VAR], momentum=0.9, fused=fused)
    x = RNG.normal(size=(8, 4))
    want = SCALE * (x - MEAN) / np.sqrt(VAR.astype(np.float64) + 1e-3) + BIAS
    np.testing.assert_allclose(client.infer(layer, x).output, want, rtol=1e-12)
    client.train_step(layer, x)
    state = client.get_layer(layer).state
    assert state is not None
    # moving = moving * momentum + batch * (1 - momentum); the fused kernel divides by n - 1.
    np.testing.assert_allclose(state.running_var, VAR * 0.9 + x.var(axis=0, ddof=int(fused)) * (1 - 0.9), rtol=1e-7)


def test_keras_without_scale_or_center(client: normd.Client, layer: str) -> None:
    imports.import_keras(client, f"{layer}.a", [BIAS, MEAN, VAR], scale=False)
    imports.import_keras(client, f"{layer}.b", [MEAN, VAR], scale=False, center=False)
    first = client.get_layer(f"{layer}.a").state
    assert first is not None
    np.testing.assert_array_equal(first.gamma, np.ones(4))
    np.testing.assert_array_equal(first.beta, BIAS)
    assert not client.get_layer(f"{layer}.b").config.affine
    with pytest.raises(ValueError, match="there are 2 arrays, want 4: gamma, beta, moving_mean, moving_variance"):
        imports.import_keras(client, f"{layer}.c", [MEAN, VAR])
    with pytest.raises(ValueError, match=r"moving_variance\[0\] is -1"):
        imports.import_keras(client, f"{layer}.c", [SCALE, BIAS, MEAN, np.full(4, -1.0)])


def test_running_mean_std_goes_on_counting(client: normd.Client, layer: str) -> None:
    seen, more = RNG.normal(3, 2, size=(50, 2, 2)), RNG.normal(-1, 5, size=(70, 2, 2))
    imports.import_running_mean_std(client, layer, SimpleNamespace(mean=seen.mean(axis=0), var=seen.var(axis=0),
                                                                   count=50.0))
    with normd.RunningNormalizer(client, layer, (2, 2)) as normalizer:
        normalizer.observe(more)
        normalizer.push()
        everything = np.concatenate([seen, more])
        rms = normalizer.obs_rms
        np.testing.assert_allclose(rms.mean, everything.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(rms.var, everything.var(axis=0), rtol=1e-12)
        assert rms.count == 120
    for count in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="count is"):
            imports.import_running_mean_std(client, f"{layer}.x", SimpleNamespace(mean=[0.0], var=[1.0], count=count))
