"""One gRPC channel: deadlines, retries, and errors as ours."""

from __future__ import annotations

import random
import time
from typing import Any, Callable, Optional

import grpc  # type: ignore[import]

from normd.errors import CancelledError, Code, RetryTimeoutError, error_for
from normd.types import RetryPolicy


class Connection:
    """Sends messages. Thread-safe. `sleep` and `clock` are there for tests."""

    def __init__(self, target: str, retry: RetryPolicy, max_message_bytes: int,
                 sleep: Callable[[float], None] = time.sleep,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._retry = retry
        self._sleep = sleep
        self._clock = clock
        self.channel = grpc.insecure_channel(target, options=[
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # Every Client is a connection of its own, and a server that comes back is found soon.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # Ours keep the request_id and are counted.
            ("grpc.enable_retries", 0),
        ])

    def close(self) -> None:
        """Cancels the calls under way."""
        self.channel.close()

    def call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        """Sends `request`, again on UNAVAILABLE while attempts and time are left. Raises Error."""
        deadline = self._clock() + timeout
        pause = self._retry.initial_backoff
        attempt = 1
        while True:
            try:
                return method(request, timeout=max(deadline - self._clock(), 0.0))
            except ValueError as closed:
                # What grpc raises on a closed channel.
                raise CancelledError(Code.CANCELLED, f"the client is closed ({closed})", attempt) from None
            except grpc.RpcError as failure:
                name, details = failure.code().name, failure.details() or ""
                if name != "UNAVAILABLE" or attempt >= self._retry.max_attempts:
                    raise error_for(name, details, attempt) from None
                wait = random.uniform(0.5, 1.0) * min(pause, self._retry.max_backoff)
                if self._clock() + wait >= deadline:
                    message = f"no attempt succeeded within {timeout:g} s; the last: {details}"
                    raise RetryTimeoutError(Code.UNAVAILABLE, message, attempt) from error_for(name, details, attempt)
            self._sleep(wait)
            pause *= self._retry.multiplier
            attempt += 1


def check_timeout(timeout: Optional[float], default: float) -> float:
    """The call's timeout in seconds, or the client's."""
    value = default if timeout is None else timeout
    if not value > 0:
        raise ValueError(f"timeout is {value!r}, want seconds > 0")
    return float(value)
