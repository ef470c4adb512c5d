"""An activation on a bounded range as a table: its value at the nearest of up to 2**17 points, one look-up.

    y = table[trunc(clip(x, low, high) scale) mod 2**m] + slope x

``slope`` is that of the function's asymptote: beyond the range the table's last value and the asymptote go on. Negative indices
wrap around through the mask, and so does whatever the conversion to an integer makes of a NaN, which ``slope x`` gives back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.collapse.approximation.proof import enclose_exact
from opau_onnx.core.frozen import Array, Frozen
from opau_onnx.core.plans import Tail

SIZES = tuple(2**m for m in range(8, 18))
"""Entries that are tried."""
LARGEST_FILE = 2**18
"""Entries over all groups: a megabyte."""
_SPLIT = 16
"""Pieces of a cell in the proof: the narrower, the tighter the enclosures."""
_SLOP = 2.0**-6
"""Share of a cell by which the rounded index may be wrong: an ulp of 2**17 in float32."""


@dataclass(frozen=True, eq=False)
class Table:
    """One table for each group.

    Attributes:
        low, high: the range.
        scale: cells for each unit of x.
        values: shape (groups, size), in the dtype of computation.
        slope: () or (groups, 1); None where f has a limit.
        even: the asymptote follows abs(x).
    """

    low: float
    high: float
    scale: float
    values: npt.NDArray[Any] = field(repr=False)
    slope: Array | None
    even: bool

    def __str__(self) -> str:
        groups, size = self.values.shape
        return f"table of {size:,} values" + (f" for each of {groups} groups" if groups > 1 else "")

    def evaluate(self, ops: Any, frozen: Frozen, x: Any) -> Any:
        """f(x), over numpy or ONNX nodes."""
        cast = np.dtype(frozen.compute).type
        u = ops.clamp(x, self.low, self.high)
        inside = ops.lookup(self.values, u * cast(self.scale))
        if self.slope is None:  # what keeps a NaN a NaN, and an infinity from becoming one
            return inside + u * cast(0.0)
        return inside + (ops.abs(x) if self.even else x) * np.asarray(self.slope, dtype=frozen.compute)

    def key(self) -> tuple[Any, ...]:
        """Equal for equal tables."""
        return ("table", self.low, self.high, self.values.tobytes())


def smallest(frozen: Frozen, rows: list[Frozen], low: float, high: float, tolerance: float) -> tuple[Table, float] | None:
    """(the smallest table that is proven to stay within the tolerance, the proven bound); None where there is none.

    Args:
        frozen: the activation; rows: that of each group.
    """
    tail = Tail.of(frozen)
    falls = frozen.config.degrees[0] < frozen.config.degrees[1]
    if tail is None and not falls:
        return None  # grows faster than any asymptote with a slope
    slope = None if tail is None else tail.slope
    needed = 0.0
    for size in SIZES:
        if size < needed:
            continue
        if size * len(rows) > LARGEST_FILE:
            return None
        found = _make(frozen, rows, low, high, size, slope, bool(tail and tail.even))
        if found[1] <= tolerance:
            return found
        needed = size * found[1] / tolerance / 2  # a bound falls as the cells get narrower, at most a little faster
    return None


def _make(
    frozen: Frozen, rows: list[Frozen], low: float, high: float, size: int, slope: Array | None, even: bool
) -> tuple[Table, float]:
    scale = float(np.float32((size - 3) / (high - low)))
    cells = np.arange(int(np.trunc(low * scale)) - 1, int(np.trunc(high * scale)) + 2)
    first, last = _borders(cells, scale)
    steps = np.linspace(0.0, 1.0, _SPLIT + 1)
    edges = np.clip(first[:, None] + (last - first)[:, None] * steps, low, high)
    values = np.zeros((len(rows), size))
    worst = 0.0
    for i, row in enumerate(rows):
        at = 0.0 if slope is None else float(np.broadcast_to(slope.reshape(-1), (len(rows),))[i])
        known = enclose_exact(row, edges[:, :-1], edges[:, 1:])
        line = float(np.asarray(at, dtype=frozen.compute))
        ends = _ends(edges, even)
        rest = known.low - np.maximum(*(e * line for e in ends)), known.high - np.minimum(*(e * line for e in ends))
        bottom, top = rest[0].min(axis=1), rest[1].max(axis=1)
        stored = ((bottom + top) / 2).astype(frozen.compute).astype(np.float64)
        values[i, cells % size] = stored
        # Two roundings: slope x, and the sum.
        rounding = float(np.finfo(frozen.compute).eps) * (np.abs(stored) + 2 * max(abs(low), abs(high)) * abs(line))
        worst = max(worst, float((np.maximum(top - stored, stored - bottom) + rounding).max()))
    return Table(low, high, scale, values.astype(frozen.compute), slope, even), worst


def _ends(edges: Array, even: bool) -> tuple[Array, Array]:
    """Range of x, or abs(x), between neighbouring edges."""
    low, high = edges[:, :-1], edges[:, 1:]
    if not even:
        return low, high
    return np.where((low < 0) & (high > 0), 0.0, np.minimum(np.abs(low), np.abs(high))), np.maximum(np.abs(low), np.abs(high))


def _borders(cells: npt.NDArray[np.int64], scale: float) -> tuple[Array, Array]:
    """Of the inputs whose index is each cell's: truncation goes towards zero, so cell 0 is twice as wide."""
    slop = _SLOP
    first = np.where(cells > 0, cells - slop, np.where(cells == 0, -1.0 - slop, cells - 1.0 - slop))
    last = np.where(cells < 0, cells + slop, cells + 1.0 + slop)
    return first / scale, last / scale
