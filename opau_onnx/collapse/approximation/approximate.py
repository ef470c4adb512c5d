"""The cheapest replacement of an activation that is proven to stay within a tolerance on the range that its inputs reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from opau_onnx.collapse.approximation import builtin, refit, table
from opau_onnx.collapse.approximation.intervals import IntervalOps
from opau_onnx.collapse.approximation.proof import prove
from opau_onnx.core import oracle
from opau_onnx.core.frozen import Frozen
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.plan_search import choose, one_row
from opau_onnx.core.plans import Evaluation
from opau_onnx.errors import CollapseError
from opau_onnx.graph.operators import Constants, Value, Writer

GUARD = 0.25
"""Share of the range's width that is added at either end: other data may reach a little further."""
WEIGHTS = {
    "Div": 1.2, "BitwiseAnd": 1.6, "GatherElements": 3.0, "Reshape": 0.0, "Shape": 0.0, "Sigmoid": 4.0, "Gelu": 8.0,
}  # fmt: skip
"""Time of operators next to Add's, on tensors beyond the cache (docs/collapse.md); 1 for the others."""
CHOSEN = "chosen"
_CLOSE = 0.98
"""A candidate whose error at the fit's points is a larger share of the tolerance is not worth a proof."""


@dataclass(frozen=True)
class Range:
    """Range that real inputs of an activation reach.

    Attributes:
        low, high: the smallest and the largest.
        count: how many numbers were seen.
    """

    low: float
    high: float
    count: int

    def guarded(self) -> tuple[float, float]:
        """The range to approximate on: with the guard, and 0 in it."""
        width = (self.high - self.low) or 1.0
        return min(self.low - GUARD * width, 0.0), max(self.high + GUARD * width, 0.0)


@dataclass(frozen=True)
class ApproximationBudget:
    """How much an activation may change.

    Attributes:
        tolerance: largest absolute error of each activation's result, before it is rounded to a 16-bit dtype.
        ranges: by node.
        opset: of the default domain.
    """

    tolerance: float
    ranges: Mapping[str, Range]
    opset: int


@dataclass(frozen=True)
class Approximation:
    """Choice for one activation, with its reason.

    Attributes:
        tolerance: as asked.
        seen: the range that calibration reached.
        low, high: the range on which the bound holds.
        bound: proven largest error there; 0 where the activation stays exact.
        beyond: largest error between the range's ends and twice as far out.
        tried: candidate -> what became of it.
    """

    tolerance: float
    seen: Range
    low: float
    high: float
    bound: float
    beyond: float
    tried: Mapping[str, str] = field(default_factory=dict)

    @property
    def chosen(self) -> str:
        """Name of the replacement; "" where the activation stays exact."""
        return next((name for name, outcome in self.tried.items() if outcome == CHOSEN), "")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "tolerance": self.tolerance, "seen": [self.seen.low, self.seen.high], "values_seen": self.seen.count,
            "range": [self.low, self.high], "proven_error": self.bound, "error_beyond": self.beyond, "tried": dict(self.tried),
        }  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A function and how it is evaluated; ``approximation`` is None where nothing was allowed to change."""

    frozen: Frozen
    scheme: Evaluation
    approximation: Approximation | None = None


@dataclass(frozen=True)
class _Candidate:
    name: str
    frozen: Frozen
    scheme: Evaluation
    cost: float


class Choices:
    """One choice for each distinct activation.

    Args:
        allowed: how much may change; None: by rounding only.
        family_only: as in :func:`approximate`.
    """

    def __init__(self, allowed: ApproximationBudget | None = None, *, family_only: bool = False) -> None:
        self.allowed, self.family_only = allowed, family_only
        self.known: dict[Any, Choice] = {}

    def of(self, frozen: Frozen, node: ir.Node) -> Choice:
        """The choice for an activation; raises as :func:`approximate`."""
        name = str(node.name)
        key = (frozen.key(), self.allowed.ranges.get(name) if self.allowed else None)
        if key not in self.known:
            if self.allowed is None:
                self.known[key] = Choice(frozen, choose(frozen))
            else:
                self.known[key] = approximate(frozen, name, self.allowed, family_only=self.family_only)
        return self.known[key]


def approximate(frozen: Frozen, node: str, allowed: ApproximationBudget, *, family_only: bool = False) -> Choice:
    """The cheapest of: the exact function, the definition's family at lower degrees, polynomials, built-ins, a table.

    Args:
        frozen: the exact function, without an affine.
        node: its name in ``allowed.ranges``.
        allowed: what may change.
        family_only: candidates must be of the definition's family, as a kernel of ours computes no other.

    Raises:
        CollapseError: calibration has not seen the node.
    """
    if node not in allowed.ranges:
        raise CollapseError(f"calibration saw no input of {node}; give data that reaches it, or --tolerance 0")
    seen = allowed.ranges[node]
    low, high = (float(np.asarray(v, dtype=frozen.compute)) for v in seen.guarded())  # as the file holds them
    original = _Candidate("exact", frozen, choose(frozen), 0.0)
    price = cost(frozen, original.scheme)
    tried: dict[str, str] = {}
    if not (np.isfinite([low, high]).all() and max(-low, high) <= frozen.config.limit):
        note = Approximation(allowed.tolerance, seen, low, high, 0.0, 0.0, {"all": "the inputs reach beyond X0"})
        return Choice(frozen, original.scheme, note)
    best, bound = original, 0.0
    for candidate in sorted(_candidates(frozen, low, high, allowed, family_only, tried), key=lambda c: c.cost):
        if candidate.cost >= price:
            tried[candidate.name] = f"no cheaper than the exact function ({candidate.cost:.0f} against {price:.0f})"
            continue
        proven = _proven(frozen, candidate, low, high, allowed.tolerance)
        if proven is not None:
            best, bound, price = candidate, proven, candidate.cost
            tried[candidate.name] = CHOSEN
            break
        tried[candidate.name] = "could not be proven within the tolerance"
    if not family_only and frozen.config.groups * table.SIZES[0] <= table.LARGEST_FILE:
        best, bound = _with_table(frozen, best, bound, price, (low, high), allowed.tolerance, tried)
    beyond = _beyond(frozen, best, low, high)
    return Choice(best.frozen, best.scheme, Approximation(allowed.tolerance, seen, low, high, bound, beyond, tried))


def _candidates(
    frozen: Frozen, low: float, high: float, allowed: ApproximationBudget, family_only: bool, tried: dict[str, str]
) -> Iterator[_Candidate]:
    """Those whose error at the fit's points is small enough; ``tried`` learns of the others."""
    for family in refit.families(frozen.config):
        found = refit.fit(frozen, family, low, high, allowed.tolerance)
        error = np.inf if found is None else found[1]
        if found is None or error > _CLOSE * allowed.tolerance:
            tried[str(family)] = "cannot be fitted, or its denominator has a zero" if found is None else f"error {error:.2g}"
            continue
        scheme = choose(found[0])
        yield _Candidate(str(family), found[0], scheme, cost(found[0], scheme))
    if family_only or frozen.config.groups > 1:
        return
    others = [*builtin.polynomials(frozen, low, high, allowed.tolerance)]
    if frozen.compute == "float32":
        others += builtin.builtins(frozen, low, high, allowed.tolerance, allowed.opset)  # type: ignore[arg-type]
    for made, error in others:
        if error > _CLOSE * allowed.tolerance:
            tried[str(made)] = f"error {error:.2g}"
        else:
            yield _Candidate(str(made), frozen, made, cost(frozen, made))


def _with_table(
    frozen: Frozen, best: _Candidate, bound: float, price: float, ends: tuple[float, float], tolerance: float,
    tried: dict[str, str],
) -> tuple[_Candidate, float]:  # fmt: skip
    """The table where it is cheaper than what was found."""
    rows = [one_row(frozen, row) for row in range(frozen.config.groups)]
    smallest = table.smallest(frozen, rows, *ends, tolerance)
    if smallest is None:
        tried["table"] = f"no table of up to {table.SIZES[-1]:,} values is within the tolerance"
        return best, bound
    made, proven = smallest
    price_of_table = cost(frozen, made)
    if price_of_table >= price:
        tried[str(made)] = f"no cheaper ({price_of_table:.0f} against {price:.0f})"
        return best, bound
    tried[str(made)] = CHOSEN
    if best.name in tried:
        tried[best.name] = f"dearer than the table ({price:.0f} against {price_of_table:.0f})"
    return _Candidate(str(made), frozen, made, price_of_table), proven


def cost(frozen: Frozen, scheme: Evaluation) -> float:
    """Time for each element, in units of one Add's."""
    graph = ir.Graph([ir.Value(name="x")], [], nodes=[])
    writer = Writer(Constants(graph), frozen.compute, lambda array: array)
    scheme.evaluate(writer, frozen, Value(writer, graph.inputs[0]))
    return sum(WEIGHTS.get(node.op_type, 1.0) for node in writer.nodes)


def _proven(frozen: Frozen, candidate: _Candidate, low: float, high: float, tolerance: float) -> float | None:
    """The largest bound over the groups."""
    worst = 0.0
    for row in range(frozen.config.groups):
        own = one_row(candidate.frozen, row)
        bound = prove(
            one_row(frozen, row),
            lambda x, own=own: candidate.scheme.evaluate(IntervalOps(), own, x),  # type: ignore[misc]
            low,
            high,
            tolerance,
        )
        if bound is None:
            return None
        worst = max(worst, bound)
    return worst


def _beyond(frozen: Frozen, candidate: _Candidate, low: float, high: float) -> float:
    """Largest error at 200 points beyond either end, to twice as far out."""
    if candidate.name == "exact":
        return 0.0
    steps = np.linspace(1.0, 2.0, 200)
    x = np.concatenate([low * steps, high * steps]).astype(frozen.compute)
    with np.errstate(all="ignore"):
        found = candidate.scheme.evaluate(NumpyOps(), candidate.frozen, x if frozen.config.groups == 1 else x[None, :])
    values = np.broadcast_to(found, (frozen.config.groups, x.size))
    worst = 0.0
    for row, own in enumerate(values):
        exact = one_row(frozen, row)
        known = oracle.evaluate(exact.config, x.astype(np.float64), exact.numerator, exact.denominator)
        worst = max(worst, float(np.abs(own.astype(np.float64) - known.value).max()))
    return worst
