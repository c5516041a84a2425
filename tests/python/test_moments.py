"""Moments against NumPy in two passes, and merge_moments against train_step and the whole data."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import numpy as np
import pytest

import normd
import support
from fake_server import serving
from normd.v1 import normalization_service_pb2 as work_pb2
from normd.v1 import normalization_service_pb2_grpc as work_grpc

RANDOM = np.random.default_rng(53)


def check(moments: normd.Moments, x: np.ndarray, layout: str = "channels_first") -> None:
    mean, var, count = support.moments(x, layout)
    over = support.axes(x, layout)
    assert moments.count.tolist() == [count] * len(mean)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(moments.m2, var * count, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(moments.var, var, rtol=1e-11, atol=1e-300)
    assert moments.min is not None and moments.max is not None
    np.testing.assert_array_equal(moments.min, x.min(over))
    np.testing.assert_array_equal(moments.max, x.max(over))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape, layout", [((7, 3), "channels_first"), ((4, 3, 5), "channels_first"),
                                           ((2, 3, 4, 5), "channels_first"), ((7, 3), "channels_last"),
                                           ((2, 4, 5, 3), "channels_last"), ((1, 3), "channels_first")])
def test_of_every_shape(dtype: str, shape: tuple[int, ...], layout: Any) -> None:
    x = (3 + 2 * RANDOM.standard_normal(shape)).astype(dtype)
    moments = normd.Moments.of(x, layout=layout)
    check(moments, x, layout)
    assert moments.non_finite_count is not None and moments.non_finite_count.tolist() == [0, 0, 0]
    assert moments.num_channels == 3


def test_of_values_far_from_zero() -> None:
    x = 1e6 + RANDOM.standard_normal((5000, 2))
    check(normd.Moments.of(x), x)
    constant = normd.Moments.of(np.full((1000, 1), 0.1))
    assert constant.mean[0] == 0.1 and constant.m2[0] == 0


def test_non_finite_values_are_only_counted() -> None:
    x = np.array([[1, np.nan, np.inf], [3, 5, np.nan], [np.inf, 7, -np.inf]])
    moments = normd.Moments.of(x)
    assert moments.count.tolist() == [2, 2, 0]
    assert moments.non_finite_count.tolist() == [1, 1, 3]
    assert moments.mean.tolist() == [2, 6, 0] and moments.m2.tolist() == [2, 2, 0]
    assert moments.min.tolist() == [1, 5, np.inf] and moments.max.tolist() == [3, 7, -np.inf]
    assert np.isnan(moments.var[2])


def test_of_nothing() -> None:
    for moments in (normd.Moments.none(3), normd.Moments.of(np.empty((0, 3)))):
        assert moments.count.tolist() == [0] * 3 and moments.m2.tolist() == [0] * 3


def test_merge_in_any_split_and_order() -> None:
    x = 1000 * np.arange(3) + RANDOM.standard_normal((301, 3))
    for pieces in (1, 2, 7, 301):
        cuts = np.sort(RANDOM.choice(np.arange(1, 301), pieces - 1, replace=False))
        parts = np.split(x, cuts)
        merged = normd.Moments.none(3)
        for index in RANDOM.permutation(pieces):
            merged = merged.merge(normd.Moments.of(parts[index]))
        check(merged, x)


def test_merge_where_one_has_nothing_or_knows_less() -> None:
    odd = normd.Moments([0, 2], [np.nan, 1.0], [-1.0, 8.0])
    full = normd.Moments(3, [5.0, 2.0], [6.0, 0.0], [4.0, 2.0], [7.0, 2.0], [1, 0])
    for merged in (odd.merge(full), full.merge(odd)):
        assert merged.count.tolist() == [3, 5]
        assert merged.mean.tolist() == [5, pytest.approx(8 / 5)]
        assert merged.m2.tolist() == [6, pytest.approx(8 + 2 * 3 / 5)]
        assert merged.min is None and merged.max is None
        assert merged.non_finite_count.tolist() == [1, 0]
    with pytest.raises(ValueError, match="other has 1 channels, want 2"):
        odd.merge(normd.Moments.none(1))


def test_bad_values() -> None:
    with pytest.raises(ValueError, match=r"m2 has shape \(1,\), want \(2,\) as mean has"):
        normd.Moments(1, [1, 2], [1])
    with pytest.raises(ValueError, match=r"mean has shape \(\), want one number per channel"):
        normd.Moments(1, 1.0, 1.0)
    with pytest.raises(ValueError, match="count has dtype float64, want whole numbers"):
        normd.Moments(1.5, [1.0], [1.0])
    with pytest.raises(ValueError, match=r"x has shape \(3,\), want rank 2 to 8"):
        normd.Moments.of(np.zeros(3))
    with pytest.raises(TypeError, match="x has dtype int64"):
        normd.Moments.of(np.zeros((3, 3), np.int64))
    with pytest.raises(ValueError, match="layout is 'NHWC'"):
        normd.Moments.of(np.zeros((3, 3)), layout="NHWC")


def test_a_pooled_layer_gets_the_statistics_of_all(client: normd.Client, layer: str) -> None:
    x = 5 * np.arange(3) + RANDOM.standard_normal((200, 3))
    client.create_layer(layer, 3, "rl_observation")
    for part in np.array_split(x, 9):
        result = client.merge_moments(layer, normd.Moments.of(part))
    want = normd.Moments.of(x)
    np.testing.assert_allclose(result.running_mean, want.mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(result.running_var, want.var, rtol=1e-12)
    assert result.sample_count.tolist() == [200] * 3 and result.num_batches_tracked == 9
    assert not result.replayed
    got = client.get_layer(layer)
    assert (got.version, got.content_hash) == (result.version, result.content_hash)
    assert got.state.running_mean.tolist() == result.running_mean.tolist()


@pytest.mark.parametrize("preset", ["reference", "pytorch", "haiku", "standard_scaler"])
def test_a_merge_is_a_train_step(client: normd.Client, layer: str, preset: str) -> None:
    client.create_layer(layer + ".a", 3, preset)
    client.create_layer(layer + ".b", 3, preset)
    for _ in range(4):
        x = 2 + RANDOM.standard_normal((6, 3, 4))
        client.train_step(layer + ".a", x)
        result = client.merge_moments(layer + ".b", normd.Moments.of(x))
    want = client.get_layer(layer + ".a").state
    np.testing.assert_allclose(result.running_mean, want.running_mean, rtol=1e-12)
    np.testing.assert_allclose(result.running_var, want.running_var, rtol=1e-12)
    assert result.sample_count.tolist() == want.sample_count.tolist()


def test_repetitions(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 1, "rl_observation")
    moments = normd.Moments(4, [2.0], [8.0])
    first = client.merge_moments(layer, moments, contributor="a", sequence=3, request_id="one")
    for sequence, request_id in ((3, "one"), (3, "two"), (3, None), (1, None)):
        again = client.merge_moments(layer, moments, contributor="a", sequence=sequence, request_id=request_id)
        assert again.replayed and again.version == first.version and again.sample_count.tolist() == [4]
    assert not client.merge_moments(layer, moments, contributor="a", sequence=4).replayed
    assert not client.merge_moments(layer, moments, contributor="b", sequence=1).replayed
    assert client.get_layer(layer).state.sample_count.tolist() == [12]


def test_errors(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 2, "rl_observation")
    client.create_layer(layer + ".off", 2, track_running_stats=False)
    good = normd.Moments(1, [0.0, 0.0], [0.0, 0.0])
    with pytest.raises(normd.NotFoundError, match="nobody"):
        client.merge_moments("test.nobody", good)
    with pytest.raises(normd.FailedPreconditionError, match="no running statistics"):
        client.merge_moments(layer + ".off", good)
    for moments, message in ((normd.Moments(1, [0.0], [0.0]), "moments.count has 1 entries|moments.mean has 1 entries"),
                             (normd.Moments(0, [0.0, 0.0], [0.0, 0.0]), "0 for every channel"),
                             (normd.Moments(1, [0.0, np.nan], [0.0, 0.0]), r"moments.mean\[1\] is nan"),
                             (normd.Moments.of(np.array([[1, np.nan], [1, 2]])), r"non_finite_count\[1\] is 1")):
        with pytest.raises(normd.InvalidArgumentError, match=message):
            client.merge_moments(layer, moments)
    for contributor, sequence in (("a", 0), ("a", -1), ("", 1), ("a" * 129, 1)):
        with pytest.raises(normd.InvalidArgumentError, match="sequence|contributor"):
            client.merge_moments(layer, good, contributor=contributor, sequence=sequence)
    assert client.get_layer(layer).version == 1


class LosesAnswers(work_grpc.NormalizationServiceServicer):
    """Keeps what comes, and loses the answer to each first attempt."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.lock = threading.Lock()

    def MergeMoments(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        with self.lock:
            self.requests.append(request)
            if len(self.requests) % 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return work_pb2.MergeMomentsResponse(version=2, running_mean=[1], running_var=[1], sample_count=[1],
                                             replayed=True)


def test_a_retry_is_the_same_request() -> None:
    fake = LosesAnswers()
    with serving(fake) as address, normd.Client(address, sleep=lambda seconds: None) as client:
        assert client.merge_moments("bn", normd.Moments(1, [1.0], [0.0]), contributor="a", sequence=1).replayed
    assert len(fake.requests) == 2 and fake.requests[0] == fake.requests[1]
    assert fake.requests[0].request_id and fake.requests[0].sequence == 1
