"""An exported file against the PyTorch model that it came from: each activation alone, and the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from opau_onnx.compare.activations import ActivationCheck, check_activations
from opau_onnx.compare.batches import random_batches
from opau_onnx.compare.loop import compare_batches
from opau_onnx.compare.opening import LateRuntime
from opau_onnx.compare.references import OriginalReference, Reference
from opau_onnx.compare.sizes import Limits, module_runs, size_batches
from opau_onnx.compare.tensors import Comparison
from opau_onnx.compare.torch_reference import TorchReference
from opau_onnx.config import ToleranceConfig
from opau_onnx.core.reports import Reported
from opau_onnx.errors import NotComparableError, ValidationError
from opau_onnx.graph.axes import Axes
from opau_onnx.io.quiet import quiet
from opau_onnx.nn.casting import cast_inputs


@dataclass(frozen=True, repr=False)
class Validation(Reported):
    """Comparison of a file with its model.

    Attributes:
        runtime: what ran the file.
        reference: what it was compared with.
        activations: one check for each activation's node.
        outputs: one comparison for each output and input batch.
        reason: why the outputs could not be compared; "" where they were.
        refused: sizes of dynamic axes at which the model itself fails, so that nothing was compared there.
        equal: the verdict over all of them.
    """

    derived = ("verdict",)

    runtime: str
    reference: str
    activations: Sequence[ActivationCheck]
    outputs: list[Comparison]
    reason: str = ""
    refused: Sequence[str] = ()

    def __repr__(self) -> str:
        worst = max((c.tolerance_used for c in self.outputs), default=float("nan"))
        counts = f"{len(self.activations)} activations, {len(self.outputs)} comparisons"
        return f"Validation({self.verdict}{f': {self.reason}' if self.reason else ''}, {counts}, tolerance used {worst:.3g})"

    @property
    def equal(self) -> bool:
        return bool(self.outputs) and all(c.equal for c in self.activations) and all(c.equal for c in self.outputs)

    @property
    def verdict(self) -> str:
        """ "equal", "different" or "not comparable"."""
        return "not comparable" if self.reason else "equal" if self.equal else "different"


def validate(
    source: nn.Module,
    path: Path,
    inputs: Sequence[Tensor],
    axes: Axes,
    dtype: torch.dtype,
    config: ToleranceConfig,
    original: nn.Module | None = None,
    limits: Limits | None = None,
) -> Validation:
    """Compare a file with the module that it was exported from; quiet about torch's own warnings.

    Args:
        source: the module, in evaluation mode.
        path: the ONNX file.
        inputs: example inputs.
        axes: the file's dynamic axes.
        dtype: of the file's weights.
        config: tolerances of the user, random inputs.
        original: the module before activations of another library were adopted; compared too.
        limits: sizes beyond what torch.export says the file holds for, to be compared too.

    Raises:
        ValidationError: no runtime here can run the file, or the inputs do not fit.
    """
    with quiet():
        model = ir.load(path)
        if len(model.graph.inputs) != len(inputs):
            raise ValidationError(f"{path} has {len(model.graph.inputs)} inputs, the model has {len(inputs)}")
        own = TorchReference(source, dtype, config.seed)
        references: list[tuple[Reference, str]] = [(own, "")]
        if original is not None:
            references.append((OriginalReference(original, dtype), " of the original modules"))
        runtime = LateRuntime(path)
        names = [str(v.name) for v in model.graph.outputs]
        outputs, reason = list[Comparison](), ""
        sizes = size_batches(cast_inputs(inputs, torch.float32), axes, config.seed, module_runs(own.single), limits)
        batches = [*random_batches(inputs, axes, config), *sizes.batches]
        try:
            outputs = compare_batches(runtime, references, names, batches, config, dtype)
        except NotComparableError as error:
            reason = str(error)
        description = ", ".join(reference.description for reference, _ in references)
        return Validation(runtime.description, description, check_activations(model, source), outputs, reason, sizes.refused)
