"""Tensor calls whose tensors stand in shared memory: the message says where, and the server works there.

An array of the caller's is copied to a region once; one that lies in a region already (Client.empty, an earlier
result) is not copied at all. The result is written to a region of its own, and handed out as an array there.

What a call must not do is to trust memory that an earlier one may still use. When a call ends by a time-out, a
cancellation or a lost connection, the server may be at it still, so every region that it named is discarded
(_regions.py): never named again, and never handed out again. An attempt that follows starts from the caller's array,
which the server has never seen, in other regions. Only arrays that the caller itself has in regions stay within a late
server's reach; Client says what that means for whoever uses them.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple, Optional, TypeVar

import grpc  # type: ignore[import]
import numpy as np

from normd import _metadata, _tensors
from normd._calls import ANSWERS, Input, TensorCall
from normd._connection import Connection
from normd._in_band import SERVICE, InBand
from normd._regions import NoRoom, Refused, Region, Regions
from normd.errors import Code, Error, TransportWarning
from normd.types import FloatArray
from normd.v1 import normalization_service_pb2 as work_pb

R = TypeVar("R")

# Tensors below this travel in band: their copies take less time than what a range costs. Infer, Unix socket, ms in band
# and through shared memory: 64 KiB 0.27 and 0.36, 128 KiB 0.36 and 0.45 (Client.empty: 0.34), 256 KiB 0.68 and 0.33.
IN_BAND_BELOW = 128 << 10

# After these the server is done with the call. After any other it may have been cut off from us in the middle.
_ENDED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION,
          grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED,
          grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.DATA_LOSS}


class _Place(NamedTuple):
    """Where a tensor stands. The array keeps it there."""

    array: FloatArray
    region: Region

    def range(self) -> Any:
        """For the message."""
        return self.region.at(self.array.ctypes.data)


class SharedMemory:
    """Carries calls out over `connection`; those that shared memory is not for, or not possible for, by `in_band`."""

    def __init__(self, connection: Connection, in_band: InBand) -> None:
        self._connection = connection
        self._in_band = in_band
        self._regions = Regions(connection.channel)
        self._methods = {name: connection.channel.unary_unary(
            SERVICE + name, getattr(work_pb, name + "Request").SerializeToString, answer.FromString)
            for name, answer in ANSWERS.items()}
        # Why shared memory is out of the question, once it is known to be.
        self._off = False
        self._warned_of_room = False

    def close(self) -> None:
        """Ends the session; arrays stay what they are."""
        self._regions.close()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], timeout: float) -> FloatArray:
        """An array in a region; an ordinary one where there can be none, or where it would not help."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if not self._off and nbytes >= IN_BAND_BELOW:
            try:
                lease = self._connection.run(lambda seconds: self._regions.acquire(nbytes, seconds), timeout)
                return lease.array(shape, dtype)
            except (Refused, NoRoom) as reason:
                self._go_without(reason)
        return np.empty(shape, dtype)

    def run(self, call: TensorCall[R], out: Optional[FloatArray], timeout: float) -> R:
        """The call's value; its tensor in `out`, if that is given. Raises Error."""
        if self._off or max(tensor.array.nbytes for tensor in call.inputs) < IN_BAND_BELOW:
            return self._in_band.run(call, out, timeout)
        deadline = time.monotonic() + timeout
        # The caller's own array, to which a late server may still write: then nothing else must.
        repeatable = out is None or self._regions.find(out) is None
        used: list[Region] = []

        def attempt(seconds: float) -> R:
            return self._attempt(call, out, used, seconds)

        replaced = False
        while True:
            left = max(deadline - time.monotonic(), 1e-3)
            try:
                return self._connection.run(attempt, left, repeatable=repeatable)
            except (Refused, NoRoom) as reason:
                self._go_without(reason)
                return self._in_band.run(call, out, max(deadline - time.monotonic(), 1e-3))
            except Error as error:
                if replaced or not self._replace(error, used, repeatable, left):
                    raise
                replaced = True

    def _attempt(self, call: TensorCall[R], out: Optional[FloatArray], used: list[Region], seconds: float) -> R:
        """One try. `used` becomes the regions that the message named."""
        deadline = time.monotonic() + seconds
        del used[:]
        request = type(call.request)()
        request.CopyFrom(call.request)
        places = []
        for tensor in call.inputs:
            places.append(self._place(tensor, deadline))
            field = getattr(request, tensor.name)
            field.CopyFrom(tensor.tensor)
            field.shared_memory.CopyFrom(places[-1].range())
        target = None
        if call.output:
            target = self._target(call, out, places, deadline)
            getattr(request, call.output + "_shared_memory").CopyFrom(target.range())
            places.append(target)
        used += [place.region for place in places]
        try:
            answer = self._methods[call.method](request, timeout=_left(deadline), **_metadata.of(request))
        except BaseException as failure:
            if not isinstance(failure, grpc.RpcError) or failure.code() not in _ENDED:
                for region in used:
                    self._regions.discard(region)
            raise
        if target is None or not answer.HasField(call.output):
            return call.value_of(answer, None, out)
        got, want = getattr(answer, call.output), call.inputs[0].tensor
        if got.data or (got.dtype, got.shape) != (want.dtype, want.shape):
            raise Error(Code.INTERNAL, "the answer's tensor is not the one that was asked for")
        if out is None:
            return call.read(answer, target.array)
        if target.array is not out:
            _tensors.copy_elements(out, target.array)
        return call.read(answer, out)

    def _place(self, tensor: Input, deadline: float) -> _Place:
        """Where the server finds a tensor: where it stands, or a copy."""
        if tensor.array.dtype == tensor.dtype:
            region = self._regions.find(tensor.array)
            if region is not None:
                return _Place(tensor.array, region)
        place = self._new_place(tensor, deadline)
        _tensors.copy_elements(place.array, tensor.array)
        return place

    def _target(self, call: TensorCall[R], out: Optional[FloatArray], places: list[_Place], deadline: float) -> _Place:
        """Where the result goes: to `out` if that lies in a region apart from the inputs, or to a region of its own."""
        if out is not None and not any(np.may_share_memory(out, place.array) for place in places):
            region = self._regions.find(out)
            if region is not None:
                return _Place(out, region)
        return self._new_place(call.inputs[0], deadline)

    def _new_place(self, like: Input, deadline: float) -> _Place:
        lease = self._regions.acquire(like.array.nbytes, _left(deadline))
        return _Place(lease.array(like.array.shape, like.dtype), lease.region)

    def _replace(self, error: Error, used: list[Region], repeatable: bool, seconds: float) -> bool:
        """After an error that a lost region explains: discards it; whether another attempt makes sense."""
        if error.code is Code.DATA_LOSS and repeatable:
            lost = list(used)
        elif error.code is Code.NOT_FOUND:
            # Most likely the layer. Nothing has been written.
            lost = [region for region in used if self._regions.lost(region, seconds)]
        else:
            return False
        # A copy out of what was cut off would end this process.
        whole = all(region.whole for region in used)
        for region in lost:
            self._regions.discard(region)
        return bool(lost) and whole

    def _go_without(self, reason: Exception) -> None:
        """Warns, once: for good after Refused, for this call after NoRoom."""
        if isinstance(reason, NoRoom):
            if not self._warned_of_room:
                self._warned_of_room = True
                warnings.warn(f"tensors go through the socket while there is no shared memory for them: {reason}",
                              TransportWarning, stacklevel=5)
        elif not self._off:
            self._off = True
            warnings.warn(f"no shared memory with this server, tensors go through the socket: {reason}",
                          TransportWarning, stacklevel=5)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
