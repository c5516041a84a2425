"""transport="shm": what is copied, who keeps what, and what happens when it cannot be."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
import warnings
from concurrent import futures
from typing import Any, Iterator

import grpc
import numpy as np
import pytest

import normd
import support
from fake_server import EPS, FakeServer, Failure, Layer, serving
from normd import _regions
from normd.v1 import normalization_service_pb2_grpc as work_grpc

MEAN, VAR = np.array([1.0, -2.0, 3.0]), np.array([4.0, 0.25, 1.0])
X = np.random.default_rng(8).standard_normal((64, 3, 400)).astype(np.float32)
SMALL = X[:2, :, :10]
WANT = support.normalize(X, MEAN, VAR, EPS).astype(np.float32)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    server.layers["bn"] = Layer(MEAN, VAR)
    yield server


@pytest.fixture
def client(fake: FakeServer) -> Iterator[normd.Client]:
    with serving(fake) as target, warnings.catch_warnings():
        warnings.simplefilter("error")
        with normd.Client(target, transport="shm", timeout=20, sleep=lambda seconds: None) as connected:
            yield connected
    assert support.shared_memory_of(os.getpid()) == []


def count(fake: FakeServer, method: str) -> int:
    return sum(name == method for name, _ in fake.calls)


def in_shared_memory(client: normd.Client, array: np.ndarray) -> bool:
    return client._shared._regions.find(array) is not None  # type: ignore[union-attr]


def test_all_calls_agree_with_numpy(client: normd.Client, fake: FakeServer) -> None:
    for x in (X, X.astype(np.float64), X.astype(np.float16), X[::2, :, ::-1], X.astype(">f4")):
        want = support.normalize(x, MEAN, VAR, EPS)
        y = client.infer("bn", x).output
        assert y.dtype == x.dtype.newbyteorder("=") and y.flags.writeable and in_shared_memory(client, y)
        np.testing.assert_allclose(y, want, rtol=2e-3, atol=2e-3)
        back = client.denormalize("bn", y).output
        np.testing.assert_allclose(back, x, rtol=1e-2, atol=1e-2)
        dx = client.backward("bn", x, x, frozen=True).dx
        np.testing.assert_allclose(dx, x / np.sqrt(VAR + EPS).reshape(-1, 1), rtol=2e-3, atol=2e-3)
    mean, var, _ = support.moments(X)
    step = client.train_step("bn", X)
    np.testing.assert_allclose(step.y, support.normalize(X, mean, var, EPS), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(step.batch_mean, mean, rtol=1e-6)
    assert client.train_step("bn", X, omit_output=True).y is None
    last = np.moveaxis(X, 1, -1)
    np.testing.assert_allclose(np.moveaxis(client.train_step("bn", last, layout="channels_last").y, -1, 1), step.y,
                               rtol=1e-5, atol=1e-6)
    tensors = [request for name, request in fake.calls if name in ("Infer", "TrainStep", "Denormalize")]
    assert all(not tensor.data for request in tensors for tensor in (getattr(request, "x", None),) if tensor)


def test_a_result_is_the_callers(client: normd.Client) -> None:
    first = client.infer("bn", X).output
    part = first[3:, 1]
    first += 1
    others = [client.infer("bn", X).output for _ in range(3)]
    np.testing.assert_array_equal(first, WANT + 1)
    assert len({array.ctypes.data for array in (first, *others)}) == 4
    address = first.ctypes.data
    del first, others
    gc.collect()
    # A view keeps it.
    again = [client.infer("bn", X).output for _ in range(4)]
    assert address not in {array.ctypes.data for array in again}
    np.testing.assert_array_equal(part, WANT[3:, 1] + 1)
    del part, again
    assert address in {array.ctypes.data for array in [client.infer("bn", X).output for _ in range(5)]}


def test_regions_are_used_again(client: normd.Client, fake: FakeServer) -> None:
    for _ in range(20):
        client.infer("bn", X)
        client.infer("bn", X[:60])
        client.backward("bn", X, X, frozen=True)
    assert len(fake.registered) <= 4


def test_empty_is_not_copied(client: normd.Client, fake: FakeServer) -> None:
    x = client.empty(X.shape, np.float32)
    assert x.shape == X.shape and x.dtype == np.float32 and x.flags.writeable and in_shared_memory(client, x)
    x[...] = X
    registered = len(fake.registered)
    y = client.infer("bn", x).output
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, WANT)
    # The server reads x where it is; so it does y, which is a result, and a part of x.
    for array, offset in ((x, 0), (y, 0), (x[2:], x[:2].nbytes)):
        client.infer("bn", array)
        request = fake.calls[-1][1]
        assert request.x.shared_memory.offset == _regions.RESERVED_BYTES + offset
    assert len(fake.registered) == registered + 2
    assert client.empty(5).shape == (5,) and client.empty((2, 3), "f8").dtype == np.float64
    assert normd.Client("127.0.0.1:1").empty((2, 3)).dtype == np.float32


def test_out(client: normd.Client, fake: FakeServer) -> None:
    ordinary, shared = np.empty_like(X), client.empty(X.shape)
    for out in (ordinary, shared):
        assert client.infer("bn", X, out=out).output is out
        np.testing.assert_array_equal(out, WANT)
    # Over its input, and halfway over it: servers refuse both, so the result is copied afterwards.
    shared[...] = X
    assert client.infer("bn", shared, out=shared).output is shared
    np.testing.assert_array_equal(shared, WANT)
    both = client.empty((65, *X.shape[1:]))
    both[:64] = X
    assert client.infer("bn", both[:64], out=both[1:]).output is not None
    np.testing.assert_array_equal(both[1:], WANT)
    x, dy = client.empty(X.shape), client.empty(X.shape)
    x[...], dy[...] = X, X
    want = client.backward("bn", X, X, frozen=True).dx
    assert client.backward("bn", x, dy, frozen=True, out=x).dx is x
    np.testing.assert_array_equal(x, want)


def test_small_tensors_go_in_band(client: normd.Client, fake: FakeServer) -> None:
    np.testing.assert_allclose(client.infer("bn", SMALL).output, WANT[:2, :, :10], rtol=1e-6)
    assert fake.calls[-1][1].x.data and not fake.registered
    assert not in_shared_memory(client, client.empty(SMALL.shape))


@pytest.mark.parametrize("method", ["OpenSession", "RegisterRegion"])
@pytest.mark.parametrize("code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED,
                                  grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED])
def test_refusals_fall_back(fake: FakeServer, method: str, code: grpc.StatusCode) -> None:
    fake.failures[method] = [Failure(code, "told to refuse")] * 5
    with serving(fake) as target, normd.Client(target, transport="shm") as client:
        with pytest.warns(normd.TransportWarning, match=f"{code.name}: told to refuse") as caught:
            for _ in range(3):
                np.testing.assert_array_equal(client.infer("bn", X).output, WANT)
            assert not in_shared_memory(client, client.empty(X.shape))
    assert len(caught) == 1 and caught[0].filename == __file__
    assert count(fake, method) == 1 and count(fake, "Infer") == 3


def test_a_server_without_the_service(fake: FakeServer) -> None:
    class Old(work_grpc.NormalizationServiceServicer):
        Infer = staticmethod(fake.Infer)

    with serving(Old()) as target, normd.Client(target, transport="shm") as client:
        with pytest.warns(normd.TransportWarning, match="UNIMPLEMENTED"):
            np.testing.assert_array_equal(client.infer("bn", X).output, WANT)


def test_a_host_without_room(client: normd.Client, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.warns(normd.TransportWarning, match="no room for .*No space left") as caught:
            for _ in range(3):
                np.testing.assert_array_equal(client.infer("bn", X).output, WANT)
    assert len(caught) == 1
    assert in_shared_memory(client, client.infer("bn", X).output), "only as long as it is full"


def test_a_server_without_room(client: normd.Client, fake: FakeServer) -> None:
    # One for the copy of x, one for each result.
    fake.max_regions = 3
    held = [client.infer("bn", X).output for _ in range(2)]
    with pytest.warns(normd.TransportWarning, match="no room for another region: --max-shared-memory"):
        assert not in_shared_memory(client, client.infer("bn", X).output)
    del held
    gc.collect()
    # Idle regions of another size make room.
    twice = np.concatenate([X, X])
    assert in_shared_memory(client, client.infer("bn", twice).output)


def test_a_lost_session_is_opened_again(client: normd.Client, fake: FakeServer) -> None:
    x = client.empty(X.shape)
    x[...] = X
    held = client.infer("bn", X).output
    for _ in range(3):
        fake.end_sessions()
        np.testing.assert_array_equal(client.infer("bn", X).output, WANT)
        np.testing.assert_array_equal(client.infer("bn", x).output, WANT)
        assert client.train_step("bn", X, skip_update=True).replayed is False
        fake.layers["bn"] = Layer(MEAN, VAR)
    np.testing.assert_array_equal(held, WANT)
    assert count(fake, "OpenSession") == 4


def test_a_lost_region_is_replaced(client: normd.Client, fake: FakeServer) -> None:
    client.infer("bn", X)
    next(iter(fake.sessions.values())).clear()
    np.testing.assert_array_equal(client.infer("bn", X).output, WANT)
    assert (count(fake, "OpenSession"), count(fake, "Infer")) == (1, 3)
    with pytest.raises(normd.NotFoundError, match="no layer 'nobody'"):
        client.infer("nobody", X)
    assert count(fake, "Infer") == 4, "the layer's absence is no reason to try again"


def test_data_loss_is_tried_once_more(client: normd.Client, fake: FakeServer) -> None:
    lost = Failure(grpc.StatusCode.DATA_LOSS, "cut short")
    fake.failures["TrainStep"] = [lost]
    step = client.train_step("bn", X)
    requests = [request for name, request in fake.calls if name == "TrainStep"]
    assert step.version == 2 and len(requests) == 2
    assert requests[0].request_id == requests[1].request_id
    assert requests[0].x.shared_memory.region != requests[1].x.shared_memory.region
    fake.failures["TrainStep"] = [lost, lost]
    with pytest.raises(normd.Error) as caught:
        client.train_step("bn", X)
    assert caught.value.code is normd.Code.DATA_LOSS
    fake.failures["Infer"] = [lost]
    shared = client.empty(X.shape)
    with pytest.raises(normd.Error):
        client.infer("bn", X, out=shared)
    assert count(fake, "Infer") == 1, "who knows what is in out"


def test_retries_start_from_the_callers_array(client: normd.Client, fake: FakeServer) -> None:
    """The first attempt may be at work still: nothing that it was given is given to the second."""
    def spoil(request: Any) -> None:
        fake.view(request.x.shared_memory, np.dtype("<f4"), X.shape)[...] = np.nan
        fake.hook = lambda request: None
        raise Failure(grpc.StatusCode.UNAVAILABLE, "gone in the middle")

    fake.hook = spoil
    step = client.train_step("bn", X)
    first, second = [request for name, request in fake.calls if name == "TrainStep"]
    assert first.x.shared_memory.region != second.x.shared_memory.region and first.request_id == second.request_id
    np.testing.assert_allclose(step.batch_mean, support.moments(X)[0], rtol=1e-6)
    fake.hook = spoil
    shared = client.empty(X.shape)
    with pytest.raises(normd.UnavailableError):
        client.infer("bn", X, out=shared)


def test_what_a_late_server_may_write_to_is_not_used_again(client: normd.Client, fake: FakeServer) -> None:
    entered, go_on = threading.Event(), threading.Event()
    client.infer("bn", X)

    def late(request: Any) -> None:
        entered.set()
        go_on.wait(20)

    fake.hook = late
    with pytest.raises(normd.DeadlineExceededError):
        client.infer("bn", X, timeout=1.5)
    assert entered.is_set()
    fake.hook = lambda request: None
    # What it wrote to may have been let go of by now, with calls of its own.
    late_one = next(request for method, request in reversed(fake.calls) if method == "Infer")
    regions = {late_one.x.shared_memory.region, late_one.y_shared_memory.region}
    results = [client.infer("bn", X).output for _ in range(4)]
    used = [place.region for name, request in fake.calls if name == "Infer" and request is not late_one
            for place in (request.x.shared_memory, request.y_shared_memory)]
    assert len(regions) == 2 and not regions & set(used[2:])
    go_on.set()
    for result in results:
        np.testing.assert_array_equal(result, WANT)
    deadline = time.monotonic() + 10
    while count(fake, "UnregisterRegion") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert regions == {request.region for name, request in fake.calls if name == "UnregisterRegion"}


def test_idle_regions_are_bounded(client: normd.Client, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_regions, "IDLE_BYTES", 1 << 20)
    held = [client.infer("bn", X).output for _ in range(10)]
    assert len(fake.registered) == 11
    del held
    gc.collect()
    client.infer("bn", X)
    deadline = time.monotonic() + 10
    while sum(len(region) for region in next(iter(fake.sessions.values())).values()) > 1 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_threads(client: normd.Client) -> None:
    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal(X.shape).astype(np.float32)
        want = support.normalize(x, MEAN, VAR, EPS).astype(np.float32)
        for _ in range(20):
            np.testing.assert_array_equal(client.infer("bn", x).output, want)

    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_results_outlive_the_client(fake: FakeServer) -> None:
    with serving(fake) as target, normd.Client(target, transport="shm") as client:
        y = client.infer("bn", X).output
    y += 1
    np.testing.assert_array_equal(y, WANT + 1)
    with pytest.raises(normd.CancelledError, match="closed"):
        client.infer("bn", X)


def test_pickling_keeps_the_transport(client: normd.Client, fake: FakeServer) -> None:
    with pickle.loads(pickle.dumps(client)) as copied:
        assert in_shared_memory(copied, copied.infer("bn", X).output)


def test_unknown_transport() -> None:
    with pytest.raises(ValueError, match="transport is 'carrier pigeon', want 'grpc' or 'shm'"):
        normd.Client("127.0.0.1:1", transport="carrier pigeon")  # type: ignore[arg-type]


@pytest.mark.parametrize("nbytes", [0, 1, 4000, 4032, 4033, 65536, 8 << 20, 25690112, (1 << 31) + 1])
def test_size_classes(nbytes: int) -> None:
    size = _regions.size_class(nbytes)
    assert size % 4096 == 0 and nbytes + 64 <= size <= max(4096, 1.25 * (nbytes + 64) + 4096)
