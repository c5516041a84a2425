"""Many tensor calls on one stream."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Callable, NamedTuple, Optional, TypeVar

import grpc  # type: ignore[import]
from google.protobuf.message import DecodeError

from normd import _calls, _metadata, _wire
from normd._calls import TensorCall
from normd._connection import error_of
from normd._convert import PerChannel
from normd.errors import CancelledError, Code, Error, error_for
from normd.types import BackwardResult, FloatArray, InferResult, Layout, Optimizer, TrainStepResult
from normd.v1 import normalization_service_pb2 as pb

R = TypeVar("R")

# Requests under way have at most so many bytes together, or there is one.
MOST_BYTES = 64 << 20

_FIELDS = {"TrainStep": "train_step", "Infer": "infer", "Denormalize": "denormalize", "Backward": "backward"}
_CODES = {code.value for code in Code}
_ANSWERS = [pb.StepsResponse.DESCRIPTOR.fields_by_name[name].number for name in _FIELDS.values()]
_ANSWER_PATH: _wire.Path = (frozenset(_ANSWERS), *_calls.ANSWER_PATH)


class Pending(NamedTuple):
    """A call that is not answered yet."""

    id: int
    call: TensorCall[Any]
    out: Optional[FloatArray]
    nbytes: int
    # A concurrent.futures.Future or an asyncio.Future.
    future: Any

    def settle(self, answer: Any, elements: Optional[memoryview]) -> None:
        """Ends the future with what the answer says."""
        if self.future.done():
            # Cancelled by whoever waited.
            return
        try:
            if answer.status.code:
                status = answer.status
                delay = status.retry_delay.ToNanoseconds() * 1e-9 if status.HasField("retry_delay") else None
                code = Code(status.code).name if status.code in _CODES else "UNKNOWN"
                raise error_for(code, status.message, 1, delay)
            if answer.WhichOneof("result") != _FIELDS[self.call.method]:
                raise Error(Code.INTERNAL, "the answer is of another call")
            result = self.call.value_of(getattr(answer, _FIELDS[self.call.method]), elements, self.out)
        except Exception as failure:
            self.future.set_exception(failure)
        else:
            self.future.set_result(result)


class Ledger:
    """The calls of a stream that are under way, in their order. Whoever owns it guards it, but for prepare()."""

    def __init__(self, max_in_flight: int) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}, want at least 1")
        self._max_in_flight = max_in_flight
        self._ids = itertools.count(1)
        self._pending: deque[Pending] = deque()
        self._bytes = 0

    def prepare(self, call: TensorCall[Any], out: Optional[FloatArray],
                future: Any) -> tuple[Pending, list[_wire.Buffer]]:
        """A call, and its request as parts to join.

        Raises:
            TypeError, ValueError: its result cannot go to `out`.
        """
        if out is not None:
            call.check_out(out)
        number = next(self._ids)
        parts = [_wire.varint(1 << 3) + _wire.varint(number), *_wire.field(
            pb.StepsRequest.DESCRIPTOR.fields_by_name[_FIELDS[call.method]].number, call.parts())]
        return Pending(number, call, out, sum(map(_wire.size, parts)), future), parts

    def has_room(self, pending: Pending) -> bool:
        """Whether it may be sent now."""
        return not self._pending or (len(self._pending) < self._max_in_flight and
                                     self._bytes + pending.nbytes <= MOST_BYTES)

    def enter(self, pending: Pending) -> None:
        """It is sent now."""
        self._pending.append(pending)
        self._bytes += pending.nbytes

    def take(self, answer: Any) -> Pending:
        """The call that is answered.

        Raises:
            Error: the answer is not that of the next one.
        """
        if not self._pending or self._pending[0].id != answer.id:
            raise Error(Code.INTERNAL, f"the server answers call {answer.id}, which is not the next")
        pending = self._pending.popleft()
        self._bytes -= pending.nbytes
        return pending

    def take_rest(self) -> deque[Pending]:
        """Those that are not answered."""
        rest, self._pending = self._pending, deque()
        return rest


def parse(data: bytes) -> tuple[Any, Optional[memoryview]]:
    """An answer, and its elements where they are apart from it. Raises DecodeError."""
    return _wire.split(pb.StepsResponse, data, _ANSWER_PATH)


class Steps:
    """Calls that are sent without waiting for the one before: Client.steps() makes it. Thread-safe. Use it in `with`.

    The methods are those of Client, and return at once, with a future of what Client's would return. The server carries
    the calls out one after the other, in the order in which they were made. A call that fails has its error in its
    future, and the others go on; a stream that fails (a lost connection, the deadline) is the error of every call that
    it has not answered. Nothing is sent again: repeat a call yourself, with the same request_id.

    A method waits while `max_in_flight` calls, or 64 MiB, are on their way. An array may be changed when the method has
    returned; `out` belongs to the call until its future is done. Leaving the `with` waits for all answers; leaving it
    by an exception cancels what is not answered. Done-callbacks run in the thread that reads answers: they must not
    wait.
    """

    def __init__(self, method: Callable[..., Any], timeout: Optional[float], max_in_flight: int) -> None:
        self._ledger = Ledger(max_in_flight)
        self._requests: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        # Guards the ledger and what follows; notified when there is room.
        self._changed = threading.Condition()
        # Why no call is taken any more.
        self._ended: Optional[Error] = None
        try:
            self._call = method(iter(self._requests.get, None), timeout=timeout, **_metadata.of())
        except ValueError as closed:
            raise CancelledError(Code.CANCELLED, f"the client is closed ({closed})") from None
        self._reader = threading.Thread(target=self._read, name="normd steps", daemon=True)
        self._reader.start()

    def train_step(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first",
                   gamma: Optional[PerChannel] = None, beta: Optional[PerChannel] = None, omit_output: bool = False,
                   skip_update: bool = False, request_id: Optional[str] = None,
                   out: Optional[FloatArray] = None) -> Future[TrainStepResult]:
        """As Client.train_step."""
        return self._send(_calls.train_step(layer, x, layout, gamma, beta, omit_output, skip_update, request_id), out)

    def infer(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
              out: Optional[FloatArray] = None) -> Future[InferResult]:
        """As Client.infer."""
        return self._send(_calls.infer(layer, x, layout, version), out)

    def denormalize(self, layer: str, y: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
                    out: Optional[FloatArray] = None) -> Future[InferResult]:
        """As Client.denormalize."""
        return self._send(_calls.denormalize(layer, y, layout, version), out)

    def backward(self, layer: str, x: FloatArray, dy: FloatArray, *, layout: Layout = "channels_first",
                 batch_mean: Optional[PerChannel] = None, batch_var: Optional[PerChannel] = None,
                 frozen: bool = False, gamma: Optional[PerChannel] = None, optimizer: Optional[Optimizer] = None,
                 omit_dx: bool = False, version: int = 0, request_id: Optional[str] = None,
                 out: Optional[FloatArray] = None) -> Future[BackwardResult]:
        """As Client.backward."""
        return self._send(_calls.backward(layer, x, dy, layout, batch_mean, batch_var, frozen, gamma, optimizer,
                                          omit_dx, version, request_id), out)

    def close(self) -> None:
        """Takes no more calls, and waits until all are answered. May be called again."""
        self._end(CancelledError(Code.CANCELLED, "these steps are closed"))
        self._requests.put(None)
        self._reader.join()

    def cancel(self) -> None:
        """Takes no more calls; those that are not answered fail with CANCELLED."""
        self._end(CancelledError(Code.CANCELLED, "these steps were cancelled"))
        self._call.cancel()
        self._requests.put(None)
        self._reader.join()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *exc_info: object) -> None:
        if kind is None:
            self.close()
        else:
            self.cancel()

    def _send(self, call: TensorCall[R], out: Optional[FloatArray]) -> Future[R]:
        future: Future[R] = Future()
        pending, parts = self._ledger.prepare(call, out, future)
        # It is on its way: no cancel().
        future.set_running_or_notify_cancel()
        with self._changed:
            self._changed.wait_for(lambda: self._ended is not None or self._ledger.has_room(pending))
            if self._ended is not None:
                raise self._ended
            self._ledger.enter(pending)
            # Under the lock: in the order in which answers are expected.
            self._requests.put(_wire.join(parts))
        return future

    def _end(self, reason: Error) -> None:
        with self._changed:
            if self._ended is None:
                self._ended = reason
            self._changed.notify_all()

    def _read(self) -> None:
        """Matches answers with calls, until the stream ends."""
        try:
            for data in self._call:
                self._settle(data)
            end = Error(Code.INTERNAL, "the server ended the stream without an answer")
        except grpc.RpcError as failure:
            end = error_of(failure)
        except DecodeError as broken:
            end = Error(Code.INTERNAL, f"an answer cannot be read: {broken}")
        except Error as error:
            end = error
        self._call.cancel()
        # Lets grpc's thread go.
        self._requests.put(None)
        self._end(end)
        with self._changed:
            rest = self._ledger.take_rest()
        for pending in rest:
            pending.future.set_exception(end)

    def _settle(self, data: bytes) -> None:
        answer, elements = parse(data)
        with self._changed:
            pending = self._ledger.take(answer)
            self._changed.notify_all()
        pending.settle(answer, elements)
