"""The models that scripts/models_table.py looks at: random weights, or a checkpoint's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from opau_onnx import models
from opau_onnx.config import Data
from opau_onnx.errors import LoadError
from opau_onnx.io import torch_files
from opau_onnx.io.source import Source, as_source, load
from opau_onnx.nn import OrthogonalPade

CIFAR: dict[str, dict[str, Any]] = {"lenet": {"channels": 3, "size": 32}}
"""Arguments that the form for CIFAR takes, other than the defaults."""
IMAGE = (3, 32, 32)
NUDGE = 0.05
"""Spread of the factors that make every activation's coefficients its own."""
NORM_BATCHES, NORM_BATCH = 4, 32


@dataclass
class Model:
    """One row of the tables.

    Attributes:
        architecture, activation, weights: what it is.
        random: whether the weights are.
        source: the model.
        relu: the same network with ReLU and random weights, for times.
        data: inputs.
        found: what came out, plain data.
        files: name in the tables -> file.
    """

    architecture: str
    activation: str
    weights: str
    random: bool
    source: Source
    relu: nn.Module
    data: Data
    found: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.activation}"

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """Models of one kind are timed together: the architecture and the shape of an image."""
        return self.architecture, tuple(self.source.inputs[0].shape[1:])


def random_model(architecture: str, activation: str, folder: Path, seed: int, samples: int) -> Model:
    """In the form for CIFAR."""
    arguments = {"activation": activation, **CIFAR.get(architecture, {})}
    source = as_source(network(architecture, arguments, seed, IMAGE), images(2, IMAGE, seed))
    relu = network(architecture, {**arguments, "activation": "relu"}, seed, IMAGE)
    data = Data(random_data(folder, samples, IMAGE, seed), samples)
    return Model(architecture, activation, f"random, seed {seed}", True, source, relu, data)


def trained_model(path: Path, folder: Path, seed: int, samples: int, data: str | None) -> Model:
    """Of a checkpoint, with the data that were named, or random ones.

    Raises:
        LoadError: it is no checkpoint, or cannot be read.
    """
    source = load(path)
    if source.kind != "checkpoint":
        raise LoadError(f"{path} is a {source.kind}; expected a checkpoint, as scripts/train.py writes it")
    content = torch_files.load_plain(path)
    architecture, arguments = content["architecture"], content["arguments"]
    shape = tuple(source.inputs[0].shape[1:])
    relu = network(architecture, {**arguments, "activation": "relu"}, seed, shape)
    inputs = data or random_data(folder, samples, shape, seed)
    return Model(architecture, str(arguments.get("activation")), path.name, False, source, relu, Data(inputs, samples))


def network(architecture: str, arguments: dict[str, Any], seed: int, shape: Sequence[int]) -> nn.Module:
    """With random weights, in evaluation mode."""
    torch.manual_seed(seed)
    model: nn.Module = models.create(architecture, **arguments).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, OrthogonalPade):
                for coefficients in (module.numerator, module.denominator):
                    coefficients.mul_(1 + NUDGE * torch.randn(coefficients.shape))
        settle(model, shape)
    return model


def settle(model: nn.Module, shape: Sequence[int]) -> None:
    """Give the batch norms statistics of random images, as training would leave them, instead of 0 and 1."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for _ in range(NORM_BATCHES if norms else 0):
        model(torch.randn(NORM_BATCH, *shape))
    model.eval()


def images(count: int, shape: Sequence[int], seed: int) -> torch.Tensor:
    """Normal numbers, as normalized images have them on average."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def random_data(folder: Path, count: int, shape: Sequence[int], seed: int) -> Path:
    """A file of them, made once for each shape."""
    path = folder / f"random_{'x'.join(map(str, shape))}.npz"
    np.savez(path, images=images(count, shape, seed).numpy())
    return path
