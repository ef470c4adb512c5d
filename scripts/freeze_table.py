"""The rows of docs/portability.md, "From PyTorch, without ONNX": the frozen LeNet in what takes PyTorch models."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opau_onnx import load, models
from opau_onnx.compare.runtimes.openvino import OpenVino
from opau_onnx.io import datasets
from opau_onnx.nn import freeze

BATCH = 250
Run = Callable[[torch.Tensor], Any]


def images() -> tuple[torch.Tensor, str]:
    """All 10,000 test images where the data set is installed, else the sample that ships."""
    folder = datasets.find_fashion_mnist()
    pixels = datasets.load_sample()[0] if folder is None else datasets.load_fashion_mnist(folder, "test")[0]
    return torch.from_numpy(datasets.preprocess(pixels)), f"{len(pixels):,} test images of Fashion-MNIST"


def runs(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> Iterator[tuple[str, Run]]:
    """Each way out of PyTorch, with a function that runs it."""
    yield "eager", model
    traced = torch.jit.trace(model, example)  # type: ignore[no-untyped-call]
    yield "torch.jit.trace", traced
    yield "torch.jit.script", torch.jit.script(model)
    program = torch.export.export(model, (example,))
    yield "torch.export", program.module()
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "lenet.pt2"))
    yield "AOTInductor", torch._inductor.aoti_load_package(package)
    if reason := OpenVino.unavailable():
        print(f"not run: {reason}")
        return
    import openvino

    from opau_onnx.compare.runtimes.openvino import openvino_core

    converted = {
        "from the module": openvino.convert_model(model, example_input=example),
        "from the traced module": openvino.convert_model(traced),
        "from the exported program": openvino.convert_model(program),
    }
    for how, made in converted.items():
        compiled = openvino_core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        name = f"OpenVINO {openvino.get_version().partition('-')[0]}, {how} ({len(made.get_ops())} operations)"
        yield name, lambda x, compiled=compiled: compiled(x.numpy())[0].copy()  # type: ignore[misc]


def main() -> None:
    """Print the rows."""
    warnings.simplefilter("ignore")  # of torch.jit, that it is old
    inputs, said = images()
    model = load(models.path("lenet_hp1")).model
    print(f"PyTorch {torch.__version__.partition('+')[0]}, LeNet HP-1, {said}\n")
    print("| from PyTorch by | largest difference | top-1 differences |\n|---|---|---|")
    parts = torch.split(inputs, BATCH)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        known = np.concatenate([model(x).numpy() for x in parts])
        for name, run in runs(freeze(model), parts[0], Path(folder)):
            found = np.concatenate([np.asarray(run(x)) for x in parts])
            differ = int((found.argmax(1) != known.argmax(1)).sum())
            print(f"| {name} | {np.abs(found - known).max():.1e} | {differ} |", flush=True)


if __name__ == "__main__":
    main()
