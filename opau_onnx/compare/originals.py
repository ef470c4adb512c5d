"""The file against a model whose activations are still another library's: what was made of them is not taken for granted."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx.compare import validation
from opau_onnx.compare.names import ORIGINAL
from opau_onnx.compare.opening import open_runtime
from opau_onnx.compare.runtime import NotRunError, VerifiedRuntime, first_line
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, Comparison
from opau_onnx.compare.validation import ROUNDING_FACTOR, ToleranceConfig, Validation, flatten
from opau_onnx.graph.axes import Axes
from opau_onnx.io.quiet import quiet
from opau_onnx.nn.casting import cast_inputs


def compare_original(
    found: Validation, original: nn.Module, path: Path, inputs: Sequence[Tensor], axes: Axes, dtype: torch.dtype,
    options: ToleranceConfig,
) -> Validation:  # fmt: skip
    """Add to ``found`` the comparison of the file with the original modules' own outputs, on the same inputs.

    The tolerance is that of the comparison with the adopted modules, and the original's own rounding error besides. Where the
    original gives NaN or infinity in float32 and in float64, it says nothing about the file; how often is said in
    ``reference``, as is an original that cannot run here.
    """
    with quiet():
        reference = _Original(original, dtype)
        runtime = open_runtime(path, cast_inputs(inputs, dtype))
        outputs: list[Comparison] = []
        for i, (label, batch) in enumerate(validation.batches(inputs, axes, options)):
            cast = cast_inputs(batch, dtype)
            actual, expected = runtime.run(cast), reference.run(cast)
            known = found.outputs[i * len(actual) :]
            for got, want, base in zip(actual, expected, known, strict=False):  # nothing is expected where it could not run
                name = f"{base.name.removesuffix(f', {label}')} of the original modules, {label}"
                values = _filled(want.values, np.asarray(got, dtype=np.float64))
                tolerance = base.atol + want.rounding
                outputs.append(validation.compare_output(name, values, got, tolerance, reference.kind, options))
    return replace(found, reference=f"{found.reference}, {reference.description}", outputs=[*found.outputs, *outputs])


def _filled(values: Any, other: Any) -> Any:
    return np.where(np.isfinite(values), values, other) if values.shape == other.shape else values


class _Output(NamedTuple):
    """An output of the original, float64 values, and the tolerance that its rounding asks for."""

    values: Any
    rounding: float


class _Original:
    """The model as it came, in the precision to compare with; it may be impossible to run."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.kind = str(dtype).removeprefix("torch.")
        self.wide = dtype == torch.float64
        # Not to(dtype): some libraries overload it and fail.
        self.single, self.exact = copy.deepcopy(model).float().eval(), copy.deepcopy(model).double().eval()
        self.reason, self.silent, self.values = "", 0, 0

    def run(self, inputs: Sequence[Tensor]) -> list[_Output]:
        """The outputs; none where it cannot run."""
        try:
            with torch.no_grad():
                exact = self._outputs(self.exact, cast_inputs(inputs, torch.float64))
                single = exact if self.wide else self._outputs(self.single, cast_inputs(inputs, torch.float32))
        except (Exception, SystemExit) as error:  # the libraries' own code; one of them calls exit
            lines = str(error).strip().splitlines() or [""]
            self.reason = f"{type(error).__name__}: {lines[0]}"
            return []
        unit = UNIT_ROUNDOFF[self.kind] / UNIT_ROUNDOFF["float32"]
        found = []
        for wide, narrow in zip(exact, single, strict=True):
            with np.errstate(all="ignore"):
                values = np.where(np.isfinite(narrow), narrow, wide if self.wide else wide.astype(np.float32))
                self.values += values.size
                self.silent += int(np.count_nonzero(~np.isfinite(values)))
                rounding = ROUNDING_FACTOR * unit * validation.largest(np.abs(wide - narrow))
            found.append(_Output(values, rounding))
        return found

    def _outputs(self, model: nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
        return [t.double().numpy() for t in validation.flatten(model(*inputs))]

    @property
    def description(self) -> str:
        """What was compared and what was not."""
        if self.reason:
            return f"adopted modules; the original ones could not run here ({self.reason})"
        silent = f" (not on {self.silent:,} of {self.values:,} values, which are NaN or infinite there)" if self.silent else ""
        return f"adopted modules and the original ones{silent}"


class OriginalModules(VerifiedRuntime):
    """The model with another library's activations, before they were adopted, in float64: that has no rounding to allow for."""

    name = ORIGINAL

    def __init__(self, model: torch.nn.Module) -> None:
        self.version, self.provider = f"torch {torch.__version__}", "eager"
        self.implementation = "the other library's modules, float64"
        self.description = f"{self.version}, {self.implementation}"
        self.model = copy.deepcopy(model).double().eval()  # not to(dtype): some libraries overload it and fail

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        try:
            with torch.no_grad():
                found = flatten(self.model(*cast_inputs(inputs, torch.float64)))
        except (Exception, SystemExit) as error:  # the libraries' own code; one of them calls exit
            raise NotRunError(f"the original modules cannot run here: {first_line(error)}") from None
        if not all(bool(torch.isfinite(t).all()) for t in found if t.is_floating_point()):
            raise NotRunError("the original modules give NaN or infinity, which says nothing about a file")
        return [t.numpy() for t in found]
