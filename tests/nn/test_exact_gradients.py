"""Every gradient of both implementations against rational arithmetic, element by element."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.nn import kernels, traceable
from tests.cases import Case, case, monomials
from tests.exact_gradients import exact_gradient

Record = Callable[[str, object], None]
DEGREES = [(5, 4), (3, 6), (2, 0), (16, 16)]
ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-24}
OUTPUT = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
IMPLEMENTATIONS = {"kernels": kernels, "traceable": traceable}


def points(at: Case, dtype: torch.dtype) -> torch.Tensor:
    """Ordinary inputs, zeros of both signs, zeros of the f_j and their neighbours, and both sides of X0 and far beyond."""
    rng = np.random.default_rng(0)
    zeros = []
    for n in range(1, min(at.config.top, 4) + 1):
        roots = np.roots([float(v) for v in reversed(monomials(at.config.basis, n))])
        zeros += [float(r.real) for r in roots if abs(r.imag) < 1e-9]
    limit = at.config.limit
    x = [*rng.uniform(-3, 3, 4), 0.0, -0.0, *zeros, limit, 1.5 * limit, -3 * limit, 1e4 * limit]
    found = torch.tensor(x, dtype=dtype)
    return found[found.abs() <= torch.finfo(dtype).max / 4]


def growth(config: Config) -> Fraction:
    """Roundings that may meet in one f_n.

    Laguerre's recurrence carries a rounding of f_k into f_n as (k + 1) (1/(k + 1) + .. + 1/n), up to n / e, where x is near 0.
    """
    return (8 + Fraction(config.top, 2)) * (1 + Fraction(config.top, 4) * (config.basis == "laguerre"))


def known(at: Case, x: float, implementation: Any) -> bool:
    """Beyond X0 PyTorch's operations are not for a Q at its minimum or without a 1, nor for a function that is 0."""
    ordinary = abs(x) <= at.config.limit
    return implementation is kernels or ordinary or (at.config.form not in ("clamped", "free") and bool(at.numerator.any()))


def uses(at: Case, dtype: torch.dtype, implementation: Any) -> float:
    """The largest error over what roundings may change, where the value is a number of the arithmetic's dtype."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    info, u = torch.finfo(exact), ROUNDOFF[dtype]
    c, d = (torch.tensor(v, dtype=exact) for v in (at.numerator, at.denominator))
    subnormal = Fraction(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps) / Fraction(info.tiny * info.eps)
    roundings, smallest = growth(at.config) * Fraction(u), Fraction(info.tiny) * Fraction(info.eps)
    worst = 0.0
    for value in points(at, dtype):
        if not known(at, float(value), implementation):
            continue
        want = exact_gradient(at.config, float(value), at.numerator.tolist(), at.denominator.tolist(), u)
        if want.kink or abs(want.y) > info.max / 1e3:
            continue
        one = torch.ones(1, dtype=dtype)
        dx, dc, dd = (v.double().tolist() for v in implementation.backward(at.config, value[None], c, d, one, True, True))
        none = [Fraction(0)] * len(dc)
        for found, right, size, row in (
            (dx[0], want.x, want.x_size + Fraction(OUTPUT[dtype] / u) * abs(want.x), subnormal),
            *zip(dc, want.numerator, want.numerator_sizes, none, strict=True),
            *zip(dd, want.denominator, want.denominator_sizes, want.rows, strict=True),
        ):
            # g y / Q may be less than the smallest number where Q is large; it is multiplied by f_j.
            allowed = roundings * size + 8 * Fraction(info.tiny) + smallest * row
            if abs(right) < info.max / 1e3:
                worst = max(worst, float(min(abs(Fraction(found) - right) / allowed, 10**9)) if np.isfinite(found) else np.inf)
    return worst


def zeros(at: Case) -> list[Case]:
    """With coefficients of 0 in between and at the end, as identity starts and padded sets have them, and with none else."""
    found = []
    for c_zero, d_zero in ((slice(1, 2), slice(1, 2)), (slice(-1, None), slice(-1, None)), (slice(2, None), slice(0, 0)),
                           (slice(0, 0), slice(1, None)), (slice(None), slice(None))):  # fmt: skip
        c, d = at.numerator.copy(), at.denominator.copy()
        c[c_zero], d[d_zero] = 0, 0
        found.append(Case(at.config, c, d))
    return found


def sets(at: Case, turn: int, *, full: bool) -> list[tuple[int, Case]]:
    """Coefficients with and without zeros: all sets, or the plain one and one other in turn."""
    numbered = list(enumerate((at, *zeros(at))))
    return numbered if full else [numbered[0], numbered[1 + turn % (len(numbered) - 1)]]


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["cover", "full"])
@pytest.mark.parametrize("dtype", list(ROUNDOFF), ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("basis", BASES)
def test_gradients(basis: str, implementation: str, dtype: torch.dtype, full: bool, record_property: Record) -> None:
    wide = dtype in (torch.float32, torch.float64)  # the others have float32's arithmetic
    turn = list(BASES).index(basis)
    for form in FORMS if wide else ("abs_terms",):
        for degrees in DEGREES:
            at, turn = case(basis, form, degrees), turn + 1
            for n, some in sets(at, turn, full=full) if wide else [(0, at)]:
                worst = uses(some, dtype, IMPLEMENTATIONS[implementation])
                record_property("error / bound", worst)
                assert worst <= 1.0, f"{some}, zeros {n}"
