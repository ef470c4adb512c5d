"""torch module -> torch.export program, with dynamic axes and in the dtype asked for."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from opau_onnx.errors import ExportError
from opau_onnx.nn import OrthogonalPade

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

Axes = dict[int, dict[int, str]]
"""Input position -> axis -> name."""


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's weights: that of the first floating parameter or buffer, float32 if there is none.

    The coefficients of an activation stay in float32 beside 16-bit weights, so they are asked last.
    """
    ours = {id(p) for m in model.modules() if isinstance(m, OrthogonalPade) for p in m.parameters()}
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    for tensor in [*(t for t in tensors if id(t) not in ours), *tensors]:
        return tensor.dtype
    return torch.float32


def cast_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in ``dtype``, whose activations keep coefficients of float32, or float64 where ``dtype`` is float64."""
    clone = copy.deepcopy(model)
    ours = [m for m in clone.modules() if isinstance(m, OrthogonalPade)]
    kept = [(p, p.detach().clone()) for m in ours for p in (m.numerator, m.denominator)]
    clone.to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for parameter, values in kept:  # in place: parameters that modules share stay shared
        parameter.data = values.to(wide)
    # The module of an exported program refuses eval(): it was exported in one mode.
    return clone if isinstance(clone, torch.fx.GraphModule) else clone.eval()


def cast_inputs(inputs: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Floating inputs in ``dtype``; others as they are."""
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def default_axes(inputs: Sequence[Tensor]) -> Axes:
    """A dynamic axis 0, named "batch", of every input that has one."""
    return {i: {0: "batch"} for i, x in enumerate(inputs) if x.dim()}


def program_axes(program: torch.export.ExportedProgram) -> Axes:
    """The dynamic axes of a program; axis 0 is named "batch", others after their input and position."""
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found: Axes = {}
    for i, name in enumerate(names):
        value = nodes[str(name)].meta.get("val")
        if isinstance(value, Tensor):
            axes = {a: "batch" if a == 0 else f"{name}_{a}" for a, n in enumerate(value.shape) if not isinstance(n, int)}
            found.update({i: axes} if axes else {})
    return found


def trace(model: nn.Module, inputs: Sequence[Tensor], axes: Axes) -> torch.export.ExportedProgram:
    """Export with torch.export.

    Args:
        model: in evaluation mode.
        inputs: example inputs; where a dynamic axis has size 0 or 1 it is doubled for tracing, since torch.export
            would take such a size as fixed.
        axes: the dynamic axes; the same name means the same size.

    Raises:
        ExportError: the model cannot be traced, or needs a size that was asked to be dynamic.
    """
    _check_sizes(inputs, axes)
    examples = tuple(_at_least_two(x, axes.get(i, {})) for i, x in enumerate(inputs))
    # Not Dim(name): that is refused where a size has a lower limit, as a convolution's has.
    shapes = tuple(dict.fromkeys(axes.get(i, {}), torch.export.Dim.DYNAMIC) or None for i in range(len(inputs)))
    names = {name for wanted in axes.values() for name in wanted.values()}
    try:
        return torch.export.export(model, examples, dynamic_shapes=shapes if names else None, strict=False)
    except Exception as error:  # the model's own code, and many exception types of torch
        raise ExportError(_explain(error, names)) from error


def _check_sizes(inputs: Sequence[Tensor], axes: Axes) -> None:
    sizes: dict[str, tuple[int, int, int]] = {}
    for i, wanted in axes.items():
        for axis, name in wanted.items():
            size, first, at = sizes.setdefault(name, (inputs[i].shape[axis], i, axis))
            if inputs[i].shape[axis] != size:
                raise ExportError(
                    f"axis {at} of input {first} and axis {axis} of input {i} are both {name!r}, but the example inputs have "
                    f"the sizes {size} and {inputs[i].shape[axis]} there; name them apart with --dynamic-axes"
                )


def _at_least_two(x: Tensor, axes: Mapping[int, str]) -> Tensor:
    for axis in axes:
        if x.shape[axis] == 0:
            raise ExportError(f"an example input has size 0 along axis {axis}; give one with data")
        if x.shape[axis] == 1:
            x = torch.cat([x, x], dim=axis)
    return x


def _explain(error: Exception, dims: Collection[str]) -> str:
    text = str(error).strip()
    if dims and any(word in text for word in ("Constraints violated", "specialized", "marked")):
        return (
            f"the model fixes a size that was to be dynamic ({', '.join(sorted(dims))}). Pass --static to fix all sizes, or "
            f"--dynamic-axes to name those that may change. torch.export says: {text}"
        )
    return f"torch.export cannot trace the model: {type(error).__name__}: {text}"


def output_names(program: torch.export.ExportedProgram) -> list[str] | None:
    """The keys of the dict of tensors that the program returns; None where it returns something else."""
    spec = program.call_spec.out_spec
    keys = None if spec is None else spec.context
    flat = spec is not None and spec.num_leaves == spec.num_children
    return [str(key) for key in keys] if flat and isinstance(keys, list) and len(keys) == spec.num_children else None


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
