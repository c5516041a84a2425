"""The client itself: life of layers, errors, retries, arrays, threads."""

from __future__ import annotations

import hashlib
import pickle
import struct
import time
from concurrent import futures
from typing import Any, Callable, Iterator

import grpc
import numpy as np
import pytest

import normd
from conftest import Server
from fake_server import Flaky, details_of, serving
from normd.v1 import error_details_pb2

X = np.random.default_rng(31).standard_normal((6, 3))


def test_life_of_a_layer(client: normd.Client, layer: str) -> None:
    made = client.create_layer(layer, 3, "keras", clip=5.0, averaging="exponential_debiased",
                               non_finite_policy=normd.NonFinitePolicy.PROPAGATE)
    assert made.config == normd.LayerConfig(3, 1e-3, normd.Averaging.EXPONENTIAL_DEBIASED, 0.01,
                                            normd.VarianceEstimator.POPULATION, normd.TrainingStatistics.BATCH, True,
                                            True, 5.0, normd.NonFinitePolicy.PROPAGATE)
    assert (made.name, made.preset, made.version, made.state) == (layer, "keras", 1, None)
    assert len(made.content_hash) == 64 and made.uid and made.etag
    assert made.create_time.tzinfo is not None and abs(made.create_time.timestamp() - time.time()) < 600

    got = client.get_layer(layer)
    assert got.state.running_mean.tolist() == [0] * 3 and got.state.gamma.tolist() == [1] * 3
    assert client.get_layer(layer, with_state=False).state is None
    assert client.get_layer_if_newer(layer, got.version) is None
    client.train_step(layer, X)
    assert client.get_layer_if_newer(layer, got.version).state.num_batches_tracked == 1

    changed = client.update_layer(layer, eps=0.5, clip=None, etag=made.etag)
    assert (changed.config.eps, changed.config.clip, changed.version) == (0.5, None, 3)
    with pytest.raises(normd.AbortedError):
        client.update_layer(layer, eps=0.6, etag=made.etag)
    with pytest.raises(normd.FailedPreconditionError):
        client.update_layer(layer, affine=False)
    with pytest.raises(TypeError, match="unknown setting 'momentum'"):
        client.update_layer(layer, momentum=0.1)
    with pytest.raises(ValueError, match="averaging is 'mean', want one of: exponential"):
        client.create_layer(layer + "2", 3, averaging="mean")

    with pytest.raises(normd.AbortedError):
        client.reset_statistics(layer, expected_version=1)
    assert client.reset_statistics(layer, expected_version=3).version == 4
    client.set_state(layer, normd.LayerState(running_mean=np.arange(3.0), running_var=np.ones(3),
                                             num_batches_tracked=9))
    state = client.get_layer(layer).state
    assert state.running_mean.tolist() == [0, 1, 2] and state.num_batches_tracked == 9

    with pytest.raises(normd.AlreadyExistsError, match=layer):
        client.create_layer(layer, 3)
    client.delete_layer(layer)
    for call in (client.get_layer, client.delete_layer, client.reset_statistics):
        with pytest.raises(normd.NotFoundError, match=layer):
            call(layer)


def test_list_goes_over_pages(client: normd.Client, layer: str) -> None:
    names = [f"{layer}.{index:02d}" for index in range(23)]
    for name in reversed(names):
        client.create_layer(name, 1)
    listed = list(client.list_layers(layer + ".", page_size=5, with_state=True))
    assert [found.name for found in listed] == names
    assert all(found.state is not None for found in listed)
    assert [found.name for found in client.list_layers(layer + ".1")] == names[10:20]
    assert list(client.list_layers(layer + ".nothing")) == []


@pytest.mark.parametrize("name", ["", ".", "a..b", ".a", "a.", "a b", "ä", "a/b", "x" * 257])
def test_bad_names(client: normd.Client, name: str) -> None:
    with pytest.raises(normd.InvalidArgumentError):
        client.create_layer(name, 3)


def calls(client: normd.Client, x: Any) -> list[Callable[[str], Any]]:
    return [lambda name: client.train_step(name, x), lambda name: client.infer(name, x),
            lambda name: client.denormalize(name, x),
            lambda name: client.backward(name, x, x, batch_mean=[0] * 3, batch_var=[1] * 3)]


def test_errors_of_tensor_calls(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    for call in calls(client, X):
        with pytest.raises(normd.NotFoundError, match="test.nobody") as caught:
            call("test.nobody")
        assert caught.value.code is normd.Code.NOT_FOUND
        assert str(caught.value).startswith("NOT_FOUND: ")
    for call in calls(client, np.zeros((6, 4))):
        with pytest.raises(normd.InvalidArgumentError, match=f"'{layer}': [xy] has 4 channels, want 3"):
            call(layer)
    for dtype in ("longdouble", "int32", "int64", "complex64", "bool", "object"):
        for call in calls(client, np.zeros((6, 3), dtype)):
            with pytest.raises(TypeError, match=f"has dtype {np.dtype(dtype)}, want float16, float32 or float64"):
                call(layer)
    with pytest.raises(ValueError, match="layout is 'NCHW'"):
        client.infer(layer, X, layout="NCHW")
    with pytest.raises(normd.InvalidArgumentError, match="dy"):
        client.backward(layer, X, X[:4], batch_mean=[0] * 3, batch_var=[1] * 3)
    with pytest.raises(normd.InvalidArgumentError, match="dy"):
        client.backward(layer, X, X.astype("float32"), batch_mean=[0] * 3, batch_var=[1] * 3)
    with pytest.raises(normd.InvalidArgumentError, match="batch_mean"):
        client.backward(layer, X, X)
    with pytest.raises(normd.InvalidArgumentError, match="gamma"):
        client.train_step(layer, X, gamma=[1, 1], beta=[0, 0])
    with pytest.raises(ValueError, match="gamma has shape"):
        client.train_step(layer, X, gamma=np.ones((1, 3)), beta=np.zeros(3))
    with pytest.raises(TypeError, match="optimizer"):
        client.backward(layer, X, X, batch_mean=[0] * 3, batch_var=[1] * 3, optimizer="sgd")
    with pytest.raises(ValueError, match="timeout is 0"):
        client.infer(layer, X, timeout=0)
    assert client.get_layer(layer).version == 1


def test_versions_can_be_pinned(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    first = client.infer(layer, X)
    assert client.infer(layer, X, version=first.version).content_hash == first.content_hash
    client.train_step(layer, X)
    # One of the latest is kept.
    again = client.infer(layer, X, version=first.version)
    assert (again.version, again.content_hash) == (first.version, first.content_hash)
    np.testing.assert_array_equal(again.output, first.output)
    np.testing.assert_allclose(client.denormalize(layer, first.output, version=first.version).output, X, rtol=1e-12)
    assert client.backward(layer, X, X, frozen=True, version=first.version).version == first.version
    then = client.get_layer(layer, version=first.version)
    assert (then.version, then.content_hash) == (first.version, first.content_hash)
    assert then.state is not None and then.state.num_batches_tracked == 0
    for call in (lambda: client.infer(layer, X, version=7), lambda: client.denormalize(layer, X, version=7),
                 lambda: client.backward(layer, X, X, frozen=True, version=7),
                 lambda: client.get_layer(layer, version=7)):
        with pytest.raises(normd.FailedPreconditionError):
            call()


@pytest.mark.parametrize("settings", [{}, {"clip": 2.5, "eps": 0.125}, {"affine": False},
                                      {"affine": False, "track_running_stats": False}])
def test_content_hash_can_be_checked(client: normd.Client, layer: str, settings: dict[str, Any]) -> None:
    client.create_layer(layer, 3, **settings)
    step = client.train_step(layer, X)
    found = client.get_layer(layer)
    assert normd.content_hash(found.config, found.state) == found.content_hash == step.content_hash
    # Written out for the plain case, so that the formula itself is held.
    if not settings:
        parts = [struct.pack("<q", 3), struct.pack("<d", 1e-5), struct.pack("<d", float("inf")), b"\x01\x01"]
        parts += [struct.pack("<3d", *getattr(found.state, name))
                  for name in ("running_mean", "running_var", "gamma", "beta")]
        assert found.content_hash == hashlib.sha256(b"normd.v1" + b"".join(parts)).hexdigest()


def test_gamma_and_beta_travel_with_a_step(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    gamma, beta = np.array([1.0, 2, 3]), np.array([4.0, 5, 6])
    plain = client.train_step(layer, X, skip_update=True)
    step = client.train_step(layer, X, gamma=gamma, beta=beta)
    np.testing.assert_allclose(step.y, plain.y * gamma + beta, rtol=1e-14)
    state = client.get_layer(layer).state
    assert step.version == 2 and state.gamma.tolist() == [1, 2, 3] and state.beta.tolist() == [4, 5, 6]
    assert client.train_step(layer, X, omit_output=True).y is None


def test_over_tcp(server: Server, layer: str) -> None:
    with normd.Client(server.tcp) as client:
        client.create_layer(layer, 3)
        assert client.train_step(layer, X).y.shape == X.shape
        assert repr(client) == f"normd.Client('{server.tcp}')"
        copied = pickle.loads(pickle.dumps(client))
    with pytest.raises(normd.CancelledError, match="closed"):
        client.get_layer(layer)
    with copied:
        assert copied.get_layer(layer).version == 2


def test_large_tensors_pass(client: normd.Client, layer: str) -> None:
    """gRPC's own default is 4 MiB."""
    client.create_layer(layer, 64)
    x = np.ones((8, 64, 112, 112), np.float32)
    assert client.infer(layer, x).output.nbytes == x.nbytes


@pytest.mark.parametrize("shape", [(6, 3), (40, 3, 200)])
def test_results_go_to_out(client: normd.Client, layer: str, shape: tuple[int, ...]) -> None:
    client.create_layer(layer, 3)
    x = np.random.default_rng(5).standard_normal(shape)
    for call in (lambda out: client.infer(layer, x, out=out).output,
                 lambda out: client.denormalize(layer, x, out=out).output,
                 lambda out: client.train_step(layer, x, skip_update=True, out=out).y,
                 lambda out: client.backward(layer, x, x, frozen=True, out=out).dx):
        out = np.empty_like(x)
        plain = call(None)
        assert call(out) is out and plain.flags.writeable and plain.flags.c_contiguous
        np.testing.assert_array_equal(out, plain)
    want = client.infer(layer, x).output
    assert client.infer(layer, x, out=x).output is x, "x itself may be overwritten"
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("out, error, message", [
    (np.empty((6, 3), np.float32), TypeError, "out has dtype float32, want float64"),
    (np.empty((6, 3), ">f8"), TypeError, "out has dtype >f8, want float64"),
    (np.empty((3, 6)), ValueError, r"out has shape \(3, 6\), want \(6, 3\)"),
    (np.empty((3, 6)).T, ValueError, "out is not C-contiguous and writable"),
    (np.broadcast_to(0.0, (6, 3)), ValueError, "out is not C-contiguous and writable"),
    ([0.0], TypeError, "out is a list, want a numpy.ndarray")])
def test_out_must_fit(client: normd.Client, layer: str, out: Any, error: type[Exception], message: str) -> None:
    client.create_layer(layer, 3)
    with pytest.raises(error, match=message):
        client.train_step(layer, X, out=out)
    with pytest.raises(ValueError, match="returns no tensor"):
        client.train_step(layer, X, omit_output=True, out=np.empty_like(X))
    assert client.get_layer(layer).version == 1


def test_own_limit_is_a_clear_error(server: Server, layer: str) -> None:
    with normd.Client(server.unix, max_message_bytes=10_000) as client:
        client.create_layer(layer, 3)
        with pytest.raises(normd.ResourceExhaustedError):
            client.infer(layer, np.zeros((10_000, 3)))


def test_threads_share_a_client(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, "standard_scaler")
    parts = np.array_split(np.random.default_rng(1).standard_normal((4000, 3)) + 100, 80)
    with futures.ThreadPoolExecutor(8) as pool:
        steps = list(pool.map(lambda part: client.train_step(layer, part), parts))
    assert sorted(step.version for step in steps) == list(range(2, 82))
    state = client.get_layer(layer).state
    whole = np.concatenate(parts)
    assert state.sample_count.tolist() == [4000] * 3
    np.testing.assert_allclose(state.running_mean, whole.mean(0), rtol=1e-13)
    np.testing.assert_allclose(state.running_var, whole.var(0), rtol=1e-9)


# Retries, against a server in this process that fails as it is told.


@pytest.fixture
def flaky() -> Iterator[tuple[Flaky, str]]:
    service = Flaky()
    with serving(service) as target:
        yield service, target
        service.release.set()


def test_retry_keeps_the_request_id(flaky: tuple[Flaky, str]) -> None:
    service, target = flaky
    service.codes = [grpc.StatusCode.UNAVAILABLE] * 3
    pauses: list[float] = []
    with normd.Client(target, sleep=pauses.append) as client:
        assert client.train_step("a", X).version == 7
        assert len(service.request_ids) == 4 and len(set(service.request_ids)) == 1
        assert all(low <= pause <= 2 * low for pause, low in zip(pauses, (0.025, 0.05, 0.1))) and len(pauses) == 3
        client.train_step("a", X)
        assert len(set(service.request_ids)) == 2
        client.train_step("a", X, request_id="mine")
        assert service.request_ids[-1] == "mine"


def test_retry_ends(flaky: tuple[Flaky, str]) -> None:
    service, target = flaky
    service.codes = [grpc.StatusCode.UNAVAILABLE] * 9
    with normd.Client(target, sleep=lambda seconds: None) as client:
        with pytest.raises(normd.UnavailableError, match="after 4 attempts") as caught:
            client.train_step("a", X)
    assert not isinstance(caught.value, TimeoutError)
    assert (caught.value.attempts, len(service.request_ids)) == (4, 4)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED,
                                  grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED])
def test_other_codes_are_not_retried(flaky: tuple[Flaky, str], code: grpc.StatusCode) -> None:
    service, target = flaky
    service.codes = [code]
    with normd.Client(target) as client, pytest.raises(normd.Error) as caught:
        client.train_step("a", X)
    assert caught.value.code.name == code.name
    assert caught.value.message == f"told to fail with {code.name}"
    assert len(service.request_ids) == 1


def test_deadline_and_timeout_are_told_apart(flaky: tuple[Flaky, str]) -> None:
    service, target = flaky
    service.codes = [grpc.StatusCode.DEADLINE_EXCEEDED]
    with normd.Client(target) as client:
        with pytest.raises(normd.DeadlineExceededError) as deadline:
            client.train_step("a", X, timeout=0.2)
        service.release.set()
        service.codes = [grpc.StatusCode.UNAVAILABLE]
        retry = normd.RetryPolicy(initial_backoff=1000, max_backoff=1000)
        patient = normd.Client(target, retry=retry, timeout=10)
        with patient, pytest.raises(normd.RetryTimeoutError) as timeout:
            patient.train_step("a", X)
    assert isinstance(deadline.value, TimeoutError) and not isinstance(deadline.value, normd.UnavailableError)
    assert isinstance(timeout.value, TimeoutError) and isinstance(timeout.value, normd.UnavailableError)
    assert isinstance(timeout.value.__cause__, normd.UnavailableError)
    again = pickle.loads(pickle.dumps(timeout.value))
    assert (type(again), str(again)) == (type(timeout.value), str(timeout.value))


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_a_retry_hint_is_waited_for(flaky: tuple[Flaky, str], code: grpc.StatusCode) -> None:
    service, target = flaky
    service.codes, service.details = [code] * 3, details_of(2.5)
    pauses: list[float] = []
    with normd.Client(target, sleep=pauses.append) as client:
        assert client.train_step("a", X).version == 7
    assert len(service.request_ids) == 4 and len(set(service.request_ids)) == 1
    assert len(pauses) == 3 and all(2.5 <= pause <= 3 for pause in pauses)


def test_a_retry_hint_ends_with_the_policy_and_the_time(flaky: tuple[Flaky, str]) -> None:
    service, target = flaky
    service.codes, service.details = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 9, details_of(0.25)
    with normd.Client(target, sleep=lambda seconds: None) as client:
        with pytest.raises(normd.ResourceExhaustedError, match="after 4 attempts") as caught:
            client.train_step("a", X)
        assert (caught.value.attempts, caught.value.retry_delay) == (4, 0.25)
        with pytest.raises(normd.ResourceExhaustedError) as caught:
            client.train_step("a", X, timeout=0.2)
        assert (caught.value.attempts, caught.value.retry_delay) == (1, 0.25)
        again = pickle.loads(pickle.dumps(caught.value))
        assert again.retry_delay == 0.25
    assert len(service.request_ids) == 5


@pytest.mark.parametrize("details", [b"\xff\xff", b"", error_details_pb2.ErrorStatus(code=8).SerializeToString()])
def test_details_without_a_hint(flaky: tuple[Flaky, str], details: bytes) -> None:
    service, target = flaky
    service.codes, service.details = [grpc.StatusCode.RESOURCE_EXHAUSTED], details
    with normd.Client(target) as client, pytest.raises(normd.ResourceExhaustedError) as caught:
        client.train_step("a", X)
    assert (caught.value.attempts, caught.value.retry_delay) == (1, None)


def test_nobody_listens() -> None:
    with normd.Client("127.0.0.1:1", sleep=lambda seconds: None) as client, pytest.raises(normd.UnavailableError):
        client.get_layer("a")
