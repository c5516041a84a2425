"""Many tensor calls on one stream, for asyncio."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Callable, Optional, TypeVar

import grpc  # type: ignore[import]
import grpc.aio  # type: ignore[import]
from google.protobuf.message import DecodeError

from normd import _calls, _metadata, _steps, _wire
from normd._calls import TensorCall
from normd._convert import PerChannel
from normd.aio._connection import Connection
from normd.errors import CancelledError, Code, Error
from normd.types import BackwardResult, FloatArray, InferResult, Layout, Optimizer, TrainStepResult

R = TypeVar("R")


class Steps:
    """Calls that are sent without waiting for the one before: Client.steps() makes it. Use it in `async with`.

    To await a method is to wait until the call is on its way (at most `max_in_flight`, or 64 MiB, are), and gives a
    future of what Client's method would return. The rest is as normd.Steps says: the server carries the calls out one
    after the other, nothing is sent again, leaving the `async with` waits for all answers, and leaving it by an
    exception or a cancellation cancels what is not answered. Cancelling a future does not call its step back.
    """

    def __init__(self, connection: Connection, method: Callable[..., Any], timeout: Optional[float],
                 max_in_flight: int) -> None:
        self._connection = connection
        self._ledger = _steps.Ledger(max_in_flight)
        self._requests: asyncio.Queue[Optional[bytes]] = asyncio.Queue()
        self._changed = asyncio.Condition()
        # Why no call is taken any more.
        self._ended: Optional[Error] = None
        self._call = connection.start(method, self._messages(), timeout=timeout, **_metadata.of())
        self._reader = asyncio.create_task(self._read(), name="normd steps")

    async def train_step(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first",
                         gamma: Optional[PerChannel] = None, beta: Optional[PerChannel] = None,
                         omit_output: bool = False, skip_update: bool = False, request_id: Optional[str] = None,
                         out: Optional[FloatArray] = None) -> asyncio.Future[TrainStepResult]:
        """As Client.train_step."""
        call = _calls.train_step(layer, x, layout, gamma, beta, omit_output, skip_update, request_id)
        return await self._send(call, out)

    async def infer(self, layer: str, x: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
                    out: Optional[FloatArray] = None) -> asyncio.Future[InferResult]:
        """As Client.infer."""
        return await self._send(_calls.infer(layer, x, layout, version), out)

    async def denormalize(self, layer: str, y: FloatArray, *, layout: Layout = "channels_first", version: int = 0,
                          out: Optional[FloatArray] = None) -> asyncio.Future[InferResult]:
        """As Client.denormalize."""
        return await self._send(_calls.denormalize(layer, y, layout, version), out)

    async def backward(self, layer: str, x: FloatArray, dy: FloatArray, *, layout: Layout = "channels_first",
                       batch_mean: Optional[PerChannel] = None, batch_var: Optional[PerChannel] = None,
                       frozen: bool = False, gamma: Optional[PerChannel] = None,
                       optimizer: Optional[Optimizer] = None, omit_dx: bool = False, version: int = 0,
                       request_id: Optional[str] = None,
                       out: Optional[FloatArray] = None) -> asyncio.Future[BackwardResult]:
        """As Client.backward."""
        return await self._send(_calls.backward(layer, x, dy, layout, batch_mean, batch_var, frozen, gamma, optimizer,
                                                omit_dx, version, request_id), out)

    async def close(self) -> None:
        """Takes no more calls, and waits until all are answered. May be called again."""
        await self._end(CancelledError(Code.CANCELLED, "these steps are closed"))
        self._requests.put_nowait(None)
        await self._reader

    async def cancel(self) -> None:
        """Takes no more calls; those that are not answered fail with CANCELLED."""
        self._call.cancel()
        await self._end(CancelledError(Code.CANCELLED, "these steps were cancelled"))
        await self._reader

    async def __aenter__(self) -> Steps:
        return self

    async def __aexit__(self, kind: Optional[type[BaseException]], *exc_info: object) -> None:
        if kind is None:
            await self.close()
        else:
            await self.cancel()

    async def _send(self, call: TensorCall[R], out: Optional[FloatArray]) -> asyncio.Future[R]:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        pending, parts = self._ledger.prepare(call, out, future)
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended is not None or self._ledger.has_room(pending))
        # From here on nothing waits: a task that is cancelled has sent its call or has not.
        if self._ended is not None:
            raise self._ended
        self._ledger.enter(pending)
        self._requests.put_nowait(_wire.join(parts))
        return future

    async def _messages(self) -> AsyncIterator[bytes]:
        while True:
            request = await self._requests.get()
            if request is None:
                return
            yield request

    async def _end(self, reason: Error) -> None:
        if self._ended is None:
            self._ended = reason
        async with self._changed:
            self._changed.notify_all()

    async def _read(self) -> None:
        """Matches answers with calls, until the stream ends."""
        try:
            async for data in self._call:
                answer, elements = _steps.parse(data)
                self._ledger.take(answer).settle(answer, elements)
                async with self._changed:
                    self._changed.notify_all()
            end = Error(Code.INTERNAL, "the server ended the stream without an answer")
        except (grpc.RpcError, asyncio.CancelledError) as failure:
            end = self._ended_by(failure)
        except DecodeError as broken:
            end = Error(Code.INTERNAL, f"an answer cannot be read: {broken}")
        except Error as error:
            end = error
        self._call.cancel()
        for pending in self._ledger.take_rest():
            if not pending.future.done():
                pending.future.set_exception(end)
        await self._end(end)

    def _ended_by(self, failure: BaseException) -> Error:
        try:
            return self._connection.error_of(failure)
        except asyncio.CancelledError:
            return CancelledError(Code.CANCELLED, "these steps were cancelled")
