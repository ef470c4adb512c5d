"""The public names, and what importing them may load."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import opau_onnx
import opau_onnx.nn

NAMES = {
    "opau_onnx": {
        "CollapseResult", "Config", "ExportConfig", "ExportResult", "InspectResult", "PlotResult", "QuantizationConfig",
        "ToleranceConfig",
        "ValidationConfig", "VerifyConfig", "VerifyResult", "__version__", "collapse_model",
        "create_session", "export_model", "get_library_path", "inspect_model", "load",
        "plot_model", "save_checkpoint", "validate_model", "verify_model",
    },
    "opau_onnx.nn": {
        "HP1", "HP2", "PAU", "Adopted", "Adoption", "CallSite", "Calls", "Fit", "FrozenActivation", "Implementation",
        "OrthogonalPade", "adopt", "balance", "coefficient_parameters", "fit", "freeze", "implementation",
        "orthogonal_pade", "replace_activations", "replace_calls",
    },
}  # fmt: skip
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "scipy", "numpy", "matplotlib", "safetensors")


@pytest.mark.parametrize("module", [opau_onnx, opau_onnx.nn], ids=lambda m: m.__name__)
def test_public_names(module: object) -> None:
    assert set(module.__all__) == NAMES[module.__name__]
    for name in module.__all__:
        assert getattr(module, name) is not None


PACKAGES = sorted(
    path.parent.name for path in Path(opau_onnx.__file__).parent.glob("*/__init__.py") if path.parent.name != "models"
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_is_public(package: str) -> None:
    if package == "keras":
        pytest.importorskip("keras", reason="keras is not installed")
    module = importlib.import_module(f"opau_onnx.{package}")
    assert list(module.__all__) == sorted(set(module.__all__), key=module.__all__.index)
    submodules = {found.name for found in pkgutil.iter_modules(module.__path__)}
    assert not submodules & set(module.__all__), "a submodule, once imported, would hide the name"
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


def test_the_docs_import_public_names_only() -> None:
    root = Path(__file__).resolve().parent.parent
    pages = [*root.glob("*.md"), *(root / "docs").glob("*.md")]
    imports = [m for page in pages for m in re.findall(r"from (opau_onnx[\w.]*) import ([\w, ]+)", page.read_text("utf-8"))]
    assert imports
    for package, names in imports:
        public = importlib.import_module(package).__all__
        for name in names.split(","):
            assert name.strip() in (*public, "models"), f"{package} has no public name {name.strip()}"


def test_no_module_hides_a_public_name() -> None:
    """A submodule, once imported, is an attribute of its package."""
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


@pytest.mark.parametrize("module", ["nn", "io.source", "collapse.api", "verify.api", "plot.subjects"])
def test_torch_dynamo_comes_late(module: str) -> None:
    """It takes as long as torch itself, and nothing but torch.compile and torch.export needs it."""
    check = f"import sys, opau_onnx.{module}\nassert 'torch' in sys.modules and 'torch._dynamo' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", [None, "0"])
@pytest.mark.parametrize("how", ["import opau_onnx; opau_onnx.create_session", "import opau_onnx.cli.serve"])
def test_telemetry_is_off_before_onnxruntime_loads(how: str, given: str | None) -> None:
    """Unless the user set the variable."""
    code = f"{how}\nimport os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    watched = """
import os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "onnxruntime": assert "ORT_DISABLE_TELEMETRY" in os.environ
sys.meta_path.insert(0, Watch())
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
    code = watched + code + "\nimport onnxruntime"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == (given or "1")


def test_importing_the_package_alone_sets_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import opau_onnx.nn, os; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == "None"
