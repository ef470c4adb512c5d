"""Models of one activation node, what runs them, and how far they may be from the oracle. No torch.export in here."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import torch

from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.core import oracle
from opau_onnx.core.spec import BASES, DOMAIN, OP_TYPE, OPSET_VERSION, Config, ordinary_limit
from opau_onnx.graph import function
from opau_onnx.graph.nodes import node_attributes, overload_name
from tests.cases import trusted

NUMPY = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINY = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
"""The smallest step of each dtype."""


@dataclass(frozen=True)
class Case:
    """One node: its function, X's dtype, the opset, and the shapes of its coefficients."""

    config: Config
    dtype: str = "float32"
    opset: int = 20
    per_group: tuple[bool, bool] = (False, False)
    """Whether numerator and denominator have a row for each group."""

    def __str__(self) -> str:
        rows = "".join("g" if own else "s" for own in self.per_group)
        return f"{overload_name(self.config)}-{rows}-{self.dtype}-{self.opset}"

    @property
    def compute(self) -> str:
        return "float64" if self.dtype == "float64" else "float32"

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(str(self).encode()))


def coefficients(case: Case) -> tuple[Any, Any]:
    """Random ones in the dtype of computation; each term is about 1 somewhere on [-3, 3], as in a trained activation."""
    config, rng = case.config, case.rng()
    sizes = [1.0] * (config.top + 1)
    rows = [np.ones(25), np.linspace(-3, 3, 25)]
    for n in range(config.top):
        a, b, c = (float(v) for v in BASES[config.basis](n))
        value = (a * rows[1] + b) * (rows[0] if n == 0 else rows[-1]) - (c * rows[-2] if n else 0.0)
        rows.append(value)
        sizes[n + 1] = float(np.abs(value).max())
    first = config.denominator_form.first
    found = []
    for own, low, count in zip(case.per_group, (0, first), (config.numerator_size, config.denominator_size), strict=True):
        shape = (config.groups, count) if own else (count,)
        drawn = rng.uniform(0.3, 1.0, shape) * rng.choice([-1, 1], shape)
        found.append((drawn / sizes[low : low + count]).astype(case.compute))
    return found[0], found[1]


def node(case: Case, x: ir.Value, numerator: ir.Value, denominator: ir.Value, name: str = "y") -> ir.Node:
    """The activation on ``x``, its result named ``name``."""
    result = ir.node(
        OP_TYPE, [x, numerator, denominator], attributes=node_attributes(case.config), domain=DOMAIN,
        overload=overload_name(case.config),
    )  # fmt: skip
    result.outputs[0].name, result.outputs[0].type, result.outputs[0].shape = name, x.type, x.shape
    return result


def value(name: str, dtype: str, shape: Any) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(np.dtype(NUMPY[dtype]))), shape=ir.Shape(shape))


def constant(name: str, array: Any) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)


def proto(nodes: list[ir.Node], inputs: list[ir.Value], constants: list[ir.Value], cases: list[Case]) -> onnx.ModelProto:
    """A model of these nodes whose results are its outputs, with the body of each configuration once."""
    opset = cases[0].opset
    bodies = {overload_name(c.config): c.config for c in cases}
    graph = ir.Graph(
        inputs, [n.outputs[0] for n in nodes], nodes=nodes, initializers=constants, name="test",
        opset_imports={"": opset, DOMAIN: OPSET_VERSION},
    )  # fmt: skip
    double = {overload_name(c.config) for c in cases if c.compute == "float64"}
    functions = [function.build(config, opset, double=name in double) for name, config in bodies.items()]
    return ir.to_proto(ir.Model(graph, ir_version=10, functions=functions))


def model(case: Case, shape: Any, values: tuple[Any, Any] | None = None) -> onnx.ModelProto:
    """One node; without ``values`` the coefficients are inputs of the model."""
    x = value("x", case.dtype, shape)
    if values is None:
        own = [value(n, case.compute, [None] * (1 + case.per_group[i])) for i, n in enumerate(("numerator", "denominator"))]
        return proto([node(case, x, *own)], [x, *own], [], [case])
    stored = [constant(n, v) for n, v in zip(("numerator", "denominator"), values, strict=True)]
    return proto([node(case, x, *stored)], [x], stored, [case])


Run = Callable[..., list[Any]]


def runners(file: onnx.ModelProto) -> dict[str, Run]:
    """onnxruntime with and without optimisation, and onnx's own evaluator on the inlined model."""
    content = file.SerializeToString()
    found: dict[str, Run] = {}
    for name, optimize in (("onnxruntime", True), ("onnxruntime, not optimised", False)):
        runtime = OnnxRuntime(content, optimize=optimize)
        found[name] = lambda *arrays, runtime=runtime: [wide(y) for y in runtime.run([to_torch(a) for a in arrays])]
    found["ReferenceEvaluator"] = _reference(file)
    return found


def _reference(file: onnx.ModelProto) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.inliner.inline_local_functions(file))
    names = [v.name for v in file.graph.input]

    def run(*arrays: Any) -> list[Any]:
        with np.errstate(all="ignore"):
            return [wide(y) for y in evaluator.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def to_torch(array: Any) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def wide(array: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(array).astype(np.float64)


def check(case: Case, x: Any, values: tuple[Any, Any], y: Any, label: str = "") -> float:
    """Hold a result against the oracle, within its bound; assert that the comparison says something.

    Returns:
        The largest share of the bound that is used.
    """
    assert y.shape == x.shape
    exact = _oracle(case, x, *values)
    with np.errstate(all="ignore"):
        limit, exempt = _tolerance(case, exact), _exempt(case, x, values)
        finite, want = np.isfinite(wide(x)), exact.value
        fits = np.abs(want) < float(ml_dtypes.finfo(NUMPY[case.dtype]).max) * (1 - 2 * ROUNDOFF[case.dtype])
        known = fits & ~exempt & (trusted(case.config, exact, ROUNDOFF[case.compute]) | ~finite)
        wrong = (np.isnan(wide(x)) != np.isnan(y)) & ~exempt
        wrong |= known & ~np.isnan(want) & ~(np.abs(y - want) <= limit)
        wrong |= ~finite & ~exempt & np.isinf(want) & (y != want)
        used = (np.abs(y - want) / limit)[known & finite]
    counted = (known | ~fits)[finite]
    assert not counted.size or (counted.mean() > 0.5 and used.size), f"{case}: hardly any value could be compared"
    if np.any(wrong):
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{case} {label}: {int(wrong.sum())} of {wrong.size} wrong; at {at} x = {wide(x)[at]!r}: got {y[at]!r}, expected "
            f"{want[at]!r} within {limit[at]!r}"
        )
    return float(used.max(initial=0.0))


def _oracle(case: Case, x: Any, numerator: Any, denominator: Any) -> oracle.Evaluation:
    """The last one is kept: several runtimes are held against it."""
    key = (case, x.shape, x.tobytes(), numerator.tobytes(), denominator.tobytes())
    if key not in _KNOWN:
        _KNOWN.clear()
        _KNOWN[key] = oracle.evaluate(case.config, wide(x), numerator, denominator)
    return _KNOWN[key]


_KNOWN: dict[Any, oracle.Evaluation] = {}


def _exempt(case: Case, x: Any, values: tuple[Any, Any]) -> Any:
    """The documented exception: beyond X0, where the form `clamped` clamps Q."""
    if case.config.form != "clamped":
        return np.zeros(x.shape, dtype=bool)
    one = np.eye(1, case.config.numerator_size)[0]
    inverse = oracle.evaluate(case.config, wide(x), one, values[1]).value
    return (np.abs(wide(x)) > ordinary_limit(case.config.top)) & (inverse > 0.99e8)


def _tolerance(case: Case, exact: oracle.Evaluation) -> Any:
    """The oracle's first-order bound, a tenth more for the second order, and a rounding to the output's dtype."""
    size = np.where(np.isfinite(exact.value), np.abs(exact.value), 0.0)
    computing = 1.1 * exact.bound * ROUNDOFF[case.compute] + exact.underflow * TINY[case.compute]
    return computing + size * ROUNDOFF[case.dtype] + TINY[case.dtype]


def inputs(case: Case, count: int = 96) -> Any:
    """Usual values, all magnitudes of the dtype, and its extremes; a flat array of the dtype."""
    info, rng = ml_dtypes.finfo(NUMPY[case.dtype]), case.rng()
    low, high = (float(np.log2(float(v))) for v in (info.smallest_normal, info.max))
    magnitudes = 2.0 ** rng.uniform(low, high - 0.01, count // 4) * rng.choice([-1, 1], count // 4)
    special = [0.0, -0.0, 1.0, -1.0, 1e30, -1e30, float(info.max), float(info.min), np.inf, -np.inf, np.nan]
    tiny = [float(info.smallest_subnormal), -float(info.smallest_subnormal), float(info.smallest_normal)]
    special = [v for v in special + tiny if not np.isfinite(v) or abs(v) <= float(info.max)]
    usual = rng.uniform(-12, 12, count - count // 4 - len(special))
    return np.concatenate([usual, magnitudes, special]).astype(NUMPY[case.dtype])
