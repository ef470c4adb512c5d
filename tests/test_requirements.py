"""The lower bounds that pyproject.toml promises: each is there, and none is above the tested set."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def script() -> Any:
    spec = importlib.util.spec_from_file_location("lower_bounds", ROOT / "scripts" / "lower_bounds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_has_a_lower_bound_within_the_tested_set() -> None:
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^;\s]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    tested = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    found = [Requirement(line) for line in script().bounds()]
    assert {"numpy", "torch", "onnx", "onnxruntime-gpu", "tritonclient"} <= {r.name for r in found}
    for requirement in found:
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        name = canonicalize_name(requirement.name)
        if requirement.marker is None or requirement.marker.evaluate():
            assert name in tested, f"{name} is not pinned in constraints.txt"
            assert Version(pin.version) <= tested[name]


def test_a_requirement_without_one_is_refused(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\ndependencies = ["numpy"]\n[project.optional-dependencies]\n')
    with pytest.raises(SystemExit, match="'numpy' has no lower bound"):
        list(script().bounds(project))
