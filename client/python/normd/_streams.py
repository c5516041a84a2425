"""Tensors of any size, in chunks: InferStream and TrainStepStream.

Grpc takes the next message from us when the connection has taken the one before, and gives us the next answer when we
ask: so neither side holds more than some chunks. Messages are bytes, as in _wire.py.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar, Union

import grpc  # type: ignore[import]
import numpy as np
from google.protobuf.message import DecodeError

from normd import _calls, _metadata, _tensors, _wire
from normd._connection import error_of
from normd._wire import Buffer
from normd.errors import CancelledError, Code, Error
from normd.types import FloatArray, TrainStepResult
from normd.v1 import normalization_service_pb2 as pb

# An array, or its elements in the order of memory, little-endian.
Chunk = Union[FloatArray, bytes, bytearray, memoryview]

_Stream = TypeVar("_Stream", bound="_ChunkStream")

# Bytes of elements in a message; whole elements of any type.
MESSAGE_BYTES = 1 << 20
DATA_PATH: _wire.Path = (frozenset((2,)),)


class Whole:
    """The tensor that the chunks make up: checks and cuts them, and puts their results together."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        # Elements whose results have not come.
        self.missing = math.prod(shape)
        # Shapes of the chunks that were sent and whose results have not begun to come.
        self._sent: deque[tuple[int, ...]] = deque()
        # The result that is coming, and how many of its elements have.
        self._result: Optional[FloatArray] = None
        self._position = 0

    def pieces(self, chunk: Chunk, answered: bool) -> Iterator[memoryview]:
        """The elements of a chunk, in pieces of a message; `answered`: they come back as a result."""
        shape, elements = self._elements(chunk)
        if elements.nbytes and answered:
            self._sent.append(shape)
        for start in range(0, elements.nbytes, MESSAGE_BYTES):
            yield elements[start:start + MESSAGE_BYTES]

    def take(self, data: Optional[Buffer]) -> Optional[FloatArray]:
        """Elements of an answer, None for the end of the answers; the result of a chunk once it has come whole.

        Raises:
            Error: they are not what was asked for.
        """
        wrong = Error(Code.INTERNAL, "the server's chunks are not the ones that it was sent")
        if data is None or len(data) % self.dtype.itemsize or not (self._sent or self._result is not None):
            raise wrong
        if self._result is None:
            self._result, self._position = np.empty(self._sent.popleft(), self.dtype.newbyteorder("=")), 0
        elements = np.frombuffer(data, self.dtype)
        end = self._position + elements.size
        if end > self._result.size:
            raise wrong
        self._result.reshape(-1)[self._position:end] = elements
        self._position = end
        if end < self._result.size:
            return None
        result, self._result = self._result, None
        self.missing -= end
        return result

    def _elements(self, chunk: Chunk) -> tuple[tuple[int, ...], memoryview]:
        if isinstance(chunk, np.ndarray):
            if chunk.dtype.newbyteorder("<") != self.dtype:
                raise TypeError(f"a chunk has dtype {chunk.dtype}, want {self.dtype.newbyteorder('=')}")
            return chunk.shape, _tensors.elements(chunk, self.dtype)
        try:
            elements = memoryview(chunk).cast("B")
        except TypeError:
            kind = type(chunk).__name__
            raise TypeError(f"a chunk is a {kind}, want a numpy.ndarray or a contiguous buffer") from None
        count, rest = divmod(elements.nbytes, self.dtype.itemsize)
        if rest:
            raise ValueError(f"a chunk has {elements.nbytes} bytes, want whole elements of {self.dtype.itemsize}")
        return (count,), elements


class _ChunkStream:
    """What the two have in common. For one thread at a time."""

    _kind: Any

    def __init__(self, method: Callable[..., Any], call: Any, whole: Whole, messages: Iterator[bytes],
                 timeout: Optional[float]) -> None:
        self._whole = whole
        self._failure: Optional[BaseException] = None
        self._started = threading.Event()
        self._ended = threading.Event()
        try:
            self._call = method(self._guarded(messages), timeout=timeout, **_metadata.of(call))
        except ValueError as closed:
            raise CancelledError(Code.CANCELLED, f"the client is closed ({closed})") from None
        self._started.set()
        if not self._call.add_callback(self._ended.set):
            self._ended.set()

    def __enter__(self: _Stream) -> _Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self: _Stream) -> _Stream:
        return self

    def close(self) -> None:
        """Ends the stream; what has not come does not. May be called again."""
        self._call.cancel()

    def _guarded(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """The messages. Grpc runs this in a thread of its own; an exception there belongs to whoever reads."""
        try:
            yield from messages
        except GeneratorExit:
            raise
        except BaseException as failure:
            self._failure = failure
            self._started.wait()
            self._call.cancel()

    def _receive(self) -> Optional[tuple[Any, Buffer]]:
        """The next answer, and its elements; None after the last."""
        try:
            answer, data = _wire.split(self._kind, next(self._call), DATA_PATH)
        except StopIteration:
            return None
        except DecodeError as broken:
            self.close()
            raise Error(Code.INTERNAL, f"an answer cannot be read: {broken}") from None
        except grpc.RpcError as failure:
            if self._failure is not None:
                raise self._failure from None
            raise error_of(failure) from None
        return answer, answer.data if data is None else data

    def _next(self, first: Buffer) -> Optional[FloatArray]:
        """The result of the next chunk, of which `first` may have come already; None after the last."""
        data = first or self._receive_data()
        if data is None and self._whole.missing == 0:
            return None
        try:
            result = self._whole.take(data)
            while result is None:
                result = self._whole.take(self._receive_data())
        except Error:
            self.close()
            raise
        return result

    def _receive_data(self) -> Optional[Buffer]:
        received = self._receive()
        return None if received is None else received[1]


class InferStream(_ChunkStream):
    """Results of infer_stream: an iterator over arrays. Use it in `with`, or read it to its end, or close() it.

    Attributes:
        version, content_hash: of the layer that answers all chunks; 0 and "" until the first one has come.
    """

    _kind = pb.InferStreamResponse

    def __init__(self, method: Callable[..., Any], call: Any, whole: Whole, chunks: Iterable[Chunk],
                 timeout: Optional[float]) -> None:
        self.version = 0
        self.content_hash = ""
        self._opened = False
        super().__init__(method, call, whole, messages(call, whole, chunks, answered=True), timeout)

    def __next__(self) -> FloatArray:
        first: Buffer = b""
        if not self._opened:
            received = self._receive()
            self._opened = True
            if received is not None:
                answer, first = received
                self.version, self.content_hash = answer.result.version, answer.result.content_hash
        result = self._next(first)
        if result is None:
            raise StopIteration
        return result


class TrainStepStream(_ChunkStream):
    """A step of train_step_stream that is done, and its y: an iterator over arrays. Use it as InferStream.

    Attributes:
        step: what train_step returns, without y.
    """

    _kind = pb.TrainStepStreamResponse

    def __init__(self, method: Callable[..., Any], call: Any, whole: Whole, source: Callable[[], Iterable[Chunk]],
                 timeout: Optional[float]) -> None:
        # The second pass waits for the step, or for the end of the stream.
        self._go_on = threading.Event()
        super().__init__(method, call, whole, self._both_passes(call, whole, source), timeout)
        if not self._call.add_callback(self._go_on.set):
            self._go_on.set()
        try:
            received = self._receive()
            if received is None:
                raise Error(Code.INTERNAL, "the server ended the stream without an answer")
        except BaseException:
            self.close()
            raise
        answer, self._first = received
        if call.omit_output:
            whole.missing = 0
        self.step: TrainStepResult = _calls.train_step_result(answer.result, None)
        self._go_on.set()

    def _both_passes(self, call: Any, whole: Whole, source: Callable[[], Iterable[Chunk]]) -> Iterator[bytes]:
        yield from messages(call, whole, source(), answered=False)
        if not call.omit_output:
            self._go_on.wait()
            if not self._ended.is_set():
                yield from messages(None, whole, source(), answered=True)

    def __next__(self) -> FloatArray:
        first, self._first = self._first, b""
        result = self._next(first)
        if result is None:
            raise StopIteration
        return result


def whole(call: Any, shape: tuple[int, ...], dtype: Any, layout: Any) -> Whole:
    """Describes x in `call`, a message of InferRequest or TrainStepRequest."""
    kind = _tensors.wire_dtype(np.dtype(dtype), "x")
    call.x.CopyFrom(_tensors.header(kind, shape, layout))
    return Whole(shape, kind)


def messages(call: Any, whole: Whole, chunks: Iterable[Chunk], answered: bool) -> Iterator[bytes]:
    """Requests of one pass over the chunks; `call`, if there is one, goes with the first."""
    cut = Pass(call, whole, answered)
    for chunk in chunks:
        yield from cut.take(chunk)
    yield from cut.end()


class Pass:
    """Messages of one pass over the chunks. The last one waits for the end of the chunks, which may be wrong."""

    def __init__(self, call: Any, whole: Whole, answered: bool) -> None:
        self._whole = whole
        self._answered = answered
        self._head: list[Buffer] = [] if call is None else _wire.field(1, [call.SerializeToString()])
        self._want, self._got = math.prod(whole.shape), 0
        self._last = _wire.join(self._head) if self._head and self._want == 0 else None

    def take(self, chunk: Chunk) -> Iterator[bytes]:
        """Messages of a chunk."""
        for piece in self._whole.pieces(chunk, self._answered):
            self._got += piece.nbytes // self._whole.dtype.itemsize
            if self._got > self._want:
                raise ValueError(f"the chunks hold more than the {self._want} elements of shape {self._whole.shape}")
            # Copied here: the source may fill the chunk anew when it is asked for the next.
            message = _wire.join([*self._head, *_wire.field(2, [piece])])
            self._head = []
            if self._got < self._want:
                yield message
            else:
                self._last = message

    def end(self) -> Iterator[bytes]:
        """The last message, after the last chunk."""
        if self._got < self._want:
            raise ValueError(
                f"the chunks end after {self._got} elements, want {self._want} of shape {self._whole.shape}")
        if self._last is not None:
            yield self._last
