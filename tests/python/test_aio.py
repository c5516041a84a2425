"""The asyncio client: beside the other one, under cancellation, retries and restarts."""

from __future__ import annotations

import asyncio
import inspect
import signal
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Coroutine

import grpc
import numpy as np
import pytest

import normd
import normd.aio
from conftest import Server, running
from fake_server import Flaky, details_of, serving

X = np.random.default_rng(31).standard_normal((6, 3))
# Longer than anything here takes.
LONG = 30.0

# Methods of normd.Client for which asyncio is no place; normd.aio says so.
SYNC_ONLY = {"empty", "infer_stream", "train_step_stream", "backup", "restore_backup"}


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize("theirs, ours, without", [
    (normd.Client, normd.aio.Client, SYNC_ONLY), (normd.Steps, normd.aio.Steps, set()),
    (normd.LayerWatch, normd.aio.LayerWatch, set())])
def test_methods_and_their_arguments_are_the_same(theirs: type, ours: type, without: set[str]) -> None:
    want = {name: value for name, value in public(theirs).items() if name not in without}
    assert set(public(ours)) == set(want)
    for name, function in want.items():
        assert [str(p).partition(" ->")[0] for p in inspect.signature(public(ours)[name]).parameters.values()] == \
            [str(p).partition(" ->")[0] for p in inspect.signature(function).parameters.values()], name


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
