"""The compiled op library and its plain C interface, without any framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.native.interface import DTYPES, Activation, Given, check, extent, instruction_sets, open_library
    from opau_onnx.native.library import build_info, get_library_path

_INTERFACE = ("DTYPES", "Activation", "Given", "check", "extent", "instruction_sets", "open_library")

__all__ = [
    "DTYPES",
    "Activation",
    "Given",
    "build_info",
    "check",
    "extent",
    "get_library_path",
    "instruction_sets",
    "open_library",
]
__getattr__, __dir__ = lazy(
    __name__, {**dict.fromkeys(_INTERFACE, "interface"), "build_info": "library", "get_library_path": "library"}
)
