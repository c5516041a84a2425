"""A server in this process that computes with NumPy and fails as it is told: what a real one does not on request.

It knows one kind of layer: running statistics are those of the last batch, there is no gamma and no beta.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator

import grpc
import numpy as np

from normd.v1 import error_details_pb2
from normd.v1 import normalization_service_pb2 as work_pb2
from normd.v1 import normalization_service_pb2_grpc as work_grpc
from normd.v1 import shared_memory_service_pb2 as memory_pb2
from normd.v1 import shared_memory_service_pb2_grpc as memory_grpc
from normd.v1 import tensor_pb2

import support

DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<f2")}
EPS = 1e-5


class Failure(Exception):
    """What a call ends with."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Layer:
    mean: np.ndarray
    var: np.ndarray
    version: int = 1
    steps: dict[str, int] = field(default_factory=dict)


class FakeServer(work_grpc.NormalizationServiceServicer, memory_grpc.SharedMemoryServiceServicer):
    """`failures` holds what the next calls end with, by method; `calls` what was called. See Layer."""

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}
        self.failures: dict[str, list[Failure]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.registered: list[str] = []
        self.keys: dict[str, str] = {}
        self.ending: dict[str, threading.Event] = {}
        self.max_regions = 1000
        # Called in the middle of each tensor call, with the request.
        self.hook: Callable[[Any], None] = lambda request: None

    # Shared memory.

    def OpenSession(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        self.begin("OpenSession", request, context)
        name = f"{len(self.ending):032x}"
        self.sessions[name], self.ending[name] = {}, threading.Event()
        self.keys[name] = secrets.token_hex(16)
        context.add_callback(self.ending[name].set)
        yield memory_pb2.OpenSessionResponse(session=name, key=self.keys[name])
        self.ending[name].wait()
        self.sessions.pop(name, None)

    def end_sessions(self) -> None:
        """As a restart does."""
        for name, event in self.ending.items():
            self.sessions.pop(name, None)
            event.set()

    def RegisterRegion(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.begin("RegisterRegion", request, context)
        regions = self.session(request, context)
        if len(regions) >= self.max_regions:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "--max-shared-memory-bytes is reached")
        path = "/dev/shm" + request.name
        with open(path, "r+b") as file:
            assert os.stat(path).st_mode & 0o777 == 0o600 and os.stat(path).st_size >= request.size_bytes
            mapped = mmap.mmap(file.fileno(), request.size_bytes)
        assert mapped[:32] == self.keys[request.session].encode()
        region = f"{len(self.registered) + 1000:032x}"
        self.registered.append(region)
        regions[region] = mapped
        return memory_pb2.RegisterRegionResponse(region=region)

    def UnregisterRegion(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.begin("UnregisterRegion", request, context)
        self.session(request, context).pop(request.region, None)
        return memory_pb2.UnregisterRegionResponse()

    def ListRegions(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        regions = self.session(request, context)
        return memory_pb2.ListRegionsResponse(regions=[memory_pb2.SharedMemoryRegion(region=r) for r in regions])

    def session(self, request: Any, context: grpc.ServicerContext) -> dict[str, Any]:
        if request.session not in self.sessions:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such session")
        return self.sessions[request.session]

    # Tensors.

    def Infer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self.answer("Infer", request, context)

    def TrainStep(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self.answer("TrainStep", request, context)

    def Denormalize(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self.answer("Denormalize", request, context)

    def Backward(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self.answer("Backward", request, context)

    def begin(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        self.calls.append((method, request))
        if self.failures.get(method):
            failure = self.failures[method].pop(0)
            context.abort(failure.code, str(failure))

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.begin(method, request, context)
        try:
            return self.compute(method, request)
        except Failure as failure:
            context.abort(failure.code, str(failure))

    def compute(self, method: str, request: Any) -> Any:
        if request.layer not in self.layers:
            raise Failure(grpc.StatusCode.NOT_FOUND, f"no layer '{request.layer}'")
        layer = self.layers[request.layer]
        name = "y" if method == "Denormalize" else "x"
        x = self.read(getattr(request, name))
        layout = "channels_last" if getattr(request, name).layout == 2 else "channels_first"
        self.hook(request)
        inputs = {getattr(request, field).shared_memory.region for field in ("x", "y", "dy") if hasattr(request, field)}
        results = {place.region for field, place in request.ListFields() if field.name.endswith("_shared_memory")}
        if inputs & results:
            raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "the result overlaps an input")
        answer = getattr(work_pb2, method + "Response")()
        if method == "TrainStep":
            mean, var, _ = support.moments(x, layout)
            answer.replayed = request.request_id in layer.steps
            if not answer.replayed:
                layer.mean, layer.var, layer.version = mean, var, layer.version + 1
                layer.steps[request.request_id] = layer.version
            answer.batch_mean.extend(mean)
            answer.batch_var.extend(var)
            out, result = "y", support.normalize(x, mean, var, EPS, layout=layout)
        elif method == "Infer":
            out, result = "y", support.normalize(x, layer.mean, layer.var, EPS, layout=layout)
        elif method == "Denormalize":
            inverse = np.sqrt(support.along(layer.var, x, layout) + EPS)
            out, result = "x", x * inverse + support.along(layer.mean, x, layout)
        else:
            out, result = "dx", self.read(request.dy) / np.sqrt(support.along(layer.var, x, layout) + EPS)
        answer.version = layer.version
        if not (getattr(request, "omit_output", False) or getattr(request, "omit_dx", False)):
            self.write(result.astype(x.dtype), getattr(request, name), getattr(request, out + "_shared_memory"),
                       request.HasField(out + "_shared_memory"), getattr(answer, out))
        return answer

    def memory(self, place: Any) -> Any:
        for regions in self.sessions.values():
            if place.region in regions:
                return regions[place.region]
        raise Failure(grpc.StatusCode.NOT_FOUND, "no such region")

    def view(self, place: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        assert place.offset >= 64, "the key is no room for a tensor"
        return np.frombuffer(self.memory(place), dtype, count, place.offset).reshape(shape)

    def read(self, tensor: Any) -> np.ndarray:
        dtype, shape = DTYPES[tensor.dtype], tuple(tensor.shape)
        if tensor.HasField("shared_memory"):
            return self.view(tensor.shared_memory, dtype, shape).copy()
        return np.frombuffer(tensor.data, dtype).reshape(shape)

    def write(self, result: np.ndarray, like: Any, place: Any, shared: bool, to: Any) -> None:
        to.CopyFrom(tensor_pb2.Tensor(dtype=like.dtype, shape=like.shape, layout=like.layout))
        if shared:
            self.view(place, result.dtype, result.shape)[...] = result
        else:
            to.data = result.tobytes()


class Flaky(work_grpc.NormalizationServiceServicer):
    """Fails as often as there are codes, then answers. Remembers the requests' ids."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.details: bytes | None = None
        self.request_ids: list[str] = []
        self.release = threading.Event()

    def TrainStep(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.request_ids.append(request.request_id)
        if self.codes:
            code = self.codes.pop(0)
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.release.wait(20)
            if self.details is not None:
                context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
            context.abort(code, f"told to fail with {code.name}")
        return work_pb2.TrainStepResponse(version=7)


def details_of(delay: float) -> bytes:
    """google.rpc.Status with a RetryInfo, behind a detail of another kind."""
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(int(delay * 1000))
    status = error_details_pb2.ErrorStatus(code=8, message="full")
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=info.SerializeToString())
    return status.SerializeToString()


@contextmanager
def serving(fake: Any, workers: int = 12) -> Iterator[str]:
    """Serves; the address."""
    server = grpc.server(futures.ThreadPoolExecutor(workers), options=[("grpc.max_receive_message_length", -1)])
    work_grpc.add_NormalizationServiceServicer_to_server(fake, server)
    if isinstance(fake, memory_grpc.SharedMemoryServiceServicer):
        memory_grpc.add_SharedMemoryServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        if isinstance(fake, FakeServer):
            fake.end_sessions()
        server.stop(None).wait()
