"""A table in the written file against the nodes that it replaced, for every code; and those nodes against the oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.collapse import isolated
from opau_onnx.collapse.passes.lookup import TabledActivation, stored
from opau_onnx.collapse.passes.lookup_sites import CODES, Linear
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.compare.activations import ActivationCheck
from opau_onnx.compare.opening import open_model
from opau_onnx.compare.policies import rounding_bound
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, Comparison, compare
from opau_onnx.core import oracle
from opau_onnx.core.frozen import Frozen
from opau_onnx.graph.dtypes import NAMES


@dataclass(frozen=True)
class TableCheck(ActivationCheck):
    """Check of one table; the comparison is that of all codes, and has no tolerance.

    Attributes:
        ties: codes whose results lie half-way between two, to within the rounding of the nodes' own arithmetic: another
            implementation of the activation may give the neighbour there. The table holds what the nodes give.
        otherwise: those of them for which the exact result, rounded, is the neighbour.
        exact: the nodes' float result against the oracle.
    """

    ties: int = 0
    otherwise: int = 0
    exact: Comparison | None = None


def check(model: ir.Model, replaced: CollapsedActivation) -> ActivationCheck:
    """Check one activation of the written file; one that is no table as in the standard form.

    Raises:
        ValidationError: the nodes are not in the file, or no runtime can run them.
    """
    if not isinstance(replaced, TabledActivation):
        return isolated.check(model, replaced)
    site, original = replaced.site, replaced.original
    assert site is not None
    assert original is not None
    codes = [torch.from_numpy(site.inputs())]
    given = open_model(original, codes).run(codes)
    table = open_model(isolated.cut(model, replaced, codes[0], site.before.codes), codes).run(codes)[0]
    same = _all_codes(replaced, *(stored(v, replaced.dtype) for v in (given[replaced.which], table)))
    exact, known, limit = _exact(replaced.before, replaced.node, original, given)
    ties, otherwise, right = 0, 0, True
    if site.after:
        value, moved, became = (site.rows(v) for v in (known.value, limit, given[replaced.which]))
        ties, otherwise, right = _ties(value, moved, became, site.after[replaced.which - 2])
    equal, config = same.equal and exact.equal and right, replaced.before.config
    return TableCheck(replaced.node, replaced.module, config, "fixed", same, equal, ties, otherwise, exact)


def _all_codes(replaced: TabledActivation, expected: Any, actual: Any) -> Comparison:
    """Bits, not values: -0 is not 0, and a type that differs is a difference."""
    name = f"{replaced.node}: all {np.size(expected):,} codes"
    found = compare(name, expected, actual, "float32", atol=0.0)
    equal = expected.shape == actual.shape and expected.dtype == actual.dtype and expected.tobytes() == actual.tobytes()
    return replace(found, dtype=str(replaced.scheme).rpartition(" ")[2], equal=equal)


def _exact(function: Frozen, name: str, original: ir.Model, given: list[Any]) -> tuple[Comparison, oracle.Evaluation, Any]:
    """(the float result against the oracle, the oracle, the tolerance)."""
    kind = NAMES[original.graph.outputs[1].dtype]
    x = np.asarray(given[0], dtype=np.float64)
    known = oracle.evaluate(function.config, x, function.numerator, function.denominator)
    limit = np.broadcast_to(rounding_bound(known, kind), x.shape)
    divided = 2.0 * UNIT_ROUNDOFF[kind] * np.where(np.isfinite(known.value), np.abs(known.value), 0.0)
    return compare(name, known.value, given[1], kind, atol=limit), known, limit + divided


def _ties(exact: Any, limit: Any, codes: Any, after: Linear) -> tuple[int, int, bool]:
    """(codes that a rounding decides, those where it decided otherwise than the exact value, whether all others are right).

    Args:
        exact, limit, codes: the activation's results, how far the nodes' may be from them, and what they became; shape
            (channels, codes).
        after: what quantized.
    """
    info = np.iinfo(CODES[after.codes])
    scale, zero_point = (v.reshape(-1, 1) for v in (after.scale, after.zero_point))

    def rounded(values: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.clip(np.rint(values / scale) + zero_point, info.min, info.max)

    known = ~np.isnan(exact)  # what a NaN becomes no standard says
    expected, low, high = (np.where(known, rounded(v), codes) for v in (exact, exact - limit, exact + limit))
    right = np.where(low == high, codes == expected, (low <= codes) & (codes <= high))
    return int(np.count_nonzero(low != high)), int(np.count_nonzero(expected != codes)), bool(right.all())
