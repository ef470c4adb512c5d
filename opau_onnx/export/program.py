"""torch module -> torch.export program, with dynamic axes and in the dtype asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from opau_onnx.errors import ExportError
from opau_onnx.graph.axes import Axes


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


def has_dtype(program: torch.export.ExportedProgram, dtype: torch.dtype) -> bool:
    """True where a value inside is of this dtype, as under autocast in a float32 model."""
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]  # autocast has its own
    values = (node.meta.get("val") for graph in graphs for node in graph.nodes)
    return any(isinstance(v, Tensor) and v.dtype == dtype for v in values)


def outer_sizes(program: torch.export.ExportedProgram, axes: Axes) -> dict[str, list[int]]:
    """Name of a dynamic axis -> sizes just outside of the range that torch.export found; it always begins at 2."""
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in _user_inputs(program)]
    found: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for axis, name in axes.get(i, {}).items():
            size = node.meta["val"].shape[axis]
            known = None if isinstance(size, int) else program.range_constraints.get(size.node.expr)
            if known is None:
                continue
            ends = [int(known.lower) - 1] if known.lower > 2 else []
            ends += [int(known.upper) + 1] if known.upper < 2**31 else []
            found.setdefault(name, []).extend(ends)
    return found


def _user_inputs(program: torch.export.ExportedProgram) -> set[str]:
    return {str(name) for name in program.graph_signature.user_inputs}


def guards(program: torch.export.ExportedProgram, axes: Axes) -> list[str]:
    """Guards of torch.export: its assumptions about sizes from the model's branches, with the axes' names.

    From a private attribute, for messages only: where PyTorch has none there are none.
    """
    names = program.graph_signature.user_inputs
    found = []
    for text in getattr(program, "_guards_code", None) or ():
        for i, name in enumerate(names):
            for axis, said in axes.get(i, {}).items():
                text = text.replace(f"L['{name}'].size()[{axis}]", said)
        if "L[" not in text and not text.rstrip(")").endswith(("!= 1", "!= 0")):  # these are of every program
            found.append(text)
    return found


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
