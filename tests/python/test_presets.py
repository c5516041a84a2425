"""Every preset against its framework's rule, written out in NumPy (float64) as the frameworks' sources have it."""

from __future__ import annotations

from typing import Callable

import numpy as np
import pytest

import normd
from normd import presets
from support import moments, normalize, y_error

BATCHES = [np.random.default_rng(seed).standard_normal((n, 3, 2, 2)) * [[[[1.0]], [[3.0]], [[0.2]]]] + seed
           for seed, n in enumerate((5, 8, 2, 11))]
Rule = Callable[[int, np.ndarray, np.ndarray, int, dict[str, np.ndarray]], None]


def old_weight(decay: float, bessel: bool) -> Rule:
    """moving = decay * moving + (1 - decay) * batch: Keras, Flax, ONNX; PyTorch with decay = 1 - momentum."""
    def rule(step: int, mean: np.ndarray, var: np.ndarray, n: int, moving: dict[str, np.ndarray]) -> None:
        moving["mean"] = decay * moving["mean"] + (1 - decay) * mean
        moving["var"] = decay * moving["var"] + (1 - decay) * var * (n / (n - 1) if bessel else 1)
    return rule


def haiku(decay: float) -> Rule:
    """haiku.ExponentialMovingAverage with zero_debias: hidden starts at 0, average = hidden / (1 - decay^counter)."""
    def rule(step: int, mean: np.ndarray, var: np.ndarray, n: int, moving: dict[str, np.ndarray]) -> None:
        for key, value in (("mean", mean), ("var", var)):
            hidden = moving.setdefault("hidden_" + key, np.zeros(3))
            moving["hidden_" + key] = hidden = decay * hidden + (1 - decay) * value
            moving[key] = hidden / (1 - decay ** (step + 1))
    return rule


def cumulative() -> Rule:
    """torch, momentum=None: exponential_average_factor = 1 / num_batches_tracked."""
    def rule(step: int, mean: np.ndarray, var: np.ndarray, n: int, moving: dict[str, np.ndarray]) -> None:
        factor = 1.0 / (step + 1)
        moving["mean"] = (1 - factor) * moving["mean"] + factor * mean
        moving["var"] = (1 - factor) * moving["var"] + factor * var * n / (n - 1)
    return rule


CASES: dict[str, tuple[presets.Preset | str, float, Rule]] = {
    "reference": ("reference", 1e-5, old_weight(0.9, False)),
    "default": (presets.reference(), 1e-5, old_weight(0.9, False)),
    "onnx": (presets.onnx(0.8, 1e-2), 1e-2, old_weight(0.8, False)),
    "pytorch": ("pytorch", 1e-5, old_weight(0.9, True)),
    "pytorch-0.3": (presets.pytorch(0.3, 1e-4), 1e-4, old_weight(0.7, True)),
    "pytorch-None": (presets.pytorch(None), 1e-5, cumulative()),
    "keras": ("keras", 1e-3, old_weight(0.99, False)),
    "keras-0.9": (presets.keras(0.9, 1e-4), 1e-4, old_weight(0.9, False)),
    "keras_fused": ("keras_fused", 1e-3, old_weight(0.99, True)),
    "keras_fused-0.9": (presets.keras(0.9, fused=True), 1e-3, old_weight(0.9, True)),
    "flax": ("flax", 1e-5, old_weight(0.99, False)),
    "flax-0.5": (presets.flax(0.5), 1e-5, old_weight(0.5, False)),
    "haiku": (presets.haiku(0.9), 1e-5, haiku(0.9)),
    "haiku-0.999": (presets.haiku(0.999, 1e-4), 1e-4, haiku(0.999)),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(client: normd.Client, layer: str, case: str) -> None:
    preset, eps, rule = CASES[case]
    client.create_layer(layer, 3, preset)
    moving = {"mean": np.zeros(3), "var": np.ones(3)}
    for step, x in enumerate(BATCHES):
        mean, var, n = moments(x)
        rule(step, mean, var, n, moving)
        answer = client.train_step(layer, x)
        # In training these all normalize with the batch's population variance.
        assert y_error(answer.y, normalize(x, mean, var, eps)) <= 1
        assert answer.num_batches_tracked == step + 1
        state = client.get_layer(layer).state
        np.testing.assert_allclose(state.running_mean, moving["mean"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(state.running_var, moving["var"], rtol=1e-12)
    want = normalize(BATCHES[0], moving["mean"], moving["var"], eps)
    assert y_error(client.infer(layer, BATCHES[0]).output, want) <= 1


class RunningMeanStd:
    """stable_baselines3.common.running_mean_std.RunningMeanStd, its formulas written out."""

    def __init__(self, epsilon: float, shape: int) -> None:
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), epsilon

    def update(self, arr: np.ndarray) -> None:
        batch_mean, batch_var, batch_count = np.mean(arr, axis=0), np.var(arr, axis=0), arr.shape[0]
        delta = batch_mean - self.mean
        tot_count = self.count + batch_count
        new_mean = self.mean + delta * batch_count / tot_count
        m_2 = (self.var * self.count + batch_var * batch_count
               + np.square(delta) * self.count * batch_count / tot_count)
        self.mean, self.var, self.count = new_mean, m_2 / tot_count, tot_count


@pytest.mark.parametrize("prior", [None, 1e-4], ids=["no-prior", "their-prior"])
def test_rl_observation(client: normd.Client, layer: str, prior: float | None) -> None:
    """VecNormalize: update, then clip((obs - mean) / sqrt(var + 1e-8), -10, 10)."""
    rng = np.random.default_rng(11)
    state = None
    if prior is not None:  # Their pseudo-sample; the preset leaves it out.
        state = normd.LayerState(running_mean=np.zeros(4), running_var=np.ones(4), sample_count=np.full(4, prior))
    client.create_layer(layer, 4, presets.rl_observation(), initial_state=state)
    theirs = RunningMeanStd(prior or 0.0, 4)
    for n in (8, 1, 64, 3):
        obs = rng.standard_normal((n, 4)) * [1, 100, 1e-3, 5] + [0, -50, 3, 1e4]
        obs[0, 0] += 1000 if n == 64 else 0  # Far enough to be clipped later.
        theirs.update(obs)
        want = np.clip((obs - theirs.mean) / np.sqrt(theirs.var + 1e-8), -10, 10)
        step = client.train_step(layer, obs)
        np.testing.assert_allclose(step.y, want, rtol=1e-9, atol=1e-9)
    far = theirs.mean + 1e6
    np.testing.assert_array_equal(client.infer(layer, np.stack([far, -far])).output[0], [10] * 4)
    learned = client.get_layer(layer).state
    np.testing.assert_allclose(learned.running_mean, theirs.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(learned.running_var, theirs.var, rtol=1e-10)
    np.testing.assert_allclose(learned.sample_count, np.full(4, theirs.count), rtol=1e-15)


@pytest.mark.parametrize("when", ["running_before_update", "running_after_update"])
def test_running_statistics_in_training(client: normd.Client, layer: str, when: str) -> None:
    """torchrl's VecNormV2 normalizes with the statistics before the update, RLlib's filter with those after it."""
    client.create_layer(layer, 3, normalize_training_with=when)
    mean, var = np.zeros(3), np.ones(3)
    for x in BATCHES:
        batch_mean, batch_var, _ = moments(x)
        after = 0.9 * mean + 0.1 * batch_mean, 0.9 * var + 0.1 * batch_var
        used = (mean, var) if when == "running_before_update" else after
        assert y_error(client.train_step(layer, x).y, normalize(x, *used, 1e-5)) <= 1
        mean, var = after


def test_momentum_is_converted_in_decimal() -> None:
    assert presets.keras(0.99).settings["update_weight"] == 0.01
    assert presets.onnx(0.9).settings["update_weight"] == 0.1
    assert presets.flax(1.0).settings["update_weight"] == 0.0
    assert presets.pytorch(0.1).settings["update_weight"] == 0.1


def test_unknown_preset_names_the_others(client: normd.Client, layer: str) -> None:
    with pytest.raises(normd.InvalidArgumentError, match="torhc.*pytorch"):
        client.create_layer(layer, 3, "torhc")
