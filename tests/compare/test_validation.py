"""The comparison finds planted faults, and raises no false alarm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import opau_onnx
from opau_onnx.compare.batches import random_batches
from opau_onnx.errors import ExportError, ValidationError
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), HP1(groups=4), nn.Flatten(), nn.Linear(144, 16), HP2(), nn.Linear(16, 8), PAU("B"), nn.Linear(8, 3)
    ).eval()


EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    path = tmp_path_factory.mktemp("validate") / "net.onnx"
    model = network()
    assert opau_onnx.export_model(model, path, EXAMPLE).equal
    return model, path


def verdict(
    exported: tuple[nn.Module, Path], tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> opau_onnx.ExportResult:
    model, path = exported
    proto = onnx.load(path)
    change(proto)
    changed = tmp_path / "changed.onnx"
    onnx.save(proto, changed)
    return opau_onnx.validate_model(model, changed, EXAMPLE)


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    def apply(proto: onnx.ModelProto) -> None:
        stored = next(t for t in proto.graph.initializer if t.name == name)
        values = change(numpy_helper.to_array(stored).copy())
        stored.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    return apply


def scaled(index: int, factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def apply(values: np.ndarray) -> np.ndarray:
        values.reshape(-1)[index] *= factor
        return values

    return apply


def test_the_file_itself_is_equal(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    assert verdict(exported, tmp_path, lambda proto: None).equal


@pytest.mark.parametrize("index", range(6))
def test_one_percent_of_a_numerator(exported: tuple[nn.Module, Path], tmp_path: Path, index: int) -> None:
    found = verdict(exported, tmp_path, edit("4.numerator", scaled(index, 1.01)))
    assert found.equal is False
    checks = {c.module: c for c in found.validation.activations}
    assert checks["4"].coefficients == "different"
    assert checks["1"].equal
    assert checks["6"].equal


@pytest.mark.parametrize("index", range(4))
def test_one_percent_of_a_denominator(exported: tuple[nn.Module, Path], tmp_path: Path, index: int) -> None:
    assert verdict(exported, tmp_path, edit("1.denominator", scaled(index, 1.01))).equal is False


def test_a_float16_cast_of_coefficients(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    found = verdict(exported, tmp_path, edit("4.numerator", lambda v: v.astype(np.float16)))
    assert found.equal is False


def test_one_weight_of_a_layer(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    found = verdict(
        exported, tmp_path, edit("7.weight", lambda v: v + 1e-4 * np.abs(v).max() * (np.arange(v.size) == 0).reshape(v.shape))
    )
    assert found.equal is False
    assert all(c.equal for c in found.validation.activations)  # the activations are not to blame
    assert not all(c.equal for c in found.validation.outputs)


def test_the_wrong_body(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """HP-2's node runs HP-1's formula: attributes and overload say hermite_e."""

    def change(proto: onnx.ModelProto) -> None:
        node = next(n for n in proto.graph.node if n.name.startswith("4/"))
        body = next(f for f in proto.functions if f.overload == node.overload)
        source = next(f for f in proto.functions if "hermite_e" in f.overload)
        del body.node[:]
        plain = onnx.load_model_from_string(proto.SerializeToString())
        donor = next(f for f in plain.functions if f.overload == source.overload)
        body.node.extend(donor.node)

    try:
        found = verdict(exported, tmp_path, change)
    except ValidationError:
        return  # the bodies differ in their grouping, so that onnxruntime may refuse the mix
    assert found.equal is False


def test_inputs_that_do_not_fit(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = exported
    with pytest.raises(ValidationError, match="inputs"):
        opau_onnx.validate_model(model, path, (EXAMPLE, EXAMPLE))
    with pytest.raises(ExportError, match="does not exist"):
        opau_onnx.validate_model(model, tmp_path / "absent.onnx", EXAMPLE)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="not a readable ONNX file"):
        opau_onnx.validate_model(model, tmp_path / "bad.onnx", EXAMPLE)


@pytest.mark.parametrize("seed", range(6))
def test_no_false_alarm(seed: int, tmp_path: Path) -> None:
    """Random networks of random activations, coefficients moved as training does."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = int(rng.integers(4, 40))
    layers: list[nn.Module] = [nn.Linear(7, width)]
    for _ in range(3):
        basis = str(rng.choice(["power", "chebyshev", "chebyshev_u", "hermite_e", "hermite", "laguerre", "legendre"]))
        form = str(rng.choice(["abs_terms", "abs_sum", "pau_c"]))
        degrees = (int(rng.integers(0, 17)), int(rng.integers(0, 17)))
        layers += [OrthogonalPade(basis, degrees, form, axis=-1), nn.LayerNorm(width), nn.Linear(width, width)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    found = opau_onnx.export_model(
        model, tmp_path / "net.onnx", torch.randn(3, 7), options=opau_onnx.ToleranceConfig(seed=seed)
    )
    assert found.equal, [c for c in (*found.validation.activations, *found.validation.outputs) if not c.equal]


def test_batches_are_of_several_scales_and_sizes() -> None:
    tokens = torch.randint(0, 9, (2, 5))
    found = dict(random_batches((EXAMPLE, tokens), {0: {0: "batch"}, 1: {0: "batch"}}, opau_onnx.ToleranceConfig(samples=7)))
    sizes = {inputs[0].shape[0] for inputs in found.values()}
    assert sizes == {1, 2, 7}
    for x, t in found.values():
        assert len(x) == len(t)
        assert t.dtype == tokens.dtype
        assert tokens.min() <= t.min() <= t.max() <= tokens.max()
    spread = [float(x.std()) for name, (x, _) in found.items() if "batch 7" in name]
    assert max(spread) / min(spread) > 50
