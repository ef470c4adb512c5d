"""Each activation of a file by itself, in every runtime that ran the file: cut out, fed, and held against the torch module.

What happens before it does not count. The tolerance is the proven one of :mod:`opau_onnx.compare.activations`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from opau_onnx.compare.grids import DENSE, LARGEST, WELL_CONDITIONED, grid, shaped
from opau_onnx.compare.hooks import Call
from opau_onnx.compare.policies import rounding_bound
from opau_onnx.compare.tensors import Comparison, compare
from opau_onnx.core import oracle
from opau_onnx.core.reports import Reported
from opau_onnx.core.spec import Config
from opau_onnx.errors import ValidationError
from opau_onnx.graph.extract import extract
from opau_onnx.graph.lookup import ActivationLocation
from opau_onnx.graph.save import serialized
from opau_onnx.nn import OrthogonalPade

Opener = Callable[[bytes], Any]
"""Makes a runtime of a model."""


@dataclass(frozen=True)
class Function:
    """The function that a file's activation has to be.

    Attributes:
        config: what the torch module computes.
        numerator, denominator: its coefficients in the dtype in which the file computes.
        kind: name of the file's dtype.
        computed: whether a parametrization computes the coefficients, which other runtimes may round another way.
    """

    config: Config
    numerator: Tensor
    denominator: Tensor
    kind: str
    computed: bool = False

    @staticmethod
    def of(call: Call, kind: str) -> Function:
        """Of a call's module."""
        wide = torch.float64 if kind == "float64" else torch.float32
        return Function(call.config, call.numerator.to(wide), call.denominator.to(wide), kind, call.computed)

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs and outputs."""
        found: torch.dtype = getattr(torch, self.kind)
        return found

    def torch(self, x: Tensor) -> Any:
        """PyTorch's values, as float64."""
        module = OrthogonalPade.from_coefficients(self.numerator, self.denominator, self.config, dtype=self.numerator.dtype)
        with torch.no_grad():
            return module(x).double().numpy()

    def oracle(self, x: Tensor) -> oracle.Evaluation:
        """The exact values and what rounding may change."""
        c, d = (v.double().numpy() for v in (self.numerator, self.denominator))
        return oracle.evaluate(self.config, x.double().numpy(), c, d)


@dataclass(frozen=True)
class IsolatedCheck(Reported):
    """One activation in one runtime.

    Attributes:
        comparison: None where it could not be run alone.
        input: that of the comparison's worst element.
        nan_kept: whether NaN gave NaN; None where none was fed.
        nan_counts: whether that is part of the verdict.
        reason: it could not be run.
        values: what the runtime gave.
    """

    hidden = ("nan_counts", "values")

    comparison: Comparison | None
    input: float = float("nan")
    nan_kept: bool | None = None
    nan_counts: bool = True
    reason: str = ""
    values: Any = None

    @property
    def equal(self) -> bool:
        """The verdict; what could not be run is not judged."""
        return (self.comparison is None or self.comparison.equal) and not (self.nan_counts and self.nan_kept is False)

    @property
    def tolerance_used(self) -> float:
        """The share of the tolerance that is used."""
        return self.comparison.tolerance_used if self.comparison else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The verdict is null where nothing was run."""
        return super().as_dict() | {"equal": self.equal if self.comparison else None}


def compare_isolated(
    name: str, x: Any, expected: Any, actual: Any, exact: oracle.Evaluation, kind: str, *, slack: Any = 0.0, usual: Any = None
) -> Comparison:
    """Compare one activation's values with those expected, within the proven rounding bound.

    Args:
        name: of the activation.
        x: where the function is evaluated, float64.
        expected, actual: of the shape of ``x``.
        exact: the oracle's evaluation there.
        kind: name of the dtype of the activation's result.
        slack: what is allowed besides the bound, for approximations and absorbed affines.
        usual: mask of the inputs that count for the largest absolute error; None for those of magnitude :data:`DENSE` at most.
    """
    return compare(
        f"{name} on {np.size(x):,} inputs", expected, actual, kind, atol=rounding_bound(exact, kind) + slack,
        usual=np.abs(x) <= DENSE if usual is None else usual, well_conditioned=exact.condition < WELL_CONDITIONED,
    )  # fmt: skip


def channels(function: Function, shape: Sequence[int]) -> int:
    """How many of them see each input; 1 where all share their coefficients."""
    return 1 if function.config.groups == 1 else int(shape[function.config.axis])


def inputs(function: Function, shape: Sequence[int], first: Tensor) -> Tensor:
    """``first`` and the hard grid of :func:`opau_onnx.compare.grids.grid`, in a shape that fits the real one.

    Raises:
        ValidationError: no shape can hold them for every channel.
    """
    config, rank = function.config, len(shape)
    room = max(LARGEST // channels(function, shape) - first.numel(), 1)
    hard = grid(function.dtype)
    values = torch.cat([first.to(function.dtype), hard[:: -(-hard.numel() // room)]])
    if config.groups == 1:
        return values
    if rank == 1:
        raise ValidationError("its coefficients differ along its only axis")
    axis = config.axis % rank
    like = replace(config, axis=axis - rank if axis else 0)
    return shaped(like, values, channels=shape[axis], axes=rank - 1)


def check_isolated(
    name: str,
    function: Function,
    model: ir.Model,
    site: ActivationLocation,
    x: Tensor,
    openers: Mapping[str, Opener],
    *,
    loose: bool,
) -> dict[str, IsolatedCheck]:
    """Run one activation in each runtime and compare it with PyTorch's.

    Args:
        name: for the report.
        function: what it has to be.
        model, site: the file and the place in it.
        x: of the file's dtype.
        openers: runtime -> what makes one.
        loose: an activation that was approximated on purpose may differ by as much as the file says.
    """
    expected, exact = function.torch(x), function.oracle(x)
    slack = _slack(site, x) if loose else 0.0
    assert site.x is not None
    assert site.y is not None
    try:
        part = serialized(extract(model, site.x, [site.y], x.shape))
    except ValidationError as error:
        return {key: IsolatedCheck(None, reason=str(error)) for key in openers}
    found = {}
    for key, opener in openers.items():
        try:
            runtime = opener(part)
            try:
                (values,) = runtime.run([x])
            finally:
                runtime.close()
        except ValidationError as error:
            found[key] = IsolatedCheck(None, reason=str(error))
            continue
        got = np.asarray(values, dtype=np.float64)
        found[key] = _judged(name, function, x, expected, exact, slack, got, runtime.keeps_nan)
    return found


def _slack(site: ActivationLocation, x: Tensor) -> Any:
    """Tolerance of an approximation on purpose; beyond its range a file promises nothing."""
    said = site.approximation
    if said is None:
        return 0.0
    wide = x.double().numpy()
    return np.where((wide >= said.low) & (wide <= said.high), said.tolerance, np.inf)


def _judged(
    name: str, function: Function, x: Tensor, expected: Any, exact: oracle.Evaluation, slack: Any, values: Any, nan_counts: bool
) -> IsolatedCheck:
    """NaN is judged apart: a runtime whose arithmetic does not keep it is only told of."""
    wide = x.double().numpy()
    nan = np.isnan(wide)
    kept = bool(np.isnan(values[nan]).all()) if nan.any() and values.shape == wide.shape else None
    got = np.where(nan, expected, values) if values.shape == wide.shape else values
    comparison = compare_isolated(name, wide, expected, got, exact, function.kind, slack=slack)
    at = float(wide[comparison.worst_index]) if comparison.worst_index or wide.ndim == 0 else float("nan")
    return IsolatedCheck(comparison, at, kept, nan_counts, "", values)
