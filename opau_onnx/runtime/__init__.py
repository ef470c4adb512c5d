"""The compiled op library and onnxruntime sessions that use it."""
