"""An ONNX file in the place of the PyTorch model: other files are compared with what onnxruntime makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from opau_onnx.compare.examples import example_inputs
from opau_onnx.errors import ValidationError
from opau_onnx.graph.whole import read_model
from opau_onnx.io.calling import read_inputs
from opau_onnx.io.source import sha256


@dataclass(frozen=True)
class OnnxModel:
    """The file that others are compared with; has of :class:`opau_onnx.io.source.Source` what reports need.

    Attributes:
        path: of the file.
        names: of its inputs.
        inputs: example inputs, one tensor for each.
        name: the file's name without its folder.
        sha256: of the file's bytes.
    """

    path: Path
    names: list[str]
    inputs: tuple[Tensor, ...]
    name: str
    sha256: str
    kind: ClassVar[str] = "ONNX file"
    adopted: ClassVar[tuple[Any, ...]] = ()
    original: ClassVar[None] = None


def read_onnx_model(
    path: Path, inputs: Any = None, shapes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None = None, seed: int = 0
) -> OnnxModel:
    """Read the file that others are compared with.

    Args:
        path: of the file, with the weights beside it where they are stored so.
        inputs: example inputs: a tensor or an array, several in the order of the file's inputs, or by their names; or a .npz
            file of them. None for random ones.
        shapes: of random inputs whose axes, other than the first, are open: in order or by name.
        seed: of the random inputs.

    Raises:
        LoadError: the file, or the inputs, cannot be read.
        ValidationError: the inputs are not those of the file, or the shapes do not fit.
    """
    model = read_model(path)
    names = [str(v.name) for v in model.graph.inputs]
    if isinstance(inputs, (str, Path)):
        inputs = read_inputs(inputs)
    examples = example_inputs(model, shapes or {}, seed) if inputs is None else _given(path, names, inputs)
    return OnnxModel(path, names, examples, path.name, sha256(path))


def _given(path: Path, names: list[str], inputs: Any) -> tuple[Tensor, ...]:
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ValidationError(f"{path} has the inputs {', '.join(names)}; given are {', '.join(map(str, inputs))}")
        inputs = [inputs[name] for name in names]
    elif not isinstance(inputs, (tuple, list)):
        inputs = [inputs]
    if len(inputs) != len(names):
        raise ValidationError(f"{path} has {len(names)} inputs ({', '.join(names)}); {len(inputs)} are given")
    return tuple(torch.as_tensor(x) for x in inputs)
