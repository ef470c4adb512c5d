"""The shipped LeNet for runtimes without custom ops, and with one fused node for each activation."""

import opau_onnx

checkpoint = opau_onnx.models.path("lenet_hp1")
opau_onnx.export_model(checkpoint, "lenet.onnx", validate=False)
for form in ("standard", "fused"):
    result = opau_onnx.collapse_model("lenet.onnx", f"lenet_{form}.onnx", form)
    print(f"{result.path}: {len(result.replaced)} activations, equal: {result.equal}")
