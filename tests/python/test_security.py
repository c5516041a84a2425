"""TLS and tokens of both clients, against a server that looks at nothing else."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import subprocess
import threading
from collections import defaultdict
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import grpc
import numpy as np
import pytest

import normd
import normd.aio
import normd.sb3
from normd import _security, state_dict
from normd.v1 import (layer_service_pb2, normalization_service_pb2, shared_memory_service_pb2, snapshot_service_pb2)
from fake_server import FakeServer, Layer, serving
from test_sb3 import FLAT, Environments

TOKEN = "normd_0-secret_~/+x=="
ONCE = normd.RetryPolicy(max_attempts=1)
X = np.ones((4, 2), np.float32)


class Certificates:
    """Made by openssl in a folder: an authority, and what it vouches for."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.ca, self._ca_key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        self._name = name
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", self._ca_key, "-out", self.ca, "-days", "1")

    def issue(self, host: str, *, days: int = 1) -> tuple[Path, Path]:
        """Certificate and key; with days below 0 it was over before it began."""
        stem = self.folder / f"{self._name}-{host}{days}"
        key, request, certificate, names = (stem.with_suffix(s) for s in (".key", ".csr", ".pem", ".ext"))
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={host}",
                      "-keyout", key, "-out", request)
        names.write_text(f"subjectAltName=DNS:{host}\n")
        self._openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._ca_key, "-CAcreateserial",
                      "-out", certificate, "-days", str(days), "-extfile", names)
        return certificate, key

    @staticmethod
    def _openssl(*arguments: Any) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Guard(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Notes the token and the layer of each call, of whatever method. Without the right one it is UNAUTHENTICATED; with it, it gets past the
    door, and is UNIMPLEMENTED."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.seen: dict[str, list[list[str]]] = defaultdict(list)
        self.layers: dict[str, list[list[str]]] = defaultdict(list)
        self._lock = threading.Lock()

    def service(self, details: Any) -> Any:
        given = [value for key, value in details.invocation_metadata if key == "authorization"]
        with self._lock:
            method = details.method.rpartition("/")[2]
            self.seen[method].append(given)
            self.layers[method].append([value for key, value in details.invocation_metadata if key == "normd-layer"])
        code, text = (grpc.StatusCode.UNIMPLEMENTED, "past the door") if given == [f"Bearer {self.token}"] else \
            (grpc.StatusCode.UNAUTHENTICATED, "unknown token" if given else "no token")

        def refuse(_: Any, context: grpc.ServicerContext) -> Any:
            context.abort(code, text)

        return grpc.stream_unary_rpc_method_handler(refuse)


@contextmanager
def guarded(where: str = "localhost:0", *, pair: Optional[tuple[Path, Path]] = None,
            client_ca: Optional[Path] = None) -> Iterator[tuple[str, Guard]]:
    guard = Guard(TOKEN)
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[guard])
    if pair is None:
        port = server.add_insecure_port(where)
    else:
        credentials = grpc.ssl_server_credentials(
            [(pair[1].read_bytes(), pair[0].read_bytes())], client_ca.read_bytes() if client_ca else None, client_ca is not None)
        port = server.add_secure_port(where, credentials)
    server.start()
    try:
        yield (where if where.startswith("unix:") else f"localhost:{port}"), guard
    finally:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"), "tests")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("others"), "others")


def calls(client: Any, folder: Path) -> list[Callable[[], Any]]:
    """Every call of a client; those of normd.aio give something to await, or to iterate over."""
    (folder / "backup").write_bytes(b"some bytes")
    return [
        lambda: client.create_layer("a", 2), lambda: client.get_layer("a"), lambda: list_of(client.list_layers()),
        lambda: client.update_layer("a", eps=1e-3), lambda: client.delete_layer("a"),
        lambda: client.reset_statistics("a"),
        lambda: client.set_state("a", normd.LayerState(running_mean=np.zeros(2), running_var=np.ones(2))),
        lambda: client.fork_layer("a", "b"), lambda: list_of(client.watch("a")),
        lambda: client.create_snapshot("s"), lambda: client.list_snapshots(), lambda: client.restore_snapshot("s"),
        lambda: client.delete_snapshot("s"), lambda: client.backup(folder / "new"),
        lambda: client.restore_backup(folder / "backup"),
        lambda: client.train_step("a", X), lambda: client.infer("a", X), lambda: client.denormalize("a", X),
        lambda: client.backward("a", X, X), lambda: client.merge_moments("a", normd.Moments.of(X)),
        lambda: list_of(client.infer_stream("a", [X], shape=X.shape, dtype=X.dtype)),
        lambda: client.train_step_stream("a", lambda: [X], shape=X.shape, dtype=X.dtype),
    ]


def list_of(items: Any) -> Any:
    if not hasattr(items, "__aiter__"):
        return list(items)

    async def gather() -> list[Any]:
        return [item async for item in items]

    return gather()


def methods() -> set[str]:
    """Of the API, but for those that only the C++ clients call."""
    services = [layer_service_pb2, normalization_service_pb2, snapshot_service_pb2]
    return {method.name for module in services for service in module.DESCRIPTOR.services_by_name.values()
            for method in service.methods}


@pytest.mark.parametrize("way", ["tls", "loopback", "unix"])
def test_every_kind_of_call_carries_the_token(authority: Certificates, tmp_path: Path, way: str) -> None:
    where = f"unix:{tmp_path / 's'}" if way == "unix" else "localhost:0"
    with guarded(where, pair=authority.issue("localhost") if way == "tls" else None) as (target, guard):
        settings: dict[str, Any] = {"token": TOKEN, "retry": ONCE,
                                    "tls": normd.Tls(authority.ca) if way == "tls" else None}
        with normd.Client(target, **settings) as client:
            for call in calls(client, tmp_path):
                with pytest.raises(normd.Error, match="UNIMPLEMENTED: past the door"):
                    call()
            with pytest.raises(normd.Error, match="past the door"), client.steps() as steps:
                steps.infer("a", X).result()
        assert set(guard.seen) == methods()
        if way != "tls":
            with pytest.warns(normd.TransportWarning), normd.Client(target, transport="shm", **settings) as client:
                client.empty(1 << 20)
            assert guard.seen.pop("OpenSession") == [[f"Bearer {TOKEN}"]]
        assert {tuple(given) for each in guard.seen.values() for given in each} == {(f"Bearer {TOKEN}",)}

        guard.seen.clear()

        async def again() -> None:
            async with normd.aio.Client(target, **settings) as client:
                for call in calls(client, tmp_path):
                    with pytest.raises(normd.Error, match="UNIMPLEMENTED: past the door"):
                        await call()
                with pytest.raises(normd.Error, match="past the door"):
                    async with client.steps() as steps:
                        await (await steps.infer("a", X))

        asyncio.run(again())
        assert set(guard.seen) == methods()
        assert {tuple(given) for each in guard.seen.values() for given in each} == {(f"Bearer {TOKEN}",)}


OF_NO_LAYER_OR_SEVERAL = {"ListLayers", "WatchLayers", "CreateSnapshot", "ListSnapshots", "RestoreSnapshot", "DeleteSnapshot",
                          "Backup", "RestoreBackup", "Steps"}


def test_calls_of_one_layer_carry_its_name(tmp_path: Path) -> None:
    with guarded() as (target, guard):
        with normd.Client(target, token=TOKEN, retry=ONCE) as client:
            for call in calls(client, tmp_path):
                with pytest.raises(normd.Error, match="past the door"):
                    call()
            with pytest.raises(normd.Error, match="past the door"):
                client.infer("a", np.ones((1 << 16, 2)))
            with pytest.raises(normd.Error, match="past the door"), client.steps() as steps:
                steps.infer("a", X).result()
            with pytest.raises(normd.Error, match="past the door"), normd.trace_context(f"00-{'a' * 32}-{'b' * 16}-01"):
                client.get_layer("a")
        assert set(guard.layers) == methods()
        for method, layers in guard.layers.items():
            assert layers == [[] if method in OF_NO_LAYER_OR_SEVERAL else ["a"]] * len(layers), method
        guard.layers.clear()

        async def again() -> None:
            async with normd.aio.Client(target, token=TOKEN, retry=ONCE) as client:
                for call in calls(client, tmp_path):
                    with pytest.raises(normd.Error, match="past the door"):
                        await call()
                with pytest.raises(normd.Error, match="past the door"):
                    async with client.steps() as steps:
                        await (await steps.infer("a", X))
                # What no header may hold is no name either.
                with pytest.raises(normd.Error, match="past the door"):
                    await client.get_layer("b\nc")

        asyncio.run(again())
        assert set(guard.layers) == methods()
        assert guard.layers["GetLayer"].pop() == []
        for method, layers in guard.layers.items():
            assert layers == [[] if method in OF_NO_LAYER_OR_SEVERAL else ["a"]] * len(layers), method


def test_shared_memory_is_no_way_around() -> None:
    with guarded() as (target, guard):
        with normd.Client(target, token="another", transport="shm") as client:
            with pytest.raises(normd.UnauthenticatedError, match="unknown token"):
                client.empty(1 << 20)
        assert guard.seen["OpenSession"] == [["Bearer another"]]


def test_sessions_regions_and_calls_with_shared_memory_carry_the_token() -> None:
    seen: dict[str, set[Any]] = defaultdict(set)
    layers: dict[str, list[str]] = defaultdict(list)

    class Noting(FakeServer):
        def begin(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
            seen[method].add(tuple(value for key, value in context.invocation_metadata() if key == "authorization"))
            layers[method] += [value for key, value in context.invocation_metadata() if key == "normd-layer"]
            super().begin(method, request, context)

    fake = Noting()
    fake.layers["a"] = Layer(np.zeros(2), np.ones(2))
    with serving(fake) as target, normd.Client(target, token=TOKEN, transport="shm") as client:
        client.infer("a", np.ones((1 << 16, 2)))
    assert {"OpenSession", "RegisterRegion", "Infer"} <= set(seen)
    assert set.union(*seen.values()) == {(f"Bearer {TOKEN}",)}
    assert layers["Infer"] == ["a"] and not layers["RegisterRegion"]


def test_without_the_right_token_nothing_is_tried_again() -> None:
    with guarded() as (target, guard):
        with normd.Client(target) as client, pytest.raises(normd.UnauthenticatedError, match="no token"):
            client.get_layer("a")
        with normd.Client(target, token="another") as client, pytest.raises(normd.UnauthenticatedError) as refused:
            client.get_layer("a")
        assert "another" not in str(refused.value)
        assert guard.seen["GetLayer"] == [[], ["Bearer another"]]


def test_a_token_file_is_read_for_each_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("one\r\n\n")

    def code() -> normd.Code:
        with pytest.raises(normd.Error) as error:
            client.get_layer("a")
        return error.value.code

    with guarded() as (target, guard), normd.Client(target, token_file=file) as client:
        guard.token = "one"
        assert code() is normd.Code.UNIMPLEMENTED
        file.write_text("two")
        assert code() is normd.Code.UNAUTHENTICATED
        guard.token = "two"
        assert code() is normd.Code.UNIMPLEMENTED
        assert not caplog.records
        file.unlink()
        assert code() is normd.Code.UNIMPLEMENTED
        file.write_text("")
        assert code() is normd.Code.UNIMPLEMENTED
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "No such file" in caplog.text and str(file) in caplog.text and "two" not in caplog.text
        file.write_text("three\n")
        guard.token = "three"
        assert code() is normd.Code.UNIMPLEMENTED


@pytest.mark.parametrize("settings, text", [
    ({"token": "secret\n"}, "token holds, as character 7"), ({"token": "secret secret"}, "as character 7"),
    ({"token": "secretß"}, "as character 7"), ({"token": ""}, "token is empty"), ({"token": "s" * 5000}, "more than 4096"),
    ({"token": "secret", "token_file": "empty"}, "both token and token_file"), ({"token_file": "empty"}, "is empty"),
    ({"token_file": "two-lines"}, "as character 7")])
@pytest.mark.parametrize("target", ["127.0.0.1:1", "unix:s"])
def test_what_is_no_token_is_refused_without_showing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str,
                                                        settings: dict[str, Any], text: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n")
    Path("two-lines").write_text("secret\nsecret\n")
    with pytest.raises(ValueError, match=text) as refused:
        normd.Client(target, **settings)
    assert "secret" not in str(refused.value)


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        normd.Client(token_file=tmp_path / "none")


@pytest.mark.parametrize("target", ["192.0.2.1:1", "127.0.0.1.example:1", "localhost.example:1", "[::2]:1", "[::1"])
def test_a_token_goes_nowhere_where_others_could_read_it(target: str) -> None:
    with pytest.raises(ValueError, match="want tls"):
        normd.Client(target, token=TOKEN)
    normd.Client(target, token=TOKEN, tls=True).close()
    normd.Client(target, token=TOKEN, allow_token_without_tls=True).close()


def test_knows_the_ways_that_stay_on_this_machine() -> None:
    for target in ("localhost:1", "LOCALHOST:1", "127.255.1.2:1", "[::1]:1", "::1", "dns:///localhost:1", "ipv6:[::1]:1"):
        assert _security.is_loopback(target), target
    for target in ("", ":1", "127.evil.example:1", "dns://10.0.0.1/localhost:1", "ipv4:127.0.0.1:1,10.0.0.1:1",
                   "xds:///localhost:1"):
        assert not _security.is_loopback(target), target


def code_of(target: str, **settings: Any) -> str:
    with normd.Client(target, token=TOKEN, retry=ONCE, timeout=20, **settings) as client:
        with pytest.raises(normd.Error) as error:
            client.get_layer("a")
    return f"{error.value.code.name}: {error.value.message}"


def test_trusts_only_whom_it_is_told_to(authority: Certificates, others: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(others.ca.read_bytes() + authority.ca.read_bytes())
    with guarded(pair=authority.issue("localhost")) as (target, guard):
        assert code_of(target, tls=normd.Tls(authority.ca)).startswith("UNIMPLEMENTED")
        assert code_of(target, tls=normd.Tls(both)).startswith("UNIMPLEMENTED")
        for tls in (normd.Tls(others.ca), True, None):
            assert code_of(target, tls=tls).startswith("UNAVAILABLE")
        assert len(guard.seen["GetLayer"]) == 2


def test_the_certificate_must_be_for_the_server_and_of_today(authority: Certificates) -> None:
    with guarded(pair=authority.issue("norm.example")) as (target, _):
        assert code_of(target, tls=normd.Tls(authority.ca)).startswith("UNAVAILABLE")
        assert code_of(target, tls=normd.Tls(authority.ca, server_name="norm.example")).startswith("UNIMPLEMENTED")
    with guarded(pair=authority.issue("localhost", days=-1)) as (target, guard):
        assert code_of(target, tls=normd.Tls(authority.ca)).startswith("UNAVAILABLE")
        assert not guard.seen


def test_shows_its_certificate_to_a_server_that_wants_one(authority: Certificates, others: Certificates) -> None:
    with guarded(pair=authority.issue("localhost"), client_ca=authority.ca) as (target, guard):
        assert code_of(target, tls=normd.Tls(authority.ca)).startswith("UNAVAILABLE")
        assert code_of(target, tls=normd.Tls(authority.ca, *others.issue("worker"))).startswith("UNAVAILABLE")
        assert not guard.seen
        assert code_of(target, tls=normd.Tls(authority.ca, *authority.issue("worker"))).startswith("UNIMPLEMENTED")


def test_files_that_cannot_work_are_named(authority: Certificates, tmp_path: Path) -> None:
    certificate, key = authority.issue("worker")
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for tls, text in [(normd.Tls(bad), "tls.root_certificates '.*bad.pem' holds no certificate"),
                      (normd.Tls(certificate_chain=certificate), "got tls.certificate_chain without private_key"),
                      (normd.Tls(private_key=key), "got tls.private_key without certificate_chain"),
                      (normd.Tls(None, bad, key), "bad.pem' and .* are not a certificate and a key"),
                      (normd.Tls(None, certificate, bad), "are not a certificate and a key"),
                      (normd.Tls(None, certificate, authority.issue("other")[1]), "do not belong together")]:
        with pytest.raises(ValueError, match=text):
            normd.Client("localhost:1", tls=tls)
    with pytest.raises(FileNotFoundError):
        normd.Client("localhost:1", tls=normd.Tls(tmp_path / "none"))
    with pytest.raises(ValueError, match="Unix sockets have no TLS"):
        normd.Client("unix:s", tls=True)


def test_nothing_shows_the_token() -> None:
    security = _security.Security(token=TOKEN)
    with normd.Client("127.0.0.1:1", token=TOKEN, retry=ONCE) as client:
        with pytest.raises(normd.UnavailableError) as error:
            client.get_layer("a")
        shown = [repr(client), str(client), repr(security), str(error.value), repr(error.value), repr(client._connection),
                 repr(client._connection.channel), repr(client._connection.channel._token)]
        assert "secret" not in " ".join(shown)


def test_copies_have_the_token() -> None:
    with guarded() as (target, guard), normd.Client(target, token=TOKEN) as client:
        for each in (pickle.loads(pickle.dumps(client)), copy.copy(client)):
            with pytest.raises(normd.Error, match="past the door"):
                each.get_layer("a")
        assert guard.seen["GetLayer"] == [[f"Bearer {TOKEN}"]] * 2


def test_those_with_a_client_of_their_own_take_its_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with guarded() as (target, guard):
        with pytest.raises(normd.Error, match="past the door"):
            normd.RunningNormalizer(target, "a", 2, token=TOKEN)
        with pytest.raises(normd.Error, match="past the door"):
            normd.sb3.VecNormalize(Environments(FLAT), target, "a", token_file=tmp_path / "token")
        assert state_dict.main(["export", str(tmp_path / "x.npz"), "--target", target, "--token-file",
                                str(tmp_path / "token")]) == 1
        assert {tuple(given) for each in guard.seen.values() for given in each} == {(f"Bearer {TOKEN}",)}
        with normd.Client(target) as client, pytest.raises(ValueError, match="got a Client and settings of one"):
            normd.RunningNormalizer(client, "a", 2, token=TOKEN)
