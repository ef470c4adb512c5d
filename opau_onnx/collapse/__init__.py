"""Learned activations -> fixed functions: passes over ONNX graphs, each proven against what it replaces."""
