"""An installed package, from the outside: library, shipped models, commands. Exit code 0 where all work.

python scripts/check_wheel.py             with the extras cpu (or gpu) and export
python scripts/check_wheel.py lenet.onnx  without PyTorch: what runs an exported LeNet
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

REPOSITORY = Path(__file__).resolve().parent.parent


def main(given: Path | None = None) -> None:
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
        print(f"library: {opau_onnx.get_library_path()}")
        if given is not None:
            assert importlib.util.find_spec("torch") is None, "PyTorch is installed here: leave the file out"
            run(given)
        else:
            command("opau-export", opau_onnx.models.path("lenet_hp1"), "lenet.onnx")
            compare(*run(Path("lenet.onnx")))


def command(*words: str | Path) -> None:
    """Run one of the package's commands, as this Python installed it."""
    subprocess.run([Path(sys.executable).with_name(str(words[0])), *words[1:]], check=True)


def run(file: Path) -> tuple[Array, Array]:
    """Random images and what the compiled kernels give for them."""
    import numpy as np

    import opau_onnx
    from opau_onnx.runtime.assignment import assignments

    session = opau_onnx.create_session(file, "cpu", library=True)
    found = assignments(session)
    print(*found, sep="\n")
    assert [a.implementation for a in found] == ["kernel"], "the compiled kernels do not run"
    images = np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32)
    command("opau-inspect", file)
    return images, session.run(None, {session.get_inputs()[0].name: images})[0]


def compare(images: Array, outputs: Array) -> None:
    """Compare with PyTorch."""
    import numpy as np
    import torch

    import opau_onnx

    with torch.no_grad():
        ours = opau_onnx.load(opau_onnx.models.path("lenet_hp1")).model(torch.from_numpy(images)).numpy()
    difference = float(np.abs(outputs - ours).max())
    print(f"largest difference from PyTorch on random images: {difference:.2g}")
    assert difference <= 1e-4


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:2]))
