"""The client: one method per call of the API."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterable, Literal, Optional, Sequence, TypeVar, Union

import numpy as np
from numpy.typing import DTypeLike

from normd import _calls, _convert, _requests, _streams
from normd._calls import TensorCall
from normd._connection import Connection, check_timeout, stream_timeout
from normd._convert import PerChannel
from normd._in_band import SERVICE, InBand
from normd._layers import LayerCalls
from normd._security import PathLike, Security, Tls
from normd._shared_memory import SharedMemory
from normd._snapshots import SnapshotCalls
from normd._steps import Steps
from normd._streams import Chunk, InferStream, TrainStepStream
from normd.moments import Moments
from normd.types import (BackwardResult, FloatArray, InferResult, Layout, MergeMomentsResult, Optimizer, RetryPolicy,
                         TrainStepResult)
from normd.v1 import (layer_service_pb2_grpc, normalization_service_pb2, normalization_service_pb2_grpc,
                      snapshot_service_pb2_grpc)

R = TypeVar("R")

# How tensors get to the server.
Transport = Literal["grpc", "shm"]

DEFAULT_TARGET = "127.0.0.1:50051"


class Client(LayerCalls, SnapshotCalls):
    """A connection to a normd server. Thread-safe: make one and share it. Use it in `with`, or close() it.

    Arrays are float16, float32 or float64 of rank 2 to 8, with any strides; another dtype is a TypeError, since nothing
    is cast unasked. NumPy has no bfloat16: normd.torch takes it. Results have the dtype of the input, and what there is
    per channel is float64. C is the layer's num_channels, on dimension 1 (layout "channels_first") or the last one
    ("channels_last"). What a call returns is a new, writable array; or `out`, if that is given: a C-contiguous array of
    the result's dtype and shape, which may be the input, and whose elements mean nothing if the call fails.

    Every method raises normd.Error, whose subclasses tell the codes apart: NotFoundError for a layer that does not
    exist, InvalidArgumentError for what does not fit it (nothing has changed then), UnavailableError for a server that
    cannot be reached. A call that fails with UNAVAILABLE is repeated as `retry` says; mutations carry a request_id, so
    the server does them once. Give your own request_id to make a call idempotent across restarts of your program.

    A client must not be used on both sides of a fork: make one in each process. Pickling and copying a client give a
    new connection to the same server (pickle), or the same client (copy, deepcopy).

    Args:
        target: "host:port", or "unix:/path/to/socket". The first call connects.
        timeout: seconds for a call that sets none of its own, counting all attempts and pauses together.
        retry: when to try again.
        max_message_bytes: largest message to send and receive; the server has a limit of its own.
        transport: "grpc", or "shm": tensors of 128 KiB and more stand in memory that this process and the server share,
            instead of travelling through the socket. For a server on this host that was started with --shared-memory;
            with any other there is one TransportWarning, and the client goes on as with "grpc". An array is copied
            once, and results lie in that memory, as do arrays that empty() makes; those are not copied at all.
        tls: encrypt the connection, and check who the server is: a normd.Tls, or True for one with defaults. Not for
            Unix sockets.
        token: says to the server who calls; every call carries it, streams and shared memory included. What the server
            does not know is an UnauthenticatedError, what it may not do a PermissionDeniedError; neither is repeated.
            A pickle of the client holds it.
        token_file: a file with the token instead; white space at its end does not count. It is read again for each
            call and stream, so that a new token needs no new client. While it cannot be read later on, calls have the
            last token, and the logger "normd" a warning.
        allow_token_without_tls: send the token, too, to a server that is neither on loopback nor on a Unix socket, where
            whoever sees the packets can read it.
        sleep: used between attempts; for tests.

    Raises:
        ValueError: a setting is not one of those, contradicts another, or names a file that does not hold what it
            should; a token would travel where anyone could read it.
        OSError: a file cannot be read.

    With transport "shm", three things differ. Results are shared with children of a fork, not copied. After a call that
    timed out, was cancelled or lost the connection, the server may for a while still read and write arrays in shared
    memory that it was given (arrays of empty(), earlier results): take new ones then. And a call whose `out` is such an
    array is not repeated after UNAVAILABLE.
    """

    def __init__(self, target: str = DEFAULT_TARGET, *, timeout: float = 30.0, retry: RetryPolicy = RetryPolicy(),
                 max_message_bytes: int = 1 << 30, transport: Transport = "grpc",
                 tls: Union[Tls, bool, None] = None, token: Optional[str] = None,
                 token_file: Optional[PathLike] = None, allow_token_without_tls: bool = False,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        if transport not in ("grpc", "shm"):
            raise ValueError(f"transport is {transport!r}, want 'grpc' or 'shm'")
        self._settings = {"target": target, "timeout": check_timeout(timeout, timeout), "retry": retry,
                          "max_message_bytes": max_message_bytes, "transport": transport, "tls": tls, "token": token,
                          "token_file": token_file, "allow_token_without_tls": allow_token_without_tls}
        self._timeout = timeout
        self._connection = Connection(target, retry, max_message_bytes, sleep,
                                      security=Security(tls, token, token_file, allow_token_without_tls))
        self._layers = layer_service_pb2_grpc.LayerServiceStub(self._connection.channel)
        self._snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(self._connection.channel)
        self._normalization = normalization_service_pb2_grpc.NormalizationServiceStub(self._connection.channel)
        in_band = InBand(self._connection)
        self._shared = SharedMemory(self._connection, in_band) if transport == "shm" else None
        self._transport: Union[InBand, SharedMemory] = self._shared or in_band

    @property
    def target(self) -> str:
        """Where the server is."""
        return str(self._settings["target"])

    def close(self) -> None:
        """Ends the connection; calls under way fail with CANCELLED. May be called again."""
        if self._shared is not None:
            self._shared.close()
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"normd.Client({self.target!r})"

    def __copy__(self) -> Client:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Client:
        return self

    def __reduce__(self) -> tuple[Callable[..., Client], tuple[dict[str, Any]]]:
        return _connect, (self._settings,)

    # The work of layers.

    def empty(self, shape: Union[int, Sequence[int]], dtype: DTypeLike = np.float32, *,
              timeout: Optional[float] = None) -> FloatArray:
        """An array to fill and pass to a call, as numpy.empty makes it; with transport "shm", in shared memory."""
        kind: np.dtype[Any] = np.dtype(dtype)
        extents = (shape,) if isinstance(shape, int) else tuple(shape)
        if self._shared is None:
            return np.empty(extents, kind)
        return self._shared.empty(extents, kind, check_timeout(timeout, self._timeout))

    def train_step(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first",
                   gamma: Optional[PerChannel] = None, beta: Optional[PerChannel] = None, omit_output: bool = False,
                   skip_update: bool = False, request_id: Optional[str] = None,
                   out: Optional[FloatArray] = None, timeout: Optional[float] = None) -> TrainStepResult:
        """Normalizes a batch in training mode and folds its statistics into the layer, in one atomic step.

        Args:
            x: (N, C, ...) or, with layout "channels_last", (N, ..., C).
            gamma, beta: new values of the layer's, shape (C,), stored in the same step; both or neither.
            omit_output: do not return y.
            skip_update: normalize, but store nothing.

        Raises:
            InvalidArgumentError: also for NaN or infinity (non_finite_policy REJECT), and for one value per channel
                where running_var divides by n - 1.
        """
        call = _calls.train_step(layer, x, layout, gamma, beta, omit_output, skip_update, request_id)
        return self._carry_out(call, out, timeout)

    def infer(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
              out: Optional[FloatArray] = None, timeout: Optional[float] = None) -> InferResult:
        """Normalizes x, (N, C, ...), with the running statistics. Changes nothing.

        Raises:
            FailedPreconditionError: `version` is given, and the layer is at another one.
        """
        return self._carry_out(_calls.infer(layer, x, layout, version), out, timeout)

    def denormalize(self, layer: str, y: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
                    out: Optional[FloatArray] = None, timeout: Optional[float] = None) -> InferResult:
        """The inverse of infer: x = (y - beta) / (gamma * inv_std) + mean. Changes nothing.

        Raises:
            FailedPreconditionError: a gamma is 0, or the layer keeps no running statistics, or is at another version.
        """
        return self._carry_out(_calls.denormalize(layer, y, layout, version), out, timeout)

    def backward(self, layer: str, x: FloatArray, dy: FloatArray, *, layout: Layout = "channels_first",
                 batch_mean: Optional[PerChannel] = None, batch_var: Optional[PerChannel] = None,
                 frozen: bool = False, gamma: Optional[PerChannel] = None, optimizer: Optional[Optimizer] = None,
                 omit_dx: bool = False, version: int = 0, request_id: Optional[str] = None,
                 out: Optional[FloatArray] = None, timeout: Optional[float] = None) -> BackwardResult:
        """Gradients of x, gamma and beta; with an optimizer, also its step on the layer's gamma and beta.

        Args:
            x: what the forward pass was given.
            dy: gradient of the loss by y, with x's dtype and shape.
            batch_mean, batch_var: as train_step returned them; not with `frozen`.
            frozen: differentiate infer instead of train_step: the running statistics are constants.
            gamma: that of the forward pass, if the layer's may have changed since, shape (C,).
            optimizer: normd.SGD, normd.Adam or normd.AdamW.
            omit_dx: do not return dx.
            version: with `frozen`, the version that infer answered with; 0: the newest.

        Raises:
            FailedPreconditionError: the layer's output in this mode does not come from these statistics, or it is at
                another version.
        """
        call = _calls.backward(layer, x, dy, layout, batch_mean, batch_var, frozen, gamma, optimizer, omit_dx, version,
                               request_id)
        return self._carry_out(call, out, timeout)

    def merge_moments(self, layer: str, moments: Moments, *, contributor: str = "", sequence: int = 0,
                      request_id: Optional[str] = None, timeout: Optional[float] = None) -> MergeMomentsResult:
        """Folds the moments of values that stay here into the layer, in one atomic step; see also RunningNormalizer.

            >>> client.merge_moments("agent.observation", normd.Moments.of(observations))

        To the layer it is a train_step with those values. On a pooled layer, any split of the values and any order of
        merges gives the statistics of one pass over all of them; on another, each merge counts as one batch.

        Args:
            moments: as Moments.of makes them. A non_finite_count above 0 is treated as non_finite_policy says; None
                leaves these values out for good.
            contributor, sequence: whose values these are, at most 128 bytes, and a number above that of the
                contributor's merge before: one that is not is a repetition, and folds nothing in. Recognised as long as
                the layer lives, where a request_id is forgotten some day. Both or neither.

        Raises:
            InvalidArgumentError: also for moments that contradict themselves.
            FailedPreconditionError: the layer keeps no running statistics.
            ResourceExhaustedError: the layer knows 10,000 contributors already.
        """
        request = _requests.merge_moments(layer, moments, contributor, sequence, request_id)
        return _convert.from_merge(self._call(self._normalization.MergeMoments, request, timeout))

    # Streams.

    def steps(self, *, timeout: Optional[float] = None, max_in_flight: int = 16) -> Steps:
        """Many calls on one stream, without the wait for an answer between them: see Steps. Always through the socket.

        For servers far away: on the same host, grpc for Python takes as long for a small call on a stream as for one by
        itself.

            >>> with client.steps() as steps:
            ...     futures = [steps.train_step("net.bn1", x, omit_output=True) for x in batches]
            >>> futures[-1].result().version

        Args:
            timeout: seconds for all of it; None: no limit.
            max_in_flight: calls that may be on their way.
        """
        return Steps(self._stream("Steps"), stream_timeout(timeout), max_in_flight)

    def infer_stream(self, layer: str, chunks: Iterable[Chunk], *, shape: Sequence[int], dtype: DTypeLike,
                     layout: Layout = "channels_first", version: int = 0,
                     timeout: Optional[float] = None) -> InferStream:
        """infer for a tensor of any size, in chunks, in constant memory here and there: an iterator over results.

            >>> chunks = (x[i:i + 32] for i in range(0, len(x), 32))        # x: a numpy.memmap, say
            >>> for y in client.infer_stream("net.bn1", chunks, shape=x.shape, dtype=x.dtype):
            ...     file.write(y)

        One version of the layer answers for all chunks. Nothing is sent again: a stream that fails has failed.

        Args:
            chunks: the elements in row-major order, cut anywhere: arrays of `dtype` and any shape, each of which comes
                back in its shape, or buffers of whole little-endian elements, which come back as 1-D arrays. Empty ones
                are left out. A thread of grpc's iterates over them, some chunks ahead of the results.
            shape, dtype: of the whole tensor.
            version: the version that must answer; 0: the newest.
            timeout: seconds for all of it; None: no limit.

        Raises, from the iterator:
            Error: what infer raises.
            ValueError, TypeError: the chunks are not the elements of such a tensor.
            Exception: whatever the iteration over `chunks` raises.
        """
        call = normalization_service_pb2.InferRequest(layer=layer, version=version)
        whole = _streams.whole(call, tuple(shape), dtype, layout)
        return InferStream(self._stream("InferStream"), call, whole, chunks, stream_timeout(timeout))

    def train_step_stream(self, layer: str, source: Callable[[], Iterable[Chunk]], *, shape: Sequence[int],
                          dtype: DTypeLike, layout: Layout = "channels_first", gamma: Optional[PerChannel] = None,
                          beta: Optional[PerChannel] = None, omit_output: bool = False, skip_update: bool = False,
                          request_id: Optional[str] = None, timeout: Optional[float] = None) -> TrainStepStream:
        """train_step for a batch of any size, in chunks. Returns when the step is done; y is read from what it returns.

            >>> def batch():
            ...     return (x[i:i + 32] for i in range(0, len(x), 32))
            >>> with client.train_step_stream("net.bn1", batch, shape=x.shape, dtype=x.dtype) as stream:
            ...     print(stream.step.version)
            ...     for y in stream:
            ...         file.write(y)

        Args:
            source: called once for the statistics, and unless `omit_output` is set once more for y; returns the same
                chunks each time, as infer_stream wants them.
            omit_output: y is not wanted: one pass.
            timeout: seconds for all of it; None: no limit.

        Raises:
            Error, ValueError, TypeError, Exception: as infer_stream and train_step; after a failure of the first pass
                the layer is as it was.
        """
        call = _calls.train_step_request(layer, gamma, beta, omit_output, skip_update, request_id)
        whole = _streams.whole(call, tuple(shape), dtype, layout)
        return TrainStepStream(self._stream("TrainStepStream"), call, whole, source, stream_timeout(timeout))

    def _stream(self, method: str) -> Any:
        return self._connection.stream(SERVICE + method)

    def _carry_out(self, call: TensorCall[R], out: Optional[FloatArray], timeout: Optional[float]) -> R:
        if out is not None:
            call.check_out(out)
        return self._transport.run(call, out, check_timeout(timeout, self._timeout))


def _connect(settings: dict[str, Any]) -> Client:
    return Client(**settings)


def own_or_given(client: Union[Client, str], tls: Union[Tls, bool, None], token: Optional[str],
                 token_file: Optional[PathLike], allow_token_without_tls: bool) -> Client:
    """`client`, or one for the target that it is.

    Raises:
        ValueError: a client is given, and something for another one.
    """
    if isinstance(client, str):
        return Client(client, tls=tls, token=token, token_file=token_file,
                      allow_token_without_tls=allow_token_without_tls)
    if tls or token is not None or token_file is not None or allow_token_without_tls:
        raise ValueError("got a Client and settings of one, want a target with settings, or a Client that has them")
    return client
