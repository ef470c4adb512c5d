"""What several test modules of the compiled library share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.custom_ops import cuda_shim
from tests.custom_ops.library import required_library


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA kernels compiled for the host: once for all processes of a run, since it takes a minute."""
    reason = cuda_shim.unavailable()
    if reason is not None:
        pytest.skip(reason)
    required_library()
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shim"
    with FileLock(f"{folder}.lock"):
        built = folder / "libshim.so"
        if not built.is_file():
            folder.mkdir(exist_ok=True)
            cuda_shim.build(folder)
    return built
