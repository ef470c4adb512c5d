"""Files in and out: models, checkpoints, exported programs, samples, data sets, and atomic writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy

if TYPE_CHECKING:
    from opau_onnx.io.checkpoint import save_checkpoint
    from opau_onnx.io.samples import Samples, read_samples
    from opau_onnx.io.source import Source, load

__all__ = ["Samples", "Source", "load", "read_samples", "save_checkpoint"]
__getattr__, __dir__ = lazy(
    __name__,
    {"Samples": "samples", "Source": "source", "load": "source", "read_samples": "samples", "save_checkpoint": "checkpoint"},
)
