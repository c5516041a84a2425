"""RunningNormalizer against NumPy over everything that all actors have seen."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from typing import Any, Callable, Optional

import numpy as np
import pytest

import normd
from conftest import Server

RANDOM = np.random.default_rng(59)
UNAVAILABLE = normd.UnavailableError(normd.Code.UNAVAILABLE, "no network", 1)


class Flaky(normd.Client):
    """A client whose merges fail as `before` and `after` say: with the exception that they return, if any."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.before: Callable[[], Optional[normd.Error]] = lambda: None
        self.after: Callable[[], Optional[normd.Error]] = lambda: None
        self.sequences: list[int] = []

    def merge_moments(self, *args: Any, **kwargs: Any) -> normd.MergeMomentsResult:
        self.sequences.append(kwargs["sequence"])
        self._fail(self.before)
        result = super().merge_moments(*args, **kwargs)
        self._fail(self.after)
        return result

    def _fail(self, hook: Callable[[], Optional[normd.Error]]) -> None:
        error = hook()
        if error is not None:
            raise error


@pytest.fixture
def flaky(server: Server) -> Any:
    with Flaky(server.unix) as connected:
        yield connected


def check(normalizer: normd.RunningNormalizer, x: np.ndarray) -> None:
    assert normalizer.count == len(x)
    np.testing.assert_allclose(normalizer.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(normalizer.var, x.var(0), rtol=1e-11)


def test_shared_by_two_actors(client: normd.Client, layer: str) -> None:
    a = normd.RunningNormalizer(client, layer, 3)
    b = normd.RunningNormalizer(client, layer, (3,))
    assert a.contributor != b.contributor
    config = client.get_layer(layer).config
    assert (config.averaging, config.clip, config.eps) == (normd.Averaging.POOLED, 10, 1e-8)

    x, z = 2 + RANDOM.standard_normal((50, 3)), 5 * RANDOM.standard_normal((7, 3))
    a.observe(x)
    # Local observations do not count before they are pushed.
    assert a.count == 0 and a.pending == 50 and a.mean.tolist() == [0] * 3 and a.var.tolist() == [1] * 3
    a.push()
    check(a, x)
    assert a.pending == 0 and b.count == 0
    b.observe(z)
    b.push()
    check(b, np.concatenate([x, z]))
    # A push with nothing to send only pulls.
    version = client.get_layer(layer).version
    a.push()
    check(a, np.concatenate([x, z]))
    assert client.get_layer(layer).version == version

    y = a(x)
    want = np.clip((x - a.mean) / np.sqrt(a.var + 1e-8), -10, 10)
    np.testing.assert_allclose(y, want, rtol=1e-14)
    np.testing.assert_allclose(client.infer(layer, x).output, y, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(a.denormalize(y), x, rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 2, 2)])
def test_every_shape(client: normd.Client, layer: str, shape: tuple[int, ...]) -> None:
    normalizer = normd.RunningNormalizer(client, layer, shape, clip=None, eps=1e-4)
    assert client.get_layer(layer).config.clip is None
    x = RANDOM.standard_normal((3, 5, *shape)) * 7 + 1
    normalizer.observe(x)
    normalizer.observe(x[0, 0])
    normalizer.observe(np.empty((0, *shape)))
    normalizer.push()
    check(normalizer, np.concatenate([x.reshape(15, *shape), x[0, :1]]))
    assert normalizer.obs_rms.mean.shape == normalizer.obs_rms.var.shape == shape
    assert normalizer.obs_rms.count == 16.0
    for given in (x, x[0], x[0, 0]):
        np.testing.assert_allclose(normalizer(given), (given - normalizer.mean) / np.sqrt(normalizer.var + 1e-4))


@pytest.mark.parametrize("given, want", [("float16", "float16"), ("float32", "float32"), ("float64", "float64"),
                                         ("uint8", "float32"), ("int64", "float64"), ("bool", "float32")])
def test_dtypes(client: normd.Client, layer: str, given: str, want: str) -> None:
    normalizer = normd.RunningNormalizer(client, layer, 2)
    x = np.array([[0, 1], [1, 1], [1, 0]], given)
    normalizer.observe(x)
    normalizer.push()
    check(normalizer, x.astype(np.float64))
    assert normalizer(x).dtype == want and normalizer.denormalize(x).dtype == want
    assert isinstance(normalizer([0, 1]), np.ndarray)


def test_clips(client: normd.Client, layer: str) -> None:
    normalizer = normd.RunningNormalizer(client, layer, 1, clip=2.0)
    assert normalizer([[-100.0], [1.5], [100.0]]).ravel().tolist() == [-2, pytest.approx(1.5), 2]
    assert np.isnan(normalizer([np.nan])[0])
    # NumPy has no array for out= in the sum of two plain numbers.
    plain = normd.RunningNormalizer(client, layer + ".plain", (), clip=2.0)
    assert plain(100.0).item() == 2 and plain(np.float32(1.5)).dtype == np.float32 and plain.denormalize(1).shape == ()


def test_refuses_what_it_cannot_take(client: normd.Client, layer: str) -> None:
    normalizer = normd.RunningNormalizer(client, layer, (2, 3))
    for call in (normalizer.observe, normalizer.normalize, normalizer.denormalize):
        for shape in ((), (6,), (3, 2), (2,)):
            with pytest.raises(ValueError, match=r"[xy] has shape .*, want \(\.\.\., 2, 3\)"):
                call(np.zeros(shape))
        with pytest.raises(TypeError, match="complex128"):
            call(np.zeros((2, 3), complex))
    with pytest.raises(ValueError, match="x holds 1 NaN or infinite values"):
        normalizer.observe([[1, 2, 3], [4, 5, np.inf]])
    assert normalizer.pending == 0
    with pytest.raises(ValueError, match="has 6 channels, want 5"):
        normd.RunningNormalizer(client, layer, 5)
    client.create_layer(layer + ".off", 1, track_running_stats=False)
    with pytest.raises(ValueError, match="keeps no running statistics"):
        normd.RunningNormalizer(client, layer + ".off", 1)
    with pytest.raises(normd.NotFoundError):
        normd.RunningNormalizer(client, layer + ".none", 1, create=False)
    for wrong in ({"clip": 0}, {"eps": 0}, {"push_every": 0}, {"push_batches": 0}, {"contributor": ""}, {"shape": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            normd.RunningNormalizer(client, layer, **{"shape": (2, 3), **wrong})
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            duplicate(normalizer)


def test_a_layer_that_was_replaced(client: normd.Client, layer: str) -> None:
    normalizer = normd.RunningNormalizer(client, layer, 1)
    normalizer.observe([2.0])
    client.delete_layer(layer)
    with pytest.raises(normd.NotFoundError):
        normalizer.push()
    client.create_layer(layer, 2, "rl_observation")
    with pytest.raises(normd.InvalidArgumentError, match="moments.mean has 1 entries, want 2"):
        normalizer.push()
    client.delete_layer(layer)
    client.create_layer(layer, 1, "rl_observation")
    normalizer.push()
    assert normalizer.mean.tolist() == [2] and normalizer.pending == 0
    client.delete_layer(layer)
    client.create_layer(layer, 2, "rl_observation")
    with pytest.raises(ValueError, match="has 2 channels, want 1"):
        normalizer.push()


def test_skips_non_finite_values_if_told(client: normd.Client, layer: str) -> None:
    normalizer = normd.RunningNormalizer(client, layer, 2, skip_non_finite=True)
    normalizer.observe([[1, np.nan], [3, np.inf], [5, -np.inf]])
    normalizer.push()
    assert normalizer.mean.tolist() == [3, 0] and normalizer.count == 3
    assert client.get_layer(layer).state.sample_count.tolist() == [3, 0]
    normalizer.observe([[7, 2], [9, 4]])
    normalizer.push()
    assert normalizer.mean.tolist() == [5, 3] and normalizer.var.tolist() == [8, 1]


def test_a_failed_push_counts_once(flaky: Flaky, layer: str) -> None:
    normalizer = normd.RunningNormalizer(flaky, layer, 2)
    x = RANDOM.standard_normal((4, 10, 2))
    normalizer.observe(x[0])
    normalizer.push()

    # Lost on the way there.
    flaky.before = lambda: UNAVAILABLE
    normalizer.observe(x[1])
    for _ in range(2):
        with pytest.raises(normd.UnavailableError):
            normalizer.push()
    assert normalizer.pending == 10 and normalizer.last_error is UNAVAILABLE
    check(normalizer, x[0])
    # Lost on the way back: the server has it.
    flaky.before, flaky.after = lambda: None, lambda: UNAVAILABLE
    with pytest.raises(normd.UnavailableError):
        normalizer.push()
    normalizer.observe(x[2])
    assert normalizer.pending == 20
    assert flaky.get_layer(layer).state.sample_count.tolist() == [20, 20]
    with pytest.raises(normd.UnavailableError):
        normalizer.push()
    flaky.after = lambda: None
    normalizer.push()
    assert normalizer.pending == 0 and normalizer.last_error is None
    check(normalizer, x[:3].reshape(-1, 2))
    first = flaky.sequences[0]
    assert flaky.sequences == [first] + [first + 1] * 5 + [first + 2]

    normalizer.observe(x[3])
    normalizer.push()
    check(normalizer, x.reshape(-1, 2))


def test_a_refused_push_waits_for_more(client: normd.Client, layer: str) -> None:
    # This layer takes no single value: its variance divides by n - 1.
    client.create_layer(layer, 1, "pytorch", update_weight=1.0)
    normalizer = normd.RunningNormalizer(client, layer, 1)
    normalizer.observe([1.0])
    with pytest.raises(normd.InvalidArgumentError, match="want at least 2"):
        normalizer.push()
    assert normalizer.pending == 1
    normalizer.observe([3.0])
    normalizer.push()
    assert normalizer.mean.tolist() == [2] and normalizer.var.tolist() == [2] and normalizer.pending == 0


def test_many_actors(server: Server, client: normd.Client, layer: str) -> None:
    x = 10 + 3 * RANDOM.standard_normal((6, 40, 5, 4))

    def act(index: int, target: str) -> None:
        with normd.RunningNormalizer(target, layer, 4, push_every=0.001) as normalizer:
            for batch in x[index]:
                normalizer.observe(batch)
                assert normalizer(batch).shape == batch.shape

    actors = [threading.Thread(target=act, args=(index, server.unix)) for index in range(6)]
    for actor in actors:
        actor.start()
    for actor in actors:
        actor.join()
    last = normd.RunningNormalizer(client, layer, 4, create=False)
    check(last, x.reshape(-1, 4))


def test_threads_share_a_normalizer_over_a_bad_network(flaky: Flaky, layer: str,
                                                       caplog: pytest.LogCaptureFixture) -> None:
    x = RANDOM.standard_normal((8, 50, 3))
    chance = np.random.default_rng(1)
    flaky.before = lambda: UNAVAILABLE if chance.random() < 0.3 else None
    flaky.after = lambda: UNAVAILABLE if chance.random() < 0.3 else None
    normalizer = normd.RunningNormalizer(flaky, layer, 3, push_every=0.001, push_batches=3)
    normalizer.start()
    normalizer.start()

    def observe(rows: np.ndarray) -> None:
        for row in rows:
            normalizer.observe(row)

    threads = [threading.Thread(target=observe, args=(rows,)) for rows in x]
    with caplog.at_level(logging.ERROR, "normd"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while True:
            try:
                normalizer.close()
                break
            except normd.UnavailableError:
                continue
    check(normalizer, x.reshape(-1, 3))
    assert flaky.get_layer(layer).state.sample_count.tolist() == [400] * 3


def test_pushes_in_the_background(client: normd.Client, layer: str) -> None:
    pushed = threading.Event()

    class Watched(normd.Client):
        def merge_moments(self, *args: Any, **kwargs: Any) -> normd.MergeMomentsResult:
            result = super().merge_moments(*args, **kwargs)
            pushed.set()
            return result

    with Watched(client.target) as watched:
        # Only the number of batches can be what starts it.
        with normd.RunningNormalizer(watched, layer, 1, push_every=3600, push_batches=2) as normalizer:
            normalizer.observe([1.0])
            assert not pushed.is_set()
            normalizer.observe([3.0])
            assert pushed.wait(30)
        pushed.clear()
        with normd.RunningNormalizer(watched, layer, 1, push_every=0.01) as normalizer:
            normalizer.observe([5.0])
            assert pushed.wait(30)
            # What is left goes at the end.
            normalizer.observe([7.0])
    assert normalizer.count == 4 and normalizer.mean.tolist() == [4]
    assert normalizer([4.0]).tolist() == [0]
    normalizer.close()
    with pytest.raises(RuntimeError, match="closed"):
        normalizer.observe([1.0])
    with pytest.raises(RuntimeError, match="closed"):
        normalizer.start()


def test_background_failures_are_told_once_and_made_up_for(flaky: Flaky, layer: str,
                                                           caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()
    attempts: list[int] = []

    def fail() -> normd.Error:
        attempts.append(1)
        if len(attempts) == 3:
            failed.set()
        return UNAVAILABLE

    flaky.before = fail
    with caplog.at_level(logging.WARNING, "normd"):
        with normd.RunningNormalizer(flaky, layer, 1, push_every=0.001) as normalizer:
            normalizer.observe([2.0])
            assert failed.wait(30)
            assert normalizer.last_error is UNAVAILABLE
            flaky.before = lambda: None
    assert normalizer.count == 1
    assert [record.message for record in caplog.records if record.name == "normd"] == [
        f"pushing to layer '{layer}' failed, and will be tried again: UNAVAILABLE: no network"]


def test_a_name_can_come_back(client: normd.Client, layer: str) -> None:
    for value in (1.0, 3.0):
        normalizer = normd.RunningNormalizer(client, layer, 1, contributor="actor-0")
        assert normalizer.contributor == "actor-0"
        normalizer.observe([value])
        normalizer.close()
    assert normalizer.mean.tolist() == [2] and normalizer.count == 2
