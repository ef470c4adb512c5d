"""``collapse_model`` on files: what is written, what it is compared with, what is found, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import opau_onnx
from opau_onnx import ValidationConfig, collapse_model, export_model
from opau_onnx.collapse.passes import standard
from opau_onnx.collapse.result import REPORT_SCHEMA
from opau_onnx.compare.runtimes.openvino import openvino_core
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.config import ToleranceConfig
from opau_onnx.core.spec import Config
from opau_onnx.errors import CollapseError, ExportError, LoadError, ValidationError
from opau_onnx.graph.metadata import METADATA
from tests.export import nets, single

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet_hp1_fashion_mnist.pt"


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lenet") / "lenet.onnx"
    assert export_model(LENET, path, validate=False).path == path
    return path


def test_against_the_file(lenet: Path, tmp_path: Path) -> None:
    before = lenet.read_bytes()
    result = collapse_model(lenet, tmp_path / "out.onnx", report=tmp_path / "report.json")
    assert lenet.read_bytes() == before
    assert result.equal
    assert result.validation is not None
    assert result.validation.reference.startswith("the original file, onnxruntime")
    assert "function bodies" not in result.validation.runtime
    assert [c.coefficients for c in result.validation.activations] == ["fixed"] * 4
    assert len(result.validation.outputs) == 14  # the batch, one less, one more, twice as large, ...
    assert result.before is not None
    assert result.after is not None
    assert result.after.nodes < 0.4 * result.before.nodes
    assert set(result.after.microseconds) == {"onnxruntime's own operators"}
    assert result.after.file_bytes == (tmp_path / "out.onnx").stat().st_size
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["schema"], content["collapsed"], content["form"]) == (REPORT_SCHEMA, True, "standard")
    assert content["activations"][0]["evaluation"] == "P by monomials, Q by closed"
    assert content["validation"]["verdict"] == "equal"
    assert {p.name for p in tmp_path.iterdir()} == {"out.onnx", "report.json"}


def test_against_pytorch(lenet: Path, tmp_path: Path) -> None:
    result = collapse_model(lenet, tmp_path / "out.onnx", comparing=ValidationConfig(reference=LENET))
    assert result.equal
    assert result.validation is not None
    assert result.validation.reference.startswith("PyTorch")


def test_the_file_says_what_it_is_and_is_the_same_every_time(lenet: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.onnx" for n in "ab"]
    for path in paths:
        collapse_model(lenet, path, comparing=ValidationConfig(skip=True))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    model = onnx.load(paths[0])
    said = json.loads({p.key: p.value for p in model.metadata_props}[METADATA])
    assert said["form"] == "standard"
    assert [a["module"] for a in said["activations"]] == [
        "conv1_activation", "conv2_activation", "fc1_activation", "fc2_activation",
    ]  # fmt: skip
    assert not any("conv1_activation.numerator" in t.name for t in model.graph.initializer)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_network_of_every_activation(dtype: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    made = nets.zoo()
    if dtype == "float64":  # onnxruntime's CPU has no convolution in float64
        made = torch.nn.Sequential(*list(made)[4:]).eval()
    example = nets.example(*nets.ZOO_INPUT) if dtype != "float64" else nets.example(2, 6, 2, 2)
    export_model(made, before, example, dtype=dtype, validate=False)
    result = collapse_model(before, after)
    assert result.equal, [c for c in result.validation.activations if not c.equal] if result.validation else None
    assert all(not n.domain for n in onnx.load(after).graph.node)


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), *nets.tiny()[1:2]).eval()
    export_model(net, before, nets.example(2, 64), external_data=True, validate=False)
    result = collapse_model(before, after)
    assert result.equal
    assert (tmp_path / "after.onnx.data").exists()
    x = nets.example(5, 64)
    y = OnnxRuntime(after).run([x])[0]
    assert np.allclose(y, OnnxRuntime(before).run([x])[0], atol=1e-5)


def planted(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """A converter that gets one constant wrong."""
    honest = standard.write

    def wrong(constants: Any, x: Any, frozen: Any, scheme: Any, kind: Any) -> Any:
        from dataclasses import replace

        return honest(constants, x, replace(frozen, numerator=frozen.numerator * factor), scheme, kind)

    monkeypatch.setattr(standard, "write", wrong)


def test_a_wrong_conversion_is_found(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, 1 + 1e-4)
    result = collapse_model(lenet, tmp_path / "out.onnx")
    assert result.equal is False
    assert result.validation is not None
    assert not any(c.equal for c in result.validation.activations)
    assert {p.name for p in tmp_path.iterdir()} == {"out.rejected.onnx"}


def test_a_wrong_model_is_found(lenet: Path, tmp_path: Path) -> None:
    """The file is right, but not that of this PyTorch model."""
    module = opau_onnx.load(LENET)
    with torch.no_grad():
        module.model.conv2_activation.numerator[1] *= 1.01
    result = collapse_model(lenet, tmp_path / "out.onnx", comparing=ValidationConfig(reference=module))
    assert result.equal is False
    assert result.validation is not None
    assert all(c.equal for c in result.validation.activations)
    assert not any(c.equal for c in result.validation.outputs)


def test_a_tolerance_of_the_users(lenet: Path, tmp_path: Path) -> None:
    strict = ValidationConfig(options=ToleranceConfig(atol=1e-9))
    assert collapse_model(lenet, tmp_path / "out.onnx", comparing=strict).equal is False


def test_not_compared(lenet: Path, tmp_path: Path) -> None:
    result = collapse_model(lenet, tmp_path / "out.onnx", comparing=ValidationConfig(skip=True))
    assert result.equal is None
    assert result.as_dict()["validation"] == {"verdict": "not validated"}


def refused(
    source: Path, output: Path, message: str, error: type[Exception] | tuple[type[Exception], ...] = CollapseError, **how: Any
) -> None:
    before = sorted(p.name for p in output.parent.iterdir()) if output.parent.is_dir() else None
    with pytest.raises(error, match=message):
        collapse_model(source, output, **how)
    if before is not None:
        assert sorted(p.name for p in output.parent.iterdir()) == before


def test_what_is_refused(lenet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(lenet.read_bytes()[:1000])
    plain = tmp_path / "plain.onnx"
    collapse_model(lenet, plain, comparing=ValidationConfig(skip=True))
    refused(plain, out, "was collapsed before")
    refused(broken, out, "not a readable ONNX file", LoadError)
    refused(tmp_path / "missing.onnx", out, "does not exist", (CollapseError, LoadError))
    refused(lenet, lenet, "never touched")
    refused(lenet, tmp_path / "out.txt", "ends in .onnx")
    refused(lenet, tmp_path / "no" / "out.onnx", "folder does not exist", ExportError)
    refused(lenet, out, "expected one of fused, lut, standard", form="fast")


def test_nothing_to_collapse(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
    export_model(net, tmp_path / "relu.onnx", nets.example(2, 4), validate=False)
    refused(tmp_path / "relu.onnx", tmp_path / "out.onnx", "no learned activation")


def test_coefficients_computed_at_run_time(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(single.model(single.Case(Config()), ["N"]).SerializeToString())
    refused(path, tmp_path / "out.onnx", "computed at run time")


def test_open_axes_need_a_shape(tmp_path: Path) -> None:
    case = single.Case(Config())
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    path.write_bytes(single.model(case, ["N", "L"], single.coefficients(case)).SerializeToString())
    refused(path, out, "--input-shape x:", ValidationError)
    refused(path, out, "a shape is given for y", ValidationError, comparing=ValidationConfig(input_shapes={"y": (2, 3)}))
    refused(path, out, r"not \(2, 3, 4\)", ValidationError, comparing=ValidationConfig(input_shapes={"x": (2, 3, 4)}))
    assert collapse_model(path, out, comparing=ValidationConfig(input_shapes={"x": (2, 30)})).equal


def test_openvino_reads_it(lenet: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    collapse_model(lenet, tmp_path / "out.onnx", comparing=ValidationConfig(skip=True))
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16, where the processor has it
    compiled = openvino_core().compile_model(tmp_path / "out.onnx", "CPU", exact)
    x = np.random.default_rng(0).standard_normal((8, 1, 28, 28), dtype=np.float32)
    theirs = next(iter(compiled(x).values()))
    ours = OnnxRuntime(lenet).run([torch.from_numpy(x)])[0]
    assert np.abs(theirs - ours).max() < 1e-4


def test_no_label_changes(lenet: Path, tmp_path: Path) -> None:
    pixels, _ = opau_onnx.io.datasets.load_sample()
    images = torch.from_numpy(opau_onnx.io.datasets.preprocess(pixels))
    collapse_model(lenet, tmp_path / "out.onnx", comparing=ValidationConfig(skip=True))
    with torch.no_grad():
        expected = opau_onnx.load(LENET).model(images).numpy()
    found = OnnxRuntime(tmp_path / "out.onnx").run([images])[0]
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 2e-5
