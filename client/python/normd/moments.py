"""Count, mean and squared deviations of values: what a layer needs of them, merged without loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from normd import _repr, _tensors
from normd.types import Float64Array, FloatArray, Int64Array, Layout


@dataclass(frozen=True, eq=False)
class Moments:
    """What a set of values says about each channel. Arrays have shape (C,), and are converted when they are given.

    Attributes:
        count: values per channel; one number counts for every channel. Where it is 0, the rest means nothing.
        mean: their mean.
        m2: sum of their squared deviations from the mean.
        min, max: smallest and largest; None if not known.
        non_finite_count: values that were NaN or infinite and are in none of the above; None: there were none.

    Raises:
        ValueError: the arrays do not have one number for each channel.
    """

    count: Int64Array
    mean: Float64Array
    m2: Float64Array
    min: Optional[Float64Array] = None
    max: Optional[Float64Array] = None
    non_finite_count: Optional[Int64Array] = None

    def __post_init__(self) -> None:
        channels = np.shape(self.mean)
        if len(channels) != 1:
            raise ValueError(f"mean has shape {channels}, want one number per channel")
        if np.ndim(self.count) == 0:
            object.__setattr__(self, "count", np.full(channels, self.count))
        for name in ("count", "mean", "m2", "min", "max", "non_finite_count"):
            value = getattr(self, name)
            if value is None:
                continue
            dtype: type[Any] = np.int64 if name in ("count", "non_finite_count") else np.float64
            array = np.asarray(value)
            if array.shape != channels:
                raise ValueError(f"{name} has shape {array.shape}, want {channels} as mean has")
            if dtype is np.int64 and array.dtype.kind not in "iu":
                raise ValueError(f"{name} has dtype {array.dtype}, want whole numbers")
            object.__setattr__(self, name, array.astype(dtype))

    @classmethod
    def none(cls, num_channels: int) -> Moments:
        """Of no values at all: what merging starts from."""
        zeros = np.zeros(num_channels)
        return cls(np.zeros(num_channels, np.int64), zeros, zeros, np.full(num_channels, np.inf),
                   np.full(num_channels, -np.inf), np.zeros(num_channels, np.int64))

    @classmethod
    def of(cls, x: FloatArray, *, layout: Layout = "channels_first") -> Moments:
        """The moments of an array as Client takes them, in float64; NaN and infinity are only counted.

        Args:
            x: (N, C, ...) or, with layout "channels_last", (N, ..., C), of rank 2 to 8.

        Raises:
            TypeError, ValueError: as Client's methods.
        """
        array = np.asarray(x)
        # For its checks.
        _tensors.header(_tensors.wire_dtype(array.dtype, "x"), array.shape, layout)
        if not 2 <= array.ndim <= 8:
            raise ValueError(f"x has shape {array.shape}, want rank 2 to 8")
        if layout == "channels_first":
            array = np.moveaxis(array, 1, -1)
        return cls.of_rows(array.reshape(-1, array.shape[-1]) if array.size else np.empty((0, array.shape[-1])))

    @classmethod
    def of_rows(cls, rows: Any) -> Moments:
        """The moments of the columns of an array (N, C) of real numbers."""
        wide = np.asarray(rows).astype(np.float64, copy=False)
        finite = np.isfinite(wide)
        some = None if finite.all() else finite
        count = finite.sum(0)
        if len(wide) == 0:
            return cls.none(wide.shape[1])
        divisor = np.maximum(count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            rough = _sum(wide, some) / divisor
            deviations = wide - rough
            # What rounding has left in the first sum.
            rest = _sum(deviations, some) / divisor
            m2 = _sum(np.square(deviations), some) - count * rest * rest
        return cls(count, rough + rest, np.maximum(m2, 0),
                   np.min(wide, 0, initial=np.inf, where=finite), np.max(wide, 0, initial=-np.inf, where=finite),
                   len(wide) - count)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together (Chan et al.).

        Raises:
            ValueError: `other` has another number of channels.
        """
        if other.num_channels != self.num_channels:
            raise ValueError(f"other has {other.num_channels} channels, want {self.num_channels}")
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            delta = other.mean - self.mean
            merged: dict[str, Any] = {"mean": self.mean + delta * share,
                                      "m2": self.m2 + other.m2 + delta * delta * (self.count * share)}
        if self.min is not None and self.max is not None and other.min is not None and other.max is not None:
            merged["min"], merged["max"] = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        # Exactly the other's where one has none, whatever stands there.
        for whole, part in ((self, other), (other, self)):
            none = part.count == 0
            if none.any():
                merged = {name: np.where(none, getattr(whole, name), values) for name, values in merged.items()}
        return Moments(count, **merged, non_finite_count=_total(self.non_finite_count, other.non_finite_count))

    @property
    def num_channels(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def var(self) -> Float64Array:
        """Population variance of each channel; NaN where there are no values."""
        none = np.full(self.num_channels, np.nan)
        return np.divide(self.m2, self.count, out=none, where=self.count > 0)

    def __repr__(self) -> str:
        return _repr.brief(self)


def _sum(values: Float64Array, where: Optional[Any]) -> Any:
    """Of each column, over all rows or those that `where` marks."""
    return np.sum(values, 0) if where is None else np.sum(values, 0, where=where)


def _total(mine: Optional[Int64Array], others: Optional[Int64Array]) -> Optional[Int64Array]:
    if mine is None or others is None:
        return others if mine is None else mine
    return mine + others
