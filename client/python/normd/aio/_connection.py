"""One gRPC channel of an event loop: deadlines, retries, and errors as ours."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any, Awaitable, Callable, Optional, TypeVar

import grpc  # type: ignore[import]
import grpc.aio  # type: ignore[import]

from normd import _metadata
from normd._connection import check_timeout, error_of, open_channel
from normd._retry import Attempts
from normd._security import Security
from normd.errors import CancelledError, Code, Error
from normd.types import RetryPolicy

T = TypeVar("T")

Sleep = Callable[[float], Awaitable[None]]


class Connection:
    """Sends messages, for the event loop in which it was made. `sleep` and `clock` are there for tests.

    Raises:
        RuntimeError: there is no running event loop.
    """

    def __init__(self, target: str, retry: RetryPolicy, max_message_bytes: int, sleep: Sleep = asyncio.sleep,
                 clock: Callable[[], float] = time.monotonic, security: Security = Security()) -> None:
        # Grpc would take another loop where none runs, and fail in the first call.
        asyncio.get_running_loop()
        self.retry = retry
        self._sleep = sleep
        self._clock = clock
        self._closed = False
        # Those with streams: a channel that is closed looks only for calls that a task waits for.
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self.channel = open_channel(grpc.aio, target, max_message_bytes, security)

    async def close(self) -> None:
        """Cancels the calls under way."""
        self._closed = True
        for call in list(self._streams):
            call.cancel()
        await self.channel.close()

    async def call(self, method: Callable[..., Any], request: Any, timeout: float, fields: Any = None) -> Any:
        """Sends `request`, again while Attempts says so. `fields`: as of the other Connection.

        Raises:
            Error: what the last attempt met, or that there was none that the time allowed.
            asyncio.CancelledError: the task was cancelled, and with it the call.
        """
        attempts = Attempts(self.retry, timeout, self._clock)
        metadata = _metadata.of(request if fields is None else fields)
        while True:
            try:
                return await method(request, timeout=attempts.seconds_left, **metadata)
            except (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError) as failure:
                error = self.error_of(failure, attempts.number)
            await self._sleep(attempts.pause_after(error))

    def start(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call with streams. Raises CancelledError, ours, if the client is closed."""
        try:
            call = method(*args, **kwargs)
        except grpc.aio.UsageError as closed:
            raise self.error_of(closed) from None
        self._streams.add(call)
        return call

    async def of_stream(self, call: Any, part: Awaitable[Any]) -> Any:
        """Awaits a part of `call`: a message of it, or its answer. A task that is cancelled here cancels the call.

        Raises:
            Error: what the call has met, with Code.CANCELLED if somebody else has cancelled it.
            asyncio.CancelledError: the task was cancelled.
        """
        # In a task of its own, since grpc tells both cancellations in the same way.
        waiting = asyncio.ensure_future(part)
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            call.cancel()
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        try:
            return waiting.result()
        except grpc.RpcError as failure:
            raise error_of(failure) from None
        except asyncio.CancelledError:
            what = "the client is closed (in the middle of the call)" if self._closed else "the call was cancelled"
            raise CancelledError(Code.CANCELLED, what) from None

    def error_of(self, failure: BaseException, attempts: int = 1) -> Error:
        """Our exception for what grpc raises; `failure` itself is raised if it is the cancellation of this task."""
        if isinstance(failure, grpc.RpcError):
            return error_of(failure, attempts)
        if isinstance(failure, asyncio.CancelledError) and not (self._closed and not _task_is_cancelled()):
            raise failure
        reason = str(failure) or "in the middle of the call"
        return CancelledError(Code.CANCELLED, f"the client is closed ({reason})", attempts)


def _task_is_cancelled() -> bool:
    """Whether somebody has asked for it: a channel that is closed cancels calls, too. Before Python 3.11: perhaps."""
    task = asyncio.current_task()
    return task is None or not hasattr(task, "cancelling") or task.cancelling() > 0


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """As asyncio.to_thread, for work on files; a task that is cancelled waits until the thread is through with it."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        if not working.cancelled():
            # Asked for, lest asyncio say that nobody did.
            working.exception()
        raise


class Caller:
    """What the parts of Client have in common."""

    _connection: Connection
    _timeout: float

    async def _call(self, method: Callable[..., Any], request: Any, timeout: Optional[float],
                    fields: Any = None) -> Any:
        return await self._connection.call(method, request, check_timeout(timeout, self._timeout), fields)
