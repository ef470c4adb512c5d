"""The standard form in ONNX: every basis, form, dtype and sharing against the oracle; what the graph may hold."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
from onnx import helper

from opau_onnx.collapse.api import clean
from opau_onnx.collapse.passes.standard import CollapsedActivation, replace_activations
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, DOMAIN, Config
from opau_onnx.graph.nodes import opau_nodes
from tests.export import single


def collapsed(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[CollapsedActivation]]:
    model = ir.from_proto(proto)
    replaced = replace_activations(model)
    clean(model, "standard", replaced)
    out = ir.to_proto(model)
    onnx.checker.check_model(out, full_check=True)
    return out, replaced


def only_standard(proto: onnx.ModelProto) -> bool:
    domains = {o.domain for o in proto.opset_import} | {n.domain for n in proto.graph.node}
    return not proto.functions and domains == {""}


def held(case: single.Case, shape: Any, x: Any) -> onnx.ModelProto:
    values = single.coefficients(case)
    before = single.model(case, shape, values)
    after, (one,) = collapsed(before)
    assert only_standard(after)
    inlined = onnx.inliner.inline_local_functions(before)
    assert one.nodes == len(after.graph.node) <= len(inlined.graph.node)
    runs = single.runners(after)
    if case.dtype == "bfloat16":
        runs = {"ReferenceEvaluator": runs["ReferenceEvaluator"]}
    for name, run in runs.items():
        single.check(case, x, values, run(x)[0], name)
    return after


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_every_basis_form_and_degree(basis: str, form: str) -> None:
    for degrees in ((0, 0), (1, 0), (0, 1), (5, 4), (4, 4), (4, 5), (10, 9), (16, 16)):
        case = single.Case(Config(basis, form, degrees))
        held(case, ["N"], single.inputs(case, 400))


SHAPES: list[tuple[Config, list[Any], tuple[int, ...]]] = [
    (Config(groups=3), ["N", 6, 5], (4, 6, 5)),
    (Config(groups=6), ["N", 6], (30, 6)),
    (Config(groups=4, axis=-1), ["a", "b", 4], (2, 5, 4)),
    (Config(groups=2, axis=0), [4, "n"], (4, 40)),
    (Config(groups=3), ["N", "C", "L"], (4, 9, 5)),
    (Config(groups=2, axis=-2), ["a", "b", "c"], (4, 6, 5)),
    (Config(), [], ()),
    (Config(), ["N", 3], (0, 3)),
    (Config(groups=3), ["N", "C", "L"], (0, 3, 2)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("config", "declared", "shape"), SHAPES, ids=lambda v: str(v))
def test_sharing(config: Config, declared: list[Any], shape: tuple[int, ...], dtype: str) -> None:
    for own in itertools.product((False, True), repeat=2) if config.groups > 1 else [(False, False)]:
        case = single.Case(config, dtype, per_group=own)
        x = np.resize(single.inputs(case), shape) if 0 not in shape else np.zeros(shape, single.NUMPY[dtype])
        if x.size > 4:
            held(case, declared, x)
        else:
            after, _ = collapsed(single.model(case, declared, single.coefficients(case)))
            for name, run in single.runners(after).items():
                if name != "ReferenceEvaluator":  # its Flatten cannot tell the sizes of an empty tensor
                    assert run(x)[0].shape == shape


@pytest.mark.parametrize("opset", [18, 22])
def test_bfloat16(opset: int) -> None:
    case = single.Case(Config(), "bfloat16", opset)
    held(case, ["N"], single.inputs(case))


def test_a_known_number_of_channels_needs_no_reshape() -> None:
    case = single.Case(Config(groups=3), per_group=(True, True))
    for declared, reshapes in ((["N", 6, 5], 0), (["N", "C", 5], 2)):
        after, _ = collapsed(single.model(case, declared, single.coefficients(case)))
        assert Counter(n.op_type for n in after.graph.node)["Reshape"] == reshapes


def test_equal_activations_share_their_constants() -> None:
    case = single.Case(Config())
    values = [single.constant(n, v) for n, v in zip(("numerator", "denominator"), single.coefficients(case), strict=True)]
    entries = [single.value(name, "float32", ["N"]) for name in "xz"]
    nodes = [single.node(case, x, *values, f"y{i}") for i, x in enumerate(entries)]
    both, _ = collapsed(single.proto(nodes, entries, values, [case]))
    alone, _ = collapsed(single.model(case, ["N"], single.coefficients(case)))
    assert len(both.graph.initializer) == len(alone.graph.initializer)
    assert len(both.graph.node) == 2 * len(alone.graph.node)


def in_a_branch() -> onnx.ModelProto:
    case = single.Case(Config())
    c, d = single.coefficients(case)
    whole = single.model(case, ["N"], (c, d))
    node = whole.graph.node[0]
    y, w = (helper.make_tensor_value_info(name, 1, ["N"]) for name in "yw")
    branch = helper.make_graph([node], "then", [], [y])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["w"])], "else", [], [w])
    condition = helper.make_node("If", ["flag"], ["out"], then_branch=branch, else_branch=other)
    inputs = [whole.graph.input[0], helper.make_tensor_value_info("flag", 9, [])]
    graph = helper.make_graph(
        [condition], "g", inputs, [helper.make_tensor_value_info("out", 1, ["N"])], list(whole.graph.initializer)
    )
    made = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=10)
    made.functions.extend(whole.functions)
    return made


def test_inside_a_branch() -> None:
    case = single.Case(Config())
    after, _ = collapsed(in_a_branch())
    assert not opau_nodes(ir.from_proto(after))
    x = single.inputs(case)
    for name, run in single.runners(after).items():
        single.check(case, x, single.coefficients(case), run(x, np.asarray(True))[0], name)
        assert np.array_equal(run(x, np.asarray(False))[0], single.wide(x), equal_nan=True)


def test_the_result_keeps_its_name_and_shape() -> None:
    case = single.Case(Config())
    after, _ = collapsed(single.model(case, ["N", 3], single.coefficients(case)))
    (out,) = after.graph.output
    assert out.name == "y"
    assert [d.dim_param or d.dim_value for d in out.type.tensor_type.shape.dim] == ["N", 3]
    assert DOMAIN not in {o.domain for o in after.opset_import}
