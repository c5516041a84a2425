"""A client finds the server that comes back, however many threads call meanwhile, and calls still fail at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import normd
from conftest import running

# Six threads share a client. Of each line read, it waits until every thread has had an answer since, and says so.
CALLERS = """
import sys, threading, time
import numpy as np
import normd

target, kind = sys.argv[1:]
client = normd.Client(target, timeout=60, retry=normd.RetryPolicy(max_attempts=1))
changed, answered = threading.Condition(), set()

def call():
    if kind == "unary":
        return client.get_layer("a")
    x = np.ones((1, 1))
    return list(client.infer_stream("a", iter([x]), shape=x.shape, dtype=x.dtype))

def work(number):
    while True:
        try:
            call()
        except normd.UnavailableError:
            time.sleep(0.01)
            continue
        with changed:
            answered.add(number)
            changed.notify_all()

for number in range(6):
    threading.Thread(target=work, args=(number,), daemon=True).start()
for line in sys.stdin:
    with changed:
        answered.clear()
        changed.wait_for(lambda: len(answered) == 6)
    print("answered", flush=True)
"""


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_threads_find_a_server_that_comes_back(tmp_path: Path, kind: str, transport: str) -> None:
    flags = ["--store", f"sqlite:{tmp_path / 'normd.db'}"]
    with running(tmp_path, *flags, end=signal.SIGKILL) as server, normd.Client(server.unix) as client:
        client.create_layer("a", 1)
        target = getattr(server, transport)
    if transport == "tcp":
        flags += ["--listen", target]
    # Without the poll that grpc itself makes of idle channels every 5 s: what that would find late, nobody finds now.
    environment = {**os.environ, "GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS": "0"}
    callers = subprocess.Popen([sys.executable, "-c", CALLERS, target, kind], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env=environment)
    assert callers.stdin is not None and callers.stdout is not None
    watchdog = subprocess.Popen(["sh", "-c", f"sleep 50; kill {callers.pid}"])
    try:
        for pause in (0, 0, 0.5):
            time.sleep(pause)
            with running(tmp_path, *flags, end=signal.SIGKILL):
                callers.stdin.write("\n")
                callers.stdin.flush()
                assert callers.stdout.readline() == "answered\n", "no answer within 50 s"
    finally:
        watchdog.kill()
        callers.kill()
        callers.wait()


def test_calls_fail_at_once_while_there_is_no_server(tmp_path: Path) -> None:
    once = normd.RetryPolicy(max_attempts=1)
    with normd.Client(f"unix:{tmp_path / 'nobody'}", timeout=60, retry=once) as client:
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(normd.UnavailableError):
                client.get_layer("a")
            with pytest.raises(normd.UnavailableError), client.steps() as steps:
                steps.infer("a", np.zeros((1, 1))).result()
        # Not a wait for the server, which would be a minute each.
        assert time.monotonic() - began < 30
    with pytest.raises(normd.CancelledError, match="the client is closed"):
        client.get_layer("a")
