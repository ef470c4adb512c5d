"""The shipped LeNet without ONNX: traced, and exported by torch.export, with plain operators."""

import torch

import opau_onnx
from opau_onnx.nn import freeze

source = opau_onnx.load(opau_onnx.models.path("lenet_hp1"))
frozen = freeze(source.model)
program = torch.export.export(frozen, source.inputs)
torch.export.save(program, "lenet.pt2")
with torch.no_grad():
    difference = (frozen(*source.inputs) - source.model(*source.inputs)).abs().max()
print("operators:", sorted({str(n.target) for n in program.graph.nodes if n.op == "call_function"}))
print(f"largest difference: {difference:.2g}")
