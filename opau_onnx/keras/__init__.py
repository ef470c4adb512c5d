"""The activation as a Keras 3 layer, on any backend; needs the extra ``keras``. Importing this package does not load Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opau_onnx.keras.bridge import TorchModel, to_torch_model
    from opau_onnx.keras.convert import from_torch, to_torch
    from opau_onnx.keras.layer import OrthogonalPade

_WHERE = {
    "OrthogonalPade": "layer",
    "TorchModel": "bridge",
    "from_torch": "convert",
    "to_torch": "convert",
    "to_torch_model": "bridge",
}

__all__ = ["OrthogonalPade", "TorchModel", "from_torch", "to_torch", "to_torch_model"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib
    import importlib.util

    if importlib.util.find_spec("keras") is None:
        raise ImportError(f"opau_onnx.keras.{name} needs Keras 3: pip install 'opau-onnx[keras]'")
    return getattr(importlib.import_module(f"opau_onnx.keras.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
