"""export_model: every kind of activation, dtype and opset, and the sizes that may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from opau_onnx import export_model
from opau_onnx.core.spec import DOMAIN, OP_TYPE
from opau_onnx.errors import ExportError
from opau_onnx.graph import opsets
from opau_onnx.nn import HP1, HP2
from tests.export import nets

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_activation_in_every_dtype(dtype: str, tmp_path: Path) -> None:
    result = export_model(nets.zoo(), tmp_path / "zoo.onnx", nets.example(*nets.ZOO_INPUT), dtype=dtype)
    assert result.equal is True
    assert result.dtype == dtype
    assert len(result.activations) == nets.ZOO_NODES
    assert all(a.coefficients == "equal" and a.comparison for a in result.validation.activations)
    model = onnx.load(result.path)
    onnx.checker.check_model(model, full_check=True)
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    assert [n.op_type for n in nodes] == [OP_TYPE] * nets.ZOO_NODES
    assert {n.overload for n in nodes} == {f.overload for f in model.functions}
    assert all({a.name for a in n.attribute} == {"basis", "form", "degrees", "groups", "axis"} for n in nodes)
    wide = np.float64 if dtype == "float64" else np.float32
    stored = nets.initializers(result.path)
    assert {stored[name].dtype for pair in nets.coefficient_names(result.path) for name in pair} == {np.dtype(wide)}


@pytest.mark.parametrize("opset", range(opsets.OLDEST, opsets.newest() + 1))
def test_every_opset(opset: int, tmp_path: Path) -> None:
    """Two layers start with the same coefficients; the file still has those of each, under the names of their modules."""
    nets.seeded()
    model = nn.Sequential(nn.Conv1d(2, 4, 3), HP1(groups=2), nn.Conv1d(4, 4, 3), HP1(groups=2), nn.Flatten(), nn.Linear(8, 3))
    result = export_model(model.eval(), tmp_path / "m.onnx", nets.example(2, 2, 6), opset=opset)
    assert result.equal is True
    model_proto = onnx.load(result.path)
    assert {o.domain: o.version for o in model_proto.opset_import} == {"": opset, DOMAIN: 1}
    assert {o.version for f in model_proto.functions for o in f.opset_import if not o.domain} == {opset}
    assert nets.signature(result.path) == {"input": ["batch", 2, 6], "output": ["batch", 3]}
    assert [(a["node"], a["module"]) for a in result.activations] == [("1/OrthogonalPade", "1"), ("3/OrthogonalPade", "3")]
    assert nets.coefficient_names(result.path) == [("1.numerator", "1.denominator"), ("3.numerator", "3.denominator")]


def test_default_opsets(tmp_path: Path) -> None:
    for dtype, opset in (("float32", 20), ("bfloat16", 22)):
        result = export_model(nets.tiny(), tmp_path / "m.onnx", nets.example(2, 4), dtype=dtype, validate=False)
        assert result.opset == opset
        assert result.equal is None


@pytest.mark.parametrize("opset", [opsets.OLDEST - 1, opsets.newest() + 1])
def test_an_opset_out_of_range_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"opset {opset} is not supported; expected 18 to"):
        export_model(nets.tiny(), tmp_path / "m.onnx", nets.example(2, 4), opset=opset)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "zoo.onnx"
    export_model(nets.zoo(), path, nets.example(*nets.ZOO_INPUT), validate=False)
    return path


@pytest.mark.parametrize("size", [1, 7, 256])
def test_a_dynamic_batch(dynamic: Path, size: int) -> None:
    assert nets.signature(dynamic) == {"input": ["batch", 2, 6, 6], "output": ["batch", 3]}
    x = nets.example(size, *nets.ZOO_INPUT[1:])
    (y,) = nets.run(dynamic, x)
    with torch.no_grad():
        np.testing.assert_allclose(y, nets.zoo()(x).numpy(), rtol=0, atol=1e-5)


def test_an_example_of_one_row_gives_a_dynamic_batch_too(tmp_path: Path) -> None:
    path = export_model(nets.tiny(), tmp_path / "m.onnx", nets.example(1, 4)).path
    assert nets.signature(path) == {"input": ["batch", 4], "output": ["batch", 3]}
    assert nets.run(path, nets.example(5, 4))[0].shape == (5, 3)


def test_static_sizes(tmp_path: Path) -> None:
    result = export_model(nets.tiny(), tmp_path / "m.onnx", nets.example(2, 4), static=True)
    assert result.equal
    assert nets.signature(result.path) == {"input": [2, 4], "output": [2, 3]}
    with pytest.raises(Exception, match="invalid dimensions"):
        nets.run(result.path, nets.example(3, 4))


class TwoImages(nn.Module):
    """Two inputs with sizes of their own, one output for each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
        self.act = HP2(groups=2)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.act(self.first(left)), self.act(self.second(right)).mean(dim=(2, 3))


def test_dynamic_axes_by_name_and_position(tmp_path: Path) -> None:
    nets.seeded()
    model = TwoImages().eval()
    inputs = (nets.example(2, 1, 5, 6), nets.example(2, 1, 7, 8))
    axes: dict[str | int, dict[int, str]] = {"left": {0: "batch", 2: "height", 3: "width"}, 1: {0: "batch"}}
    result = export_model(model, tmp_path / "m.onnx", inputs, dynamic_axes=axes)
    assert result.equal
    found = nets.signature(result.path)
    assert found["left"] == ["batch", 1, "height", "width"]
    assert found["right"] == ["batch", 1, 7, 8]
    assert found["output_0"] == ["batch", 2, "height - 2", "width - 2"]
    assert found["output_1"] == ["batch", 2]
    other = (nets.example(3, 1, 9, 4), nets.example(3, 1, 7, 8))
    with torch.no_grad():
        for got, want in zip(nets.run(result.path, *other), model(*other), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("axes", "message"), [
    ({"nope": {0: "n"}}, "name the input 'nope'; the model has input"),
    ({3: {0: "n"}}, "name the input 3"),
    ({0: {2: "n"}}, "has axes 0 to 1; 2 is none of them"),
    ({0: {-1: "n"}}, "-1 is none of them"),
    ({0: {0: "two words"}}, "named 'two words'; expected letters"),
    ({0: {1: "features"}}, "fixes a size that was to be dynamic .*--static"),
])  # fmt: skip
def test_wrong_dynamic_axes(axes: dict[str | int, dict[int, str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_model(nets.tiny(), tmp_path / "m.onnx", nets.example(2, 4), dynamic_axes=axes)
    assert not list(tmp_path.iterdir())


def test_static_and_dynamic_axes_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="exclude each other"):
        export_model(nets.tiny(), tmp_path / "m.onnx", nets.example(2, 4), static=True, dynamic_axes={0: {0: "n"}})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_model_that_was_cast_by_its_owner(dtype: str, tmp_path: Path) -> None:
    """Its own dtype is kept, its 16-bit coefficients are widened as they are, and inputs of another dtype are cast."""
    model = nets.tiny().to(DTYPES[dtype])
    result = export_model(model, tmp_path / "m.onnx", nets.example(2, 4))
    assert (result.equal, result.dtype) == (True, dtype)
    for parameter, name in ((model[1].numerator, "1.numerator"), (model[1].denominator, "1.denominator")):
        stored = nets.initializers(result.path)[name]
        assert stored.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert np.array_equal(stored, parameter.detach().double().numpy())


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = nets.tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_model(model, tmp_path / "m.onnx", nets.example(2, 4), dtype="float16", validate=False)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
