"""The torch operator ``opau::orthogonal_pade`` and its explicit backward.

The operator is a CompositeImplicitAutograd one: ``torch.export`` keeps it as ONE node, ``torch.compile`` looks through it.
On the CPU and on CUDA the compiled kernels run it in eager mode and under ``torch.compile``; elsewhere it is the formula in
PyTorch's operations, which ``torch.compile`` fuses. The backward pass keeps the input and the coefficients alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from opau_onnx.core.spec import Config
from opau_onnx.errors import SpecError
from opau_onnx.nn import compiled, kernels, traceable
from opau_onnx.nn.compiled import attributes, config_of

Forward = Callable[[Config, Tensor, Tensor, Tensor], Tensor]
Backward = Callable[[Config, Tensor, Tensor, Tensor, Tensor, bool, bool], tuple[Tensor | None, Tensor | None, Tensor | None]]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, None, None]


_PLAIN = (Tensor, torch.nn.Parameter)
_DENSE = (torch.strided, torch.jagged)


def _is_tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _plain(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """No subclasses, whose memory may be anywhere or nowhere, and no nested tensor of the older kind, which is none."""
    return type(x) in _PLAIN and type(numerator) in _PLAIN and type(denominator) in _PLAIN and not x.is_nested


def _unwatched() -> bool:
    """True where operations do nothing but compute: nothing traces, transforms or watches them."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


class _OrthogonalPade(torch.autograd.Function):
    """Forward and explicit backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, config: Config, forward: Forward) -> Tensor:
        ctx.config = config
        ctx.save_for_backward(x, numerator, denominator)
        y = forward(config, x, numerator, denominator)
        # Groups are reshaped back, and a view may not be changed in place by everybody (FSDP warns of it).
        return y.clone() if not torch.compiler.is_compiling() and y._is_view() else y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, numerator, denominator = ctx.saved_tensors
        need_x, need_numerator, need_denominator = ctx.needs_input_grad[:3]
        backward = _backward_of(x, numerator, denominator, g)
        found = backward(ctx.config, x, numerator, denominator, g, need_x, need_numerator or need_denominator)
        return *found, None, None


def _backward_of(x: Tensor, numerator: Tensor, denominator: Tensor, g: Tensor) -> Backward:
    if torch.is_grad_enabled():  # create_graph=True: the gradient itself must be differentiable
        return traceable.backward
    # Hooks may have brought the saved tensors back as something else; g is many at once where is_grads_batched=True.
    plain = _unwatched() and _plain(x, numerator, denominator) and type(g) is Tensor and not is_legacy_batchedtensor(g)
    if plain and kernels.usable(x, numerator, denominator):
        return kernels.backward
    return compiled.backward if compiled.usable(x, numerator, denominator) else traceable.backward


# Function.apply unwraps functorch's tensors, which takes 3 of 15 microseconds; here there are none.
_apply_kernel: Callable[..., Tensor] = super(torch.autograd.Function, _OrthogonalPade).apply


def _orthogonal_pade(x: Tensor, numerator: Tensor, denominator: Tensor, *function: Any) -> Tensor:
    return _apply(x, numerator, denominator, config_of(*function))


def _apply(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    if _plain(x, numerator, denominator) and _unwatched() and kernels.usable(x, numerator, denominator):
        return _run_kernel(x, numerator, denominator, config)
    if x.is_nested and x.layout is torch.strided:
        return _on_parts(x, numerator, denominator, config)
    _check(x, numerator, denominator, config)
    if not x.is_floating_point():
        raise SpecError(f"the input is {str(x.dtype).removeprefix('torch.')}; expected a floating type, as x.float() gives")
    if x.layout not in _DENSE:
        raise SpecError(f"the input's layout is {x.layout}; expected a dense tensor, as x.to_dense() gives")
    if not (numerator.is_floating_point() and denominator.is_floating_point()):
        kinds = " and ".join(str(v.dtype).removeprefix("torch.") for v in (numerator, denominator))
        raise SpecError(f"the coefficients are {kinds}; expected floating types")
    differentiates = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    if differentiates or torch.compiler.is_exporting() or _is_tracing():
        return traceable.forward(config, x, numerator, denominator)  # these differentiate by themselves
    forward = compiled.forward if compiled.usable(x, numerator, denominator) else traceable.forward
    return _OrthogonalPade.apply(x, numerator, denominator, config, forward)  # type: ignore[no-any-return, no-untyped-call]


def _on_parts(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    """Nested tensors of the older kind, which know few operations: tensor by tensor."""
    if config.groups > 1:
        raise SpecError("the input is a nested tensor, which has no channel axis for groups; give padded or jagged tensors")
    parts = [_apply(part, numerator, denominator, config) for part in x.unbind()]
    return torch.nested.as_nested_tensor(parts) if parts else x.clone()


def _run_kernel(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    _check(x, numerator, denominator, config)
    return _apply_kernel(x, numerator, denominator, config, kernels.forward)


def _check(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> None:
    config.check_coefficients(numerator.shape, denominator.shape)
    if config.groups > 1:
        config.check_input(x.shape)


_LIBRARY = torch.library.Library("opau", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "orthogonal_pade(Tensor x, Tensor numerator, Tensor denominator, str basis, str form, int[] degrees, "
    "int groups, int axis) -> Tensor"
)
_LIBRARY.impl("orthogonal_pade", _orthogonal_pade, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]


def orthogonal_pade(x: Tensor, numerator: Tensor, denominator: Tensor, config: Config) -> Tensor:
    """y = P(x) / Q(x), elementwise; see :mod:`opau_onnx.core.spec`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        numerator: c_0 .. c_k, shape (k + 1,) or (groups, k + 1).
        denominator: d_first .. d_l, shape (n,) or (groups, n).
        config: which function.

    Returns:
        A tensor of x's shape and dtype. Computed in float32, or in float64 if x or the coefficients are float64.

    Raises:
        SpecError: shapes that do not fit ``config``, or an input that is not of a floating type.
    """
    # Directly: the dispatcher would only come back here, 50 microseconds later.
    if _plain(x, numerator, denominator) and _unwatched() and kernels.usable(x, numerator, denominator):
        return _run_kernel(x, numerator, denominator, config)
    # torch.jit.trace keeps the operator; torch.onnx.export by TorchScript does not know it, and gets plain ones.
    recorded = _is_tracing() and not torch.onnx.is_in_onnx_export()
    # The dispatcher cannot batch for vmap.
    if type(x) in _PLAIN and not torch.compiler.is_compiling() and not recorded:
        return _apply(x, numerator, denominator, config)
    result: Tensor = torch.ops.opau.orthogonal_pade(x, numerator, denominator, *attributes(config))
    return result
