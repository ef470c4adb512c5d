"""The file: metadata, external data, the same bytes at every run, nothing of the machine, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import opau_onnx
from opau_onnx import ExportResult, ToleranceConfig, export_model
from opau_onnx.errors import ExportError, LoadError, ValidationError
from opau_onnx.export import api
from opau_onnx.nn import HP1
from tests.export import nets

EXAMPLE = nets.example(2, 4)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    folder = tmp_path_factory.mktemp("exported")
    return export_model(nets.tiny(), folder / "m.onnx", EXAMPLE, report=folder / "report.json")


def test_metadata(exported: ExportResult) -> None:
    model = onnx.load(exported.path)
    assert (model.producer_name, model.producer_version) == ("opau_onnx", opau_onnx.__version__)
    assert model.ir_version == 10
    found = {p.key: p.value for p in model.metadata_props}
    (key,) = set(found) - {"opau.dtype", "opau.versions"}
    assert key.startswith("opau.file.")
    record = json.loads(found[key])
    assert (found["opau.dtype"], record["source"]) == ("float32", "module")
    assert record["source_sha256"] == "none (a module in memory)"
    assert record["activations"] == exported.activations == [
        {
            "node": "1/OrthogonalPade", "module": "1", "basis": "hermite_e", "form": "abs_terms", "degrees": [5, 4],
            "groups": 1, "axis": 1, "numerator": "1.numerator", "denominator": "1.denominator",
        }
    ]  # fmt: skip
    versions = json.loads(found["opau.versions"])
    assert set(versions) == {"onnx", "onnx_ir", "onnxscript", "opau_onnx", "torch"}
    assert versions["onnx"] == onnx.__version__


def test_metadata_of_a_file_as_source(tmp_path: Path) -> None:
    path = Path(opau_onnx.models.__file__).parent / "lenet_hp1_fashion_mnist.pt"
    result = export_model(path, tmp_path / "m.onnx", validate=False)
    (text,) = [p.value for p in onnx.load(result.path).metadata_props if p.key.startswith("opau.file.")]
    found = json.loads(text)
    assert found["source"] == "checkpoint"
    assert len(found["source_sha256"]) == 64
    assert found["source_sha256"] == result.as_dict()["source"]["sha256"]


def test_nothing_of_the_exporter_or_the_machine(exported: ExportResult) -> None:
    """No stack traces, no paths, no texts of torch's exporter."""
    model = onnx.load(exported.path)
    assert not model.doc_string
    assert not model.graph.doc_string
    for node in model.graph.node:
        assert not node.doc_string
        assert {p.key for p in node.metadata_props} <= {"opau.module"}
    content = exported.path.read_bytes()
    here = {str(Path.cwd()), str(Path.home()), sys.prefix, str(Path(torch.__file__).parent), str(Path(__file__).parent)}
    for text in (*here, "site-packages", ".py", "pkg.torch", "stack_trace", "/tmp", "/home", "/usr"):
        assert text.encode() not in content, text


def test_the_same_bytes_at_every_run_and_in_another_process(tmp_path: Path) -> None:
    """Whatever the hash seed is, the file's name, or the external data."""
    script = (
        "import sys; from pathlib import Path; from tests.export import nets; from opau_onnx import export_model\n"
        "export_model(nets.few(), Path(sys.argv[1]), nets.example(2, 4), validate=False, external_data=True)\n"
    )
    for folder in ("first", "second", "other process"):
        (tmp_path / folder).mkdir()
    for folder in ("first", "second"):
        export_model(nets.few(), tmp_path / folder / "m.onnx", EXAMPLE, external_data=True, validate=folder == "second")
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, str(tmp_path / "other process" / "m.onnx")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path / "other process")
    assert set(listing(tmp_path / "first")) == {"m.onnx", "m.onnx.data"}
    assert listing(tmp_path / "first") == listing(tmp_path / "second") == listing(tmp_path / "other process")


def test_external_data(exported: ExportResult, tmp_path: Path) -> None:
    nets.seeded()
    model = nn.Sequential(nn.Linear(64, 256), HP1(groups=64), nn.Linear(256, 3)).eval()
    result = export_model(model, tmp_path / "m.onnx", nets.example(2, 64), external_data=True)
    assert result.equal
    assert set(listing(tmp_path)) == {"m.onnx", "m.onnx.data"}
    assert len(listing(tmp_path)["m.onnx"]) < 64 * 256 * 4 < len(listing(tmp_path)["m.onnx.data"])
    locations = {e.value for i in onnx.load(result.path, load_external_data=False).graph.initializer
                 for e in i.external_data if e.key == "location"}  # fmt: skip
    assert locations == {"m.onnx.data"}
    assert np.array_equal(nets.initializers(result.path)["0.weight"], model[0].weight.detach().numpy())
    x = nets.example(5, 64)
    np.testing.assert_allclose(nets.run(result.path, x)[0], model(x).detach().numpy(), rtol=0, atol=1e-5)
    # Both files moved to another folder still belong together.
    (tmp_path / "moved").mkdir()
    for name in ("m.onnx", "m.onnx.data"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert nets.run(tmp_path / "moved" / "m.onnx", x)[0].shape == (5, 3)


def test_large_models_get_external_data_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.save, "PROTOBUF_LIMIT", 100)
    export_model(nets.tiny(), tmp_path / "m.onnx", EXAMPLE, validate=False)
    assert set(listing(tmp_path)) == {"m.onnx", "m.onnx.data"}
    export_model(nets.tiny(), tmp_path / "n.onnx", EXAMPLE, validate=False, external_data=False)
    assert set(listing(tmp_path)) == {"m.onnx", "m.onnx.data", "n.onnx"}


def test_report(exported: ExportResult) -> None:
    report = json.loads((exported.path.parent / "report.json").read_text())
    assert report == exported.as_dict()
    assert {k: type(v) for k, v in report.items()} == {
        "schema": str, "opau_onnx": str, "source": dict, "file": str, "exported": bool, "opset": int, "dtype": str,
        "adopted": list, "notes": list, "guards": list, "activations": list, "validation": dict,
    }  # fmt: skip
    assert report["schema"] == "opau_onnx.export_report/1"
    assert (report["file"], report["exported"], report["opset"]) == ("m.onnx", True, 20)
    validation = report["validation"]
    assert set(validation) == {"verdict", "reason", "refused", "runtime", "reference", "activations", "outputs"}
    assert validation["verdict"] == "equal"
    assert f"onnxruntime {onnxruntime.__version__}" in validation["runtime"]
    for comparison in (*validation["outputs"], *(a["comparison"] for a in validation["activations"])):
        assert set(comparison) == {
            "name", "dtype", "elements", "max_abs_error", "max_ulp_error", "worst_index", "expected", "actual", "atol",
            "rtol", "tolerance_used", "equal",
        }  # fmt: skip
        assert comparison["equal"]
        assert 0 <= comparison["tolerance_used"] <= 1
    other = [c for c in validation["outputs"] if "random, batch" in c["name"]]
    assert len(validation["outputs"]) == 10 + len(other)  # the example, and three scales of three sizes
    assert len(other) > 3


def test_report_without_validation(tmp_path: Path) -> None:
    export_model(nets.tiny(), tmp_path / "m.onnx", EXAMPLE, validate=False, report=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["validation"] == {"verdict": "not validated"}


class Branching(nn.Module):
    """torch.export cannot follow a branch on data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Unknown(nn.Module):
    """torch.onnx knows no Bessel functions."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def broken(*_: Any, **__: Any) -> Any:
    raise ValidationError("planted")


FAILURES: dict[str, dict[str, Any]] = {
    "cannot be traced": {"model": Branching()},
    "cannot be converted": {"model": Unknown()},
    "training mode": {"model": nets.tiny().train()},
    "no inputs": {"inputs": None},
    "inputs that are no tensors": {"inputs": [1.0]},
    "inputs that do not fit": {"inputs": nets.example(2, 5)},
    "too many inputs": {"inputs": (EXAMPLE, EXAMPLE)},
    "an empty example": {"inputs": torch.zeros(0, 4)},
    "unknown dtype": {"dtype": "int8"},
    "no such opset": {"opset": 17},
    "not .onnx": {"output": "m.txt"},
    "no such folder": {"output": "missing/m.onnx"},
    "the output is a folder": {"output": "folder.onnx", "external_data": True},
    "the report is a folder": {"report": "folder.onnx"},
    "the report's folder is missing": {"report": "missing/report.json"},
    "no such model": {"model": "missing.pt"},
    "not a model": {"model": 3},
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("existed", [False, True], ids=["new", "existed"])
def test_a_failure_leaves_nothing_behind(name: str, existed: bool, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    if existed:
        for file in ("m.onnx", "m.onnx.data", "report.json"):
            (tmp_path / file).write_bytes(b"precious")
    before = listing(tmp_path)
    case = {"model": nets.tiny(), "output": "m.onnx", "inputs": EXAMPLE, "report": "report.json", **FAILURES[name]}
    model, output, inputs, report = (case.pop(k) for k in ("model", "output", "inputs", "report"))
    model = model.eval() if isinstance(model, (Branching, Unknown)) else model
    with pytest.raises((ExportError, LoadError)):
        export_model(model, tmp_path / output, inputs, report=tmp_path / report, **case)
    assert listing(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {*before, "folder.onnx"}


@pytest.mark.parametrize(("where", "error"), [
    ("opau_onnx.export.api.validate", ValidationError), ("opau_onnx.graph.save.onnx.checker.check_model", ExportError),
])  # fmt: skip
@pytest.mark.parametrize("external", [False, True])
def test_a_failure_after_writing_leaves_nothing_behind(
    where: str, error: type[Exception], external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"precious")
    monkeypatch.setattr(where, broken)
    with pytest.raises(error, match="planted"):
        export_model(nets.tiny(), tmp_path / "m.onnx", EXAMPLE, external_data=external, report=tmp_path / "r.json")
    assert listing(tmp_path) == {"m.onnx": b"precious"}


@pytest.mark.parametrize("external", [False, True])
def test_a_file_that_differs_is_kept_under_another_name(external: bool, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"precious")
    result = export_model(
        nets.tiny(), tmp_path / "m.onnx", EXAMPLE, options=ToleranceConfig(atol=0.0), external_data=external,
        report=tmp_path / "r.json",
    )  # fmt: skip
    assert result.equal is False
    assert result.path == tmp_path / "m.rejected.onnx"
    assert (tmp_path / "m.onnx").read_bytes() == b"precious"
    assert set(listing(tmp_path)) == {
        "m.onnx", "m.rejected.onnx", "r.json", *(["m.rejected.onnx.data"] if external else [])
    }  # fmt: skip
    assert nets.run(result.path, EXAMPLE)[0].shape == (2, 3)
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["exported"], report["file"], report["validation"]["verdict"]) == (False, "m.rejected.onnx", "different")


def test_a_coefficient_changed_on_the_way_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = api.conversion.build_model

    def tampered(*args: Any) -> ir.Model:
        model = real(*args)
        value = model.graph.initializers["1.numerator"]
        array = np.array(value.const_value.numpy())
        array[1] *= 1.01
        value.const_value = ir.tensor(array, name="1.numerator")
        return model

    monkeypatch.setattr(api.conversion, "build_model", tampered)
    result = export_model(nets.tiny(), tmp_path / "m.onnx", EXAMPLE)
    assert result.equal is False
    assert [a.coefficients for a in result.validation.activations] == ["different"]
    assert set(listing(tmp_path)) == {"m.rejected.onnx"}


def test_random_inputs_follow_the_seed(exported: ExportResult) -> None:
    def errors(seed: int) -> list[float]:
        found = opau_onnx.validate_model(nets.tiny(), exported.path, EXAMPLE, options=ToleranceConfig(seed=seed, samples=3))
        assert found.equal
        assert [c.name for c in found.validation.outputs][3].endswith("batch 3")
        return [c.expected for c in found.validation.outputs]

    assert errors(1) == errors(1) != errors(2)


def test_steps_are_named(tmp_path: Path) -> None:
    seen: list[str] = []
    export_model(nets.tiny(), tmp_path / "m.onnx", EXAMPLE, progress=seen.append)
    assert seen == ["tracing the model", "converting to ONNX", "writing and checking", "comparing with PyTorch"]
