"""Layers as they change, for as long as one wants to know: LayerWatch."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable, Iterable, NamedTuple, Optional, Union

import grpc  # type: ignore[import]

from normd import _convert
from normd._connection import error_of
from normd._retry import pause
from normd.errors import CancelledError, Code, Error
from normd.types import Layer, LayerChange, RetryPolicy

_log = logging.getLogger("normd")

# Seconds. A stream that ends sooner, and without an answer, is not tried again at once.
_LONG_ATTEMPT = 5.0


class LayerWatch:
    """Changes of layers: Client.watch() makes it. An iterator over LayerChange. Use it in `with`, or close() it.

    A thread takes in what the server sends, and keeps of each layer the newest only: an iteration that is slow, or
    pauses, goes on with what is there then, each layer once, the one that has waited longest first. A layer that was
    deleted and made again meanwhile is told once, under its new uid.

    When the server goes away, the watch looks for it again, and tells it what it has; so nothing is told twice, and
    nothing that is newer is left out, be it that a layer went in the meantime. After any other error it tells what has
    come before, and then raises that, once and for all.

    Iterate in one thread at a time; close() may be called from any.
    """

    def __init__(self, method: Callable[..., Any], progress: Progress) -> None:
        # Apart from this object, which may then be dropped while the thread waits.
        self._feed = _Feed(method, progress)

    def close(self) -> None:
        """Ends the iteration, also one that waits in another thread. May be called again."""
        self._feed.close()

    def __enter__(self) -> LayerWatch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._feed.close()

    def __iter__(self) -> LayerWatch:
        return self

    def __next__(self) -> LayerChange:
        change = self._feed.take(None)
        if change is None:
            raise StopIteration
        return change

    def poll(self, timeout: float = 0.0) -> Optional[LayerChange]:
        """The next change, if it is there within `timeout` seconds; None otherwise, and after close().

        Raises:
            Error: as the iteration.
        """
        return self._feed.take(timeout)


class _Known(NamedTuple):
    """What has come of a layer."""

    uid: str
    version: int
    deleted: bool


class Progress:
    """What a watch has told, what a stream goes on from, and when the next one starts. For one thread at a time.

    Args:
        request: the message, without what is known.
        known: see Client.watch.
    """

    def __init__(self, retry: RetryPolicy, request: Any, known: Iterable[Union[Layer, LayerChange]]) -> None:
        self._retry = retry
        self._request = request
        self._known = {layer.name: _Known(layer.uid, layer.version, isinstance(layer, LayerChange) and
                                          layer.layer is None) for layer in known}
        self._backoff = retry.initial_backoff
        # Whether no stream has worked yet: the first tells what is wrong.
        self.first = True

    def request(self) -> Any:
        """The message that a stream starts with."""
        del self._request.known[:]
        for name, known in self._known.items():
            self._request.known.add(name=name, uid=known.uid, version=known.version)
        return self._request

    def take_in(self, answer: Any) -> Optional[LayerChange]:
        """What an answer tells; None if that is known."""
        name, uid, version = answer.layer.name, answer.layer.uid, answer.layer.version
        known = self._known.get(name)
        if not answer.deleted:
            self._known[name] = _Known(uid, version, False)
            return LayerChange(name, uid, version, _convert.from_layer(answer.layer))
        if known is not None and known.deleted:
            return None
        if self._request.names:
            # Stays known, for the server does not take a name that it has never heard of.
            self._known[name] = _Known(uid, version, True)
        else:
            self._known.pop(name, None)
        return LayerChange(name, uid, version, None)

    def pause_after(self, error: Error, came: bool, lasted: float) -> Optional[float]:
        """Seconds until the next stream, after one that ended; None: that was the last.

        Args:
            came: whether it brought something.
            lasted: seconds.
        """
        # A proxy that stops cancels. So does a client that is closed, which the next attempt finds.
        if error.code not in (Code.UNAVAILABLE, Code.CANCELLED) and error.retry_delay is None:
            return None
        if came or self.first or lasted > _LONG_ATTEMPT:
            self._backoff, self.first = self._retry.initial_backoff, False
            if error.code is not Code.CANCELLED:
                _log.warning("a watch of layers has lost the server, and looks for it: %s", error)
        wait = pause(self._retry, self._backoff, error)
        self._backoff *= self._retry.multiplier
        return wait


class _Feed:
    """What has come and was not taken yet, and the thread that brings it."""

    def __init__(self, method: Callable[..., Any], progress: Progress) -> None:
        self._method = method
        # Of the thread.
        self._progress = progress
        # Guards what follows; notified when it changes.
        self._changed = threading.Condition()
        self._news: dict[str, LayerChange] = {}
        self._call: Any = None
        self._closed = False
        self._failure: Optional[Error] = None
        threading.Thread(target=self._run, name="normd watch", daemon=True).start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._news.clear()
            call = self._call
            self._changed.notify_all()
        if call is not None:
            call.cancel()

    def take(self, timeout: Optional[float]) -> Optional[LayerChange]:
        """The next change; None: there is none in time, or close() was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._closed or self._failure is not None, timeout)
            if self._news:
                return self._news.pop(next(iter(self._news)))
            if self._failure is not None and not self._closed:
                raise self._failure
            return None

    def _run(self) -> None:
        while True:
            started = time.monotonic()
            came, error, lost = self._receive()
            wait = self._progress.pause_after(error, came, time.monotonic() - started) if lost else None
            with self._changed:
                if wait is None:
                    self._failure = error
                    self._changed.notify_all()
                if wait is None or self._closed:
                    return
                self._changed.wait_for(lambda: self._closed, wait)

    def _receive(self) -> tuple[bool, Error, bool]:
        """Reads one stream to its end; whether something came, why it ended, and whether another one may go on."""
        came = False
        with self._changed:
            if self._closed:
                return came, CancelledError(Code.CANCELLED, "the watch is closed"), False
            try:
                # But for the first, which tells what is wrong, a call waits for a server: grpc looks for one, once in
                # two seconds, only while somebody waits.
                self._call = self._method(self._progress.request(), wait_for_ready=not self._progress.first)
            except ValueError as closed:
                # What grpc raises on a closed channel.
                return came, CancelledError(Code.CANCELLED, f"the client is closed ({closed})"), False
        try:
            for answer in self._call:
                came = True
                change = self._progress.take_in(answer)
                with self._changed:
                    if change is not None and not self._closed:
                        self._news[change.name] = change
                        self._changed.notify_all()
        except grpc.RpcError as failure:
            return came, error_of(failure), True
        except Exception as broken:
            self._call.cancel()
            return came, Error(Code.INTERNAL, f"an answer cannot be read: {broken}"), False
        return came, Error(Code.UNAVAILABLE, "the server has ended the stream"), True
