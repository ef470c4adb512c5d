"""Small models whose rows depend on each other, and others whose rows do not: float, whole numbers, bools, quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from tests.serve import nets

Make = Callable[[Path], Path]
RANDOM = np.random.default_rng(1)
TABLE = RANDOM.standard_normal((50, 6)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((6, 6)).astype(np.float32)
ROW, ONE, LAST = np.array([0]), np.array([1]), np.array([-1])


def net(*nodes: str, element: int = T.FLOAT, out: int = T.FLOAT, shape: Any = (6,), to: Any = (6,), **weights: Any) -> Make:
    """A model from lines such as ``m=ReduceMean(x,rows) keepdims=1``, from x to y."""

    def make(path: Path) -> Path:
        made = [_node(line) for line in nodes]
        known: dict[str, Any] = {"rows": ROW, "one": ONE, "last": LAST, **weights}
        used = {name: known[name] for node in made for name in node.input if name in known}
        inputs = [nets.value("x", ["batch", *shape], element)]
        return nets.write(path, made, inputs, [nets.value("y", ["batch", *to], out)], used)

    return make


def _node(line: str) -> onnx.NodeProto:
    call, _, rest = line.partition(") ")
    target, _, call = call.rstrip(")").partition("=")
    kind, _, names = call.partition("(")
    attributes: Mapping[str, Any] = {k: _value(v) for k, _, v in (pair.partition("=") for pair in rest.split())}
    return helper.make_node(kind, names.split(",") if names else [], target.split(","), **attributes)


def _value(text: str) -> Any:
    return [int(part) for part in text.strip("[]").split(",")] if text.startswith("[") else int(text)


def quantized(make: Make) -> Make:
    """As quantize_dynamic writes it: the scale of each activation is computed over the whole batch."""

    def made(path: Path) -> Path:
        from onnxruntime.quantization import quantize_dynamic

        plain = make(path.with_suffix(".plain.onnx"))
        quantize_dynamic(plain, path)
        return path

    return made


EMBED = "e=Gather(table,x)"
INDEX: dict[str, Any] = {"element": T.INT64, "shape": ()}
WORDS: dict[str, Any] = {"element": T.INT64, "shape": (6,)}
BYTES: dict[str, Any] = {"element": T.UINT8, "out": T.FLOAT}
FLAGS: dict[str, Any] = {"element": T.BOOL, "out": T.FLOAT}
FLOAT1 = f"f=Cast(x) to={T.FLOAT}"

DEPENDENT: dict[str, Make] = {
    "mean of floats": net("m=ReduceMean(x,rows)", "y=Sub(x,m)"),
    "largest of floats": net("m=ReduceMax(x,rows)", "y=Div(x,m)"),
    "norm over all": net("m=ReduceL2(x)", "y=Div(x,m)"),
    "softmax over rows": net("y=Softmax(x) axis=0"),
    "log softmax over rows": net("y=LogSoftmax(x) axis=0"),
    "hardmax over rows": net("y=Hardmax(x) axis=0"),
    "cumsum": net("y=CumSum(x,axis)", axis=np.array(0)),
    "sort": net("n=Shape(x) start=0 end=1", "y,i=TopK(x,n) axis=0"),
    "first row": net("f=Gather(x,rows)", "y=Sub(x,f)"),
    "reversed rows": net("y=Slice(x,last,end,rows,last)", end=np.array([-100])),
    "gram": net("t=Transpose(x) perm=[1,0]", "g=MatMul(t,x)", "y=MatMul(x,g)"),
    "by the count of rows": net("n=Shape(x) start=0 end=1", f"c=Cast(n) to={T.FLOAT}", "y=Div(x,c)"),
    "batch norm in training": net("y,a,b=BatchNormalization(x,s,s,s,s) training_mode=1", s=np.ones(6, np.float32)),
    "transposed softmax": net("t=Transpose(x) perm=[1,0]", "s=Softmax(t) axis=1", "y=Transpose(s) perm=[1,0]"),
    "mean by reshape": net("r=Reshape(x,flat)", "m=ReduceMean(r,last)", "y=Sub(x,m)", flat=np.array([-1])),
    "ids: mean": net(EMBED, "m=ReduceMean(e,rows)", "y=Sub(e,m)", table=TABLE, **INDEX),
    "ids: largest": net(EMBED, "m=ReduceMax(e,rows)", "y=Div(e,m)", table=TABLE, **INDEX),
    "ids: first row": net(EMBED, "f=Gather(e,rows)", "y=Sub(e,f)", table=TABLE, **INDEX),
    "ids: cumsum": net("c=CumSum(x,axis)", FLOAT1.replace("(x)", "(c)"), "y=Add(f,f)", axis=np.array(0), **WORDS),
    "ids: dynamic quantization": quantized(net(EMBED, "h=MatMul(e,w)", "y=MatMul(h,w)", table=TABLE, w=WEIGHT, **INDEX)),
    "ids: words, dynamic quantization": quantized(
        net(EMBED, "s=ReduceMean(e,one) keepdims=0", "y=MatMul(s,w)", table=TABLE, w=WEIGHT, **WORDS)
    ),
    "ids: unique": net("u,i,v,c=Unique(x)", f"y=Cast(v) to={T.FLOAT}", **INDEX, to=()),
    "bytes: largest": net(FLOAT1, "m=ReduceMax(f,rows)", "p=Add(m,k)", "y=Div(f,p)", k=np.float32(1), **BYTES),
    "bytes: mean": net(FLOAT1, "m=ReduceMean(f,rows)", "y=Sub(f,m)", **BYTES),
    "bytes: largest byte": net("m=ReduceMax(x,rows)", f"g=Cast(m) to={T.FLOAT}", FLOAT1, "y=Sub(f,g)", **BYTES),
    "bytes: dynamic quantization": quantized(net(FLOAT1, "y=MatMul(f,w)", w=WEIGHT, **BYTES)),
    "bools: any of the rows": net(FLOAT1, "m=ReduceMax(f,rows)", "y=Add(f,m)", **FLAGS),
    "bools: first row": net(FLOAT1, "g=Gather(f,rows)", "y=Sub(f,g)", **FLAGS),
    "bools: share": net(FLOAT1, "m=ReduceMean(f,rows)", "y=Sub(f,m)", **FLAGS),
    "floats: dynamic quantization": quantized(net("y=MatMul(x,w)", w=WEIGHT)),
    "largest place": net("a=ArgMax(x) axis=0", f"c=Cast(a) to={T.FLOAT}", "y=Add(x,c)"),
}
INDEPENDENT: dict[str, Make] = {
    "neg": net("y=Neg(x)"),
    "linear": net("m=MatMul(x,w)", "y=Add(m,b)", w=WEIGHT, b=WEIGHT[0]),
    "mlp": net("h=MatMul(x,w)", "r=Relu(h)", "y=MatMul(r,w)", w=WEIGHT),
    "softmax": net("y=Softmax(x) axis=-1"),
    "softmax, axis 1": net("y=Softmax(x) axis=1"),
    "mean of a row": net("m=ReduceMean(x,one)", "y=Sub(x,m)"),
    "layer norm": net("y=LayerNormalization(x,s)", s=np.ones(6, np.float32)),
    "layer norm by hand": net("m=ReduceMean(x,last)", "d=Sub(x,m)", "q=Mul(d,d)", "v=ReduceMean(q,last)", "y=Add(d,v)"),
    "batch norm": net("y=BatchNormalization(x,s,s,s,s)", s=np.ones(6, np.float32)),
    "norm of a row": net("m=ReduceL2(x,last)", "y=Div(x,m)"),
    "cumsum of a row": net("y=CumSum(x,axis)", axis=np.array(1)),
    "sorted row": net("y,i=TopK(x,six) axis=1", six=np.array([6])),
    "largest of a row": net("y=ReduceMax(x,one) keepdims=1", to=(1,)),
    "largest place of a row": net("a=ArgMax(x) axis=1 keepdims=0", f"y=Cast(a) to={T.FLOAT}", to=()),
    "transposed mean": net("t=Transpose(x) perm=[1,0]", "m=ReduceMean(t,rows)", "n=Transpose(m) perm=[1,0]", "y=Sub(x,n)"),
    "weights reduced over axis 0": net("m=ReduceMean(w,rows)", "y=Add(x,m)", w=WEIGHT),
    "weights' softmax over axis 0": net("s=Softmax(w) axis=0", "y=MatMul(x,s)", w=WEIGHT),
    "reshaped by its own shape": net("n=Shape(x)", "p=ReduceProd(n,rows)", "r=Reshape(x,p)", "y=Reshape(r,n)"),
    "columns picked": net("y=Gather(x,i) axis=1", i=np.array([5, 0]), to=(2,)),
    "columns reversed": net("y=Slice(x,last,end,one,last)", end=np.array([-100])),
    "attention within a row": net(
        "t=Transpose(x) perm=[0,2,1]", "g=MatMul(x,t)", "s=Softmax(g) axis=-1", "y=MatMul(s,x)", shape=(3, 4), to=(3, 4)
    ),
    "static quantization": net("q=QuantizeLinear(x,s,z)", "y=DequantizeLinear(q,s,z)", s=np.float32(0.1), z=np.uint8(128)),
    "sequence first": net("t=Transpose(x) perm=[1,0,2]", "m=ReduceMean(t,rows) keepdims=0", "y=Neg(m)", shape=(3, 4), to=(4,)),
    "ids: embedding": net("y=Gather(table,x)", table=TABLE, **INDEX),
    "ids: bag of words": net(EMBED, "y=ReduceMean(e,one) keepdims=0", table=TABLE, **WORDS),
    "ids: tiny table": net("y=Gather(table,x)", table=TABLE[:2], **INDEX),
    "ids: one hot": net("y=OneHot(x,d,v)", d=np.array(6), v=np.array([0, 1], np.float32), **INDEX),
    "bytes: scaled": net(FLOAT1, "y=Div(f,k)", k=np.float32(255), **BYTES),
    "bytes: mean of a row": net(FLOAT1, "m=ReduceMean(f,one)", "y=Sub(f,m)", **BYTES),
    "bools: linear": net(FLOAT1, "y=MatMul(f,w)", w=WEIGHT, **FLAGS),
    "bools: not": net("n=Not(x)", f"y=Cast(n) to={T.FLOAT}", **FLAGS),
}
