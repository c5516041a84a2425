"""Tensors of any size, in chunks, for asyncio: InferStream and TrainStepStream.

As in normd._streams, neither side holds more than some chunks: a task asks for the next message when the connection has
taken the one before, and answers are read when somebody asks for them.
"""

from __future__ import annotations

import asyncio
from typing import (Any, AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator, Optional, TypeVar,
                    Union)

import grpc  # type: ignore[import]
import grpc.aio  # type: ignore[import]
from google.protobuf.message import DecodeError

from normd import _calls, _metadata, _streams, _wire
from normd._streams import Chunk, Whole
from normd._wire import Buffer
from normd.aio._connection import Connection
from normd.errors import Code, Error
from normd.types import FloatArray, TrainStepResult
from normd.v1 import normalization_service_pb2 as pb

# What chunks come from. An Iterable is iterated over in threads.
Chunks = Union[Iterable[Chunk], AsyncIterable[Chunk]]

_Stream = TypeVar("_Stream", bound="_ChunkStream")


class _ChunkStream:
    """What the two have in common. For one task at a time."""

    _kind: Any

    def __init__(self, connection: Connection, method: Callable[..., Any], call: Any, whole: Whole,
                 passes: Callable[[], Awaitable[None]], timeout: Optional[float]) -> None:
        self._connection = connection
        self._whole = whole
        # What the iteration over the caller's chunks has raised.
        self._failure: Optional[BaseException] = None
        self._call = connection.start(method, timeout=timeout, **_metadata.of(call))
        self._sender = asyncio.create_task(self._send(passes), name="normd stream")

    async def __aenter__(self: _Stream) -> _Stream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __aiter__(self: _Stream) -> _Stream:
        return self

    async def close(self) -> None:
        """Ends the stream; what has not come does not. May be called again."""
        self._stop()
        await asyncio.wait([self._sender])

    def _stop(self) -> None:
        self._call.cancel()
        self._sender.cancel()

    async def _send(self, passes: Callable[[], Awaitable[None]]) -> None:
        """Sends all messages; what the caller's source raises meanwhile belongs to whoever reads."""
        try:
            await passes()
            await self._call.done_writing()
        except (_Ended, grpc.RpcError):
            # Whoever reads learns why.
            pass
        except asyncio.CancelledError:
            # By _stop(), or by the source.
            self._call.cancel()
        except BaseException as failure:
            self._failure = failure
            self._call.cancel()

    async def _pass(self, call: Any, source: Callable[[], Chunks], answered: bool) -> None:
        """Sends one pass over the chunks. What may take long, or read files, is done in threads."""
        chunks = await asyncio.to_thread(_called, source)
        if not isinstance(chunks, AsyncIterable):
            await self._write(_streams.messages(call, self._whole, chunks, answered))
            return
        cut = _streams.Pass(call, self._whole, answered)
        try:
            async for chunk in chunks:
                await self._write(cut.take(chunk))
            await self._write(cut.end())
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def _write(self, messages: Iterator[bytes]) -> None:
        # No message is empty.
        while message := await asyncio.to_thread(lambda: next(messages, b"")):
            try:
                await self._call.write(message)
            except (grpc.RpcError, asyncio.InvalidStateError):
                raise _Ended from None

    async def _receive(self) -> Optional[tuple[Any, Buffer]]:
        """The next answer, and its elements; None after the last."""
        try:
            message = await self._connection.of_stream(self._call, self._call.read())
            if message is grpc.aio.EOF:
                return None
            answer, data = _wire.split(self._kind, message, _streams.DATA_PATH)
        except DecodeError as broken:
            self._stop()
            raise Error(Code.INTERNAL, f"an answer cannot be read: {broken}") from None
        except Error:
            self._stop()
            if self._failure is not None:
                raise self._failure from None
            raise
        except asyncio.CancelledError:
            self._stop()
            raise
        return answer, answer.data if data is None else data

    async def _next(self, first: Buffer) -> FloatArray:
        """The result of the next chunk, of which `first` may have come already."""
        data = first or await self._receive_data()
        if data is None and self._whole.missing == 0:
            raise StopAsyncIteration
        try:
            result = self._whole.take(data)
            while result is None:
                result = self._whole.take(await self._receive_data())
        except Error:
            self._stop()
            raise
        return result

    async def _receive_data(self) -> Optional[Buffer]:
        received = await self._receive()
        return None if received is None else received[1]


class InferStream(_ChunkStream):
    """Results of infer_stream: an asynchronous iterator over arrays. Use it in `async with`, or read it to its end.

    A task that is cancelled while it waits for a result ends the stream.

    Attributes:
        version, content_hash: of the layer that answers all chunks; 0 and "" until the first one has come.
    """

    _kind = pb.InferStreamResponse

    def __init__(self, connection: Connection, method: Callable[..., Any], call: Any, whole: Whole, chunks: Chunks,
                 timeout: Optional[float]) -> None:
        self.version = 0
        self.content_hash = ""
        self._opened = False
        super().__init__(connection, method, call, whole, lambda: self._pass(call, lambda: chunks, answered=True), timeout)

    async def __anext__(self) -> FloatArray:
        first: Buffer = b""
        if not self._opened:
            received = await self._receive()
            self._opened = True
            if received is not None:
                answer, first = received
                self.version, self.content_hash = answer.result.version, answer.result.content_hash
        return await self._next(first)


class TrainStepStream(_ChunkStream):
    """A step of train_step_stream that is done, and its y: an asynchronous iterator over arrays. Use it as InferStream.

    Attributes:
        step: what train_step returns, without y.
    """

    _kind = pb.TrainStepStreamResponse
    step: TrainStepResult

    def __init__(self, connection: Connection, method: Callable[..., Any], call: Any, whole: Whole,
                 source: Callable[[], Chunks], timeout: Optional[float]) -> None:
        self._omit_output = call.omit_output
        self._first: Buffer = b""
        # The second pass waits for the step.
        self._go_on = asyncio.Event()
        super().__init__(connection, method, call, whole, lambda: self._both_passes(call, source), timeout)

    async def _step(self) -> None:
        """Waits for the step; nobody has the stream before."""
        try:
            received = await self._receive()
            if received is None:
                raise Error(Code.INTERNAL, "the server ended the stream without an answer")
        except BaseException:
            await self.close()
            raise
        answer, self._first = received
        if self._omit_output:
            self._whole.missing = 0
        self.step = _calls.train_step_result(answer.result, None)
        self._go_on.set()

    async def _both_passes(self, call: Any, source: Callable[[], Chunks]) -> None:
        await self._pass(call, source, answered=False)
        if not call.omit_output:
            await self._go_on.wait()
            await self._pass(None, source, answered=True)

    async def __anext__(self) -> FloatArray:
        first, self._first = self._first, b""
        return await self._next(first)


async def train_step(connection: Connection, method: Callable[..., Any], call: Any, whole: Whole,
                     source: Callable[[], Chunks], timeout: Optional[float]) -> TrainStepStream:
    """The stream of a step that is done."""
    stream = TrainStepStream(connection, method, call, whole, source, timeout)
    await stream._step()
    return stream


class _Ended(Exception):
    """The call takes no more messages; its answer says why."""


def _called(source: Callable[[], Chunks]) -> Chunks:
    try:
        return source()
    except StopIteration as end:
        # A future cannot carry that one.
        raise RuntimeError("the source raised StopIteration") from end
