"""The wrappers of vector environments, judged by Stable-Baselines3's formulas, written out in float64 below."""

from __future__ import annotations

import abc
import json
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest

import normd
import normd.sb3
from conftest import Server, running

ENVS, STEPS = 4, 60


class Box:
    def __init__(self, low: float, high: float, shape: tuple[int, ...], dtype: Any) -> None:
        self.low, self.high, self.shape, self.dtype = low, high, shape, np.dtype(dtype)


class Dict:
    def __init__(self, spaces: dict[str, Box]) -> None:
        self.spaces = OrderedDict(spaces)


FLAT = Box(-np.inf, np.inf, (3,), np.float32)
KEYED = Dict({"camera": Box(0, 255, (2, 2), np.uint8), "joints": FLAT, "goal": Box(-1, 1, (), np.float64)})


class Environments:
    """A VecEnv: random observations that drift, and episodes that end now and then."""

    def __init__(self, space: Any, seed: int = 0) -> None:
        self.observation_space, self.action_space, self.num_envs = space, "actions", ENVS
        self.rng, self.count, self.closed, self.actions = np.random.default_rng(seed), 0, False, None

    def part(self, space: Box) -> np.ndarray:
        self.count += 1
        values = self.rng.normal(50 + self.count % 7, 20, (ENVS, *space.shape))
        return np.clip(values, 0, 255).astype(space.dtype) if space.dtype == np.uint8 else values.astype(space.dtype)

    def observe(self) -> Any:
        if isinstance(self.observation_space, Dict):
            return {key: self.part(space) for key, space in self.observation_space.spaces.items()}
        return self.part(self.observation_space)

    def reset(self) -> Any:
        return self.observe()

    def step_async(self, actions: Any) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        dones = self.rng.random(ENVS) < 0.1
        infos: list[dict[str, Any]] = [{"terminal_observation": pick(self.observe(), 0)} if done else {}
                                       for done in dones]
        return self.observe(), self.rng.normal(3, 5, ENVS).astype(np.float32), dones, infos

    def close(self) -> None:
        self.closed = True

    def env_method(self, name: str) -> str:
        return f"called {name}"


def pick(obs: Any, index: int) -> Any:
    return {key: part[index] for key, part in obs.items()} if isinstance(obs, dict) else obs[index]


class Reference:
    """stable_baselines3.common.running_mean_std.RunningMeanStd: Chan's merge, from mean 0, variance 1, count 1e-4."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), 1e-4

    def update(self, values: np.ndarray) -> None:
        mean, var, count = np.mean(values, 0), np.var(values, 0), values.shape[0]
        delta, total = mean - self.mean, self.count + count
        m2 = self.var * self.count + var * count + np.square(delta) * self.count * count / total
        self.mean, self.var, self.count = self.mean + delta * count / total, m2 / total, total


class ReferenceNormalize:
    """stable_baselines3.common.vec_env.VecNormalize, formula by formula."""

    def __init__(self, venv: Environments, keys: Optional[list[str]], gamma: float, clip_obs: float,
                 clip_reward: float) -> None:
        self.venv, self.keys, self.gamma, self.clip_obs, self.clip_reward = venv, keys, gamma, clip_obs, clip_reward
        space = venv.observation_space
        self.rms = {key: Reference(space.shape if key is None else space.spaces[key].shape) for key in keys or [None]}
        self.ret_rms, self.training, self.returns = Reference(()), True, np.zeros(ENVS)

    def part(self, obs: Any, rms: Reference) -> np.ndarray:
        y = np.clip((obs - rms.mean) / np.sqrt(rms.var + 1e-8), -self.clip_obs, self.clip_obs)
        return y.astype(np.float32)

    def normalize(self, obs: Any) -> Any:
        if self.keys is None:
            return self.part(obs, self.rms[None])
        return {key: self.part(value, self.rms[key]) if key in self.keys else value for key, value in obs.items()}

    def update(self, obs: Any) -> None:
        if self.training:
            for key, rms in self.rms.items():
                rms.update((obs if key is None else obs[key]).astype(np.float64))

    def reset(self) -> Any:
        obs = self.venv.reset()
        self.returns = np.zeros(ENVS)
        self.update(obs)
        return self.normalize(obs)

    def step(self) -> Any:
        obs, reward, dones, infos = self.venv.step_wait()
        self.update(obs)
        if self.training:
            self.returns = self.returns * self.gamma + reward
            self.ret_rms.update(self.returns)
        scaled = np.clip(reward / np.sqrt(self.ret_rms.var + 1e-8), -self.clip_reward, self.clip_reward)
        final = [self.normalize(info["terminal_observation"]) if info else None for info in infos]
        self.returns[dones] = 0
        return self.normalize(obs), scaled, dones, final


def same(got: Any, want: Any) -> None:
    """Equal to the last bit but one of float32: the sums behind may be rounded in another order."""
    if isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            same(got[key], want[key])
    elif want is None:
        assert got is None
    else:
        assert np.asarray(got).dtype == np.asarray(want).dtype
        np.testing.assert_allclose(got, want, rtol=2.0**-23 if want.dtype == np.float32 else 1e-12, atol=1e-12)


CASES = {"flat": (FLAT, None), "keyed": (KEYED, None), "some keys": (KEYED, ["joints", "goal"])}


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_stable_baselines3s(client: normd.Client, layer: str, case: str) -> None:
    space, keys = CASES[case]
    settings = {"gamma": 0.9, "clip_obs": 1.5, "clip_reward": 0.8}
    ours = normd.sb3.VecNormalize(Environments(space), client, layer, norm_obs_keys=keys, **settings)
    all_keys = list(KEYED.spaces) if space is KEYED else None
    theirs = ReferenceNormalize(Environments(space), keys or all_keys, **settings)
    same(ours.reset(), theirs.reset())
    most = 0.0
    for step in range(STEPS):
        # Neither learns for a while.
        ours.training = theirs.training = not 20 <= step < 30
        obs, reward, dones, infos = ours.step(np.zeros(ENVS))
        want_obs, want_reward, want_dones, want_final = theirs.step()
        same(obs, want_obs)
        most = max(most, np.abs(obs if keys is None and space is FLAT else obs["joints"]).max())
        np.testing.assert_allclose(reward, want_reward, rtol=1e-6)
        np.testing.assert_array_equal(dones, want_dones)
        for info, want in zip(infos, want_final):
            same(info.get("terminal_observation"), want)
        np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-12)
        if step % 20 == 0:
            ours.reset(), theirs.reset()
    # The bound has been met, and the statistics agree in float64.
    assert most == np.float32(1.5)
    for key, rms in theirs.rms.items():
        got = ours.obs_rms if key is None else ours.obs_rms[key]
        np.testing.assert_allclose(got.mean, rms.mean, rtol=1e-12)
        np.testing.assert_allclose(got.var, rms.var, rtol=1e-12)
        assert got.mean.shape == rms.mean.shape and got.count == pytest.approx(rms.count, rel=1e-14)
    np.testing.assert_allclose(ours.ret_rms.var, theirs.ret_rms.var, rtol=1e-12)
    state = client.get_layer(f"{layer}.returns").state
    assert state.running_var[0] == ours.ret_rms.var
    ours.close()
    assert ours.venv.closed


def test_back_and_originals(client: normd.Client, layer: str) -> None:
    ours = normd.sb3.VecNormalize(Environments(KEYED), client, layer, clip_obs=100, clip_reward=100)
    ours.reset()
    obs, reward, *_ = ours.step(np.ones(ENVS))
    original = ours.get_original_obs()
    for key, part in ours.unnormalize_obs(obs).items():
        np.testing.assert_allclose(part, original[key], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(ours.unnormalize_reward(reward), ours.get_original_reward(), rtol=1e-5)
    original["joints"][:] = 0
    assert ours.get_original_obs()["joints"].any(), "a copy"
    same(ours.normalize_obs(ours.get_original_obs()), obs)
    # The wrapped environments' own, and the spaces.
    assert ours.env_method("seed") == "called seed" and ours.action_space == "actions"
    assert (ours.venv.actions == 1).all()
    camera = ours.observation_space.spaces["camera"]
    assert (camera.dtype, camera.low, camera.high) == (np.float32, -100, 100)
    assert ours.observation_space.spaces["joints"] is KEYED.spaces["joints"]
    assert KEYED.spaces["camera"].dtype == np.uint8
    with pytest.raises(AttributeError, match="nothing"):
        ours.nothing
    assert layer in repr(ours)


def test_switched_off(client: normd.Client, layer: str) -> None:
    plain = normd.sb3.VecNormalize(Environments(FLAT), client, layer, norm_obs=False, norm_reward=False)
    obs = plain.reset()
    assert obs is plain.old_obs and plain.obs_rms is None and plain.ret_rms is None
    obs, reward, *_ = plain.step(None)
    np.testing.assert_array_equal(reward, plain.get_original_reward())
    plain.norm_obs = plain.norm_reward = True
    with pytest.raises(ValueError, match="norm_obs was False when this was made"):
        plain.normalize_obs(obs)
    with pytest.raises(ValueError, match="norm_reward was False when this was made"):
        plain.normalize_reward(reward)
    assert not list(client.list_layers(layer))


def test_processes_share(client: normd.Client, layer: str) -> None:
    """Two wrappers train on the same layers; a third evaluates with what both have seen."""
    pair = [normd.sb3.VecNormalize(Environments(FLAT, seed), client, layer) for seed in range(2)]
    everything = Reference((3,))
    for wrapper in pair:
        wrapper.reset()
        everything.update(wrapper.get_original_obs().astype(np.float64))
    for _ in range(10):
        for wrapper in pair:
            wrapper.step(None)
            everything.update(wrapper.get_original_obs().astype(np.float64))
    evaluation = normd.sb3.VecNormalize(Environments(FLAT, 9), client, layer, training=False, norm_reward=False)
    pair[0].step(None)
    everything.update(pair[0].get_original_obs().astype(np.float64))
    version = client.get_layer(f"{layer}.obs").version
    evaluation.reset()
    evaluation.step(None)
    assert client.get_layer(f"{layer}.obs").version == version
    np.testing.assert_allclose(evaluation.obs_rms.mean, everything.mean, rtol=1e-12)
    np.testing.assert_allclose(evaluation.obs_rms.var, everything.var, rtol=1e-12)
    # As sync_envs_normalization does it.
    evaluation.obs_rms = normd.RunningMeanStd(np.ones(3), np.full(3, 4.0), 7)
    np.testing.assert_allclose(evaluation.normalize_obs(np.full((1, 3), 3, np.float32)), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="want \\(3,\\)"):
        evaluation.obs_rms = normd.RunningMeanStd(np.ones(2), np.ones(2), 7)


def test_in_the_background(client: normd.Client, layer: str) -> None:
    wrapper = normd.sb3.VecNormalize(Environments(FLAT), client, layer, push_every=3600)
    first = wrapper.reset()
    np.testing.assert_allclose(first, wrapper.get_original_obs().clip(-10, 10), rtol=1e-6)
    for _ in range(5):
        wrapper.step(None)
    assert client.get_layer(f"{layer}.obs").state.sample_count[0] == 1e-4
    wrapper.push()
    assert wrapper.obs_rms.count == pytest.approx(6 * ENVS + 1e-4)
    wrapper.step(None)
    wrapper.norm_obs = False
    assert wrapper.reset() is wrapper.old_obs
    wrapper.norm_obs = True
    wrapper.close()
    assert client.get_layer(f"{layer}.returns").state.sample_count[0] == pytest.approx(6 * ENVS + 1e-4)


def test_save_and_load(client: normd.Client, server: Server, layer: str, tmp_path: Path) -> None:
    path = str(tmp_path / "normalize.json")
    wrapper = normd.sb3.VecNormalize(Environments(KEYED), client, layer, norm_obs_keys=["joints"], clip_obs=3,
                                     gamma=0.5)
    wrapper.reset()
    wrapper.save(path)
    again = normd.sb3.VecNormalize.load(path, Environments(KEYED, 1), server.tcp)
    assert (again.norm_obs_keys, again.clip_obs, again.gamma, again.layer) == (["joints"], 3, 0.5, layer)
    np.testing.assert_array_equal(again.obs_rms["joints"].mean, wrapper.obs_rms["joints"].mean)
    again.close()
    Path(path).write_text(json.dumps({"layer": layer}))
    with pytest.raises(ValueError, match="does not hold the settings of a VecNormalize"):
        normd.sb3.VecNormalize.load(path, Environments(KEYED), client)


@pytest.mark.parametrize("space, settings, message", [
    (KEYED, {"norm_obs_keys": ["smell"]}, "'smell', want keys of the observation space: camera, goal, joints"),
    (FLAT, {"norm_obs_keys": ["joints"]}, "has no keys"), (FLAT, {"clip_reward": 0}, "clip_reward is 0"),
    (FLAT, {"clip_obs": -1}, "clip is -1|clip")])
def test_wrong_settings(client: normd.Client, layer: str, space: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, normd.InvalidArgumentError), match=message):
        normd.sb3.VecNormalize(Environments(space), client, layer, **settings)


def test_a_server_that_is_away_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = ["--store", f"sqlite:{tmp_path / 'normd.db'}"]
    retry = normd.RetryPolicy(max_attempts=1)
    with running(tmp_path, *flags) as server:
        client = normd.Client(server.unix, retry=retry)
        wrapper = normd.sb3.VecNormalize(Environments(FLAT), client, "agent")
        wrapper.reset()
    for _ in range(5):
        wrapper.step(None)
    assert len([r for r in caplog.records if "goes on with the statistics" in r.message]) == 2
    assert wrapper.obs_rms.count == pytest.approx(ENVS + 1e-4)
    with running(tmp_path, *flags), normd.Client(server.unix, retry=normd.RetryPolicy(max_attempts=99)) as other:
        other.get_layer("agent.obs")
        steps = 0
        with client:
            # The connection comes back after some of them.
            while wrapper.obs_rms.count < 6 * ENVS:
                wrapper.step(None)
                steps += 1
            wrapper.close()
        counted = other.get_layer("agent.obs").state.sample_count[0]
        assert counted == pytest.approx((6 + steps) * ENVS + 1e-4, rel=1e-12), "each value once"


def test_stable_baselines3_takes_it_for_its_own(client: normd.Client, layer: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = types.ModuleType("stable_baselines3.common.vec_env")

    class VecEnv(abc.ABC):
        pass

    class VecEnvWrapper(VecEnv):
        pass

    class VecNormalize(VecEnvWrapper):
        pass

    theirs.VecNormalize = VecNormalize
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    ours = normd.sb3.VecNormalize(Environments(FLAT), client, layer)
    assert isinstance(ours, VecNormalize) and isinstance(ours, VecEnv)


class VectorEnvironments:
    """Gymnasium's interface, with the observations, rewards and ends of Environments."""

    def __init__(self, space: Box) -> None:
        self.inner = Environments(space)
        self.single_observation_space, self.num_envs, self.action_space = space, ENVS, None
        self.observation_space = Box(space.low, space.high, (ENVS, *space.shape), space.dtype)
        self.seed: Any = None

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seed = seed
        return self.inner.reset(), {}

    def step(self, actions: Any) -> Any:
        obs, reward, dones, infos = self.inner.step_wait()
        final = np.array([None] * ENVS, object)
        for index, info in enumerate(infos):
            final[index] = info.get("terminal_observation")
        terminations = dones & (np.arange(ENVS) % 2 == 0)
        return obs, reward, terminations, dones & ~terminations, {"final_obs": final} if dones.any() else {}

    def close(self) -> None:
        self.inner.close()


def test_gymnasium(client: normd.Client, layer: str) -> None:
    ours = normd.sb3.VectorNormalize(VectorEnvironments(FLAT), client, layer)
    theirs = ReferenceNormalize(Environments(FLAT), None, 0.99, 10, 10)
    obs, _ = ours.reset(seed=5)
    assert ours.venv.seed == 5
    same(obs, theirs.reset())
    ends = 0
    for _ in range(STEPS):
        obs, reward, terminations, truncations, infos = ours.step(None)
        want_obs, want_reward, want_dones, want_final = theirs.step()
        same(obs, want_obs)
        np.testing.assert_allclose(reward, want_reward, rtol=1e-6)
        np.testing.assert_array_equal(terminations | truncations, want_dones)
        for got, want in zip(infos.get("final_obs", []), want_final):
            same(got, want)
            ends += want is not None
        np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-12)
    assert ends > 5
    ours.close()
