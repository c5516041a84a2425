"""Layers as they change, for as long as one wants to know: LayerWatch."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any, Callable, Iterable, NamedTuple, Optional, Sequence, Union

import grpc  # type: ignore[import]

from normd import _convert
from normd._connection import error_of
from normd.errors import CancelledError, Code, Error
from normd.types import Layer, LayerChange, RetryPolicy
from normd.v1 import layer_service_pb2

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

    def __init__(self, retry: RetryPolicy, method: Callable[..., Any], names: Union[str, Sequence[str], None],
                 prefix: Optional[str], view: int, min_interval: float,
                 known: Iterable[Union[Layer, LayerChange]]) -> None:
        if (names is None) == (prefix is None):
            raise ValueError("want names or a prefix to watch (prefix=\"\": all layers), and not both")
        names = [names] if isinstance(names, str) else list(names or ())
        if prefix is None and not names:
            raise ValueError("there are no names to watch")
        if not 0 <= min_interval <= 3600:
            raise ValueError(f"min_interval is {min_interval!r}, want seconds from 0 to 3600")
        request = layer_service_pb2.WatchLayersRequest(names=names, prefix=prefix or "", view=view)
        request.min_interval.FromNanoseconds(round(min_interval * 1e9))
        # Apart from this object, which may then be dropped while the thread waits.
        self._feed = _Feed(retry, method, request, known)

    def close(self) -> None:
        """Ends the iteration, also one that waits in another thread. May be called again."""
        self._feed.close()

    def __enter__(self) -> LayerWatch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Absent: __init__ has failed.
        feed = self.__dict__.get("_feed")
        if feed is not None:
            feed.close()

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


class _Feed:
    """What has come and was not taken yet, and the thread that brings it."""

    def __init__(self, retry: RetryPolicy, method: Callable[..., Any], request: Any,
                 known: Iterable[Union[Layer, LayerChange]]) -> None:
        self._retry = retry
        self._method = method
        self._request = request
        # Of the thread.
        self._known = {layer.name: _Known(layer.uid, layer.version, isinstance(layer, LayerChange) and
                                          layer.layer is None) for layer in known}
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
        pause, first = self._retry.initial_backoff, True
        while True:
            started = time.monotonic()
            came, error, again = self._receive(first)
            with self._changed:
                if not again:
                    self._failure = error
                    self._changed.notify_all()
                if self._closed or not again:
                    return
            if came or first or time.monotonic() - started > _LONG_ATTEMPT:
                pause, first = self._retry.initial_backoff, False
                if error.code is not Code.CANCELLED:
                    _log.warning("a watch of layers has lost the server, and looks for it: %s", error)
            wait = random.uniform(0.5, 1.0) * min(pause, self._retry.max_backoff)
            if error.retry_delay is not None:
                wait = max(wait, error.retry_delay * random.uniform(1.0, 1.2))
            pause *= self._retry.multiplier
            with self._changed:
                self._changed.wait_for(lambda: self._closed, wait)

    def _receive(self, first: bool) -> tuple[bool, Error, bool]:
        """Reads one stream to its end; whether something came, why it ended, and whether another one may go on."""
        came = False
        del self._request.known[:]
        for name, known in self._known.items():
            self._request.known.add(name=name, uid=known.uid, version=known.version)
        with self._changed:
            if self._closed:
                return came, CancelledError(Code.CANCELLED, "the watch is closed"), False
            try:
                # But for the first, which tells what is wrong, a call waits for a server: grpc looks for one, once in
                # two seconds, only while somebody waits.
                self._call = self._method(self._request, wait_for_ready=not first)
            except ValueError as closed:
                # What grpc raises on a closed channel.
                return came, CancelledError(Code.CANCELLED, f"the client is closed ({closed})"), False
        try:
            for answer in self._call:
                came = True
                self._take_in(answer)
        except grpc.RpcError as failure:
            error = error_of(failure)
            # A proxy that stops cancels. So does a client that is closed, which the next attempt finds.
            again = error.code in (Code.UNAVAILABLE, Code.CANCELLED) or error.retry_delay is not None
            return came, error, again
        except Exception as broken:
            self._call.cancel()
            return came, Error(Code.INTERNAL, f"an answer cannot be read: {broken}"), False
        return came, Error(Code.UNAVAILABLE, "the server has ended the stream"), True

    def _take_in(self, answer: Any) -> None:
        name, uid, version = answer.layer.name, answer.layer.uid, answer.layer.version
        known = self._known.get(name)
        if answer.deleted:
            if known is not None and known.deleted:
                return
            if self._request.names:
                # Stays known, for the server does not take a name that it has never heard of.
                self._known[name] = _Known(uid, version, True)
            else:
                self._known.pop(name, None)
            change = LayerChange(name, uid, version, None)
        else:
            self._known[name] = _Known(uid, version, False)
            change = LayerChange(name, uid, version, _convert.from_layer(answer.layer))
        with self._changed:
            if not self._closed:
                self._news[name] = change
                self._changed.notify_all()
