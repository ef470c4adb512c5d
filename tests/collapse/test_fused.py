"""The fused form: node, body and kernel compute the same, with the affine; what the kernel refuses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from opau_onnx import collapse_model, create_session, export_model
from opau_onnx.collapse.api import clean
from opau_onnx.collapse.passes import fused
from opau_onnx.compare.arrays import ort_value
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, DOMAIN, FIXED_OP_TYPE, Config
from opau_onnx.native.library import get_library_path
from opau_onnx.nn import HP1, OrthogonalPade
from opau_onnx.runtime.assignment import assignments
from tests.collapse.test_absorb import batch_norm, model
from tests.custom_ops.library import required_library
from tests.export import single


def collapsed(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = ir.from_proto(proto)
    clean(made, "fused", fused.replace_activations(made))
    out = ir.to_proto(made)
    onnx.checker.check_model(out, full_check=True)
    assert [n.op_type for n in out.graph.node] == [FIXED_OP_TYPE]
    return out


def kernel(proto: onnx.ModelProto, *arrays: Any) -> Any:
    """What the compiled kernel computes."""
    session = create_session(proto, "cpu", library=True)
    (found,) = assignments(session)
    assert found.implementation == "kernel"
    feed = {v.name: ort_value(single.to_torch(a)) for v, a in zip(session.get_inputs(), arrays, strict=True)}
    from opau_onnx.compare.arrays import array

    return array(session.run_with_ort_values(None, feed)[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_the_kernel_gives_the_bits_of_the_learned_op(basis: str, form: str) -> None:
    required_library()
    for degrees in ((5, 4), (0, 0), (4, 5), (10, 9)):
        case = single.Case(Config(basis, form, degrees))
        values, x = single.coefficients(case), single.inputs(case, 400)
        before = single.model(case, ["N"], values)
        assert np.array_equal(kernel(collapsed(before), x), kernel(before, x), equal_nan=True), degrees


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_every_dtype_and_sharing(dtype: str) -> None:
    required_library()
    for config, shape in ((Config(), (7, 3)), (Config(groups=3), (4, 6, 5)), (Config(groups=5, axis=-1), (9, 5))):
        for own in itertools.product((False, True), repeat=2) if config.groups > 1 else [(False, False)]:
            case = single.Case(config, dtype, 22, per_group=own)
            values = single.coefficients(case)
            after = collapsed(single.model(case, ["N", *shape[1:]], values))
            x = np.resize(single.inputs(case), shape)
            single.check(case, x, values, np.asarray(kernel(after, x), np.float64), "kernel")
            runs = single.runners(after) if dtype != "bfloat16" else {"ReferenceEvaluator": single._reference(after)}
            for name, run in runs.items():
                single.check(case, x, values, run(x)[0], name)


class PreActivation(nn.Module):
    """Two affines that can be absorbed, in both layouts of channels, and one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.norm, self.first = nn.Conv2d(3, 16, 3), nn.MaxPool2d(2), nn.BatchNorm2d(16), HP1()
        self.second, self.norm2 = nn.Conv2d(16, 8, 3), nn.BatchNorm1d(8)
        self.third, self.last = OrthogonalPade("legendre", (5, 4), groups=4), HP1()
        for norm in (self.norm, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(self.pool(self.conv(x))))
        x = self.third(self.norm2(self.second(x).mean((2, 3))))
        value: Tensor = self.last(x + x.mean())
        return value


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batch_norms_are_absorbed(dtype: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    export_model(PreActivation().eval(), before, torch.randn(2, 3, 14, 14), dtype=dtype, validate=False)
    result = collapse_model(before, after, "fused")
    assert result.equal
    assert [r.absorbed for r in result.replaced] == [("BatchNormalization",), ("BatchNormalization",), ()]
    kinds = [n.op_type for n in onnx.load(after).graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count(FIXED_OP_TYPE) == 3
    required_library()
    sessions = [create_session(path, "cpu", library=True) for path in (before, after)]
    x = np.random.default_rng(0).standard_normal((5, 3, 14, 14)).astype(dtype)
    one, two = (s.run(None, {s.get_inputs()[0].name: x})[0] for s in sessions)
    assert np.abs(one.astype(float) - two.astype(float)).max() < (1e-5 if dtype == "float32" else 2e-2)
    assert [a.operations for a in assignments(sessions[1])] == [3]


def test_a_chain_around(tmp_path: Path) -> None:
    proto = model(batch_norm("x", "b"))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    result = collapse_model(tmp_path / "m.onnx", tmp_path / "out.onnx", "fused")
    assert result.equal
    assert len(onnx.load(tmp_path / "out.onnx").graph.node) == 1


def test_equal_activations_share_a_body(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), HP1(), nn.Linear(4, 4), HP1(), nn.Linear(4, 4), HP1(groups=2)).eval()
    export_model(net, tmp_path / "m.onnx", torch.randn(2, 4), validate=False)
    result = collapse_model(tmp_path / "m.onnx", tmp_path / "out.onnx", "fused")
    assert result.equal
    made = onnx.load(tmp_path / "out.onnx")
    assert len(made.functions) == 1  # the groups start with equal rows
    assert sum(n.op_type == FIXED_OP_TYPE for n in made.graph.node) == 3


def broken(change: Any) -> str:
    """onnxruntime's message for a node that was changed."""
    required_library()
    proto = collapsed(model(batch_norm("x", "b"), config=Config(groups=3)))
    node = proto.graph.node[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    change(attributes)
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(get_library_path())
    # onnxruntime's exceptions have no common base class.
    with pytest.raises(Exception, match=FIXED_OP_TYPE) as caught:
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return str(caught.value)


def test_what_the_kernel_refuses() -> None:
    def tensor(*values: float, kind: Any = np.float32) -> Any:
        return numpy_helper.from_array(np.asarray(values, kind))

    assert f"{FIXED_OP_TYPE} node" in broken(lambda a: a.pop("numerator"))
    assert "attribute 'numerator' is missing" in broken(lambda a: a.pop("numerator"))
    assert "attribute 'denominator' is missing" in broken(lambda a: a.pop("denominator"))
    assert "only one is there" in broken(lambda a: a.pop("shift"))
    assert "the scale has shape (2,); expected (6,)" in broken(lambda a: a.update(scale=tensor(1, 2)))
    assert "the numerator has shape (3,)" in broken(lambda a: a.update(numerator=tensor(1, 2, 3)))
    assert "is NaN; expected a finite number" in broken(lambda a: a.update(denominator=tensor(1, 2, 3, np.nan)))
    assert "is not of type float" in broken(lambda a: a.update(scale=tensor(*range(6), kind=np.float64)))
    assert "unknown basis" in broken(lambda a: a.update(basis="bessel"))


def test_the_domain_stays(tmp_path: Path) -> None:
    case = single.Case(Config())
    made = collapsed(single.model(case, ["N"], single.coefficients(case)))
    assert {o.domain for o in made.opset_import} == {"", DOMAIN}
    assert [f.name for f in made.functions] == [FIXED_OP_TYPE]
    assert not made.graph.initializer
