"""From a torch module to an ONNX model with ai.opau nodes."""
