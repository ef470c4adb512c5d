"""The activation as one would write it down in torch: sums of powers, autograd, no regard to range or speed."""

from __future__ import annotations

import torch
from torch import Tensor

from opau_onnx.core.spec import Config
from tests.cases import monomials


def naive(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    """Same arguments as :func:`opau_onnx.nn.orthogonal_pade`."""
    c, d = (_columns(v, x, config) for v in (numerator, denominator))
    f = [sum(float(m) * x**i for i, m in enumerate(monomials(config.basis, n))) for n in range(config.top + 1)]
    f = [row if isinstance(row, Tensor) else torch.full_like(x, row) for row in f]
    top = sum((ci * fi for ci, fi in zip(c, f, strict=False)), torch.zeros_like(x))
    terms = [dj * fj for dj, fj in zip(d, f[0 if config.form in ("pau_c", "free") else 1 :], strict=False)]
    total = sum(terms, torch.zeros_like(x))
    bottom = {
        "abs_terms": lambda: 1 + sum((t.abs() for t in terms), torch.zeros_like(x)),
        "abs_sum": lambda: 1 + total.abs(),
        "plain": lambda: 1 + total,
        "pau_c": lambda: 0.1 + total.abs(),
        "clamped": lambda: torch.clamp(1 + total, min=1e-8),
        "free": lambda: total,
    }[config.form]()
    return top / bottom


def _columns(values: Tensor, x: Tensor, config: Config) -> list[Tensor]:
    """One value, or one value for each channel, of each coefficient."""
    if values.dim() == 1:
        return list(values)
    axis = config.axis % x.dim()
    wide = values.repeat_interleave(x.shape[axis] // config.groups, 0)
    return [column.reshape(-1, *[1] * (x.dim() - axis - 1)) for column in wide.T]
