"""Several configurations in one model: every node must run the body of its own overload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.core.spec import DOMAIN, OPSET_VERSION, Config
from opau_onnx.graph import function
from opau_onnx.graph.nodes import overload_name
from tests.export import single
from tests.export.single import Case

CASES = [
    Case(Config("hermite_e", "abs_terms", (5, 4))),
    Case(Config("hermite", "abs_terms", (5, 4))),
    Case(Config("hermite_e", "abs_sum", (5, 4))),
    Case(Config("hermite_e", "abs_terms", (5, 3))),
    Case(Config("hermite_e", "abs_terms", (5, 4), groups=2), per_group=(True, True)),
    Case(Config("hermite_e", "abs_terms", (5, 4), groups=2, axis=2), per_group=(True, True)),
    Case(Config("hermite_e", "abs_terms", (5, 4), groups=4), per_group=(False, True)),
    Case(Config("power", "plain", (0, 0))),
]
SHAPE = (5, 4, 2)


def inlined(file: onnx.ModelProto) -> bytes:
    return bytes(onnx.inliner.inline_local_functions(file).SerializeToString())


def inlined_by_onnx_ir(file: onnx.ModelProto) -> bytes:
    model = ir.from_proto(file)
    InlinePass()(model)
    assert not model.functions
    return bytes(ir.to_proto(model).SerializeToString())


WAYS: dict[str, Callable[[onnx.ModelProto], Callable[..., list[Any]]]] = {
    "onnxruntime": lambda file: single.runners(file)["onnxruntime"],
    "onnxruntime, not optimised": lambda file: single.runners(file)["onnxruntime, not optimised"],
    "ReferenceEvaluator, inlined": lambda file: single.runners(file)["ReferenceEvaluator"],
    "onnxruntime, inlined by onnx": lambda file: session(inlined(file)),
    "onnxruntime, inlined by onnx_ir": lambda file: session(inlined_by_onnx_ir(file)),
    "onnxruntime, after a round trip through onnx_ir": lambda file: session(
        ir.to_proto(ir.from_proto(file)).SerializeToString()
    ),
}


def session(content: bytes) -> Callable[..., list[Any]]:
    runtime = OnnxRuntime(content)
    return lambda *arrays: [single.wide(y) for y in runtime.run([single.to_torch(a) for a in arrays])]


def side_by_side(cases: list[Case]) -> tuple[onnx.ModelProto, list[tuple[Any, Any]]]:
    """One node for each case on the same X."""
    x, nodes, constants, values = single.value("x", "float32", [None, 4, 2]), [], [], []
    for i, case in enumerate(cases):
        values.append(single.coefficients(case))
        own = [single.constant(f"{name}_{i}", v) for name, v in zip("cd", values[-1], strict=True)]
        constants += own
        nodes.append(single.node(case, x, *own, name=f"y{i}"))
    return single.proto(nodes, [x], constants, cases), values


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", [1, -1], ids=["", "reversed"])
def test_every_node_runs_its_own_body(way: str, order: int) -> None:
    cases = CASES[::order]
    file, values = side_by_side(cases)
    assert len({(f.domain, f.name, f.overload) for f in file.functions}) == len(cases)
    onnx.checker.check_model(file, full_check=True)
    x = np.random.default_rng(0).uniform(-4, 4, SHAPE).astype(np.float32)
    found = WAYS[way](file)(x)
    for case, own, y in zip(cases, values, found, strict=True):
        single.check(case, x, own, y, way)
    assert len({np.round(y, 3).tobytes() for y in found}) == len(cases), "the functions must differ to prove anything"


def test_equal_configurations_share_one_body() -> None:
    cases = [CASES[0], CASES[0], CASES[1]]
    file, _ = side_by_side(cases)
    assert len(file.functions) == 2


def test_overloads_tell_every_configuration_apart() -> None:
    names = {overload_name(c.config) for c in CASES}
    assert len(names) == len(CASES)
    # With one group the axis means nothing, so it makes no second body.
    assert overload_name(Config(axis=1)) == overload_name(Config(axis=3))


@pytest.mark.parametrize("way", WAYS)
def test_nodes_in_the_branches_of_an_if(way: str) -> None:
    cases = CASES[:2]
    x = single.value("x", "float32", [None])
    wanted = ir.Value(name="wanted", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    values = [single.coefficients(c) for c in cases]
    constants = [[single.constant(f"{n}_{i}", v) for n, v in zip("cd", pair, strict=True)] for i, pair in enumerate(values)]
    branches = []
    for i, case in enumerate(cases):
        inner = single.node(case, x, *constants[i], name=f"inner_{i}")
        branches.append(ir.Graph([], [inner.outputs[0]], nodes=[inner], name=f"branch_{i}"))
    choice = ir.node("If", [wanted], attributes={"then_branch": branches[0], "else_branch": branches[1]})
    choice.outputs[0].name, choice.outputs[0].type, choice.outputs[0].shape = "y", x.type, x.shape
    graph = ir.Graph(
        [wanted, x], [choice.outputs[0]], nodes=[choice], initializers=[v for pair in constants for v in pair], name="test",
        opset_imports={"": 20, DOMAIN: OPSET_VERSION},
    )  # fmt: skip
    file = ir.to_proto(
        ir.Model(graph, ir_version=10, functions=[function.build(c.config, 20, double=c.compute == "float64") for c in cases])
    )
    onnx.checker.check_model(file, full_check=True)
    data = single.inputs(cases[0])
    run = WAYS[way](file)
    for flag, case, own in zip((True, False), cases, values, strict=True):
        single.check(case, data, own, run(np.array(flag), data)[0], way)


@pytest.mark.parametrize("way", ["onnxruntime", "ReferenceEvaluator, inlined"])
def test_a_chain_of_configurations(way: str) -> None:
    """The result of one activation is the input of the next."""
    cases = [CASES[0], CASES[4], CASES[7], CASES[1]]
    x = single.value("x", "float32", [None, 4])
    at, nodes, constants, values = x, [], [], []
    for i, case in enumerate(cases):
        values.append(single.coefficients(case))
        own = [single.constant(f"{name}_{i}", v) for name, v in zip("cd", values[-1], strict=True)]
        constants += own
        nodes.append(single.node(case, at, *own, name=f"y{i}"))
        at = nodes[-1].outputs[0]
    data = np.random.default_rng(1).uniform(-4, 4, (6, 4)).astype(np.float32)
    for case, own, y in zip(cases, values, WAYS[way](single.proto(nodes, [x], constants, cases))(data), strict=True):
        single.check(case, data, own, y, way)
        data = y.astype(np.float32)
