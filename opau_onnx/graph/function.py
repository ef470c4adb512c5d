"""The ONNX function body of one configuration, built by onnxscript from :mod:`opau_onnx.core.evaluation`.

One op name; each configuration in a model has a body of its own, told apart by the ``overload`` field (ONNX IR 10). The body
is written for the target opset, since onnxruntime inlines it with the model's. It computes in the dtype of the coefficients
(float32, or float64 in a float64 model) whatever X's dtype is, and is right for X of any rank, empty ones included.
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


def build(config: Config, opset: int) -> ir.Function:
    """The function for one configuration: (X, numerator, denominator) -> Y."""
    function = onnxscript.build_function(
        lambda op, x, numerator, denominator: _Body(op, config, numerator, denominator).result(x),
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

    def __init__(self, op: Any, config: Config, numerator: ir.Value, denominator: ir.Value) -> None:
        self.op, self.config = op, config
        self.numerator, self.denominator = numerator, denominator
        self.constants: dict[float, ir.Value] = {}

    def constant(self, value: float) -> ir.Value:
        """A scalar of the coefficients' dtype. float64 and CastLike keep it exact there and survive fp16 converters."""
        if value not in self.constants:
            stored = self.op.Constant(value=ir.tensor(np.float64(value)))
            self.constants[value] = self.op.CastLike(stored, self.numerator)
        return self.constants[value]

    def call(self, op_type: str, *operands: Any, **attributes: Any) -> Value:
        plain = [o.value if isinstance(o, Value) else self.constant(o) for o in operands]
        return Value(self, getattr(self.op, op_type)(*plain, **attributes))

    def ints(self, values: int | list[int]) -> ir.Value:
        return self.op.Constant(value=ir.tensor(np.asarray(values, dtype=np.int64)))

    def result(self, x: ir.Value) -> ir.Value:
        config = self.config
        wide = self.op.CastLike(x, self.numerator)
        grouped = Value(self, self._group(wide) if config.groups > 1 else wide)
        coefficients = self._coefficients()
        if config.top:
            rows = evaluation.scaled_basis(self, config, grouped, coefficients.beyond)
        else:
            rows = evaluation.constant_rows(self, grouped)
        y = evaluation.rational(self, config, rows, coefficients).value
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
        beyond = self._columns(self._beyond(), range(1, config.top + 1)) if config.top else []
        return evaluation.Coefficients(
            self._columns(self.numerator, range(config.numerator_size)),
            self._columns(denominator, range(config.denominator_size)),
            beyond,
        )

    def _beyond(self) -> ir.Value:
        """Per degree, 1 where all coefficients of this degree and above are zero: see :mod:`opau_onnx.core.evaluation`."""
        config, first = self.config, self.config.denominator_form.first
        size = self._padded(self.op.Abs(self.numerator), 0, config.top - config.degrees[0])
        if config.denominator_size:
            below = self._padded(self.op.Abs(self.denominator), first, config.top - config.degrees[1])
            size = self.op.Add(size, below)
        tail = self.op.CumSum(size, self.ints(-1), reverse=1)
        return self.op.CastLike(self.op.Equal(tail, self.constant(0.0)), self.numerator)

    def _padded(self, values: ir.Value, before: int, after: int) -> ir.Value:
        if not before and not after:
            return values
        return self.op.Pad(values, self.ints([before, after]), self.constant(0.0), self.ints([-1]))
