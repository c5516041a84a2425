"""One server for the whole session: the built normd, on a free port and a Unix socket."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket as Socket
from typing import Iterator, NamedTuple

import pytest
import torch

import normd

REPOSITORY = Path(__file__).resolve().parents[2]
torch.set_num_threads(1)


def normd_binary() -> Path:
    """NORMD_BIN, or the newest of the builds in the repository."""
    if "NORMD_BIN" in os.environ:
        return Path(os.environ["NORMD_BIN"])
    builds = [REPOSITORY / "build" / preset / "server/app/normd" for preset in ("release", "dev")]
    found = [path for path in builds if path.is_file()]
    if not found:
        pytest.exit(f"no server to test: build one, or set NORMD_BIN (looked for {', '.join(map(str, builds))})", 2)
    return max(found, key=lambda path: path.stat().st_mtime)


class Server(NamedTuple):
    """Where the running server listens."""

    tcp: str
    unix: str


@contextmanager
def running(folder: Path, *flags: str, end: signal.Signals = signal.SIGTERM) -> Iterator[Server]:
    """A server with these flags, in a folder of its own, that is ended by a signal.

    It keeps its layers in memory and listens on a free port, unless the flags name another --store or --listen.
    """
    socket = folder / "normd.sock"
    defaults = {"--store": "memory", "--listen": "127.0.0.1:0"}
    rest = [word for flag, value in defaults.items() if flag not in flags for word in (flag, value)]
    log = folder / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen([normd_binary(), "--unix-socket", socket, *rest, *flags],
                                   stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    addresses: list[str] = []
    for line in process.stdout:
        match = re.fullmatch(r"normd listening on (\S+)\n", line)
        if match:
            addresses.append(match.group(1))
        if len(addresses) == 2:
            break
    assert len(addresses) == 2, f"the server did not start: {log.read_text()}"
    try:
        yield Server(tcp=next(a for a in addresses if not a.startswith("unix:")), unix=f"unix:{socket}")
    except BaseException:
        process.kill()
        raise
    process.send_signal(end)
    want = 0 if end is signal.SIGTERM else -end
    assert process.wait(timeout=30) == want, f"the server ended badly: {log.read_text()[-4000:]}"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(Socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def await_port(port: int, process: subprocess.Popen[str], log: Path, seconds: float = 30) -> None:
    """Until `process`, which logs into `log`, listens there."""
    deadline = time.monotonic() + seconds
    while True:
        with Socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.02)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The location of a store in a Redis of its own, which goes on when a server is killed."""
    port, = free_ports(1)
    with (folder / "redis.log").open("w") as log:
        process = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
                                   stdout=log, stderr=log, text=True)
    try:
        await_port(port, process, folder / "redis.log", seconds=4)
        # A server that was killed holds up the next one for no longer than its lease.
        yield f"redis://127.0.0.1:{port}?lease-ms=300"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("normd")) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[normd.Client]:
    # The Unix socket: torchvision's models send a gigabyte through here.
    with normd.Client(server.unix, timeout=60) as connected:
        yield connected


@pytest.fixture
def layer(request: pytest.FixtureRequest) -> str:
    """A name of this test's own."""
    file, test = request.node.nodeid.split("::", 1)
    return f"{Path(file).stem}." + re.sub(r"[^A-Za-z0-9_-]+", "_", test)[:200].strip("_")
