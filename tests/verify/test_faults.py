"""Planted faults: each is found, named, and makes the file different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from opau_onnx import VerifyResult, verify_model
from tests.custom_ops.library import required_library
from tests.verify import nets

FIRST, SECOND = "first/OrthogonalPade", "second/OrthogonalPade"


def verify(path: Path, *, layerwise: bool = False, **options: Any) -> VerifyResult:
    runtimes = options.pop("runtimes", ["ort-function"])
    return verify_model(nets.classifier(), path, nets.pictures(4), runtimes=runtimes, layerwise=layerwise, **options)


def texts(result: VerifyResult, kind: str) -> dict[str, str]:
    """where -> sentence, of one kind."""
    return {f.where: f.text for f in result.findings if f.kind == kind}


@pytest.mark.parametrize("name", ["net", "standard", "fused"])
def test_no_fault(files: dict[str, Path], name: str) -> None:
    result = verify(files[name], layerwise=True)
    assert result.equal, [f.text for f in result.findings]
    assert not result.findings
    inside = result.files[0].inside
    assert inside is not None
    assert [[p.what for p in layer.places] for layer in inside.activations] == [["input", "output"]] * 2
    assert all(layer.checks["ort-function"].equal for layer in inside.activations)


@pytest.mark.parametrize(
    ("tensor", "where", "shown"),
    [("first.numerator", FIRST, "numerator[2]"), ("second.denominator", SECOND, "denominator[0, 2]")],
)
def test_a_coefficient_off_by_a_thousandth(files: dict[str, Path], tmp_path: Path, tensor: str, where: str, shown: str) -> None:
    path = nets.changed(files["net"], tmp_path, nets.edited(tensor, nets.off_by_a_thousandth))
    for layerwise in (False, True):
        result = verify(path, layerwise=layerwise)
        assert not result.equal
        found = texts(result, "coefficients")
        assert list(found) == [where]
        assert f"{shown} is " in found[where]
    assert list(texts(result, "layer")) == [where]
    assert f"in {where} itself" in texts(result, "layer")[where]
    layers = result.files[0].inside.activations
    assert [layer.node for layer in layers if not all(a.equal for a in layer.checks.values())] == [where]


def test_a_wrong_basis_where_the_body_is_right(files: dict[str, Path], tmp_path: Path) -> None:
    """The function's body does not read the attribute, so plain onnxruntime still gives the right numbers."""
    path = nets.changed(files["net"], tmp_path, nets.attribute(FIRST, "basis", "hermite"))
    result = verify(path)
    assert not result.equal
    assert texts(result, "configuration") == {FIRST: f"{FIRST}: its basis is 'hermite', in the model 'hermite_e'"}
    assert not texts(result, "output")


def test_a_wrong_basis_in_the_kernel(files: dict[str, Path], tmp_path: Path) -> None:
    required_library()
    path = nets.changed(files["net"], tmp_path, nets.attribute(FIRST, "basis", "hermite"))
    result = verify(path, layerwise=True, runtimes=["ort-kernel"])
    assert list(texts(result, "configuration")) == [FIRST]
    assert list(texts(result, "activation")) == [FIRST]
    assert f"in {FIRST} itself" in texts(result, "layer")[FIRST]
    assert texts(result, "output")


@pytest.mark.parametrize("change", [nets.edited("second.denominator", nets.to_half), nets.stored_as_half("second.denominator")])
def test_coefficients_in_float16(files: dict[str, Path], tmp_path: Path, change: nets.Change) -> None:
    result = verify(nets.changed(files["net"], tmp_path, change))
    assert not result.equal
    found = texts(result, "coefficients")
    assert list(found) == [SECOND]
    assert "the denominator differs from the model's (the model's numbers rounded to float16)" in found[SECOND]


def test_a_swapped_mean(files: dict[str, Path], tmp_path: Path) -> None:
    """Blue's mean for red's, as where somebody reads pictures in the other order."""
    path = nets.changed(files["net"], tmp_path, nets.edited("mean", lambda v: np.ascontiguousarray(v[::-1])))
    result = verify(path, layerwise=True)
    assert not result.equal
    found = texts(result, "layer")
    assert list(found) == [FIRST]
    assert f"before {FIRST}" in found[FIRST]
    assert "(mean)" in found[FIRST]
    assert "mean differs from the model's (the model's numbers in another order)" in texts(result, "weights")["mean"]
    assert not texts(result, "coefficients")
    assert not texts(result, "activation")  # fed with PyTorch's own input they are right


def test_a_weight_after_the_last_activation(files: dict[str, Path], tmp_path: Path) -> None:
    path = nets.changed(files["net"], tmp_path, nets.edited("head.weight", lambda v: v * np.float32(1.001)))
    result = verify(path, layerwise=True)
    assert not result.equal
    assert "after the last activation, in" in next(iter(texts(result, "layer").values()))
    assert list(texts(result, "weights")) == ["head.weight"]


def test_a_coefficient_of_a_fused_file(files: dict[str, Path], tmp_path: Path) -> None:
    """A kernel reads the attribute; the body has its own constants."""
    required_library()
    path = nets.changed(files["fused"], tmp_path, shifted_attribute)
    assert verify(path).equal
    result = verify(path, runtimes=["ort-kernel"], layerwise=True)
    assert not result.equal
    assert list(texts(result, "activation")) == [FIRST]
    assert f"in {FIRST} itself" in texts(result, "layer")[FIRST]


def shifted_attribute(proto: onnx.ModelProto) -> None:
    node = next(n for n in proto.graph.node if n.name == FIRST)
    held = next(a for a in node.attribute if a.name == "numerator")
    held.t.CopyFrom(numpy_helper.from_array(nets.off_by_a_thousandth(numpy_helper.to_array(held.t).copy())))


def test_a_constant_of_the_standard_form(files: dict[str, Path], tmp_path: Path) -> None:
    """Nothing in such a file is called a coefficient, yet the layer is named."""
    proto = onnx.load(files["standard"])
    used = {name for n in proto.graph.node if n.name.startswith(FIRST) for name in n.input}
    constants = {t.name: numpy_helper.to_array(t).reshape(-1) for t in proto.graph.initializer if t.name in used}
    chosen = next(name for name, values in constants.items() if 0.1 < abs(values[0]) < 100)  # not a bound, not a power of X0
    path = nets.changed(files["standard"], tmp_path, nets.edited(chosen, lambda v: v + np.float32(1e-3)))
    result = verify(path, layerwise=True)
    assert not result.equal
    assert FIRST in texts(result, "activation")
    assert f"in {FIRST} itself" in texts(result, "layer")[FIRST]


def test_a_given_tolerance_is_for_outputs_only(files: dict[str, Path], tmp_path: Path) -> None:
    path = nets.changed(files["net"], tmp_path, nets.edited("head.weight", lambda v: v * np.float32(1.001)))
    assert verify(path, atol=0.1).equal
    coefficient = nets.changed(files["net"], tmp_path, nets.edited("first.numerator", nets.off_by_a_thousandth))
    assert not verify(coefficient, atol=0.1).equal
