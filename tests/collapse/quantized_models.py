"""Quantized models of one activation: DequantizeLinear, the activation, QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from opau_onnx.collapse.api import clean
from opau_onnx.collapse.passes import lookup
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.compare.runtimes.reference import reference_evaluator
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.core.spec import DOMAIN, OP_TYPE, OPSET_VERSION, Config
from opau_onnx.graph import function
from opau_onnx.graph.nodes import node_attributes, overload_name
from tests.export import single

TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "uint16": TensorProto.UINT16, "int16": TensorProto.INT16}
FLOATS = {
    "float32": (TensorProto.FLOAT, np.float32),
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}


@dataclass
class Builder:
    """Collects nodes and constants.

    Attributes:
        case: the activation.
        domain: of what quantizes.
    """

    case: single.Case = field(default_factory=lambda: single.Case(Config()))
    domain: str = ""
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def constant(self, name: str, array: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def scale(self, name: str, kind: str, scale: Any, zero_point: Any) -> list[str]:
        array = np.asarray(scale, dtype=FLOATS[self.case.dtype][1])
        return [self.constant(f"{name}_scale", array), self.constant(f"{name}_zero_point", np.asarray(zero_point, dtype=kind))]

    def dequantize(self, codes: str, y: str, kind: str, scale: Any = 0.05, zero_point: Any = 3, **attributes: Any) -> str:
        inputs = [codes, *self.scale(y, kind, scale, zero_point)]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [y], y, domain=self.domain, **attributes))
        return y

    def quantize(self, x: str, y: str, kind: str, scale: Any = 0.04, zero_point: Any = 5, **attributes: Any) -> str:
        inputs = [x, *self.scale(y, kind, scale, zero_point)]
        self.nodes.append(helper.make_node("QuantizeLinear", inputs, [y], y, domain=self.domain, **attributes))
        return y

    def activation(self, x: str, y: str) -> str:
        given = zip(("numerator", "denominator"), single.coefficients(self.case), strict=True)
        known = {c.name for c in self.constants}
        names = [n if n in known else self.constant(n, v) for n, v in given]
        overload = overload_name(self.case.config)
        attributes = node_attributes(self.case.config)
        node = helper.make_node(OP_TYPE, [x, *names], [y], f"act_{y}", domain=DOMAIN, overload=overload, **attributes)
        self.nodes.append(node)
        return y

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "quantized", self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", self.case.opset), helper.make_opsetid(DOMAIN, OPSET_VERSION)]
        imports += [helper.make_opsetid(self.domain, 1)] if self.domain else []
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        body = ir.to_proto(function.build(self.case.config, self.case.opset, double=self.case.compute == "float64"))
        model.functions.append(body)
        return model


def info(name: str, kind: str, shape: Any) -> Any:
    number = TYPES[kind] if kind in TYPES else FLOATS[kind][0]
    return helper.make_tensor_value_info(name, number, shape)


def qdq(source: str = "uint8", target: str = "uint8", shape: Any = ("N",), case: single.Case | None = None, **how: Any) -> Any:
    """Codes -> codes.

    Args:
        source, target: types of the codes.
        shape: of the codes.
        case: the activation.
        how: arguments of :meth:`Builder.dequantize` with "before_", of :meth:`Builder.quantize` with "after_"; ``domain``.
    """
    made = Builder(case or single.Case(Config(), opset=21), how.pop("domain", ""))
    before, after = ({k.removeprefix(p): v for k, v in how.items() if k.startswith(p)} for p in ("before_", "after_"))
    made.dequantize("q", "x", source, **before)
    made.activation("x", "f")
    made.quantize("f", "y", target, **after)
    made.inputs, made.outputs = [info("q", source, shape)], [info("y", target, shape)]
    return made.model()


def collapsed(proto: onnx.ModelProto, *, checked: bool = True) -> tuple[onnx.ModelProto, list[CollapsedActivation]]:
    """The pass as ``collapse_model`` runs it, and onnx's checker."""
    model = ir.from_proto(proto)
    replaced = lookup.replace_activations(model)
    clean(model, "lut", replaced)
    out = ir.to_proto(model)
    if checked:
        onnx.checker.check_model(out, full_check=True)
    return out, replaced


def codes(kind: str, shape: Any = (-1,)) -> Any:
    """Every code once (or, in larger shapes, again and again)."""
    info = np.iinfo(kind)
    every = np.arange(info.min, int(info.max) + 1).astype(kind)
    return every.reshape(shape) if -1 in shape else np.resize(every, shape)


def run(proto: onnx.ModelProto, *arrays: Any, optimize: bool = True) -> Any:
    return OnnxRuntime(proto.SerializeToString(), optimize=optimize).run([single.to_torch(a) for a in arrays])


def reference(proto: onnx.ModelProto, *arrays: Any) -> Any:
    evaluator = reference_evaluator(onnx.inliner.inline_local_functions(proto))
    return evaluator.run(None, dict(zip(evaluator.input_names, arrays, strict=True)))


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]
