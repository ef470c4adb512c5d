"""What verify_model compares, what it says of what did not run, and the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from torch import nn

import opau_onnx
from opau_onnx import VerifyResult, verify_model
from opau_onnx.compare.names import REPORT_SCHEMA, RUNTIMES
from opau_onnx.errors import LoadError, ValidationError
from opau_onnx.io.samples import Samples
from opau_onnx.nn import HP1
from opau_onnx.verify.runs import Run
from tests.export import nets as small
from tests.nn.peer_modules import Rational
from tests.verify import nets

FUNCTION = ["ort-function"]


def verify(path: Any, **options: Any) -> VerifyResult:
    return verify_model(nets.classifier(), path, nets.pictures(4), **{"runtimes": FUNCTION, **options})


def runs(result: VerifyResult, file: int = 0) -> dict[str, Run]:
    return {run.name: run for run in result.files[file].file.runs}


def samples(count: int = 70, *, right: bool = True) -> Samples:
    x = nets.pictures(count, seed=5)
    with torch.no_grad():
        labels = nets.classifier()(x).argmax(1).numpy()
    return Samples((x.numpy(),), labels if right else (labels + 1) % 7, "some pictures")


def test_every_runtime_is_listed_and_what_did_not_run_is_not_equal(files: dict[str, Path]) -> None:
    result = verify(files["net"], runtimes=None)
    assert result.equal
    assert result.complete
    content = result.as_dict()["files"][0]["runtimes"]
    assert [run["name"] for run in content] == [name for name in RUNTIMES if name != "torch"]
    for run in content:
        assert run["status"] == ("not run" if run["reason"] else "equal")
        assert bool(run["outputs"]) != bool(run["reason"])
        assert (run["version"] is None) == bool(run["reason"])
    assert "function bodies" in runs(result)["ort-function"].record["implementation"]
    assert runs(result)["reference"].record["version"] == f"onnx {onnx.__version__}"


def test_a_runtime_that_was_named_and_cannot_run(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    result = verify(files["net"], runtimes=["ort-function", "ort-cuda"])
    assert result.equal
    assert not result.complete
    assert list(result.missing) == ["ort-cuda"]
    with pytest.raises(ValidationError, match=r"no runtime that was asked for can run .*net.onnx: ort-cuda: .*has no CUDA"):
        verify(files["net"], runtimes=["ort-cuda"])


def test_a_kernel_has_nothing_to_do_in_a_file_of_standard_operators(files: dict[str, Path]) -> None:
    from tests.custom_ops.library import required_library

    required_library()
    both = verify([files["net"], files["standard"]], runtimes=["ort-function", "ort-kernel"])
    assert both.complete  # it ran where there was something
    assert runs(both)["ort-kernel"].reason == ""
    assert runs(both, 1)["ort-kernel"].reason == "the file has no op of ours, so nothing for a kernel"
    assert "compiled kernel" in runs(both)["ort-kernel"].record["implementation"]
    one = verify(files["standard"], runtimes=["ort-function", "ort-kernel"])
    assert list(one.missing) == ["ort-kernel"]


def test_labels_and_agreement(files: dict[str, Path]) -> None:
    result = verify(files["net"], data=samples())
    labels = runs(result)["ort-function"].labels
    assert labels is not None
    assert (labels.samples, labels.right, labels.differing) == (70, 70, 0)
    assert verify(files["net"], data=samples(right=False)).equal  # wrong alike is equal
    assert result.files[0].reference.labels.right == 70


def own_outputs() -> Any:
    with torch.no_grad():
        return nets.classifier()(nets.pictures(70, seed=5)).numpy()


def biased() -> tuple[nets.Change, float]:
    """The last class's output is off, by so much that about half of the samples get its label."""
    own = own_outputs()
    bias = np.float32(np.median(own.max(axis=1) - own[:, 6]))
    return nets.edited("head.bias", lambda v: np.concatenate([v[:-1], v[-1:] + bias])), float(bias)


def test_labels_that_differ(files: dict[str, Path], tmp_path: Path) -> None:
    change, bias = biased()
    path = nets.changed(files["net"], tmp_path, change)
    loose = {"atol": 2 * bias, "data": samples()}
    result = verify(path, **loose)
    labels = runs(result)["ort-function"].labels
    assert labels is not None
    own = own_outputs()
    expected = (own.argmax(axis=1) != 6) & (own[:, 6] + bias > own[:, :6].max(axis=1))
    assert abs(labels.differing - np.count_nonzero(expected)) <= 1  # the median itself
    assert labels.differing > 20
    assert not result.equal
    for one in labels.different:
        assert one.runtime == 6
        assert one.expected == one.label == own[one.sample].argmax()
        assert one.expected_margin == pytest.approx(own[one.sample].max() - own[one.sample, 6])
        assert one.runtime_margin == pytest.approx(bias - one.expected_margin, abs=1e-4)
    assert f"for {labels.differing} of 70 samples" in next(f.text for f in result.findings if f.kind == "labels")
    assert verify(path, **loose, min_agreement=labels.agreement).equal
    assert not verify(path, **loose, min_agreement=labels.agreement + 0.001).equal


def test_agreement_without_labels_is_counted_where_it_is_asked_for(files: dict[str, Path], tmp_path: Path) -> None:
    change, bias = biased()
    path = nets.changed(files["net"], tmp_path, change)
    plain = Samples(samples().inputs, None, "pictures")
    assert verify(path, data=plain, atol=2 * bias).equal
    assert not verify(path, data=plain, atol=2 * bias, min_agreement=1.0).equal


def test_the_worst_sample_is_the_one_that_was_spoilt(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from opau_onnx.compare.runtimes.ort_function import OrtFunction

    true = OrtFunction.run
    seen = 0

    def spoilt(self: OrtFunction, inputs: Any) -> Any:
        nonlocal seen
        (found,) = true(self, inputs)
        if seen <= 43 < seen + len(found):
            found[43 - seen, 5] += 0.25
        seen += len(found)
        return [found]

    with monkeypatch.context() as patch:
        patch.setattr(OrtFunction, "run", spoilt)
        result = verify(files["net"], data=samples(), batch=16)
    (output,) = runs(result)["ort-function"].outputs
    assert output.sample == 43
    assert output.worst is not None
    assert output.worst.worst_index == (43 - 32, 5)
    assert output.absolute.maximum == pytest.approx(0.25, rel=1e-4)
    assert output.absolute.count == 70 * 7
    assert output.ulp.maximum > 1e5
    assert not result.equal
    assert "at sample 43, index [5]" in next(f.text for f in result.findings if f.kind == "output")


def test_a_fixed_batch_takes_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    opau_onnx.export_model(nets.classifier(), path, nets.pictures(8), static=True, validate=False)
    result = verify_model(nets.classifier(), path, nets.pictures(8), data=samples(), runtimes=FUNCTION, layerwise=True)
    assert result.equal
    assert (result.files[0].samples, result.files[0].left_out) == (64, 6)
    with pytest.raises(ValidationError, match="holds 5 samples, the file takes 8 at once"):
        verify_model(nets.classifier(), path, nets.pictures(8), data=samples(5), runtimes=FUNCTION)


def test_limit_and_the_slow_evaluators_time(files: dict[str, Path]) -> None:
    result = verify(files["net"], data=samples(), limit=40, batch=10, runtimes=["reference"], reference_seconds=0.0)
    assert result.data == "some pictures, the first 40"
    assert result.files[0].samples == 40
    assert runs(result)["reference"].samples == 10
    whole = verify(files["net"], data=samples(), limit=40, batch=10, runtimes=["reference"])
    assert runs(whole)["reference"].samples == 40


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes(tmp_path: Path, dtype: str) -> None:
    model, x = small.tiny(), small.example(3, 4)
    opau_onnx.export_model(model, tmp_path / "m.onnx", x, dtype=dtype, validate=False)
    result = verify_model(model, tmp_path / "m.onnx", x, layerwise=True)
    assert result.equal, [f.text for f in result.findings if f.fails]
    assert result.files[0].file.kind == dtype
    found = runs(result)
    assert not found["ort-function"].reason
    if dtype == "float64":
        assert found["openvino"].reason


def test_files_of_several_dtypes_together(tmp_path: Path) -> None:
    model, x = small.tiny(), small.example(3, 4)
    paths = []
    for dtype in ("float32", "float16"):
        paths.append(tmp_path / f"{dtype}.onnx")
        opau_onnx.export_model(model, paths[-1], x, dtype=dtype, validate=False)
    result = verify_model(model, paths, x, runtimes=FUNCTION)
    assert [f.file.kind for f in result.files] == ["float32", "float16"]
    errors = [runs(result, i)["ort-function"].outputs[0].absolute.maximum for i in (0, 1)]
    assert errors[1] > 10 * errors[0]
    assert result.equal


def test_an_exported_program(tmp_path: Path) -> None:
    model = small.few()
    program = torch.export.export(model, (small.example(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "m.pt2")
    opau_onnx.export_model(tmp_path / "m.pt2", tmp_path / "m.onnx", validate=False)
    result = verify_model(tmp_path / "m.pt2", tmp_path / "m.onnx", layerwise=True, runtimes=FUNCTION)
    assert result.equal
    assert [a.key for a in result.files[0].activations] == [("1", 0), ("3", 0), ("4", 0), ("6", 0)]
    assert all(len(layer.places) == 2 for layer in result.files[0].inside.activations)
    assert all(a.stored and all(s.equal for s in a.stored) for a in result.files[0].activations)


class Twice(nn.Module):
    """One module called twice, and under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = HP1()
        self.same = self.one
        self.other = HP1()
        self.mid = nn.Linear(4, 4)
        with torch.no_grad():
            self.other.numerator.mul_(1.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.same(self.mid(self.other(self.one(self.mid(self.one(x))))))


def test_a_module_that_is_called_several_times(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), small.example(3, 4)
    opau_onnx.export_model(model, tmp_path / "m.onnx", x, validate=False)
    result = verify_model(model, tmp_path / "m.onnx", x, layerwise=True, runtimes=FUNCTION)
    assert result.equal, [f.text for f in result.findings]
    assert [a.key for a in result.files[0].activations] == [("one", 0), ("one", 1), ("other", 0), ("one", 2)]


def test_a_file_without_names_is_compared_by_its_outputs(files: dict[str, Path], tmp_path: Path) -> None:
    def anonymous(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            del node.metadata_props[:]

    result = verify(nets.changed(files["net"], tmp_path, anonymous), layerwise=True)
    assert result.equal
    assert all(a.key is None and "no activation of that name" in a.reason for a in result.files[0].activations)
    assert [f.kind for f in result.findings] == ["note"] * 2
    assert result.files[0].inside.results[0].runtimes["ort-function"].equal


def test_an_inlined_file_has_no_activation_left(files: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.inliner.inline_local_functions(onnx.load(files["net"]))
    onnx.save(proto, tmp_path / "inlined.onnx")
    result = verify(tmp_path / "inlined.onnx", layerwise=True)
    assert result.equal
    assert result.files[0].activations == []


def test_absorbed_layers_are_not_matched_by_force(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.MaxPool1d(2), nn.BatchNorm1d(4), HP1(), nn.Flatten(), nn.Linear(12, 2))
    model(torch.randn(64, 4, 6))  # statistics
    model, x = model.eval(), small.example(3, 4, 6)
    opau_onnx.export_model(model, tmp_path / "m.onnx", x, validate=False)
    opau_onnx.collapse_model(tmp_path / "m.onnx", tmp_path / "f.onnx", "fused", comparing=opau_onnx.ValidationConfig(skip=True))
    result = verify_model(model, tmp_path / "f.onnx", x, layerwise=True, runtimes=FUNCTION)
    assert result.equal, [f.text for f in result.findings]
    (found,) = result.files[0].activations
    assert "it holds the BatchNormalization around it too" in found.reason
    assert [p.what for p in result.files[0].inside.activations[0].places] == ["output"]


def approximate(proto: onnx.ModelProto) -> None:
    """The first activation of a standard form, plus a thousandth; its record says what --tolerance 0.002 would."""
    held = next(p for p in proto.metadata_props if p.key == "opau.collapse")
    content = json.loads(held.value)
    content["activations"][0]["approximation"] = {"tolerance": 0.002, "range": [-1.5, 1.5]}
    held.value = json.dumps(content)
    at = max(i for i, n in enumerate(proto.graph.node) if n.name.startswith("first/"))
    last = proto.graph.node[at]
    more = onnx.helper.make_node("Add", ["exact", "shift"], list(last.output), f"{last.name}_more")
    more.metadata_props.extend(last.metadata_props)
    last.output[0] = "exact"
    proto.graph.node.insert(at + 1, more)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.001), "shift"))


def test_an_activation_that_was_approximated_on_purpose(files: dict[str, Path], tmp_path: Path) -> None:
    """It is different, unless the user gives a tolerance: then what the file says of it counts, where it says it."""
    path = nets.changed(files["standard"], tmp_path, approximate)
    exact = verify(path, layerwise=True)
    assert not exact.equal
    assert "first/OrthogonalPade" in {f.where for f in exact.findings if f.kind == "activation"}
    loose = verify(path, atol=0.1, layerwise=True)
    assert loose.equal, [f.text for f in loose.findings]
    said = next(f.text for f in loose.findings if f.kind == "note")
    assert said == "first/OrthogonalPade was approximated on purpose, by up to 0.002 for inputs from -1.5 to 1.5"
    coarser = nets.changed(path, tmp_path, nets.edited("shift", lambda v: v * np.float32(3)))
    assert not verify(coarser, atol=0.1).equal


def test_a_collapsed_file_whose_operators_lost_their_names(files: dict[str, Path], tmp_path: Path) -> None:
    def nameless(proto: onnx.ModelProto) -> None:
        for i, node in enumerate(proto.graph.node):
            node.name = f"n{i}"
            del node.metadata_props[:]

    result = verify(nets.changed(files["standard"], tmp_path, nameless), layerwise=True)
    assert result.equal
    assert all(a.reason.startswith("no operator in the file bears its name") for a in result.files[0].activations)
    assert [a["equal"] for a in result.as_dict()["files"][0]["activations"]] == [None, None]


def test_what_was_adopted_is_compared_with_the_original(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Rational(version="A"), nn.Linear(6, 3)).eval()
    x = small.example(3, 4)
    opau_onnx.export_model(model, tmp_path / "m.onnx", x, validate=False)
    result = verify_model(model, tmp_path / "m.onnx", x, runtimes=FUNCTION)
    assert result.equal
    assert runs(result)["original"].equal(None)
    assert result.files[0].activations[0].key == ("1", 0)
    assert result.as_dict()["adopted"]


def test_the_report(files: dict[str, Path], tmp_path: Path) -> None:
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    options: dict[str, Any] = {"data": samples(), "layerwise": True, "runtimes": ["ort-function", "reference"]}
    result = verify(files["net"], report=report, html=page, **options)
    assert sorted(tmp_path.iterdir()) == [page, report]
    assert page.read_text().startswith("<!DOCTYPE html>")
    content = json.loads(report.read_text(), parse_constant=pytest.fail)
    assert content == result.as_dict()
    assert content["schema"] == REPORT_SCHEMA
    assert content["verdict"] == "equal"
    (file,) = content["files"]
    for run in file["runtimes"]:
        (output,) = run["outputs"]
        histogram = output["histogram"]
        assert sum(histogram["counts"]) + histogram["zeros"] == 70 * 7
    first, second = file["activations"]
    assert first["inputs"]["count"] == 70 * 4 * 36
    assert sum(first["inputs"]["histogram"]["counts"]) > 0.99 * first["inputs"]["sampled"]
    assert (len(first["curve"]["groups"]), len(second["curve"]["groups"])) == (1, 2)
    for found in (first, second):
        x = np.array(found["curve"]["x"])
        assert (np.diff(x) > 0).all()
        assert x[0] <= found["inputs"]["quantiles"]["0.01"] < found["inputs"]["quantiles"]["0.99"] <= x[-1]
        for group in found["curve"]["groups"]:
            assert list(group["ulp"]) == ["torch", "ort-function", "reference"]
            assert all(len(values) == x.size for values in (group["y"], group["bound_ulp"], *group["ulp"].values()))
            assert all(e <= b for values in group["ulp"].values() for e, b in zip(values, group["bound_ulp"], strict=True))
    assert np.allclose(second["coefficients"]["numerator"], nets.classifier().second.numerator.detach().numpy())
    assert [p["what"] for layer in file["layers"]["activations"] for p in layer["places"]] == ["input", "output"] * 2


def test_the_curve_is_the_activation(files: dict[str, Path]) -> None:
    from opau_onnx.core import oracle

    result = verify(files["net"])
    for found in result.files[0].activations:
        assert found.curve is not None
        assert found.function is not None
        for group in found.curve["groups"]:
            at = np.broadcast_to(np.array(found.curve["x"])[:, None], (201, 4))
            c, d = (v.double().numpy() for v in (found.function.numerator, found.function.denominator))
            exact = oracle.evaluate(found.function.config, at, c, d).value[:, 2 * group["group"]]
            assert np.allclose(group["y"], exact, rtol=1e-4, atol=1e-5)


def test_a_report_again_and_names_that_cannot_be_written(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "r.json"
    report.write_text("old")
    verify(files["net"], report=report)
    assert json.loads(report.read_text())["verdict"] == "equal"
    assert list(tmp_path.iterdir()) == [report]
    monkeypatch.setattr("opau_onnx.verify.api._verify", lambda *args: pytest.fail("hours of work before the error"))
    for wrong in (tmp_path, tmp_path / "no" / "report"):
        for option in ("report", "html"):
            with pytest.raises(ValidationError, match="cannot write the report"):
                verify(files["net"], **{option: wrong})


def test_infinities_are_strings_in_the_report(files: dict[str, Path], tmp_path: Path) -> None:
    path = nets.changed(files["net"], tmp_path, nets.edited("head.bias", lambda v: v + np.float32(math.inf)))
    result = verify(path, report=tmp_path / "r.json")
    assert not result.equal
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert content["files"][0]["runtimes"][0]["outputs"][0]["absolute"]["max"] == "inf"


def test_nothing_is_written_where_the_page_cannot_be_made(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(content: Any) -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("opau_onnx.verify.html.render", broken)
    with pytest.raises(ZeroDivisionError):
        verify(files["net"], report=tmp_path / "r.json", html=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtimes": ["tvm"]}, "unknown runtime 'tvm'; expected some of torch, node"),
        ({"runtimes": ["torch"]}, "no runtime to compare PyTorch with"),
        ({"min_agreement": 1.5}, "expected a share from 0 to 1"),
        ({"batch": 0}, "expected at least 1"),
        ({"data": Samples((np.zeros((3, 2), np.float32),), None, "flat")}, "the model cannot run on flat"),
        ({"data": Samples((np.zeros((3, 3, 8, 8), np.float32),), np.array([1, 2, 7]), "few")}, "the label 7, but .* 7 classes"),
    ],
)
def test_usage(files: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        verify(files["net"], **options)


def test_files_that_do_not_belong(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="does not exist"):
        verify(tmp_path / "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(LoadError, match="not a readable ONNX file"):
        verify(tmp_path / "bad.onnx")
    with pytest.raises(ValidationError, match="no file is given"):
        verify([])
    opau_onnx.export_model(small.tiny(), tmp_path / "other.onnx", small.example(2, 4), validate=False)
    with pytest.raises(ValidationError, match="no runtime that was asked for can run"):
        verify(tmp_path / "other.onnx")
