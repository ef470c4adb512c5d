"""Every dynamic axis is varied: files that hold for some sizes only are found, by export, verify and collapse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.export import app
from opau_onnx.collapse.files import compare_files
from opau_onnx.compare.sizes import module_runs, size_batches
from opau_onnx.config import ToleranceConfig
from opau_onnx.graph.metadata import RECORD
from opau_onnx.nn import HP1

WIDE = {"x": {0: "batch", 1: "width"}}


class Padded(nn.Module):
    """Pads odd widths, which a trace at an even one forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.act = HP1()

    def forward(self, x: Tensor) -> Tensor:
        pad = -x.shape[-1] % 2
        y = F.pad(x, (0, pad)) if pad else x
        return F.avg_pool1d(self.act(y + 1)[:, None], 2)[:, 0].mean(-1)


class Widened(nn.Module):
    """Doubles what is narrower than 16."""

    def __init__(self) -> None:
        super().__init__()
        self.act = HP1()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(x)
        if x.shape[-1] < 16:
            y = 2 * y
        return y.mean(-1)


class Rows(nn.Module):
    """Treats odd batches in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.act = HP1()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) * (2.0 if x.shape[0] % 2 else 1.0)


class Convolved(nn.Module):
    """Cannot take fewer than 5 columns, and is right at all others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act = nn.Conv1d(1, 2, 5), HP1()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x[:, None])).mean(-1)


WRONG: list[tuple[type[nn.Module], Any, str]] = [
    (Padded, WIDE, "((-1)*width) % 2"),
    (Widened, WIDE, "width >= 16"),
    (Rows, None, "batch % 2"),
]


@pytest.mark.parametrize(("kind", "axes", "guard"), WRONG, ids=lambda v: getattr(v, "__name__", ""))
def test_a_file_of_some_sizes_is_rejected(kind: type[nn.Module], axes: Any, guard: str, tmp_path: Path) -> None:
    model, x = kind().eval(), torch.randn(4, 32)
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", x, dynamic_axes=axes)
    assert result.equal is False
    assert result.path.name == "m.rejected.onnx"
    assert any(guard in text for text in result.guards), result.guards
    assert opau_onnx.validate_model(model, result.path, x).equal is False
    verified = opau_onnx.verify_model(model, result.path, x, runtimes=["ort-function"])
    assert not verified.equal
    assert any(f.kind == "output" for f in verified.files[0].findings)
    fixed = opau_onnx.export_model(model, tmp_path / "fixed.onnx", x, static=True)
    assert fixed.equal


def test_the_conditions_of_a_program_are_told_and_stand_in_the_file(tmp_path: Path) -> None:
    """The program itself refuses other sizes, so that there is nothing to compare with; the file would compute them wrong."""
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Padded().eval(), (torch.randn(4, 32),), dynamic_shapes=(dims,))
    torch.export.save(program, tmp_path / "m.pt2")
    done = CliRunner().invoke(app, [str(tmp_path / "m.pt2"), str(tmp_path / "m.onnx")])
    assert done.exit_code == 0, done.output
    assert "holds for sizes where, as torch.export assumed: (((-1)*x_1) % 2) == 0" in done.output
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    records = [json.loads(text) for key, text in metadata.items() if key.startswith(RECORD)]
    assert [record["guards"][0] for record in records] == ["(((-1)*x_1) % 2) == 0"]


def test_sizes_at_which_the_model_fails_say_nothing(tmp_path: Path) -> None:
    result = opau_onnx.export_model(Convolved().eval(), tmp_path / "m.onnx", torch.randn(4, 32), dynamic_axes=WIDE)
    assert result.equal, result.validation
    assert result.validation is not None
    assert [text for text in result.validation.refused if text.startswith("width")] == [
        "width 1",
        "width 2",
        "width 3",
        "width 4",
    ]
    names = [c.name for c in result.validation.outputs]
    for size in (5, 8, 16, 31, 33, 64):
        assert any(f"random, width {size}" in name for name in names), size
    assert any("random, batch 8, width 64" in name for name in names), "all together too"


def test_which_sizes() -> None:
    inputs = (torch.randn(4, 10), torch.randint(0, 9, (4, 10)), torch.randn(3))
    axes = {0: {0: "batch", 1: "length"}, 1: {0: "batch", 1: "length"}}
    tried: list[tuple[int, ...]] = []

    def runs(batch: Any) -> bool:
        tried.append(tuple(batch[0].shape))
        assert batch[0].shape == batch[1].shape
        assert batch[1].dtype == torch.int64
        assert batch[2].shape == (3,)
        return batch[0].shape[0] != 1

    found = size_batches(inputs, axes, 0, runs, {"length": [77]})
    assert {(n, 10) for n in (1, 2, 3, 5, 8)} <= set(tried)
    assert {(4, n) for n in (1, 2, 3, 5, 9, 11, 20, 77)} <= set(tried)
    assert {(3, 9), (5, 11), (8, 20), (1, 1), (2, 2), (2, 5)} <= set(tried)
    assert (4, 10) not in tried
    assert len(set(tried)) == len(tried) == len(found.batches) + len(found.refused)
    assert "batch 1" in found.refused
    assert "batch 1, length 1" in found.refused
    assert size_batches(inputs, {}, 0, runs) == ([], [])
    assert size_batches((torch.randn(2, 2**20),), {0: {0: "n"}}, 0, module_runs(lambda x: x)).batches[-1][1][0].shape[0] <= 64


def test_a_file_that_cannot_run_where_the_model_can_is_different(tmp_path: Path) -> None:
    """As files whose Reshape holds the traced width."""

    def write(path: Path, reshape: bool) -> Path:
        shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 32])
        node = helper.make_node("Reshape", ["x", "shape"], ["y"]) if reshape else helper.make_node("Identity", ["x"], ["y"])
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "width"]) for n in ("x", "y")]
        graph = helper.make_graph([node], "g", values[:1], values[1:], [shape] if reshape else [])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        return path

    right, wrong = write(tmp_path / "a.onnx", False), write(tmp_path / "b.onnx", True)
    x = (torch.randn(4, 32),)
    _, _, same = compare_files(right, right, x, ToleranceConfig())
    assert all(c.equal for c in same)
    assert any("width 33" in c.name for c in same)
    _, _, found = compare_files(right, wrong, x, ToleranceConfig())
    assert any("width 33: onnxruntime cannot run" in c.name for c in found if not c.equal)
