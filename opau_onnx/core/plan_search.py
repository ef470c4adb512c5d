"""The cheapest way to evaluate an activation that is as accurate as the definition asks, found by trying on hard inputs.

Polynomials of high degree lose digits as monomials, and a clamp needs an asymptote that is reached early enough: no rule
that looks at the coefficients alone is as sure as the float64 oracle and its bound of the rounding error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from opau_onnx.core import oracle
from opau_onnx.core.bases import polynomials
from opau_onnx.core.frozen import Frozen
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.plans import SCALED, EvaluationPlan, evaluate, plans
from opau_onnx.core.recording import record

DENSE = 12.0


MARGIN = 2.0
"""How many times the error of the function body's own evaluation a cheaper one may have."""


def choose(frozen: Frozen) -> EvaluationPlan:
    """The scheme with the fewest operations that stays within the bound of an evaluation by the recurrence, and within
    :data:`MARGIN` times the error that the recurrence really makes."""
    known = references(frozen)
    allowed = min(1.0, MARGIN * error(frozen, SCALED, known))
    for scheme in sorted(plans(frozen), key=lambda s: operations(frozen, s)):
        if scheme == SCALED or error(frozen, scheme, known) <= allowed:
            return scheme
    return SCALED


def operations(frozen: Frozen, scheme: EvaluationPlan) -> int:
    """Elementwise operations of a scheme."""
    return len(record(scheme, frozen).steps)


def references(frozen: Frozen) -> list[oracle.Evaluation]:
    """The oracle's values on :func:`hard_inputs`, for each group."""
    x, rows = hard_inputs(frozen), [one_row(frozen, row) for row in range(frozen.config.groups)]
    return [oracle.evaluate(row.config, x, row.numerator, row.denominator) for row in rows]


def error(frozen: Frozen, scheme: EvaluationPlan, known: list[oracle.Evaluation] | None = None) -> float:
    """Largest error on hard inputs as a share of the oracle's bound, over all groups; inf where a NaN or infinity is wrong."""
    x = hard_inputs(frozen)
    with np.errstate(all="ignore"):
        found = evaluate(NumpyOps(), frozen, scheme, x if frozen.config.groups == 1 else x[None, :])
    values = np.broadcast_to(found, (frozen.config.groups, x.size))
    pairs = zip(known or references(frozen), values, strict=True)
    return max(share(exact, row, frozen.compute) for exact, row in pairs)


def one_row(frozen: Frozen, row: int) -> Frozen:
    """The activation of one group."""
    c, d = (v if v.ndim == 1 else v[row] for v in (frozen.numerator, frozen.denominator))
    return Frozen(replace(frozen.config, groups=1), c, d, frozen.compute)  # without the affine, which is the input's


def share(known: oracle.Evaluation, actual: Any, dtype: str) -> float:
    """How much of the bound of one evaluation is used; twice of it is allowed in float64, in which the oracle rounds too."""
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        got, want = np.asarray(actual, dtype=np.float64), known.value
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        factor = 2.0 if dtype == "float64" else 1.0
        limit = factor * known.bound * (0.5 * float(info.eps)) + (1.0 + known.underflow) * float(info.smallest_subnormal)
        used = np.where(same, 0.0, np.abs(got - want) / limit)
        # Where the dtype ends a result may overflow or not; where P or Q cancels altogether any number will do.
        most = float(info.max)
        ends = (np.abs(want) > 0.99 * most) & np.isfinite(want) & (np.abs(got) > 0.98 * most)
        used = np.where(ends | (~np.isfinite(limit) & np.isfinite(want)), 0.0, used)
        wrong = (np.isnan(want) != np.isnan(got)) | (np.isinf(want) & ~same)
        used = np.where(wrong | np.isnan(used), np.inf, used)
    return float(used.max(initial=0.0))


def hard_inputs(frozen: Frozen) -> Any:
    """Dense around zero, close to kinks of absolute values, all magnitudes, zeros, infinities, NaN; in the compute dtype."""
    info = np.finfo(frozen.compute)
    dense = np.linspace(-DENSE, DENSE, 4801)
    low, high = np.log2(float(info.smallest_normal)), np.log2(float(info.max))
    magnitudes = np.exp2(np.linspace(low, high - 1e-3, 1201))
    special = np.array([0.0, -0.0, 1.0, -1.0, info.max, -info.max, np.inf, -np.inf, np.nan])
    kinks = np.array(breakpoints(frozen))
    near = np.concatenate([kinks * (1 + s * 2.0**-e) for s in (-1, 0, 1) for e in (20, 12, 6)]) if kinks.size else kinks
    return np.concatenate([dense, near, magnitudes, -magnitudes, special]).astype(frozen.compute)


def breakpoints(frozen: Frozen) -> list[float]:
    """Real zeros of what absolute values in Q act on: of each basis polynomial, or of their sum."""
    config = frozen.config
    table = polynomials(config.basis).monomials
    first, kinks = config.denominator_form.first, config.denominator_form.mode.kinks
    found: list[float] = []
    if kinks == "rows":
        for n in range(1, config.degrees[1] + 1):
            found += _real_roots([float(v) for v in table[n][: n + 1]])
    elif kinks == "sum":
        for row in range(config.groups):
            d = one_row(frozen, row).denominator
            sums = [sum(float(table[j + first][i]) * v for j, v in enumerate(d)) for i in range(config.degrees[1] + 1)]
            found += _real_roots(sums)
    return sorted(set(found))


def _real_roots(coefficients: list[float]) -> list[float]:
    roots = np.roots(np.trim_zeros(np.asarray(coefficients[::-1]), "f"))
    return [float(r.real) for r in roots if abs(r.imag) < 1e-9]
