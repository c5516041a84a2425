"""SIGTERM: a server that is told to stop fails no call of clients that retry, and is gone soon."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import normd
from conftest import normd_binary, running
from trainers import Trainers

CLIENTS = 16
RESTARTS = 3
# Far below --drain-timeout (10 s), and below the 5 s after which an idle client of Python's gRPC looks at its connection.
BOUND_S = 3.0


class Started:
    """A server that is stopped when the test says so."""

    def __init__(self, folder: Path, *flags: str) -> None:
        with (folder / "log").open("a") as log:
            self._process = subprocess.Popen([normd_binary(), *flags], stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        self.addresses = []
        for _ in range(2):
            match = re.fullmatch(r"normd listening on (\S+)\n", self._process.stdout.readline())
            assert match is not None, (folder / "log").read_text()
            self.addresses.append(match.group(1))

    def stop(self) -> float:
        """Seconds from SIGTERM to a clean end."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            assert self._process.wait(timeout=30) == 0
        finally:
            self._process.kill()
        return time.monotonic() - began


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_an_idle_client_does_not_hold_up_the_stop(tmp_path: Path, transport: str) -> None:
    server = Started(tmp_path, "--store", "memory", "--listen", "127.0.0.1:0", "--unix-socket", f"{tmp_path / 'socket'}")
    target = next(a for a in server.addresses if a.startswith("unix:") == (transport == "unix"))
    with normd.Client(target) as client:
        client.create_layer("a", 1)
        assert server.stop() < BOUND_S


def test_the_metrics_do_not_hold_up_the_stop(tmp_path: Path) -> None:
    """Their HTTP server looks every two seconds whether it shall end, if nobody comes."""
    flags = ["--store", "memory", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    flags += ["--unix-socket", f"{tmp_path / 'socket'}"]
    assert min(Started(tmp_path, *flags).stop() for _ in range(3)) < 1


def test_restarts_under_load_fail_and_lose_nothing(tmp_path: Path) -> None:
    flags = ["--store", f"sqlite:{tmp_path / 'normd.db'}", "--unix-socket", f"{tmp_path / 'socket'}"]
    target = f"unix:{tmp_path / 'socket'}"
    server = Started(tmp_path, *flags, "--listen", "127.0.0.1:0")
    with normd.Client(target) as client:
        client.create_layer("bn", 4)
    trainers = Trainers(target, CLIENTS, lambda client, _: client.train_step("bn", np.ones((8, 4), np.float32)))
    stops = []
    try:
        for _ in range(RESTARTS):
            trainers.await_more_steps(10 * CLIENTS)
            stops.append(server.stop())
            server = Started(tmp_path, *flags, "--listen", "127.0.0.1:0")
        trainers.await_more_steps(10 * CLIENTS)
    finally:
        try:
            trainers.finish()
        finally:
            stops.append(server.stop())
    assert max(stops) < BOUND_S, stops
    with running(tmp_path, "--store", flags[1]) as again, normd.Client(again.unix) as client:
        state = client.get_layer("bn").state
        assert state is not None and state.num_batches_tracked == trainers.steps
