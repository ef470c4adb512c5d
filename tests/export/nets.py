"""Small networks to export, and running what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.graph.nodes import opau_nodes
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def tiny() -> nn.Module:
    """Linear, HP-1, Linear: (N, 4) -> (N, 3)."""
    seeded()
    return nn.Sequential(nn.Linear(4, 8), HP1(), nn.Linear(8, 3)).eval()


def few() -> nn.Module:
    """Three configurations, one of them twice: (N, 4) -> (N, 4)."""
    seeded()
    return nn.Sequential(nn.Linear(4, 4), HP1(), nn.Linear(4, 4), HP2(groups=2), PAU("B"), nn.Linear(4, 4), HP1()).eval()


def zoo() -> nn.Module:
    """Every named activation and every kind of sharing in one network: (N, 2, 6, 6) -> (N, 3)."""
    seeded()
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), HP1(groups=3), nn.Conv2d(6, 6, 3), HP2(groups=6), nn.Flatten(), nn.Linear(24, 8),
        PAU("A"), PAU("B"), nn.Linear(8, 8), PAU("C", groups=2), PAU("D", groups=8, axis=-1), nn.Linear(8, 8), PAU("N"),
        OrthogonalPade("chebyshev", (3, 2), groups=4, shared_numerator=True), nn.Linear(8, 8),
        OrthogonalPade("chebyshev_u", (2, 2), "abs_sum"), OrthogonalPade("legendre", (5, 0)), nn.Linear(8, 3),
        OrthogonalPade("laguerre", (0, 3), init="sigmoid"),
    ).eval()  # fmt: skip


ZOO_NODES = 11
ZOO_INPUT = (2, 2, 6, 6)


def example(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(path: Path, *inputs: Tensor) -> list[Any]:
    """The file in plain onnxruntime."""
    return OnnxRuntime(path).run(inputs)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def signature(path: Path) -> dict[str, list[int | str]]:
    """Names and sizes of inputs and outputs."""
    graph = onnx.load(path, load_external_data=False).graph
    return {v.name: dims(v) for v in (*graph.input, *graph.output)}


def coefficient_names(path: Path) -> list[tuple[str, str]]:
    """(numerator, denominator) of each activation in the file."""
    return [(str(n.inputs[1].name), str(n.inputs[2].name)) for n in opau_nodes(ir.load(path))]


def initializers(path: Path) -> dict[str, Any]:
    return {i.name: onnx.numpy_helper.to_array(i, base_dir=str(path.parent)) for i in onnx.load(path).graph.initializer}
