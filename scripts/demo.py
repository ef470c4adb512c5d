"""`make demo`: export a shipped, trained LeNet; verify it on real images; time it; plot its activations."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import opau_onnx
from opau_onnx.cli.common import console, table
from opau_onnx.errors import LibraryError
from opau_onnx.io import datasets
from opau_onnx.io.source import load

OUT = Path("out")
CHECKPOINT = Path("models/lenet_hp1_fashion_mnist.pt")
RELU = Path("models/lenet_relu_fashion_mnist.pt")
BATCH = 256


def export(checkpoint: Path, output: Path) -> None:
    """Type the command that a user would."""
    program = Path(sys.executable).with_name("opau-export")
    print(f"$ opau-export {checkpoint} {output}", flush=True)
    begin = time.perf_counter()
    subprocess.run([program, checkpoint, output], check=True)
    print(f"({time.perf_counter() - begin:.1f} s)\n", flush=True)


def images() -> tuple[Any, Any, str]:
    """All 10,000 test images where the data set is installed, else the sample that ships."""
    folder = datasets.find_fashion_mnist()
    if folder is None:
        pixels, labels = datasets.load_sample()
        return datasets.preprocess(pixels), labels, "the 1,000 test images that ship (dataset-fashion-mnist is not installed)"
    pixels, labels = datasets.load_fashion_mnist(folder, "test")
    return datasets.preprocess(pixels), labels, "all 10,000 test images"


def logits(run: Any, inputs: Any) -> Any:
    return np.concatenate([run(inputs[i : i + BATCH]) for i in range(0, len(inputs), BATCH)])


def verify(checkpoint: Path, model: Path) -> bool:
    """Compare both frameworks on real images: accuracy, largest difference, differing labels."""
    inputs, labels, what = images()
    module = load(checkpoint).model
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with torch.no_grad():
        ours = logits(lambda x: module(torch.from_numpy(x)).numpy(), inputs)
    theirs = logits(lambda x: session.run(None, {name: x})[0], inputs)
    differ = int((ours.argmax(1) != theirs.argmax(1)).sum())
    out = console()
    out.print(f"{what}:")
    rows = table(out, "runtime", "accuracy", "labels that differ", "largest difference of an output")
    rows.add_row(f"PyTorch {torch.__version__}", f"{(ours.argmax(1) == labels).mean():.2%}", "", "")
    accuracy = f"{(theirs.argmax(1) == labels).mean():.2%}"
    rows.add_row(f"onnxruntime {onnxruntime.__version__}", accuracy, str(differ), f"{np.abs(ours - theirs).max():.2g}")
    out.print(rows)
    return differ == 0


def median_ms(session: Any, inputs: Any, runs: int = 15) -> float:
    name = session.get_inputs()[0].name
    times = []
    for _ in range(runs + 3):
        begin = time.perf_counter()
        session.run(None, {name: inputs})
        times.append(time.perf_counter() - begin)
    return float(np.median(times[3:]) * 1e3)


def timing(relu: Path, hp1: Path) -> None:
    """The same file twice: in plain onnxruntime, and with the compiled kernels where they were built."""
    inputs, _, _ = images()
    plain = ["CPUExecutionProvider"]
    sessions = {"ReLU": onnxruntime.InferenceSession(relu, providers=plain)}
    try:
        sessions["HP-1, compiled kernel (create_session)"] = opau_onnx.create_session(hp1, device="cpu", library=True)
    except LibraryError as error:
        print(f"\nno compiled kernel: {error}")
    sessions["HP-1, function body (plain onnxruntime)"] = onnxruntime.InferenceSession(hp1, providers=plain)
    times = {n: median_ms(s, inputs[:BATCH]) for n, s in sessions.items()}
    out = console()
    out.print(f"\nbatches of {BATCH} on onnxruntime's CPU, median of 15 runs:")
    rows = table(out, "LeNet", "ms", "times ReLU")
    for name, value in times.items():
        rows.add_row(name, f"{value:.2f}", f"{value / times['ReLU']:.2f}")
    out.print(rows)


def main() -> int:
    os.chdir(Path(__file__).resolve().parent.parent)
    OUT.mkdir(exist_ok=True)
    hp1, relu = OUT / "lenet_hp1.onnx", OUT / "lenet_relu.onnx"
    export(CHECKPOINT, hp1)
    export(RELU, relu)
    equal = verify(CHECKPOINT, hp1)
    timing(relu, hp1)
    print(flush=True)
    program = Path(sys.executable).with_name("opau-plot")
    subprocess.run([program, CHECKPOINT, OUT / "activations.png", "--data", "fashion-mnist"], check=True)
    print("equal: PyTorch and onnxruntime give the same label to every image" if equal else "NOT EQUAL: labels differ")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
