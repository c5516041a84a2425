"""Many threads on one layer: is there an order of their calls that explains every answer?

The long variant: NORMD_HISTORY_SECONDS=60 python3 -m pytest -s tests/python/test_linearizability.py
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import pytest

import normd
from conftest import running
from history import Answer, Call, NotLinearizable, State, check

# Of recording, in each of the tests below; checking takes about as long.
SECONDS = float(os.environ.get("NORMD_HISTORY_SECONDS", "1"))
THREADS = 6
CHANNELS = 2
# Seconds: from before the server can answer to after it has.
TINY = (0.0003, 0.003)
# Changes of unknown outcome that a thread has at a time, before it is patient.
MOST_UNKNOWN = 2
# Calls of a history, or of each of its parts, at least.
ENOUGH = 300


class Recorder:
    """Threads with a client each that call at random, and what they asked and heard."""

    def __init__(self, target: str, layer: str, seed: int) -> None:
        self._target, self._layer, self._seed = target, layer, seed
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]
        # A list of each thread's own.
        self._calls: list[list[Call]] = [[] for _ in range(THREADS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def run(self, seconds: float) -> None:
        """Goes on for so long, and until there is enough to look at: a busy machine is slow."""
        end, enough = time.monotonic() + seconds, sum(map(len, self._calls)) + ENOUGH
        while not self._failures and (time.monotonic() < end or sum(map(len, self._calls)) < enough):
            time.sleep(0.01)

    def finish(self) -> list[Call]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]
        return [call for calls in self._calls for call in calls]

    def _run(self, number: int) -> None:
        try:
            rng = random.Random(self._seed * 1000 + number)
            with normd.Client(self._target, retry=normd.RetryPolicy(max_attempts=1)) as client:
                caller = _Caller(client, self._layer, f"thread{number}", rng, self._calls[number])
                while not self._stop.is_set():
                    caller.step()
        except BaseException as error:
            self._failures.append(error)


class _Caller:
    def __init__(self, client: normd.Client, layer: str, name: str, rng: random.Random, calls: list[Call]) -> None:
        self._client, self._layer, self._name, self._rng, self._calls = client, layer, name, rng, calls
        self._number = 0
        # The newest that this thread knows.
        self._version = 1
        # Changes to attempt again some day.
        self._again: list[Callable[[], None]] = []
        # Those of unknown outcome, each of which may be what made any later version: with many of them there is no end to
        # the orders to try.
        self._unknown: set[str] = set()
        self._unavailable = False

    def step(self) -> None:
        if self._unavailable:
            # Until there is a server again.
            self._attempt("", "get", {}, 0, 0, "")
            return
        if self._again and self._rng.random() < 0.2:
            self._again.pop(self._rng.randrange(len(self._again)))()
            return
        kind = self._rng.choices(["train", "merge", "set", "reset", "update", "get", "infer"], [30, 20, 5, 2, 5, 20, 18])[0]
        self._number += 1
        operation = f"{self._name} {kind} {self._number}"
        args = self._args(kind)
        # A set may be tied to the version that this thread knows.
        tied = self._version if kind == "set" and self._rng.random() < 0.5 else 0
        # A contributor for each, since repetitions do not come in order. A layer knows 10,000.
        sequence = self._number if kind == "merge" and self._number < 3000 and self._rng.random() < 0.5 else 0
        attempts = iter(range(1 << 30))

        def attempt() -> None:
            # A merge is known by its sequence, too.
            request_id = f"{operation} {next(attempts)}" if sequence else operation
            answered = self._attempt(operation, kind, args, tied, sequence, request_id)
            if kind not in ("get", "infer") and self._rng.random() < (0.1 if answered else 0.6):
                self._again.append(attempt)

        attempt()

    def _args(self, kind: str) -> dict[str, Any]:
        def integers(*shape: int) -> Any:
            return np.array([self._rng.randint(-9, 9) for _ in range(int(np.prod(shape)))], np.float64).reshape(shape)

        if kind in ("merge", "infer") or (kind == "train" and self._rng.random() < 0.8):
            return {"x": integers(self._rng.choice([2, 4, 8]), CHANNELS)}
        if kind == "train":
            return {"x": integers(4, CHANNELS), "gamma": integers(CHANNELS), "beta": integers(CHANNELS)}
        if kind == "set":
            return {"mean": integers(CHANNELS), "var": np.abs(integers(CHANNELS)), "count": float(self._rng.randint(1, 9)),
                    "batches": self._rng.randint(0, 9), "gamma": integers(CHANNELS), "beta": integers(CHANNELS)}
        # Another value each time: an update that changes nothing makes no version.
        return {"eps": self._rng.uniform(0.01, 1)} if kind == "update" else {}

    def _attempt(self, operation: str, kind: str, args: dict[str, Any], tied: int, sequence: int, request_id: str) -> bool:
        """Whether it was answered."""
        tiny = self._rng.random() < 0.06 and len(self._unknown) < MOST_UNKNOWN
        timeout = self._rng.uniform(*TINY) if tiny else 30.0
        answer: Optional[Answer] = None
        begin = time.monotonic()
        try:
            answer = self._call(kind, args, tied, sequence, request_id, timeout)
        except (normd.DeadlineExceededError, normd.UnavailableError) as error:
            # Perhaps it was done. Perhaps the server is gone.
            self._unavailable = isinstance(error, normd.UnavailableError)
            if self._unavailable:
                time.sleep(0.002)
        except normd.AbortedError:
            assert tied
            self._unknown.discard(operation)
            return True
        end = time.monotonic()
        if answer is not None:
            assert not tied or answer.version > tied
            self._version = max(self._version, answer.version)
            self._unavailable = False
            self._unknown.discard(operation)
        elif kind not in ("get", "infer"):
            self._unknown.add(operation)
        if answer is not None or kind not in ("get", "infer"):
            self._calls.append(Call(operation, kind, args, begin, end, answer))
        return answer is not None

    def _call(self, kind: str, args: dict[str, Any], tied: int, sequence: int, request_id: str, timeout: float) -> Answer:
        client, name = self._client, self._layer
        options: dict[str, Any] = {"request_id": request_id, "timeout": timeout}
        if kind == "train":
            step = client.train_step(name, args["x"], gamma=args.get("gamma"), beta=args.get("beta"), **options)
            return Answer(step.version, step.replayed, step.content_hash,
                          {} if step.replayed else {"batches": step.num_batches_tracked}, args["x"],
                          None if step.replayed else step.y)
        if kind == "merge":
            merged = client.merge_moments(name, normd.Moments.of(args["x"]), sequence=sequence,
                                          contributor=request_id.rpartition(" ")[0] if sequence else "", **options)
            return Answer(merged.version, merged.replayed, merged.content_hash, {
                "mean": merged.running_mean, "var": merged.running_var, "count": merged.sample_count[0],
                "batches": merged.num_batches_tracked})
        if kind == "set":
            state = normd.LayerState(
                running_mean=args["mean"], running_var=args["var"], sample_count=np.full(CHANNELS, args["count"]),
                num_batches_tracked=args["batches"], gamma=args["gamma"], beta=args["beta"])
            return _of(client.set_state(name, state, expected_version=tied, **options))
        if kind == "reset":
            return _of(client.reset_statistics(name, **options))
        if kind == "update":
            return _of(client.update_layer(name, eps=args["eps"], **options))
        if kind == "get":
            return _of(client.get_layer(name, timeout=timeout))
        inferred = client.infer(name, args["x"], timeout=timeout)
        return Answer(inferred.version, None, inferred.content_hash, {}, args["x"], inferred.output)


def _of(layer: normd.Layer) -> Answer:
    seen: dict[str, Any] = {"eps": layer.config.eps}
    if layer.state is not None:
        state = layer.state
        seen.update(mean=state.running_mean, var=state.running_var, count=state.sample_count[0],
                    batches=state.num_batches_tracked, gamma=state.gamma, beta=state.beta)
    return Answer(layer.version, None, layer.content_hash, seen)


def settled(client: normd.Client, calls: list[Call]) -> list[Call]:
    """The history, and a last look at the layer."""
    begin = time.monotonic()
    answer = _of(client.get_layer("shared"))
    return [*calls, Call("last look", "get", {}, begin, time.monotonic(), answer)]


def verify(initial: State, calls: list[Call], what: str) -> None:
    placed = check(initial, calls)
    unknown = sum(call.answer is None for call in calls)
    versions = max(call.answer.version for call in calls if call.answer is not None)
    replays = sum(call.answer is not None and call.answer.replayed is True for call in calls)
    print(f"{what}: {len(calls)} calls, {versions} versions, {replays} replays, {unknown} of unknown outcome, of which "
          f"{placed} were found by what they did")
    assert versions > 100 and unknown and replays > 5


@pytest.fixture(params=["exponential", "pooled"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"averaging": request.param, "eps": 0.5, **({"update_weight": 0.25} if request.param == "exponential" else {})}


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_calls_are_as_if_made_one_by_one(tmp_path: Path, settings: dict[str, Any], store: str) -> None:
    where = "memory" if store == "memory" else f"sqlite:{tmp_path / 'normd.db'}"
    with running(tmp_path, "--store", where) as server, normd.Client(server.unix, timeout=60) as client:
        client.create_layer("shared", CHANNELS, **settings)
        recorder = Recorder(server.unix, "shared", seed=1)
        recorder.start()
        recorder.run(SECONDS)
        calls = settled(client, recorder.finish())
    verify(State.initial(CHANNELS, 0.5, settings.get("update_weight")), calls, store)


def test_a_kill_and_a_restart_are_no_exception(tmp_path: Path, settings: dict[str, Any]) -> None:
    where = f"sqlite:{tmp_path / 'normd.db'}"
    with normd.Client(f"unix:{tmp_path / 'normd.sock'}", timeout=60) as client:
        with running(tmp_path, "--store", where, end=signal.SIGKILL) as server:
            client.create_layer("shared", CHANNELS, **settings)
            recorder = Recorder(server.unix, "shared", seed=2)
            recorder.start()
            recorder.run(SECONDS / 2)
        # Killed too: a clean stop waits until the client above, which nobody polls, has noticed.
        with running(tmp_path, "--store", where, end=signal.SIGKILL):
            recorder.run(SECONDS / 2)
            calls = settled(client, recorder.finish())
    verify(State.initial(CHANNELS, 0.5, settings.get("update_weight")), calls, "kill and restart")


# The checker itself, on histories by hand. A call is (operation, begin, end, answer); version 1 is the first.

START = State.initial(1, 0.5, 0.5)
X = np.array([[2.0], [4.0]])
# What two and three steps with X make.
ONE, TWO, THREE = (state := START.after("train", {"x": X}), state := state.after("train", {"x": X}),
                   state.after("train", {"x": X}))


def seen(state: State) -> dict[str, Any]:
    return {key: getattr(state, key) for key in ("mean", "var", "count", "batches")}


def step(operation: str, begin: float, end: float, version: Optional[int], replayed: bool = False, kind: str = "train",
         **looks: Any) -> Call:
    answer = None if version is None else Answer(version, replayed if kind in ("train", "merge") else None, f"h{version}",
                                                 **looks)
    args = {} if kind == "reset" else {"x": X}
    return Call(operation, kind, args, begin, end, answer)


def look(begin: float, end: float, version: int, state: State, content_hash: str = "") -> Call:
    return Call("look", "get", {}, begin, end, Answer(version, None, content_hash or f"h{version}", seen(state)))


GOOD = [step("a", 0, 1, 2), look(2, 3, 2, ONE), step("b", 4, 9, 4), step("c", 5, 8, 3), look(6, 7, 3, TWO),
        look(10, 11, 4, THREE)]


def test_the_checker_passes_what_is_in_order() -> None:
    assert check(START, GOOD) == 0
    # A replay says nothing of the present.
    assert check(START, [*GOOD, step("a", 12, 13, 2, replayed=True)]) == 0
    # An unknown outcome: not done, done at once, done later, and known by the repetition.
    assert check(START, [*GOOD, step("lost", 0.5, 1.5, None)]) == 0
    for end in (1.0, 0.5):
        assert check(START, [step("lost", 0, end, None), step("b", 2, 3, 3), look(4, 5, 3, TWO)]) == 1
    assert check(START, [step("lost", 0, 1, None), step("b", 2, 3, 2), look(4, 5, 3, TWO)]) == 1
    assert check(START, [step("a", 0, 1, None), step("b", 2, 3, 3), step("a", 4, 5, 2, replayed=True)]) == 0
    # A repetition that names the newest version: made somewhere before it.
    merge = [step("m", 0, 1, None, kind="merge"), step("b", 2, 3, 3), step("m", 4, 5, 3, True, kind="merge")]
    assert check(START, [*merge, look(6, 7, 3, TWO)]) == 1
    # Two candidates, of which only the second explains what was seen later.
    both = [step("r", 0, 9, None, kind="reset"), step("s", 0, 9, None), step("b", 10, 11, 3), look(12, 13, 3, TWO)]
    assert check(START, both) == 1
    # One of them was made before the other could be.
    both = [step("r", 0, 1, None, kind="reset"), step("s", 2, 3, None), look(4, 5, 3, ONE)]
    assert check(START, both) == 2


def changed(place: int, **fields: Any) -> list[Call]:
    return [replace(call, **fields) if index == place else call for index, call in enumerate(GOOD)]


@pytest.mark.parametrize(("calls", "message"), [
    # A lost update: the second step has a version, and the state does not have the step.
    (changed(4, answer=Answer(3, None, "h3", seen(ONE))), "look saw mean .* at version 3, want"),
    # A batch that was not counted.
    (changed(5, answer=Answer(4, None, "h4", {**seen(THREE), "batches": 2})), "saw batches 2 at version 4, want 3"),
    # A stale read, of a version that was over before it began; and one step back of another reader.
    ([*GOOD, look(12, 13, 3, TWO)], "look saw version 3, but 4 was answered before it began"),
    ([*GOOD[:2], look(2, 3, 1, START)], "look saw version 1, but 2"),
    # A step before one that had been answered.
    ([step("a", 0, 1, 3), step("b", 2, 3, 2)], "b made version 2, but 3 was answered before it began"),
    # A read of what nobody had begun to make.
    ([look(0, 1, 2, ONE), step("a", 2, 3, 2)], "a made version 2, but 2 was answered before it began"),
    # One version, two steps.
    ([step("a", 0, 3, 2), step("b", 1, 2, 2)], "b and a made version 2 both"),
    # Done twice: a repetition that was not recognised; one that was applied in secret.
    ([step("a", 0, 1, 2), step("a", 2, 3, 3)], "a was made at version 2 or before, and again at 3"),
    ([step("a", 0, 1, None), step("a", 2, 3, 3), look(4, 5, 3, TWO)], "nobody made version 2"),
    ([*GOOD, look(12, 13, 5, THREE)], "nobody made version 5"),
    # The same, where the unknown step could have made only one of the two.
    ([step("a", 0, 1, None), look(2, 3, 3, TWO)], "nobody made version 3"),
    # An unknown step that began too late for the gap, and one that nothing of shows.
    ([step("b", 0, 1, 3), step("late", 2, 3, None), look(4, 5, 3, TWO)], "nobody made version 2"),
    ([step("lost", 0, 1, None), step("b", 2, 3, 3), look(4, 5, 3, ONE)], "saw mean"),
    # A merge that was made, says its repetition, and is nowhere.
    ([step("m", 0, 1, None, kind="merge"), step("b", 2, 3, 2), step("m", 4, 5, 2, True, kind="merge")],
     "m was made at version 2 or before"),
    # A replay of nothing, and one that names another version.
    ([step("a", 0, 1, 2, replayed=True)], "a: replayed at the first attempt"),
    ([*GOOD, step("a", 12, 13, 3, replayed=True)], "two"),
    # One version, two contents.
    (changed(5, answer=Answer(4, None, "other", seen(THREE))), "version 4 has two content hashes"),
    # Outputs of another version's statistics, and of a step with another eps.
    ([step("a", 0, 1, 2), Call("i", "infer", {"x": X}, 2, 3, Answer(2, None, "h2", {}, X, (X - 0) / np.sqrt(1.5)))],
     "i saw another y at version 2"),
    ([step("a", 0, 1, 2, x=X, y=(X - 3) / np.sqrt(1 + 0.1))], "a saw another y at version 2"),
])
def test_the_checker_finds_what_is_not(calls: list[Call], message: str) -> None:
    with pytest.raises(NotLinearizable, match=message):
        check(START, calls)
