"""A CUDA runtime without a GPU, compiled from cudart_stub.cpp."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.custom_ops.cuda_shim import headers


def stub(folder: Path) -> Path:
    """The library; skips where nothing compiles it."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    library, found = folder / "libcudart_stub.so", headers()
    include = ["-isystem", found] if found else []
    source = Path(__file__).with_name("cudart_stub.cpp")
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Wextra", "-shared", "-fPIC", *include, "-o", library, source], check=True)
    return library
