"""Commands, one file each; nothing imports them."""

from opau_onnx import _telemetry

_telemetry.disable()  # here, since a command may load onnxruntime with its first import
__all__: list[str] = []
