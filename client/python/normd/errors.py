"""The one family of exceptions that calls to a server raise."""

from __future__ import annotations

import enum
from typing import Optional


class Code(enum.Enum):
    """Status codes of gRPC that a call can end with."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Error(Exception):
    """A call failed; its layer is as it was before (but see DeadlineExceededError). Base of all of them.

    Attributes:
        code: what kind of failure.
        message: what the server said: the layer, what was got and what was wanted.
        attempts: how often the call was sent.
        retry_delay: seconds after which the server expects to have room for the call; None if it did not say.
    """

    def __init__(self, code: Code, message: str, attempts: int = 1, retry_delay: Optional[float] = None) -> None:
        super().__init__(code, message, attempts, retry_delay)
        self.code = code
        self.message = message
        self.attempts = attempts
        self.retry_delay = retry_delay

    def __str__(self) -> str:
        tries = f" (after {self.attempts} attempts)" if self.attempts > 1 else ""
        return f"{self.code.name}: {self.message}{tries}"

    def __reduce__(self) -> tuple[type[Error], tuple[Code, str, int, Optional[float]]]:
        return type(self), (self.code, self.message, self.attempts, self.retry_delay)


class TransportWarning(UserWarning):
    """A client that was asked for shared memory goes on without: calls work, and large ones take longer."""


class InvalidArgumentError(Error):
    """The request does not fit the layer or itself; sending it again cannot help."""


class NotFoundError(Error):
    """There is no such layer."""


class UnauthenticatedError(Error):
    """The server wants a token, or does not know this one; see Client."""


class PermissionDeniedError(Error):
    """The server knows the caller's token, and has not been told that he may do this."""


class AlreadyExistsError(Error):
    """The name is taken."""


class AbortedError(Error):
    """`etag` or `expected_version` is no longer current: read the layer again and decide anew."""


class FailedPreconditionError(Error):
    """The layer's settings or version do not allow this call."""


class ResourceExhaustedError(Error):
    """A limit of the server, or of this client's `max_message_bytes`, was met.

    With `retry_delay`, the server only had no room at the time; the call was sent again after such delays, as long as
    the client's RetryPolicy and the call's timeout allowed.
    """


class CancelledError(Error):
    """The call was cancelled: the client was closed, or the server stopped in the middle."""


class UnavailableError(Error):
    """The server could not be reached, after all attempts. Nothing is known to have happened."""


class RetryTimeoutError(UnavailableError, TimeoutError):
    """The server could not be reached, and the call's `timeout` left no room for another attempt.

    Unlike DeadlineExceededError, no attempt was under way when time ran out. `__cause__` is what the last one met.
    """


class DeadlineExceededError(Error, TimeoutError):
    """The deadline passed while the server had the call.

    A mutation may or may not have happened; call again with the same `request_id` to have it happen exactly once.
    """


_CLASSES: dict[Code, type[Error]] = {
    Code.INVALID_ARGUMENT: InvalidArgumentError,
    Code.NOT_FOUND: NotFoundError,
    Code.ALREADY_EXISTS: AlreadyExistsError,
    Code.UNAUTHENTICATED: UnauthenticatedError,
    Code.PERMISSION_DENIED: PermissionDeniedError,
    Code.ABORTED: AbortedError,
    Code.FAILED_PRECONDITION: FailedPreconditionError,
    Code.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    Code.CANCELLED: CancelledError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
}


def error_for(code_name: str, message: str, attempts: int = 1, retry_delay: Optional[float] = None) -> Error:
    """The exception for a gRPC status code of this name."""
    code = Code.__members__.get(code_name, Code.UNKNOWN)
    return _CLASSES.get(code, Error)(code, message, attempts, retry_delay)
