"""The activation in an ONNX graph: its attributes and functions, finding it, reading its coefficients, saving models."""
