"""Recorded calls on one layer, and whether some order of them explains all that was answered: linearizability.

The layer's version is the witness of the order: every change has one of its own, and every answer names one. So there is
nothing to search but where the calls went whose answer never came, or came without their version.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Iterable, Optional

import numpy as np

from support import moments, normalize

CHANGES = ("train", "merge", "set", "reset", "update")
READS = ("get", "infer")
# Of everything that is compared: numbers of the model are float64 too, in another order of sums.
TOLERANCE = 1e-9


class NotLinearizable(AssertionError):
    """No order of the calls explains the answers."""


@dataclass(frozen=True)
class State:
    """What a layer is, by the sequential model: docs/batch_norm.md in float64."""

    mean: Any
    var: Any
    count: float
    batches: int
    gamma: Any
    beta: Any
    eps: float
    # None: pooled.
    update_weight: Optional[float]

    @staticmethod
    def initial(channels: int, eps: float, update_weight: Optional[float]) -> State:
        return State(np.zeros(channels), np.ones(channels), 0.0, 0, np.ones(channels), np.zeros(channels), eps,
                     update_weight)

    def after(self, kind: str, args: dict[str, Any]) -> State:
        """The state after a change."""
        if kind == "train":
            affine = {key: args[key] for key in ("gamma", "beta") if key in args}
            return replace(self._fold(args["x"]), **affine)
        if kind == "merge":
            return self._fold(args["x"])
        if kind == "reset":
            return replace(self, mean=np.zeros_like(self.mean), var=np.ones_like(self.var), count=0.0, batches=0)
        assert kind in ("set", "update")
        return replace(self, **args)

    def _fold(self, x: Any) -> State:
        mean, var, n = moments(x)
        if self.update_weight is not None:
            w = self.update_weight
            merged = (1 - w) * self.mean + w * mean, (1 - w) * self.var + w * var
        elif self.count == 0:
            merged = mean, var
        else:
            total, delta = self.count + n, mean - self.mean
            m2 = self.var * self.count + var * n + delta**2 * self.count * n / total
            merged = self.mean + delta * n / total, m2 / total
        return replace(self, mean=merged[0], var=merged[1], count=self.count + n, batches=self.batches + 1)


@dataclass(frozen=True)
class Answer:
    """What came back: the version, and what was seen of the layer there, by name of State's fields.

    Attributes:
        replayed: that the change had been made before; None: this answer does not say so, one way or the other.
        x, y: an input of infer or train_step, and its output.
    """

    version: int
    replayed: Optional[bool] = None
    content_hash: str = ""
    seen: dict[str, Any] = field(default_factory=dict)
    x: Any = None
    y: Any = None


@dataclass(frozen=True)
class Call:
    """One attempt at an operation. Attempts at one operation share `operation`, its request_id, and come one by one.

    Attributes:
        answer: None: the outcome is unknown. Calls that are refused, and change nothing, are not recorded.
    """

    operation: str
    kind: str
    args: dict[str, Any]
    begin: float
    end: float
    answer: Optional[Answer]


@dataclass
class _Change:
    """A change, of all its attempts."""

    operation: str
    kind: str
    args: dict[str, Any]
    begin: float
    # Of the first answer; infinite without one.
    end: float = float("inf")
    # Where it is, if an answer says so.
    version: Optional[int] = None
    # At this version or before, if it is known to have been made.
    latest: Optional[int] = None
    # Made after this version: the newest that had been answered when the first attempt began.
    after: int = 0


def check(initial: State, calls: Iterable[Call], first_version: int = 1) -> int:
    """Raises NotLinearizable unless the calls were as if made one by one; returns how many calls had to be placed.

    Args:
        initial: the layer before all calls, at first_version.
    """
    calls = sorted(calls, key=lambda call: call.begin)
    changes = _changes(calls)
    # What was seen at each version: by answers that made it, and by those that read it.
    seen: dict[int, list[tuple[Call, Answer]]] = {}
    hashes: dict[int, str] = {}
    reads = []
    for call in calls:
        answer = call.answer
        if answer is None:
            continue
        _same(hashes.setdefault(answer.version, answer.content_hash), answer.content_hash,
              f"version {answer.version} has two content hashes")
        change = changes.get(call.operation)
        if call.kind == "train" and answer.replayed:
            continue  # Names the version that the step made, long ago perhaps, and shows nothing of it.
        seen.setdefault(answer.version, []).append((call, answer))
        if change is None or change.version != answer.version:
            reads.append(call)
    _check_real_time(first_version, changes.values(), reads)
    return _replay(initial, first_version, changes, seen)


def _same(have: Any, want: Any, what: str) -> None:
    if have != want:
        raise NotLinearizable(f"{what}: {have} and {want}")


def _changes(calls: Iterable[Call]) -> dict[str, _Change]:
    """The changes, each once, with the version that it made if an answer says that."""
    changes: dict[str, _Change] = {}
    attempted: set[str] = set()
    for call in calls:
        if call.kind not in CHANGES:
            continue
        change = changes.setdefault(call.operation, _Change(call.operation, call.kind, call.args, call.begin))
        first = call.operation not in attempted
        attempted.add(call.operation)
        answer = call.answer
        if answer is None:
            continue
        change.end = min(change.end, call.end)
        if answer.replayed and first:
            raise NotLinearizable(f"{call.operation}: replayed at the first attempt")
        if answer.replayed is False and change.latest is not None:
            raise NotLinearizable(f"{call.operation} was made at version {change.latest} or before, and again at "
                                  f"{answer.version}")
        # A step's answer always names the version that it made; others name the newest where they were replayed.
        if call.kind == "train" or answer.replayed is False or first:
            _same(change.version or answer.version, answer.version, f"{call.operation} made two versions")
            change.version = answer.version
        change.latest = min(change.latest or answer.version, answer.version)
    return changes


def _check_real_time(first_version: int, changes: Iterable[_Change], reads: Iterable[Call]) -> None:
    """What began after an answer comes after it: changes above its version, reads not below it."""
    events: list[tuple[float, int, Any]] = []
    for change in changes:
        events.append((change.begin, 0, change))
        if change.version is not None:
            events.append((change.end, 1, change.version))
    for read in reads:
        assert read.answer is not None
        events.append((read.begin, 0, read))
        events.append((read.end, 1, read.answer.version))
    newest = first_version
    for _, _, what in sorted(events, key=lambda event: event[:2]):
        if isinstance(what, int):
            newest = max(newest, what)
        elif isinstance(what, _Change):
            what.after = newest
            if what.version is not None and what.version <= newest:
                raise NotLinearizable(f"{what.operation} made version {what.version}, but {newest} was answered before it "
                                      "began")
        elif what.answer.version < newest:
            raise NotLinearizable(f"{what.operation} saw version {what.answer.version}, but {newest} was answered before "
                                  "it began")


def _replay(initial: State, first_version: int, changes: dict[str, _Change],
            seen: dict[int, list[tuple[Call, Answer]]]) -> int:
    """Makes the changes one after the other, and looks at each version at what was seen of it."""
    at: dict[int, _Change] = {}
    for change in changes.values():
        if change.version is not None:
            if change.version in at:
                raise NotLinearizable(f"{change.operation} and {at[change.version].operation} made version "
                                      f"{change.version} both")
            at[change.version] = change
    floating = [change for change in changes.values() if change.version is None]
    last = max([first_version, *at, *seen])
    for version, looks in seen.items():
        if version < first_version:
            raise NotLinearizable(f"{looks[0][0].operation} saw version {version}, before the first")
    _look(initial, first_version, seen)

    placed: dict[int, _Change] = {}

    def options(version: int) -> list[_Change]:
        """What may have made it: who says so, or else whoever may have been at it and is not placed yet."""
        if version in at:
            return [at[version]]
        used = {id(change) for change in placed.values()}
        found = [change for change in floating
                 if id(change) not in used and change.after < version <= (change.latest or last)]
        # Those that have to be somewhere soon come first, then those that began last: what is done at all is mostly done
        # at once.
        return sorted(found, key=lambda change: (change.latest or last + 1, -change.after))

    def make(before: State, version: int, change: _Change) -> State:
        if version not in at:
            placed[version] = change
        state = before.after(change.kind, change.args)
        _look(state, version, seen)
        used = {id(change) for change in placed.values()}
        for one in floating:
            if one.latest == version and id(one) not in used:
                raise NotLinearizable(f"{one.operation} was made at version {version} or before, but another change was")
        return state

    # Depth first: of each version, the state before it and the options that are left.
    path: list[tuple[State, list[_Change]]] = []
    state, version, deepest, why, tries = initial, first_version, first_version, "", 0
    while version < last:
        path.append((state, options(version + 1)))
        if not path[-1][1] and version >= deepest:
            deepest, why = version, f"nobody made version {version + 1}"
        while True:
            if not path:
                raise NotLinearizable(why)
            if tries > 20_000:
                raise NotLinearizable(f"no order found in {tries} tries; the best one ends at version {deepest}: {why}")
            before, left = path[-1]
            version = first_version + len(path)
            placed.pop(version, None)
            if not left:
                path.pop()
                continue
            tries += version not in at
            try:
                state = make(before, version, left.pop(0))
                break
            except NotLinearizable as wrong:
                if version >= deepest:
                    deepest, why = version, str(wrong)
    return len(placed)


def _look(state: State, version: int, seen: dict[int, list[tuple[Call, Answer]]]) -> None:
    """Compares the state with what was seen of it."""
    for call, answer in seen.get(version, ()):
        for key, value in answer.seen.items():
            want = getattr(state, key)
            if not np.allclose(value, want, rtol=TOLERANCE, atol=TOLERANCE):
                raise NotLinearizable(f"{call.operation} saw {key} {value} at version {version}, want {want}")
        if answer.y is not None:
            mean, var = (state.mean, state.var) if call.kind == "infer" else moments(answer.x)[:2]
            want = normalize(answer.x, mean, var, state.eps, state.gamma, state.beta)
            if not np.allclose(answer.y, want, rtol=TOLERANCE, atol=TOLERANCE):
                raise NotLinearizable(f"{call.operation} saw another y at version {version} than {want}")
