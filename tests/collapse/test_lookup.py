"""The lut form: every code of every pair of types, what must become a table and what must not, and whether faults are found."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from opau_onnx.collapse import lookup_check
from opau_onnx.collapse.lookup_check import TableCheck
from opau_onnx.collapse.passes import lookup
from opau_onnx.compare.runtimes.openvino import openvino_core
from opau_onnx.core import oracle
from opau_onnx.core.spec import DOMAIN, Config
from opau_onnx.errors import CollapseError
from tests.collapse.quantized_models import TYPES, Builder, codes, collapsed, info, operators, qdq, reference, run
from tests.export import single

CASE = single.Case(Config(), opset=21)
GROUPED = single.Case(Config(groups=3), opset=21, per_group=(True, True))
LOOKED = ["Shape", "Cast", "Reshape", "GatherElements", "Reshape"]


def same(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes(), f"{np.count_nonzero(a != b)} of {a.size} differ"


def checks(after: onnx.ModelProto, replaced: Any) -> list[Any]:
    found = [lookup_check.check(ir.from_proto(after), r) for r in replaced]
    assert all(c.equal for c in found), [c for c in found if not c.equal]
    return found


def held(before: onnx.ModelProto, *arrays: Any, tables: int = 1, checked: bool = True) -> onnx.ModelProto:
    """The collapsed model gives the same bits, with optimisations and without, and holds default operators only."""
    after, replaced = collapsed(before, checked=checked)
    assert {o.domain for o in after.opset_import} - {"com.microsoft"} == {""}
    assert not after.functions
    for optimize in (True, False):
        same(run(before, *arrays, optimize=optimize), run(after, *arrays, optimize=optimize))
    if not any(n.domain for n in after.graph.node):
        same(run(after, *arrays), reference(after, *arrays))
    assert sum(isinstance(c, TableCheck) for c in checks(after, replaced)) == tables
    return after


def scale(kind: str) -> float:
    return 0.05 if kind.endswith("8") else 2e-4


@pytest.mark.parametrize(("source", "target"), list(itertools.product(TYPES, TYPES)))
def test_every_code_of_every_pair_of_types(source: str, target: str) -> None:
    before = qdq(source, target, before_scale=scale(source), after_scale=scale(target) * 0.8)
    after = held(before, codes(source))
    assert operators(after) == ["Cast", "GatherElements"]
    (table,) = after.graph.initializer
    assert list(table.dims) == [2 ** (16 if source.endswith("16") else 8)]


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("config", [Config(), Config("chebyshev", "abs_sum"), Config("power", "plain", (3, 2))])
def test_opsets_and_functions(config: Config, opset: int) -> None:
    held(qdq("int8", "uint8", case=single.Case(config, opset=opset)), codes("int8"))


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ((), ()), (("N", "C"), (16, 16)), (("N", 3, None, 5), (2, 3, 7, 5)), ((4, 64), (4, 64)), (("N", 0), (3, 0)),
        (("N",), (0,)), (None, (2, 3, 5)), (None, ()), (("N", "A", "B", "C", "D"), (1, 2, 3, 2, 3)),
    ],
)  # fmt: skip
def test_shapes(declared: Any, shape: Any) -> None:
    # The checker wants a shape of inputs; inside of a model it may be unknown.
    after = held(qdq("uint8", "int8", declared), codes("uint8", shape), checked=declared is not None)
    assert operators(after) == (["Cast", "GatherElements"] if declared is not None and len(declared) == 1 else LOOKED)
    if declared is not None:
        dims = after.graph.output[0].type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims] == [0 if n is None else n for n in declared]


def test_scales_as_lists_of_one() -> None:
    held(qdq(before_scale=[0.05], before_zero_point=[3], after_scale=[0.04], after_zero_point=[5]), codes("uint8"))


@pytest.mark.parametrize("extreme", [1e-30, 1e30, 3e38])
def test_scales_that_leave_the_usual_range(extreme: float) -> None:
    held(qdq(before_scale=extreme), codes("uint8"))
    held(qdq(after_scale=extreme), codes("uint8"))


def test_float16() -> None:
    held(qdq(case=replace(CASE, dtype="float16")), codes("uint8"))


def test_bfloat16_which_only_the_evaluator_runs() -> None:
    before = qdq(case=replace(CASE, dtype="bfloat16"))
    after, replaced = collapsed(before)
    assert "ReferenceEvaluator" in replaced[0].scheme.runtime  # type: ignore[attr-defined]
    same(reference(before, codes("uint8")), reference(after, codes("uint8")))
    same(reference(before, codes("uint8")), run(after, codes("uint8")))
    checks(after, replaced)


def test_quantizers_of_onnxruntimes_own_domain() -> None:
    before = qdq("uint16", "int16", case=single.Case(Config()), domain="com.microsoft", before_scale=2e-4, after_scale=2e-4)
    assert operators(held(before, codes("uint16"))) == ["Cast", "GatherElements"]


def test_a_scale_for_each_channel() -> None:
    many = {"scale": [0.05, 0.02, 0.09], "zero_point": [3, 0, -7], "axis": 1}
    x = codes("int8", (6, 3, 40))
    for sides in (("before",), ("after",), ("before", "after")):
        how = {f"{side}_{name}": value for side in sides for name, value in many.items()}
        after = held(qdq("int8", "int8", ("N", "C", "L"), **how), x)
        assert operators(after) == ["Shape", "Cast", "Add", *LOOKED[2:]]
        assert list(after.graph.initializer[1].dims) == [3 * 256]
    held(qdq("uint8", "int8", ("N", "L", "C"), after_scale=[0.1, 0.2], after_zero_point=[1, 2], after_axis=-1),
         codes("uint8", (4, 70, 2)))  # fmt: skip


def test_scales_along_two_axes_are_no_table() -> None:
    how = {"before_scale": [0.1, 0.2], "before_zero_point": [0, 0], "before_axis": 1, "after_axis": 2}
    before = qdq("int8", "int8", ("N", 2, 2), after_scale=[0.1, 0.2], after_zero_point=[0, 0], **how)
    with pytest.raises(CollapseError, match="more than one axis"):
        collapsed(before)


def test_groups() -> None:
    before = qdq("uint8", "uint8", ("N", 6, "L"), GROUPED)
    after = held(before, codes("uint8", (5, 6, 30)))
    sizes = sorted(int(np.prod(t.dims)) for t in after.graph.initializer)
    assert sizes == [1, 6, 3 * 256]
    with pytest.raises(CollapseError, match="number is not known"):
        collapsed(qdq("uint8", "uint8", ("N", "C", "L"), GROUPED))
    with pytest.raises(CollapseError, match="number of axes is not known"):
        collapsed(qdq("uint8", "uint8", None, GROUPED), checked=False)


def test_groups_that_are_equal_share_a_table() -> None:
    before = qdq("uint8", "uint8", ("N", 6, "L"), replace(GROUPED, per_group=(False, False)))
    assert operators(held(before, codes("uint8", (5, 6, 30)))) == LOOKED


def test_what_else_reads_the_input_or_the_result() -> None:
    made = Builder(CASE)
    made.dequantize("q", "x", "uint8")
    made.activation("x", "f")
    made.quantize("f", "y", "uint8")
    made.dequantize("y", "a", "uint8")
    made.nodes.append(helper.make_node("DequantizeLinear", ["y", "a_scale", "a_zero_point"], ["b"]))
    made.nodes += [helper.make_node("Mul", ["x", "a"], ["c"]), helper.make_node("Add", ["b", "c"], ["z"])]
    made.inputs, made.outputs = [info("q", "uint8", ["N"])], [info("z", "float32", ["N"]), info("x", "float32", ["N"])]
    after = held(made.model(), codes("uint8"))
    assert operators(after).count("DequantizeLinear") == 3
    assert "QuantizeLinear" not in operators(after)


def test_two_activations_read_one_input() -> None:
    made = Builder(CASE)
    made.dequantize("q", "x", "int8")
    for i in range(2):
        made.activation("x", f"f{i}")
        made.quantize(f"f{i}", f"y{i}", "int8")
    made.inputs, made.outputs = [info("q", "int8", ["N"])], [info(f"y{i}", "int8", ["N"]) for i in range(2)]
    after = held(made.model(), codes("int8"), tables=2)
    assert "DequantizeLinear" not in operators(after)
    assert len(after.graph.initializer) == 1  # equal tables are stored once


def test_two_quantizers_read_the_result() -> None:
    made = Builder(CASE)
    made.dequantize("q", "x", "uint8")
    made.activation("x", "f")
    made.quantize("f", "y", "uint8")
    made.quantize("f", "z", "int8", 0.1, -9)
    made.inputs, made.outputs = [info("q", "uint8", ["N"])], [info("y", "uint8", ["N"]), info("z", "int8", ["N"])]
    after = held(made.model(), codes("uint8"), tables=2)
    assert operators(after) == ["Cast", "GatherElements"] * 2


@pytest.mark.parametrize("reader", ["output", "operator", "nothing quantizes", "scale at run time"])
def test_a_result_that_must_stay_float_has_a_table_of_floats(reader: str) -> None:
    made = Builder(CASE)
    made.dequantize("q", "x", "uint8")
    made.activation("x", "f")
    made.inputs, made.outputs = [info("q", "uint8", ["N"])], [info("f", "float32", ["N"])]
    arrays = [codes("uint8")]
    if reader != "nothing quantizes":
        made.quantize("f", "y", "uint8")
        made.outputs.append(info("y", "uint8", ["N"]))
    if reader == "operator":
        made.nodes.append(helper.make_node("Neg", ["f"], ["n"]))
        made.outputs[0] = info("n", "float32", ["N"])
    if reader == "scale at run time":
        made.outputs, made.constants = made.outputs[1:], [c for c in made.constants if c.name != "y_scale"]
        made.inputs.append(info("y_scale", "float32", []))
        arrays.append(np.float32(0.03))
    after = held(made.model(), *arrays)
    assert ("QuantizeLinear" in operators(after)) == (reader != "nothing quantizes")
    tables = [t for t in after.graph.initializer if list(t.dims) == [256]]
    assert [t.data_type for t in tables] == [onnx.TensorProto.FLOAT]


def beside(*first: Any, inputs: Any, last: str = "x2") -> onnx.ModelProto:
    """An activation that becomes a table and one that reads ``last``, which ``first`` makes."""
    made = Builder(CASE)
    made.dequantize("q", "x", "uint8")
    made.activation("x", "f")
    made.quantize("f", "y", "uint8")
    for step in first:
        step(made)
    made.activation(last, "f2")
    made.quantize("f2", "y2", "uint8")
    made.inputs = [info("q", "uint8", ["N"]), *inputs]
    made.outputs = [info("y", "uint8", ["N"]), info("y2", "uint8", ["N"])]
    return made.model()


def scale_at_run_time(made: Builder) -> None:
    made.dequantize("q", "x2", "uint8")
    made.constants = [c for c in made.constants if c.name != "x2_scale"]


def four_bits(made: Builder) -> None:
    made.constants += [
        helper.make_tensor("p", onnx.TensorProto.INT4, [4], [1, -2, 3, -8]),
        helper.make_tensor("p_scale", onnx.TensorProto.FLOAT, [], [0.5]),
    ]
    made.nodes.append(helper.make_node("DequantizeLinear", ["p", "p_scale"], ["x2"], "x2"))


def whole_numbers(made: Builder) -> None:
    made.constants.append(helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.5]))
    made.nodes.append(helper.make_node("DequantizeLinear", ["i", "s"], ["x2"], "x2"))


def blocks(made: Builder) -> None:
    made.constants += [helper.make_tensor("s", onnx.TensorProto.FLOAT, [4], [0.5, 1, 2, 3])]
    made.nodes.append(helper.make_node("DequantizeLinear", ["q", "s"], ["x2"], "x2", block_size=64, axis=0))


def reshaped(made: Builder) -> None:
    made.dequantize("q", "d", "uint8")
    made.nodes.append(helper.make_node("Identity", ["d"], ["x2"], "x2"))


@pytest.mark.parametrize(
    ("step", "inputs", "arrays", "reason"),
    [
        (None, [info("x2", "float32", ["N"])], [np.linspace(-4, 4, 256, dtype=np.float32)], "no DequantizeLinear before it"),
        (reshaped, [], [], "no DequantizeLinear before it"),
        (scale_at_run_time, [info("x2_scale", "float32", [])], [np.float32(0.03)], "computed at run time"),
        (four_bits, [], [], "is of INT4"),
        (whole_numbers, [helper.make_tensor_value_info("i", onnx.TensorProto.INT32, ["N"])], [np.arange(256, dtype=np.int32)],
         "is of INT32"),
        (blocks, [], [], "differ between blocks"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_evaluated_and_said(step: Any, inputs: Any, arrays: Any, reason: str) -> None:
    before = beside(*([step] if step else []), inputs=inputs)
    after, replaced = collapsed(before)
    assert [str(r.scheme).partition(";")[0] for r in replaced] == [
        "table of 256, uint8 to uint8", "P by monomials, Q by closed",
    ]  # fmt: skip
    assert "NO TABLE" in str(replaced[1].scheme)
    assert reason in str(replaced[1].scheme)
    assert not any(n.domain for n in after.graph.node)
    checks(after, replaced)
    if step is not blocks:  # onnxruntime takes no blocks along the only axis
        one, other = run(before, codes("uint8"), *arrays), run(after, codes("uint8"), *arrays)
        same(one[:1], other[:1])
        assert np.abs(one[1].astype(int) - other[1].astype(int)).max() <= 1


def test_no_table_at_all() -> None:
    with pytest.raises(CollapseError, match=r"no activation can become a table: no DequantizeLinear before it\..*--quantize"):
        collapsed(single.model(CASE, ["N"], single.coefficients(CASE)))
    with pytest.raises(CollapseError, match="computed at run time"):
        collapsed(single.model(CASE, ["N"]))
    with pytest.raises(CollapseError, match="takes no tolerance"):
        lookup.replace_activations(ir.from_proto(qdq()), object())


def in_a_branch(*, outside: bool) -> onnx.ModelProto:
    """The activation in a branch, which reads what is dequantized outside or inside of it."""
    inner = Builder(CASE)
    if not outside:
        inner.dequantize("q", "x", "uint8")
    inner.activation("x", "f")
    inner.quantize("f", "t", "int8")
    outer = Builder(CASE)
    if outside:
        outer.dequantize("q", "x", "uint8")
    then = helper.make_graph(inner.nodes, "then", [], [info("t", "int8", ["N"])])
    cast = helper.make_node("Cast", ["q"], ["e"], to=onnx.TensorProto.INT8)
    other = helper.make_graph([cast], "else", [], [info("e", "int8", ["N"])])
    outer.nodes.append(helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other))
    outer.constants += inner.constants
    outer.inputs = [info("q", "uint8", ["N"]), helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])]
    outer.outputs = [info("y", "int8", ["N"])]
    return outer.model()


@pytest.mark.parametrize("outside", [False, True])
def test_inside_a_branch(outside: bool) -> None:
    for flag in (True, False):
        after = held(in_a_branch(outside=outside), codes("uint8"), np.asarray(flag))
    assert all(n.domain != DOMAIN for n in ir.from_proto(after).graph.all_nodes())


def test_openvino_runs_it() -> None:
    pytest.importorskip("openvino")
    for source, target in itertools.product(("uint8", "int8"), repeat=2):
        after, _ = collapsed(qdq(source, target, ("N", 4)))
        compiled = openvino_core().compile_model(openvino_core().read_model(after.SerializeToString()), "CPU")
        x = codes(source, (64, 4))
        assert np.array_equal(next(iter(compiled(x).values())), run(after, x)[0])


def test_the_nodes_against_the_exact_function() -> None:
    """What the three nodes give is the exact function, rounded: written out here without the package's own rounding."""
    before = qdq("int8", "uint8", before_scale=0.05, before_zero_point=-3, after_scale=0.02, after_zero_point=40)
    after, replaced = collapsed(before)
    (check,) = checks(after, replaced)
    x = codes("int8")
    exact = oracle.evaluate(CASE.config, (x.astype(float) + 3) * np.float64(np.float32(0.05)), *single.coefficients(CASE)).value
    expected = np.clip(np.round(exact / np.float64(np.float32(0.02))) + 40, 0, 255)
    assert np.count_nonzero(run(after, x)[0] != expected) == check.otherwise == 0


LINE = single.Case(Config("power", "plain", (1, 0)), opset=21)
"""f(x) = c_0 + c_1 x."""


def test_ties_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """f(x) = x, half of it as code: each odd code lies between two, and goes to the even one."""
    monkeypatch.setattr(single, "coefficients", lambda case: (np.float32([0, 1]), np.zeros(0, np.float32)))
    before = qdq(case=LINE, before_scale=1.0, before_zero_point=0, after_scale=2.0, after_zero_point=0)
    after, replaced = collapsed(before)
    (check,) = checks(after, replaced)
    assert check.ties == 128
    assert check.otherwise == 0
    assert run(after, np.uint8([1, 3, 5, 7]))[0].tolist() == [0, 2, 2, 4]


def spoiled(after: onnx.ModelProto, change: Any) -> onnx.ModelProto:
    table = next(t for t in after.graph.initializer if list(t.dims) == [256])
    values = onnx.numpy_helper.to_array(table).copy()
    change(values)
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    return after


def test_a_wrong_entry_is_found() -> None:
    after, (one,) = collapsed(qdq())
    assert lookup_check.check(ir.from_proto(after), one).equal

    def change(values: Any) -> None:
        values[77] += 1

    found = lookup_check.check(ir.from_proto(spoiled(after, change)), one)
    assert not found.equal
    assert found.comparison.worst_index == (77,)


def test_a_zero_of_the_other_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "coefficients", lambda case: (np.float32([0, 1]), np.zeros(0, np.float32)))
    made = Builder(LINE)
    made.dequantize("q", "x", "uint8", zero_point=0)
    made.activation("x", "f")
    made.inputs, made.outputs = [info("q", "uint8", ["N"])], [info("f", "float32", ["N"])]
    after, (one,) = collapsed(made.model())

    def change(values: Any) -> None:
        values[0] = -values[0]

    assert not lookup_check.check(ir.from_proto(spoiled(after, change)), one).equal


def test_nodes_that_are_not_the_function_are_found() -> None:
    """The table agrees with the file's body, but that is not what the attributes and coefficients say."""
    before = qdq()
    body = before.functions[0]
    last = body.node[-1]
    last.input[0], kept = "doubled", last.input[0]
    body.node.insert(len(body.node) - 1, helper.make_node("Add", [kept, kept], ["doubled"]))
    after, (one,) = collapsed(before)
    same(run(before, codes("uint8")), run(after, codes("uint8")))
    found = lookup_check.check(ir.from_proto(after), one)
    assert isinstance(found, TableCheck)
    assert found.comparison is not None
    assert found.comparison.equal
    assert not found.equal


def test_codes_that_are_off_by_one_are_found() -> None:
    """Rounding up instead of to the nearest: only :func:`_ties` can tell."""
    _, (one,) = collapsed(qdq())
    assert isinstance(one, lookup.TabledActivation)
    assert one.site is not None
    part = replace(one.site.after[0], scale=np.float64(0.2), zero_point=np.int64(0))

    def ties(found: list[int], limit: float = 1e-9) -> tuple[int, int, bool]:
        return lookup_check._ties(np.array([[0.1, 0.35, np.nan, np.inf, -np.inf]]), limit, np.array([found]), part)

    assert ties([0, 2, 77, 255, 0]) == (1, 0, True)
    assert ties([1, 2, 77, 255, 0]) == (1, 1, True)
    assert ties([1, 2, 77, 255, 0], 0.0) == (0, 1, False)
    assert ties([0, 3, 77, 255, 0])[2] is False
    assert ties([0, 2, 77, 254, 0])[2] is False


def test_bfloat16_tables_of_floats() -> None:
    made = Builder(replace(CASE, dtype="bfloat16"))
    made.dequantize("q", "x", "uint8")
    made.activation("x", "f")
    made.inputs, made.outputs = [info("q", "uint8", ["N"])], [info("f", "bfloat16", ["N"])]
    before = made.model()
    after, replaced = collapsed(before)
    one, other = reference(before, codes("uint8"))[0], reference(after, codes("uint8"))[0]
    assert one.dtype == ml_dtypes.bfloat16
    same([one], [other])
    checks(after, replaced)
