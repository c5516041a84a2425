"""Shared memory that a server has mapped too: a session, its regions, and arrays that lie in them.

A region is a file of its own below /dev/shm, whose name is gone as soon as the server has mapped it: whatever becomes
of the two processes, nothing stays behind. It holds one tensor at a time. An array in it keeps it through a Lease; when
the last array is gone the region is idle, and taken again for the next tensor of its size, since fresh pages cost
several times what the copy into them costs.

    idle --acquire--> leased --last array gone--> idle
                        |--discard--> discarded           its arrays stay what they are, no call uses it again

A region is discarded when the server may still write to it: after a call of which it is not known that it has ended.
The memory goes when the last array here is gone and the server has unmapped it.
"""

from __future__ import annotations

import bisect
import errno
import mmap
import os
import secrets
import threading
from collections import deque
from typing import Any, Callable, Optional

import grpc  # type: ignore[import]
import numpy as np

from normd.errors import Code
from normd.types import FloatArray
from normd.v1 import shared_memory_service_pb2 as pb
from normd.v1 import shared_memory_service_pb2_grpc as pb_grpc
from normd.v1 import tensor_pb2

FOLDER = "/dev/shm"
# The start of a region is for its key; what follows is aligned for any vector.
RESERVED_BYTES = 64
_UNREGISTER_SECONDS = 10
_FULL = (errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
# Idle regions above this are given back, those first that were used longest ago.
IDLE_BYTES = 256 << 20


class Refused(Exception):
    """The server or this host does not do shared memory. The text says why."""


class NoRoom(Exception):
    """There is no memory for another region at present. The text says why."""


class Session:
    """What regions belong to. Ends with its stream: see `lost`."""

    def __init__(self, stub: Any, seconds: float) -> None:
        self.lost = False
        self._stream = stub.OpenSession(pb.OpenSessionRequest())
        # The stream itself has no deadline.
        patience = threading.Timer(seconds, self._stream.cancel)
        patience.daemon = True
        patience.start()
        try:
            opened = next(self._stream)
        except StopIteration:
            raise Refused("the server opened no session") from None
        finally:
            patience.cancel()
        self.name: str = opened.session
        # What regions begin with when they are registered.
        self.key: bytes = opened.key.encode()
        self._stream.add_callback(self._ended)

    def _ended(self) -> None:
        self.lost = True

    def close(self) -> None:
        """Ends it: the server unmaps its regions."""
        self.lost = True
        self._stream.cancel()


class Region:
    """A mapped and registered region. Its memory lives as long as this object."""

    def __init__(self, session: Session, stub: Any, size: int, seconds: float) -> None:
        self.session = session
        self.size = size
        self.discarded = False
        name = f"normd-client-{os.getpid()}-{secrets.token_hex(16)}"
        path = os.path.join(FOLDER, name)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = f"cannot make {path}: {error.strerror}"
            raise (NoRoom if error.errno in _FULL else Refused)(reason) from None
        try:
            # Takes the memory now: a full /dev/shm would be a SIGBUS on the first write otherwise.
            os.posix_fallocate(file, 0, size)
            os.pwrite(file, session.key, 0)
            self._map = mmap.mmap(file, size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
            self.id: str = stub.RegisterRegion(
                pb.RegisterRegionRequest(session=session.name, name="/" + name, size_bytes=size),
                timeout=seconds).region
        except OSError as error:
            reason = f"{FOLDER} has no room for {size} bytes: {error.strerror}"
            raise (NoRoom if error.errno in _FULL else Refused)(reason) from None
        finally:
            os.close(file)
            os.unlink(path)
        self.address: int = np.frombuffer(self._map, np.uint8).ctypes.data

    @property
    def usable(self) -> bool:
        """Whether calls may name it."""
        return not self.discarded and not self.session.lost

    @property
    def whole(self) -> bool:
        """Whether all of it is still there; to touch what was cut off is fatal."""
        return self._map.size() >= self.size

    def at(self, address: int) -> Any:
        """The SharedMemoryRange that starts at an address within."""
        return tensor_pb2.SharedMemoryRange(region=self.id, offset=address - self.address)


class Lease:
    """Keeps a region for the arrays in it: it is the base of all of them."""

    def __init__(self, region: Region, give_back: Callable[[Region], None]) -> None:
        self.region = region
        self._give_back = give_back

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "typestr": "|u1", "shape": (self.region.size - RESERVED_BYTES,),
                "data": (self.region.address + RESERVED_BYTES, False)}

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FloatArray:
        """An array at the start of the region."""
        count = int(np.prod(shape, dtype=np.int64))
        array: FloatArray = np.asarray(self)[:count * dtype.itemsize].view(dtype).reshape(shape)
        return array

    def __del__(self) -> None:
        # In any thread, at any point of it: no locks.
        self._give_back(self.region)


class Regions:
    """The regions of one client. Thread-safe. Methods that ask the server raise grpc.RpcError, Refused or NoRoom."""

    def __init__(self, channel: Any) -> None:
        self._stub = pb_grpc.SharedMemoryServiceStub(channel)
        self._opening = threading.Lock()
        self._session: Optional[Session] = None
        self._lock = threading.Lock()
        # Guarded by _lock: the idle ones by when they were used, oldest first; and those that calls may name, with
        # their addresses in order.
        self._idle: list[Region] = []
        self._named: dict[int, Region] = {}
        self._addresses: list[int] = []
        # Whose arrays are gone; see Lease.__del__.
        self._returned: deque[Region] = deque()
        # Grpc cancels a call that nobody holds.
        self._unregistering: set[Any] = set()

    def close(self) -> None:
        """Ends the session. Arrays stay what they are."""
        if self._session is not None:
            self._session.close()

    def acquire(self, nbytes: int, seconds: float) -> Lease:
        """A region for a tensor of so many bytes."""
        size = size_class(nbytes)
        session = self._open(seconds)
        self._collect()
        with self._lock:
            for position in reversed(range(len(self._idle))):
                if self._idle[position].size == size:
                    return Lease(self._idle.pop(position), self._returned.append)
        region = self._register(session, size, seconds)
        with self._lock:
            self._named[region.address] = region
            bisect.insort(self._addresses, region.address)
        return Lease(region, self._returned.append)

    def find(self, array: FloatArray) -> Optional[Region]:
        """The usable region that a C-contiguous array lies in, whoever made it."""
        address = array.ctypes.data
        with self._lock:
            position = bisect.bisect(self._addresses, address) - 1
            region = self._named[self._addresses[position]] if position >= 0 else None
        if region is None or not region.usable or address + array.nbytes > region.address + region.size:
            return None
        aligned = (address - region.address) % array.itemsize == 0
        return region if array.flags.c_contiguous and aligned else None

    def discard(self, region: Region) -> Any:
        """No call names it again. Asks the server to unmap it, which it does when the calls that use it are over.

        Returns grpc's future of the answer; None if there is none.
        """
        if region.discarded:
            return None
        region.discarded = True
        with self._lock:
            if self._named.get(region.address) is region:
                del self._named[region.address]
                self._addresses.remove(region.address)
        if not region.session.lost:
            request = pb.UnregisterRegionRequest(session=region.session.name, region=region.id)
            try:
                unregistering = self._stub.UnregisterRegion.future(request, timeout=_UNREGISTER_SECONDS)
            except ValueError:
                # The channel is closed, and the session with it.
                return None
            self._unregistering.add(unregistering)
            unregistering.add_done_callback(self._unregistering.discard)
            return unregistering
        return None

    def lost(self, region: Region, seconds: float) -> bool:
        """Asks the server whether it has the region no more."""
        listed = self._listed(region.session, seconds)
        return region.session.lost or (listed is not None and region.id not in listed)

    def _listed(self, session: Session, seconds: float) -> Optional[set[str]]:
        """The regions that the server has; None if it did not say. Notices that the session is gone."""
        if not session.lost:
            try:
                answer = self._stub.ListRegions(pb.ListRegionsRequest(session=session.name), timeout=seconds)
                return {found.region for found in answer.regions if not found.lost}
            except grpc.RpcError as failure:
                if failure.code() is grpc.StatusCode.NOT_FOUND:
                    # Its stream has not told yet.
                    session.close()
        return None

    def _open(self, seconds: float) -> Session:
        with self._opening:
            if self._session is None or self._session.lost:
                self._session = None
                self._drop_lost()
                try:
                    self._session = Session(self._stub, seconds)
                except grpc.RpcError as failure:
                    raise _refusal(failure) or failure
            return self._session

    def _register(self, session: Session, size: int, seconds: float, reopened: bool = False) -> Region:
        try:
            return Region(session, self._stub, size, seconds)
        except NoRoom:
            if not self._give_up_idle(0, wait=True):
                raise
        except grpc.RpcError as failure:
            code = failure.code()
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                if not self._give_up_idle(0, wait=True):
                    raise NoRoom(f"the server has no room for another region: {failure.details()}") from None
            elif code is grpc.StatusCode.NOT_FOUND and not reopened and self._listed(session, seconds) is None:
                # It is not the object that the server does not find, but the session.
                session, reopened = self._open(seconds), True
            else:
                raise _refusal(failure) or failure
        return self._register(session, size, seconds, reopened)

    def _collect(self) -> None:
        """Makes regions idle whose arrays are gone."""
        while self._returned:
            region = self._returned.popleft()
            with self._lock:
                if region.usable:
                    self._idle.append(region)
        self._give_up_idle(IDLE_BYTES, wait=False)

    def _give_up_idle(self, allowed: int, wait: bool) -> bool:
        """Unregisters the oldest idle regions, until those left have at most so many bytes; whether there were any."""
        given_up = []
        with self._lock:
            total = sum(region.size for region in self._idle)
            while total > allowed:
                given_up.append(self._idle.pop(0))
                total -= given_up[-1].size
        unregistering = [self.discard(region) for region in given_up]
        if wait:
            for call in unregistering:
                if call is not None:
                    # Whether or not it did: its failure is no reason for ours.
                    call.exception(timeout=_UNREGISTER_SECONDS)
        return bool(given_up)

    def _drop_lost(self) -> None:
        with self._lock:
            self._idle = [region for region in self._idle if region.usable]
            self._named = {address: region for address, region in self._named.items() if region.usable}
            self._addresses = sorted(self._named)


def size_class(nbytes: int) -> int:
    """Bytes of a region for a tensor: few sizes, so that idle ones fit, and at most a quarter more than needed."""
    needed = RESERVED_BYTES + nbytes
    step = max(mmap.PAGESIZE, 1 << max(needed.bit_length() - 3, 0))
    return -(-needed // step) * step


_REFUSALS = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND,
             grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}


def _refusal(failure: Any) -> Optional[Refused]:
    """The Refused that an answer of the SharedMemoryService means, if it does."""
    if failure.code() not in _REFUSALS:
        return None
    return Refused(f"{Code[failure.code().name].name}: {failure.details()}")
