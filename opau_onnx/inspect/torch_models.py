"""Activations of a PyTorch model, read from its modules or, of an exported program, from its graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.core.spec import Config
from opau_onnx.inspect.result import KERNEL, STANDARD, InspectedActivation, InspectResult, extents
from opau_onnx.io.source import Source
from opau_onnx.nn import OrthogonalPade, implementation

_COMPUTED = "its coefficients are computed by the model"


def of_source(source: Source) -> InspectResult:
    """The activations of a model that was read."""
    found = implementation()
    runs = KERNEL if found.kernel else STANDARD
    model = source.model
    activations = _of_program(model, runs) if isinstance(model, torch.fx.GraphModule) else _of_modules(model, runs)
    notes = list(source.notes)
    if source.adopted:
        notes.append(f"{len(source.adopted)} activations of another library are listed as ours, which compute the same")
    if source.left:
        notes.append(f"left as they are: {', '.join(source.left)}")
    if not found.kernel:
        notes.append(f"PyTorch's operations run the activations: {found.reason}")
    said = f"PyTorch {torch.__version__.partition('+')[0]} on the CPU, eager mode"
    return InspectResult(source.name, source.kind, None, tuple(activations), said, tuple(notes))


def _of_modules(model: nn.Module, runs: str) -> list[InspectedActivation]:
    found = []
    for name, module in model.named_modules():
        if isinstance(module, OrthogonalPade):
            notes = [f"fitted to {module.target} before training"] if getattr(module, "target", "") else []
            if nn.utils.parametrize.is_parametrized(module):
                notes.append(_COMPUTED)
            values = module.numerator, module.denominator
            found.append(_activation(name or type(module).__name__, module.config, values, runs, notes))
    return found


def _of_program(program: torch.fx.GraphModule, runs: str) -> list[InspectedActivation]:
    found = []
    for graph in (m for m in program.modules() if isinstance(m, torch.fx.GraphModule)):
        for node in graph.graph.nodes:
            if node.target is not torch.ops.opau.orthogonal_pade.default:
                continue
            basis, form, degrees, groups, axis = node.args[3:8]
            stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
            values = [_stored(graph, v) for v in node.args[1:3]]
            name = str(stack[-1][0]) or node.name
            config = Config(basis, form, (degrees[0], degrees[1]), groups, axis)
            found.append(_activation(name, config, values, runs, []))
    return found


def _stored(graph: torch.fx.GraphModule, value: Any) -> Tensor | None:
    """The tensor that an argument of a call names; None where the program computes it."""
    if value.op != "get_attr":
        return None
    found: Any = graph
    for part in str(value.target).split("."):
        found = getattr(found, part)
    return found if isinstance(found, Tensor) else None


def _activation(name: str, config: Config, values: Any, runs: str, notes: list[str]) -> InspectedActivation:
    numerator, denominator = values
    if numerator is None or denominator is None:
        return InspectedActivation(name, "learned", config, "", None, None, runs, (*notes, _COMPUTED))
    wide = [v.detach().cpu().double().numpy() for v in (numerator, denominator)]
    _, top, bottom, bad = extents(*wide)
    dtype = str(numerator.dtype).removeprefix("torch.")
    return InspectedActivation(name, "learned", config, dtype, top, bottom, runs, (*notes, *bad))
