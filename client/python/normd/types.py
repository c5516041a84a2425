"""What a layer is, and what calls return: plain values that mirror proto/normd/v1, where each field is explained."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

import numpy as np
import numpy.typing as npt

from normd import _repr

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
# A float16, float32 or float64 array.
FloatArray = npt.NDArray[np.floating[Any]]
# Where the channels are: dimension 1, or the last one.
Layout = Literal["channels_first", "channels_last"]


class Averaging(enum.IntEnum):
    """How the running statistics follow the batches."""

    EXPONENTIAL = 1
    EXPONENTIAL_DEBIASED = 2
    CUMULATIVE = 3
    POOLED = 4


class VarianceEstimator(enum.IntEnum):
    """Which variance goes into running_var: divided by n, or by n - 1."""

    POPULATION = 1
    SAMPLE = 2


class TrainingStatistics(enum.IntEnum):
    """Which statistics normalize the output of train_step."""

    BATCH = 1
    RUNNING_BEFORE_UPDATE = 2
    RUNNING_AFTER_UPDATE = 3


class NonFinitePolicy(enum.IntEnum):
    """What a NaN or an infinity in training does."""

    REJECT = 1
    SKIP_CHANNEL = 2
    PROPAGATE = 3


@dataclass(frozen=True)
class LayerConfig:
    """Settings of a layer, as the server decided them. update_weight and clip are None where they do not apply."""

    num_channels: int
    eps: float
    averaging: Averaging
    update_weight: Optional[float]
    running_var_estimator: VarianceEstimator
    normalize_training_with: TrainingStatistics
    affine: bool
    track_running_stats: bool
    clip: Optional[float]
    non_finite_policy: NonFinitePolicy
    frozen: bool = False


def _empty() -> Float64Array:
    return np.empty(0, np.float64)


def _empty_int() -> Int64Array:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class LayerState:
    """What a layer has learned. Arrays have shape (num_channels,), or (0,) where they do not apply.

    inv_std is 1 / sqrt(running_var + eps): the server returns it, and setting a state ignores it.
    """

    running_mean: Float64Array = field(default_factory=_empty)
    running_var: Float64Array = field(default_factory=_empty)
    sample_count: Float64Array = field(default_factory=_empty)
    num_batches_tracked: int = 0
    skipped_batches: Int64Array = field(default_factory=_empty_int)
    gamma: Float64Array = field(default_factory=_empty)
    beta: Float64Array = field(default_factory=_empty)
    inv_std: Float64Array = field(default_factory=_empty)

    def __repr__(self) -> str:
        return _repr.brief(self)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as the server knows it. `state` is None unless it was asked for.

    Layers of the same `affine_group` share gamma, beta and the optimizer's state; "": this one has its own.
    """

    name: str
    uid: str
    preset: str
    config: LayerConfig
    state: Optional[LayerState]
    version: int
    content_hash: str
    etag: str
    create_time: datetime.datetime
    update_time: datetime.datetime
    affine_group: str = ""

    def __repr__(self) -> str:
        return _repr.layer(self)

    def _repr_html_(self) -> str:
        """For notebooks: a table, and the statistics drawn if matplotlib is installed."""
        return _repr.layer_html(self)


@dataclass(frozen=True, eq=False)
class LayerChange:
    """What a watch tells of a layer: how it is now, or that it is gone.

    Attributes:
        name, uid: which layer; another uid under a known name is another layer, made after that one was deleted.
        version: the layer's; of a deleted one, the last that was told.
        layer: the layer at that version; None: it has been deleted.
    """

    name: str
    uid: str
    version: int
    layer: Optional[Layer]


@dataclass(frozen=True)
class Snapshot:
    """Layers as they were at one moment, under a name; without what they hold.

    Attributes:
        layer, prefix: what was selected; both "": all layers.
        num_layers: in it.
        create_time: when it was made.
    """

    name: str
    layer: str
    prefix: str
    num_layers: int
    create_time: datetime.datetime


@dataclass(frozen=True, eq=False)
class TrainStepResult:
    """Answer of train_step.

    Attributes:
        y: the normalized batch, x's dtype and shape, writable; None with omit_output.
        batch_mean, batch_var: of this batch, shape (C,); the variance is the population's. backward wants both.
        version, content_hash: of the layer after this step (skip_update: as it was read).
        num_batches_tracked: steps folded in up to that version.
        skipped_channels: channels that held NaN or infinity, under NonFinitePolicy.SKIP_CHANNEL.
        replayed: the server knew this request_id and folded nothing in now.
    """

    y: Optional[FloatArray]
    batch_mean: Float64Array
    batch_var: Float64Array
    version: int
    content_hash: str
    num_batches_tracked: int
    skipped_channels: Int64Array
    replayed: bool

    def __repr__(self) -> str:
        return _repr.brief(self)


@dataclass(frozen=True, eq=False)
class InferResult:
    """Answer of infer and denormalize: an array of the input's dtype and shape, writable, and the version behind it."""

    output: FloatArray
    version: int
    content_hash: str

    def __repr__(self) -> str:
        return _repr.brief(self)


@dataclass(frozen=True, eq=False)
class BackwardResult:
    """Answer of backward.

    Attributes:
        dx: gradient by x, x's dtype and shape, writable; None with omit_dx.
        dgamma, dbeta: gradients by gamma and beta, shape (C,); (0,) on a layer without affine.
        gamma, beta: their new values, shape (C,); (0,) without an optimizer.
        version, content_hash: of the layer after this call.
        replayed: the server knew this request_id and took no step now.
    """

    dx: Optional[FloatArray]
    dgamma: Float64Array
    dbeta: Float64Array
    gamma: Float64Array
    beta: Float64Array
    version: int
    content_hash: str
    replayed: bool

    def __repr__(self) -> str:
        return _repr.brief(self)


@dataclass(frozen=True, eq=False)
class MergeMomentsResult:
    """Answer of merge_moments: the layer's statistics with the moments in them.

    Attributes:
        version, content_hash: of the layer after this call.
        running_mean, running_var, sample_count: at that version, shape (C,).
        num_batches_tracked: steps and merges folded in up to that version.
        replayed: the server knew this request_id or sequence and folded nothing in now.
    """

    version: int
    content_hash: str
    running_mean: Float64Array
    running_var: Float64Array
    sample_count: Float64Array
    num_batches_tracked: int
    replayed: bool

    def __repr__(self) -> str:
        return _repr.brief(self)


@dataclass(frozen=True)
class SGD:
    """A step of torch.optim.SGD that backward takes on the server, for gamma and beta; its own `momentum`."""

    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Adam:
    """A step of torch.optim.Adam (decoupled_weight_decay: AdamW) that backward takes on the server."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False


def AdamW(learning_rate: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,  # noqa: N802
          weight_decay: float = 0.01) -> Adam:
    """A step of torch.optim.AdamW, with its default weight_decay."""
    return Adam(learning_rate, beta1, beta2, eps, weight_decay, decoupled_weight_decay=True)


Optimizer = Union[SGD, Adam]


@dataclass(frozen=True)
class RetryPolicy:
    """A call that failed with UNAVAILABLE is sent again, with the same request_id, after a pause that grows.

    So is one that the server had no room for, if it said when to come back (Error.retry_delay): not before that.

    Attributes:
        max_attempts: in all; 1 means no retry.
        initial_backoff: seconds before the second attempt; the real pause is a random part, from half to all of it.
        max_backoff: seconds that no pause exceeds.
        multiplier: each pause is so many times the one before.
    """

    max_attempts: int = 4
    initial_backoff: float = 0.05
    max_backoff: float = 2.0
    multiplier: float = 2.0
