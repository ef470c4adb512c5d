"""Each runtime by itself: why it is not here, what it says of itself, and the files that it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import opau_onnx
from opau_onnx.compare.runtime import NotRunError
from opau_onnx.compare.runtimes import NAMES, node, runtime_class
from opau_onnx.compare.runtimes.openvino import OpenVino
from opau_onnx.compare.runtimes.ort_cuda import OrtCuda
from opau_onnx.compare.runtimes.ort_function import OrtFunction
from opau_onnx.compare.runtimes.ort_kernel import OrtKernel
from opau_onnx.compare.runtimes.reference import ReferenceEvaluator
from tests.custom_ops.library import required_library
from tests.export import nets as small
from tests.verify import nets


def test_the_list_is_the_classes() -> None:
    assert [runtime_class(name).name for name in NAMES] == list(NAMES)
    assert set(NAMES) >= {"ort-function", "ort-kernel", "ort-cuda", "reference", "openvino", "node"}


@pytest.mark.parametrize("kind", [OrtFunction, OrtKernel, ReferenceEvaluator, OpenVino])
def test_the_same_numbers(files: dict[str, Path], kind: Any) -> None:
    if kind is OrtKernel:
        required_library()
    elif kind is OpenVino:
        pytest.importorskip("openvino", reason="openvino is not installed")
    x = nets.pictures(5)
    with torch.no_grad():
        want = nets.classifier()(x).numpy()
    for name in ("net", "fused"):
        runtime = kind(files[name])
        (got,) = runtime.run([x])
        assert np.abs(got - want).max() < 1e-4
        assert all(runtime.record.values())
        runtime.close()


def test_signals_after_openvino(files: dict[str, Path]) -> None:
    """Two models open at once, closed in their order; in a process of its own, since a failure ends it."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    code = """
import faulthandler, signal, sys
faulthandler.enable()  # as pytest and many services do: signals have a stack of their own
from opau_onnx.compare.runtimes.openvino import OpenVino
one = OpenVino(sys.argv[1])
two = OpenVino(sys.argv[1])
one.close()
del one
del two
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code, str(files["net"])], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr[-2000:]


def test_what_ran_is_told(files: dict[str, Path]) -> None:
    required_library()
    assert OrtFunction(files["net"]).implementation.startswith("activations by their function bodies")
    assert OrtFunction(files["standard"]).implementation == "onnxruntime's own operators (no op of ours)"
    assert OrtKernel(files["net"]).implementation == "2 activations by the compiled kernel on CPUExecutionProvider"


def test_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, Path]) -> None:
    monkeypatch.setenv("OPAU_LIBRARY", str(tmp_path / "none.so"))
    assert "OPAU_LIBRARY" in str(OrtKernel.unavailable())
    with pytest.raises(NotRunError, match="OPAU_LIBRARY"):
        OrtKernel(files["net"])


def test_no_cuda(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    monkeypatch.setattr("opau_onnx.runtime.session._has_driver", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert OrtCuda.unavailable() is None
    with pytest.raises(NotRunError, match="no NVIDIA driver"):
        OrtCuda(files["net"])


def test_openvino_does_not_compute_in_float64(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    opau_onnx.export_model(small.tiny(), tmp_path / "m.onnx", small.example(2, 4), dtype="float64", validate=False)
    with pytest.raises(NotRunError, match="in float32") as error:
        OpenVino(tmp_path / "m.onnx")
    assert not error.value.applicable


@pytest.mark.parametrize("kind", [OrtFunction, ReferenceEvaluator, OpenVino])
def test_a_file_of_an_unknown_operator(tmp_path: Path, kind: Any) -> None:
    if kind is OpenVino:
        pytest.importorskip("openvino", reason="openvino is not installed")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Nothing", ["x"], ["y"], domain="of.nobody")], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("of.nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(NotRunError, match="cannot load the file"):
        kind(tmp_path / "m.onnx").run([torch.zeros(2)])


def test_no_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, Path]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert node.Node.unavailable() == "node is not installed"
    with pytest.raises(NotRunError, match="node is not installed"):
        node.Node(files["net"])


def test_no_package_for_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(node, "_global_folder", lambda: (tmp_path,))
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    assert "onnxruntime-node is not in NODE_PATH" in str(node.Node.unavailable())
    package = tmp_path / "elsewhere" / "onnxruntime-node"
    package.mkdir(parents=True)
    (package / "package.json").write_text("{}")
    assert node.Node.unavailable() is None
    assert node.find_package() == package.resolve()


FAKE = """
class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
exports.Tensor = Tensor;
exports.InferenceSession = { create: async (model) => {
  if (!require("fs").readFileSync(model).includes("first.numerator")) throw new Error("refused\\nfurther lines");
  return { inputNames: ["pictures"], outputNames: ["output"], run: async ({ pictures }) => {
    if (pictures.dims[0] === 3) throw new Error("three is too many");
    if (pictures.dims[0] === 4) process.exit(7);
    return { output: new Tensor("float32", pictures.data.map((v) => v + 1), pictures.dims) };
  } };
} };
"""
"""A package of that name, so that the way to it is tested where the real one is not."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    package = tmp_path / "onnxruntime-node"
    package.mkdir()
    (package / "package.json").write_text('{"name": "onnxruntime-node", "version": "0.0.1", "main": "index.js"}')
    (package / "index.js").write_text(FAKE)
    monkeypatch.setenv("NODE_PATH", str(tmp_path))


@pytest.mark.usefixtures("fake")
def test_the_way_through_node(files: dict[str, Path]) -> None:
    runtime = node.Node(files["net"])
    try:
        assert runtime.version.startswith("onnxruntime-node 0.0.1 on node ")
        for count in (1, 2):
            x = nets.pictures(count)
            (got,) = runtime.run([x])
            assert np.array_equal(got, (x + 1).numpy())
        with pytest.raises(NotRunError, match="cannot run the file: three is too many"):
            runtime.run([nets.pictures(3)])
        assert runtime.run([nets.pictures(2)])[0].shape == (2, 3, 8, 8)  # it goes on
        with pytest.raises(NotRunError, match="has no tensors of complex64"):
            runtime.run([torch.zeros(2, dtype=torch.complex64)])
        with pytest.raises(NotRunError, match="cannot run the file: node ended"):
            runtime.run([nets.pictures(4)])
    finally:
        folder = Path(runtime.folder.name)
        runtime.close()
    assert not folder.exists()
    with pytest.raises(NotRunError, match=r"cannot load the file: refused$"):
        node.Node(b"no model of ours")


def test_the_real_package_if_it_is_here(files: dict[str, Path]) -> None:
    reason = node.Node.unavailable()
    if reason is not None:
        pytest.skip(reason)
    runtime = node.Node(files["net"])
    x = nets.pictures(5)
    assert np.array_equal(runtime.run([x])[0].shape, (5, 7))
    runtime.close()


def test_the_script_is_javascript() -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = Path(node.__file__).parent / node.SCRIPT
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
