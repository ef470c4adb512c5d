"""The order of the packages: each imports only from those before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "opau_onnx"

ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "native": {"core"},
    "nn": {"core", "native"},
    "keras": {"core", "nn"},
    "io": {"core", "nn", "keras"},
    "graph": {"core", "io"},
    "runtime": {"native", "core", "io", "graph"},
    "compare": {"native", "core", "nn", "io", "graph", "runtime"},
    "export": {"core", "nn", "io", "graph", "runtime", "compare"},
    "collapse": {"core", "nn", "io", "graph", "runtime", "compare", "export"},
    "verify": {"core", "nn", "io", "graph", "runtime", "compare"},
    "certify": {"native", "core", "io", "graph", "runtime"},
    "plot": {"core", "nn", "io", "graph", "runtime", "compare"},
    "inspect": {"native", "core", "nn", "io", "graph", "runtime"},
    "bench": {"native", "core", "nn", "io", "graph", "runtime", "export"},
    "protocol": set(),
    "serve": {"graph", "runtime", "protocol"},
    "loadtest": {"core", "io", "compare", "protocol", "serve"},
    "deploy": {"native", "io", "graph", "runtime", "protocol", "serve"},
    "cli": {
        "native",
        "core",
        "io",
        "graph",
        "runtime",
        "compare",
        "export",
        "collapse",
        "verify",
        "certify",
        "plot",
        "inspect",
        "bench",
        "serve",
        "loadtest",
        "deploy",
    },
}
"""Package -> the packages that it may import. Those of EVERYWHERE import nothing and are for all."""
EVERYWHERE = {"config", "errors", "_extras", "_public", "_telemetry", "_version"}
DOORS = {"__init__", "testing"}
"""The package's own names and the pytest plugin, which stand above all packages."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Our modules that a file imports, also inside functions and for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if (node.module or "").split(".")[0] == "opau_onnx":
                names = [f"{node.module}.{a.name}" for a in node.names]
                found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "opau_onnx"}
    return found


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_package_has_its_place() -> None:
    assert {package(m) for m in MODULES} - EVERYWHERE - DOORS == set(ALLOWED)


def test_the_table_is_an_order() -> None:
    before: set[str] = set()
    for name, allowed in ALLOWED.items():
        assert allowed <= before, f"{name} may import {allowed - before}, which come later"
        before.add(name)


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_only_from_those_before(name: str) -> None:
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if package(module) == name
        for other in sorted(imported(path))
        if package(other) not in {name, "models", *ALLOWED[name], *EVERYWHERE} and other != "opau_onnx"
    ]
    assert not wrong


def test_no_circles() -> None:
    """Between modules, whatever their packages; imports inside functions count."""
    state: dict[str, int] = {}

    def visit(module: str, way: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert state.get(module) != 1, f"a circle: {' -> '.join((*way[way.index(module) :], module))}"
        state[module] = 1
        for other in sorted(imported(MODULES[module]) & MODULES.keys() - {"opau_onnx"}):
            visit(other, (*way, module))
        state[module] = 2

    for module in MODULES:
        if module != "opau_onnx":
            visit(module, ())


@pytest.mark.parametrize("module", [m for m in MODULES if package(m) in ("core", "protocol")])
def test_no_framework(module: str) -> None:
    code = (
        f"import sys, {module}; assert not {{'torch', 'keras', 'onnx', 'onnxruntime'}} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
