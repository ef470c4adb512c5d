"""The parts of scripts/gpu.py."""

from pathlib import Path

import opau_onnx

opau_onnx.__path__.append(str(Path(__file__).resolve().parents[2]))  # uninstalled, opau_onnx.models is the folder models/
