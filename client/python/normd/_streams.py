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

from normd import _calls, _tensors, _trace, _wire
from normd._connection import error_of
from normd.errors import CancelledError, Code, Error
from normd.types import FloatArray, TrainStepResult
from normd.v1 import normalization_service_pb2 as pb

# An array, or its elements in the order of memory, little-endian.
Chunk = Union[FloatArray, bytes, bytearray, memoryview]

_Stream = TypeVar("_Stream", bound="_ChunkStream")

# Bytes of elements in a message; whole elements of any type.
MESSAGE_BYTES = 1 << 20
_DATA_PATH: _wire.Path = (frozenset((2,)),)


class _Whole:
    """The tensor that the chunks make up: checks and cuts them."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        # Shapes of the chunks that were sent and whose results have not all come.
        self.sent: deque[tuple[int, ...]] = deque()

    def pieces(self, chunks: Iterable[Chunk], answered: bool) -> Iterator[memoryview]:
        """The elements, in pieces of a message; `answered`: each piece comes back as a result."""
        want, got = math.prod(self.shape), 0
        for chunk in chunks:
            shape, elements = self._elements(chunk)
            got += elements.nbytes // self.dtype.itemsize
            if got > want:
                raise ValueError(f"the chunks hold more than the {want} elements of shape {self.shape}")
            if elements.nbytes and answered:
                self.sent.append(shape)
            for start in range(0, elements.nbytes, MESSAGE_BYTES):
                yield elements[start:start + MESSAGE_BYTES]
        if got < want:
            raise ValueError(f"the chunks end after {got} elements, want {want} of shape {self.shape}")

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

    def __init__(self, method: Callable[..., Any], whole: _Whole, messages: Iterator[bytes],
                 timeout: Optional[float]) -> None:
        self._whole = whole
        # Elements whose results have not come.
        self._missing = math.prod(whole.shape)
        self._failure: Optional[BaseException] = None
        self._started = threading.Event()
        self._ended = threading.Event()
        try:
            self._call = method(self._guarded(messages), timeout=timeout, **_trace.headers())
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

    def _receive(self) -> Optional[tuple[Any, Union[bytes, memoryview]]]:
        """The next answer, and its elements; None after the last."""
        try:
            answer, data = _wire.split(self._kind, next(self._call), _DATA_PATH)
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

    def _next(self, first: Union[bytes, memoryview]) -> Optional[FloatArray]:
        """The result of the next chunk, of which `first` may have come already; None after the last."""
        data = first or self._receive_data()
        if data is None and self._missing == 0:
            return None
        if data is None or not self._whole.sent:
            self.close()
            raise Error(Code.INTERNAL, "the server's chunks are not the ones that it was sent")
        result: FloatArray = np.empty(self._whole.sent.popleft(), self._whole.dtype.newbyteorder("="))
        position, flat = 0, result.reshape(-1)
        while data is not None and position < result.size:
            elements = np.frombuffer(data, self._whole.dtype)
            if position + elements.size > result.size:
                break
            flat[position:position + elements.size] = elements
            position += elements.size
            if position == result.size:
                self._missing -= position
                return result
            data = self._receive_data()
        self.close()
        raise Error(Code.INTERNAL, "the server's chunks are not the ones that it was sent")

    def _receive_data(self) -> Union[None, bytes, memoryview]:
        received = self._receive()
        return None if received is None else received[1]


class InferStream(_ChunkStream):
    """Results of infer_stream: an iterator over arrays. Use it in `with`, or read it to its end, or close() it.

    Attributes:
        version, content_hash: of the layer that answers all chunks; 0 and "" until the first one has come.
    """

    _kind = pb.InferStreamResponse

    def __init__(self, method: Callable[..., Any], call: Any, whole: _Whole, chunks: Iterable[Chunk],
                 timeout: Optional[float]) -> None:
        self.version = 0
        self.content_hash = ""
        self._opened = False
        super().__init__(method, whole, _messages(call, whole, chunks, answered=True), timeout)

    def __next__(self) -> FloatArray:
        first: Union[bytes, memoryview] = b""
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

    def __init__(self, method: Callable[..., Any], call: Any, whole: _Whole, source: Callable[[], Iterable[Chunk]],
                 timeout: Optional[float]) -> None:
        # The second pass waits for the step, or for the end of the stream.
        self._go_on = threading.Event()
        super().__init__(method, whole, self._both_passes(call, whole, source), timeout)
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
            self._missing = 0
        self.step: TrainStepResult = _calls.train_step_result(answer.result, None)
        self._go_on.set()

    def _both_passes(self, call: Any, whole: _Whole, source: Callable[[], Iterable[Chunk]]) -> Iterator[bytes]:
        yield from _messages(call, whole, source(), answered=False)
        if not call.omit_output:
            self._go_on.wait()
            if not self._ended.is_set():
                yield from _messages(None, whole, source(), answered=True)

    def __next__(self) -> FloatArray:
        first, self._first = self._first, b""
        result = self._next(first)
        if result is None:
            raise StopIteration
        return result


def whole(call: Any, shape: tuple[int, ...], dtype: Any, layout: Any) -> _Whole:
    """Describes x in `call`, a message of InferRequest or TrainStepRequest."""
    kind = _tensors.wire_dtype(np.dtype(dtype), "x")
    call.x.CopyFrom(_tensors.header(kind, shape, layout))
    return _Whole(shape, kind)


def _messages(call: Any, whole: _Whole, chunks: Iterable[Chunk], answered: bool) -> Iterator[bytes]:
    """Requests; the call goes with the first. The last one waits for the end of the chunks, which may be wrong."""
    head: list[_wire.Buffer] = [] if call is None else _wire.field(1, [call.SerializeToString()])
    missing = math.prod(whole.shape) * whole.dtype.itemsize
    last = _wire.join(head) if head and missing == 0 else None
    for piece in whole.pieces(chunks, answered):
        # Copied here: the source may fill the chunk anew when it is asked for the next.
        message = _wire.join([*head, *_wire.field(2, [piece])])
        head = []
        missing -= piece.nbytes
        if missing > 0:
            yield message
        else:
            last = message
    if last is not None:
        yield last
