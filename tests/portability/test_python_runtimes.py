"""The standard form in runtimes of Python that know nothing of ours: part of `make test`.

Single activations in onnxruntime and onnx's ReferenceEvaluator are in tests/collapse/test_standard.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from tests.portability import models

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""Else OpenVINO computes in bfloat16, where the processor has it."""


def in_openvino(path: Path, x: Any) -> Any:
    from opau_onnx.compare.runtimes.openvino import openvino_core

    compiled = openvino_core().compile_model(path, "CPU", EXACT)
    parts = [x[i : i + 500] for i in range(0, len(x), 500)]
    return np.concatenate([next(iter(compiled(part).values())) for part in parts])


def in_onnxruntime(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def in_reference(path: Path, x: Any) -> Any:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    with np.errstate(all="ignore"):
        return evaluator.run(None, {evaluator.input_names[0]: x})[0]


Run = Callable[[Path, Any], Any]
RUNTIMES: dict[str, tuple[Run, int]] = {
    "onnxruntime": (in_onnxruntime, 10_000), "openvino": (in_openvino, 10_000), "onnx": (in_reference, 1_000),
}  # fmt: skip
"""Module -> what runs a file, and on how many images."""
NAMES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "onnx": "onnx ReferenceEvaluator"}


@pytest.mark.parametrize("name", models.NETWORKS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_networks(networks: models.Networks, runtime: str, name: str, record_property: Any) -> None:
    version = pytest.importorskip(runtime).__version__
    network, (run, images) = networks(name), RUNTIMES[runtime]
    outputs = run(network.files["standard"], network.x[:images])
    where = np.arange(len(outputs))
    if runtime == "openvino":  # see test_openvino_drops_nan
        where = where[~np.isnan(network.expected).any(1)]
    found = network.compare(outputs[where], where)
    record_property("portability", network.row(f"{NAMES[runtime]} {version.split('-')[0]}", "standard", found, outputs))
    assert found.equal, found
    if name == "lenet":
        assert network.labels(outputs) == 0


@pytest.mark.parametrize("name", [name for name in models.ACTIVATIONS if name != "float64"])
def test_activations_in_openvino(name: str, tmp_path: Path, record_property: Any) -> None:
    """Every basis and form on hard inputs, NaN left out; OpenVINO computes float64 models in float32."""
    pytest.importorskip("openvino")
    for activation in models.activations(tmp_path, name)[:2]:
        known = activation.without_nan()
        record_property("error / bound", known.check(in_openvino(known.files["standard"], known.x), "OpenVINO"))


def test_openvino_drops_nan(tmp_path: Path) -> None:
    """Its own Relu and Clip answer NaN with a number, so what an activation makes of NaN is not promised there."""
    pytest.importorskip("openvino")
    x = np.array([np.nan, 1.0], dtype=np.float32)
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "relu.onnx")
    assert in_openvino(tmp_path / "relu.onnx", x).tolist() == [0.0, 1.0]
    for basis in ("hermite_e", "hermite"):
        linear, bounded = models.activations(tmp_path, f"{basis}-abs_terms")[:2]
        assert np.isnan(in_openvino(linear.files["standard"], x)).tolist() == [True, False]
        assert np.isnan(in_openvino(bounded.files["standard"], x)).tolist() == [False, False]
