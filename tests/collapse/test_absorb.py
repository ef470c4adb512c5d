"""What may become part of an activation, and what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from opau_onnx.collapse.api import collapse_model
from opau_onnx.collapse.passes.absorb import Absorbed, absorb
from opau_onnx.core.frozen import trim
from opau_onnx.core.spec import Config
from opau_onnx.graph.frozen import freeze
from opau_onnx.graph.nodes import opau_nodes
from tests.export import single

CHANNELS = 6
RNG = np.random.default_rng(0)


def initializer(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def batch_norm(read: str, written: str, **attributes: Any) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    names = [f"{written}.{n}" for n in ("scale", "B", "mean", "var")]
    values = [RNG.uniform(0.5, 2, CHANNELS), *RNG.normal(size=(2, CHANNELS)), RNG.uniform(0.5, 2, CHANNELS)]
    node = helper.make_node("BatchNormalization", [read, *names], [written], epsilon=1e-3, **attributes)
    return [node], [initializer(n, v) for n, v in zip(names, values, strict=True)]


def arithmetic(op_type: str, read: str, written: str, values: Any, *, swapped: bool = False) -> Any:
    inputs = [read, f"{written}.value"]
    return [helper.make_node(op_type, inputs[::-1] if swapped else inputs, [written])], [initializer(inputs[1], values)]


def model(
    *before: Any, after: Any = (), config: Config | None = None, outputs: tuple[str, ...] = (), rows: bool = False
) -> onnx.ModelProto:
    """x, what is before (the last gives "b"), the activation (gives "a"), what is after (gives "y")."""
    case = single.Case(config or Config(), per_group=(rows, rows))
    made = single.model(case, ["N", CHANNELS, 5], single.coefficients(case))
    node = made.graph.node[0]
    parts = [p for part in before for p in part[0]], [t for part in before for t in part[1]]
    node.input[0] = "b" if before else "x"
    node.output[0] = "a" if after else "y"
    for i, part in enumerate(before[:-1]):
        assert part[0][0].output[0] == f"b{i}"
    nodes = [*parts[0], node, *[p for part in after for p in part[0]]]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend([*parts[1], *[t for part in after for t in part[1]]])
    made.graph.output.extend(helper.make_tensor_value_info(name, 1, ["N", CHANNELS, 5]) for name in outputs)
    names = {name for n in nodes for name in n.output} - {"y", *outputs}
    made.graph.value_info.extend(helper.make_tensor_value_info(name, 1, ["N", CHANNELS, 5]) for name in names)
    onnx.checker.check_model(made)
    return made


def absorbed(proto: onnx.ModelProto) -> Absorbed:
    (node,) = opau_nodes(ir.from_proto(proto))
    return absorb(node, trim(freeze(node)))


PER_CHANNEL = RNG.uniform(0.5, 2, (CHANNELS, 1))

MATCHES = {
    "batch norm": (batch_norm("x", "b"),),
    "mul": (arithmetic("Mul", "x", "b", PER_CHANNEL),),
    "mul, swapped": (arithmetic("Mul", "x", "b", PER_CHANNEL, swapped=True),),
    "add": (arithmetic("Add", "x", "b", PER_CHANNEL[None]),),
    "sub": (arithmetic("Sub", "x", "b", PER_CHANNEL),),
    "div": (arithmetic("Div", "x", "b", PER_CHANNEL),),
    "a number": (arithmetic("Mul", "x", "b", 3.0),),
    "a chain": (batch_norm("x", "b0"), arithmetic("Mul", "b0", "b1", PER_CHANNEL), arithmetic("Add", "b1", "b", 0.5)),
}


def reference(proto: onnx.ModelProto, x: Any) -> Any:
    """The affine as onnx's own evaluator computes it, in float64."""
    from onnx.reference import ReferenceEvaluator

    part = onnx.ModelProto()
    part.CopyFrom(proto)
    del part.functions[:]
    activation = next(n for n in part.graph.node if n.op_type == "OrthogonalPade")
    part.graph.node.remove(activation)
    part.graph.output[0].name = activation.input[0]
    wide = onnx.compose.ModelProto()
    wide.CopyFrom(part)
    for tensor in wide.graph.initializer:
        if tensor.data_type == 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = 11
    return ReferenceEvaluator(wide).run(None, {"x": x})[0]


@pytest.mark.parametrize("name", MATCHES)
def test_must_match(name: str) -> None:
    proto = model(*MATCHES[name])
    found = absorbed(proto)
    assert found.x.name == "x"
    assert len(found.nodes) == len(MATCHES[name])
    assert found.frozen.affine is not None
    assert found.frozen.config.groups == CHANNELS
    assert found.frozen.numerator.ndim == 1  # the rows stay shared
    x = RNG.normal(size=(3, CHANNELS, 5))
    scale, shift = (v.reshape(-1, 1) for v in found.frozen.affine)
    assert np.allclose(scale * x + shift, reference(proto, x), rtol=1e-6, atol=1e-6)


def test_groups_become_channels() -> None:
    found = absorbed(model(batch_norm("x", "b"), config=Config(groups=3)))
    assert found.frozen.config.groups == CHANNELS
    assert found.frozen.config.axis == 1


MUST_NOT = {
    "along another axis": model(arithmetic("Mul", "x", "b", np.ones((5,)) * 2)),
    "elementwise": model(arithmetic("Add", "x", "b", np.ones((CHANNELS, 5)))),
    "a number minus x": model(arithmetic("Sub", "x", "b", 1.0, swapped=True)),
    "a number over x": model(arithmetic("Div", "x", "b", 1.0, swapped=True)),
    "division by zero": model(arithmetic("Div", "x", "b", np.zeros((CHANNELS, 1)))),
    "not finite": model(arithmetic("Mul", "x", "b", np.inf)),
    "read elsewhere": model(batch_norm("x", "b"), outputs=("b",)),
    "nothing": model(),
}


@pytest.mark.parametrize("name", MUST_NOT)
def test_must_not_match(name: str) -> None:
    found = absorbed(MUST_NOT[name])
    assert not found.nodes
    assert found.frozen.affine is None


def test_two_tensors_are_no_affine() -> None:
    made = model(arithmetic("Mul", "x", "b", 1.0))
    mul = made.graph.node[0]
    mul.input[1] = "x"
    assert not absorbed(made).nodes


def test_unknown_channels() -> None:
    made = model(batch_norm("x", "b"))
    for value in (*made.graph.input, *made.graph.value_info):
        if len(value.type.tensor_type.shape.dim) == 3:
            value.type.tensor_type.shape.dim[1].dim_param = "C"
    assert not absorbed(made).nodes


def test_batch_norm_in_training_mode() -> None:
    nodes, tensors = batch_norm("x", "b", training_mode=1)
    nodes[0].output.extend(["m", "v"])
    made = model((nodes, tensors), outputs=("m", "v"))
    assert not absorbed(made).nodes


def test_a_factor_after() -> None:
    plain = absorbed(model())
    found = absorbed(model(after=(arithmetic("Mul", "a", "y", 2.5),)))
    assert found.result.name == "y"
    assert np.allclose(found.frozen.numerator, 2.5 * plain.frozen.numerator, rtol=0)
    per_channel = absorbed(model(after=(arithmetic("Mul", "a", "y", PER_CHANNEL),)))
    assert not per_channel.nodes


FAR = {
    "a factor that overflows": ((), (arithmetic("Mul", "a", "y", 1e38),)),
    "a factor that is subnormal": ((), (arithmetic("Mul", "a", "y", 1e-40),)),
    "coefficients beyond the limit": ((), (arithmetic("Mul", "a", "y", 1e9),)),
    "offsets that cancel": ((arithmetic("Sub", "x", "b0", 1e8), arithmetic("Add", "b0", "b", 1e8)), ()),
    "offsets that nearly cancel": ((arithmetic("Add", "x", "b0", 3e4), arithmetic("Sub", "b0", "b", 2.9999e4)), ()),
    "factors that overflow in between": ((arithmetic("Mul", "x", "b0", 1e30), arithmetic("Mul", "b0", "b", 1e-30)), ()),
    "a division that overflows in between": ((arithmetic("Div", "x", "b0", 1e-30), arithmetic("Mul", "b0", "b", 1e-30)), ()),
    "a factor before that is subnormal": ((arithmetic("Mul", "x", "b", 1e-40),), ()),
}


@pytest.mark.parametrize("name", FAR)
def test_what_the_bound_forbids_is_left_and_the_file_is_good(name: str, tmp_path: Path) -> None:
    """Merged, the result was another one than that of the operators one by one, and the file was rejected by its own check."""
    before, after = FAR[name]
    proto = model(*before, after=after)
    found = absorbed(proto)
    assert len(found.nodes) < len(before) + len(after)
    source = tmp_path / "m.onnx"
    source.write_bytes(proto.SerializeToString())
    result = collapse_model(source, tmp_path / "fused.onnx", "fused")
    assert result.equal
    assert result.path == tmp_path / "fused.onnx"


@pytest.mark.parametrize("axis", [1, 2])
def test_batch_norm_of_an_activation_along_another_axis(axis: int) -> None:
    """BatchNormalization's channels are axis 1, whatever axis the activation's groups lie along."""
    proto = model(batch_norm("x", "b"), config=Config(groups=2, axis=axis), rows=True)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if len(value.type.tensor_type.shape.dim) == 3:
            value.type.tensor_type.shape.dim[2].dim_value = CHANNELS  # as many along both axes
    found = absorbed(proto)
    assert bool(found.nodes) == (axis == 1)
