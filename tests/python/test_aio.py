"""The asyncio client: beside the other one, under cancellation, retries and restarts."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import signal
import threading
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Coroutine, Iterator

import grpc
import numpy as np
import pytest

import normd
import normd.aio
import support
from conftest import Server, running
from fake_server import Flaky, details_of, serving

X = np.random.default_rng(31).standard_normal((6, 3))
# Longer than anything here takes.
LONG = 30.0

# Where the surfaces differ, and why: a method or its argument.
WITHOUT_COUNTERPART = {
    "Client.empty": "makes arrays in shared memory, which there is not for asyncio",
}
OTHER_TYPES = {
    "Client.infer_stream.chunks": "may be an asynchronous iterable, too",
    "Client.train_step_stream.source": "may be an asynchronous generator, too",
    "Client.__init__.transport": "there is no shared memory for asyncio",
    "Client.__init__.sleep": "is awaited",
}


def public(kind: type) -> dict[str, Any]:
    """Methods and properties; what a class takes only where its users make it."""
    found = {name: value.fget if isinstance(value, property) else value for name, value in inspect.getmembers(kind)
             if (inspect.isfunction(value) or isinstance(value, property)) and not name.startswith("_")}
    return {**found, "__init__": kind.__init__} if kind.__name__ == "Client" else found  # type: ignore[misc]


def test_every_public_class_has_its_counterpart() -> None:
    assert set(normd.aio.__all__) == {"Client", "InferStream", "LayerWatch", "Steps", "TrainStepStream"}
    # What a Client gives, that is not a value: whatever is iterated over, or used in `with`.
    assert set(normd.aio.__all__) == {name for name in normd.__all__ if hasattr(getattr(normd, name), "__enter__")
                                      and name != "RunningNormalizer"}


@pytest.mark.parametrize("name", normd.aio.__all__)
def test_methods_and_their_arguments_are_the_same(name: str) -> None:
    theirs, ours = public(getattr(normd, name)), public(getattr(normd.aio, name))
    assert set(theirs) - set(ours) == {path.partition(".")[2] for path in WITHOUT_COUNTERPART
                                       if path.startswith(name + ".")}
    assert set(ours) <= set(theirs)
    differ = set()
    for method, function in ours.items():
        assert function.__doc__ or method == "__init__", method
        got, want = inspect.signature(function).parameters, inspect.signature(theirs[method]).parameters
        assert [(p.name, p.kind) for p in got.values()] == [(p.name, p.kind) for p in want.values()], method
        differ |= {f"{name}.{method}.{p}" for p in want if str(got[p]) != str(want[p])}
    assert differ == {path for path in OTHER_TYPES if path.startswith(name + ".")}


def run(work: Callable[[normd.aio.Client], Coroutine[Any, Any, None]], target: str, **settings: Any) -> None:
    async def main() -> None:
        async with normd.aio.Client(target, **settings) as client:
            await asyncio.wait_for(work(client), 2 * LONG)

    asyncio.run(main())


def same(got: normd.Layer, want: normd.Layer) -> None:
    assert (got.name, got.uid, got.version, got.content_hash, got.config) == \
        (want.name, want.uid, want.version, want.content_hash, want.config)


@pytest.mark.parametrize("shape", [(6, 3), (40, 3, 64, 64)], ids=["small", "large"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensor_calls(server: Server, client: normd.Client, layer: str, shape: tuple[int, ...], dtype: Any) -> None:
    x = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    client.create_layer(layer, 3, "pytorch")
    client.create_layer(layer + ".sync", 3, "pytorch")

    async def work(aio: normd.aio.Client) -> None:
        step, want = await aio.train_step(layer, x), client.train_step(layer + ".sync", x)
        np.testing.assert_array_equal(step.y, want.y)
        assert step.y.dtype == dtype and step.y.flags.writeable
        assert (step.version, step.num_batches_tracked, step.replayed) == (2, 1, False)
        np.testing.assert_array_equal(step.batch_var, want.batch_var)
        out = np.empty_like(x)
        answer = await aio.infer(layer, x, version=2, out=out)
        assert answer.output is out
        np.testing.assert_array_equal(out, client.infer(layer, x).output)
        np.testing.assert_array_equal((await aio.denormalize(layer, x)).output, client.denormalize(layer, x).output)
        statistics = {"batch_mean": step.batch_mean, "batch_var": step.batch_var}
        np.testing.assert_array_equal((await aio.backward(layer, x, x, **statistics)).dx,
                                      client.backward(layer, x, x, **statistics).dx)
        with pytest.raises(TypeError, match="has dtype int64"):
            await aio.infer(layer, np.zeros((2, 3), int))
        with pytest.raises(ValueError, match="out has shape"):
            await aio.infer(layer, x, out=np.empty((2, 2), dtype))
        with pytest.raises(normd.InvalidArgumentError, match="got 5 channels, want 3|x has 5 channels, want 3"):
            await aio.infer(layer, np.zeros((2, 5), dtype))
        with pytest.raises(ValueError, match="timeout is 0"):
            await aio.infer(layer, x, timeout=0)

    run(work, server.tcp)


def test_life_of_layers_and_snapshots(server: Server, client: normd.Client, layer: str) -> None:
    snapshot = layer[-60:]

    async def work(aio: normd.aio.Client) -> None:
        made = await aio.create_layer(layer, 3, normd.presets.keras(momentum=0.9), clip=5)
        same(made, client.get_layer(layer))
        merged = await aio.merge_moments(layer, normd.Moments.of(X), contributor="a", sequence=1)
        assert (await aio.merge_moments(layer, normd.Moments.of(X), contributor="a", sequence=1)).replayed
        assert merged.version == 2 and (await aio.get_layer_if_newer(layer, 2)) is None
        same(await aio.get_layer_if_newer(layer, 1), client.get_layer(layer))
        same(await aio.get_layer(layer, version=1), made)
        await aio.create_snapshot(snapshot, layer=layer)
        assert [one.name for one in await aio.list_snapshots(snapshot)] == [snapshot]
        await aio.set_state(layer, normd.LayerState(gamma=[1, 2, 3], beta=[0, 0, 0]))
        assert (await aio.get_layer(layer)).state.gamma.tolist() == [1, 2, 3]
        assert (await aio.update_layer(layer, eps=0.5)).config.eps == 0.5
        assert await aio.restore_snapshot(snapshot) == 1
        assert client.get_layer(layer).state.gamma.tolist() == [1, 1, 1]
        await aio.delete_snapshot(snapshot)
        assert not await aio.list_snapshots(snapshot)
        await aio.fork_layer(layer, layer + ".fork", reset_statistics=True)
        assert client.get_layer(layer + ".fork").state.num_batches_tracked == 0
        assert (await aio.freeze_layer(layer)).config.frozen
        with pytest.raises(normd.FailedPreconditionError, match="frozen"):
            await aio.reset_statistics(layer)
        await aio.unfreeze_layer(layer)
        await aio.reset_statistics(layer)
        assert client.get_layer(layer).state.running_mean.tolist() == [0, 0, 0]
        assert [one.name async for one in aio.list_layers(layer, page_size=1)] == [layer, layer + ".fork"]
        await aio.delete_layer(layer)
        with pytest.raises(normd.NotFoundError, match=layer):
            await aio.get_layer(layer)

    run(work, server.unix)


def test_many_calls_at_once(server: Server, client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, "standard_scaler")
    parts = np.random.default_rng(5).standard_normal((200, 4, 3))

    async def work(aio: normd.aio.Client) -> None:
        steps = await asyncio.gather(*(aio.train_step(layer, part, omit_output=True) for part in parts))
        assert sorted(step.version for step in steps) == list(range(2, 202))

    run(work, server.unix)
    state = client.get_layer(layer).state
    np.testing.assert_allclose(state.running_mean, parts.reshape(-1, 3).mean(0), rtol=1e-12)
    np.testing.assert_allclose(state.running_var, parts.reshape(-1, 3).var(0), rtol=1e-12)


def test_a_cancelled_step_is_counted_once_or_not_at_all(server: Server, client: normd.Client, layer: str) -> None:
    """Cancelled at any moment, and repeated with their request_ids, steps count once each."""
    client.create_layer(layer, 3, "standard_scaler")
    parts = np.random.default_rng(6).standard_normal((120, 4, 3))

    async def work(aio: normd.aio.Client) -> None:
        def step(number: int) -> Awaitable[normd.TrainStepResult]:
            return aio.train_step(layer, parts[number], omit_output=True, request_id=f"step {number}")

        async def cancelled(number: int) -> bool:
            task = asyncio.ensure_future(step(number))
            for _ in range(number % 30):
                await asyncio.sleep(0)
            # Those of the last third: when the answer may be on its way. The last ones have it.
            await asyncio.sleep(0.0001 * max(0, number - 80))
            if number >= len(parts) - 5:
                await task
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return True
            return False

        assert any(await asyncio.gather(*map(cancelled, range(len(parts)))))
        again = await asyncio.gather(*map(step, range(len(parts))))
        counted = (await aio.get_layer(layer)).state.num_batches_tracked
        assert counted == len(parts)
        # The server says of each whether it had been done before: some were, and some were not.
        assert {one.replayed for one in again} == {True, False}

    run(work, server.unix)
    np.testing.assert_allclose(client.get_layer(layer).state.running_mean, parts.reshape(-1, 3).mean(0), rtol=1e-12)


def test_retries() -> None:
    """As test_client.py has them for the other one: the policy is the same, what waits is not."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    service = Flaky()

    async def work(aio: normd.aio.Client) -> None:
        service.codes = [grpc.StatusCode.UNAVAILABLE] * 3
        assert (await aio.train_step("a", X)).version == 7
        assert len(service.request_ids) == 4 and len(set(service.request_ids)) == 1
        assert all(low <= pause <= 2 * low for pause, low in zip(pauses, (0.025, 0.05, 0.1))) and len(pauses) == 3
        del pauses[:], service.request_ids[:]
        service.codes = [grpc.StatusCode.UNAVAILABLE] * 9
        with pytest.raises(normd.UnavailableError, match="after 4 attempts"):
            await aio.train_step("a", X, request_id="mine")
        assert service.request_ids == ["mine"] * 4
        del pauses[:]
        service.codes, service.details = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2, details_of(2.5)
        assert (await aio.train_step("a", X)).version == 7
        assert len(pauses) == 2 and all(2.5 <= pause <= 3 for pause in pauses)
        service.codes, service.details = [grpc.StatusCode.INTERNAL], None
        with pytest.raises(normd.Error, match="INTERNAL: told to fail"):
            await aio.train_step("a", X)
        service.codes = [grpc.StatusCode.DEADLINE_EXCEEDED]
        with pytest.raises(normd.DeadlineExceededError):
            await aio.train_step("a", X, timeout=0.2)

    with serving(service) as target:
        run(work, target, sleep=sleep)
        service.release.set()


def test_a_pause_between_attempts_is_cancelled() -> None:
    service = Flaky()

    async def work(aio: normd.aio.Client) -> None:
        service.codes = [grpc.StatusCode.UNAVAILABLE] * 9
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(aio.train_step("a", X), 1)
        assert len(service.request_ids) == 1

    with serving(service) as target:
        run(work, target, retry=normd.RetryPolicy(initial_backoff=1000, max_backoff=1000), timeout=5000)


def test_close_ends_calls_with_our_error() -> None:
    service = Flaky()

    async def main(target: str) -> None:
        aio = normd.aio.Client(target)
        service.codes = [grpc.StatusCode.DEADLINE_EXCEEDED]
        pending = asyncio.ensure_future(aio.train_step("a", X))
        while not service.request_ids:
            await asyncio.sleep(0.001)
        await aio.close()
        with pytest.raises(normd.CancelledError, match="closed"):
            await pending
        with pytest.raises(normd.CancelledError, match="closed"):
            await aio.train_step("a", X)
        with pytest.raises(normd.CancelledError, match="closed"):
            async with aio.steps() as steps:
                await (await steps.infer("a", X))
        with pytest.raises(normd.CancelledError, match="closed"):
            async for _ in aio.watch("a"):
                raise AssertionError
        await aio.close()
        service.release.set()

    with serving(service) as target:
        asyncio.run(main(target))


def test_where_it_can_be_made() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        normd.aio.Client("127.0.0.1:1")

    async def main() -> None:
        with pytest.raises(ValueError, match="shared memory is for normd.Client"):
            normd.aio.Client("127.0.0.1:1", transport="shm")  # type: ignore[arg-type]
        async with normd.aio.Client("127.0.0.1:1") as aio:
            assert repr(aio) == "normd.aio.Client('127.0.0.1:1')"
            with pytest.raises(normd.UnavailableError):
                await aio.get_layer("a")

    asyncio.run(main())


def test_a_server_that_comes_back_is_found(tmp_path: Path) -> None:
    flags = ["--store", f"sqlite:{tmp_path / 'normd.db'}"]

    async def main() -> None:
        with running(tmp_path, *flags, end=signal.SIGKILL) as server:
            aio = normd.aio.Client(server.unix, retry=normd.RetryPolicy(max_attempts=1), timeout=LONG)
            await aio.create_layer("a", 3)
            watch = aio.watch("a")
            assert (await watch.__anext__()).version == 1
        with pytest.raises(normd.UnavailableError):
            await aio.get_layer("a")
        with running(tmp_path, *flags):
            await aio.close()
            async with normd.aio.Client(server.unix, retry=normd.RetryPolicy(max_attempts=100), timeout=LONG) as other:
                await other.train_step("a", X)
            with pytest.raises(normd.CancelledError):
                await watch.__anext__()

    asyncio.run(main())


def test_calls_go_on_after_a_restart(tmp_path: Path) -> None:
    """One client, over a restart: its calls are retried until the server is there, and so is its watch."""
    flags = ["--store", f"sqlite:{tmp_path / 'normd.db'}"]

    async def main() -> None:
        paused = asyncio.Event()

        async def sleep(seconds: float) -> None:
            paused.set()
            await asyncio.sleep(seconds)

        with running(tmp_path, *flags, end=signal.SIGKILL) as server:
            aio = normd.aio.Client(server.unix, retry=normd.RetryPolicy(max_attempts=1000), timeout=LONG, sleep=sleep)
            await aio.create_layer("a", 3)
            watch = aio.watch("a")
            assert (await watch.__anext__()).version == 1
        waiting = asyncio.ensure_future(aio.train_step("a", X))
        await paused.wait()
        with running(tmp_path, *flags):
            assert (await waiting).version == 2
            assert (await asyncio.wait_for(watch.__anext__(), LONG)).version == 2
            await watch.close()
            await aio.close()

    asyncio.run(main())


def test_watch(server: Server, client: normd.Client, layer: str) -> None:
    async def changes(watch: normd.aio.LayerWatch, count: int) -> AsyncIterator[normd.LayerChange]:
        for _ in range(count):
            yield await watch.__anext__()

    async def work(aio: normd.aio.Client) -> None:
        client.create_layer(layer, 3)
        async with aio.watch(prefix=layer) as watch:
            assert [change.version async for change in changes(watch, 1)] == [1]
            assert await watch.poll(0.05) is None
            step = client.train_step(layer, X)
            change = await watch.poll(LONG)
            assert change is not None and change.layer is not None and change.version == step.version
            assert normd.content_hash(change.layer.config, change.layer.state) == step.content_hash
            client.create_layer(layer + ".more", 2)
            assert (await watch.__anext__()).name == layer + ".more"
            client.delete_layer(layer)
            gone = await watch.__anext__()
            assert (gone.name, gone.layer) == (layer, None)
            # A reader that is slow, or whose wait is cancelled, gets the newest, once.
            for _ in range(5):
                last = client.train_step(layer + ".more", X[:, :2])
            waiting = asyncio.ensure_future(watch.__anext__())
            waiting.cancel()
            versions = [(await watch.__anext__()).version]
            while versions[-1] < last.version:
                versions.append((await watch.__anext__()).version)
            assert versions == sorted(set(versions))
            waiting = asyncio.ensure_future(watch.__anext__())
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert await watch.poll(LONG) is None
        with pytest.raises(normd.NotFoundError, match="test.nobody"):
            async for _ in aio.watch("test.nobody"):
                raise AssertionError
        with pytest.raises(ValueError, match="no names to watch"):
            aio.watch([])

    run(work, server.unix)


def test_steps(server: Server, client: normd.Client, layer: str) -> None:
    parts = np.random.default_rng(9).standard_normal((10, 5, 3))

    async def work(aio: normd.aio.Client) -> None:
        client.create_layer(layer, 3)
        client.create_layer(layer + ".unary", 3)
        out = np.empty_like(X)
        async with aio.steps(max_in_flight=4) as steps:
            trained = [await steps.train_step(layer, part) for part in parts]
            missing = await steps.infer("test.nobody", X)
            back = await steps.denormalize(layer, X, out=out)
            gradient = await steps.backward(layer, X, X, frozen=True)
            with pytest.raises(TypeError, match="has dtype int64"):
                await steps.infer(layer, np.zeros((2, 3), int))
        for step, part in zip(trained, parts):
            np.testing.assert_array_equal(step.result().y, client.train_step(layer + ".unary", part).y)
        with pytest.raises(normd.NotFoundError, match="nobody"):
            await missing
        assert back.result().output is out
        np.testing.assert_array_equal(out, client.denormalize(layer, X).output)
        np.testing.assert_array_equal(gradient.result().dx, client.backward(layer, X, X, frozen=True).dx)
        with pytest.raises(normd.CancelledError, match="closed"):
            await steps.infer(layer, X)
        with pytest.raises(ValueError, match="max_in_flight is 0"):
            aio.steps(max_in_flight=0)

    run(work, server.unix)


def test_steps_keep_to_their_room(server: Server, client: normd.Client, layer: str) -> None:
    """Tasks that share a stream: no more on their way than allowed, none left out, also when some are cancelled."""
    client.create_layer(layer, 3, "standard_scaler")

    async def work(aio: normd.aio.Client) -> None:
        async with aio.steps(max_in_flight=3) as steps:
            ledger, most = steps._ledger, 0

            async def one(number: int) -> int:
                nonlocal most
                future = await steps.train_step(layer, X, omit_output=True, request_id=f"{layer} {number}")
                most = max(most, len(ledger._pending))
                return (await future).version

            tasks = [asyncio.ensure_future(one(number)) for number in range(60)]
            await asyncio.sleep(0)
            for task in tasks[40:]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        versions = [version for version in done if isinstance(version, int)]
        assert len(versions) == 40 and sorted(set(versions)) == sorted(versions) and 1 <= most <= 3
        assert client.get_layer(layer).state.num_batches_tracked >= 40

    run(work, server.unix)


def test_steps_are_cancelled_by_an_exception(server: Server, client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)

    class Mine(Exception):
        pass

    async def work(aio: normd.aio.Client) -> None:
        with pytest.raises(Mine):
            async with aio.steps(max_in_flight=100) as steps:
                futures = [await steps.infer(layer, X) for _ in range(30)]
                raise Mine
        assert all(future.done() for future in futures)
        assert isinstance(futures[-1].exception(), normd.CancelledError)
        for future in futures:
            future.exception()

    run(work, server.unix)


def test_a_stream_that_fails_is_the_error_of_its_steps() -> None:
    service = Flaky()

    async def work(aio: normd.aio.Client) -> None:
        async with aio.steps(timeout=LONG) as steps:
            future = await steps.infer("a", X)
            with pytest.raises(normd.Error, match="UNIMPLEMENTED"):
                await future
            with pytest.raises(normd.Error, match="UNIMPLEMENTED"):
                await steps.infer("a", X)

    with serving(service) as target:
        run(work, target)


# Tensors in chunks.

LARGE = np.random.default_rng(12).standard_normal((50, 3, 40, 70)).astype(np.float32) * 3 + 1


def cuts(rows: int) -> Iterator[np.ndarray]:
    return (LARGE[start:start + rows] for start in range(0, len(LARGE), rows))


async def later(chunks: Iterator[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


@pytest.mark.parametrize("source", [cuts, lambda rows: later(cuts(rows))], ids=["iterable", "async"])
@pytest.mark.parametrize("rows", [7, 50])
def test_tensors_in_chunks(server: Server, client: normd.Client, layer: str, source: Any, rows: int) -> None:
    client.create_layer(layer, 3)
    mean, var, count = support.moments(LARGE)
    eps = client.get_layer(layer).config.eps
    like = {"shape": LARGE.shape, "dtype": LARGE.dtype}

    async def work(aio: normd.aio.Client) -> None:
        async with await aio.train_step_stream(layer, lambda: source(rows), request_id=layer, **like) as stream:
            assert (stream.step.version, stream.step.y, stream.step.replayed) == (2, None, False)
            assert client.get_layer(layer).version == 2
            ys = [y async for y in stream]
        assert [y.shape for y in ys] == [chunk.shape for chunk in cuts(rows)]
        assert support.y_error(np.concatenate(ys), support.normalize(LARGE, mean, var, eps)) <= 1
        np.testing.assert_allclose(stream.step.batch_mean, mean, rtol=1e-12)
        np.testing.assert_allclose(stream.step.batch_var, var, rtol=1e-10)
        again = await aio.train_step_stream(layer, lambda: source(rows), request_id=layer, omit_output=True, **like)
        assert again.step.replayed and [y async for y in again] == []

        async with aio.infer_stream(layer, source(rows), version=2, **like) as inferred:
            ys = [y async for y in inferred]
        state = client.get_layer(layer).state
        assert state is not None and state.num_batches_tracked == 1
        assert support.y_error(np.concatenate(ys), support.normalize(LARGE, state.running_mean, state.running_var,
                                                                     eps)) <= 1
        assert (inferred.version, inferred.content_hash) == (2, stream.step.content_hash)
        assert all(y.dtype == LARGE.dtype and y.flags.writeable for y in ys)

    run(work, server.unix)


@pytest.mark.parametrize("wrap", [iter, later], ids=["iterable", "async"])
def test_what_goes_wrong_with_chunks(server: Server, client: normd.Client, layer: str, wrap: Any) -> None:
    client.create_layer(layer, 3)
    like = {"shape": LARGE.shape, "dtype": "f4"}

    class Mine(Exception):
        pass

    def broken() -> Iterator[np.ndarray]:
        yield LARGE[:30]
        raise Mine

    async def work(aio: normd.aio.Client) -> None:
        async def both(chunks: Callable[[], Any], error: type[Exception], message: str = "", to: str = layer) -> None:
            with pytest.raises(error, match=message):
                [y async for y in aio.infer_stream(to, wrap(chunks()), **like)]
            with pytest.raises(error, match=message):
                await aio.train_step_stream(to, lambda: wrap(chunks()), **like)

        await both(broken, Mine)
        await both(lambda: iter([LARGE[:20]]), ValueError, "end after 168000 elements, want 420000")
        await both(lambda: iter([LARGE, LARGE[:1]]), ValueError, "hold more than the 420000 elements")
        await both(lambda: iter([LARGE.astype("f8")]), TypeError, "a chunk has dtype float64, want float32")
        await both(lambda: iter([b"12345"]), ValueError, "a chunk has 5 bytes")
        await both(lambda: cuts(9), normd.NotFoundError, "nobody", "test.nobody")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await aio.train_step_stream(layer, lambda: next(iter([])), **like)
        with pytest.raises(TypeError, match="x has dtype int32"):
            aio.infer_stream(layer, [], shape=(1, 3), dtype="i4")
        with pytest.raises(ValueError, match="timeout is 0"):
            aio.infer_stream(layer, [], timeout=0, **like)
        endless = {"shape": (1 << 20, *LARGE.shape[1:]), "dtype": "f4"}
        with pytest.raises(normd.DeadlineExceededError):
            [y async for y in aio.infer_stream(layer, wrap(itertools.repeat(LARGE[:1])), timeout=0.2, **endless)]
        async with aio.infer_stream(layer, wrap(itertools.repeat(LARGE[:1])), **endless) as stream:
            assert (await stream.__anext__()).shape == (1, 3, 40, 70)
        with pytest.raises(normd.CancelledError):
            [y async for y in stream]
        stream = aio.infer_stream(layer, wrap(itertools.repeat(LARGE[:1])), **endless)
        await stream.__anext__()
        await aio.close()
        with pytest.raises(normd.CancelledError, match="the client is closed"):
            [y async for y in stream]
        with pytest.raises(normd.CancelledError, match="the client is closed"):
            aio.infer_stream(layer, [], **like)

    run(work, server.unix)
    assert client.get_layer(layer).version == 1


def test_chunks_wait_for_whoever_reads(server: Server, client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    taken = 0
    closed = False

    async def chunks() -> AsyncIterator[np.ndarray]:
        nonlocal taken, closed
        try:
            for _ in range(100):
                taken += 1
                yield np.zeros((1, 3, 256, 1024), np.float32)
        finally:
            closed = True

    async def work(aio: normd.aio.Client) -> None:
        async with aio.infer_stream(layer, chunks(), shape=(100, 3, 256, 1024), dtype="f4") as stream:
            for done in range(1, 41):
                await stream.__anext__()
                await asyncio.sleep(0.005)
                assert taken - done <= 24
        assert closed and taken < 70

    run(work, server.unix)


def test_a_cancelled_task_ends_its_stream(server: Server, client: normd.Client, layer: str) -> None:
    """In the first pass, in the second, and while it waits for results: the source is left in peace, no step counts."""
    client.create_layer(layer, 3)
    like = {"shape": LARGE.shape, "dtype": "f4"}

    async def work(aio: normd.aio.Client) -> None:
        reached, closed = asyncio.Event(), asyncio.Event()

        async def stuck() -> AsyncIterator[np.ndarray]:
            try:
                yield LARGE[:20]
                reached.set()
                await asyncio.sleep(LONG)
            finally:
                closed.set()

        async def infer() -> None:
            async with aio.infer_stream(layer, stuck(), **like) as stream:
                async for _ in stream:
                    pass

        for begin in (infer, lambda: aio.train_step_stream(layer, stuck, **like)):
            reached.clear()
            closed.clear()
            task = asyncio.ensure_future(begin())
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert closed.is_set()
        assert client.get_layer(layer).version == 1

    run(work, server.unix)


# Backups.


def test_backup(tmp_path: Path) -> None:
    """Of one server into another; files are those that the synchronous client makes and takes."""
    backup, bad = tmp_path / "backup.db", tmp_path / "bad.db"
    x = np.random.default_rng(8).standard_normal((20, 300))

    async def save(aio: normd.aio.Client) -> None:
        for name in ("net.a", "net.b", "other"):
            await aio.create_layer(name, 300, "standard_scaler")
            await aio.train_step(name, x)
        assert await aio.backup(backup) == backup.stat().st_size
        with pytest.raises(FileExistsError, match="overwrite is False"):
            await aio.backup(backup)
        assert await aio.backup(backup, overwrite=True) == backup.stat().st_size
        with pytest.raises(FileExistsError, match="belongs to a server's state"):
            await aio.backup(tmp_path / "one" / "normd.db", overwrite=True)
        with pytest.raises(FileNotFoundError):
            await aio.backup(tmp_path / "none" / "backup.db")
        with pytest.raises(normd.DeadlineExceededError):
            await aio.backup(tmp_path / "late.db", timeout=1e-6)
        with pytest.raises(ValueError, match="timeout is 0"):
            await aio.backup(tmp_path / "late.db", timeout=0)

    async def restore(aio: normd.aio.Client) -> None:
        content = backup.read_bytes()
        for damaged in (content[:len(content) // 2], b"", b"x" * (5 << 20)):
            bad.write_bytes(damaged)
            with pytest.raises(normd.Error) as refused:
                await aio.restore_backup(bad)
            assert refused.value.code in (normd.Code.DATA_LOSS, normd.Code.FAILED_PRECONDITION,
                                          normd.Code.INVALID_ARGUMENT), refused.value
        bad.unlink()
        with pytest.raises(FileNotFoundError):
            await aio.restore_backup(bad)
        with pytest.raises(IsADirectoryError):
            await aio.restore_backup(tmp_path)
        with pytest.raises(normd.NotFoundError):
            await aio.restore_backup(backup, layer="nobody")
        with pytest.raises(normd.FailedPreconditionError, match="memory"):
            await aio.backup(tmp_path / "memory.db")
        assert [one.name async for one in aio.list_layers()] == []
        assert await aio.restore_backup(backup, prefix="net.", new_name="copy.") == 2
        assert await aio.restore_backup(backup, layer="other") == 1
        assert [one.name async for one in aio.list_layers()] == ["copy.a", "copy.b", "other"]
        state = (await aio.get_layer("copy.b")).state
        assert state is not None
        np.testing.assert_allclose(state.running_mean, x.mean(0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(state.running_var, x.var(0), rtol=1e-12)
        await aio.close()
        with pytest.raises(normd.CancelledError, match="closed"):
            await aio.restore_backup(backup)
        with pytest.raises(normd.CancelledError, match="closed"):
            await aio.backup(tmp_path / "closed.db")

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with running(tmp_path / "one", "--store", f"sqlite:{tmp_path / 'one' / 'normd.db'}") as server:
        run(save, server.unix)
    assert backup.stat().st_mode & 0o777 == 0o600
    with running(tmp_path / "two") as server:
        run(restore, server.unix)
    run(lambda aio: refused(aio, backup), server.unix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db", "one", "two"]


async def refused(aio: normd.aio.Client, backup: Path) -> None:
    with pytest.raises(normd.UnavailableError):
        await aio.restore_backup(backup)
    with pytest.raises(normd.UnavailableError):
        await aio.backup(backup, overwrite=True)


def test_a_cancelled_backup_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while a thread writes: the thread is waited for, and what it has written is removed."""
    from normd import _snapshots

    writing, go_on = threading.Event(), threading.Event()
    write = _snapshots.NewFile.write

    def slow(self: Any, data: bytes) -> int:
        writing.set()
        assert go_on.wait(LONG)
        return write(self, data)

    monkeypatch.setattr(_snapshots.NewFile, "write", slow)
    state, out = tmp_path / "state", tmp_path / "out"
    state.mkdir()
    out.mkdir()

    async def work(aio: normd.aio.Client) -> None:
        await aio.create_layer("a", 3)
        task = asyncio.ensure_future(aio.backup(out / "backup.db"))
        await asyncio.to_thread(writing.wait, LONG)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done() and len(list(out.iterdir())) == 1
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(out.iterdir()) == []
        assert (await aio.get_layer("a")).version == 1

    with running(state, "--store", f"sqlite:{state / 'normd.db'}") as server:
        run(work, server.unix)
