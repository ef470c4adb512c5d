"""An installed package, from the outside: library, shipped models, commands. Exit code 0 where all work."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    """Check it, in a folder where the repository's own modules are out of reach."""
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (REPOSITORY, REPOSITORY / "scripts")]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        begin = time.perf_counter()
        import opau_onnx

        took = time.perf_counter() - begin
        place = Path(str(opau_onnx.__file__)).resolve()
        assert REPOSITORY not in place.parents, f"this is the repository's package, not an installed one: {place}"
        print(f"opau_onnx {opau_onnx.__version__} in {place.parent}, imported in {took:.3f} s")
        run()


def run() -> None:
    """Export a shipped model by the command, run it by the compiled kernels, and compare with PyTorch."""
    import numpy as np
    import torch

    import opau_onnx
    from opau_onnx import models
    from opau_onnx.runtime.assignment import assignments

    print(f"library: {opau_onnx.get_library_path()}")
    command = Path(sys.executable).with_name("opau-export")
    subprocess.run([command, models.path("lenet_hp1"), "lenet.onnx"], check=True)
    session = opau_onnx.create_session("lenet.onnx", "cpu", library=True)
    found = assignments(session)
    print(*found, sep="\n")
    assert [a.implementation for a in found] == ["kernel"], "the compiled kernels do not run"
    images = np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32)
    with torch.no_grad():
        ours = opau_onnx.load(models.path("lenet_hp1")).model(torch.from_numpy(images)).numpy()
    difference = float(np.abs(session.run(None, {session.get_inputs()[0].name: images})[0] - ours).max())
    print(f"largest difference from PyTorch on random images: {difference:.2g}")
    assert difference <= 1e-4
    subprocess.run([Path(sys.executable).with_name("opau-inspect"), "lenet.onnx"], check=True)


if __name__ == "__main__":
    main()
