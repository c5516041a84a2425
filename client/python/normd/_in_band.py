"""Tensor calls whose tensors travel inside the messages."""

from __future__ import annotations

from typing import Any, Optional, TypeVar

from normd import _wire
from normd._calls import ANSWERS, TensorCall
from normd._connection import Connection
from normd.types import FloatArray
from normd.v1 import normalization_service_pb2_grpc

R = TypeVar("R")

SERVICE = "/normd.v1.NormalizationService/"


class InBand:
    """Carries calls out over `connection`. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        stub = normalization_service_pb2_grpc.NormalizationServiceStub(connection.channel)
        # Message to message, and bytes to bytes: see _wire.
        self._small: dict[str, Any] = {name: getattr(stub, name) for name in ANSWERS}
        self._methods: dict[str, Any] = {name: connection.channel.unary_unary(SERVICE + name)
                                         for name in ANSWERS}

    def run(self, call: TensorCall[R], out: Optional[FloatArray], timeout: float) -> R:
        """The call's value; its tensor in `out`, if that is given. Raises Error."""
        if call.small:
            return call.value_of(self._connection.call(self._small[call.method], call.whole(), timeout), None, out)
        # All attempts send the same bytes: x and out may share memory.
        request = _wire.join(call.parts())
        return call.value(self._connection.call(self._methods[call.method], request, timeout, call.request), out)
