"""Is it the same model? One PyTorch model against ONNX files in every runtime at hand, down to the layer."""
