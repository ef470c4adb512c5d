"""Looking inside: what each activation takes and gives, in PyTorch and in an ONNX file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from opau_onnx.core.spec import Config
from opau_onnx.graph.lookup import ActivationLocation
from opau_onnx.nn import OrthogonalPade

Key = tuple[str, int]
"""A module's name and which of its calls."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an activation in PyTorch; ``computed`` where a parametrization computes its coefficients."""

    key: Key
    config: Config
    x: Tensor
    numerator: Tensor
    denominator: Tensor
    y: Tensor
    computed: bool = False


@contextmanager
def activation_hooks(model: nn.Module, sink: Callable[[Call], None]) -> Iterator[None]:
    """Hand every call of an activation to ``sink``, as long as the context lasts."""
    counts: Counter[str] = Counter()

    def call(name: str, config: Config, tensors: tuple[Tensor, Tensor, Tensor], y: Tensor, computed: bool = False) -> None:
        x, numerator, denominator = (t.detach() for t in tensors)
        sink(Call((name, counts[name]), config, x, numerator, denominator, y.detach(), computed))
        counts[name] += 1

    if isinstance(model, torch.fx.GraphModule):
        with _Mode(_names(model), call):
            yield
        return
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, OrthogonalPade):
            # First, so that it sees what the activation gives, and not what other hooks make of that.
            hooks.append(module.register_forward_hook(_hook(name, call), with_kwargs=True, prepend=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(name: str, call: Callable[..., None]) -> Callable[..., None]:
    def hook(module: OrthogonalPade, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        x = inputs[0] if inputs else named["input"]
        computed = nn.utils.parametrize.is_parametrized(module)
        call(name, module.config, (x, module.numerator, module.denominator), output, computed)

    return hook


class _Mode(TorchFunctionMode):
    """Sees the operator in an exported program, which has no modules to hook."""

    def __init__(self, names: list[str], call: Callable[..., None]) -> None:
        super().__init__()
        self.names, self.call, self.seen = names, call, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.opau.orthogonal_pade.default:
            name = self.names[self.seen] if self.seen < len(self.names) else ""
            self.seen += 1
            basis, form, degrees, groups, axis = args[3:8]
            self.call(name, Config(basis, form, (degrees[0], degrees[1]), groups, axis), args[:3], result)
        return result


def _names(program: torch.fx.GraphModule) -> list[str]:
    """The module of each call, as torch.export recorded it."""
    calls = [n for n in program.graph.nodes if n.target is torch.ops.opau.orthogonal_pade.default]
    stacks = [list((n.meta.get("nn_module_stack") or {"": ("", "")}).values()) for n in calls]
    return [str(stack[-1][0]) for stack in stacks]


def match(sites: Sequence[ActivationLocation], model: nn.Module) -> list[tuple[ActivationLocation, Key | None, str]]:
    """Each site with the call that it stands for, or None and why not.

    Calls of one module are taken in the order of the graph.
    """
    if isinstance(model, torch.fx.GraphModule):
        names = {name: name for name in _names(model)}
    else:
        first = {id(m): name for name, m in reversed(list(model.named_modules())) if isinstance(m, OrthogonalPade)}
        every = dict(model.named_modules(remove_duplicate=False))
        names = {name: first[id(m)] for name, m in every.items() if id(m) in first}
    counts: Counter[str] = Counter()
    found: list[tuple[ActivationLocation, Key | None, str]] = []
    for site in sites:
        name = names.get(site.module)
        if name is None:
            said = f"the module {site.module!r}" if site.module else "no module"
            found.append((site, None, f"the file names {said}, and the model has no activation of that name"))
            continue
        found.append((site, (name, counts[name]), ""))
        counts[name] += 1
    return found


class WithActivations(nn.Module):
    """A model that also returns what its activations take and give: [outputs, [x, y, x, y, ..]].

    Attributes:
        keys: of the activations, in the order of the calls of the last run.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source
        self.keys: list[Key] = []

    def train(self, mode: bool = True) -> WithActivations:
        """Nothing: an exported program refuses it, and others are in evaluation mode already."""
        return self

    def forward(self, *inputs: Tensor) -> Any:
        """Outputs and taps."""
        self.keys.clear()
        taps: list[Tensor] = []

        def keep(call: Call) -> None:
            self.keys.append(call.key)
            taps.extend((call.x, call.y))

        with activation_hooks(self.source, keep):
            return [self.source(*inputs), taps]
