"""``--quantize``: onnxruntime's quantization, activations included; the lut file against it and against the float model."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import opau_onnx
from opau_onnx import QuantizationConfig, ValidationConfig, collapse_model, export_model
from opau_onnx.collapse import lookup_validation, quantize, summary
from opau_onnx.collapse.lookup_validation import Drift, LutValidation
from opau_onnx.collapse.passes import lookup
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.compare.tensors import compare
from opau_onnx.config import CALIBRATION, Data
from opau_onnx.errors import CollapseError, LoadError
from opau_onnx.graph.nodes import opau_nodes
from opau_onnx.io.samples import Samples
from opau_onnx.nn import HP1, HP2, OrthogonalPade
from opau_onnx.runtime.processor import saturates_8_bit
from tests.collapse.quantized_models import qdq
from tests.collapse.test_standard import in_a_branch
from tests.export import nets

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet_hp1_fashion_mnist.pt"
LOOSE = ValidationConfig(min_agreement=0.5)
"""Of untrained networks, whose classes are close to each other."""
EIGHT = QuantizationConfig(reduce_range=saturates_8_bit())
"""The default where 8-bit products do not saturate; what people are told to take where they do."""


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Temporary files are gone after every test; and no time is spent on timing."""
    monkeypatch.setattr(summary, "SECONDS", 0.0)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1,000 images that ship, with labels, as a user's file."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    pixels, labels = opau_onnx.io.datasets.load_sample()
    np.savez(path, images=opau_onnx.io.datasets.preprocess(pixels), labels=labels)
    return path


@pytest.fixture(scope="module")
def few(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of them."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    every = np.load(images)
    np.savez(path, images=every["images"][::10], labels=every["labels"][::10])
    return path


@pytest.fixture(scope="module")
def lenets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The shipped LeNet by opset."""
    folder = tmp_path_factory.mktemp("lenet")
    return {n: export_model(LENET, folder / f"lenet{n}.onnx", validate=False, opset=n).path for n in (20, 21)}


class Residual(nn.Module):
    """A batch norm, a residual connection, groups: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        nets.seeded()
        self.conv, self.norm, self.first = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), HP1()
        self.again, self.second = nn.Conv2d(8, 8, 3, padding=1), HP2()
        self.third, self.last = OrthogonalPade("legendre", (5, 4), "abs_sum", groups=4), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.norm(self.conv(x)))
        return self.last(self.third(x + self.second(self.again(x))).mean((2, 3)))


def exported(net: nn.Module, path: Path, shape: tuple[int, ...], **how: Any) -> Path:
    return export_model(net.eval(), path, nets.example(*shape), validate=False, **how).path


def samples(path: Path, shape: tuple[int, ...], count: int = 64) -> Path:
    np.savez(path, x=np.random.default_rng(0).standard_normal((count, *shape[1:])).astype(np.float32))
    return path


def drift(result: Any) -> Drift:
    assert isinstance(result.validation, LutValidation)
    return result.validation.drift[0]


@pytest.mark.parametrize(
    ("how", "opset", "most", "error"),
    [
        (EIGHT, 20, 10, 0.8), (QuantizationConfig("int8"), 20, 10, 0.8),
        (replace(EIGHT, calibration="percentile"), 20, 10, 0.8),
        (replace(EIGHT, calibration="entropy"), 20, 10, 0.8), (QuantizationConfig(reduce_range=True), 20, 10, 0.8),
        (QuantizationConfig("uint16"), 21, 3, 0.2), (QuantizationConfig("uint16", "int16"), 21, 0, 0.02),
    ],
    ids=str,
)  # fmt: skip
def test_the_shipped_lenet(
    how: QuantizationConfig, opset: int, most: int, error: float, lenets: dict[int, Path], images: Path, tmp_path: Path
) -> None:
    """Of 1,000 images; of all 10,000 eight bits change 53, sixteen for the activations 20, sixteen for all 0."""
    before = lenets[opset].read_bytes()
    result = collapse_model(lenets[opset], tmp_path / "out.onnx", "lut", data=images, quantizing=how)
    assert lenets[opset].read_bytes() == before
    assert result.equal
    assert all(str(r.scheme).startswith("table") for r in result.replaced)
    assert all(c.max_abs_error == 0 and c.atol == 0 for c in result.validation.outputs)  # type: ignore[union-attr]
    found = drift(result)
    assert found.rows == 1000
    assert found.differ is not None
    assert found.differ <= most
    assert found.max_abs_error < error
    assert found.accuracy["float"] > 0.9
    assert abs(found.accuracy["collapsed"] - found.accuracy["float"]) <= 0.008
    assert {p.name for p in tmp_path.iterdir()} == {"out.onnx", "temporary"}


def test_the_file_and_the_report(lenets: dict[int, Path], few: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = collapse_model(lenets[20], tmp_path / "out.onnx", "lut", data=Data(few, 50), quantizing=EIGHT, report=report)
    model = onnx.load(tmp_path / "out.onnx")
    assert {o.domain for o in model.opset_import} == {""}
    assert not model.functions
    assert model.producer_name == "opau_onnx"
    assert [n.op_type for n in model.graph.node][-1] == "Gemm"  # the result stays float
    assert model.graph.output[0].name == "output"
    assert nets.signature(tmp_path / "out.onnx") == nets.signature(lenets[20])
    content = json.loads(report.read_text())
    assert content["source"] == "lenet20.onnx"
    assert content["quantization"] == {
        "activations": "uint8", "weights": "int8", "calibration": "minmax", "reduce_range": saturates_8_bit(), "samples": 50,
        "data": str(few), "saturates": False,
    }  # fmt: skip
    assert content["activations"][0]["evaluation"] == "table of 256, uint8 to uint8"
    assert content["before"]["nodes"] > 300 < content["quantized"]["nodes"]
    assert content["after"]["nodes"] < 60
    assert content["after"]["file_bytes"] < 0.4 * content["before"]["file_bytes"]
    found = content["validation"]
    assert found["verdict"] == "equal"
    assert found["activations"][0]["comparison"]["elements"] == 256
    assert {"ties", "otherwise", "exact"} < set(found["activations"][0])
    assert found["drift"][0]["agreement"] == drift(result).agreement
    assert set(found["drift"][0]["accuracy"]) == {"float", "quantized", "collapsed"}


def test_the_same_every_time(lenets: dict[int, Path], few: Path, tmp_path: Path) -> None:
    for name in "ab":
        collapse_model(
            lenets[20],
            tmp_path / f"{name}.onnx",
            "lut",
            data=few,
            quantizing=EIGHT,
            comparing=ValidationConfig(skip=True),
        )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("how", "static"),
    [(EIGHT, True), (QuantizationConfig("int8"), False), (QuantizationConfig("int16", "int16"), False)],
    ids=str,
)
def test_a_residual_network(how: QuantizationConfig, static: bool, tmp_path: Path) -> None:
    shape = (4, 3, 8, 8)
    source = exported(Residual(), tmp_path / "net.onnx", shape, static=static, opset=21)
    data = samples(tmp_path / "data.npz", shape)
    result = collapse_model(source, tmp_path / "out.onnx", "lut", data=data, quantizing=how, comparing=LOOSE)
    assert result.equal
    assert [str(r.scheme).partition(" ")[0] for r in result.replaced] == ["table"] * 3
    assert drift(result).rows == 64
    assert drift(result).accuracy == {}


def test_every_kind_of_activation(tmp_path: Path) -> None:
    source = exported(nets.zoo(), tmp_path / "net.onnx", nets.ZOO_INPUT)
    data = samples(tmp_path / "data.npz", nets.ZOO_INPUT)
    result = collapse_model(source, tmp_path / "out.onnx", "lut", data=data, quantizing=EIGHT, comparing=LOOSE)
    assert result.equal
    kinds = [str(r.scheme).rpartition(" ")[2] for r in result.replaced]
    assert kinds == ["uint8"] * (nets.ZOO_NODES - 1) + ["float32"]  # the last one's result is the model's


def quantized(source: Path, inputs: Any, tmp_path: Path, how: QuantizationConfig | None = None) -> ir.Model:
    quantize.quantize(source, tmp_path / "quantized.onnx", Samples((inputs,), None, "test"), how or EIGHT)
    return ir.load(tmp_path / "quantized.onnx")


def test_ranges_are_those_of_the_true_activations(tmp_path: Path) -> None:
    net = nets.tiny()
    source = exported(net, tmp_path / "net.onnx", (2, 4))
    x = nets.example(200, 4).numpy()
    (node,) = opau_nodes(quantized(source, x, tmp_path))
    with torch.no_grad():
        linear = net[0](torch.from_numpy(x))
        results = {"x": linear, "y": net[1](linear)}
    tensors = {"x": node.inputs[0].producer(), "y": node.outputs[0].uses()[0].node}  # type: ignore[union-attr]
    for name, part in tensors.items():
        assert part is not None
        low, high = (min(float(results[name].min()), 0.0), max(float(results[name].max()), 0.0))
        step = float(part.inputs[1].const_value.numpy())  # type: ignore[union-attr]
        assert step == pytest.approx((high - low) / 255, rel=1e-4)


def test_weights_have_a_scale_for_each_channel(lenets: dict[int, Path], few: Path, tmp_path: Path) -> None:
    model = quantized(lenets[20], np.load(few)["images"][:32], tmp_path)
    sizes = {v.const_value.shape.numpy() for n, v in model.graph.initializers.items() if n.endswith("weight_scale")}  # type: ignore[union-attr]
    assert (6,) in sizes
    assert (16,) in sizes


def test_activations_in_branches(tmp_path: Path) -> None:
    """onnxruntime quantizes the main graph only."""
    path, data, out = (tmp_path / name for name in ("net.onnx", "data.npz", "out.onnx"))
    onnx.save(in_a_branch(), path)
    np.savez(data, x=np.float32([1, 2]), flag=np.array(True))
    with pytest.raises(LoadError, match="samples"):
        collapse_model(path, out, "lut", data=data, quantizing=EIGHT)
    with pytest.raises(CollapseError, match="are in branches"):
        quantized(path, np.zeros((2, 3), np.float32), tmp_path)


def test_against_pytorch(lenets: dict[int, Path], few: Path, tmp_path: Path) -> None:
    comparing = ValidationConfig(reference=LENET)
    result = collapse_model(lenets[20], tmp_path / "out.onnx", "lut", data=few, quantizing=EIGHT, comparing=comparing)
    assert result.equal
    assert drift(result).reference.startswith("PyTorch")
    assert drift(result).accuracy["float"] == pytest.approx(0.9, abs=0.05)


def test_a_quantized_file_of_the_users(lenets: dict[int, Path], few: Path, tmp_path: Path) -> None:
    """Without data nothing but the file itself is the standard; with a reference its classes are."""
    quantized(lenets[20], np.load(few)["images"][:64], tmp_path)
    source, out = tmp_path / "quantized.onnx", tmp_path / "out.onnx"
    result = collapse_model(source, out, "lut")
    assert result.equal
    assert isinstance(result.validation, LutValidation)
    assert not result.validation.drift
    assert result.quantized is None
    assert set(result.before.microseconds) == {"function bodies", "compiled kernels"}  # type: ignore[union-attr]
    assert collapse_model(source, out, "lut", data=few, comparing=ValidationConfig(reference=LENET)).equal
    with pytest.raises(CollapseError, match="by its classes on real inputs: give --data"):
        collapse_model(source, out, "lut", comparing=ValidationConfig(reference=LENET))
    with pytest.raises(CollapseError, match="leave out --quantize"):
        collapse_model(source, out, "lut", data=few, quantizing=EIGHT)


def test_too_few_samples_keep_their_class(lenets: dict[int, Path], images: Path, tmp_path: Path) -> None:
    comparing = ValidationConfig(min_agreement=1.0)
    result = collapse_model(lenets[20], tmp_path / "out.onnx", "lut", data=images, quantizing=EIGHT, comparing=comparing)
    assert result.equal is False
    assert all(c.equal for c in result.validation.outputs)  # type: ignore[union-attr]
    assert {p.name for p in tmp_path.iterdir()} == {"out.rejected.onnx", "temporary"}


def test_a_table_that_is_wrong_in_one_place_is_found(
    lenets: dict[int, Path], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = lookup.write

    def wrong(constants: Any, codes: Any, table: Any, row: Any, site: Any) -> Any:
        table = table.copy()
        table[0, 140] ^= 1
        return honest(constants, codes, table, row, site)

    monkeypatch.setattr(lookup, "write", wrong)
    result = collapse_model(lenets[20], tmp_path / "out.onnx", "lut", data=few, quantizing=EIGHT)
    assert result.equal is False
    assert not any(c.equal for c in result.validation.activations)  # type: ignore[union-attr]
    assert not all(c.equal for c in result.validation.outputs)  # type: ignore[union-attr]
    assert drift(result).equal  # that alone would not have told


class Pixels(nn.Module):
    """No classes: (N, 3, 8, 8) -> (N, 2, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        nets.seeded()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), HP1(), nn.Conv2d(4, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_outputs_that_are_no_classes_are_not_judged(tmp_path: Path) -> None:
    source = exported(Pixels(), tmp_path / "net.onnx", (2, 3, 8, 8))
    data = samples(tmp_path / "data.npz", (2, 3, 8, 8))
    found = drift(collapse_model(source, tmp_path / "out.onnx", "lut", data=data, quantizing=EIGHT))
    assert found.differ is found.agreement is None
    assert 0 < found.mean_abs_error < found.max_abs_error < 0.1
    assert found.equal


def test_infinite_differences_are_json() -> None:
    found = Drift("y", 1, "rows", "net", None, 0.99, {}, float("inf"), float("nan"))
    json.dumps(found.as_dict(), allow_nan=False)


def test_one_that_is_no_table_is_said_and_compared_with_the_measured_tolerance(
    lenets: dict[int, Path], few: Path, tmp_path: Path
) -> None:
    model = quantized(lenets[20], np.load(few)["images"][:64], tmp_path)
    node = opau_nodes(model)[2]
    between = ir.node("Identity", node.inputs[:1])
    between.outputs[0].name = "between"
    node.replace_input_with(0, between.outputs[0])
    model.graph.insert_before(node, between)
    ir.save(model, tmp_path / "mixed.onnx")
    result = collapse_model(tmp_path / "mixed.onnx", tmp_path / "out.onnx", "lut")
    assert result.equal
    said = [r["evaluation"] for r in result.as_dict()["activations"]]
    assert said[2] == "P by monomials, Q by closed; NO TABLE: no DequantizeLinear before it"
    assert all(text == "table of 256, uint8 to uint8" for text in said[:2] + said[3:])
    assert all(c.atol > 0 for c in result.validation.outputs)  # type: ignore[union-attr]


def test_a_file_that_takes_codes(tmp_path: Path) -> None:
    onnx.save(qdq("int8", "int8", ("N", 4)), tmp_path / "codes.onnx")
    result = collapse_model(tmp_path / "codes.onnx", tmp_path / "out.onnx", "lut")
    assert result.equal
    assert all(c.atol == 0 for c in result.validation.outputs)  # type: ignore[union-attr]


def test_nothing_is_printed(
    lenets: dict[int, Path], few: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for calibration in CALIBRATION:
        quantized(lenets[20], np.load(few)["images"][:40], tmp_path, QuantizationConfig(calibration=calibration))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.root.manager.disable == 0


def test_samples_that_do_not_fit(lenets: dict[int, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for array, error, message in (
        (np.zeros((8, 1, 27, 28), np.float32), CollapseError, "onnxruntime cannot quantize .*lenet20.onnx with .*data.npz"),
        (np.zeros((8, 1, 28, 28), np.float64), CollapseError, "onnxruntime cannot quantize"),
        (np.zeros((0, 1, 28, 28), np.float32), LoadError, "hold 0 samples"),
    ):
        np.savez(tmp_path / "data.npz", images=array)
        with pytest.raises(error, match=message):
            collapse_model(lenets[20], out, "lut", data=tmp_path / "data.npz", quantizing=EIGHT)
    shape = (4, 3, 8, 8)
    source = exported(Residual(), tmp_path / "net.onnx", shape, static=True)
    with pytest.raises(CollapseError, match=r"takes 4 samples at once, .* holds 3"):
        collapse_model(source, out, "lut", data=samples(tmp_path / "data.npz", shape, 3), quantizing=EIGHT)


def test_other_dtypes(tmp_path: Path) -> None:
    source = exported(nets.tiny(), tmp_path / "net.onnx", (2, 4), dtype="float16")
    np.savez(tmp_path / "data.npz", x=np.zeros((8, 4), np.float16))
    with pytest.raises(CollapseError, match="are float16; only float32 models are quantized"):
        collapse_model(source, tmp_path / "out.onnx", "lut", data=tmp_path / "data.npz", quantizing=EIGHT)


def test_the_last_samples_count_too() -> None:
    three = Samples((np.zeros((35, 2)),), None, "test")
    open_, fixed = (ir.from_proto(qdq(shape=shape)) for shape in (("N", 2), (2, 2)))
    assert [(r.start, r.stop) for r in quantize.runs(open_, three)] == [(0, 32), (32, 64)]
    assert len(quantize.runs(fixed, three)) == 17


def test_the_result_of_the_worst_batch_is_shown() -> None:
    base = compare("y, data, from sample 0", [1.0], [1.0], "float32", atol=0.0)
    worse = replace(compare("y", [1.0], [2.0], "float32", atol=0.0), name="y, data, from sample 32")
    (found,) = lookup_validation._merged([base, worse, replace(base, name="y, data, from sample 64")])
    assert (found.name, found.elements, found.equal) == ("y, data", 3, False)


def test_onnxruntime_alone_runs_the_file(lenets: dict[int, Path], few: Path, tmp_path: Path) -> None:
    """With its optimisations, in which integers are multiplied: the same classes."""
    x = np.load(few)["images"]
    quantized(lenets[20], x, tmp_path)
    collapse_model(tmp_path / "quantized.onnx", tmp_path / "out.onnx", "lut", comparing=ValidationConfig(skip=True))
    x = torch.from_numpy(x)
    one, other = (OnnxRuntime(tmp_path / name).run([x])[0] for name in ("quantized.onnx", "out.onnx"))
    assert np.array_equal(one.argmax(1), other.argmax(1))
