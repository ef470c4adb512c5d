"""Names that the command needs before anything heavy is loaded."""

from __future__ import annotations

from opau_onnx.compare.runtimes import NAMES

TORCH, PYTORCH = "torch", "PyTorch"
"""The reference, as a runtime's name and in sentences."""
RUNTIMES = (TORCH, *NAMES)
"""Everything that can be run; PyTorch is the reference."""
ONNX_SUFFIX = ".onnx"
"""Of a model that is an ONNX file itself."""
ORIGINAL = "original"
"""PyTorch again, with the modules of another library as they came; run where the model has such."""
REPORT_SCHEMA = "opau_onnx.verify_report/1"
EQUAL, DIFFERENT, NOT_RUN = "equal", "different", "not run"
"""Verdicts of a runtime; never "equal" for one that did not run."""
