"""The loop: one runtime against its references, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opau_onnx.compare.policies import largest, refuse_vague
from opau_onnx.compare.references import Expected, Reference
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import Comparison, compare
from opau_onnx.config import ToleranceConfig
from opau_onnx.errors import ValidationError
from opau_onnx.nn.casting import cast_inputs


def compare_batches(
    runtime: Runtime,
    references: Sequence[tuple[Reference, str]],
    names: Sequence[str],
    batches: Sequence[tuple[str, Sequence[Tensor]]],
    config: ToleranceConfig,
    dtype: torch.dtype | None = None,
) -> list[Comparison]:
    """Compare a runtime's outputs with each reference's, on each batch.

    Args:
        runtime: of the file.
        references: in order, each with what its comparisons add to an output's name; a reference sees what the one before it
            expects.
        names: of the outputs.
        batches: name and inputs of each.
        config: tolerances of the user.
        dtype: to which floating inputs are cast; None leaves them.

    Returns:
        One comparison for each reference, batch and output; those of a reference stand together.

    Raises:
        ValidationError: a runtime that cannot run, or outputs that are not as many as the reference's.
    """
    found: list[list[Comparison]] = [[] for _ in references]
    cast = [(label, batch if dtype is None else cast_inputs(batch, dtype)) for label, batch in batches]
    for (label, inputs), first in zip(cast, references[0][0].expect_all(cast), strict=True):
        actual = _run(runtime, inputs, first=not any(found))
        known: list[Expected] = []
        for i, (kept, (reference, note)) in enumerate(zip(found, references, strict=True)):
            expected = reference.expect(inputs, known) if i else first
            if isinstance(actual, str):
                kept.append(failed(f"{names[0]}{note}, {label}: {actual}", reference.kind))
            elif expected:  # else the reference says why in its description
                kept += compare_outputs(names, expected, actual, f"{note}, {label}", reference.kind, config)
            known = expected
    return [comparison for kept in found for comparison in kept]


def _run(runtime: Runtime, inputs: Sequence[Tensor], *, first: bool) -> list[Any] | str:
    """The outputs; or why there are none, on a batch that the model runs on: then the file is another one there."""
    try:
        return runtime.run(inputs)
    except ValidationError as error:
        if first:
            raise
        return str(error)


def failed(name: str, kind: str) -> Comparison:
    """The comparison of an output that a file could not give."""
    return Comparison(name, kind, 0, np.inf, np.inf, (), np.nan, np.nan, 0.0, 0.0, np.inf, False)


def compare_outputs(
    names: Sequence[str], expected: Sequence[Expected], actual: Sequence[Any], label: str, kind: str, config: ToleranceConfig
) -> list[Comparison]:
    """Compare all outputs of one batch; ``label`` follows an output's name.

    Raises:
        ValidationError: not as many outputs as are expected.
    """
    if not len(names) == len(actual) == len(expected):
        raise ValidationError(
            f"the file has {len(actual)} outputs, the model returns {len(expected)}; is the file one of this model?"
        )
    return [
        compare_output(f"{name}{label}", want, got, want.kind or kind, config)
        for name, want, got in zip(names, expected, actual, strict=True)
    ]


def compare_output(name: str, want: Expected, got: Any, kind: str, config: ToleranceConfig) -> Comparison:
    """Compare one output; its measured tolerance counts unless the user gave one. ULP are those of its largest value."""
    atol = (config.atol or 0.0) if config.given else want.tolerance
    values = np.asarray(want.values)
    if not config.given:
        refuse_vague(name, atol, values, kind)
    if want.silent is not None and values.shape == np.shape(got):
        values = np.where(want.silent, np.asarray(got, dtype=np.float64), values)
    return compare(name, values, got, kind, atol=atol, rtol=config.rtol or 0.0, ulp_at=largest(np.abs(values)))
