"""Comparing two arrays: how far apart, in what units, and whether that is within a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from opau_onnx.core.reports import Reported

UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""Half the distance from 1 to the next number: the largest relative error of one rounding."""

COMPUTED_ROUNDINGS = 16.0
"""Roundings by which coefficients that are computed (softplus of a parameter, say) may differ between runtimes."""


@dataclass(frozen=True)
class Comparison(Reported):
    """One tensor of two runtimes.

    Attributes:
        name: which tensor on which input.
        dtype: in which it was computed.
        elements: how many numbers.
        max_abs_error: largest absolute difference, of the elements that :func:`compare` was told to look at; inf where one
            is NaN or infinite and the other is not the same.
        max_ulp_error: the largest difference (likewise) in units in the last place of ``dtype``: for an activation at each
            expected value, for a model's output at its largest value.
        worst_index: where the largest share of the tolerance is used up.
        expected, actual: the values there.
        atol, rtol: the tolerance, abs(actual - expected) <= atol + rtol * abs(expected); atol is that
            of the worst element.
        tolerance_used: the largest share of the tolerance that is used; up to 1 is equal.
        equal: the verdict.
    """

    name: str
    dtype: str
    elements: int
    max_abs_error: float
    max_ulp_error: float
    worst_index: tuple[int, ...]
    expected: float
    actual: float
    atol: float
    rtol: float
    tolerance_used: float
    equal: bool


def spacing(values: npt.NDArray[np.float64], dtype: str) -> npt.NDArray[np.float64]:
    """The unit in the last place of ``dtype`` at each value (of the smallest normal number below it)."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(values), float(info.smallest_normal)))
    return np.asarray(np.ldexp(1.0, exponent - 1 - int(info.nmant)))


def distances(expected: npt.NDArray[np.float64], actual: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """abs(actual - expected), elementwise; 0 for NaN beside NaN and for equal infinities, inf for NaN beside a number."""
    with np.errstate(all="ignore"):
        same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        difference = np.where(same, 0.0, np.abs(actual - expected))
        return np.where(np.isnan(difference), np.inf, difference)


def _largest(values: npt.NDArray[np.float64], where: Any) -> float:
    return float(np.max(values, initial=0.0, where=np.broadcast_to(where, values.shape)))


def compare(
    name: str,
    expected: Any,
    actual: Any,
    dtype: str,
    *,
    atol: Any,
    rtol: float = 0.0,
    usual: Any = True,
    well_conditioned: Any = True,
    ulp_at: float | None = None,
) -> Comparison:
    """Compare elementwise; NaN equals NaN, an infinity equals itself.

    Args:
        name: of the tensor, for the report.
        expected, actual: arrays of one shape.
        dtype: the precision in which ``actual`` was computed.
        atol: a number, or an array of the same shape; inf where anything but a NaN will do.
        rtol: relative tolerance.
        usual: mask of the elements that count for ``max_abs_error``; the verdict looks at all.
        well_conditioned: mask of those that count for ``max_ulp_error``.
        ulp_at: take the unit in the last place of this magnitude, not of each expected value.
    """
    want, got = (np.asarray(v, dtype=np.float64) for v in (expected, actual))
    if want.shape != got.shape:
        return Comparison(
            f"{name}: shape {got.shape}, expected {want.shape}", dtype, want.size, np.inf, np.inf, (), np.nan, np.nan,
            float(np.max(atol, initial=0.0)), rtol, np.inf, False,
        )  # fmt: skip
    difference = distances(want, got)
    with np.errstate(all="ignore"):
        limit = np.broadcast_to(np.asarray(atol + rtol * np.where(np.isfinite(want), np.abs(want), 0.0)), want.shape)
        used = np.where((difference == 0) | np.isinf(limit), 0.0, difference / limit)
        used = np.where(np.isnan(want) != np.isnan(got), np.inf, used)
        at = np.where(np.isfinite(want), want, 0.0) if ulp_at is None else np.full_like(want, ulp_at)
        ulp = np.where(difference == 0, 0.0, difference / spacing(at, dtype))
    worst = tuple(int(i) for i in np.unravel_index(int(np.argmax(used)), used.shape)) if want.size else ()
    needed = float(used[worst]) if want.size else 0.0
    first, second = (float(v[worst]) if want.size else np.nan for v in (want, got))
    return Comparison(
        name, dtype, want.size, _largest(difference, usual), _largest(ulp, well_conditioned), worst, first, second,
        _at(atol, want.shape, worst) if want.size else 0.0, rtol, needed, needed <= 1.0,
    )  # fmt: skip


def _at(atol: Any, shape: tuple[int, ...], worst: tuple[int, ...]) -> float:
    """The tolerance of the worst element; the largest finite one where anything would do there."""
    values = np.broadcast_to(np.asarray(atol, dtype=np.float64), shape)
    at = float(values[worst])
    return at if np.isfinite(at) else float(np.max(values, initial=0.0, where=np.isfinite(values)))
