"""The Open Inference Protocol over HTTP: JSON and the binary-tensor extension, on Starlette."""
