"""The public names, and what importing them may load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import opau_onnx
import opau_onnx.nn

NAMES = {
    "opau_onnx": {
        "CollapseResult", "Config", "ExportConfig", "ExportResult", "PlotResult", "QuantizationConfig", "ToleranceConfig",
        "ValidationConfig", "VerifyResult", "__version__", "collapse_model",
        "create_session", "export_model", "get_library_path", "load",
        "plot_model", "save_checkpoint", "validate_model", "verify_model",
    },
    "opau_onnx.nn": {
        "HP1", "HP2", "PAU", "Adopted", "Adoption", "Fit", "OrthogonalPade", "adopt", "fit", "orthogonal_pade",
        "replace_activations",
    },
}  # fmt: skip
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "scipy", "numpy", "matplotlib", "safetensors")


@pytest.mark.parametrize("module", [opau_onnx, opau_onnx.nn], ids=lambda m: m.__name__)
def test_public_names(module: object) -> None:
    assert set(module.__all__) == NAMES[module.__name__]
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_no_module_hides_a_public_name() -> None:
    """A submodule, once imported, is an attribute of its package."""
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(opau_onnx.__path__):
        if module.name not in ("models",):
            importlib.import_module(f"opau_onnx.{module.name}")
    assert all(callable(getattr(opau_onnx, name)) for name in opau_onnx.__all__ if name != "__version__")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = opau_onnx.nothing


@pytest.mark.parametrize(
    "program",
    [
        "import opau_onnx",
        "import opau_onnx.cli.export",
        "import sys; sys.argv = ['opau-export', '--help']\n"
        "from opau_onnx.cli.export import main\ntry:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code",
    ],
    ids=["package", "command", "help"],
)
def test_heavy_imports_come_late(program: str) -> None:
    check = f"{program}\nimport sys\nloaded = [m for m in {HEAVY} if m in sys.modules]\nassert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
