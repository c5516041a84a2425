"""Tensor calls whose tensors travel inside the messages."""

from __future__ import annotations

from typing import Any, Optional, TypeVar

from normd import _wire
from normd._calls import ANSWERS, TensorCall
from normd._connection import Connection
from normd.types import FloatArray

R = TypeVar("R")

SERVICE = "/normd.v1.NormalizationService/"


class InBand:
    """Carries calls out over `connection`. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Bytes to bytes: see _wire.
        self._methods: dict[str, Any] = {name: connection.channel.unary_unary(SERVICE + name)
                                         for name in ANSWERS}

    def run(self, call: TensorCall[R], out: Optional[FloatArray], timeout: float) -> R:
        """The call's value; its tensor in `out`, if that is given. Raises Error."""
        # All attempts send the same bytes: x and out may share memory.
        request = _wire.join(call.parts())
        return call.value(self._connection.call(self._methods[call.method], request, timeout), out)
