"""Checkpoints: the file that training writes, and its safe reading.

A checkpoint is what ``torch.save`` makes of one dict of plain data and tensors, so ``weights_only`` loading reads it and no
code in it can run:

    format        "opau_onnx.checkpoint/1"
    architecture  a name that :mod:`opau_onnx.models` knows
    arguments     its keyword arguments (JSON data)
    state_dict    the weights
    example_input a batch of real inputs
    training      how it was trained (JSON data)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.errors import LoadError
from opau_onnx.io.atomic import replacing
from opau_onnx.nn import OrthogonalPade, loading
from opau_onnx.nn.modules import unfitted

FORMAT = "opau_onnx.checkpoint/1"


def save_checkpoint(
    path: Path,
    *,
    architecture: str,
    arguments: dict[str, Any],
    model: nn.Module,
    example_input: Tensor,
    training: dict[str, Any],
) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Raises:
        TypeError: ``arguments`` or ``training`` is not JSON data.
    """
    json.dumps([arguments, training])
    state = {name: _plain(value) for name, value in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "architecture": architecture,
        "arguments": arguments,
        "state_dict": state,
        "example_input": _plain(example_input),
        "training": training,
    }
    # Through a stream: given a path, torch.save writes the (temporary) name into the file, which would change its hash.
    with replacing(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def _plain(value: Any) -> Any:
    """A copy, since torch.save writes the whole storage that a view looks at; extra states may be other than tensors."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def is_checkpoint(content: object) -> bool:
    """True for a checkpoint of this package, of any version."""
    return isinstance(content, dict) and str(content.get("format", "")).startswith("opau_onnx.checkpoint/")


def build(content: dict[str, Any], path: Path) -> tuple[nn.Module, Tensor]:
    """The model of a loaded checkpoint, in evaluation mode, and its example input.

    Raises:
        LoadError: another version, a missing or wrong part, or weights that do not fit the architecture.
    """
    from opau_onnx import models

    if content["format"] != FORMAT:
        raise LoadError(f"{path} is a checkpoint of format {content['format']!r}; this version reads {FORMAT!r}")
    missing = {"architecture", "arguments", "state_dict", "example_input"} - content.keys()
    if missing:
        raise LoadError(f"{path} is a checkpoint without {', '.join(sorted(missing))}; write it with save_checkpoint")
    architecture, arguments, example = (content[k] for k in ("architecture", "arguments", "example_input"))
    if not (isinstance(architecture, str) and isinstance(arguments, dict) and isinstance(example, Tensor)):
        raise LoadError(f"{path} is a checkpoint whose architecture, arguments or example_input is not of the right kind")
    try:
        with unfitted():
            model = models.create(architecture, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoadError(f"{path}: {architecture} cannot be made with {arguments}: {error}") from None
    load_weights(model, content["state_dict"], path)
    return model.eval(), example


def load_weights(model: nn.Module, state: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """``load_state_dict(strict=True)``, taking the dtype of floating weights from the file.

    Returns:
        What had to be assumed, since the state does not say which functions its coefficients belong to.

    Raises:
        LoadError: names or shapes that differ, or coefficients of another function, in one message.
    """
    assumed = _undeclared(model, state)
    try:
        model.load_state_dict({**state, **assumed}, strict=True, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise LoadError(f"the weights in {path} do not fit {type(model).__name__}: {error}") from None
    if not assumed:
        return ()
    configs = dict.fromkeys(str(loading.read(v)) for v in assumed.values())
    return (f"{path.name}: {loading.ASSUMED}: {'; '.join(configs)}",)


def _undeclared(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """The extra states of the activations whose coefficients a state_dict holds without saying their function."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        if not isinstance(module, OrthogonalPade) or prefix + loading.EXTRA_STATE in state:
            continue
        if loading.has_coefficients(state, prefix):
            found[prefix + loading.EXTRA_STATE] = module.get_extra_state()
    return found
