"""An ONNX file as the reference for another one's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from opau_onnx.compare import policies
from opau_onnx.compare.opening import open_model, open_runtime
from opau_onnx.compare.references import Expected, Reference, moves_of, refuse_nan
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import UNIT_ROUNDOFF
from opau_onnx.graph.dtypes import NAMES, coarsest
from opau_onnx.nn.casting import DTYPES, dtype_name


class FileReference(Reference):
    """An ONNX file, and a measured tolerance: how far its outputs move when its weights and inputs are nudged.

    Args:
        path: the file.
        inputs: example inputs, to choose a runtime.
        seed: of the nudges.
        runtime: what runs the file; None for the first that can.
        exact: expect the same bits; nothing is nudged then.
        kind: name of the other file's dtype, whose roundings are allowed where they are the coarser ones.
    """

    def __init__(
        self, path: Path, inputs: Sequence[Tensor], seed: int, *, runtime: Runtime | None = None, exact: bool = False,
        kind: str = "",
    ) -> None:  # fmt: skip
        model = ir.load(path)
        own = coarsest(model)
        self.kind = "float32" if exact else max(own, kind or own, key=UNIT_ROUNDOFF.__getitem__)
        self.scale = UNIT_ROUNDOFF[self.kind] / UNIT_ROUNDOFF[own]
        self.dtypes = [DTYPES.get(NAMES.get(v.dtype, "")) for v in model.graph.inputs]
        self.runtime = runtime or open_runtime(path, inputs)
        draws = 0 if exact else policies.NUDGES
        self.moved = [open_model(_nudged(path, seed + n), inputs) for n in range(draws)]
        self.description = f"the original file, {self.runtime.description}"

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`."""
        inputs = [x if kind is None else x.to(kind) for x, kind in zip(inputs, self.dtypes, strict=True)]
        results = self.runtime.run(inputs)
        self.floating = [str(np.asarray(v).dtype) in UNIT_ROUNDOFF for v in results]
        expected = [np.asarray(v, dtype=np.float64) for v in results]
        if self.moved:
            refuse_nan("the original file", inputs, expected)
        others = [runtime.run([_nudge_tensor(x, n) for x in inputs]) for n, runtime in enumerate(self.moved)]
        found = []
        for i, want in enumerate(expected):
            if not others:
                found.append(Expected(want, None, policies.EXACT))
                continue
            moves = moves_of(torch.from_numpy(want), [torch.from_numpy(np.asarray(o[i], dtype=np.float64)) for o in others])
            kind = self.kind if self.floating[i] else ""
            tolerance = policies.measured(moves * self.scale, kind, want, few=True)
            found.append(Expected(want, None, tolerance, policies.undecided(moves, kind)))
        return found


def _nudged(path: Path, seed: int) -> ir.Model:
    """The model with every stored number moved by a rounding of its dtype."""
    model = ir.load(path)
    rng = np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.dtype in NAMES:
            numbers = policies.nudge(np.array(value.const_value.numpy()), NAMES[value.dtype], rng)
            value.const_value = ir.tensor(numbers, name=value.name)
    return model


def _nudge_tensor(x: Tensor, seed: int) -> Tensor:
    """By up to two roundings, since the result is rounded to the dtype again."""
    if not x.is_floating_point():
        return x
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    wide = x.double()
    return torch.where(wide == wide.round(), wide, wide * (1 + 2 * UNIT_ROUNDOFF[dtype_name(x.dtype)] * noise)).to(x.dtype)
