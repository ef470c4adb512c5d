"""What runs the activations of a file, as onnxruntime itself records it."""

import numpy as np

import opau_onnx
from opau_onnx.runtime.assignment import assignments

opau_onnx.export_model(opau_onnx.models.path("lenet_hp2"), "lenet.onnx", validate=False)
images = np.zeros((4, 1, 28, 28), dtype=np.float32)
outputs = []
for library in ("auto", False):
    session = opau_onnx.create_session("lenet.onnx", "cpu", library=library)
    outputs.append(session.run(None, {session.get_inputs()[0].name: images})[0])
    print(f"library={library!r}:", *assignments(session))
print(f"largest difference: {np.abs(outputs[0] - outputs[1]).max():.2g}")
