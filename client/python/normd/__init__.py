"""Client of normd: normalization layers that many processes share, over gRPC.

    >>> with normd.Client("127.0.0.1:50051") as client:
    ...     client.create_layer("net.bn1", 64, preset="pytorch")
    ...     step = client.train_step("net.bn1", x)               # x: floating point, (N, 64, ...)
    ...     y = client.infer("net.bn1", x).output

normd.torch holds drop-in replacements of torch.nn.BatchNorm1d/2d/3d; it is imported on its own, so that this package
needs no torch.
"""

from normd import presets
from normd._content_hash import content_hash
from normd._security import Tls
from normd._steps import Steps
from normd._streams import InferStream, TrainStepStream
from normd._trace import trace_context
from normd._watch import LayerWatch
from normd.client import Client
from normd.errors import (AbortedError, AlreadyExistsError, CancelledError, Code, DeadlineExceededError, Error,
                          FailedPreconditionError, InvalidArgumentError, NotFoundError, PermissionDeniedError,
                          ResourceExhaustedError, RetryTimeoutError, TransportWarning, UnauthenticatedError,
                          UnavailableError)
from normd.moments import Moments
from normd.presets import Preset
from normd.running_normalizer import RunningMeanStd, RunningNormalizer
from normd.types import (SGD, Adam, AdamW, Averaging, BackwardResult, InferResult, Layer, LayerChange, LayerConfig,
                         LayerState, Layout, MergeMomentsResult, NonFinitePolicy, Optimizer, RetryPolicy, Snapshot,
                         TrainingStatistics, TrainStepResult, VarianceEstimator)

__version__ = "0.1.0"

__all__ = [
    "SGD", "AbortedError", "Adam", "AdamW", "AlreadyExistsError", "Averaging", "BackwardResult", "CancelledError",
    "Client", "Code", "DeadlineExceededError", "Error", "FailedPreconditionError", "InferResult", "InferStream",
    "InvalidArgumentError", "Layer", "LayerChange", "LayerConfig", "LayerState", "LayerWatch", "Layout",
    "MergeMomentsResult", "Moments", "NonFinitePolicy", "NotFoundError", "Optimizer", "PermissionDeniedError",
    "Preset", "ResourceExhaustedError", "RetryPolicy", "RetryTimeoutError", "RunningMeanStd", "RunningNormalizer", "Snapshot",
    "Steps", "Tls", "TrainStepResult", "TrainStepStream", "TrainingStatistics", "TransportWarning",
    "UnauthenticatedError", "UnavailableError", "VarianceEstimator", "content_hash", "presets", "trace_context",
]
