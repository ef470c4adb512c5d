"""Comparing an ONNX file with the PyTorch model that it came from."""
