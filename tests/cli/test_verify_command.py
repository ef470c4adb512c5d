"""``opau-verify``: exit codes, what it prints, what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.verify import app
from opau_onnx.nn import HP1
from tests.export import nets as small
from tests.verify import nets

HERE = Path(__file__).resolve().parents[2]
LENET = HERE / "models" / "lenet_hp1_fashion_mnist.pt"


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lenet") / "lenet.onnx"
    opau_onnx.export_model(LENET, path, validate=False)
    return path


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that ship, with their labels."""
    images, labels = opau_onnx.io.datasets.load_sample()
    path = tmp_path_factory.mktemp("sample") / "sample.npz"
    np.savez(path, images=opau_onnx.io.datasets.preprocess(images), labels=labels)
    return path


def test_equal(lenet: Path, sample: Path, tmp_path: Path) -> None:
    done = run(
        LENET, lenet, "--data", sample, "--limit", 300, "--runtimes", "torch,ort-function,reference", "--layerwise", "--report",
        tmp_path / "r.json", "--html", tmp_path / "r.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = [flat(line) for line in done.output.splitlines()]
    assert lines[0] == f"lenet_hp1_fashion_mnist.pt (checkpoint) on {sample}, the first 300"
    rows = {line.split(" ")[0]: line for line in lines if line.endswith(" equal")}
    for name in ("ort-function", "reference"):
        assert f"{name} output 300 " in rows[name]
        assert " % 0 equal" in rows[name]
    assert len([line for line in lines if line.startswith("conv1_activation/OrthogonalPade")]) == 3
    assert lines[-1] == f"equal: {lenet}"
    assert '"used" is the share' in done.output  # and a column bears that name
    assert " used " in next(line for line in lines if line.startswith("runtime "))
    assert "openvino" not in done.output
    content = json.loads((tmp_path / "r.json").read_text())
    assert [run["labels"]["differing"] for run in content["files"][0]["runtimes"]] == [0, 0]


def test_different(lenet: Path, tmp_path: Path) -> None:
    path = nets.changed(lenet, tmp_path, nets.edited("fc1_activation.numerator", nets.off_by_a_thousandth))
    done = run(LENET, lenet, path, "--runtimes", "ort-function")
    assert done.exit_code == 1
    assert "found: fc1_activation/OrthogonalPade: the numerator differs from the model's: numerator[2] is" in done.output
    assert done.output.rstrip().endswith(f"NOT EQUAL: {path}")
    assert "conv1_activation/OrthogonalPade: the" not in done.output


def test_a_runtime_that_cannot_run(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    report = tmp_path / "r.json"
    done = run(LENET, lenet, "--runtimes", "ort-function,ort-cuda", "--report", report)
    assert done.exit_code == 2
    assert "NOT RUN: ort-cuda was asked for: onnxruntime" in done.output
    assert "incomplete: what ran is equal" in done.output
    assert "\nequal: " not in done.output
    content = json.loads(report.read_text())
    assert (content["verdict"], content["complete"]) == ("equal", False)
    unasked = run(LENET, lenet, "--samples", 2)  # all that can: then it need not
    assert unasked.exit_code == 0, unasked.output
    assert "ort-cuda not run: " in flat(unasked.output)


def test_differing_comes_before_not_run(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    path = nets.changed(lenet, tmp_path, nets.edited("fc1_activation.numerator", nets.off_by_a_thousandth))
    assert run(LENET, path, "--runtimes", "ort-function,ort-cuda").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtimes", "tvm"], "--runtimes holds 'tvm'; expected some of torch, node"),
        (["--runtimes", "torch"], "--runtimes names torch alone"),
        (["--data", "nothing.npz"], "there are no samples at nothing.npz"),
        (["--input-shape", "1,x"], "--input-shape is '1,x'"),
        (["--model", "a:b"], "needs no --model"),
        (["--min-agreement", "2"], "--min-agreement"),
        (["--report", "no/folder"], "cannot write the report no/folder"),
    ],
)
def test_usage(lenet: Path, arguments: list[str], message: str) -> None:
    done = run(LENET, lenet, "--runtimes", "ort-function", *arguments)
    assert done.exit_code == 2
    assert message in flat(done.output)
    assert "Traceback" not in done.output


def test_files_that_are_not_there(lenet: Path, tmp_path: Path) -> None:
    for arguments in ((tmp_path / "no.pt", lenet), (LENET, tmp_path / "no.onnx"), (LENET,)):
        done = run(*arguments)
        assert done.exit_code == 2, done.output
    assert not list(tmp_path.iterdir())


def test_a_state_dict(tmp_path: Path) -> None:
    torch.save(small.tiny().state_dict(), tmp_path / "w.pt")
    opau_onnx.export_model(small.tiny(), tmp_path / "m.onnx", small.example(2, 4), validate=False)
    reading = ["--model", "tests.export.nets:tiny", "--input-shape", "2,4"]
    done = run(tmp_path / "w.pt", tmp_path / "m.onnx", *reading, "--runtimes", "ort-function")
    assert done.exit_code == 0, done.output
    assert run(tmp_path / "w.pt", tmp_path / "m.onnx").exit_code == 2


def test_an_error_nobody_foresaw_is_not_code_1(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("opau_onnx.verify.api.run_batches", broken)
    done = run(LENET, lenet)
    assert done.exit_code == 2
    assert "ZeroDivisionError: planted" in done.output


def test_names_are_not_markup(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"[bold]": HP1()})
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), model["[bold]"]).eval()
    opau_onnx.export_model(net, tmp_path / "[red]m.onnx", small.example(2, 4), validate=False)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    result = opau_onnx.verify_model(net, tmp_path / "[red]m.onnx", small.example(2, 4), runtimes=["ort-function"])
    assert result.equal
    from opau_onnx.cli.verify_output import show

    show(result, [tmp_path / "[red]report"], verbose=True)


@pytest.mark.slow
def test_all_images_in_five_runtimes(lenet: Path, tmp_path: Path) -> None:
    """The promise: 10,000 images, no label differs, a few minutes."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    if opau_onnx.io.datasets.find_fashion_mnist() is None:
        pytest.skip("dataset-fashion-mnist is not installed")
    runtimes = "torch,ort-function,ort-kernel,reference,openvino"
    report = tmp_path / "r.json"
    done = run(LENET, lenet, "--data", "fashion-mnist", "--runtimes", runtimes, "--report", report, "--reference-seconds", 1000)
    assert done.exit_code == 0, done.output
    (file,) = json.loads(report.read_text())["files"]
    assert [(run["samples"], run["labels"]["differing"]) for run in file["runtimes"]] == [(10_000, 0)] * 4
    assert {run["labels"]["top1"] for run in file["runtimes"]} == {file["reference"]["labels"]["top1"]} == {0.9153}
