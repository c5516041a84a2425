"""Watches of layers: what is told, how often, and through restarts of the server."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Iterator, Optional

import grpc
import numpy as np
import pytest

import normd
from conftest import Server, running
from normd.v1 import layer_service_pb2, layer_service_pb2_grpc

X = np.random.default_rng(7).standard_normal((6, 3))
# Longer than anything here takes.
LONG = 30.0


def take(watch: normd.LayerWatch, timeout: float = LONG) -> normd.LayerChange:
    change = watch.poll(timeout)
    assert change is not None, "nothing was told"
    return change


def read_to(watch: normd.LayerWatch, version: int) -> list[int]:
    """The versions of the one watched layer that are told, up to this one."""
    versions = [take(watch).version]
    while versions[-1] < version:
        versions.append(take(watch).version)
    assert versions == sorted(set(versions))
    return versions


def told(change: Optional[normd.LayerChange]) -> tuple[str, int, bool]:
    assert change is not None
    return change.name, change.version, change.layer is None


def same(got: Optional[normd.Layer], want: normd.Layer) -> None:
    assert got is not None and got.state is not None and want.state is not None
    assert (got.name, got.uid, got.version, got.content_hash, got.etag, got.config) == \
        (want.name, want.uid, want.version, want.content_hash, want.etag, want.config)
    for field in ("running_mean", "running_var", "sample_count", "gamma", "beta", "inv_std", "skipped_batches"):
        np.testing.assert_array_equal(getattr(got.state, field), getattr(want.state, field))
    assert got.state.num_batches_tracked == want.state.num_batches_tracked


def test_every_version_comes_with_the_exact_state(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, "pytorch")
    with client.watch(layer) as watch:
        same(take(watch).layer, client.get_layer(layer))
        for step in range(20):
            result = client.train_step(layer, X * step)
            change = take(watch)
            assert (change.name, change.version) == (layer, result.version)
            want = client.get_layer(layer)
            same(change.layer, want)
            assert normd.content_hash(want.config, change.layer.state) == result.content_hash
            np.testing.assert_array_equal(change.layer.state.inv_std,
                                          1 / np.sqrt(change.layer.state.running_var + want.config.eps))
        client.update_layer(layer, eps=0.5)
        change = take(watch)
        assert change.layer.config.eps == 0.5
        np.testing.assert_array_equal(change.layer.state.inv_std, client.get_layer(layer).state.inv_std)
        assert watch.poll(0.05) is None, "each version once"


def test_without_state(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    with client.watch([layer], with_state=False) as watch:
        change = take(watch)
        assert change.layer.state is None and change.layer.content_hash == client.get_layer(layer).content_hash


def test_a_pause_between_versions(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    with client.watch(layer, min_interval=0.1) as watch:
        read_to(watch, 1)
        started, steps = time.monotonic(), 0
        while time.monotonic() - started < 0.5:
            client.train_step(layer, X, omit_output=True)
            steps += 1
        versions = read_to(watch, 1 + steps)
        assert len(versions) <= (time.monotonic() - started) / 0.1 + 1
        assert len(versions) < steps


def test_a_slow_reader_gets_the_newest_and_no_backlog(client: normd.Client, layer: str) -> None:
    names = [f"{layer}.a", f"{layer}.b"]
    for name in names:
        client.create_layer(name, 3)
    with client.watch(names) as watch, client.watch(names) as witness:
        for _ in range(300):
            client.train_step(names[0], X, omit_output=True)
        seen: dict[str, int] = {}
        while seen != {names[0]: 301, names[1]: 1}:
            change = take(witness)
            seen[change.name] = change.version
        # What the witness has read the other one has got by now, or is about to.
        deadline = time.monotonic() + LONG
        while watch._feed._news.get(names[0]) is None or watch._feed._news[names[0]].version < 301:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert sorted([told(take(watch)), told(take(watch))]) == [(names[0], 301, False), (names[1], 1, False)]
        assert watch.poll(0.05) is None


def test_what_comes_and_goes_under_a_prefix(client: normd.Client, layer: str) -> None:
    client.create_layer(f"{layer}.a", 3)
    with client.watch(prefix=f"{layer}.") as watch:
        first = take(watch)
        assert told(first) == (f"{layer}.a", 1, False)
        client.create_layer(f"{layer}.b", 3)
        assert told(take(watch)) == (f"{layer}.b", 1, False)
        client.create_layer(f"{layer}x", 3)
        client.fork_layer(f"{layer}.b", f"{layer}.c")
        assert told(take(watch)) == (f"{layer}.c", 1, False)
        client.train_step(f"{layer}.a", X)
        assert told(take(watch)) == (f"{layer}.a", 2, False)
        client.delete_layer(f"{layer}.a")
        gone = take(watch)
        assert told(gone) == (f"{layer}.a", 2, True) and gone.uid == first.uid
        client.create_layer(f"{layer}.a", 3)
        again = take(watch)
        assert told(again) == (f"{layer}.a", 1, False) and again.uid != first.uid


def test_deleted_and_made_again(client: normd.Client, layer: str) -> None:
    made = client.create_layer(layer, 3)
    with client.watch(layer) as watch:
        take(watch)
        client.delete_layer(layer)
        assert told(take(watch)) == (layer, 1, True)
        client.create_layer(layer, 5)
        change = take(watch)
        assert change.uid != made.uid and change.layer.config.num_channels == 5


def test_a_fork_that_shares_gamma_and_beta_is_told_of_its_new_versions(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    client.fork_layer(layer, f"{layer}.b", share_affine=True)
    with client.watch(f"{layer}.b") as watch:
        take(watch)
        client.set_state(layer, normd.LayerState(gamma=np.full(3, 2.0), beta=np.arange(3.0)))
        change = take(watch)
        assert change.version == 2 and change.layer.state.beta.tolist() == [0, 1, 2]


def test_what_is_known_is_not_sent_again(client: normd.Client, layer: str) -> None:
    names = [f"{layer}.{part}" for part in "abc"]
    known = [client.create_layer(name, 3) for name in names]
    client.train_step(names[1], X)
    client.delete_layer(names[2])
    with client.watch(names, known=known) as watch:
        changes = [take(watch), take(watch)]
        assert sorted(map(told, changes)) == [(names[1], 2, False), (names[2], 1, True)]
        assert watch.poll(0.05) is None
    with client.watch(names, known=[known[0], *changes]) as watch:
        assert watch.poll(0.1) is None
        client.create_layer(names[2], 3)
        assert told(take(watch)) == (names[2], 1, False)


def test_errors(client: normd.Client, layer: str) -> None:
    for names, kind in (([layer], normd.NotFoundError), (["bad name"], normd.InvalidArgumentError),
                        ([f"{layer}{i}" for i in range(10_001)], normd.InvalidArgumentError)):
        with client.watch(names) as watch:
            for _ in range(2):
                with pytest.raises(kind):
                    next(watch)
    for arguments in ({}, {"names": []}, {"names": layer, "prefix": ""}, {"prefix": "", "min_interval": -1.0},
                      {"prefix": "", "min_interval": float("nan")}, {"prefix": "", "min_interval": 3601}):
        with pytest.raises(ValueError):
            client.watch(**arguments)


def test_close_ends_an_iteration_that_waits(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    watch = client.watch(layer)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(change.version for change in watch))
    reader.start()
    while not seen:
        time.sleep(0.001)
    started = time.monotonic()
    watch.close()
    reader.join(LONG)
    assert not reader.is_alive() and time.monotonic() - started < 5
    assert seen == [1] and list(watch) == [] and watch.poll() is None
    watch.close()


def watching() -> int:
    return sum(thread.name == "normd watch" for thread in threading.enumerate())


def test_a_watch_that_is_dropped_leaves_nothing_running(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    before = watching()
    for change in client.watch(layer):
        assert change.version == 1
        break
    deadline = time.monotonic() + LONG
    while watching() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_closed_client_ends_its_watches(server: Server, layer: str) -> None:
    with normd.Client(server.unix) as own:
        own.create_layer(layer, 3)
        watch = own.watch(layer)
        take(watch)
    with pytest.raises(normd.CancelledError, match="the client is closed"):
        next(watch)


def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with normd.Client(f"unix:{tmp_path / 'normd.sock'}") as own, own.watch(prefix="") as watch:
        assert watch.poll(0.2) is None
        with running(tmp_path) as server, normd.Client(server.unix) as other:
            other.create_layer("a", 3)
            assert told(take(watch)) == ("a", 1, False)
    assert "a watch of layers has lost the server" in caplog.text


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    return ["--store", f"sqlite:{tmp_path / 'state' / 'normd.db'}"]


def test_goes_on_after_a_restart_with_what_has_changed(flags: list[str], tmp_path: Path) -> None:
    target = f"unix:{tmp_path / 'normd.sock'}"
    # The other clients find no server where they look, and so do not disturb: the watch sees changes at once.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with normd.Client(target, retry=normd.RetryPolicy(max_backoff=0.2)) as client:
        with running(tmp_path, *flags):
            for name in ("net.a", "net.b", "net.c", "other"):
                client.create_layer(name, 3)
            under_prefix, by_name = client.watch(prefix="net."), client.watch(["net.a", "net.b", "net.c", "other"])
            assert {take(under_prefix).name for _ in range(3)} == {"net.a", "net.b", "net.c"}
            for _ in range(4):
                take(by_name)
        with running(elsewhere, *flags) as absent, normd.Client(absent.unix) as other:
            other.train_step("net.b", X)
            other.train_step("net.b", X)
            other.delete_layer("net.c")
            other.create_layer("net.d", 3)
            want = other.get_layer("net.b")
        with running(tmp_path, *flags):
            changes = [take(under_prefix) for _ in range(3)]
            assert sorted(map(told, changes)) == [("net.b", 3, False), ("net.c", 1, True), ("net.d", 1, False)]
            same(next(change for change in changes if change.name == "net.b").layer, want)
            assert sorted([told(take(by_name)), told(take(by_name))]) == [("net.b", 3, False), ("net.c", 1, True)]
        # Once more: the deletion was told, and the name is still watched.
        with running(tmp_path, *flags), normd.Client(target, retry=normd.RetryPolicy(max_attempts=20)) as other:
            other.train_step("net.a", X)
            assert told(take(by_name)) == ("net.a", 2, False)
            assert told(take(under_prefix)) == ("net.a", 2, False)
            other.create_layer("net.c", 3)
            assert told(take(by_name)) == ("net.c", 1, False)
            assert told(take(under_prefix)) == ("net.c", 1, False)
            assert by_name.poll(0.05) is None and under_prefix.poll(0.05) is None
        by_name.close()
        under_prefix.close()


def test_a_server_without_a_store_comes_back_empty(tmp_path: Path) -> None:
    with normd.Client(f"unix:{tmp_path / 'normd.sock'}", retry=normd.RetryPolicy(max_backoff=0.2)) as client:
        with running(tmp_path):
            client.create_layer("a", 3)
            watch = client.watch("a")
            take(watch)
        with running(tmp_path):
            assert told(take(watch)) == ("a", 1, True)


def raw(server: Server, **request: object) -> tuple[grpc.Channel, Iterator[layer_service_pb2.WatchLayersResponse]]:
    channel = grpc.insecure_channel(server.unix)
    stub = layer_service_pb2_grpc.LayerServiceStub(channel)
    return channel, stub.WatchLayers(layer_service_pb2.WatchLayersRequest(**request))


def test_a_server_that_stops_does_not_wait_for_watches(tmp_path: Path) -> None:
    ends: list[tuple[grpc.StatusCode, str]] = []

    def read(channel: grpc.Channel, stream: Iterator[layer_service_pb2.WatchLayersResponse]) -> None:
        try:
            next(stream)
        except grpc.RpcError as ended:
            ends.append((ended.code(), ended.details()))
        # An idle connection would be looked after by grpc once in five seconds only, and the server waits for that.
        channel.close()

    with running(tmp_path, "--drain-timeout", "20") as server, normd.Client(server.unix) as client:
        client.create_layer("a", 3)
        open_streams = [raw(server, prefix="") for _ in range(10)]
        for _, stream in open_streams:
            assert next(stream).layer.name == "a"
        readers = [threading.Thread(target=read, args=each) for each in open_streams]
        for reader in readers:
            reader.start()
        client.close()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 3
    for reader in readers:
        reader.join(LONG)
    assert ends == [(grpc.StatusCode.UNAVAILABLE, "the server is stopping")] * 10


def test_fifty_watchers_end_at_the_final_version(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    watches = [client.watch(layer, min_interval=0.001 * (i % 20)) for i in range(50)]
    results: list[normd.TrainStepResult] = []
    trainers = [threading.Thread(target=lambda: results.extend(
        client.train_step(layer, X, omit_output=True) for _ in range(100))) for _ in range(3)]
    for trainer in trainers:
        trainer.start()
    for trainer in trainers:
        trainer.join()
    hashes = {result.version: result.content_hash for result in results}
    for watch in watches:
        with watch:
            change = take(watch)
            while change.version < 301:
                change = take(watch)
                assert change.layer.content_hash == hashes[change.version]
            assert change.version == 301
