"""PyTorch's own results as the reference for another runtime's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx.compare import policies
from opau_onnx.compare.nudging import NudgedModel, nudged
from opau_onnx.compare.references import AT_ONCE, Expected, Reference, flatten, moves_of, refuse_nan
from opau_onnx.compare.tensors import UNIT_ROUNDOFF
from opau_onnx.errors import NotComparableError, ValidationError
from opau_onnx.nn.casting import cast_inputs, cast_model, dtype_name


@dataclass
class _Measured:
    """One batch: inputs, float32 and float64 results, and how far roundings moved each output."""

    inputs: tuple[Tensor, ...]
    single: list[Tensor]
    exact: list[Tensor] | None = None
    moves: list[Any] = field(default_factory=list)
    numbers: list[Any] = field(default_factory=list)
    """Moves by what rounds the modules' own numbers."""


class TorchReference(Reference):
    """PyTorch's result in the precision to compare with, and a measured tolerance for another runtime's.

    Measured are PyTorch's own rounding error, the distance between its float32 and its float64 result, and how far the float64
    result moves when inputs and weights are nudged by a rounding of float32. ONNX's attributes are float32
    (BatchNormalization's epsilon, say), which a float64 model feels: what rounding the modules' own numbers so changes is
    measured too.

    Memory: ``single`` shares the parameters of a float32 model; a float64 copy exists only while a group of batches is
    measured, and its weights are moved in place. So a float32 model takes three times its weights at most, itself included.

    Attributes:
        kind: name of the dtype that the file computes in.
        single: a copy of the model in float32.
        reason: why a float64 copy cannot run; "" where it can.
    """

    def __init__(self, source: nn.Module, dtype: torch.dtype, seed: int) -> None:
        self.kind = dtype_name(dtype)
        self.source = source
        self.single = cast_model(source, torch.float32, share=True)
        self.wide = dtype == torch.float64
        self.rng = np.random.default_rng(seed)
        self.repeated, self.reason = False, ""
        self.description = f"PyTorch {torch.__version__}, {'float64' if self.wide else 'float32'}, CPU"

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`; whole numbers have no rounding of their own."""
        return next(iter(self.expect_all([("the inputs", inputs)])))

    def expect_all(self, batches: Iterable[tuple[str, Sequence[Tensor]]]) -> Iterator[list[Expected]]:
        """See :meth:`Reference.expect_all`; many batches share each draw of moved weights.

        Raises:
            ValidationError: the model cannot run on a batch.
            NotComparableError: its results are no function of its inputs, or NaN for finite ones.
        """
        group, size = list[_Measured](), 0
        for label, inputs in batches:
            group.append(self._begin(label, inputs))
            size += sum(t.numel() for t in group[-1].single)
            if size > AT_ONCE:
                yield from self._finish(group)
                group, size = [], 0
        yield from self._finish(group)

    @torch.no_grad()
    def _begin(self, label: str, inputs: Sequence[Tensor]) -> _Measured:
        narrow = cast_inputs(inputs, torch.float32)
        try:
            found = _Measured(tuple(inputs), flatten(self.single(*narrow)))
        except ValidationError:
            raise
        except Exception as error:  # the model's own code
            shapes = ", ".join(f"{dtype_name(x.dtype)} {tuple(x.shape)}" for x in inputs)
            raise ValidationError(f"the model cannot run on {label} ({shapes}): {type(error).__name__}: {error}") from error
        self._check(narrow, found.single)
        return found

    def _check(self, inputs: Sequence[Tensor], first: Sequence[Tensor]) -> None:
        """Raise NotComparableError for a model whose results are not a function of its inputs, or are NaN for finite ones."""
        if not self.repeated:
            self.repeated = True
            again = flatten(self.single(*inputs))
            for a, b in zip(first, again, strict=True):
                if a.shape != b.shape or not _same(a, b):
                    raise NotComparableError(
                        "two runs of the model on the same input differ: it draws random numbers, or changes its state, in "
                        "forward (dropout with training=True, randn, a counter in a buffer); take that out for inference"
                    )
        refuse_nan("the model", inputs, [t.double().numpy() for t in first if t.is_floating_point()])

    @torch.no_grad()
    def _finish(self, group: Sequence[_Measured]) -> list[list[Expected]]:
        """Measure a group of batches; the copy of the model ends with it."""
        if group and (self.reason or not self._measured_in_float64(group)):
            self._measure_in_float32(group)
        return [self._expected(batch) for batch in group]

    def _measured_in_float64(self, group: Sequence[_Measured]) -> bool:
        """False where a float64 copy cannot run, as that of a model that makes float32 tensors inside cannot."""
        copy = NudgedModel(self.source, torch.float64, self.rng)
        try:
            for batch in group:
                batch.exact = flatten(copy.model(*cast_inputs(batch.inputs, torch.float64)))
        except ValidationError:
            raise
        except Exception as error:  # the model's own code
            if self.wide:
                raise
            self.reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            self.description += f" (its float64 copy cannot run: {self.reason}; roundings are measured in float32)"
            for batch in group:
                batch.exact = None
            return False
        for batch in group:
            assert batch.exact is not None
            batch.moves = [moves_of(e, [s]) for e, s in zip(batch.exact, batch.single, strict=True)]
        self._move(copy, group, torch.float64, policies.NUDGES)
        if self.wide:
            copy.restore()
            copy.round_numbers()
            for batch in group:
                assert batch.exact is not None
                rounded = flatten(copy.model(*cast_inputs(batch.inputs, torch.float64)))
                batch.numbers = [moves_of(e, [r]) for e, r in zip(batch.exact, rounded, strict=True)]
        return True

    def _measure_in_float32(self, group: Sequence[_Measured]) -> None:
        """From how far the float32 result itself moves, in more draws: its own roundings are among the moves."""
        for batch in group:
            batch.moves = [np.zeros(tuple(s.shape)) for s in batch.single]
        self._move(NudgedModel(self.source, torch.float32, self.rng), group, torch.float32, policies.FLOAT32_NUDGES)

    def _move(self, copy: NudgedModel, group: Sequence[_Measured], dtype: torch.dtype, draws: int) -> None:
        """Note how far the outputs of each batch move."""
        for _ in range(draws):
            copy.draw()
            for batch in group:
                found = flatten(copy.model(*nudged(cast_inputs(batch.inputs, dtype), self.rng)))
                base = batch.single if batch.exact is None else batch.exact
                for i, (one, other) in enumerate(zip(base, found, strict=True)):
                    np.maximum(batch.moves[i], moves_of(one, [other]), out=batch.moves[i])

    def _expected(self, batch: _Measured) -> list[Expected]:
        unit = UNIT_ROUNDOFF[self.kind] / UNIT_ROUNDOFF["float32"]
        found = []
        for i, (s, moves) in enumerate(zip(batch.single, batch.moves, strict=True)):
            e = None if batch.exact is None else batch.exact[i]
            values = (e if self.wide and e is not None else s).double().numpy()
            kind = self.kind if s.is_floating_point() else ""
            numbers = batch.numbers[i] if batch.numbers else 0.0
            tolerance = policies.measured(moves * unit + numbers, kind, values)
            exact = None if e is None else e.double().numpy()
            found.append(Expected(values, exact, tolerance, policies.undecided(moves, kind)))
        return found


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal up to the order of sums, which threads may change."""
    if not one.is_floating_point():
        return bool(torch.equal(one, other))
    allowed = policies.largest(policies.result_roundings("float32", one.double().numpy()))
    return bool(torch.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True))
