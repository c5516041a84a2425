"""Tensors in chunks and steps on one stream, against the real server."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterable, Iterator

import grpc
import numpy as np
import pytest

import normd
import support
from conftest import Server
from fake_server import serving
from normd import _streams
from normd.v1 import normalization_service_pb2 as work_pb2
from normd.v1 import normalization_service_pb2_grpc as work_grpc

X = np.random.default_rng(12).standard_normal((50, 3, 40, 70)).astype(np.float32) * 3 + 1


@pytest.fixture
def trained(client: normd.Client, layer: str) -> str:
    client.create_layer(layer, 3)
    client.train_step(layer, X)
    return layer


def cuts(x: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    return (x[start:start + rows] for start in range(0, len(x), rows))


# Inference in chunks.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("rows", [1, 7, 50])
def test_infer_stream(client: normd.Client, trained: str, dtype: str, rows: int) -> None:
    x = X.astype(dtype)
    stream = client.infer_stream(trained, cuts(x, rows), shape=x.shape, dtype=dtype)
    results = list(stream)
    assert [y.shape for y in results] == [chunk.shape for chunk in cuts(x, rows)]
    assert all(y.dtype == x.dtype and y.flags.writeable for y in results)
    whole = client.infer(trained, x)
    np.testing.assert_array_equal(np.concatenate(results), whole.output)
    assert (stream.version, stream.content_hash) == (whole.version, whole.content_hash)
    layer = client.get_layer(trained)
    want = support.normalize(x, layer.state.running_mean, layer.state.running_var, layer.config.eps)
    np.testing.assert_allclose(np.concatenate(results), want, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-5)


def test_chunks_of_any_kind(client: normd.Client, trained: str) -> None:
    want = client.infer(trained, X).output.reshape(-1)
    flat = X.reshape(-1)
    # Inside a row and a channel; not contiguous; big-endian; empty; buffers of each kind.
    chunks: list[Any] = [flat[:11], flat[11:1000].astype(">f4"), flat[:0], flat[1000:2000].tobytes(), b"",
                         bytearray(flat[2000:2001]), memoryview(flat[2001:3000]),
                         np.repeat(flat[3000:], 2)[::2].reshape(-1, 1000)]
    results = list(client.infer_stream(trained, chunks, shape=X.shape, dtype="f4"))
    assert [y.shape for y in results] == [(11,), (989,), (1000,), (1,), (999,), (417, 1000)]
    np.testing.assert_array_equal(np.concatenate([y.reshape(-1) for y in results]), want)


def test_channels_last_and_versions(client: normd.Client, trained: str) -> None:
    last = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    results = client.infer_stream(trained, cuts(last, 9), shape=last.shape, dtype=last.dtype, layout="channels_last")
    np.testing.assert_array_equal(np.moveaxis(np.concatenate(list(results)), -1, 1), client.infer(trained, X).output)
    with pytest.raises(normd.FailedPreconditionError):
        list(client.infer_stream(trained, cuts(X, 9), shape=X.shape, dtype=X.dtype, version=9))


def test_memory_is_constant(client: normd.Client, trained: str) -> None:
    """However slowly results are read: the source is only some chunks ahead."""
    taken = 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal taken
        chunk = np.zeros((1, 3, 256, 1024), np.float32)
        for _ in range(100):
            taken += 1
            yield chunk

    with client.infer_stream(trained, chunks(), shape=(100, 3, 256, 1024), dtype=np.float32) as stream:
        for done, _ in enumerate(stream, 1):
            assert taken - done <= 24
    assert done == 100


@pytest.mark.parametrize("chunks, error, message", [
    ([X[:20]], ValueError, r"end after 168000 elements, want 420000 of shape \(50, 3, 40, 70\)"),
    ([X, X[:1]], ValueError, "hold more than the 420000 elements"),
    ([X.astype("f8")], TypeError, "a chunk has dtype float64, want float32"),
    ([b"12345"], ValueError, "a chunk has 5 bytes, want whole elements of 4"),
    ([[1.0]], TypeError, "a chunk is a list, want a numpy.ndarray or a contiguous buffer"),
    ([], ValueError, "end after 0 elements")])
def test_chunks_must_make_up_the_tensor(client: normd.Client, trained: str, chunks: list[Any], error: type[Exception],
                                        message: str) -> None:
    with pytest.raises(error, match=message):
        list(client.infer_stream(trained, chunks, shape=X.shape, dtype="f4"))
    with pytest.raises(error, match=message):
        client.train_step_stream(trained, lambda: chunks, shape=X.shape, dtype="f4")
    assert client.get_layer(trained).version == 2


def test_errors_of_streams(client: normd.Client, trained: str) -> None:
    class Broken(Exception):
        pass

    def broken() -> Iterator[np.ndarray]:
        yield X[:30]
        raise Broken

    with pytest.raises(Broken):
        list(client.infer_stream(trained, broken(), shape=X.shape, dtype="f4"))
    with pytest.raises(Broken):
        client.train_step_stream(trained, broken, shape=X.shape, dtype="f4")
    with pytest.raises(normd.NotFoundError, match="nobody"):
        list(client.infer_stream("test.nobody", cuts(X, 9), shape=X.shape, dtype="f4"))
    with pytest.raises(normd.NotFoundError, match="nobody"):
        client.train_step_stream("test.nobody", lambda: cuts(X, 9), shape=X.shape, dtype="f4")
    with pytest.raises(normd.InvalidArgumentError, match="channels"):
        list(client.infer_stream(trained, cuts(X, 9), shape=(50, 40, 3, 70), dtype="f4"))
    with pytest.raises(TypeError, match="x has dtype int32"):
        client.infer_stream(trained, [], shape=(1, 3), dtype="i4")
    with pytest.raises(ValueError, match="timeout is 0"):
        client.infer_stream(trained, [], shape=(1, 3), dtype="f4", timeout=0)
    assert client.get_layer(trained).version == 2


def test_streams_end_early(client: normd.Client, trained: str) -> None:
    with client.infer_stream(trained, itertools.repeat(X[:1]), shape=(1 << 20, *X.shape[1:]), dtype="f4") as stream:
        assert next(stream).shape == (1, *X.shape[1:])
    with pytest.raises(normd.CancelledError):
        for _ in stream:
            pass
    with pytest.raises(normd.DeadlineExceededError):
        list(client.infer_stream(trained, itertools.repeat(X[:1]), shape=(1 << 20, *X.shape[1:]), dtype="f4",
                                 timeout=0.2))


def test_closed_client(server: Server) -> None:
    client = normd.Client(server.unix)
    client.close()
    with pytest.raises(normd.CancelledError, match="closed"):
        list(client.infer_stream("a", [X], shape=X.shape, dtype="f4"))
    with pytest.raises(normd.CancelledError, match="closed"):
        client.steps()


# Training in chunks.


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_train_step_stream(client: normd.Client, layer: str, rows: int) -> None:
    client.create_layer(layer, 3)
    client.create_layer(layer + ".unary", 3)
    passes = 0

    def source() -> Iterable[np.ndarray]:
        nonlocal passes
        passes += 1
        return cuts(X, rows)

    unary = client.train_step(layer + ".unary", X)
    with client.train_step_stream(layer, source, shape=X.shape, dtype=X.dtype) as stream:
        assert (passes, stream.step.version, stream.step.y) == (1, 2, None)
        assert client.get_layer(layer).version == 2
        results = list(stream)
    assert passes == 2 and [y.shape for y in results] == [chunk.shape for chunk in cuts(X, rows)]
    mean, var, _ = support.moments(X)
    np.testing.assert_allclose(stream.step.batch_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(stream.step.batch_var, var, rtol=1e-10)
    eps = client.get_layer(layer).config.eps
    assert support.y_error(np.concatenate(results), support.normalize(X, mean, var, eps)) <= 1
    np.testing.assert_allclose(np.concatenate(results), unary.y, rtol=1e-6, atol=1e-6)
    assert stream.step.num_batches_tracked == 1


def test_train_step_stream_is_once(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    for replayed in (False, True):
        stream = client.train_step_stream(layer, lambda: cuts(X, 10), shape=X.shape, dtype=X.dtype, omit_output=True,
                                          request_id="mine", gamma=[1, 2, 3], beta=[4, 5, 6])
        assert (stream.step.replayed, stream.step.version, list(stream)) == (replayed, 2, [])
    assert client.get_layer(layer).state.gamma.tolist() == [1, 2, 3]
    # Whoever does not want y any more lets it be: the step is done.
    client.train_step_stream(layer, lambda: cuts(X, 10), shape=X.shape, dtype=X.dtype).close()
    assert client.get_layer(layer).version == 3
    with client.train_step_stream(layer, lambda: itertools.repeat(X[:1], 50 if client.get_layer(layer).version == 3
                                                                  else 49), shape=X.shape, dtype="f4") as stream:
        with pytest.raises(ValueError, match="end after"):
            list(stream)


# Steps.


def test_steps(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    client.create_layer(layer + ".unary", 3)
    parts = list(cuts(X, 5))
    with client.steps(max_in_flight=4) as steps:
        trained = [steps.train_step(layer, part) for part in parts]
        missing = steps.infer("test.nobody", X)
        inferred = steps.infer(layer, X)
        out = np.empty_like(X)
        back = steps.denormalize(layer, X, out=out)
        gradient = steps.backward(layer, X, X, frozen=True)
    unary = [client.train_step(layer + ".unary", part) for part in parts]
    assert [step.result().version for step in trained] == list(range(2, 12))
    for step, want in zip(trained, unary):
        np.testing.assert_array_equal(step.result().y, want.y)
        assert step.result().y.flags.writeable
    with pytest.raises(normd.NotFoundError, match="nobody"):
        missing.result()
    np.testing.assert_array_equal(inferred.result().output, client.infer(layer, X).output)
    assert back.result().output is out
    np.testing.assert_array_equal(out, client.denormalize(layer, X).output)
    np.testing.assert_array_equal(gradient.result().dx, client.backward(layer, X, X, frozen=True).dx)
    with pytest.raises(normd.CancelledError, match="closed"):
        steps.infer(layer, X)


def test_steps_of_many_threads(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, "standard_scaler")
    parts = list(cuts(X, 1))
    with client.steps() as steps, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda part: steps.train_step(layer, part).result(), parts))
    assert sorted(step.version for step in results) == list(range(2, 52))
    np.testing.assert_allclose(client.get_layer(layer).state.running_mean, support.moments(X)[0], rtol=1e-12)


def test_steps_are_cancelled_by_an_exception(client: normd.Client, trained: str) -> None:
    class Mine(Exception):
        pass

    with pytest.raises(Mine), client.steps(max_in_flight=100) as steps:
        futures = [steps.infer(trained, X) for _ in range(30)]
        raise Mine
    assert all(future.done() for future in futures)
    assert isinstance(futures[-1].exception(), normd.CancelledError)


def test_steps_check_what_they_are_given(client: normd.Client, trained: str) -> None:
    with client.steps() as steps:
        with pytest.raises(TypeError, match="has dtype int64"):
            steps.infer(trained, np.zeros((2, 3), int))
        with pytest.raises(ValueError, match="out has shape"):
            steps.infer(trained, X, out=np.empty((2, 3), np.float32))
        assert steps.infer(trained, X).result().version == 2
    with pytest.raises(ValueError, match="max_in_flight is 0"):
        client.steps(max_in_flight=0)


class Strange(work_grpc.NormalizationServiceServicer):
    """Answers as `answers` says, whatever it is asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.release = threading.Event()

    def Steps(self, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        for request, answer in zip(requests, self.answers):
            if answer is None:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            if answer == "wait":
                self.release.wait(20)
                return
            answer.id = answer.id or request.id
            yield answer

    def InferStream(self, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        next(requests)
        yield from self.answers


def test_a_step_says_when_to_come_back() -> None:
    status = work_pb2.CallStatus(code=8, message="full")
    status.retry_delay.FromMilliseconds(250)
    strange = Strange(work_pb2.StepsResponse(status=status),
                      work_pb2.StepsResponse(status=work_pb2.CallStatus(code=99)), None)
    with serving(strange) as target, normd.Client(target) as client, client.steps() as steps:
        errors = [steps.infer("a", X).exception(10) for _ in range(3)]
        with pytest.raises(normd.UnavailableError, match="gone"):
            steps.infer("a", X)
    assert [type(error) for error in errors] == [normd.ResourceExhaustedError, normd.Error, normd.UnavailableError]
    assert errors[0].retry_delay == 0.25 and errors[1].code is normd.Code.UNKNOWN


@pytest.mark.parametrize("answer", [work_pb2.StepsResponse(id=77), work_pb2.StepsResponse(),
                                    work_pb2.StepsResponse(backward=work_pb2.BackwardResponse())])
def test_wrong_answers_to_steps(answer: Any) -> None:
    with serving(Strange(answer)) as target, normd.Client(target) as client, client.steps() as steps:
        assert steps.infer("a", X).exception(10).code is normd.Code.INTERNAL


def test_steps_have_a_deadline() -> None:
    strange = Strange("wait")
    with serving(strange) as target, normd.Client(target) as client, \
            client.steps(timeout=0.3, max_in_flight=1) as steps:
        future = steps.infer("a", X)
        # Waits for room, which does not come.
        with pytest.raises(normd.DeadlineExceededError):
            steps.infer("a", X)
        assert isinstance(future.exception(), normd.DeadlineExceededError)
        strange.release.set()


def test_wrong_chunks() -> None:
    result = work_pb2.InferResponse(version=3)
    for answers in ([], [work_pb2.InferStreamResponse(result=result, data=b"1234")],
                    [work_pb2.InferStreamResponse(result=result, data=bytes(X.nbytes + 4))]):
        with serving(Strange(*answers)) as target, normd.Client(target) as client:
            with pytest.raises(normd.Error) as caught:
                list(client.infer_stream("a", [X[:1]], shape=(1, *X.shape[1:]), dtype="f4"))
            assert caught.value.code is normd.Code.INTERNAL
    assert _streams.MESSAGE_BYTES % 8 == 0
