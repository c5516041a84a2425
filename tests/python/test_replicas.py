"""Three servers on one Redis, one of which is killed again and again while clients go from one to the other."""

from __future__ import annotations

import random
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import normd
from conftest import redis, running

REPLICAS = 3
ACTORS = 6
KILLS = 6


def test_kills_of_replicas_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """Each step is repeated, by its request_id, at the next replica until it is acknowledged."""
    folders = [tmp_path / f"replica{i}" for i in range(REPLICAS)]
    targets = [f"unix:{folder / 'normd.sock'}" for folder in folders]
    values: list[float] = []
    failures: list[BaseException] = []
    changed = threading.Condition()
    stop = threading.Event()

    def train(actor: int) -> None:
        try:
            with ExitStack() as stack:
                never = normd.RetryPolicy(max_attempts=1)
                clients = [stack.enter_context(normd.Client(target, timeout=60, retry=never)) for target in targets]
                step = turn = 0
                while not stop.is_set():
                    value, acknowledged = float(actor * 1000 + step % 7), False
                    while not acknowledged:
                        turn += 1
                        try:
                            x = np.array([[value]])
                            clients[turn % REPLICAS].train_step("shared", x, request_id=f"actor {actor} step {step}")
                            acknowledged = True
                        except normd.UnavailableError:
                            # That one is dead, or dies.
                            time.sleep(0.001)
                    with changed:
                        values.append(value)
                        changed.notify_all()
                    step += 1
        except BaseException as error:
            with changed:
                failures.append(error)
                changed.notify_all()

    def await_steps(count: int) -> None:
        with changed:
            want = len(values) + count
            assert changed.wait_for(lambda: failures or len(values) >= want, timeout=60)
        if failures:
            raise failures[0]

    rng = random.Random(20261126)
    actors = [threading.Thread(target=train, args=(actor,)) for actor in range(ACTORS)]
    with redis(tmp_path) as location, ExitStack() as others:
        flags = ["--store", location]
        for folder in folders:
            folder.mkdir()
        for folder in folders[1:]:
            others.enter_context(running(folder, *flags))
        with normd.Client(targets[1], timeout=60) as client:
            client.create_layer("shared", 1, preset="standard_scaler")
            for kill in range(KILLS):
                with running(folders[0], *flags, end=signal.SIGKILL):
                    if kill == 0:
                        for actor in actors:
                            actor.start()
                    await_steps(rng.randint(20, 200))
                # The others go on.
                await_steps(20)
            stop.set()
            for actor in actors:
                actor.join()
            if failures:
                raise failures[0]
            # One that starts now has it from Redis.
            with running(folders[0], *flags) as server, normd.Client(server.unix, timeout=60) as last:
                state = last.get_layer("shared").state
                assert state is not None
                assert state.num_batches_tracked == state.sample_count[0] == len(values)
                np.testing.assert_allclose(state.running_mean[0], np.mean(values), rtol=1e-12)
                np.testing.assert_allclose(state.running_var[0], np.var(values), rtol=1e-9)
                print(f"{KILLS} kills, {len(values)} steps")
