"""Where batch norms have gone wrong before: each case once broke a framework or a service."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import normd
from support import moments

RNG = np.random.default_rng(21)
X = RNG.standard_normal((6, 3, 4))
SAMPLE_PRESETS = {"pytorch", "keras_fused"}
PRESETS = ["reference", "pytorch", "keras", "keras_fused", "flax", "haiku", "standard_scaler", "rl_observation"]


def test_pytorch_0_1_is_onnx_0_9_and_another_variance(client: normd.Client, layer: str) -> None:
    client.create_layer(layer + ".torch", 3, normd.presets.pytorch(momentum=0.1))
    client.create_layer(layer + ".onnx", 3, normd.presets.onnx(momentum=0.9))
    states = []
    for name in (".torch", ".onnx"):
        client.train_step(layer + name, X)
        states.append(client.get_layer(layer + name).state)
    _, var, n = moments(X)
    np.testing.assert_allclose(states[0].running_mean, states[1].running_mean, rtol=1e-15)
    np.testing.assert_allclose(states[0].running_var - states[1].running_var, 0.1 * var / (n - 1), rtol=1e-10)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_per_channel(client: normd.Client, layer: str, preset: str, shape: tuple[int, ...]) -> None:
    client.create_layer(layer, 3, preset)
    x = np.full(shape, 5.0)
    if preset in SAMPLE_PRESETS:
        with pytest.raises(normd.InvalidArgumentError, match=layer):
            client.train_step(layer, x)
        assert client.get_layer(layer).version == 1
    else:
        step = client.train_step(layer, x)
        assert not step.y.any() and not step.batch_var.any()
        state = client.get_layer(layer).state
        assert np.isfinite(state.running_mean).all() and np.isfinite(state.running_var).all()
        assert state.num_batches_tracked == 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (2, 0), (3,), (), (1, 3, 1, 1, 1, 1, 1, 1, 1)])
def test_shapes_that_are_no_batch_change_nothing(client: normd.Client, layer: str, preset: str,
                                                 shape: tuple[int, ...]) -> None:
    client.create_layer(layer, 3, preset)
    before = client.get_layer(layer)
    with pytest.raises(normd.InvalidArgumentError):
        client.train_step(layer, np.zeros(shape))
    with pytest.raises(normd.InvalidArgumentError):
        client.infer(layer, np.zeros(shape))
    after = client.get_layer(layer)
    assert (after.version, after.content_hash, after.state.num_batches_tracked) == (1, before.content_hash, 0)


def test_ranks_two_to_eight(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    for rank in range(2, 9):
        for layout in ("channels_first", "channels_last"):
            shape = [2] * rank
            shape[1 if layout == "channels_first" else -1] = 3
            x = RNG.standard_normal(shape)
            step = client.train_step(layer, x, layout=layout)
            mean, var, _ = moments(x, layout)
            np.testing.assert_allclose(step.batch_mean, mean, rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(step.batch_var, var, rtol=1e-13)
            assert step.y.shape == x.shape


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_is_rejected_as_a_whole(client: normd.Client, layer: str, bad: float) -> None:
    client.create_layer(layer, 3)
    client.train_step(layer, X)
    before = client.get_layer(layer)
    x = X.copy()
    x[2, 1, 3] = bad
    with pytest.raises(normd.InvalidArgumentError, match=layer):
        client.train_step(layer, x)
    after = client.get_layer(layer)
    assert (after.version, after.content_hash) == (before.version, before.content_hash)
    assert after.state.num_batches_tracked == 1


def test_non_finite_skips_its_channel_alone(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, non_finite_policy="skip_channel")
    client.train_step(layer, X)
    before = client.get_layer(layer).state
    x = X.copy()
    x[0, 1, 0] = np.nan
    step = client.train_step(layer, x)
    after = client.get_layer(layer).state
    assert step.skipped_channels.tolist() == [1]
    assert np.isnan(step.batch_mean).tolist() == [False, True, False]
    assert after.running_mean[1] == before.running_mean[1]
    assert (after.running_mean != before.running_mean).tolist() == [True, False, True]
    assert after.num_batches_tracked == 2 and after.skipped_batches.tolist() == [0, 1, 0]
    assert after.sample_count.tolist() == [48, 24, 48]
    back = client.backward(layer, x, np.ones_like(x), batch_mean=step.batch_mean, batch_var=step.batch_var,
                           optimizer=normd.SGD(0.1, weight_decay=0.5))
    assert not back.dx[:, 1].any() and back.dgamma[1] == 0 and back.gamma[1] == 1


def test_non_finite_propagates_and_heals(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, non_finite_policy="propagate")
    x = X.copy()
    x[0, 1, 0] = np.inf
    client.train_step(layer, x)
    assert np.isnan(client.get_layer(layer).state.running_var).tolist() == [False, True, False]
    client.train_step(layer, X)
    assert np.isnan(client.get_layer(layer).state.running_var).tolist() == [False, True, False]
    # An update_weight of 1 is an assignment: 0 * NaN does not come in.
    client.update_layer(layer, update_weight=1.0)
    client.train_step(layer, X)
    np.testing.assert_allclose(client.get_layer(layer).state.running_var, moments(X)[1], rtol=1e-12)


def test_nan_passes_through_infer(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    x = X.copy()
    x[0, 1, 0], x[1, 2, 0] = np.nan, np.inf
    y = client.infer(layer, x).output
    assert np.isnan(y).sum() == 1 and np.isposinf(y).sum() == 1


@pytest.mark.parametrize("state", [
    {"running_mean": [0] * 3, "running_var": [1, -9.9999e-6, 1]},
    {"running_mean": [0, np.nan, 0], "running_var": [1] * 3},
    {"running_mean": [0] * 2, "running_var": [1] * 2}, {"running_mean": [0] * 3}, {"gamma": [1] * 3},
    {"gamma": [np.inf] * 3, "beta": [0] * 3}])
def test_bad_state_is_refused(client: normd.Client, layer: str, state: dict[str, list[float]]) -> None:
    arrays = {key: np.array(value, np.float64) for key, value in state.items()}
    client.create_layer(layer, 3)
    with pytest.raises(normd.InvalidArgumentError):
        client.set_state(layer, normd.LayerState(**arrays))
    assert client.get_layer(layer).version == 1
    with pytest.raises(normd.InvalidArgumentError):
        client.create_layer(layer + ".new", 3, initial_state=normd.LayerState(**arrays))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_pooled_in_any_order(client: normd.Client, layer: str, order: tuple[int, ...]) -> None:
    parts = np.split(RNG.standard_normal((50, 2)) * 1e-2 + 1e4, [1, 30])
    whole = np.concatenate(parts)
    client.create_layer(layer, 2, "standard_scaler")
    for index in order:
        client.train_step(layer, parts[index])
    state = client.get_layer(layer).state
    np.testing.assert_allclose(state.running_mean, moments(whole)[0], rtol=1e-15)
    np.testing.assert_allclose(state.running_var, moments(whole)[1], rtol=1e-9)


def test_a_retry_changes_nothing(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, "rl_observation")
    first = client.train_step(layer, X, request_id="actor-7/1")
    again = client.train_step(layer, X, request_id="actor-7/1")
    assert again.replayed and not first.replayed
    assert (again.version, again.content_hash) == (first.version, first.content_hash)
    assert client.get_layer(layer).state.sample_count.tolist() == [24] * 3
    with pytest.raises(normd.InvalidArgumentError, match="request_id"):
        client.train_step(layer, X + 1, request_id="actor-7/1")


@pytest.mark.parametrize("weight", [-1.0, -1.2, 1.0000001, float("nan"), float("inf")])
def test_update_weight_outside_0_1(client: normd.Client, layer: str, weight: float) -> None:
    with pytest.raises(normd.InvalidArgumentError, match="update_weight"):
        client.create_layer(layer, 3, update_weight=weight)
    client.create_layer(layer, 3)
    with pytest.raises(normd.InvalidArgumentError, match="update_weight"):
        client.update_layer(layer, update_weight=weight)


def test_update_weight_0_and_1(client: normd.Client, layer: str) -> None:
    client.create_layer(layer + ".0", 3, update_weight=0.0)
    client.create_layer(layer + ".1", 3, update_weight=1.0)
    for name in (".0", ".1"):
        client.train_step(layer + name, X)
    assert client.get_layer(layer + ".0").state.running_mean.tolist() == [0] * 3
    np.testing.assert_array_equal(client.get_layer(layer + ".1").state.running_mean,
                                  client.train_step(layer + ".1", X, skip_update=True).batch_mean)


@pytest.mark.parametrize("eps", [0.0, -1e-5, float("nan"), float("inf")])
def test_eps_must_be_positive(client: normd.Client, layer: str, eps: float) -> None:
    with pytest.raises(normd.InvalidArgumentError, match="eps"):
        client.create_layer(layer, 3, eps=eps)


def test_affine_off_tracking_off_gamma_zero(client: normd.Client, layer: str) -> None:
    plain = client.create_layer(layer + ".plain", 3, affine=False, track_running_stats=False)
    assert not plain.config.affine and not plain.config.track_running_stats
    step = client.train_step(layer + ".plain", X)
    np.testing.assert_array_equal(client.infer(layer + ".plain", X).output, step.y)
    state = client.get_layer(layer + ".plain").state
    assert state.running_mean.size == state.gamma.size == 0
    back = client.backward(layer + ".plain", X, X, batch_mean=step.batch_mean, batch_var=step.batch_var)
    assert back.dgamma.size == 0 and back.dx.shape == X.shape
    with pytest.raises(normd.FailedPreconditionError):
        client.denormalize(layer + ".plain", X)
    with pytest.raises(normd.InvalidArgumentError):
        client.train_step(layer + ".plain", X, gamma=[1] * 3, beta=[0] * 3)

    zero = normd.LayerState(gamma=np.zeros(3), beta=np.array([1.0, 2.0, 3.0]))
    client.create_layer(layer + ".zero", 3, initial_state=zero)
    step = client.train_step(layer + ".zero", X)
    np.testing.assert_array_equal(step.y, np.broadcast_to(zero.beta[:, None], X.shape))
    back = client.backward(layer + ".zero", X, X, batch_mean=step.batch_mean, batch_var=step.batch_var)
    assert not back.dx.any() and back.dgamma.all()
    with pytest.raises(normd.FailedPreconditionError, match="gamma"):
        client.denormalize(layer + ".zero", X)


@pytest.mark.parametrize("channels", [0, -1, 2**40])
def test_channel_counts_that_cannot_be(client: normd.Client, layer: str, channels: int) -> None:
    with pytest.raises(normd.InvalidArgumentError, match="num_channels"):
        client.create_layer(layer, channels)


def test_counts_go_past_2_24(client: normd.Client, layer: str) -> None:
    """In float32, 2^24 + 1 is 2^24: a counter that stands still."""
    start = normd.LayerState(running_mean=np.zeros(1), running_var=np.ones(1), sample_count=np.array([2.0**24]),
                             num_batches_tracked=2**24)
    client.create_layer(layer, 1, "standard_scaler", initial_state=start)
    for _ in range(3):
        client.train_step(layer, np.zeros((1, 1), np.float32))
    state = client.get_layer(layer).state
    assert state.sample_count.tolist() == [2**24 + 3] and state.num_batches_tracked == 2**24 + 3


def test_restored_state_does_not_count_twice(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, "standard_scaler")
    client.train_step(layer, X[:4])
    saved = client.get_layer(layer).state
    client.create_layer(layer + ".restored", 3, "standard_scaler", initial_state=saved)
    for name in ("", ".restored"):
        client.train_step(layer + name, X[4:])
    one, other = client.get_layer(layer), client.get_layer(layer + ".restored")
    assert one.content_hash == other.content_hash
    assert other.state.sample_count.tolist() == [24] * 3
    np.testing.assert_allclose(other.state.running_var, moments(X)[1], rtol=1e-12)
