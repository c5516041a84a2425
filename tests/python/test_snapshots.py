"""Forks, frozen layers, snapshots and backups: numbers are exact, and what fails changes nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import normd
from conftest import running

RNG = np.random.default_rng(11)
X = RNG.standard_normal((8, 3))
DY = RNG.standard_normal((8, 3))


def state_of(client: normd.Client, name: str) -> normd.LayerState:
    state = client.get_layer(name).state
    assert state is not None
    return state


def test_a_fork_goes_its_own_way(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3, "keras")
    first = client.train_step(layer, X)
    client.train_step(layer, X + 5)
    new = client.fork_layer(layer, f"{layer}.b", request_id=f"{layer} fork")
    assert (new.version, new.preset, new.affine_group) == (1, "keras", "")
    assert new.content_hash == client.get_layer(layer).content_hash and new.uid != client.get_layer(layer).uid
    assert client.fork_layer(layer, f"{layer}.b", request_id=f"{layer} fork").uid == new.uid
    assert client.fork_layer(layer, f"{layer}.old", version=first.version).content_hash == first.content_hash
    before = client.get_layer(layer)
    client.train_step(f"{layer}.b", X)
    assert client.get_layer(layer).version == before.version
    anew = client.fork_layer(layer, f"{layer}.c", reset_statistics=True)
    assert state_of(client, anew.name).running_mean.tolist() == [0, 0, 0]
    with pytest.raises(normd.AlreadyExistsError):
        client.fork_layer(layer, f"{layer}.b")
    with pytest.raises(normd.NotFoundError):
        client.fork_layer(f"{layer}.none", f"{layer}.d")
    with pytest.raises(normd.FailedPreconditionError):
        client.fork_layer(layer, f"{layer}.d", version=99)
    with pytest.raises(normd.InvalidArgumentError):
        client.fork_layer(layer, f"{layer}.d", version=1, share_affine=True)


def test_two_domains_share_gamma_and_beta(client: normd.Client, layer: str) -> None:
    """Domain-specific batch normalization: statistics for each domain, one set of weights."""
    source, target, alone = layer, f"{layer}.target", f"{layer}.alone"
    client.create_layer(source, 3)
    client.create_layer(alone, 3)
    client.fork_layer(source, target, share_affine=True, reset_statistics=True)
    group = client.get_layer(source).affine_group
    assert group and client.get_layer(target).affine_group == group
    client.train_step(source, X)
    step = client.train_step(target, X * 3 + 7)
    np.testing.assert_array_equal(state_of(client, source).running_mean, 0.1 * X.mean(0))
    np.testing.assert_allclose(state_of(client, target).running_mean, 0.1 * (X * 3 + 7).mean(0), rtol=1e-14)
    optimizer = normd.Adam(0.1)
    for name, x in ((source, X), (target, X * 3 + 7), (source, X)):
        step = client.train_step(name, x)
        other = target if name == source else source
        version = client.get_layer(other).version
        result = client.backward(name, x, DY, batch_mean=step.batch_mean, batch_var=step.batch_var, optimizer=optimizer)
        for each in (name, other):
            np.testing.assert_array_equal(state_of(client, each).gamma, result.gamma)
            np.testing.assert_array_equal(state_of(client, each).beta, result.beta)
        assert client.get_layer(other).version == version + 1
        # The same three steps on one layer: the optimizer's state is shared, too.
        want = client.backward(alone, x, DY, batch_mean=step.batch_mean, batch_var=step.batch_var, optimizer=optimizer)
        np.testing.assert_array_equal(result.gamma, want.gamma)
        np.testing.assert_array_equal(result.beta, want.beta)


def test_a_frozen_layer_stays_as_it_is(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 3)
    step = client.train_step(layer, X)
    assert client.freeze_layer(layer).config.frozen
    before = client.get_layer(layer)
    for change in (lambda: client.train_step(layer, X), lambda: client.reset_statistics(layer),
                   lambda: client.merge_moments(layer, normd.Moments.of(X)), lambda: client.update_layer(layer, eps=0.1),
                   lambda: client.set_state(layer, normd.LayerState(gamma=np.ones(3), beta=np.ones(3))),
                   lambda: client.backward(layer, X, DY, batch_mean=step.batch_mean, batch_var=step.batch_var,
                                           optimizer=normd.SGD(0.1)),
                   lambda: client.fork_layer(layer, f"{layer}.b", share_affine=True)):
        with pytest.raises(normd.FailedPreconditionError, match="frozen"):
            change()
    np.testing.assert_array_equal(client.train_step(layer, X, skip_update=True).y, step.y)
    assert client.infer(layer, X).content_hash == before.content_hash
    client.backward(layer, X, DY, batch_mean=step.batch_mean, batch_var=step.batch_var)
    assert client.get_layer(layer).version == before.version
    assert not client.fork_layer(layer, f"{layer}.b").config.frozen
    client.unfreeze_layer(layer)
    client.train_step(layer, X)


def test_a_snapshot_comes_back_and_late_retries_count_nothing(client: normd.Client, layer: str) -> None:
    a, b = f"{layer}.a", f"{layer}.b"
    for name in (a, b):
        client.create_layer(name, 3, "standard_scaler")
    client.train_step(a, X, request_id=f"{layer} 1")
    made = client.create_snapshot(layer, prefix=f"{layer}.")
    assert (made.name, made.layer, made.prefix, made.num_layers) == (layer, "", f"{layer}.", 2)
    assert client.list_snapshots(layer) == [made]
    with pytest.raises(normd.AlreadyExistsError):
        client.create_snapshot(layer)
    before = client.get_layer(a)
    client.train_step(a, X + 1, request_id=f"{layer} 2")
    client.merge_moments(a, normd.Moments.of(X), contributor="c", sequence=5)
    client.delete_layer(b)
    assert client.restore_snapshot(layer) == 2
    restored = client.get_layer(a)
    assert restored.content_hash == before.content_hash and restored.version == before.version + 3
    assert state_of(client, a).sample_count.tolist() == [8] * 3
    assert [found.name for found in client.list_layers(f"{layer}.")] == [a, b]
    assert client.train_step(a, X, request_id=f"{layer} 1").replayed
    assert client.train_step(a, X + 1, request_id=f"{layer} 2").replayed
    assert client.merge_moments(a, normd.Moments.of(X), contributor="c", sequence=5).replayed
    assert client.get_layer(a).content_hash == before.content_hash

    assert client.restore_snapshot(layer, layer=a, new_name=f"{layer}.copy") == 1
    assert client.get_layer(f"{layer}.copy").content_hash == before.content_hash
    with pytest.raises(normd.NotFoundError):
        client.restore_snapshot(layer, layer=f"{layer}.none")
    with pytest.raises(normd.InvalidArgumentError):
        client.restore_snapshot(layer, layer=a, prefix=layer)
    client.train_step(a, X)
    client.freeze_layer(a)
    with pytest.raises(normd.FailedPreconditionError, match="frozen"):
        client.restore_snapshot(layer)
    client.delete_snapshot(layer)
    assert client.list_snapshots(layer) == []
    with pytest.raises(normd.NotFoundError):
        client.delete_snapshot(layer)


def test_backup_of_a_server_at_work(tmp_path: Path) -> None:
    backup, folders = tmp_path / "backup.db", [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    names = [f"net.{i}" for i in range(4)]
    hashes: dict[tuple[str, int], str] = {}
    stop = threading.Event()

    def train(client: normd.Client, name: str) -> None:
        rng, step = np.random.default_rng(int(name[-1])), 0
        while not stop.is_set() or step == 0:
            result = client.train_step(name, rng.standard_normal((4, 3)), omit_output=True)
            hashes[name, result.version] = result.content_hash
            step += 1

    with running(folders[0], "--store", f"sqlite:{folders[0] / 'normd.db'}") as server, \
            normd.Client(server.unix) as client:
        for name in names:
            hashes[name, 1] = client.create_layer(name, 3, "standard_scaler").content_hash
        threads = [threading.Thread(target=train, args=(client, name)) for name in names]
        for thread in threads:
            thread.start()
        try:
            assert client.backup(backup) == backup.stat().st_size
            with pytest.raises(FileExistsError):
                client.backup(backup)
            client.backup(backup, overwrite=True)
            with pytest.raises(FileExistsError, match="belongs to a server's state"):
                client.backup(folders[0] / "normd.db", overwrite=True)
            with pytest.raises(FileNotFoundError):
                client.backup(tmp_path / "none" / "backup.db")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert backup.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db", "one", "three", "two"]
    content = backup.read_bytes()

    with running(folders[1]) as server, normd.Client(server.unix) as client:
        # Damage is found before anything is restored.
        flipped = bytearray(content)
        for position in range(len(content) // 3, len(content), 7):
            flipped[position] ^= 0x55
        for damaged in (bytes(flipped), content[:len(content) // 2], content[:-4096], content[:50], b"", b"x" * 5000):
            bad = tmp_path / "bad.db"
            bad.write_bytes(damaged)
            with pytest.raises(normd.Error) as refused:
                client.restore_backup(bad)
            assert refused.value.code in (normd.Code.DATA_LOSS, normd.Code.FAILED_PRECONDITION,
                                          normd.Code.INVALID_ARGUMENT), refused.value
            assert list(client.list_layers()) == []
        with pytest.raises(FileNotFoundError):
            client.restore_backup(tmp_path / "none.db")
        with pytest.raises(IsADirectoryError):
            client.restore_backup(tmp_path)
        with pytest.raises(normd.FailedPreconditionError, match="memory"):
            client.backup(tmp_path / "memory.db")
        assert not (tmp_path / "memory.db").exists()

        assert client.restore_backup(backup, prefix="net.", new_name="copy.") == 4
        assert client.restore_backup(backup) == 4
        for name in names:
            layer = client.get_layer(name)
            assert client.get_layer(name.replace("net", "copy")).content_hash == layer.content_hash
            assert layer.content_hash in {known for (each, _), known in hashes.items() if each == name}

    # The copy is a store of its own.
    copy = folders[2] / "copy.db"
    copy.write_bytes(content)
    with running(folders[2], "--store", f"sqlite:{copy}") as server, normd.Client(server.unix) as client:
        for name in names:
            layer = client.get_layer(name)
            assert layer.content_hash == hashes[name, layer.version]
            assert normd.content_hash(layer.config, layer.state) == layer.content_hash
