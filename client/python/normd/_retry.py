"""When a call that failed is sent again: the policy, apart from how one sends and waits."""

from __future__ import annotations

import random
from typing import Callable

from normd.errors import Code, Error, RetryTimeoutError
from normd.types import RetryPolicy


class Attempts:
    """The attempts of one call: how many there were, and what comes after one that failed.

    Another one follows while attempts and time are left and the server may yet do it. That is after UNAVAILABLE, and
    after a RESOURCE_EXHAUSTED with a retry hint: the server had no room, and says when it expects some; it has not
    looked at the call then. With `repeatable` false, UNAVAILABLE ends it: what the attempt was made of may be gone.
    """

    def __init__(self, retry: RetryPolicy, timeout: float, clock: Callable[[], float],
                 repeatable: bool = True) -> None:
        self._retry = retry
        self._timeout = timeout
        self._clock = clock
        self._repeatable = repeatable
        self._deadline = clock() + timeout
        self._backoff = retry.initial_backoff
        # Of the attempt under way, from 1.
        self.number = 1

    @property
    def seconds_left(self) -> float:
        """For the attempt that starts now."""
        return max(self._deadline - self._clock(), 0.0)

    def pause_after(self, error: Error) -> float:
        """Seconds to wait before the attempt that follows the one that failed with `error`.

        Raises:
            Error: there is none to follow: `error`, or that the time does not allow it.
        """
        unavailable = error.code is Code.UNAVAILABLE and self._repeatable
        no_room = error.code is Code.RESOURCE_EXHAUSTED and error.retry_delay is not None
        if not (unavailable or no_room) or self.number >= self._retry.max_attempts:
            raise error
        wait = pause(self._retry, self._backoff, error)
        if self._clock() + wait >= self._deadline:
            if no_room:
                raise error
            message = f"no attempt succeeded within {self._timeout:g} s; the last: {error.message}"
            raise RetryTimeoutError(Code.UNAVAILABLE, message, self.number, error.retry_delay) from error
        self._backoff *= self._retry.multiplier
        self.number += 1
        return wait


def pause(retry: RetryPolicy, backoff: float, error: Error) -> float:
    """A random part of the backoff. A hint is waited for in any case, and clients that got the same one differ."""
    wait = random.uniform(0.5, 1.0) * min(backoff, retry.max_backoff)
    if error.retry_delay is not None:
        wait = max(wait, error.retry_delay * random.uniform(1.0, 1.2))
    return wait
