"""The Keras layer on each backend. Keras takes one when it is imported: each has a process of its own, which runs checks.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Not importorskip: importing Keras without a backend fails.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")

CHECKS = Path(__file__).with_name("checks.py")
ROOT = CHECKS.parents[2]
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:xdist")
KERAS_ITSELF = "ignore:__array__ implementation:DeprecationWarning"
"""Keras 3.15 hands its variables and torch's tensors to numpy 2 in the old way."""


def run(backend: str, folder: Path, *options: str) -> str:
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "KERAS_HOME": str(folder / "home"), "OPAU_KERAS_FOLDER": str(folder),
        "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", *PLUGINS, "-W", KERAS_ITSELF, str(CHECKS), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


def test_jax_and_then_torch(tmp_path: Path) -> None:
    """JAX trains and saves a model, torch loads that file and exports it."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    jax = run("jax", tmp_path)
    assert "failed" not in jax
    assert (tmp_path / "trained.keras").is_file()
    torch = run("torch", tmp_path)
    assert "failed" not in torch
    assert "trained.keras" not in torch.partition("SKIPPED")[2]  # the file was there, so nothing of it was left out


def test_numpy_has_values(tmp_path: Path) -> None:
    """A backend without gradients still computes."""
    assert " passed" in run("numpy", tmp_path, "-W", "ignore::RuntimeWarning", "-k", "test_values or infinite")
