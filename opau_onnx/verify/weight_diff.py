"""Numbers that are stored in a file against the model's: the activations' coefficients, and weights by their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from opau_onnx.compare.isolated import Function
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.compare.tensors import COMPUTED_ROUNDINGS, UNIT_ROUNDOFF
from opau_onnx.core.reports import Reported
from opau_onnx.errors import ValidationError
from opau_onnx.graph.lookup import ActivationLocation
from opau_onnx.graph.nodes import constant
from opau_onnx.graph.save import serialized

_HALVES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Stored(Reported):
    """One tensor in the file and in the model.

    Attributes:
        name: of the tensor.
        equal: bit for bit, in the precision in which the file computes.
        index: of the largest difference.
        model, file: the numbers there.
        max_abs_error: that difference; inf where the shapes differ.
        note: what seems to have happened.
    """

    name: str
    equal: bool
    index: tuple[int, ...] = ()
    model: float = float("nan")
    file: float = float("nan")
    max_abs_error: float = 0.0
    note: str = ""


def compare_stored(name: str, expected: Tensor, found: Any, *, computed: bool = False) -> Stored:
    """Compare numbers; where nothing computed them every difference counts.

    Args:
        name: for the report.
        expected: the model's, in the dtype in which the file should hold them.
        found: the file's array.
        computed: by a parametrization, which the exporter may have run and rounded another way.
    """
    want, got = expected.detach().double().numpy(), np.asarray(found, dtype=np.float64)
    if want.shape != got.shape:
        return Stored(name, False, max_abs_error=float("inf"), note=f"shape {got.shape}, the model's is {want.shape}")
    if np.array_equal(want, got, equal_nan=True):
        return Stored(name, True)
    kind = str(expected.dtype).removeprefix("torch.")
    if computed and np.allclose(got, want, rtol=COMPUTED_ROUNDINGS * UNIT_ROUNDOFF[kind], atol=0.0):
        return Stored(name, True, note="computed by a parametrization, equal within a rounding")
    with np.errstate(all="ignore"):
        difference = np.nan_to_num(np.abs(want - got), nan=np.inf)
    index = tuple(int(i) for i in np.unravel_index(int(difference.argmax()), want.shape))
    return Stored(name, False, index, float(want[index]), float(got[index]), float(difference[index]), _note(want, got))


def _note(want: Any, got: Any) -> str:
    with np.errstate(all="ignore"):
        for kind, dtype in _HALVES.items():
            if np.array_equal(want.astype(dtype).astype(np.float64), got, equal_nan=True):
                return f"the model's numbers rounded to {kind}"
    if np.array_equal(np.sort(want, axis=None), np.sort(got, axis=None)):
        return "the model's numbers in another order"
    return ""


def coefficients(model: ir.Model, site: ActivationLocation, function: Function) -> list[Stored] | None:
    """Numerator and denominator of a learned activation; None where the file does not hold them as such.

    Coefficients that the file computes (from ones of 16 bits, say) are computed.
    """
    if len(site.coefficients) != 2:
        return None
    found = []
    for value, kind, expected in zip(
        site.coefficients, ("numerator", "denominator"), (function.numerator, function.denominator), strict=True
    ):
        stored = constant(value)
        if stored is None:
            stored = _computed(model, value)
        if stored is None:
            return None
        found.append(compare_stored(kind, expected, stored, computed=function.computed))
    return found


def _computed(model: ir.Model, value: ir.Value) -> Any:
    try:
        graph = ir.convenience.extract(model.graph, [], [value])
        part = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
        return OnnxRuntime(serialized(part)).run([])[0]
    except (ValueError, ValidationError):  # it depends on the model's inputs
        return None


def weights(model: ir.Model, tensors: dict[str, Tensor], skip: Iterable[ir.Value]) -> list[Stored]:
    """The file's other tensors that bear a name of the model's.

    They may differ rightly: an exporter folds a BatchNormalization into the layer before it.
    """
    left_out = {id(v) for v in skip}
    found = []
    for name, value in model.graph.initializers.items():
        if name in tensors and id(value) not in left_out and value.const_value is not None:
            stored = np.array(value.const_value.numpy())
            found.append(compare_stored(name, _as_stored(tensors[name], stored), stored))
    return found


def _as_stored(tensor: Tensor, stored: Any) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    kind = getattr(torch, stored.dtype.name, None)
    return tensor.to(kind) if isinstance(kind, torch.dtype) and kind.is_floating_point else tensor
