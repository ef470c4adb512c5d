"""Models as their users call them, as functions of tensors: keyword and nested inputs, results of any structure.

What follows knows models that take tensors in order and return tensors. :func:`called` gives any other model that shape, in a
copy of the module that shares all its weights, so that names stay what they are.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from opau_onnx.errors import ExportError, LoadError
from opau_onnx.nn.casting import input_names


def read_inputs(path: Path | str) -> Any:
    """Example inputs in a .npz file: a mapping by argument names, or a tuple where numpy numbered the arrays.

    Raises:
        LoadError: the file cannot be read, or holds Python objects.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as content:
            found = dict(content) if hasattr(content, "files") else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise LoadError(f"{path} cannot be read as example inputs: {error}") from None
    if not found:
        raise LoadError(f"{path} holds no arrays by name; expected what numpy.savez writes")
    numbered = [f"arr_{i}" for i in range(len(found))]
    return tuple(found[name] for name in numbered) if set(found) == set(numbered) else found


class Leaf(NamedTuple):
    """One part of a result: its keys, and what it is."""

    path: tuple[str, ...]
    value: Any


class Arguments(NamedTuple):
    """How a model is called: tensors where the values of ``names`` go, and everything else as it was given."""

    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: tuple[Tensor, ...]
    fixed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Stands for the i-th tensor."""

    index: int


def arguments(model: nn.Module, inputs: Any) -> Arguments:
    """Example inputs, as a model takes them.

    Args:
        model: whose argument names are wanted.
        inputs: a tensor; a sequence of positional arguments; or a mapping of keyword arguments. Each may be a tensor or a numpy
            array, None or a plain value (which is fixed in the file), or a list, tuple or dict of these.

    Raises:
        ExportError: there is no tensor, or a keyword that the model does not take.
    """
    if isinstance(inputs, (Tensor, np.ndarray)):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        _check_keywords(model, inputs)
        given = [(str(name), value) for name, value in inputs.items()]
    else:
        given = list(zip(input_names(model, len(inputs or ())), inputs or (), strict=True))
    tensors: list[Tensor] = []
    names: list[str] = []
    fixed: list[str] = []
    values: dict[str, Any] = {}
    for name, value in given:
        leaves, spec = pytree.tree_flatten(value)
        slots: list[Any] = []
        for i, leaf in enumerate(leaves):
            leaf = torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf
            own = name if len(leaves) == 1 else f"{name}_{i}"
            if isinstance(leaf, Tensor):
                slots.append(_Slot(len(tensors)))
                # Clones: torch.export takes one tensor that is given twice for one input.
                tensors.append(leaf.detach().clone())
                names.append(_unique(re.sub(r"\W", "_", own), names))
            else:
                slots.append(leaf)
                fixed += [] if leaf is None else [f"the input {own!r} is fixed to {leaf!r}"]
        values[name] = pytree.tree_unflatten(slots, spec)
    if not tensors:
        raise ExportError("a module needs example inputs, tensors: export_model(module, path, inputs)")
    keywords = values if isinstance(inputs, Mapping) else {}
    args = () if isinstance(inputs, Mapping) else tuple(values.values())
    return Arguments(tuple(names), args, dict(keywords), tuple(tensors), tuple(fixed))


def _check_keywords(model: nn.Module, inputs: Mapping[Any, Any]) -> None:
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [str(name) for name in inputs if name not in known]
    if unknown:
        raise ExportError(f"the inputs name {', '.join(map(repr, unknown))}; the model takes {', '.join(known)}")


def _unique(name: str, taken: Sequence[str]) -> str:
    found, count = name, 1
    while found in taken:
        found, count = f"{name}_{count}", count + 1
    return found


def leaves(result: Any, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """The parts of a model's result, in the order of an exported file's outputs: of dicts, sequences, dataclasses."""
    if isinstance(result, Tensor):
        yield Leaf(path, result)
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from leaves(value, (*path, str(key)))
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        for key, value in zip(result._fields, result, strict=True):
            yield from leaves(value, (*path, str(key)))
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            yield from leaves(getattr(result, field.name), (*path, field.name))
    elif isinstance(result, (list, tuple)):
        for i, value in enumerate(result):
            yield from leaves(value, (*path, str(i)))
    else:
        yield Leaf(path, result)


def _plain_result(result: Any) -> bool:
    if isinstance(result, Tensor):
        return True
    flat = list(result.values()) if type(result) is dict else list(result) if type(result) in (list, tuple) else [None]
    return bool(flat) and all(isinstance(v, Tensor) for v in flat)


class Called(NamedTuple):
    """A model as a function of tensors.

    Attributes:
        model: takes ``inputs`` in order; the module itself where it is called so already.
        inputs: the example inputs.
        outputs: names of the outputs; None where the result's own structure names them.
        notes: what a file cannot hold, and what was fixed.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] | None
    notes: tuple[str, ...]


def called(model: nn.Module, given: Arguments) -> Called:
    """A model that takes a call's tensors in order and returns the result's tensors as a tuple.

    Raises:
        ExportError: the result holds no tensor.
    """
    simple = not given.kwargs and all(isinstance(a, _Slot) for a in given.args)
    result = _tried(model, given)
    if result is _FAILED or (simple and _plain_result(result)):
        return Called(model, given.tensors, None, given.fixed)
    found = list(leaves(result))
    kept = [leaf for leaf in found if isinstance(leaf.value, Tensor)]
    if not kept:
        raise ExportError(f"the model returns {type(result).__name__} without a tensor in it; there is nothing to export")
    left = tuple(
        f"the output {_name(leaf.path)!r} is {_said(leaf.value)}, which a file does not hold: left out"
        for leaf in found
        if not isinstance(leaf.value, Tensor)
    )
    numbered = len(kept) > 1 and not isinstance(result, Mapping)
    names = [_name(leaf.path) or "output" for leaf in kept]
    if numbered and all(name.isdigit() for name in names):
        names = [f"output_{i}" for i in range(len(kept))]
    elif len(kept) == 1 and names[0].isdigit():
        names = ["output"]
    names = [f"output_{n}" if n[0].isdigit() else n for n in names]
    return Called(_adapted(model, given), given.tensors, tuple(names), given.fixed + left)


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _said(value: Any) -> str:
    return "None" if value is None else f"{value!r}" if isinstance(value, (bool, int, float, str)) else type(value).__name__


_FAILED = object()


def _tried(model: nn.Module, given: Arguments) -> Any:
    """The result on the example inputs; what fails here fails in the export, with its message."""
    try:
        with torch.no_grad():
            return model(*_filled(given.args, given.tensors), **_filled(given.kwargs, given.tensors))
    except Exception:  # the model's own code
        return _FAILED


def _filled(values: Any, tensors: Sequence[Tensor]) -> Any:
    return pytree.tree_map(lambda v: tensors[v.index] if isinstance(v, _Slot) else v, values)


def _adapted(model: nn.Module, given: Arguments) -> nn.Module:
    """A module of a class of its own that shares everything with ``model``; torch.export names inputs after the signature."""
    base = type(model)

    def forward(self: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = base.forward(self, *_filled(given.args, tensors), **_filled(given.kwargs, tensors))
        return tuple(leaf.value for leaf in leaves(result) if isinstance(leaf.value, Tensor))

    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kinds) for n in ("self", *(f"{n}_" if n == "self" else n for n in given.names))]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    adapted = copy.copy(model)
    adapted.__class__ = type(base.__name__, (base,), {"forward": forward, "__module__": base.__module__})
    vars(adapted).pop("forward", None)
    return adapted
