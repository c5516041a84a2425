"""The trace that calls belong to: W3C's Trace Context."""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Iterator

_HEADER = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[0-9a-f-]*)?")
_traceparent: ContextVar[str] = ContextVar("normd_traceparent", default="")


@contextmanager
def trace_context(traceparent: str) -> Iterator[None]:
    """Within it, the calls of every Client, also of normd.aio, carry this trace, and the server's log lines of them name it.

        >>> with normd.trace_context("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"):
        ...     client.infer("net.bn1", x)

    It holds for this thread or asyncio task (a contextvar), not for threads started inside; a stream (Client.steps,
    infer_stream, train_step_stream) keeps the one that it was opened in.

    Args:
        traceparent: as W3C's Trace Context writes it. One that is malformed is ignored, as the standard asks.
    """
    token = _traceparent.set(traceparent if _HEADER.fullmatch(traceparent) else "")
    try:
        yield
    finally:
        _traceparent.reset(token)


def headers() -> tuple[tuple[str, str], ...]:
    """The metadata of a call that carry the trace; none without one."""
    traceparent = _traceparent.get()
    return (("traceparent", traceparent),) if traceparent else ()
