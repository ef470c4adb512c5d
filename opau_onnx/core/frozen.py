"""An activation whose coefficients are known, reduced to what matters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core.evaluation import Coefficients
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.spec import Config

Array = npt.NDArray[np.float64]
_OPS = NumpyOps()


@dataclass(frozen=True, eq=False)
class Frozen:
    """One activation.

    Attributes:
        config: what it computes.
        numerator: shape (k + 1,), or (groups, k + 1); float64, exactly the file's numbers.
        denominator: likewise.
        compute: "float32" or "float64": the dtype that it is computed in.
        affine: (scale, shift) of shape (groups,) each: the function of scale x + shift; None for the function of x.
    """

    config: Config
    numerator: Array
    denominator: Array
    compute: str
    affine: tuple[Array, Array] | None = None

    def column(self, which: str, index: int) -> Array:
        """Coefficient ``index`` of "numerator" or "denominator": shape (), or (groups, 1) where groups differ."""
        values: Array = getattr(self, which)
        return np.asarray(values[index]) if values.ndim == 1 else values[:, index : index + 1]

    def coefficients(self) -> Coefficients:
        """The columns of the numerator, and the weights of the denominator's: see :class:`opau_onnx.core.denominators.Mode`."""
        mode = self.config.denominator_form.mode
        columns = [self.column("numerator", i) for i in range(self.config.numerator_size)]
        return Coefficients(
            columns, [mode.weight(_OPS, self.column("denominator", j)) for j in range(self.config.denominator_size)]
        )

    def wide(self) -> Frozen:
        """The function itself, without the affine."""
        return replace(self, affine=None)

    def key(self) -> tuple[Any, ...]:
        """Equal for activations that compute the same."""
        parts = (self.numerator, self.denominator, *(self.affine or ()))
        return (self.config, self.compute, *((p.shape, p.tobytes()) for p in parts))


def trim(frozen: Frozen) -> Frozen:
    """The same function without what cannot matter: leading coefficients that are zero, rows that are equal."""
    config, first = frozen.config, frozen.config.denominator_form.first
    numerator, denominator = (_one_row(v) for v in (frozen.numerator, frozen.denominator))
    degrees = (max(_top(numerator), 0), max(_top(denominator) + first, 0))
    groups = config.groups if frozen.affine is not None or 2 in (numerator.ndim, denominator.ndim) else 1
    small = replace(config, degrees=degrees, groups=groups)
    return Frozen(
        small, numerator[..., : small.numerator_size], denominator[..., : small.denominator_size], frozen.compute, frozen.affine
    )


def _one_row(values: Array) -> Array:
    same = values.ndim == 2 and bool((values == values[:1]).all())
    return values[0] if same else values


def _top(values: Array) -> int:
    """Index of the last coefficient that is not zero in every row, -1 where all are."""
    used = np.flatnonzero((np.atleast_2d(values) != 0).any(axis=0))
    return int(used[-1]) if used.size else -1
