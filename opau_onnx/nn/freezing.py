"""``freeze``: activations that are fixed functions of plain elementwise operators, for what takes PyTorch models without ONNX.

The functions are the ones that opau-collapse writes in its standard form: the same choice among the same evaluation plans
(:mod:`opau_onnx.core.plan_search`), recorded once and written as a ``torch.fx`` graph here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from opau_onnx.core.frozen import Array, Frozen, trim
from opau_onnx.core.plan_search import choose
from opau_onnx.core.plans import Evaluation
from opau_onnx.core.recording import Recording, Step, record
from opau_onnx.errors import ReplacementError, SpecError
from opau_onnx.nn.copying import copy_module
from opau_onnx.nn.modules import OrthogonalPade
from opau_onnx.nn.replace import put

_TARGETS: dict[str, Callable[..., Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "divide": torch.div, "abs": torch.abs, "maximum": torch.maximum,
    "clamp": torch.clamp, "nonzero": torch.ne, "where": torch.where,
}  # fmt: skip


Choose = Callable[[str, Frozen], tuple[Frozen, Evaluation, str]]
"""From an activation's name and function: the function that takes its place, how it is evaluated, what is said of it."""


class FrozenActivation(nn.Module):
    """A learned activation with fixed coefficients: elementwise operators of PyTorch, no parameters.

    torch.jit.trace, torch.jit.script, torch.export and torch.fx take it; it is differentiable by its input.

    Shape:
        input and output: as of the :class:`~opau_onnx.nn.OrthogonalPade` that it was made from.

    The output has the input's dtype; computed in float32, or in float64 where the coefficients were float64.
    """

    def __init__(self, frozen: Frozen, plan: Evaluation, name: str, note: str = "") -> None:
        super().__init__()
        self.function: fx.GraphModule = _graph_module(record(plan, frozen))
        self.groups, self.axis = frozen.config.groups, frozen.config.axis
        self.wide = frozen.compute == "float64"
        self.name = name
        self._said = f"{frozen.config}; {plan}" + (f"; {note}" if note else "")

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function elementwise."""
        if not input.is_floating_point() or (input.dtype == torch.float64 and not self.wide):
            raise ValueError("a frozen activation takes floating types, float64 only where the model was float64 when frozen")
        x = input
        kind = torch.float64 if self.wide else torch.float32
        if x.dtype != kind:
            x = x.to(kind)
        if self.groups > 1:
            x = torch.flatten(x, self.axis)
            x = torch.unflatten(x, -1, [self.groups, x.shape[-1] // self.groups])
        x = self.function(x)
        if self.groups > 1:
            x = x.reshape(input.shape)
        y: Tensor = x if input.dtype == kind else x.to(input.dtype)
        return y

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move to another device; constants keep their dtype where the model is cast, as learned coefficients should."""
        kept = list(self.function.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, values in kept:
            setattr(self.function, name, values.to(self.function.get_buffer(name).device))
        return self

    def extra_repr(self) -> str:
        """The function and how it is evaluated."""
        return self._said


def freeze(model: nn.Module) -> nn.Module:
    """A copy of the model whose learned activations are fixed functions of plain elementwise operators.

    For what starts from a PyTorch model, traced, scripted or exported by torch.export: OpenVINO, AOTInductor. Nothing
    but rounding changes: each function is the one that opau-collapse writes in its standard form, accurate within the oracle's
    rounding bound for every input.

    Args:
        model: any module; the activations' coefficients are taken as they are, parametrized ones as computed now.

    Returns:
        The copy, with :class:`FrozenActivation` in place of each :class:`~opau_onnx.nn.OrthogonalPade`; a new module where the
        model itself is one. A module that stands at several places stays one module. The rest of the model, its mode and its
        parameters are as they were.

    Raises:
        ReplacementError: there is no activation, its forward is a subclass's own, or it has hooks, which would be lost.
        SpecError: coefficients that are NaN or infinite, or on the meta device.
    """
    return freeze_as(model, lambda name, frozen: (frozen, choose(frozen), ""))


def freeze_as(model: nn.Module, choice: Choose) -> nn.Module:
    """:func:`freeze` with a choice of the functions; raises likewise."""
    if isinstance(model, fx.GraphModule):
        raise ReplacementError("a program has no activation modules left; freeze the module before exporting it")
    clone = copy_module(model)
    places = [(name, m) for name, m in clone.named_modules(remove_duplicate=False) if isinstance(m, OrthogonalPade)]
    if not places:
        raise ReplacementError(
            f"{type(model).__name__} holds no OrthogonalPade to freeze; activations of other libraries become ones by "
            "opau_onnx.nn.adopt"
        )
    made: dict[int, nn.Module] = {}
    for name, module in places:
        if id(module) not in made:
            where = name or type(module).__name__
            made[id(module)] = _made(module, where, choice)
        clone = put(clone, name, made[id(module)])
    return clone


def _made(module: OrthogonalPade, name: str, choice: Choose) -> FrozenActivation:
    if type(module).forward is not OrthogonalPade.forward:
        raise ReplacementError(f"{name} is a {type(module).__name__}, whose forward is not ours; it cannot be frozen")
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise ReplacementError(f"{name} has hooks, which would be lost; remove them, or register them on the frozen module")
    tensors = module.numerator.detach(), module.denominator.detach()
    if any(t.is_meta for t in tensors):
        raise SpecError(f"the coefficients of {name} are on the meta device and have no values; load them first")
    values = [t.cpu().double().numpy() for t in tensors]
    if not all(torch.isfinite(t).all() for t in tensors):
        raise SpecError(f"the coefficients of {name} hold NaN or infinity; expected finite numbers")
    compute = "float64" if torch.float64 in {t.dtype for t in tensors} else "float32"
    frozen, plan, note = choice(name, trim(Frozen(module.config, values[0], values[1], compute)))
    made = FrozenActivation(frozen, plan, name, note)
    return made.to(tensors[0].device).train(module.training)


def _graph_module(recording: Recording) -> fx.GraphModule:
    """The steps as torch functions; constants that are no plain numbers become buffers."""
    root = nn.Module()
    graph = fx.Graph()
    values = [graph.placeholder("x", type_expr=Tensor)]
    for step in recording.steps:
        values.append(_call(root, graph, values, step))
    graph.output(values[recording.result])
    return fx.GraphModule(root, graph, "FixedFunction")


def _call(root: nn.Module, graph: fx.Graph, values: list[fx.Node], step: Step) -> fx.Node:
    operands: list[Any] = [values[o] if isinstance(o, int) else o for o in step.operands]
    target, given = _TARGETS[step.operation], operands
    if step.operation == "nonzero":
        given = [*operands, 0.0]
    elif step.operation == "maximum" and _is_number(operands[1]):
        target = torch.clamp  # with a number: torch.maximum takes tensors only
    return graph.call_function(target, tuple(_operand(root, graph, step.operation, i, o) for i, o in enumerate(given)))


def _is_number(operand: Any) -> bool:
    return not isinstance(operand, fx.Node) and operand.ndim == 0


def _operand(root: nn.Module, graph: fx.Graph, operation: str, position: int, operand: Any) -> Any:
    """A node, a number, or a buffer: for groups, and where a function takes a tensor at this place only."""
    if isinstance(operand, (fx.Node, float)):
        return operand
    tensor_only = position == 0 or operation == "maximum"
    if operand.ndim == 0 and (not tensor_only or (operation == "maximum" and position == 1)):
        return float(operand)
    return graph.get_attr(_buffer(root, operand))


def _buffer(root: nn.Module, values: Array) -> str:
    for name, known in root.named_buffers():
        if known.shape == values.shape and known.numpy().tobytes() == values.tobytes():
            return name
    name = f"constant_{sum(1 for _ in root.buffers())}"
    root.register_buffer(name, torch.from_numpy(values.copy()))
    return name
