"""How far an answer may be from the expected one.

A server merges requests into batches of changing sizes, and a matrix product of another size sums in another order, so a right
answer may differ from the expected one by roundings. By default half of the digits of the output's dtype must agree: within the
square root of its unit roundoff times the largest value of that output in all prepared requests (2.4e-4 of it in float32, 2e-2
in float16). Two rows that were mixed up differ by far more, as a rule; how many would not is counted
(:func:`opau_onnx.loadtest.response_checker.lookalikes`). Whole numbers and truth values must be the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.compare.tensors import UNIT_ROUNDOFF
from opau_onnx.protocol.tensors import DATATYPES

Wide = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tolerance:
    """Tolerance given by the user; None, both: the default above.

    Attributes:
        rtol, atol: within atol + rtol * abs(expected); one that was not given is 0.
    """

    rtol: float | None = None
    atol: float | None = None

    def limit(self, expected: Wide, datatype: str, scale: float) -> Wide:
        """The largest allowed distance of each element.

        Args:
            expected: the right values.
            datatype: of the protocol.
            scale: the largest finite value of that output in all prepared requests.
        """
        unit = UNIT_ROUNDOFF.get(DATATYPES[datatype].numpy.name)
        if unit is None:
            return np.zeros_like(expected)
        if self.rtol is None and self.atol is None:
            return np.full_like(expected, math.sqrt(unit) * scale)
        magnitude = np.where(np.isfinite(expected), np.abs(expected), 0.0)
        return (self.atol or 0.0) + (self.rtol or 0.0) * magnitude

    def __str__(self) -> str:
        if self.rtol is None and self.atol is None:
            return "half of the digits of each output's largest value; whole numbers exactly"
        return f"{self.atol or 0.0:g} + {self.rtol or 0.0:g} * abs(expected); whole numbers exactly"


def scale_of(arrays: Iterable[npt.NDArray[Any]]) -> float:
    """The largest finite magnitude in any of the arrays; 0 where there is none."""
    largest = 0.0
    for array in arrays:
        values = np.abs(array.astype(np.float64))
        largest = max(largest, float(np.max(values, initial=0.0, where=np.isfinite(values))))
    return largest
