"""Activations that a model calls as functions (``F.gelu``, ``torch.relu``), swapped for learned modules.

Each call site, a place in a module's code, gets a module of its own under that module's ``learned_calls``; while the model
runs, hooks on it send the calls there. The model's code stays as it is, so that copies, pickles and torch.export keep it whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from opau_onnx.errors import ReplacementError
from opau_onnx.nn.modules import HP1
from opau_onnx.nn.replace import evaluating, is_activation, settled

_NAMES = ("relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "hardswish")
_RELUS = (functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
FUNCTIONS: dict[Any, str] = {**dict.fromkeys(_RELUS, "relu"), **{getattr(functional, name): name for name in _NAMES}}
"""Functions that are swapped by default -> a name for people. Tanh and sigmoid often are gates: only where asked for."""
HOLDER = "learned_calls"


class CallSite(NamedTuple):
    """A place in a module's code that calls an activation.

    Attributes:
        module: qualified name of the module whose code it is.
        key: of the new activation in the module's ``learned_calls``.
        function: what was called.
        file, line: where.
    """

    module: str
    key: str
    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.module or 'the model'}: {self.function} in {Path(self.file).name}, line {self.line}"


class Calls(NamedTuple):
    """Result of :func:`replace_calls`: the model, and the places that were swapped."""

    model: nn.Module
    sites: tuple[CallSite, ...]


def replace_calls(
    model: nn.Module,
    example: Any,
    factory: Callable[..., nn.Module] = HP1,
    *,
    functions: Iterable[Callable[..., Any]] = tuple(FUNCTIONS),
    names: str | Iterable[str] | None = None,
    imitate: bool = False,
    **options: Any,
) -> Calls:
    """Swap the activations that a model calls as functions for learned modules, in place.

    Args:
        model: any module; those that stand in it as modules are left to :func:`opau_onnx.nn.replace_activations`.
        example: inputs, a tensor or a tuple: one run of the model shows which calls there are.
        factory, options: as for :func:`opau_onnx.nn.replace_activations`.
        functions: which calls to swap.
        names: qualified names of the modules whose calls are swapped, shell patterns allowed; None for all.
        imitate: fit each new activation to the call that it takes the place of, with the arguments of that call.

    Returns:
        The model and the places, each told with its line of code.

    Calls that the example does not reach stay as they are. In a call that works in place the tensor takes the new values.

    Raises:
        ReplacementError: no such call.
    """
    wanted = set(functions)
    patterns = [names] if isinstance(names, str) else None if names is None else list(names)
    known = {id(m): name for name, m in reversed(list(model.named_modules(remove_duplicate=False)))}
    seen: dict[tuple[int, str], tuple[CallSite, nn.Module, Callable[[Any], Any]]] = {}

    def record(module: nn.Module, key: str, frame: FrameType, func: Any, args: Any, kwargs: Any) -> None:
        name = known.get(id(module))
        if name is None or is_activation(module) or (patterns and not any(fnmatchcase(name, p) for p in patterns)):
            return
        said = FUNCTIONS.get(func, getattr(func, "__name__", str(func)))
        site = CallSite(name, key, said, frame.f_code.co_filename, frame.f_lineno)
        seen.setdefault((id(module), key), (site, module, _imitation(func, args[1:], kwargs, said)))

    with torch.no_grad(), evaluating(model), _Recording(wanted, record):
        model(*(example if isinstance(example, (tuple, list)) else (example,)))
    if not seen:
        raise ReplacementError(
            f"the model called none of {', '.join(sorted({FUNCTIONS.get(f, str(f)) for f in wanted}))} as a function on the "
            "example; activations that are modules are swapped by replace_activations"
        )
    for site, module, function in seen.values():
        if HOLDER not in module._modules:
            module.add_module(HOLDER, nn.ModuleDict())
        extra = {"init": function} if imitate else {}
        new = settled(factory(**options, **extra), model, f"{site.module}.x" if site.module else "x")
        module._modules[HOLDER][site.key] = new.train(module.training)  # type: ignore[index, operator]
    model.register_forward_pre_hook(_Begin(), with_kwargs=True)
    model.register_forward_hook(_End(), always_call=True)
    return Calls(model, tuple(site for site, _, _ in seen.values()))


def _imitation(func: Any, args: Any, kwargs: Any, name: str) -> Callable[[Any], Any]:
    kwargs = {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}

    def imitate(x: Any) -> Any:
        with torch.no_grad():
            return func(torch.as_tensor(x).clone(), *args, **kwargs).numpy()

    imitate.__name__ = name
    return imitate


def _caller() -> tuple[nn.Module, str, FrameType] | None:
    """The innermost module whose code is running, the place in it, and its frame."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        found = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None  # usually called self
        if code.co_name.startswith("torch_dynamo_resume"):
            raise ReplacementError(
                "torch.compile rewrites the code that calls activations as functions, so that swapped calls would be lost; run "
                "the model eagerly, or make the activations modules"
            )
        if isinstance(found, nn.Module) and not isinstance(found, torch.fx.GraphModule):
            return found, f"{frame.f_code.co_name}_{frame.f_lineno}_{frame.f_lasti}", frame
        frame = frame.f_back
    return None


class _Recording(TorchFunctionMode):
    """Tells of every wanted call."""

    def __init__(self, wanted: set[Any], record: Callable[..., None]) -> None:
        super().__init__()
        self.wanted, self.record = wanted, record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.wanted:
            caller = _caller()
            if caller is not None:
                self.record(*caller, func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _Diverting(TorchFunctionMode):
    """Sends calls to the modules that stand for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        caller = _caller() if func in _DIVERTED else None
        holder = None if caller is None else caller[0]._modules.get(HOLDER)
        if caller is None or holder is None or caller[1] not in holder:  # type: ignore[operator]
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        act = holder[caller[1]]  # type: ignore[index]
        if kwargs.get("inplace") or getattr(func, "__name__", "").endswith("_"):
            return x.copy_(act(x.clone()))  # the backward pass needs what stood there
        return act(x)


_DIVERTED: set[Any] = {*FUNCTIONS, functional.tanh, torch.tanh, Tensor.tanh, functional.sigmoid, torch.sigmoid, Tensor.sigmoid}


class _Hook:
    """A hook that torch.compile does not look into. The first one loads torch._dynamo, which takes as long as torch does."""

    def __new__(cls) -> Self:
        kind: Any = cls
        _hide(kind)
        return super().__new__(cls)


@cache
def _hide(kind: Any) -> None:
    kind.__call__ = torch.compiler.disable(kind.__call__)  # type: ignore[no-untyped-call]


class _Begin(_Hook):
    """Hook before a model's forward."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        mode = _Diverting()
        mode.__enter__()  # type: ignore[no-untyped-call]
        vars(module).setdefault("_learned_calls_modes", []).append(mode)


class _End(_Hook):
    """Hook after a model's forward, also where it raised."""

    def __call__(self, module: nn.Module, args: Any, result: Any) -> None:
        modes = vars(module).get("_learned_calls_modes")
        if modes:
            modes.pop().__exit__(None, None, None)
