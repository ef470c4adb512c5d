"""One file, a function and a kernel of one name: which of them runs, and that both are right."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from opau_onnx import create_session
from opau_onnx.compare.arrays import array, ort_value
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, DOMAIN, OP_TYPE, Config
from opau_onnx.runtime.assignment import assignments
from tests.custom_ops.library import required_library
from tests.export import single
from tests.export.single import Case

DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.fixture(autouse=True)
def _library() -> None:
    required_library()


def run(session: onnxruntime.InferenceSession, *arrays: Any) -> Any:
    feed = {v.name: ort_value(single.to_torch(a)) for v, a in zip(session.get_inputs(), arrays, strict=True)}
    return single.wide(array(session.run_with_ort_values(None, feed)[0]))


def implementation(session: onnxruntime.InferenceSession) -> set[str]:
    return {a.implementation for a in assignments(session)}


def plain(file: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return create_session(file, "cpu", library=False)


CASES = [Case(Config(basis, form, (5, 4)), dtype) for basis in BASES for form in FORMS for dtype in DTYPES]
DEGREES = [Case(Config(b, "abs_terms", degrees)) for b in BASES for degrees in ((0, 0), (3, 2), (4, 5), (9, 8), (16, 16))]
GROUPS = [
    Case(Config("hermite_e", "abs_terms", (5, 4), groups, axis), dtype, per_group=own)
    for groups, axis in ((3, 1), (6, 1), (5, -1), (2, 0))
    for dtype in DTYPES
    for own in ((True, True), (True, False), (False, True), (False, False))
]


@pytest.mark.parametrize("case", [*CASES, *DEGREES], ids=str)
def test_the_kernel_runs_and_is_right(case: Case) -> None:
    values, x = single.coefficients(case), single.inputs(case)
    session = create_session(single.model(case, ["N"], values), "cpu", library=True)
    assert implementation(session) == {"kernel"}
    single.check(case, x, values, run(session, x), "kernel")


@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_groups(case: Case) -> None:
    values = single.coefficients(case)
    x = np.resize(single.inputs(case, 120), (2, 6, 2, 5))
    session = create_session(single.model(case, ["A", "B", "C", "D"], values), "cpu", library=True)
    single.check(case, x, values, run(session, x), "kernel")


@pytest.mark.parametrize("case", [Case(Config(), dtype) for dtype in DTYPES], ids=str)
def test_coefficients_that_are_no_constants(case: Case) -> None:
    values, x = single.coefficients(case), single.inputs(case)
    session = create_session(single.model(case, ["N"]), "cpu", library=True)
    for factor in (1.0, 0.5):
        scaled = tuple((v * factor).astype(v.dtype) for v in values)
        single.check(case, x, scaled, run(session, x, *scaled), "kernel")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_without_the_library_the_function_runs(dtype: str) -> None:
    case = Case(Config(), dtype)
    values, x = single.coefficients(case), single.inputs(case)
    session = plain(single.model(case, ["N"], values))
    assert implementation(session) == {"function"}
    single.check(case, x, values, run(session, x), "function")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (2, 3, 4, 5, 6)])
def test_any_rank_and_empty_tensors(shape: tuple[int, ...]) -> None:
    case = Case(Config())
    values = single.coefficients(case)
    session = create_session(single.model(case, [None] * len(shape), values), "cpu", library=True)
    x = np.full(shape, 0.5, np.float32)
    y = run(session, x)
    assert y.shape == shape
    assert np.array_equal(y, np.full(shape, run(session, np.full(shape or (1,), 0.5, np.float32)).flat[0] if x.size else 0))


def test_optimisation_off() -> None:
    case = Case(Config())
    values, x = single.coefficients(case), single.inputs(case)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = create_session(single.model(case, ["N"], values), "cpu", session_options=options)
    assert implementation(session) == {"kernel"}
    single.check(case, x, values, run(session, x), "kernel")


def test_a_file_whose_function_was_dropped() -> None:
    case = Case(Config())
    values, x = single.coefficients(case), single.inputs(case)
    file = single.model(case, ["N"], values)
    del file.functions[:]
    single.check(case, x, values, run(create_session(file, "cpu"), x), "kernel")


def test_several_configurations_in_one_model() -> None:
    cases = [Case(Config("hermite_e")), Case(Config("legendre", "abs_sum", (3, 2))), Case(Config("laguerre", "pau_c", (7, 6)))]
    x = single.value("x", "float32", ["N"])
    inputs, nodes, constants = single.inputs(cases[0]), [], []
    for i, case in enumerate(cases):
        stored = [single.constant(f"{n}{i}", v) for n, v in zip(("c", "d"), single.coefficients(case), strict=True)]
        constants += stored
        nodes.append(single.node(case, x, *stored, name=f"y{i}"))
    session = create_session(single.proto(nodes, [x], constants, cases), "cpu")
    for case, y in zip(cases, session.run(None, {"x": inputs}), strict=True):
        single.check(case, inputs, single.coefficients(case), y.astype(np.float64), "kernel")


def in_branch(case: Case, values: Any) -> onnx.ModelProto:
    """The activation in both branches of an If, on a value from outside."""
    inner = single.model(case, ["N"], values)
    branches = {}
    for name in ("then", "else"):
        node = helper.make_node("OrthogonalPade", ["x", "numerator", "denominator"], [f"{name}_y"], domain=DOMAIN)
        node.attribute.extend(inner.graph.node[0].attribute)
        node.overload = inner.graph.node[0].overload
        out = helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, ["N"])
        branches[f"{name}_branch"] = helper.make_graph([node], name, [], [out])
    condition = helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, [])
    graph = helper.make_graph(
        [helper.make_node("If", ["condition"], ["y"], **branches)], "outer", [inner.graph.input[0], condition],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"])], list(inner.graph.initializer),
    )  # fmt: skip
    return helper.make_model(graph, functions=inner.functions, opset_imports=inner.opset_import, ir_version=10)


def in_function(case: Case, values: Any) -> onnx.ModelProto:
    """The activation in a function that another function calls."""
    inner = single.model(case, ["N"], values)
    opsets = [*inner.opset_import, helper.make_opsetid("test", 1)]
    names = ["x", "numerator", "denominator"]
    deep = helper.make_function("test", "Deep", names, ["y"], [inner.graph.node[0]], opsets)
    call = helper.make_node("Deep", names, ["y"], domain="test")
    shallow = helper.make_function("test", "Shallow", names, ["y"], [call], opsets)
    graph = helper.make_graph(
        [helper.make_node("Shallow", names, ["y"], domain="test")], "outer", list(inner.graph.input), list(inner.graph.output),
        list(inner.graph.initializer),
    )  # fmt: skip
    return helper.make_model(graph, functions=[*inner.functions, deep, shallow], opset_imports=opsets, ir_version=10)


def test_in_the_branches_of_if() -> None:
    case = Case(Config())
    values, x = single.coefficients(case), single.inputs(case)
    file = in_branch(case, values)
    del file.functions[:]  # so that nothing but the kernel can run
    session = create_session(file, "cpu")
    for condition in (True, False):
        y = session.run(None, {"x": x, "condition": np.array(condition)})[0]
        single.check(case, x, values, y.astype(np.float64), "kernel")


def test_in_nested_functions() -> None:
    case = Case(Config())
    values, x = single.coefficients(case), single.inputs(case)
    file = in_function(case, values)
    assert implementation(create_session(file, "cpu")) == {"kernel"}
    single.check(case, x, values, run(create_session(file, "cpu"), x), "kernel")
    # Without it onnxruntime 1.31 does not find a function that has an overload from inside another; our exporter nests none.
    with pytest.raises(Exception, match="is not a registered function/op"):
        plain(file)


def test_in_place_in_a_chain_and_not_where_the_input_is_still_needed() -> None:
    case = Case(Config())
    values = single.coefficients(case)
    file = single.model(case, ["N"], values)
    node, names = file.graph.node[0], ["numerator", "denominator"]
    del file.graph.node[:]
    for i, (source, result) in enumerate((("x", "a"), ("a", "b"), ("b", "c"))):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.input[:], copy.output[:] = f"n{i}", [source, *names], [result]
        file.graph.node.append(copy)
    file.graph.node.append(helper.make_node("Add", ["b", "c"], ["y"]))  # b is still needed after c
    x = np.linspace(-5, 5, 100_001, dtype=np.float32)
    one = create_session(single.model(case, ["N"], values), "cpu")
    a = one.run(None, {"x": x})[0]
    b = one.run(None, {"x": a})[0]
    c = one.run(None, {"x": b})[0]
    before = x.copy()
    assert np.array_equal(create_session(file, "cpu").run(None, {"x": x})[0], b + c)
    assert np.array_equal(x, before)


def test_shape_inference_reaches_the_output() -> None:
    case = Case(Config())
    file = single.model(case, ["batch", 3, 4], single.coefficients(case))
    del file.functions[:]
    del file.graph.output[:]
    node = helper.make_node("Relu", ["y"], ["z"])
    file.graph.node.append(node)
    file.graph.output.append(helper.make_empty_tensor_value_info("z"))
    output = create_session(file, "cpu").get_outputs()[0]
    assert output.shape == ["batch", 3, 4]
    assert output.type == "tensor(float)"


def test_eight_threads_at_once() -> None:
    case = Case(Config("hermite_e", groups=3), per_group=(True, True))
    values = single.coefficients(case)
    session = create_session(single.model(case, [None, None, None], values), "cpu")
    x = np.random.default_rng(0).standard_normal((4, 6, 10_001)).astype(np.float32)
    expected, wrong = session.run(None, {"x": x})[0], []

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(session.run(None, {"x": x})[0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_registration_from_several_threads_and_many_sessions() -> None:
    case = Case(Config())
    content = single.model(case, ["N"], single.coefficients(case)).SerializeToString()
    failed = []

    def work() -> None:
        try:
            for _ in range(5):
                create_session(content, "cpu", library=True).run(None, {"x": np.zeros(3, np.float32)})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def attribute(node: Any, name: str) -> Any:
    return next(a for a in node.attribute if a.name == name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: setattr(attribute(n, "basis"), "s", b"bessel"), "unknown basis 'bessel'; expected one of power"),
        (lambda n: setattr(attribute(n, "form"), "s", b"safe"), "unknown denominator form 'safe'"),
        (lambda n: attribute(n, "degrees").ints.append(3), "'degrees' has 3 values; expected two"),
        (lambda n: n.attribute.remove(attribute(n, "basis")), "attribute 'basis' is missing"),
        (lambda n: setattr(attribute(n, "groups"), "i", 0), "groups is 0; expected 1 to 2147483648"),
        (lambda n: attribute(n, "degrees").ints.__setitem__(0, 4), r"numerator has shape \(6,\); expected \(5,\)"),
    ],
)
def test_a_bad_node_is_named(change: Any, message: str) -> None:
    case = Case(Config())
    file = single.model(case, ["N"], single.coefficients(case))
    del file.functions[:]
    file.graph.node[0].name = "layer4/act"
    change(file.graph.node[0])
    with pytest.raises(Exception, match=f"(?s){OP_TYPE} node 'layer4/act': .*{message}"):
        create_session(file, "cpu", library=True)


def test_bad_values_and_shapes_name_the_node() -> None:
    case = Case(Config(groups=3), per_group=(True, True))
    c, d = single.coefficients(case)
    file = single.model(case, [None, None])
    file.graph.node[0].name = "act"
    session = create_session(file, "cpu", library=True)
    x = np.zeros((2, 6), np.float32)
    bad = c.copy()
    bad[1, 2] = np.nan
    for arrays, message in (
        ((x, bad, d), "node 'act': the numerator's coefficient 8 is NaN"),
        ((x, c[:, :5].copy(), d), r"node 'act': the numerator has shape \(3, 5\); expected \(6,\) or \(3, 6\)"),
        ((np.zeros((2, 7), np.float32), c, d), "node 'act': axis 1 of the input has 7 channels, which 3 groups do not divide"),
    ):
        with pytest.raises(Exception, match=message):
            run(session, *arrays)
