"""Architectures by name, and the small trained checkpoints that are shipped beside them.

Importing this package loads no torch; :func:`create` does. Each checkpoint ``<name>.pt`` has a card ``<name>.json``
that says how it was trained and what it reaches.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opau_onnx.errors import LoadError

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES: dict[str, str] = {
    "lenet": "opau_onnx.models.lenet:LeNet",
    "preact_resnet18": "opau_onnx.models.preact_resnet:preact_resnet18",
    "preact_resnet34": "opau_onnx.models.preact_resnet:preact_resnet34",
    "mobilenet_v2": "opau_onnx.models.mobilenet_v2:MobileNetV2",
    "efficientnet_b0": "opau_onnx.models.efficientnet:EfficientNetB0",
}
"""Architecture name -> ``module:class`` (or a function). Its arguments must be JSON data, since checkpoints hold them."""


def create(architecture: str, **arguments: Any) -> nn.Module:
    """A new model with fresh weights, in training mode.

    Args:
        architecture: a key of :data:`ARCHITECTURES`.
        arguments: of its class: ``activation``, ``classes``, ``channels`` of all of them.

    Raises:
        LoadError: an unknown architecture, an argument that it does not take or lacks, or a value it does not know.
    """
    if architecture not in ARCHITECTURES:
        raise LoadError(f"unknown architecture {architecture!r}; expected one of {', '.join(ARCHITECTURES)}")
    module, _, name = ARCHITECTURES[architecture].partition(":")
    factory = getattr(import_module(module), name)
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise LoadError(f"{architecture}: {error}; it is made with {signature}") from None
    model: nn.Module = factory(**arguments)
    return model


def path(name: str) -> Path:
    """The file of a shipped checkpoint, for the commands and :func:`opau_onnx.load`.

    Args:
        name: "lenet_hp1", "lenet_hp2" or "lenet_relu", or the file's whole name without ".pt". The card lies beside it:
            ``path(name).with_suffix(".json")``.

    Raises:
        LoadError: no checkpoint of that name is shipped.
    """
    shipped = {file.stem: file for file in sorted(Path(__file__).resolve().parent.glob("*.pt"))}
    found = [file for stem, file in shipped.items() if name in (stem, stem.removesuffix("_fashion_mnist"))]
    if len(found) != 1:
        raise LoadError(f"there is no shipped checkpoint {name!r}; expected one of {', '.join(shipped) or '(none)'}")
    return found[0]
