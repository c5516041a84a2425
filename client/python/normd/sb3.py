"""Stable-Baselines3's VecNormalize, with statistics that all training processes share on a normd server.

    venv = normd.sb3.VecNormalize(DummyVecEnv([make_env] * 8), "127.0.0.1:50051", "agent")
    model = stable_baselines3.PPO("MlpPolicy", venv)
    model.learn(1_000_000)

Neither Stable-Baselines3 nor Gymnasium is imported: environments are taken by their methods. Where Stable-Baselines3 has
been imported, its isinstance() takes a VecNormalize for one of its own, so that its algorithms and evaluation work.
VectorNormalize is the same for Gymnasium's vector environments.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import sys
from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np
from numpy.typing import NDArray

from normd._security import PathLike, Tls
from normd.client import Client, own_or_given
from normd.errors import AlreadyExistsError, DeadlineExceededError, ResourceExhaustedError, UnavailableError
from normd.running_normalizer import RunningMeanStd, RunningNormalizer
from normd.types import LayerState

_log = logging.getLogger("normd")

Array = NDArray[Any]
# An observation of each environment, or one for each key of a Dict space.
Observations = Union[Array, dict[str, Array]]

# What Stable-Baselines3's RunningMeanStd starts with: so many values of mean 0 and variance 1.
_START_COUNT = 1e-4


class _Normalization:
    """What the two wrappers have in common. See VecNormalize."""

    _SETTINGS = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys",
                 "push_every")

    def __init__(self, venv: Any, client: Union[Client, str], layer: str, *, training: bool = True,
                 norm_obs: bool = True, norm_reward: bool = True, clip_obs: float = 10.0, clip_reward: float = 10.0,
                 gamma: float = 0.99, epsilon: float = 1e-8, norm_obs_keys: Optional[Sequence[str]] = None,
                 push_every: Optional[float] = None, contributor: Optional[str] = None,
                 tls: Union[Tls, bool, None] = None, token: Optional[str] = None,
                 token_file: Optional[PathLike] = None, allow_token_without_tls: bool = False) -> None:
        self.venv = venv
        self.num_envs = int(venv.num_envs)
        self.action_space = venv.action_space
        space = venv.observation_space
        # Of the environments; with num_envs in front where Gymnasium tells it apart.
        single = getattr(venv, "single_observation_space", space)
        parts = getattr(single, "spaces", None)
        if norm_obs_keys is not None and parts is None:
            raise ValueError("norm_obs_keys is given, and the observation space has no keys")
        if parts is not None:
            unknown = set(norm_obs_keys or ()) - set(parts)
            if unknown:
                raise ValueError(f"norm_obs_keys has {min(unknown)!r}, want keys of the observation space: "
                                 f"{', '.join(sorted(parts))}")
        if not clip_reward > 0:
            raise ValueError(f"clip_reward is {clip_reward}, want a number > 0")
        self.training, self.norm_obs, self.norm_reward = training, norm_obs, norm_reward
        self.clip_obs, self.clip_reward, self.gamma, self.epsilon = clip_obs, clip_reward, gamma, epsilon
        self.norm_obs_keys = None if parts is None else list(parts if norm_obs_keys is None else norm_obs_keys)
        self.push_every, self.layer = push_every, layer
        self.returns = np.zeros(self.num_envs)
        self.old_obs: Any = None
        self.old_reward: Any = np.array([])

        self._owns_client = isinstance(client, str)
        self._client = own_or_given(client, tls, token, token_file, allow_token_without_tls)
        self._contributor = contributor
        # By key; None for a space without.
        self._normalizers: dict[Optional[str], RunningNormalizer] = {}
        self._return_normalizer: Optional[RunningNormalizer] = None
        try:
            if norm_obs:
                for key in [None] if self.norm_obs_keys is None else self.norm_obs_keys:
                    shape = single.shape if parts is None or key is None else parts[key].shape
                    name = f"{layer}.obs" if key is None else f"{layer}.obs.{key}"
                    self._normalizers[key] = self._open(name, shape, clip_obs)
            if norm_reward:
                self._return_normalizer = self._open(f"{layer}.returns", (), None)
        except BaseException:
            self._close_normalizers()
            raise
        self.observation_space = self._normalized(space)

    # What is normalized, and back.

    def normalize_obs(self, obs: Any) -> Any:
        """Observations with the statistics in use, bounded by clip_obs, in float32. A new array; updates nothing."""
        return self._map(obs, lambda normalizer, part: normalizer.normalize(part).astype(np.float32))

    def unnormalize_obs(self, obs: Any) -> Any:
        """The inverse of normalize_obs, but for what clip_obs has cut off."""
        return self._map(obs, lambda normalizer, part: normalizer.denormalize(part))

    def normalize_reward(self, reward: Array) -> Array:
        """Rewards by the standard deviation of the discounted return, bounded by clip_reward. Updates nothing."""
        if not self.norm_reward:
            return reward
        return np.asarray(np.clip(reward / self._deviation(), -self.clip_reward, self.clip_reward))

    def unnormalize_reward(self, reward: Array) -> Array:
        """The inverse of normalize_reward, but for what clip_reward has cut off."""
        return np.asarray(reward * self._deviation()) if self.norm_reward else reward

    def get_original_obs(self) -> Any:
        """The observations of the last step or reset as the environments gave them."""
        return copy.deepcopy(self.old_obs)

    def get_original_reward(self) -> Array:
        """The rewards of the last step as the environments gave them."""
        return np.array(self.old_reward)

    # The shared statistics.

    @property
    def obs_rms(self) -> Union[None, RunningMeanStd, dict[str, RunningMeanStd]]:
        """The statistics in use, by key for Dict observations; None without norm_obs.

        Set, they are used until the next push; the layer stays as it is. So Stable-Baselines3's evaluation gives an
        environment that does not train the statistics of one that does.
        """
        if None in self._normalizers:
            return self._normalizers[None].obs_rms
        found = {key: normalizer.obs_rms for key, normalizer in self._normalizers.items() if key is not None}
        return found or None

    @obs_rms.setter
    def obs_rms(self, statistics: Any) -> None:
        for key, normalizer in self._normalizers.items():
            normalizer.use(statistics if key is None else statistics[key])

    @property
    def ret_rms(self) -> Optional[RunningMeanStd]:
        """The statistics of the discounted return; None without norm_reward. As obs_rms."""
        return None if self._return_normalizer is None else self._return_normalizer.obs_rms

    @ret_rms.setter
    def ret_rms(self, statistics: Any) -> None:
        if self._return_normalizer is not None:
            self._return_normalizer.use(statistics)

    def push(self) -> None:
        """Sends what has been seen, and takes over the newest statistics of all processes.

        Raises:
            Error: as RunningNormalizer.push; nothing is lost.
        """
        for normalizer in self._all():
            normalizer.push()

    def close(self) -> None:
        """Pushes what is left, and closes the environments."""
        try:
            self._close_normalizers()
        finally:
            self.venv.close()

    # Settings.

    def save(self, path: str) -> None:
        """Writes what is local, which is the settings, as JSON. The statistics are on the server: see snapshots."""
        settings = {name: getattr(self, name) for name in self._SETTINGS}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"layer": self.layer, **settings}, file, indent=1)

    @classmethod
    def load(cls, path: str, venv: Any, client: Union[Client, str]) -> Any:
        """A wrapper of `venv` with the settings that save() wrote, on the same layers.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not one of save()'s, or its settings do not fit the environments.
        """
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        if not isinstance(settings, dict) or set(settings) != {"layer", *cls._SETTINGS}:
            raise ValueError(f"{path} does not hold the settings of a {cls.__name__}")
        return cls(venv, client, settings.pop("layer"), **settings)

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not here. Nothing to ask before __init__ has begun, as in copy and pickle.
        if name.startswith("__") or "venv" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.venv, name)

    def __repr__(self) -> str:
        return f"normd.sb3.{type(self).__name__}({self.venv!r}, {self._client.target!r}, {self.layer!r})"

    # The rest is for the wrappers.

    def _after_reset(self, obs: Any) -> Any:
        self.old_obs = obs
        self.returns = np.zeros(self.num_envs)
        if self.training:
            self._observe(obs)
        elif self.push_every is None:
            self._try_to_push(self._all())
        return self.normalize_obs(obs)

    def _after_step(self, obs: Any, reward: Array) -> tuple[Any, Array]:
        self.old_obs, self.old_reward = obs, reward
        if self.training:
            self._observe(obs)
            if self._return_normalizer is not None:
                self.returns = self.returns * self.gamma + reward
                self._return_normalizer.observe(self.returns)
                if self.push_every is None:
                    self._try_to_push([self._return_normalizer])
        return self.normalize_obs(obs), self.normalize_reward(reward)

    def _observe(self, obs: Any) -> None:
        if not self.norm_obs:
            return
        for key, normalizer in self._normalizers.items():
            normalizer.observe(obs if key is None else obs[key])
        if self.push_every is None:
            self._try_to_push(list(self._normalizers.values()))

    def _try_to_push(self, normalizers: Sequence[RunningNormalizer]) -> None:
        """A server that is away for a while ends no training: what was seen goes with a later push."""
        for normalizer in normalizers:
            failed_before = normalizer.last_error is not None
            try:
                normalizer.push()
            except (UnavailableError, DeadlineExceededError, ResourceExhaustedError) as error:
                if not failed_before:
                    _log.warning("%r goes on with the statistics that it has: %s", normalizer, error)

    def _map(self, obs: Any, work: Any) -> Any:
        if not self.norm_obs:
            return obs
        if not self._normalizers:
            raise ValueError("norm_obs was False when this was made: there are no statistics of observations")
        if not isinstance(obs, Mapping):
            return work(self._normalizers[None], obs)
        return {key: work(self._normalizers[key], part) if key in self._normalizers else copy.deepcopy(part)
                for key, part in obs.items()}

    def _deviation(self) -> Any:
        """Of the discounted return."""
        if self._return_normalizer is None:
            raise ValueError("norm_reward was False when this was made: there are no statistics of rewards")
        return np.sqrt(self._return_normalizer.var + self.epsilon)

    def _open(self, name: str, shape: Sequence[int], clip: Optional[float]) -> RunningNormalizer:
        channels = int(np.prod(shape, dtype=np.int64))
        start = LayerState(running_mean=np.zeros(channels), running_var=np.ones(channels),
                           sample_count=np.full(channels, _START_COUNT))
        try:
            self._client.create_layer(name, channels, "rl_observation", initial_state=start, eps=self.epsilon,
                                      clip=self.clip_obs if clip is None else clip)
            if clip is None:
                self._client.update_layer(name, clip=None)
        except AlreadyExistsError:
            # Another process was faster, or this is not the first run.
            pass
        normalizer = RunningNormalizer(self._client, name, shape, clip=clip, eps=self.epsilon, create=False,
                                       push_every=self.push_every or 1.0, contributor=self._contributor)
        if self.push_every is not None:
            normalizer.start()
        return normalizer

    def _normalized(self, space: Any) -> Any:
        """The space of what normalize_obs returns: images are no images any more; other bounds stay, as in SB3."""
        if not self.norm_obs:
            return space
        parts = getattr(space, "spaces", None)
        if parts is None:
            return self._normalized_part(space)
        changed = copy.copy(space)
        changed.spaces = type(parts)((key, self._normalized_part(part) if key in self._normalizers else part)
                                     for key, part in parts.items())
        return changed

    def _normalized_part(self, space: Any) -> Any:
        if getattr(space, "dtype", None) != np.uint8:
            return space
        return type(space)(low=-self.clip_obs, high=self.clip_obs, shape=space.shape, dtype=np.float32)

    def _all(self) -> list[RunningNormalizer]:
        returns = self._return_normalizer
        return [*self._normalizers.values(), *([] if returns is None else [returns])]

    def _close_normalizers(self) -> None:
        with contextlib.ExitStack() as closing:
            if self._owns_client:
                closing.callback(self._client.close)
            for normalizer in self._all():
                closing.callback(normalizer.close)


class VecNormalize(_Normalization):
    """Normalizes observations and rewards of a vector environment of Stable-Baselines3, as its VecNormalize does.

        >>> venv = normd.sb3.VecNormalize(DummyVecEnv([make_env] * 8), client, "agent")
        >>> obs = venv.reset()
        >>> obs, rewards, dones, infos = venv.step(actions)

    The formulas, the order of things and the names are Stable-Baselines3's, and so are the numbers where one process is
    alone: statistics are updated with each step, and then used for it. What differs is where they are: in the layers
    "<layer>.obs" (for Dict observations "<layer>.obs.<key>") and "<layer>.returns", which every process with the same
    `layer` trains, each value counted once. The discounted return itself is local, as are the settings.

    For evaluation: training=False, norm_reward=False; then reset() takes over the newest statistics.

    Args:
        venv: has num_envs, observation_space, action_space, reset, step_async, step_wait and close.
        client: a Client, which stays the caller's, or a target for a client of its own.
        layer: the name that the layers begin with. They are made if they do not exist yet.
        training: whether to update the statistics; may be set at any time.
        norm_obs, norm_reward: what to normalize; may be switched off later, and on again if they were True here.
        clip_obs, clip_reward: bounds of normalized values.
        gamma: discount of the return.
        epsilon: added to variances.
        norm_obs_keys: of a Dict space, those to normalize; None: all.
        push_every: None: each step sends what it has seen and takes over the statistics of all, which takes one short
            call for observations and one for rewards. Or seconds: a thread does that, and steps never wait for the
            server, but use statistics that are as old.
        contributor: see RunningNormalizer.
        tls, token, token_file, allow_token_without_tls: of a client of its own; see Client.

    A server that cannot be reached is logged (logger "normd"), and training goes on with the statistics at hand: what
    was seen meanwhile is sent later, once.

    Raises:
        ValueError: norm_obs_keys are no keys of the observation space; a layer that exists has other channels.
        Error: the server cannot be reached.
    """

    def __init__(self, venv: Any, client: Union[Client, str], layer: str, **settings: Any) -> None:
        super().__init__(venv, client, layer, **settings)
        theirs = sys.modules.get("stable_baselines3.common.vec_env")
        if theirs is not None:
            # For isinstance() in its algorithms. A virtual subclass: nothing is inherited.
            theirs.VecNormalize.register(VecNormalize)

    def reset(self) -> Any:
        """Resets all environments; their first observations, normalized."""
        return self._after_reset(self.venv.reset())

    def step_async(self, actions: Any) -> None:
        """Starts a step."""
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
        """Ends it: normalized observations and rewards, dones, infos (with "terminal_observation" normalized)."""
        obs, reward, dones, infos = self.venv.step_wait()
        obs, reward = self._after_step(obs, reward)
        for done, info in zip(dones, infos):
            if done and "terminal_observation" in info:
                info["terminal_observation"] = self.normalize_obs(info["terminal_observation"])
        self.returns[dones] = 0
        return obs, reward, dones, infos

    def step(self, actions: Any) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
        """step_async and step_wait."""
        self.step_async(actions)
        return self.step_wait()

    @property
    def unwrapped(self) -> Any:
        """The environments without wrappers."""
        return getattr(self.venv, "unwrapped", self.venv)


class VectorNormalize(_Normalization):
    """The same for gymnasium.vector.VectorEnv, or what has its methods. See VecNormalize for arguments and errors.

        >>> envs = normd.sb3.VectorNormalize(gymnasium.make_vec("Ant-v5", 8), client, "agent")
        >>> obs, infos = envs.reset(seed=1)
        >>> obs, rewards, terminations, truncations, infos = envs.step(actions)
    """

    def reset(self, **options: Any) -> tuple[Any, Any]:
        """Resets; observations, normalized, and infos. Takes seed and options."""
        obs, infos = self.venv.reset(**options)
        return self._after_reset(obs), infos

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, Any]:
        """A step: observations and rewards, normalized, terminations, truncations, infos (final ones normalized)."""
        obs, reward, terminations, truncations, infos = self.venv.step(actions)
        obs, reward = self._after_step(obs, reward)
        for name in ("final_obs", "final_observation"):
            final = infos.get(name)
            if isinstance(final, np.ndarray) and final.dtype == object:
                for index, one in enumerate(final):
                    if one is not None:
                        final[index] = self.normalize_obs(one)
            elif final is not None:
                infos[name] = self.normalize_obs(final)
        self.returns[np.logical_or(terminations, truncations)] = 0
        return obs, reward, terminations, truncations, infos
