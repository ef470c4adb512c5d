"""Cheaper functions of the definition's own family: lower degrees, fewer terms, a denominator without absolute values.

They keep the definition's range policy, so they are finite and sensible also far outside the range that they were fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from opau_onnx.collapse.approximation import minimax
from opau_onnx.core import evaluation
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.frozen import Array, Frozen, trim
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.plan_search import one_row
from opau_onnx.core.spec import Config


@dataclass(frozen=True)
class Family:
    """Functions to be tried: basis, form, degrees."""

    basis: str
    form: str
    degrees: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.basis}, {self.form}, degrees {self.degrees}"


def families(config: Config) -> Iterator[Family]:
    """All that may be cheaper and grow as the original does at infinity; cheap ones first."""
    k, l = config.degrees
    power = config.denominator_form.mode.power
    growth = k - power * l
    for low in range(1 if growth >= 0 else 2, l + 1):
        top = low + growth
        if top < 0:
            continue
        if low != l:
            yield Family(config.basis, config.form, (power * low + growth, low))
        if low % 2 == 0:  # of odd degree it has a zero
            yield Family("power", "plain", (top, low))
        if config.basis != "power" or config.form != "abs_terms":
            yield Family("power", "abs_terms", (top, low))


def fit(frozen: Frozen, family: Family, low: float, high: float, goal: float) -> tuple[Frozen, float] | None:
    """(the function, its largest error on [low, high] at the fit's points); None where a denominator has a zero anywhere.

    The coefficients are those of ``frozen.compute``; groups are fitted one by one.
    """
    fits = [_fit_row(one_row(frozen, row), family, low, high, goal) for row in range(frozen.config.groups)]
    if any(f is None for f in fits):
        return None
    found = [f for f in fits if f is not None]
    config = replace(frozen.config, basis=family.basis, form=family.form, degrees=family.degrees)
    if frozen.config.groups == 1:
        numerator, denominator = found[0][0], found[0][1]
    else:
        numerator, denominator = (np.stack([f[i] for f in found]) for i in (0, 1))
    made = Frozen(config, numerator, denominator, frozen.compute, frozen.affine)
    return trim(made), max(f[2] for f in found)


def _fit_row(frozen: Frozen, family: Family, low: float, high: float, goal: float) -> tuple[Array, Array, float] | None:
    config = Config(family.basis, family.form, family.degrees)
    form = FORMS[family.form]
    if form.minimum is not None or form.mode.on_sum or form.first != 1:
        return None  # not linear in the coefficients
    x = minimax.nodes(low, high)
    wanted = exact(frozen, x)
    rows = [np.broadcast_to(row, x.shape) for row in evaluation.ordinary_basis(config, x)]
    bottom = evaluation.denominator_rows(NumpyOps(), form, rows, config.denominator_size)
    positive = form.mode.by_term
    scale = max(abs(low), abs(high), 1.0)  # keeps the columns of like size
    factors = [scale ** -float(n) for n in range(config.top + 1)]
    top = np.stack([r * f for r, f in zip(rows[: config.numerator_size], factors, strict=False)], axis=1)
    below = np.stack([r * f for r, f in zip(bottom, factors[1:], strict=False)], axis=1)
    found, largest = minimax.rational(top, below, form.offset, wanted, positive, goal)
    if not found.size:
        return None
    values = found * np.array([*factors[: config.numerator_size], *factors[1 : 1 + config.denominator_size]])
    values = values.astype(frozen.compute).astype(np.float64)
    c, d = values[: config.numerator_size], values[config.numerator_size :]
    if not positive and _has_zero(d):
        return None
    return c, np.asarray(form.mode.coefficient(d)), largest


def exact(frozen: Frozen, x: Array) -> Array:
    """The function of one group at ordinary inputs, in float64."""
    rows = [np.broadcast_to(row, x.shape) for row in evaluation.ordinary_basis(frozen.config, x)]
    return np.asarray(evaluation.rational(NumpyOps(), frozen.config, rows, frozen.coefficients()))


def _has_zero(denominator: Array) -> bool:
    """True where 1 + sum_j d_j x**j vanishes for a real x, or nearly so."""
    roots = np.roots([*denominator[::-1], 1.0])
    return bool((np.abs(roots.imag) < 1e-3 * np.abs(roots)).any())
