"""A model's weights and inputs moved by roundings, in place, so that one copy in memory serves every draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx.compare import policies
from opau_onnx.nn.casting import cast_model


class NudgedModel:
    """A copy of a model whose weights can be moved by roundings of float32 and put back.

    Args:
        source: the model, whose weights must stay as they are meanwhile: they are what is put back.
        dtype: of the copy, float32 or float64.
        rng: draws the moves.

    Attributes:
        model: the copy, with the source's weights at first.
    """

    def __init__(self, source: nn.Module, dtype: torch.dtype, rng: np.random.Generator) -> None:
        self.model = cast_model(source, dtype)
        self.rng = rng
        origins = dict(_weights(source))
        # A module that stands at two places has one name here, in the copy as in the source.
        # The copy of an exported program has its constants for buffers, which the program itself has not.
        self._pairs = [(t, origins[name] if name in origins else t.detach().clone()) for name, t in _weights(self.model)]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the source's weights back."""
        for tensor, origin in self._pairs:
            tensor.copy_(origin)

    @torch.no_grad()
    def draw(self) -> None:
        """Move every weight of the source by a rounding of float32, drawn anew."""
        for tensor, origin in self._pairs:
            tensor.copy_(origin)
            nudge_(tensor, self.rng)

    def round_numbers(self) -> None:
        """Round the modules' own numbers (eps, negative_slope, ..) to float32, which is what ONNX's attributes hold."""
        for module in self.model.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, float):
                    setattr(module, name, float(np.float32(value)))


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            yield name, tensor


def nudge_(values: Tensor, rng: np.random.Generator) -> None:
    """Move floating values by a rounding of float32 in place, a chunk at a time."""
    rounded = values.dtype == torch.float32  # where a smaller move would be rounded away
    flat = values.view(-1) if values.is_contiguous() else values.reshape(-1)
    for start in range(0, flat.numel(), policies.CHUNK):
        part = flat[start : start + policies.CHUNK]
        part.copy_(torch.from_numpy(policies.nudge(part.numpy(force=True), "float32", rng, rounded=rounded)))
    if flat.data_ptr() != values.data_ptr():
        values.copy_(flat.view(values.shape))


def nudged(inputs: Sequence[Tensor], rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Copies of the inputs, the floating ones moved by a rounding of float32."""
    found = []
    for x in inputs:
        if x.is_floating_point():
            x = x.clone()
            nudge_(x, rng)
        found.append(x)
    return tuple(found)
