"""A progress bar, where somebody wants one and tqdm is there."""

from __future__ import annotations

from typing import Iterable, Sequence, TypeVar

T = TypeVar("T")


def shown(items: Sequence[T], wanted: bool, what: str) -> Iterable[T]:
    """The items; with a bar on stderr or in the notebook, if it is wanted and tqdm is installed."""
    if not wanted:
        return items
    try:
        from tqdm.auto import tqdm  # type: ignore[import]
    except ImportError:
        return items
    bar: Iterable[T] = tqdm(items, desc=what, unit="layer")
    return bar
