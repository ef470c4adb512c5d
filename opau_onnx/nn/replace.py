"""Swapping the activations of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from opau_onnx.errors import ReplacementError
from opau_onnx.nn.modules import HP1

RELU_AND_KIN: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish,
)  # fmt: skip
"""Activations that are swapped by default. Tanh and Sigmoid often are gates, so they are swapped only where asked for."""


def replace_activations(
    model: nn.Module,
    factory: Callable[..., nn.Module] = HP1,
    *,
    classes: Iterable[type[nn.Module]] = RELU_AND_KIN,
    names: str | Iterable[str] | None = None,
    imitate: bool = False,
    **options: Any,
) -> nn.Module:
    """Swap activation modules for learned ones, in place.

    Args:
        model: any module; activations that it calls as functions (``F.relu``) are out of reach.
        factory: called as ``factory(**options)`` for each module to swap.
        classes: which modules to swap, subclasses included.
        names: qualified names, shell patterns allowed (``"layer1.*"``); only these are swapped, whatever their class if
            ``classes`` is ``(nn.Module,)``.
        imitate: fit each new activation to the one that it takes the place of (passes it as ``init``).
        options: keyword arguments of ``factory``.

    Returns:
        The model; a new module where the model itself is an activation.

    A module that stands at several places is swapped for one module at all of them, so what was shared stays shared. New
    modules take device and training mode from the model.

    Raises:
        ReplacementError: nothing matches, or a name that matches nothing.
    """
    kinds = tuple(classes)
    patterns = [names] if isinstance(names, str) else None if names is None else list(names)
    places = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, kinds) and (patterns is None or any(fnmatchcase(name, p) for p in patterns))
    ]
    _check(model, places, kinds, patterns)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    swapped: dict[int, nn.Module] = {}
    for name, old in places:
        if id(old) not in swapped:
            extra = {"init": _imitation(old)} if imitate else {}
            swapped[id(old)] = factory(**options, **extra).to(device).train(old.training)
        model = put(model, name, swapped[id(old)])
    return model


def put(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Set the module of a qualified name and return the model; the new module where the name is "", the model's own."""
    if not name:
        return new
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    setattr(holder, child, new)
    if isinstance(holder, nn.TransformerEncoderLayer):
        # Without this its fused inference path would go on computing the ReLU or GELU that it was made with.
        holder.activation_relu_or_gelu = 0
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
        "Activations called as functions (F.relu) must become modules first."
    )


def _imitation(old: nn.Module) -> Callable[[Any], Any]:
    import copy

    frozen = copy.deepcopy(old).double().cpu().eval()

    def imitate(x: Any) -> Any:
        with torch.no_grad():
            return frozen(torch.as_tensor(x)).numpy()

    imitate.__name__ = type(old).__name__
    return imitate
