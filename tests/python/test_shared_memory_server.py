"""transport="shm" against the real server, on its own socket: the same numbers as in band, and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
import torch

import normd
import normd.torch
import support
from conftest import Server, running

X = np.random.default_rng(17).standard_normal((32, 8, 500)).astype(np.float32) * 2 + 5


@pytest.fixture(scope="module")
def shm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--shared-memory", "--max-shared-memory-bytes", str(64 << 20))
    with running(tmp_path_factory.mktemp("shm"), *flags) as started:
        yield started
    assert support.shared_memory_of(os.getpid()) == []


@pytest.fixture(params=["unix", "tcp"])
def shm(shm_server: Server, request: pytest.FixtureRequest) -> Iterator[normd.Client]:
    with normd.Client(getattr(shm_server, request.param), transport="shm") as connected, warnings.catch_warnings():
        warnings.simplefilter("error")
        yield connected


def shared(client: normd.Client, array: np.ndarray) -> bool:
    return client._shared._regions.find(array) is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_as_in_band(shm: normd.Client, shm_server: Server, layer: str, dtype: str, layout: Any) -> None:
    x = (X if layout == "channels_first" else np.ascontiguousarray(np.moveaxis(X, 1, -1))).astype(dtype)
    dy = np.random.default_rng(3).standard_normal(x.shape).astype(dtype)
    names = (layer + ".shm", layer + ".grpc")
    with normd.Client(shm_server.unix) as in_band:
        results = []
        for client, name in zip((shm, in_band), names):
            client.create_layer(name, 8, "pytorch")
            step = client.train_step(name, x, layout=layout, gamma=np.arange(8.0) + 1, beta=np.arange(8.0))
            results.append([
                step.y, step.batch_mean, step.batch_var, client.infer(name, x, layout=layout).output,
                client.denormalize(name, x, layout=layout).output,
                client.backward(name, x, dy, layout=layout, batch_mean=step.batch_mean, batch_var=step.batch_var,
                                optimizer=normd.SGD(0.1)).dx, client.get_layer(name).state.gamma])
    for got, want in zip(*results):
        np.testing.assert_array_equal(got, want)
    assert all(shared(shm, results[0][index]) for index in (0, 3, 4, 5))
    assert not shared(shm, results[1][0])
    if dtype != "float16":
        mean, var, _ = support.moments(x, layout)
        want = support.normalize(x, mean, var, 1e-5, np.arange(8.0) + 1, np.arange(8.0), layout)
        np.testing.assert_allclose(results[0][0], want, rtol=1e-5, atol=1e-5)


def test_empty_and_out(shm: normd.Client, layer: str) -> None:
    shm.create_layer(layer, 8)
    x, out = shm.empty(X.shape), shm.empty(X.shape)
    x[...] = X
    y = shm.infer(layer, x).output
    assert shm.infer(layer, x, out=out).output is out
    np.testing.assert_array_equal(out, y)
    # Over itself; halfway over itself; parts of one region.
    assert shm.infer(layer, x, out=x).output is x
    np.testing.assert_array_equal(x, y)
    x[...] = X
    shm.infer(layer, x[:31], out=x[1:])
    np.testing.assert_array_equal(x[1:], y[:31])
    x[...] = X
    shm.infer(layer, x[:16], out=x[16:])
    np.testing.assert_array_equal(x[16:], y[:16])
    np.testing.assert_array_equal(shm.backward(layer, x, x, frozen=True, out=x).dx, shm.backward(
        layer, np.concatenate([X[:16], y[:16]]), np.concatenate([X[:16], y[:16]]), frozen=True).dx)


def test_errors_are_the_same(shm: normd.Client, layer: str) -> None:
    with pytest.raises(normd.NotFoundError, match="test.nobody"):
        shm.infer("test.nobody", X)
    shm.create_layer(layer, 9)
    with pytest.raises(normd.InvalidArgumentError, match="8 channels, want 9"):
        shm.train_step(layer, X)
    assert shm.get_layer(layer).version == 1


def test_the_servers_limit(shm: normd.Client, layer: str) -> None:
    """64 MiB: what does not fit goes through the socket."""
    shm.create_layer(layer, 8)
    x = np.zeros((64, 8, 10000), np.float32)
    with pytest.warns(normd.TransportWarning, match="no room for another region"):
        held = [shm.infer(layer, x).output for _ in range(4)]
    assert shared(shm, held[0]) and not shared(shm, held[-1])
    del held
    gc.collect()
    assert shared(shm, shm.infer(layer, X).output)


def test_modules_of_torch(shm: normd.Client, layer: str) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(32, 8, 20, 20).to(dtype).requires_grad_()
        ours = normd.torch.BatchNorm2d(8, client=shm, layer=f"{layer}.{dtype}".replace(".", "_"), dtype=dtype)
        theirs = torch.nn.BatchNorm2d(8, dtype=torch.float64)
        y = torch.nn.functional.relu(ours(x), inplace=True)
        want_x = x.detach().double().requires_grad_()
        want = torch.nn.functional.relu(theirs(want_x))
        y.square().sum().backward()
        want.square().sum().backward()
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 0.1, "atol": 0.1}
        torch.testing.assert_close(y.double(), want, **tolerance)
        torch.testing.assert_close(x.grad.double(), want_x.grad, **tolerance)


def test_a_restarted_server(tmp_path: Path, layer: str) -> None:
    client = None
    for _ in range(2):
        with running(tmp_path, "--shared-memory", end=signal.SIGKILL):
            client = client or normd.Client(f"unix:{tmp_path}/normd.sock", transport="shm",
                                            retry=normd.RetryPolicy(max_attempts=20))
            client.create_layer(layer, 8)
            assert shared(client, client.infer(layer, X).output)
    client.close()


def test_a_server_that_does_not(server: Server, client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 8)
    with normd.Client(server.unix, transport="shm") as unlucky:
        with pytest.warns(normd.TransportWarning, match="FAILED_PRECONDITION") as caught:
            for _ in range(3):
                np.testing.assert_array_equal(unlucky.infer(layer, X).output, client.infer(layer, X).output)
    assert len(caught) == 1


def test_a_client_that_is_killed(shm_server: Server, shm: normd.Client, layer: str) -> None:
    shm.create_layer(layer, 8)
    code = ("import os, sys, numpy, normd; client = normd.Client(sys.argv[1], transport='shm')\n"
            "y = client.infer(sys.argv[2], numpy.ones((32, 8, 5000), 'f4')).output\n"
            "assert client._shared._regions.find(y); os.kill(os.getpid(), 9)")
    # Each takes a third of the server's room.
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, shm_server.unix, layer])
        assert process.wait() == -9 and support.shared_memory_of(process.pid) == []
    assert shared(shm, shm.infer(layer, X).output)
