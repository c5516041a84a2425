"""A shared observation normalizer, as reinforcement learning uses one: many actors, one running mean and variance."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, NoReturn, Optional, Sequence, Union

import numpy as np
from numpy.typing import ArrayLike

from normd import _repr
from normd._convert import per_channel
from normd._security import PathLike, Tls
from normd.client import Client, own_or_given
from normd.errors import AlreadyExistsError, Error, InvalidArgumentError, NotFoundError
from normd.moments import Moments
from normd.types import Float64Array, FloatArray, Layer

_log = logging.getLogger("normd")


@dataclass(frozen=True, eq=False)
class RunningMeanStd:
    """Statistics under the names of Stable-Baselines3's RunningMeanStd.

    Attributes:
        mean, var: of the shape of one observation, float64.
        count: observations behind them.
    """

    mean: Float64Array
    var: Float64Array
    count: float

    def __repr__(self) -> str:
        return _repr.brief(self)


class RunningNormalizer:
    """Normalizes observations with the statistics of everything that all actors have seen. Thread-safe.

        >>> with normd.RunningNormalizer("127.0.0.1:50051", "agent.observation", shape=(17,)) as normalizer:
        ...     while training:
        ...         normalizer.observe(observations)                 # (num_envs, 17)
        ...         actions = policy(normalizer(observations))

    observe() and normalize() work locally and never wait for the server. observe() adds to a delta that no one else has;
    push() sends it and takes over the merged statistics. normalize() uses those and nothing else: what this process has
    seen since its last push is not in them, so that all actors normalize alike; and neither are a layer's gamma and
    beta. Until somebody has pushed they are mean 0 and variance 1.

    A push that fails loses and repeats nothing: its delta keeps its sequence number, and the layer folds a number in
    once. As context manager, or after start(), a thread pushes in the background; failures there are logged, kept in
    `last_error`, and made up for by a later push.

    It cannot be pickled or copied, and not be used on both sides of a fork: two of them must not be one contributor.

    Args:
        client: a Client, which stays the caller's, or a target for a client of its own.
        layer: name of the layer that the actors share.
        shape: of one observation: a number of features, or any shape, every element of which is a channel; () for
            plain numbers, such as returns.
        clip: bound on normalized values; None: none.
        eps: added to the variance before the square root.
        push_every: seconds from one push in the background to the next.
        push_batches: push also when observe() was called so many times; None: only by time.
        create: make the layer, with preset "rl_observation", this clip and this eps, if it does not exist yet.
        contributor: name of this normalizer, at most 128 bytes, used by no other one on this layer. Default: a random
            one. A layer remembers 10,000: give names where many processes come and go. Sequence numbers start at the
            time, in nanoseconds, so that a process that comes back under its name goes on where it was.
        skip_non_finite: leave NaN and infinity in observe() out, instead of refusing them.
        tls, token, token_file, allow_token_without_tls: of a client of its own; see Client.

    Raises:
        Error: the server cannot be reached, or create is False and there is no such layer (NotFoundError).
        ValueError: the layer has another number of channels, or keeps no running statistics.
    """

    def __init__(self, client: Union[Client, str], layer: str, shape: Union[int, Sequence[int]], *,
                 clip: Optional[float] = 10.0, eps: float = 1e-8, push_every: float = 1.0,
                 push_batches: Optional[int] = None, create: bool = True, contributor: Optional[str] = None,
                 skip_non_finite: bool = False, tls: Union[Tls, bool, None] = None, token: Optional[str] = None,
                 token_file: Optional[PathLike] = None, allow_token_without_tls: bool = False) -> None:
        self._shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if any(extent < 1 for extent in self._shape):
            raise ValueError(f"shape is {self._shape}, want extents of 1 or more")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip is {clip}, want a number > 0, or None")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps is {eps}, want a number > 0")
        if not push_every > 0:
            raise ValueError(f"push_every is {push_every}, want seconds > 0")
        if push_batches is not None and push_batches < 1:
            raise ValueError(f"push_batches is {push_batches}, want 1 or more, or None")
        if contributor == "":
            raise ValueError("contributor is empty, want a name or None")
        self._layer, self._clip, self._eps = layer, clip, eps
        self._push_every, self._push_batches = push_every, push_batches
        self._contributor = str(uuid.uuid4()) if contributor is None else contributor
        self._skip_non_finite = skip_non_finite

        # Guards what is below it; never held over a call to the server.
        self._lock = threading.Lock()
        self._delta = Moments.none(math.prod(self._shape))
        self._batches = 0
        self._last_error: Optional[Error] = None
        self._closed = False
        # Sent, under _sequence, and not known to be folded in.
        self._sent: Optional[Moments] = None
        # One push at a time; taken before _lock.
        self._push_lock = threading.Lock()
        self._sequence = time.time_ns()
        # Of the background thread.
        self._thread: Optional[threading.Thread] = None
        self._wake = threading.Event()

        self._owns_client = isinstance(client, str)
        self._client = own_or_given(client, tls, token, token_file, allow_token_without_tls)
        try:
            self._take_over(self._open(create))
        except BaseException:
            self._close_client()
            raise

    # What observations go through.

    def observe(self, x: ArrayLike) -> None:
        """Adds observations to the delta.

        Args:
            x: one observation, or any number of them: real numbers of shape (..., *shape).

        Raises:
            ValueError: another shape; or NaN or infinity, unless skip_non_finite is set. Nothing was added.
            TypeError: x does not hold real numbers.
            RuntimeError: close() was called.
        """
        array = self._checked(x, "x")
        moments = Moments.of_rows(array.reshape(-1, math.prod(self._shape)))
        assert moments.non_finite_count is not None
        bad = int(moments.non_finite_count.sum())
        if bad and not self._skip_non_finite:
            raise ValueError(f"x holds {bad} NaN or infinite values, want finite ones (skip_non_finite is False)")
        with self._lock:
            if self._closed:
                raise RuntimeError("the normalizer is closed")
            self._delta = self._delta.merge(moments)
            self._batches += 1
            if self._push_batches is not None and self._batches >= self._push_batches:
                self._wake.set()

    def normalize(self, x: ArrayLike) -> FloatArray:
        """(x - mean) / sqrt(var + eps), bounded by clip: a new array of x's shape.

        Computed in float64; in x's dtype if that is floating point, else float32, or float64 for integers of 32 bits
        and more.

        Raises:
            ValueError, TypeError: as observe; but NaN stays NaN.
        """
        array = self._checked(x, "x")
        statistics = self.obs_rms
        # An array also of a plain number, which NumPy would give back as no array.
        y = np.asarray((array.astype(np.float64) - statistics.mean) / np.sqrt(statistics.var + self._eps))
        if self._clip is not None:
            np.clip(y, -self._clip, self._clip, out=y)
        return _as_output(y, array.dtype)

    __call__ = normalize

    def denormalize(self, y: ArrayLike) -> FloatArray:
        """The inverse of normalize, but for what clip has cut off: y * sqrt(var + eps) + mean."""
        array = self._checked(y, "y")
        statistics = self.obs_rms
        x = np.asarray(array.astype(np.float64) * np.sqrt(statistics.var + self._eps) + statistics.mean)
        return _as_output(x, array.dtype)

    # The shared statistics.

    @property
    def obs_rms(self) -> RunningMeanStd:
        """The statistics in use: those of the last push, or of the start. One consistent version; not to be written to."""
        return self._statistics

    @property
    def mean(self) -> Float64Array:
        """Of each element of an observation."""
        return self._statistics.mean

    @property
    def var(self) -> Float64Array:
        """Of each element of an observation."""
        return self._statistics.var

    @property
    def count(self) -> float:
        """Observations behind them, of all actors; of the element that has the most."""
        return self._statistics.count

    @property
    def contributor(self) -> str:
        """The name under which this normalizer pushes."""
        return self._contributor

    @property
    def pending(self) -> int:
        """Observations of this normalizer that are not known to be in the layer yet."""
        with self._lock:
            sent = 0 if self._sent is None else int(self._sent.count.max())
            return sent + int(self._delta.count.max())

    @property
    def last_error(self) -> Optional[Error]:
        """Why the last push failed; None if it did not."""
        return self._last_error

    def use(self, statistics: Any) -> None:
        """Normalizes with these from now on, until the next push; the layer and the delta stay as they are.

        Args:
            statistics: has mean, var and count, as RunningMeanStd.

        Raises:
            ValueError: they are of another shape.
        """
        mean, var = np.asarray(statistics.mean), np.asarray(statistics.var)
        if mean.shape != self._shape or var.shape != self._shape:
            raise ValueError(f"mean and var have shapes {mean.shape} and {var.shape}, want {self._shape}")
        self._set_statistics(mean, var, np.asarray([statistics.count]))

    # To and from the server.

    def push(self, *, timeout: Optional[float] = None) -> None:
        """Sends the delta, if there is one, and takes over the newest statistics. Returns when that is done.

        Raises:
            Error: what the server or the connection says. The delta is kept, for the next push to send.
            ValueError: the layer has been replaced by one with other channels.
        """
        with self._push_lock:
            try:
                sent_before = self._sent is not None
                sent = self._send(timeout)
                # What gathered while an earlier push had failed.
                if sent_before:
                    self._send(timeout)
                elif not sent:
                    self._take_over(self._client.get_layer(self._layer, timeout=timeout))
            except Error as error:
                self._last_error = error
                raise
            self._last_error = None

    def start(self) -> None:
        """Starts to push in the background. Does nothing if that is so already."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the normalizer is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._push_in_background, name="normd-push", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Ends the background pushes and pushes what is left. May be called again.

        normalize() goes on working with the last statistics.

        Raises:
            Error: as push. What is left is kept: push() or close() may be called once more.
        """
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._wake.set()
            thread.join()
        if self.pending:
            self.push()
        self._close_client()

    def __enter__(self) -> RunningNormalizer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"normd.RunningNormalizer({self._client.target!r}, {self._layer!r}, {self._shape})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RunningNormalizer cannot be pickled or copied: make one in each process")

    def _open(self, create: bool) -> Layer:
        try:
            return self._client.get_layer(self._layer)
        except NotFoundError:
            if not create:
                raise
        try:
            self._client.create_layer(self._layer, math.prod(self._shape), "rl_observation", clip=self._clip,
                                      eps=self._eps)
            if self._clip is None:
                self._client.update_layer(self._layer, clip=None)
        except AlreadyExistsError:
            # Another actor was faster.
            pass
        return self._client.get_layer(self._layer)

    def _take_over(self, layer: Layer) -> None:
        channels = math.prod(self._shape)
        if layer.config.num_channels != channels:
            raise ValueError(f"layer '{self._layer}' has {layer.config.num_channels} channels, want {channels} for "
                             f"observations of shape {self._shape}")
        if not layer.config.track_running_stats or layer.state is None:
            raise ValueError(f"layer '{self._layer}' keeps no running statistics (track_running_stats is False)")
        self._set_statistics(layer.state.running_mean, layer.state.running_var, layer.state.sample_count)

    def _set_statistics(self, mean: Float64Array, var: Float64Array, sample_count: Float64Array) -> None:
        mean, var = per_channel(mean).reshape(self._shape), per_channel(var).reshape(self._shape)
        mean.flags.writeable = var.flags.writeable = False
        # One assignment, so that readers need no lock.
        self._statistics = RunningMeanStd(mean, var, float(sample_count.max()))

    def _send(self, timeout: Optional[float]) -> bool:
        """Sends what was sent before, or else the delta; whether there was something. Holds _push_lock."""
        with self._lock:
            # Also for one that was sent before: what could not be pushed is to wait, not to wake.
            self._batches = 0
            if self._sent is None:
                if not self._delta.count.any():
                    return False
                self._sent, self._delta = self._delta, Moments.none(math.prod(self._shape))
                self._sequence += 1
            sent = self._sent
        # Those that were left out were left out on purpose.
        moments = Moments(sent.count, sent.mean, sent.m2, sent.min, sent.max)
        try:
            result = self._client.merge_moments(self._layer, moments, contributor=self._contributor,
                                                sequence=self._sequence, timeout=timeout)
        except InvalidArgumentError:
            # Not folded in for sure. With more values it may be accepted.
            with self._lock:
                self._delta, self._sent = sent.merge(self._delta), None
            raise
        with self._lock:
            self._sent = None
        self._set_statistics(result.running_mean, result.running_var, result.sample_count)
        return True

    def _push_in_background(self) -> None:
        while True:
            self._wake.wait(self._push_every)
            with self._lock:
                self._wake.clear()
                if self._closed:
                    return
            failed_before = self._last_error is not None
            try:
                self.push()
            except Error as error:
                if not failed_before:
                    _log.warning("pushing to layer '%s' failed, and will be tried again: %s", self._layer, error)
            except ValueError as error:
                _log.warning("the statistics of layer '%s' cannot be used: %s", self._layer, error)

    def _checked(self, given: ArrayLike, what: str) -> Any:
        array = np.asarray(given)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{what} has dtype {array.dtype}, want real numbers")
        if array.shape[max(array.ndim - len(self._shape), 0):] != self._shape:
            raise ValueError(f"{what} has shape {array.shape}, want (..., {', '.join(map(str, self._shape))})")
        return array

    def _close_client(self) -> None:
        if self._owns_client:
            self._client.close()


def _as_output(values: Any, dtype: np.dtype[Any]) -> FloatArray:
    result: FloatArray = values.astype(dtype if dtype.kind == "f" else np.result_type(dtype, np.float32))
    return result
