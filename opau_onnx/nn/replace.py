"""Swapping the activations of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from opau_onnx.errors import ReplacementError
from opau_onnx.nn.copying import copy_module
from opau_onnx.nn.modules import HP1
from opau_onnx.nn.transformers import settle

RELU_AND_KIN: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish,
)  # fmt: skip
"""Activations that are swapped by default. Tanh and Sigmoid often are gates, so they are swapped only where asked for."""


BY_NAME: dict[str, tuple[str, ...]] = {
    "transformers": (
        "GELUActivation", "NewGELUActivation", "FastGELUActivation", "QuickGELUActivation", "ClippedGELUActivation",
        "AccurateGELUActivation", "GELUTanh", "PytorchGELUTanh", "MishActivation", "LaplaceActivation",
        "ReLUSquaredActivation", "SiLUActivation", "XIELUActivation",
    ),
    "timm": (
        "Swish", "Mish", "HardSwish", "HardMish", "PReLU", "GELU", "GELUTanh", "QuickGELU", "SwishMe", "MishMe",
        "HardSwishMe", "HardMishMe", "SwishJit", "MishJit", "HardSwishJit", "HardMishJit",
    ),
    "diffusers": ("FP32SiLU",),
}  # fmt: skip
"""Package -> names of its activation classes, swapped by default too; none of the packages is imported. Gates and classes that
hold a projection besides, as diffusers' GELU and GEGLU do, are none of these."""


def is_activation(module: nn.Module) -> bool:
    """True for what is swapped by default: :data:`RELU_AND_KIN` and :data:`BY_NAME`."""
    if isinstance(module, RELU_AND_KIN):
        return True
    return any(kind.__name__ in BY_NAME.get(kind.__module__.partition(".")[0], ()) for kind in type(module).__mro__)


def replace_activations(
    model: nn.Module,
    factory: Callable[..., nn.Module] = HP1,
    *,
    classes: Iterable[type[nn.Module]] | None = None,
    names: str | Iterable[str] | None = None,
    imitate: bool = False,
    share: bool = True,
    example: Any = None,
    **options: Any,
) -> nn.Module:
    """Swap activation modules for learned ones, in place.

    Args:
        model: any module; activations that it calls as functions (``F.relu``) are out of reach here:
            :func:`opau_onnx.nn.replace_calls` swaps those.
        factory: called as ``factory(**options)`` for each module to swap.
        classes: which modules to swap, subclasses included; None for PyTorch's (:data:`RELU_AND_KIN`) and those of
            transformers, timm and diffusers (:data:`BY_NAME`).
        names: qualified names, shell patterns allowed (``"layer1.*"``); only these are swapped, whatever their class if
            ``classes`` is ``(nn.Module,)``.
        imitate: fit each new activation to the one that it takes the place of (passes it as ``init``).
        share: a module that stands at several places is swapped for one module at all of them, so what was shared stays
            shared; False for one at each place, each with coefficients of its own.
        example: inputs of the model, a tensor or a tuple; where ``groups="channel"`` is among the options it is run once, and
            each new activation gets as many groups as its input has channels.
        options: keyword arguments of ``factory``.

    Returns:
        The model; a new module where the model itself is an activation.

    New modules take training mode, device and, where that is float64, dtype from what stands around them; in 16-bit models
    their coefficients are float32.

    Raises:
        ReplacementError: nothing matches, a name that matches nothing, or channels that ``example`` does not tell.
    """
    kinds = None if classes is None else tuple(classes)
    patterns = [names] if isinstance(names, str) else None if names is None else list(names)
    places = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if (is_activation(module) if kinds is None else isinstance(module, kinds))
        and (patterns is None or any(fnmatchcase(name, p) for p in patterns))
    ]
    outer = {f"{name}." if name else "" for name, _ in places}
    places = [(name, old) for name, old in places if not any(name != p[:-1] and name.startswith(p) for p in outer)]
    _check(model, places, kinds or RELU_AND_KIN, patterns)
    channels = _channels(model, places, example, options.get("axis", 1)) if options.get("groups") == "channel" else {}
    swapped: dict[int, nn.Module] = {}
    new: list[tuple[str, nn.Module]] = []
    for name, old in places:
        made = swapped.get(id(old)) if share else None
        if made is None:
            extra: dict[str, Any] = {"init": _imitation(old)} if imitate else {}
            extra |= {"groups": channels[id(old)]} if channels else {}
            made = swapped[id(old)] = settled(factory(**{**options, **extra}), model, name).train(old.training)
        new.append((name, made))
    for name, made in new:
        model = put(model, name, made)
    return model


def settled(module: nn.Module, model: nn.Module, name: str) -> nn.Module:
    """A new module on the device, and in float64 where that is the dtype, of what stands around its place."""
    around = model
    holders = [name.rpartition(".")[0]]
    while holders[-1]:
        holders.append(holders[-1].rpartition(".")[0])
    for holder in holders:
        around = model.get_submodule(holder)
        if any(p.is_floating_point() for p in around.parameters()):
            break
    first = next((p for p in around.parameters() if p.is_floating_point()), None)
    if first is None:
        return module
    return module.to(first.device, torch.float64) if first.dtype == torch.float64 else module.to(first.device)


def _channels(model: nn.Module, places: list[tuple[str, nn.Module]], example: Any, axis: int) -> dict[int, int]:
    """id of each module -> the channels of its input, from one run."""
    if example is None:
        raise ReplacementError('groups="channel" needs an example input: replace_activations(.., example=x)')
    found: dict[int, set[int]] = {id(old): set() for _, old in places}

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if not -x.dim() <= axis < x.dim():
            raise ReplacementError(f"the input of an activation has shape {tuple(x.shape)}, which has no axis {axis}")
        found[id(module)].add(int(x.shape[axis]))

    hooks = [old.register_forward_pre_hook(look) for old in {id(old): old for _, old in places}.values()]
    try:
        with torch.no_grad(), evaluating(model):
            model(*(example if isinstance(example, (tuple, list)) else (example,)))
    finally:
        for hook in hooks:
            hook.remove()
    for name, old in places:
        sizes = sorted(found[id(old)])
        if len(sizes) != 1:
            seen = f"gets {' and '.join(map(str, sizes))} channels at different places" if sizes else "was not called"
            raise ReplacementError(
                f"{name or 'the model'} {seen} on the example; give groups as a number, or its names apart (share=False does "
                "not tell the places of one module apart)"
            )
    return {key: sizes.pop() for key, sizes in found.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode, so that a run leaves no trace in batch norms."""
    before = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def put(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Set the module of a qualified name and return the model; the new module where the name is "", the model's own."""
    if not name:
        return new
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    setattr(holder, child, new)
    settle(model, parent, holder)
    return model


def _check(
    model: nn.Module,
    places: list[tuple[str, nn.Module]],
    kinds: tuple[type[nn.Module], ...],
    patterns: list[str] | None,
) -> None:
    missed = [p for p in patterns or [] if not any(fnmatchcase(name, p) for name, _ in places)]
    if places and not missed:
        return
    wanted = ", ".join(k.__name__ for k in kinds)
    what = f"names {missed} match no module" if missed else "no module"
    found = sorted({type(m).__name__ for m in model.modules()})
    raise ReplacementError(
        f"{what} of the classes {wanted}; the model holds {', '.join(found)}. "
        "Activations called as functions (F.relu) are swapped by replace_calls."
    )


def _imitation(old: nn.Module) -> Callable[[Any], Any]:
    frozen = copy_module(old).double().cpu().eval()

    def imitate(x: Any) -> Any:
        with torch.no_grad():
            return frozen(torch.as_tensor(x)).numpy()

    imitate.__name__ = type(old).__name__
    return imitate
