"""An activation as one of ONNX's own, scaled and shifted, or as a polynomial: y = g(u) + slope x.

Built-ins: a g(b x) + s x + c for g of LeakyRelu, Gelu, SiLU (x Sigmoid(b x)). Polynomials take the clipped input, and the
asymptote goes on beyond the range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx.collapse.approximation import minimax
from opau_onnx.collapse.approximation.refit import exact
from opau_onnx.core.frozen import Array, Frozen
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.plans import Tail

STRETCHES = np.geomspace(0.25, 8.0, 41)
"""Of x before a smooth built-in."""
POLYNOMIAL_DEGREES = (1, 2, 3, 5, 7, 9)
_GELU_OPSET = 20


@dataclass(frozen=True)
class Builtin:
    """a g(b x) + s x + c.

    Attributes:
        name: "LeakyRelu", "Gelu" or "Silu".
        alpha: LeakyRelu's slope below zero.
    """

    name: str
    a: float
    b: float
    s: float
    c: float
    alpha: float = 0.0

    def __str__(self) -> str:
        detail = f"(alpha {self.alpha:.4g})" if self.name == "LeakyRelu" else ""
        return f"{self.name}{detail}, scaled and shifted"

    def evaluate(self, ops: Any, frozen: Frozen, x: Any) -> Any:
        """f(x), over any library that has ``unary``."""
        cast = np.dtype(frozen.compute).type
        stretched = x if self.b == 1.0 else x * cast(self.b)
        if self.name == "Silu":
            gate = ops.unary("Sigmoid", stretched) * cast(self.a)
            y = (gate + cast(self.s) if self.s else gate) * x
        else:
            y = self._basic(ops, stretched)
            y = y if self.a == 1.0 else y * cast(self.a)
            y = y + x * cast(self.s) if self.s else y
        return y + cast(self.c) if self.c else y

    def _basic(self, ops: Any, x: Any) -> Any:
        if self.name == "LeakyRelu":
            # Relu where it can be: 0 times -inf would be NaN.
            return ops.unary("LeakyRelu", x, alpha=self.alpha) if self.alpha else ops.maximum(x, 0.0)
        return ops.unary(self.name, x)

    def key(self) -> tuple[Any, ...]:
        """Equal for equal functions."""
        return (self.name, self.a, self.b, self.s, self.c, self.alpha)


@dataclass(frozen=True, eq=False)
class Polynomial:
    """sum_i values_i u**i + slope (x - u), u = clip(x, low, high)."""

    low: float
    high: float
    values: Array
    slope: float | None
    even: bool

    def __str__(self) -> str:
        return f"polynomial of degree {len(self.values) - 1}"

    def evaluate(self, ops: Any, frozen: Frozen, x: Any) -> Any:
        """f(x), over any library."""
        cast = np.dtype(frozen.compute).type
        u = ops.clamp(x, self.low, self.high)
        total = u * cast(self.values[-1])
        for value in self.values[-2:0:-1]:
            total = (total + cast(value)) * u
        total = total + cast(self.values[0])
        if not self.slope:
            return total
        beyond = x - u
        return total + (ops.abs(beyond) if self.even else beyond) * cast(self.slope)

    def key(self) -> tuple[Any, ...]:
        """Equal for equal functions."""
        return ("polynomial", self.low, self.high, self.values.tobytes(), self.slope, self.even)


def builtins(row: Frozen, low: float, high: float, goal: float, opset: int) -> Iterator[tuple[Builtin, float]]:
    """(candidate, largest error at the fit's points) for one group whose function grows linearly, as the built-ins do."""
    k, l = row.config.degrees
    if k - l != 1:
        return
    x = minimax.nodes(low, high)
    wanted = exact(row, x)
    one = np.ones_like(x)
    found, largest = minimax.linear(np.stack([np.maximum(x, 0), np.minimum(x, 0), one], axis=1), wanted, goal)
    if found.size and found[0]:
        yield Builtin("LeakyRelu", _f(found[0]), 1.0, 0.0, _f(found[2]), _f(found[1] / found[0])), largest
    for name in ("Silu", "Gelu"):
        if name != "Gelu" or opset >= _GELU_OPSET:
            yield _smooth(name, x, wanted, goal)


def _smooth(name: str, x: Array, wanted: Array, goal: float) -> tuple[Builtin, float]:
    ops = NumpyOps()

    def fitted(stretch: float, rounds: int) -> tuple[Array, float]:
        basic = ops.unary("Sigmoid", x * stretch) * x if name == "Silu" else ops.unary("Gelu", x * stretch)
        return minimax.linear(np.stack([basic, x, np.ones_like(x)], axis=1), wanted, goal, rounds)

    best = min(STRETCHES, key=lambda b: fitted(float(b), 1)[1])
    (a, s, c), largest = fitted(float(best), minimax.ROUNDS)
    return Builtin(name, _f(a), _f(best), _f(s), _f(c)), largest


def polynomials(row: Frozen, low: float, high: float, goal: float) -> Iterator[tuple[Polynomial, float]]:
    """(candidate, largest error at the fit's points) for one group, by degree."""
    tail = Tail.of(row)
    k, l = row.config.degrees
    if tail is None and k >= l:
        return  # grows faster than any asymptote with a slope
    slope = None if tail is None or tail.slope is None else float(tail.slope)
    x = minimax.nodes(low, high)
    wanted, size = exact(row, x), max(abs(low), abs(high))
    for degree in POLYNOMIAL_DEGREES:
        scaled = np.stack([(x / size) ** i for i in range(degree + 1)], axis=1)
        found, largest = minimax.linear(scaled, wanted, goal)
        values = (found / size ** np.arange(degree + 1)).astype(row.compute).astype(np.float64)
        yield Polynomial(low, high, values, slope, bool(tail and tail.even)), largest


def _f(value: Any) -> float:
    return float(np.float32(value))
