"""Clients that train while a test does something to their server."""

from __future__ import annotations

import threading
from typing import Callable

import normd

# As many attempts as a restart takes.
RETRY = normd.RetryPolicy(max_attempts=1000, max_backoff=0.1)


class Trainers:
    """Threads, each with a client, and so a connection, of its own, until they are told to stop; no call of theirs may fail.

    Attributes:
        steps: how many have been answered.
    """

    def __init__(self, target: str, clients: int, step: Callable[[normd.Client, int], object]) -> None:
        """`step` makes a client's step; it gets the client and a number, from the client's own upwards."""
        self._target = target
        self._step = step
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._failures: list[BaseException] = []
        self.steps = 0
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        try:
            with normd.Client(self._target, timeout=60, retry=RETRY) as client:
                while not self._stop.is_set():
                    number += 1
                    self._step(client, number)
                    with self._changed:
                        self.steps += 1
                        self._changed.notify_all()
        except BaseException as failure:
            with self._changed:
                self._failures.append(failure)
                self._changed.notify_all()

    def await_more_steps(self, count: int) -> None:
        with self._changed:
            want = self.steps + count
            assert self._changed.wait_for(lambda: self.steps >= want or bool(self._failures), timeout=60)
            assert not self._failures, self._failures

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self._failures, self._failures
