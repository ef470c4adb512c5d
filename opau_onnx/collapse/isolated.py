"""Each collapsed activation by itself: its nodes, cut out of the file, against the oracle on hard inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.compare.activations import ActivationCheck
from opau_onnx.compare.arrays import to_numpy
from opau_onnx.compare.grids import grid, shaped
from opau_onnx.compare.isolated import compare_isolated
from opau_onnx.compare.opening import open_model
from opau_onnx.compare.tensors import UNIT_ROUNDOFF
from opau_onnx.core import oracle
from opau_onnx.core.frozen import Frozen
from opau_onnx.core.plan_search import hard_inputs
from opau_onnx.core.spec import Config
from opau_onnx.errors import ValidationError
from opau_onnx.graph.dtypes import NAMES
from opau_onnx.graph.extract import extract
from opau_onnx.nn.casting import DTYPES, dtype_name

AFFINE_ROUNDINGS = 4.0
"""Of scale x + shift, in units of the roundoff of both terms' sizes: two operations on constants that were rounded too."""


def check(model: ir.Model, replaced: CollapsedActivation) -> ActivationCheck:
    """The nodes that took an activation's place, run by onnxruntime (or by onnx's ReferenceEvaluator where that cannot).

    Args:
        model: the collapsed file, read again.
        replaced: which.

    Raises:
        ValidationError: the nodes are not in the file, or no runtime can run them.
    """
    dtype = DTYPES[NAMES[replaced.dtype]]
    # What was absorbed has no counterpart before: then the function is taken as it is meant now.
    function = replaced.frozen if replaced.absorbed else replaced.before
    near = torch.from_numpy(hard_inputs(replaced.frozen.wide())).to(dtype)
    config, channels = placed(function, replaced.shape)
    x, function = shaped(config, torch.cat([grid(dtype), near]), channels), replace(function, config=config)
    actual = open_model(cut(model, replaced, x), [x]).run([x])[0]
    kind, wide = dtype_name(dtype), to_numpy(x).astype(np.float64)
    at, known, slack = _known(function, wide)
    usual = None
    if replaced.approximation is not None and replaced.approximation.bound:
        usual = (at >= replaced.approximation.low) & (at <= replaced.approximation.high)
        # Within its range the tolerance; beyond it only a NaN is judged.
        slack = np.where(usual, slack + replaced.approximation.tolerance, np.inf)
    comparison = compare_isolated(replaced.node, at, known.value, actual, known, kind, slack=slack, usual=usual)
    return ActivationCheck(replaced.node, replaced.module, replaced.before.config, "fixed", comparison, comparison.equal)


def _known(function: Frozen, x: Any) -> tuple[Any, oracle.Evaluation, Any]:
    """(where it is evaluated, the oracle, what a rounding of the affine may change)."""

    def value(at: Any) -> oracle.Evaluation:
        return oracle.evaluate(function.config, at, function.numerator, function.denominator)

    if function.affine is None:
        return x, value(x), 0.0
    after = x.ndim - 1 - function.config.axis % x.ndim
    scale, shift = (v.astype(function.compute).astype(np.float64).reshape(-1, *[1] * after) for v in function.affine)
    with np.errstate(all="ignore"):
        at = scale * x + shift
        known = value(at)
        step = AFFINE_ROUNDINGS * UNIT_ROUNDOFF[function.compute] * (np.abs(scale * x) + np.abs(shift))
        moved = np.maximum(*(np.abs(value(at + s * step).value - known.value) for s in (-1, 1)))
        # Where the affine itself leaves the dtype, the activation is evaluated at infinity.
        beyond = np.isfinite(x) & (np.abs(scale * x) + np.abs(shift) > 0.99 * float(np.finfo(function.compute).max))
        return at, known, np.where(beyond, np.inf, np.where(np.isfinite(moved), moved, 0.0))


def placed(function: Frozen, shape: ir.Shape | None) -> tuple[Config, int]:
    """(configuration whose axis fits inputs that :func:`shaped` makes, number of channels) of nodes that take such a shape."""
    config = function.config
    if config.groups == 1:
        return config, 1
    rank = None if shape is None else shape.rank()
    axis = config.axis if rank is None or config.axis < 0 else config.axis - rank  # counted from the end: axes may come before
    size = None if shape is None else shape[axis]
    return replace(config, axis=axis), size if isinstance(size, int) else config.groups


def cut(model: ir.Model, replaced: CollapsedActivation, x: torch.Tensor, kind: ir.DataType | None = None) -> ir.Model:
    """The activation's nodes as a model of their own, whose input is of type ``kind`` where that is not its result's.

    Raises:
        ValidationError: the nodes are not in the file, or read more than their input and constants.
    """
    values = ir.convenience.create_value_mapping(model.graph)
    for name in (replaced.input, replaced.output):
        if name not in values:
            raise ValidationError(f"{replaced.node} has no value {name!r} in the collapsed file")
    entry, result = values[replaced.input], values[replaced.output]
    return extract(model, entry, [result], x.shape, dtype=kind or replaced.dtype)
