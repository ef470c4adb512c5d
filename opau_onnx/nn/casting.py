"""Modules and inputs in another dtype, and the tensors of a module by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.errors import ExportError
from opau_onnx.nn import OrthogonalPade
from opau_onnx.nn.copying import copy_module

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


_SHORT = {
    "fp32": "float32", "f32": "float32", "float": "float32", "single": "float32", "fp16": "float16", "f16": "float16",
    "half": "float16", "bf16": "bfloat16", "fp64": "float64", "f64": "float64", "double": "float64",
}  # fmt: skip


def read_dtype(name: Any) -> torch.dtype:
    """The dtype of a name, also a short one ("fp16", "half"), or of a torch.dtype.

    Raises:
        ExportError: it is none of these.
    """
    text = str(name).removeprefix("torch.").lower()
    found = DTYPES.get(_SHORT.get(text, text))
    if found is None:
        raise ExportError(f"dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype: "float32" of torch.float32."""
    return str(dtype).removeprefix("torch.")


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's weights: that of the first floating parameter or buffer, float32 if there is none.

    The coefficients of an activation stay in float32 beside 16-bit weights, so they are asked last.
    """
    ours = {id(p) for m in model.modules() if isinstance(m, OrthogonalPade) for p in m.parameters()}
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    for tensor in [*(t for t in tensors if id(t) not in ours), *tensors]:
        return tensor.dtype
    return torch.float32


def cast_model(model: nn.Module, dtype: torch.dtype, *, share: bool = False) -> nn.Module:
    """A copy in ``dtype``, whose activations keep coefficients of float32, or float64 where ``dtype`` is float64.

    With ``share`` the parameters that have this dtype already are the model's own and take no memory: the copy is to be run,
    not to be changed. Buffers are always copied, since a forward may write to them.
    """
    own = {id(p) for m in model.modules() if isinstance(m, OrthogonalPade) for p in m.parameters(recurse=False)}
    plain = [p for p in model.parameters() if type(p) is nn.Parameter and p.is_floating_point() and id(p) not in own]
    # One by one: a copy in the old dtype would be in memory besides.
    clone = copy_module(model, {p: _cast(p, dtype, share) for p in plain})
    ours = [m for m in clone.modules() if isinstance(m, OrthogonalPade)]
    kept = [(p, p.detach().clone()) for m in ours for p in (m.numerator, m.denominator)]
    clone.to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for parameter, values in kept:  # in place: parameters that modules share stay shared
        parameter.data = values.to(wide)
    # The module of an exported program refuses eval(): it was exported in one mode.
    return clone if isinstance(clone, torch.fx.GraphModule) else clone.eval()


def _cast(parameter: nn.Parameter, dtype: torch.dtype, share: bool) -> nn.Parameter:
    if share and parameter.dtype == dtype:
        return parameter
    return nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=parameter.requires_grad)


def cast_inputs(inputs: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Floating inputs in ``dtype``; others as they are."""
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under every name that they have; tied ones have several."""
    return {**dict(model.named_buffers(remove_duplicate=False)), **dict(model.named_parameters(remove_duplicate=False))}


def input_names(model: nn.Module, count: int) -> list[str]:
    """Names of the first ``count`` arguments of the model's forward."""
    import inspect

    parameters = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return (parameters + [f"input_{i}" for i in range(len(parameters), count)])[:count]
