"""One gRPC channel: deadlines, retries, and errors as ours."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Optional, TypeVar

import grpc  # type: ignore[import]
from google.protobuf.message import DecodeError

from normd import _metadata
from normd._retry import Attempts
from normd._security import Security
from normd.errors import CancelledError, Code, Error, error_for
from normd.types import RetryPolicy
from normd.v1 import error_details_pb2

T = TypeVar("T")

# How long after a call that found no server one is waited for; a later one waits anew.
_LOOK_SECONDS = 30.0


class Connection:
    """Sends messages. Thread-safe. `sleep` and `clock` are there for tests."""

    def __init__(self, target: str, retry: RetryPolicy, max_message_bytes: int,
                 sleep: Callable[[float], None] = time.sleep,
                 clock: Callable[[], float] = time.monotonic, security: Security = Security()) -> None:
        self.retry = retry
        self._sleep = sleep
        self._clock = clock
        self.channel = open_channel(grpc, target, max_message_bytes, security)
        # Its answer does not matter, only that it waits until there is a connection.
        self._probe = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        # Guards _looking.
        self._lock = threading.Lock()
        # Whether a probe is on its way.
        self._looking = False

    def close(self) -> None:
        """Cancels the calls under way."""
        self.channel.close()

    def stream(self, path: str) -> Callable[..., Any]:
        """A method whose requests and answers are streams of bytes."""
        method = self.channel.stream_stream(path)

        def start(*args: Any, **kwargs: Any) -> Any:
            call = method(*args, **kwargs)
            call.add_done_callback(lambda ended: self._look_if_lost(ended.code()))
            return call

        return start

    def call(self, method: Callable[..., Any], request: Any, timeout: float, fields: Any = None) -> Any:
        """Sends `request`; see run(). `fields`: the message that it is the bytes of, as far as it says what it is about."""
        metadata = _metadata.of(request if fields is None else fields)

        def attempt(seconds: float) -> Any:
            return method(request, timeout=seconds, **metadata)

        return self.run(attempt, timeout)

    def run(self, attempt: Callable[[float], T], timeout: float, *, repeatable: bool = True) -> T:
        """Calls attempt(seconds left), again while Attempts says so.

        Raises:
            Error: what the last attempt met, or that there was none that the time allowed.
        """
        attempts = Attempts(self.retry, timeout, self._clock, repeatable)
        while True:
            try:
                return attempt(attempts.seconds_left)
            except ValueError as closed:
                # What grpc raises on a closed channel.
                raise CancelledError(Code.CANCELLED, f"the client is closed ({closed})", attempts.number) from None
            except grpc.RpcError as failure:
                error = error_of(failure, attempts.number)
                self._look_if_lost(failure.code())
            self._sleep(attempts.pause_after(error))

    def _look_if_lost(self, code: Any) -> None:
        """After UNAVAILABLE, lets a call wait for a connection, so that a server that comes back is found soon.

        Ours fail at once while there is none, and so none of them stays to read what a new one brings: grpc's own
        background poll, every 5 seconds, would be all that does. Changes nothing about how calls fail.
        """
        if code is not grpc.StatusCode.UNAVAILABLE:
            return
        with self._lock:
            if self._looking:
                return
            self._looking = True
        try:
            self._probe.future(b"", timeout=_LOOK_SECONDS, wait_for_ready=True).add_done_callback(self._looked)
        except ValueError:
            # The channel is closed.
            self._looked(None)

    def _looked(self, _: Any) -> None:
        with self._lock:
            self._looking = False


def open_channel(kind: Any, target: str, max_message_bytes: int, security: Security) -> Any:
    """A channel as ours are. `kind` is grpc or grpc.aio. Connects with the first call."""
    return security.open(kind, target, [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Every Client is a connection of its own, and a server that comes back is found soon.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # What an attempt to connect gets: enough for a server far away, or on a busy machine.
        ("grpc.min_reconnect_backoff_ms", 2000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Ours keep the request_id and are counted.
        ("grpc.enable_retries", 0),
    ])


def error_of(failure: Any, attempts: int = 1) -> Error:
    """Our exception for a grpc.RpcError."""
    code, message = failure.code().name, failure.details() or ""
    if (code, message) == ("CANCELLED", "CANCELLED"):
        # What gRPC's server answers to a call that comes while it stops; it has not looked at it. One that is cancelled
        # here has another message.
        code, message = "UNAVAILABLE", "the server is stopping"
    return error_for(code, message, attempts, _retry_delay(failure))


def _retry_delay(failure: Any) -> Optional[float]:
    """Seconds of the google.rpc.RetryInfo among the error's details; None if there is none that can be read."""
    # Not dict(): grpc.aio's metadata looks like a mapping, and iterates over pairs as grpc's does.
    metadata = failure.trailing_metadata() or ()
    trailer = next((value for key, value in metadata if key == "grpc-status-details-bin"), None)
    if trailer is None:
        return None
    try:
        for detail in error_details_pb2.ErrorStatus.FromString(trailer).details:
            if detail.type_url.rpartition("/")[2] == "google.rpc.RetryInfo":
                info = error_details_pb2.RetryInfo.FromString(detail.value)
                return max(float(info.retry_delay.seconds + info.retry_delay.nanos * 1e-9), 0.0)
    except DecodeError:
        pass
    return None


def check_timeout(timeout: Optional[float], default: float) -> float:
    """The call's timeout in seconds, or the client's."""
    value = default if timeout is None else timeout
    if not value > 0:
        raise ValueError(f"timeout is {value!r}, want seconds > 0")
    return float(value)


def stream_timeout(timeout: Optional[float]) -> Optional[float]:
    """Seconds for all of a stream; None: no limit."""
    return None if timeout is None else check_timeout(timeout, timeout)


class Caller:
    """What the parts of Client have in common."""

    _connection: Connection
    _timeout: float

    def _call(self, method: Callable[..., Any], request: Any, timeout: Optional[float]) -> Any:
        return self._connection.call(method, request, check_timeout(timeout, self._timeout))
