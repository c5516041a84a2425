"""The client for asyncio: one coroutine per call of the API."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, Literal, Optional, Sequence, TypeVar, Union

from numpy.typing import DTypeLike

from normd import _calls, _convert, _requests, _streams, _wire
from normd._calls import ANSWERS, TensorCall
from normd._connection import check_timeout, stream_timeout
from normd._convert import PerChannel
from normd._in_band import SERVICE
from normd._security import PathLike, Security, Tls
from normd.aio import _streams as _aio_streams
from normd.aio._connection import Connection, Sleep
from normd.aio._layers import LayerCalls
from normd.aio._snapshots import SnapshotCalls
from normd.aio._steps import Steps
from normd.aio._streams import Chunks, InferStream, TrainStepStream
from normd.client import DEFAULT_TARGET
from normd.moments import Moments
from normd.types import (BackwardResult, FloatArray, InferResult, Layout, MergeMomentsResult, Optimizer, RetryPolicy,
                         TrainStepResult)
from normd.v1 import (layer_service_pb2_grpc, normalization_service_pb2, normalization_service_pb2_grpc,
                      snapshot_service_pb2_grpc)

R = TypeVar("R")


class Client(LayerCalls, SnapshotCalls):
    """A connection to a normd server, for the event loop in which it is made. Use it in `async with`, or close() it.

    The methods are normd.Client's, which say what they do; here they are awaited, and list_layers, watch and
    infer_stream are asynchronous iterators. Any number of calls may be under way. Arrays are turned into messages in the event
    loop: a tensor of 25 MB holds it up for some 40 ms at a time; for such ones use infer_stream and train_step_stream,
    whose chunks become messages in threads, or normd.Client in a thread.

    A task that is cancelled, be it by asyncio.wait_for or a TaskGroup, cancels its call: the server drops it, or has
    done it already. A mutation that is to happen once in any case is called again with the same request_id.

    Args:
        target, timeout, retry, max_message_bytes, tls, token, token_file, allow_token_without_tls: as for normd.Client.
        transport: "grpc"; there is no shared memory for asyncio.
        sleep: used between attempts; for tests.

    Raises:
        RuntimeError: there is no running event loop: make it in a coroutine.
        ValueError: another transport; and as for normd.Client.
        OSError: as for normd.Client.
    """

    def __init__(self, target: str = DEFAULT_TARGET, *, timeout: float = 30.0, retry: RetryPolicy = RetryPolicy(),
                 max_message_bytes: int = 1 << 30, transport: Literal["grpc"] = "grpc",
                 tls: Union[Tls, bool, None] = None, token: Optional[str] = None,
                 token_file: Optional[PathLike] = None, allow_token_without_tls: bool = False,
                 sleep: Sleep = asyncio.sleep) -> None:
        if transport != "grpc":
            raise ValueError(f"transport is {transport!r}, want 'grpc': shared memory is for normd.Client, in a thread")
        self._target = target
        self._timeout = check_timeout(timeout, timeout)
        self._connection = Connection(target, retry, max_message_bytes, sleep,
                                      security=Security(tls, token, token_file, allow_token_without_tls))
        channel = self._connection.channel
        self._layers = layer_service_pb2_grpc.LayerServiceStub(channel)
        self._snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(channel)
        self._normalization = normalization_service_pb2_grpc.NormalizationServiceStub(channel)
        # Bytes to bytes: see _wire.
        self._methods: dict[str, Any] = {name: channel.unary_unary(SERVICE + name) for name in ANSWERS}

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._target

    async def close(self) -> None:
        """Ends the connection; calls under way fail with CANCELLED. May be called again."""
        await self._connection.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"normd.aio.Client({self._target!r})"

    async def train_step(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first",
                         gamma: Optional[PerChannel] = None, beta: Optional[PerChannel] = None,
                         omit_output: bool = False, skip_update: bool = False, request_id: Optional[str] = None,
                         out: Optional[FloatArray] = None, timeout: Optional[float] = None) -> TrainStepResult:
        """As normd.Client.train_step."""
        call = _calls.train_step(layer, x, layout, gamma, beta, omit_output, skip_update, request_id)
        return await self._carry_out(call, out, timeout)

    async def infer(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
                    out: Optional[FloatArray] = None, timeout: Optional[float] = None) -> InferResult:
        """As normd.Client.infer."""
        return await self._carry_out(_calls.infer(layer, x, layout, version), out, timeout)

    async def denormalize(self, layer: str, y: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
                          out: Optional[FloatArray] = None, timeout: Optional[float] = None) -> InferResult:
        """As normd.Client.denormalize."""
        return await self._carry_out(_calls.denormalize(layer, y, layout, version), out, timeout)

    async def backward(self, layer: str, x: FloatArray, dy: FloatArray, *, layout: Layout = "channels_first",
                       batch_mean: Optional[PerChannel] = None, batch_var: Optional[PerChannel] = None,
                       frozen: bool = False, gamma: Optional[PerChannel] = None,
                       optimizer: Optional[Optimizer] = None, omit_dx: bool = False, version: int = 0,
                       request_id: Optional[str] = None, out: Optional[FloatArray] = None,
                       timeout: Optional[float] = None) -> BackwardResult:
        """As normd.Client.backward."""
        call = _calls.backward(layer, x, dy, layout, batch_mean, batch_var, frozen, gamma, optimizer, omit_dx, version,
                               request_id)
        return await self._carry_out(call, out, timeout)

    async def merge_moments(self, layer: str, moments: Moments, *, contributor: str = "", sequence: int = 0,
                            request_id: Optional[str] = None, timeout: Optional[float] = None) -> MergeMomentsResult:
        """As normd.Client.merge_moments."""
        request = _requests.merge_moments(layer, moments, contributor, sequence, request_id)
        return _convert.from_merge(await self._call(self._normalization.MergeMoments, request, timeout))

    def steps(self, *, timeout: Optional[float] = None, max_in_flight: int = 16) -> Steps:
        """As normd.Client.steps: many calls on one stream, without the wait for an answer between them.

            async with client.steps() as steps:
                futures = [await steps.train_step("net.bn1", x, omit_output=True) for x in batches]
            futures[-1].result().version
        """
        return Steps(self._connection, self._stream("Steps"), stream_timeout(timeout), max_in_flight)

    def infer_stream(self, layer: str, chunks: Chunks, *, shape: Sequence[int], dtype: DTypeLike,
                     layout: Layout = "channels_first", version: int = 0,
                     timeout: Optional[float] = None) -> InferStream:
        """As normd.Client.infer_stream; an asynchronous iterator over results.

            async with client.infer_stream("net.bn1", chunks, shape=x.shape, dtype=x.dtype) as stream:
                async for y in stream:
                    ...

        Args:
            chunks: an asynchronous iterable, or another one, which is iterated over in threads, one at a time: it may
                read a numpy.memmap. A stream that ends early leaves a chunk that a thread is working on to it.
        """
        call = normalization_service_pb2.InferRequest(layer=layer, version=version)
        whole = _streams.whole(call, tuple(shape), dtype, layout)
        method = self._stream("InferStream")
        return InferStream(self._connection, method, call, whole, chunks, stream_timeout(timeout))

    async def train_step_stream(self, layer: str, source: Callable[[], Chunks], *, shape: Sequence[int],
                                dtype: DTypeLike, layout: Layout = "channels_first",
                                gamma: Optional[PerChannel] = None, beta: Optional[PerChannel] = None,
                                omit_output: bool = False, skip_update: bool = False,
                                request_id: Optional[str] = None, timeout: Optional[float] = None) -> TrainStepStream:
        """As normd.Client.train_step_stream: to await it is to wait for the step; y is read from what it returns.

            async with await client.train_step_stream("net.bn1", batch, shape=x.shape, dtype=x.dtype) as stream:
                print(stream.step.version)
                async for y in stream:
                    ...

        Args:
            source: called in a thread; returns chunks as infer_stream wants them. May be an asynchronous generator.
        """
        call = _calls.train_step_request(layer, gamma, beta, omit_output, skip_update, request_id)
        whole = _streams.whole(call, tuple(shape), dtype, layout)
        method = self._stream("TrainStepStream")
        return await _aio_streams.train_step(self._connection, method, call, whole, source, stream_timeout(timeout))

    def _stream(self, method: str) -> Any:
        return self._connection.channel.stream_stream(SERVICE + method)

    async def _carry_out(self, call: TensorCall[R], out: Optional[FloatArray], timeout: Optional[float]) -> R:
        if out is not None:
            call.check_out(out)
        # All attempts send the same bytes: x and out may share memory.
        request = _wire.join(call.parts())
        return call.value(await self._call(self._methods[call.method], request, timeout, call.request), out)
