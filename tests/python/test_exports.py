"""Layers as torch modules, ONNX models, Keras weights and RunningMeanStds, judged by torch and by the formulas of each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import normd
from normd import exports, imports, state_dict

RNG = np.random.default_rng(9)
X = RNG.normal(2, 3, size=(64, 4))


def train(client: normd.Client, name: str, preset: str, steps: int = 3, **settings: Any) -> normd.Layer:
    """A layer with statistics, gamma and beta that are nobody's defaults."""
    created = client.create_layer(name, 4, preset, **settings)
    affine = {"gamma": [0.5, -1, 2, 1], "beta": [1, 0, -3, 0.25]} if created.config.affine else {}
    for step in range(steps):
        client.train_step(name, X * (1 + step), **affine)
    return client.get_layer(name)


def net(*, dtype: torch.dtype = torch.float64, **settings: Any) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Identity(), torch.nn.BatchNorm1d(4, **settings)).to(dtype).eval()


def test_module_gives_what_infer_gives_and_trains_on_alike(client: normd.Client, layer: str) -> None:
    trained = train(client, f"{layer}.1", "pytorch", update_weight=0.3, eps=0.25)
    model = net()
    weight, running_mean = model[1].weight, model[1].running_mean
    report = state_dict.export_module(client, model, prefix=f"{layer}.")
    # In place: an optimizer and a graph go on with the tensors that they hold.
    assert model[1].weight is weight and model[1].running_mean is running_mean and weight.requires_grad
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(X)).numpy(), client.infer(f"{layer}.1", X).output, rtol=1e-12)
    done, = report.layers
    assert (done.name, done.version, done.target) == (f"{layer}.1", trained.version, "'1'")
    assert done.remarks == ("eps 1e-05 -> 0.25", "momentum 0.1 -> 0.3")
    assert "momentum 0.3; eps 1e-05 -> 0.25" in str(report)

    model.train()(torch.from_numpy(X + 1))
    client.train_step(f"{layer}.1", X + 1)
    state = client.get_layer(f"{layer}.1").state
    assert state is not None
    np.testing.assert_allclose(model[1].running_mean.numpy(), state.running_mean, rtol=1e-12)
    np.testing.assert_allclose(model[1].running_var.numpy(), state.running_var, rtol=1e-12)
    assert model[1].num_batches_tracked.item() == state.num_batches_tracked == 4


def test_a_cumulative_layer_is_momentum_none(client: normd.Client, layer: str) -> None:
    train(client, layer, "pytorch", averaging="cumulative")
    model = torch.nn.BatchNorm1d(4).double()
    assert "momentum 0.1 -> None" in str(state_dict.export_module(client, model, prefix=f"{layer}."))
    assert model.momentum is None
    model(torch.from_numpy(X * 5))
    client.train_step(layer, X * 5)
    state = client.get_layer(layer).state
    assert state is not None
    np.testing.assert_allclose(model.running_var.numpy(), state.running_var, rtol=1e-12)


def test_module_round_trip_of_every_kind(client: normd.Client, layer: str) -> None:
    torch.manual_seed(1)
    model = torch.nn.ModuleDict({
        "a": torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.25), "b": torch.nn.BatchNorm1d(3, affine=False),
        "c": torch.nn.BatchNorm3d(3, momentum=None).half(), "d": torch.nn.SyncBatchNorm(3).bfloat16(),
        "own": torch.nn.BatchNorm1d(3, track_running_stats=False), "neither": torch.nn.Linear(3, 3)})
    for one in model.values():
        if getattr(one, "running_mean", None) is not None:
            one.running_mean.normal_()
            one.running_var.uniform_(0.5, 2)
            one.num_batches_tracked.fill_(12)
            if one.affine:
                torch.nn.init.normal_(one.weight)
                torch.nn.init.normal_(one.bias)
    state_dict.import_module(client, model, prefix=f"{layer}.")
    want = {key: value.clone() for key, value in model.state_dict().items()}
    for name in "abcd":
        model[name].reset_parameters()
        model[name].eps, model[name].momentum = 0.5, 0.5
    report = state_dict.export_module(client, model, prefix=f"{layer}.")
    assert [one.name for one in report.layers] == [f"{layer}.{name}" for name in "abcd"] and report.left_alone == ()
    assert all(torch.equal(value, want[key]) and value.dtype == want[key].dtype for key, value in model.state_dict().items())
    assert [(model[name].eps, model[name].momentum) for name in "abcd"] == [
        (1e-3, 0.25), (1e-5, 0.1), (1e-5, None), (1e-5, 0.1)]

    client.create_layer(f"{layer}.own", 3, track_running_stats=False,
                        initial_state=normd.LayerState(gamma=np.array([1.0, 2, 3]), beta=np.array([4.0, 5, 6])))
    state_dict.export_module(client, model, prefix=f"{layer}.")
    assert model["own"].bias.tolist() == [4, 5, 6]


@pytest.mark.parametrize(("settings", "message"), [
    ({"num_channels": 3}, "has 3 channels and track_running_stats True, want 4 and True as '1' has"),
    ({"num_channels": 4, "track_running_stats": False}, "track_running_stats False, want 4 and True"),
    ({"num_channels": 4, "initial_state": normd.LayerState(gamma=np.full(4, 7e4), beta=np.zeros(4))},
     r"1.weight has values up to 70000, too large for torch.float16"),
    ({"num_channels": 4, "non_finite_policy": "propagate"}, r"running_mean\[0\] is nan \(4 such channels\)"),
])
def test_a_module_is_written_in_full_or_not_at_all(client: normd.Client, layer: str, settings: dict[str, Any],
                                                   message: str) -> None:
    train(client, f"{layer}.0", "pytorch")
    client.create_layer(f"{layer}.1", **settings)
    if "non_finite_policy" in settings:
        client.train_step(f"{layer}.1", X * np.nan)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4, eps=0.5), torch.nn.BatchNorm1d(4)).half()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        state_dict.export_module(client, model, prefix=f"{layer}.")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()) and model[0].eps == 0.5


def test_modules_that_cannot_be_written(client: normd.Client, layer: str) -> None:
    import normd.torch

    train(client, f"{layer}.1", "pytorch")
    two = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4))
    with pytest.raises(normd.NotFoundError, match=rf"1 of 2 layers do not exist \({layer}.0\): nothing was written"):
        state_dict.export_module(client, two, prefix=f"{layer}.")
    assert two[1].num_batches_tracked.item() == 0
    report = state_dict.export_module(client, two, prefix=f"{layer}.", on_missing="skip")
    assert report.left_alone == (f"{layer}.0",) and two[1].num_batches_tracked.item() == 3
    with pytest.raises(normd.NotFoundError, match="2 of 2 layers"):
        state_dict.export_module(client, two, prefix=f"{layer}.none.", on_missing="skip")
    with pytest.warns(UserWarning, match="Lazy modules"):
        lazy = torch.nn.LazyBatchNorm1d()
    for model, message in [(torch.nn.Linear(2, 2), "holds no batch norm"),
                           (torch.nn.Sequential(torch.nn.Identity(), lazy), "'1' is not initialized"),
                           (normd.torch.BatchNorm1d(4, client=client, layer=f"{layer}.1"), "keeps its state on the server"),
                           (net(affine=False), r"gamma\[0\] is 0.5, but '1' has no gamma")]:
        with pytest.raises(ValueError, match=message):
            state_dict.export_module(client, model, prefix=f"{layer}.")
    for words in ({"on_missing": "no"}, {"estimator": "no"}):
        train(client, f"{layer}.{'.'.join(words)}.1", "reference")
        with pytest.raises(ValueError, match=f"{'.'.join(words)} is 'no', want"):
            state_dict.export_module(client, net(), prefix=f"{layer}.{'.'.join(words)}.", **words)


def model_of(nodes: list[Any], initialisers: dict[str, np.ndarray]) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, ["n", 4])], [info("y", TensorProto.FLOAT, ["n", 4])],
                              [numpy_helper.from_array(array, key) for key, array in initialisers.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])


def two_nodes(dtype: Any = np.float32, **attributes: float) -> onnx.ModelProto:
    keys = ("weight", "bias", "mean", "var")
    return model_of(
        [helper.make_node("BatchNormalization", ["x", *(f"a.{key}" for key in keys)], ["z"], name="/net/a", **attributes),
         helper.make_node("BatchNormalization", ["z", *(f"b.{key}" for key in keys)], ["y"])],
        {f"{stem}.{key}": np.full(4, value, dtype) for stem in "ab" for value, key in enumerate(keys, 1)})


def evaluate(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """ONNX's definition of BatchNormalization-15 outside of training, node after node, in float64."""
    onnx.checker.check_model(model)
    values = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}
    values["x"] = x
    for node in model.graph.node:
        value, scale, bias, mean, var = (values[name] for name in node.input)
        epsilon = {one.name: one.f for one in node.attribute}.get("epsilon", 1e-5)
        values[node.output[0]] = (value - mean) / np.sqrt(var + epsilon) * scale + bias
    return values["y"]


def test_onnx_gives_what_infer_gives(client: normd.Client, layer: str, tmp_path: Path) -> None:
    first = train(client, f"{layer}.net.a", "reference", update_weight=0.01, eps=1e-3)
    train(client, f"{layer}.b", "pytorch", steps=2)
    onnx.save(two_nodes(momentum=0.5), str(tmp_path / "in.onnx"))
    report = exports.export_onnx(client, tmp_path / "in.onnx", prefix=f"{layer}.", output=tmp_path / "out.onnx")
    changed = onnx.load(str(tmp_path / "out.onnx"))
    want = client.infer(f"{layer}.b", client.infer(f"{layer}.net.a", X).output).output
    np.testing.assert_allclose(evaluate(changed, X), want, rtol=1e-5, atol=1e-5)
    assert report.layers[0].version == first.version and report.layers[0].target == "node '/net/a'"
    assert report.layers[0].remarks == ("momentum 0.99 of the old value (update_weight 0.01)", "epsilon 1e-05 -> 0.001",
                                        "momentum 0.5 -> 0.99")
    assert "running_var is that of the sample (over n - 1), kept as it is; ONNX's own is of the population" in str(report)
    # What was read is as it was, and the second node, whose attributes are the defaults, still has none.
    assert onnx.load(str(tmp_path / "in.onnx")) == two_nodes(momentum=0.5)
    assert not changed.graph.node[1].attribute and sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]

    # And in again: the same layers.
    imports.import_onnx(client, changed, prefix=f"{layer}.again.")
    again = client.get_layer(f"{layer}.again.net.a")
    assert (again.config.eps, again.config.update_weight) == (1e-3, 0.01) and again.state and first.state
    np.testing.assert_allclose(again.state.running_var, first.state.running_var, rtol=1e-7)
    # A file may also be changed where it is.
    exports.export_onnx(client, tmp_path / "in.onnx", prefix=f"{layer}.")
    assert onnx.load(str(tmp_path / "in.onnx")) == changed


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_onnx_keeps_its_types(client: normd.Client, layer: str, dtype: Any) -> None:
    train(client, f"{layer}.net.a", "reference")
    train(client, f"{layer}.b", "standard_scaler")
    model = two_nodes(dtype, momentum=0.75)
    report = exports.export_onnx(client, model, prefix=f"{layer}.")
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    state = client.get_layer(f"{layer}.b").state
    assert state is not None and arrays["b.var"].dtype == dtype
    np.testing.assert_array_equal(arrays["b.var"], state.running_var.astype(dtype))
    np.testing.assert_array_equal(arrays["b.weight"], np.ones(4))
    assert report.layers[1].remarks == (
        "the layer is not affine: gamma 1, beta 0", "pooled average, which ONNX does not have: no momentum",
        "training normalizes with running statistics here, with the batch's in ONNX", "epsilon 1e-05 -> 1e-300")
    assert report.layers[1].momentum == 0.9


def test_onnx_is_written_in_full_or_not_at_all(client: normd.Client, layer: str, tmp_path: Path) -> None:
    prefix = f"{layer}."
    train(client, f"{layer}.net.a", "reference")

    def refused(model: onnx.ModelProto, kind: type[Exception], message: str) -> None:
        before = model.SerializeToString()
        with pytest.raises(kind, match=message):
            exports.export_onnx(client, model, prefix=prefix, output=tmp_path / "out.onnx")
        assert model.SerializeToString() == before and not list(tmp_path.iterdir())

    refused(two_nodes(), normd.NotFoundError, "1 of 2 layers do not exist .*b.: nothing was written")
    partly = two_nodes()
    assert exports.export_onnx(client, partly, prefix=prefix, on_missing="skip").left_alone == (f"{layer}.b",)
    np.testing.assert_array_equal(numpy_helper.to_array(partly.graph.initializer[4]), np.ones(4))
    client.create_layer(f"{layer}.b", 3)
    refused(two_nodes(), ValueError, r"initialiser 'b.weight' of node 'b' has shape \(4,\) and type FLOAT, want \(3,\)")
    client.delete_layer(f"{layer}.b")
    # A variance of 0, and an eps that float32 does not know.
    client.create_layer(f"{layer}.b", 4, "standard_scaler")
    client.train_step(f"{layer}.b", np.ones((3, 4)))
    refused(two_nodes(), ValueError, "eps 1e-300 is 0 in float32, and running_var is 0 in channel 0")
    client.delete_layer(f"{layer}.b")
    train(client, f"{layer}.b", "reference", steps=1)
    sharing = two_nodes()
    sharing.graph.node[1].input[1] = "a.weight"
    sharing.graph.node[1].name = "b"
    exports.export_onnx(client, sharing, prefix=prefix)
    client.set_state(f"{layer}.b", normd.LayerState(gamma=np.full(4, 7e4), beta=np.zeros(4)))
    refused(sharing, ValueError, "'a.weight' belongs to several nodes, whose layers differ: node 'b' has")
    refused(two_nodes(np.float16), ValueError, "b.weight has values up to 70000, too large for float16")
    other = two_nodes()
    other.graph.node.append(helper.make_node("Relu", ["b.mean"], ["r"], name="relu"))
    refused(other, ValueError, r"initialiser 'b.mean' of node 'b' is read by node 'relu' \(Relu\), too")
    twice = two_nodes()
    twice.graph.node[1].name = "net.a"
    refused(twice, ValueError, "several batch norms have the name")


@pytest.mark.parametrize("fused", [False, True])
def test_to_keras(client: normd.Client, layer: str, fused: bool) -> None:
    trained = train(client, layer, "keras_fused" if fused else "keras")
    (gamma, beta, mean, var), report = exports.export_keras(client, layer, fused=fused, dtype=np.float64)
    done = report.layers[0]
    want = gamma * (X - mean) / np.sqrt(var + done.eps) + beta
    np.testing.assert_allclose(client.infer(layer, X).output, want, rtol=1e-12)
    assert (done.eps, done.momentum, done.version) == (1e-3, 0.99, trained.version)
    assert done.remarks == ("momentum 0.99 of the old value (update_weight 0.01)",)
    # Keras: moving = moving * momentum + batch * (1 - momentum).
    client.train_step(layer, X)
    after = client.get_layer(layer).state
    assert after is not None
    np.testing.assert_allclose(after.running_var, var * done.momentum + X.var(axis=0, ddof=int(fused)) * (1 - done.momentum),
                               rtol=1e-12)
    imports.import_keras(client, f"{layer}.again", [gamma, beta, mean, var], momentum=done.momentum, eps=done.eps, fused=fused)
    assert client.get_layer(f"{layer}.again").content_hash == trained.content_hash
    assert [array.dtype for array in exports.export_keras(client, layer)[0]] == [np.float32] * 4


def test_to_keras_without_scale_or_center(client: normd.Client, layer: str) -> None:
    train(client, f"{layer}.plain", "rl_observation")
    weights, report = exports.export_keras(client, f"{layer}.plain", scale=False, center=False)
    assert report.layers[0].keys == ("moving_mean", "moving_variance") and len(weights) == 2
    assert report.layers[0].momentum is None and "clip 10 is lost" in str(report) and "no momentum" in str(report)
    assert "pooled average, which Keras does not have" in str(report)
    (gamma, mean, _), _ = exports.export_keras(client, f"{layer}.plain", center=False)
    np.testing.assert_array_equal(gamma, np.ones(4))
    train(client, f"{layer}.affine", "keras")
    with pytest.raises(ValueError, match=r"beta\[0\] is 1, but Keras's layer has no beta: want 0 in all channels"):
        exports.export_keras(client, f"{layer}.affine", center=False)
    client.create_layer(f"{layer}.own", 4, track_running_stats=False)
    with pytest.raises(ValueError, match="own keeps no running statistics"):
        exports.export_keras(client, f"{layer}.own")
    with pytest.raises(normd.NotFoundError):
        exports.export_keras(client, f"{layer}.none")


@pytest.mark.parametrize(("have", "fused"), [("population", True), ("sample", False)])
def test_the_estimator(client: normd.Client, layer: str, have: str, fused: bool) -> None:
    """Kept: the server's inference. Converted: the variance of all values as the framework would divide it."""
    train(client, f"{layer}.pooled", "standard_scaler", running_var_estimator=have)
    everything = np.concatenate([X, 2 * X, 3 * X])
    kept, report = exports.export_keras(client, f"{layer}.pooled", fused=fused, dtype=np.float64)
    np.testing.assert_allclose(kept[3], everything.var(axis=0, ddof=int(not fused)), rtol=1e-12)
    assert f"running_var is that of the {have} (over n" in str(report)
    converted, report = exports.export_keras(client, f"{layer}.pooled", fused=fused, dtype=np.float64, estimator="convert")
    np.testing.assert_allclose(converted[3], everything.var(axis=0, ddof=int(fused)), rtol=1e-12)
    assert f"running_var converted from {have} (over n" in str(report)
    train(client, f"{layer}.average", "keras", running_var_estimator=have)
    with pytest.raises(ValueError, match=r"which an average \(exponential\) cannot change .* want a pooled layer"):
        exports.export_keras(client, f"{layer}.average", fused=fused, estimator="convert")
    client.create_layer(f"{layer}.few", 4, "standard_scaler", running_var_estimator=have)
    with pytest.raises(ValueError, match=r"sample_count\[0\] is 0, want above 1"):
        exports.export_keras(client, f"{layer}.few", fused=fused, estimator="convert")


class RunningMeanStd:
    """Stable-Baselines3's, after its source: parallel variance by Chan et al."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), 1e-4

    def update(self, x: np.ndarray) -> None:
        count = x.shape[0]
        delta, total = x.mean(axis=0) - self.mean, self.count + count
        m2 = self.var * self.count + x.var(axis=0) * count + np.square(delta) * self.count * count / total
        self.mean, self.var, self.count = self.mean + delta * count / total, m2 / total, total


@pytest.mark.parametrize("estimator", ["population", "sample"])
def test_to_a_running_mean_std_that_goes_on_counting(client: normd.Client, layer: str, estimator: str) -> None:
    train(client, layer, "rl_observation", running_var_estimator=estimator, clip=5)
    everything = np.concatenate([X, 2 * X, 3 * X, X - 7])
    venv = SimpleNamespace(obs_rms=RunningMeanStd((2, 2)), epsilon=1e-8, clip_obs=10.0)
    report = exports.export_running_mean_std(client, layer, venv)
    venv.obs_rms.update((X - 7).reshape(-1, 2, 2))
    np.testing.assert_allclose(venv.obs_rms.mean.reshape(-1), everything.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(venv.obs_rms.var.reshape(-1), everything.var(axis=0), rtol=1e-12)
    assert venv.obs_rms.count == 256 and venv.clip_obs == 5
    assert "192 values" in str(report) and "clip_obs 10.0 -> 5" in str(report)
    assert ("running_var converted from sample (over n - 1) to population (over n)" in str(report)) == (estimator == "sample")

    alone = RunningMeanStd((4,))
    report = exports.export_running_mean_std(client, layer, alone)
    assert "eps 1e-08 and clip 5 have no place in it" in str(report) and alone.count == 192
    # And in again: the same statistics.
    imports.import_running_mean_std(client, f"{layer}.again", alone)
    state = client.get_layer(f"{layer}.again").state
    assert state is not None
    np.testing.assert_allclose(state.running_var, everything[:192].var(axis=0), rtol=1e-12)


def test_running_mean_std_that_does_not_fit(client: normd.Client, layer: str) -> None:
    client.create_layer(f"{layer}.new", 4, "rl_observation")
    train(client, f"{layer}.affine", "reference")
    train(client, f"{layer}.good", "rl_observation")
    for name, target, message in [
            ("new", RunningMeanStd((4,)), "sample_count is 0"),
            ("affine", RunningMeanStd((4,)), "gamma.0. is 0.5, but a RunningMeanStd has no gamma"),
            ("good", RunningMeanStd((3,)), r"has 4 channels, but mean has shape \(3,\)"),
            ("good", SimpleNamespace(obs_rms={"image": RunningMeanStd((4,))}), "dict has no mean and no var and no count")]:
        before = vars(target).copy()
        with pytest.raises(ValueError, match=message):
            exports.export_running_mean_std(client, f"{layer}.{name}", target)
        assert vars(target) == before
    client.create_layer(f"{layer}.average", 4, affine=False)
    client.train_step(f"{layer}.average", X)
    average = RunningMeanStd((4,))
    assert "exponential average: mean and var are not those of all values" in str(
        exports.export_running_mean_std(client, f"{layer}.average", average))


def test_the_command_line_says_which_variance_it_wrote(client: normd.Client, server: Any, layer: str, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    train(client, f"{layer}.bn", "reference")
    path = tmp_path / "a.safetensors"
    assert state_dict.main(["export", str(path), "--target", server.tcp, "--prefix", f"{layer}."]) == 0
    said = capsys.readouterr().out
    assert f"{layer}.bn: version 4, 4 channels, to a state_dict, eps 1e-05, momentum 0.1" in said
    assert "running_var is that of the population (over n), kept as it is; torch's own is of the sample (over n - 1)" in said
