"""The compiled kernels as operators that ``torch.compile`` does not look into.

Chosen over the fused formula at every size that was measured, 64 elements to 16 Mi, forward and backward (docs/training.md has
the figures). Whatever leaves this process, as exported programs and AOTInductor's libraries do, gets the formula.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from opau_onnx.core.spec import Config
from opau_onnx.nn import kernels, traceable

_LIBRARY = torch.library.Library("opau", "FRAGMENT")  # type: ignore[no-untyped-call]
_FUNCTION = "str basis, str form, int[] degrees, int groups, int axis"
_COEFFICIENTS = "Tensor numerator, Tensor denominator"
# The results lie as x does, however that is: a convolution's layout needs no copy.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)
_LIBRARY.define(  # type: ignore[no-untyped-call]
    f"orthogonal_pade_forward(Tensor x, {_COEFFICIENTS}, {_FUNCTION}) -> Tensor", tags=_TAGS
)
_LIBRARY.define(  # type: ignore[no-untyped-call]
    f"orthogonal_pade_backward(Tensor x, {_COEFFICIENTS}, Tensor g, bool need_x, bool need_coefficients, {_FUNCTION}) "
    "-> (Tensor, Tensor, Tensor)",
    tags=_TAGS,
)


def config_of(basis: str, form: str, degrees: list[int], groups: int, axis: int) -> Config:
    """The configuration from an operator's attributes."""
    return _config(basis, form, (degrees[0], degrees[1]), groups, axis)


@lru_cache(maxsize=256)
def _config(basis: str, form: str, degrees: tuple[int, int], groups: int, axis: int) -> Config:
    return Config(basis, form, degrees, groups, axis)


def attributes(config: Config) -> tuple[str, str, list[int], int, int]:
    """The inverse of :func:`config_of`."""
    return config.basis, config.form, list(config.degrees), config.groups, config.axis


def _forward(x: Tensor, numerator: Tensor, denominator: Tensor, *function: Any) -> Tensor:
    # A graph may come from a cache that another installation filled, one with the library.
    run = kernels.forward if kernels.usable(x, numerator, denominator) else traceable.forward
    return run(config_of(*function), x, numerator, denominator)


def _backward(
    x: Tensor, numerator: Tensor, denominator: Tensor, g: Tensor, need_x: bool, need_coefficients: bool, *function: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors of no elements for what is not needed: an operator's results are there always."""
    run = kernels.backward if kernels.usable(x, numerator, denominator) else traceable.backward
    found = run(config_of(*function), x, numerator, denominator, g, need_x, need_coefficients)
    dx, dc, dd = (x.new_empty(0) if v is None else v for v in found)
    return dx, dc, dd


def _fake_backward(
    x: Tensor, numerator: Tensor, denominator: Tensor, g: Tensor, need_x: bool, need_coefficients: bool, *function: Any
) -> tuple[Tensor, Tensor, Tensor]:
    none = x.new_empty(0)
    dx = torch.empty_like(x) if need_x else none
    if not need_coefficients:
        return dx, none.clone(), none.clone()
    return dx, numerator.new_empty(numerator.shape), denominator.new_empty(denominator.shape)


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("orthogonal_pade_forward", _forward, _device)  # type: ignore[no-untyped-call]
    _LIBRARY.impl("orthogonal_pade_backward", _backward, _device)  # type: ignore[no-untyped-call]
torch.library.register_fake("opau::orthogonal_pade_forward", lambda x, *rest: torch.empty_like(x), lib=_LIBRARY)
torch.library.register_fake("opau::orthogonal_pade_backward", _fake_backward, lib=_LIBRARY)


def forward(config: Config, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """:func:`opau_onnx.nn.kernels.forward` as one node of a graph."""
    y: Tensor = torch.ops.opau.orthogonal_pade_forward(x, numerator, denominator, *attributes(config))
    return y


def backward(
    config: Config, x: Tensor, numerator: Tensor, denominator: Tensor, g: Tensor, need_x: bool, need_coefficients: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """:func:`opau_onnx.nn.kernels.backward` as one node of a graph."""
    dx, dc, dd = torch.ops.opau.orthogonal_pade_backward(
        x, numerator, denominator, g, need_x, need_coefficients, *attributes(config)
    )
    return dx if need_x else None, dc if need_coefficients else None, dd if need_coefficients else None


def usable(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """True inside ``torch.compile``, for tensors that the kernels take."""
    return _compiling_here() and kernels.usable(x, numerator, denominator)


def _compiling_here() -> bool:
    if torch._guards.TracingContext.try_get() is None or torch.compiler.is_exporting():
        return False
    inductor = sys.modules.get("torch._inductor.virtualized")
    return inductor is None or not inductor.V.aot_compilation
