"""A network with its preprocessing inside, its files, and faults that are planted in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import opau_onnx
from opau_onnx.nn import HP1, HP2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue: the most used preprocessing there is."""


class Classifier(nn.Module):
    """Pictures of three colours, (N, 3, 8, 8) from 0 to 1, to (N, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)
        self.first = HP1()
        self.narrow = nn.Conv2d(4, 4, 3)
        self.second = HP2(groups=2)
        self.head = nn.Linear(64, 7)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.first(self.conv((pictures - self.mean) / self.std))
        return self.head(self.second(self.narrow(x)).flatten(1))


def classifier() -> nn.Module:
    torch.manual_seed(3)
    model = Classifier().eval()
    with torch.no_grad():  # rows that differ, as after training
        model.second.numerator[1] *= 1.5
        model.second.denominator[1] *= 0.5
    return model


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def files(folder: Path) -> dict[str, Path]:
    """The exported file, and both collapsed forms of it."""
    exported = folder / "net.onnx"
    assert opau_onnx.export_model(classifier(), exported, pictures(2), validate=False)
    skip = opau_onnx.ValidationConfig(skip=True)
    for form in ("standard", "fused"):
        opau_onnx.collapse_model(exported, folder / f"{form}.onnx", form, comparing=skip)
    return {name: folder / f"{name}.onnx" for name in ("net", "standard", "fused")}


Change = Callable[[onnx.ModelProto], None]


def changed(path: Path, folder: Path, change: Change) -> Path:
    """A copy with a fault."""
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, folder / "changed.onnx")
    return folder / "changed.onnx"


def edited(name: str, edit: Callable[[Any], Any]) -> Change:
    """Other numbers in the tensor of that name."""

    def change(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), name))

    return change


def off_by_a_thousandth(values: Any) -> Any:
    values.reshape(-1)[2] += np.float32(1e-3)
    return values


def to_half(values: Any) -> Any:
    return values.astype(np.float16).astype(np.float32)


def stored_as_half(name: str) -> Change:
    """The tensor in 16 bits, and a Cast to 32 where it is read: as converters to float16 leave it."""

    def change(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), "half"))
        proto.graph.node.insert(0, helper.make_node("Cast", ["half"], [name], "widen", to=TensorProto.FLOAT))

    return change


def attribute(node: str, name: str, value: Any) -> Change:
    """Another attribute, as a kernel reads it; the function's body stays."""

    def change(proto: onnx.ModelProto) -> None:
        found = next(n for n in proto.graph.node if n.name == node)
        kept = [a for a in found.attribute if a.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change
