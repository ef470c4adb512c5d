"""An ONNX file as the reference for another one's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from opau_onnx.compare import policies
from opau_onnx.compare.opening import open_model, open_runtime
from opau_onnx.compare.references import AT_ONCE, Expected, Reference, moves_of, refuse_nan
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
        self.path, self.seed, self.examples = path, seed, tuple(inputs)
        self.runtime = runtime or open_runtime(path, inputs)
        self.draws = 0 if exact else policies.NUDGES
        self.description = f"the original file, {self.runtime.description}"

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`."""
        return next(iter(self.expect_all([("the inputs", inputs)])))

    def expect_all(self, batches: Iterable[tuple[str, Sequence[Tensor]]]) -> Iterator[list[Expected]]:
        """See :meth:`Reference.expect_all`; a nudged file is open while it runs many batches, one after the other."""
        group, size = list[_Measured](), 0
        for _, inputs in batches:
            cast = [x if kind is None else x.to(kind) for x, kind in zip(inputs, self.dtypes, strict=True)]
            results = [np.asarray(v) for v in self.runtime.run(cast)]
            values = [np.asarray(v, dtype=np.float64) for v in results]
            if self.draws:
                refuse_nan("the original file", cast, values)
            kinds = [self.kind if str(v.dtype) in UNIT_ROUNDOFF else "" for v in results]
            group.append(_Measured(cast, values, kinds, [np.zeros(v.shape) for v in values]))
            size += sum(v.size for v in values)
            if size > AT_ONCE:
                yield from self._finish(group)
                group, size = [], 0
        yield from self._finish(group)

    def _finish(self, group: Sequence[_Measured]) -> list[list[Expected]]:
        for n in range(self.draws if group else 0):
            runtime = open_model(_nudged(self.path, self.seed + n), self.examples)
            for batch in group:
                others = runtime.run([_nudge_tensor(x, n) for x in batch.inputs])
                for moves, want, other in zip(batch.moves, batch.values, others, strict=True):
                    moved = moves_of(torch.from_numpy(want), [torch.from_numpy(np.asarray(other, dtype=np.float64))])
                    np.maximum(moves, moved, out=moves)
            del runtime  # before the next one
        return [self._expected(batch) for batch in group]

    def _expected(self, batch: _Measured) -> list[Expected]:
        found = []
        for want, kind, moves in zip(batch.values, batch.kinds, batch.moves, strict=True):
            if not self.draws:
                found.append(Expected(want, None, policies.EXACT))
                continue
            tolerance = policies.measured(moves * self.scale, kind, want, few=True)
            found.append(Expected(want, None, tolerance, policies.undecided(moves, kind)))
        return found


@dataclass
class _Measured:
    """One batch: inputs in the file's dtypes, outputs in float64 and their dtypes, and how far roundings moved each."""

    inputs: list[Tensor]
    values: list[Any]
    kinds: list[str]
    moves: list[Any]


def _nudged(path: Path, seed: int) -> ir.Model:
    """The model with every stored number moved by a rounding of its dtype, each tensor when it is written."""
    model = ir.load(path)
    for i, value in enumerate(model.graph.initializers.values()):
        if value.const_value is not None and value.dtype in NAMES:
            value.const_value = _late(value.const_value, NAMES[value.dtype], [seed, i], str(value.name))
    return model


def _late(tensor: ir.TensorProtocol, kind: str, seed: list[int], name: str) -> ir.LazyTensor:
    def nudged() -> ir.TensorProtocol:
        return ir.tensor(policies.nudge(tensor.numpy(), kind, np.random.default_rng(seed)), name=name)

    return ir.LazyTensor(nudged, tensor.dtype, ir.Shape(tensor.shape), name=name)


def _nudge_tensor(x: Tensor, seed: int) -> Tensor:
    """By up to two roundings, since the result is rounded to the dtype again."""
    if not x.is_floating_point():
        return x
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    wide = x.double()
    return torch.where(wide == wide.round(), wide, wide * (1 + 2 * UNIT_ROUNDOFF[dtype_name(x.dtype)] * noise)).to(x.dtype)
