"""A server whose Redis stands still for a while."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest

import normd
from conftest import redis, running


def test_reads_go_on_and_changes_come_back(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    with redis(tmp_path) as location:
        port = str(urlparse(location).port)
        flags = ["--store", f"{location}&timeout-ms=200&connect-timeout-ms=200&retry-ms=400"]
        never = normd.RetryPolicy(max_attempts=1)
        with running(tmp_path, *flags) as server, normd.Client(server.unix, timeout=60, retry=never) as client:
            client.create_layer("a", 3, preset="standard_scaler")
            client.train_step("a", x, request_id="before")
            subprocess.run(["redis-cli", "-p", port, "client", "pause", "3000", "all"], check=True, capture_output=True)
            start = time.monotonic()
            with pytest.raises(normd.UnavailableError, match="may have happened|nothing has changed"):
                client.train_step("a", x, request_id="during")
            assert client.get_layer("a").version == 2
            assert client.infer("a", x).version == 2
            with pytest.raises(normd.UnavailableError, match="nothing has changed"):
                client.train_step("a", x, request_id="also during")
            assert time.monotonic() - start < 2.5, "the outage was over before the test was"
            # Nothing is counted twice, whatever Redis did with what it got.
            step = None
            while step is None:
                try:
                    step = client.train_step("a", x, request_id="during")
                except normd.UnavailableError:
                    time.sleep(0.01)
            assert client.train_step("a", x, request_id="before").replayed
        with running(tmp_path, *flags) as server, normd.Client(server.unix, timeout=60) as client:
            layer = client.get_layer("a")
            assert layer.state is not None and layer.version == 3
            assert layer.state.num_batches_tracked == 2 and layer.state.sample_count[0] == 8
            assert client.train_step("a", x, request_id="during").replayed
