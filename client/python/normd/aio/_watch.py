"""Changes of layers, as the server tells them, for asyncio."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable, Optional

import grpc  # type: ignore[import]
import grpc.aio  # type: ignore[import]

from normd._watch import Progress
from normd.aio._connection import Connection
from normd.errors import CancelledError, Code, Error
from normd.types import LayerChange


class LayerWatch:
    """Changes of layers: Client.watch() makes it. An asynchronous iterator over LayerChange. Use it in `async with`.

    As normd.LayerWatch, with a task in the place of the thread: it takes in what the server sends, keeps of each layer
    the newest only, and looks for the server when that goes away. Iterate in one task at a time.
    """

    def __init__(self, connection: Connection, method: Callable[..., Any], progress: Progress) -> None:
        self._connection = connection
        self._method = method
        self._progress = progress
        self._news: dict[str, LayerChange] = {}
        # Set when there is something to look at: news, a failure, the end.
        self._changed = asyncio.Event()
        self._closed = False
        self._failure: Optional[Error] = None
        self._task = asyncio.create_task(self._run(), name="normd watch")

    async def close(self) -> None:
        """Ends the iteration, also one that waits in another task. May be called again."""
        self._closed = True
        self._news.clear()
        self._changed.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> LayerWatch:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __aiter__(self) -> LayerWatch:
        return self

    async def __anext__(self) -> LayerChange:
        while not (self._news or self._closed or self._failure is not None):
            self._changed.clear()
            await self._changed.wait()
        # From here on nothing waits: a task that is cancelled loses no change.
        if self._news:
            return self._news.pop(next(iter(self._news)))
        if self._failure is not None and not self._closed:
            raise self._failure
        raise StopAsyncIteration

    async def poll(self, timeout: float = 0.0) -> Optional[LayerChange]:
        """The next change, if it is there within `timeout` seconds; None otherwise, and after close().

        Raises:
            Error: as the iteration.
        """
        if not (self._news or self._closed or self._failure is not None):
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except asyncio.TimeoutError:
                return None
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return None

    async def _run(self) -> None:
        while True:
            started = time.monotonic()
            came, error, lost = await self._receive()
            wait = self._progress.pause_after(error, came, time.monotonic() - started) if lost else None
            if wait is None:
                self._failure = error
                self._changed.set()
                return
            await asyncio.sleep(wait)

    async def _receive(self) -> tuple[bool, Error, bool]:
        """Reads one stream to its end; whether something came, why it ended, and whether another one may go on."""
        came = False
        try:
            # But for the first, which tells what is wrong, a call waits for a server.
            call = self._method(self._progress.request(), wait_for_ready=not self._progress.first)
            async for answer in call:
                came = True
                change = self._progress.take_in(answer)
                if change is not None:
                    self._news[change.name] = change
                    self._changed.set()
        except grpc.RpcError as failure:
            return came, self._connection.error_of(failure), True
        except (grpc.aio.UsageError, asyncio.CancelledError) as failure:
            return came, self._connection.error_of(failure), False
        except Exception as broken:
            call.cancel()
            return came, Error(Code.INTERNAL, f"an answer cannot be read: {broken}"), False
        return came, Error(Code.UNAVAILABLE, "the server has ended the stream"), True
