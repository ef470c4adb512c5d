"""The ONNX function body of one configuration, built by onnxscript from :mod:`opau_onnx.core.evaluation`.

One op name; each configuration in a model has a body of its own, told apart by the ``overload`` field (ONNX IR 10). The body
is written for the target opset, since onnxruntime inlines it with the model's. It computes in float32, or where coefficients
are float64 in that, whatever X's dtype is: so that it stays right where a converter makes the coefficients float16, in which
the range policy's numbers are infinite. It is right for X of any rank, empty ones included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript

from opau_onnx.core import evaluation
from opau_onnx.core.spec import DOMAIN, OP_TYPE, Config
from opau_onnx.graph.nodes import ATTRIBUTES, overload_name
from opau_onnx.graph.operators import Operators, Value


def build(config: Config, opset: int, *, double: bool = False) -> ir.Function:
    """The function for one configuration: (X, numerator, denominator) -> Y.

    Args:
        config: which.
        opset: of the model.
        double: compute in float64: where any coefficients of the nodes that call it are float64.
    """
    kind = ir.DataType.DOUBLE if double else ir.DataType.FLOAT
    function = onnxscript.build_function(
        lambda op, x, numerator, denominator: _Body(op, config, kind, numerator, denominator).result(x),
        [ir.Value(name=name) for name in ("X", "numerator", "denominator")],
        domain=DOMAIN,
        name=OP_TYPE,
        attributes={
            name: ir.Attr(name, kind, None)
            for name, kind in zip(
                ATTRIBUTES,
                (ir.AttributeType.STRING, ir.AttributeType.STRING, ir.AttributeType.INTS, ir.AttributeType.INT,
                 ir.AttributeType.INT),
                strict=True,
            )
        },
        opset_imports={"": opset},
    )  # fmt: skip
    function.overload = overload_name(config)
    function.outputs[0].name = "Y"
    form = config.denominator_form
    function.doc_string = f"{config}: sum_i c_i f_i(X) / ({form.formula}), elementwise"
    return function


class _Body(Operators):
    """Writes the nodes of one body."""

    def __init__(self, op: Any, config: Config, kind: ir.DataType, numerator: ir.Value, denominator: ir.Value) -> None:
        self.op, self.config, self.kind = op, config, kind
        self.numerator, self.denominator = self.cast(numerator), self.cast(denominator)
        self.constants: dict[float, ir.Value] = {}

    def constant(self, value: float) -> ir.Value:
        """A scalar of the dtype that is computed in. Stored as float64, which converters to float16 leave alone."""
        if value not in self.constants:
            self.constants[value] = self.cast(self.op.Constant(value=ir.tensor(np.float64(value))))
        return self.constants[value]

    def cast(self, value: ir.Value) -> ir.Value:
        """In the dtype that is computed in."""
        return self.op.Cast(value, to=int(self.kind))

    def call(self, op_type: str, *operands: Any, **attributes: Any) -> Value:
        plain = [o.value if isinstance(o, Value) else self.constant(o) for o in operands]
        return Value(self, getattr(self.op, op_type)(*plain, **attributes))

    def ints(self, values: int | list[int]) -> ir.Value:
        return self.op.Constant(value=ir.tensor(np.asarray(values, dtype=np.int64)))

    def result(self, x: ir.Value) -> ir.Value:
        config = self.config
        wide = self.cast(x)
        grouped = Value(self, self._group(wide) if config.groups > 1 else wide)
        y = evaluation.value(self, config, grouped, self._coefficients()).value
        if config.groups > 1:
            y = self.op.Reshape(y, self.op.Shape(x), allowzero=1)
        return self.op.CastLike(y, x)

    def _group(self, x: ir.Value) -> ir.Value:
        """x as (outer, groups, inner). The sizes are computed, not -1: that could not tell them in an empty tensor."""
        flat = self.op.Flatten(x, axis=self.config.axis)
        groups = self.ints([self.config.groups])
        outer, rest = self.op.Shape(flat, start=0, end=1), self.op.Shape(flat, start=1, end=2)
        return self.op.Reshape(flat, self.op.Concat(outer, groups, self.op.Div(rest, groups), axis=0), allowzero=1)

    def _columns(self, values: ir.Value, indices: range) -> list[Value]:
        """Column i as a scalar; with groups as (1,) or (groups, 1), which broadcast over (outer, groups, inner)."""
        shared = self.config.groups == 1
        return [Value(self, self.op.Gather(values, self.ints(i if shared else [i]), axis=0 if shared else -1)) for i in indices]

    def _coefficients(self) -> evaluation.Coefficients:
        config = self.config
        denominator = self.denominator
        if config.denominator_size:
            denominator = config.denominator_form.mode.weight(self, Value(self, denominator)).value
        beyond, factor = self._used() if config.top else ([], None)
        return evaluation.Coefficients(
            self._columns(self.numerator, range(config.numerator_size)),
            self._columns(denominator, range(config.denominator_size)),
            beyond,
            factor,
        )

    def _used(self) -> tuple[list[Value], Value]:
        """Per degree, 1 where all coefficients of this degree and above are zero; and the common factor.

        See :mod:`opau_onnx.core.evaluation`.
        """
        config, first = self.config, self.config.denominator_form.first
        size = self._padded(self.op.Abs(self.numerator), 0, config.top - config.degrees[0])
        if config.denominator_size:
            below = self._padded(self.op.Abs(self.denominator), first, config.top - config.degrees[1])
            size = self.op.Add(size, below)
        tail = self.op.CumSum(size, self.ints(-1), reverse=1)
        beyond = self.cast(self.op.Equal(tail, self.constant(0.0)))
        return self._columns(beyond, range(1, config.top + 1)), Value(self, self._factor(size, beyond))

    def _factor(self, size: ir.Value, beyond: ir.Value) -> ir.Value:
        op, table = self.op, evaluation.factor_table(self.config)
        above = self._padded(op.Slice(beyond, self.ints([1]), self.ints([self.config.top + 1]), self.ints([-1])), 0, 1, 1.0)
        weights = self.cast(op.Constant(value=ir.tensor(np.asarray(table.sizes))))
        leading = op.Mul(op.Mul(size, op.Sub(above, beyond)), weights)
        leading = op.ReduceSum(leading, self.ints([-1]), keepdims=int(self.config.groups > 1))
        return op.Clip(op.Div(self.constant(table.enough), leading), self.constant(1.0), self.constant(table.most))

    def _padded(self, values: ir.Value, before: int, after: int, value: float = 0.0) -> ir.Value:
        if not before and not after:
            return values
        return self.op.Pad(values, self.ints([before, after]), self.constant(value), self.ints([-1]))
