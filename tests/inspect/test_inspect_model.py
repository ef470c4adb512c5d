"""``inspect_model``: what it finds in each kind of file, and what it says would run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import opau_onnx
from opau_onnx.config import ValidationConfig
from opau_onnx.errors import LibraryError, LoadError
from opau_onnx.native.library import OVERRIDE
from opau_onnx.nn import HP1, OrthogonalPade

SKIP = ValidationConfig(skip=True)


def network() -> nn.Sequential:
    grouped = OrthogonalPade("legendre", (3, 2), "abs_sum", groups=3)
    with torch.no_grad():  # rows that differ: opau-collapse makes one of equal ones
        grouped.numerator.mul_(torch.tensor([[1.0], [1.5], [2.0]]))
    return nn.Sequential(nn.Linear(4, 6), HP1(), nn.Linear(6, 6), grouped).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, model, example = tmp_path_factory.mktemp("inspect"), network(), torch.randn(2, 4)
    paths = {name: folder / f"{name}.onnx" for name in ("learned", "standard", "fused")}
    opau_onnx.export_model(model, paths["learned"], example, validate=False)
    for form in ("standard", "fused"):
        opau_onnx.collapse_model(paths["learned"], paths[form], form, comparing=SKIP)
    paths["pt2"] = folder / "program.pt2"
    torch.export.save(torch.export.export(model, (example,)), paths["pt2"])
    return paths


def the_library() -> None:
    try:
        opau_onnx.get_library_path()
    except LibraryError as error:
        pytest.skip(f"the op library is not built: {error}")


def check(found: Any, model: nn.Module) -> None:
    """Names, functions and ranges are the module's own."""
    modules = {name: m for name, m in model.named_modules() if isinstance(m, OrthogonalPade)}
    assert [a.name for a in found] == list(modules)
    for a in found:
        module = modules[a.name]
        assert a.config == module.config
        assert a.dtype == "float32"
        assert a.numerator == (module.numerator.min().item(), module.numerator.max().item())
        assert a.denominator == (module.denominator.min().item(), module.denominator.max().item())


@pytest.mark.parametrize("kind", ["learned", "fused", "pt2"])
def test_what_a_file_holds(kind: str, files: dict[str, Path]) -> None:
    result = opau_onnx.inspect_model(files[kind])
    check(result.activations, network())
    assert {a.kind for a in result.activations} == {"fused" if kind == "fused" else "learned"}
    assert result.form == ("fused" if kind == "fused" else None)


def test_a_module() -> None:
    model = network()
    result = opau_onnx.inspect_model(model, torch.randn(2, 4))
    check(result.activations, model)
    assert result.activations[0].notes == ("fitted to leaky_relu before training",)


def test_operators(files: dict[str, Path]) -> None:
    result = opau_onnx.inspect_model(files["standard"])
    assert [(a.name, a.kind, a.runs) for a in result.activations] == [
        (n, "operators", "standard operators") for n in ("1", "3")
    ]
    assert "legendre, abs_sum, degrees (3, 2)" in result.activations[1].notes[0]
    assert result.form == "standard"


@pytest.mark.parametrize("kind", ["learned", "fused"])
def test_the_kernel_runs_them(kind: str, files: dict[str, Path]) -> None:
    the_library()
    assert {a.runs for a in opau_onnx.inspect_model(files[kind]).activations} == {"kernel"}


def test_without_the_library_the_function_body_runs_them(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "/nowhere/lib.so")
    result = opau_onnx.inspect_model(files["learned"])
    assert {a.runs for a in result.activations} == {"function body"}
    assert any("/nowhere/lib.so" in note for note in result.notes)


def test_without_library_and_body_nothing_runs_them(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(files["learned"])
    del model.functions[:]
    onnx.save(model, tmp_path / "bare.onnx")
    monkeypatch.setenv(OVERRIDE, "/nowhere/lib.so")
    result = opau_onnx.inspect_model(tmp_path / "bare.onnx")
    assert {a.runs for a in result.activations} == {""}
    assert "refuses the model" in result.notes[0]
    check(result.activations, network())


def changed(path: Path, change: Callable[[onnx.ModelProto], None], to: Path) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, to)
    return to


def test_nodes_without_names_are_told_apart(files: dict[str, Path], tmp_path: Path) -> None:
    the_library()

    def unname(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = ""

    result = opau_onnx.inspect_model(changed(files["learned"], unname, tmp_path / "unnamed.onnx"))
    check(result.activations, network())
    assert {a.runs for a in result.activations} == {"kernel"}


def test_coefficients_that_are_inputs(files: dict[str, Path], tmp_path: Path) -> None:
    def open_up(model: onnx.ModelProto) -> None:
        name = next(n for n in model.graph.node if n.domain == "ai.opau").input[1]
        stored = next(i for i in model.graph.initializer if i.name == name)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, stored.data_type, stored.dims))
        model.graph.initializer.remove(stored)

    first, second = opau_onnx.inspect_model(changed(files["learned"], open_up, tmp_path / "open.onnx")).activations
    assert first.numerator is None
    assert "computed at run time" in first.notes[0]
    assert second.numerator is not None


def test_numbers_that_are_none(files: dict[str, Path], tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        name = next(n for n in model.graph.node if n.domain == "ai.opau").input[1]
        stored = next(i for i in model.graph.initializer if i.name == name)
        values = onnx.numpy_helper.to_array(stored).copy()
        values[0] = float("nan")
        stored.CopyFrom(onnx.numpy_helper.from_array(values, name))

    first = opau_onnx.inspect_model(changed(files["learned"], spoil, tmp_path / "nan.onnx")).activations[0]
    assert first.notes == ("1 of 6 coefficients of the numerator are NaN or infinite",)


def test_nothing_to_find(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    assert opau_onnx.inspect_model(model, torch.randn(1, 2)).activations == ()
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "relu.onnx")
    result = opau_onnx.inspect_model(tmp_path / "relu.onnx")
    assert (result.activations, result.runtime) == ((), "nothing: there is no activation")


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    for path in (tmp_path / "text.onnx", tmp_path / "none.onnx", tmp_path / "none.pt"):
        with pytest.raises(LoadError):
            opau_onnx.inspect_model(path)
