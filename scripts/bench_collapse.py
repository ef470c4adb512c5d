"""Savings of collapsing at inference; writes docs/benchmarks/collapse.{json,md}.

HP-1 with the coefficients of the shipped LeNet's first activation, float32, on the CPU. In each table the subjects take turns
in one process and one pool of threads (opau_onnx.bench.timing); medians, and ratios within the run.
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx import ValidationConfig, collapse_model, export_model
from opau_onnx.bench import machine, threads
from opau_onnx.bench.figures import summary
from opau_onnx.bench.sessions import Memory, Session, described
from opau_onnx.bench.timing import Plan, Subject, measure
from opau_onnx.cli.common import console
from opau_onnx.io.atomic import replacing
from opau_onnx.io.source import load
from opau_onnx.nn import HP1

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "benchmarks"
CHECKPOINT = ROOT / "models" / "lenet_hp1_fashion_mnist.pt"
PLAN = Plan(rounds=15, subject_seconds=3.0)
TOLERANCE = 1e-3
FLOAT = 1
"""TensorProto.FLOAT."""
Table = dict[str, Any]
Measure = Callable[[], Table]
"""Files are made first, by code that has sessions of its own; the sessions that are timed share one pool of threads."""


@dataclass(frozen=True)
class How:
    """A file, with which library, and whether create_session may rewrite it for this machine."""

    path: Path
    library: str | None = None
    layout: bool = False


def trained() -> HP1:
    """The first activation of the shipped LeNet."""
    module = load(CHECKPOINT).model.get_submodule("conv1_activation")
    assert isinstance(module, HP1)
    return module


def exported(net: nn.Module, x: Tensor, path: Path, **options: Any) -> Path:
    return export_model(net.eval(), path, x, validate=False, **options).path


def collapsed(source: Path, form: str, **options: Any) -> Path:
    name = f"{source.stem}_{form}{'_within' if options else ''}.onnx"
    return collapse_model(source, source.with_name(name), form, comparing=ValidationConfig(skip=True), **options).path


def turns(sessions: dict[str, Session], x: Tensor, shape: tuple[int, ...]) -> dict[str, Any]:
    """Times of each session on one input."""
    y = torch.zeros(shape)
    one, two = (Memory(t.data_ptr(), tuple(t.shape), FLOAT, t) for t in (x, y))
    subjects = [Subject(key, key, described(s.nodes()), "onnxruntime", s.prepare(one, two)) for key, s in sessions.items()]
    return {key: summary(times) for key, times in measure(subjects, PLAN).items()}


def table(title: str, first: str, base: str, files: dict[str, How], inputs: dict[str, Tensor]) -> Table:
    sessions = {name: Session(str(how.path), "cpu", how.library, optimize=how.layout) for name, how in files.items()}
    rows = {label: turns(sessions, x, tuple(x.shape)) for label, x in inputs.items()}
    return {"title": title, "first": first, "base": base, "rows": rows}


def standard(folder: Path, _: str) -> Measure:
    """Function body against the standard form, exact and within a tolerance, in plain onnxruntime."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 2.0
    source = exported(nn.Sequential(trained()), x, folder / "one.onnx")
    np.savez(folder / "data.npz", x=x.numpy())
    files = {
        "function body": How(source), "standard": How(collapsed(source, "standard")),
        f"standard, within {TOLERANCE:g}": How(collapsed(source, "standard", tolerance=TOLERANCE, data=folder / "data.npz")),
    }  # fmt: skip
    inputs = {_size(n): torch.randn(n) * 2.0 for n in (2**12, 2**16, 2**20, 2**23)}
    return lambda: table("Standard form, onnxruntime without our library", "elements", "function body", files, inputs)


def fused(folder: Path, library: str) -> Measure:
    """The learned op's kernel against the fused one's."""
    source = exported(nn.Sequential(trained()), torch.randn(64), folder / "learned.onnx")
    files = {"learned op": How(source, library), "fused": How(collapsed(source, "fused"), library)}
    inputs = {_size(2**n): torch.randn(2**n) * 2.0 for n in range(10, 25, 2)}
    return lambda: table("Fused form, compiled kernels", "elements", "learned op", files, inputs)


def normalized(folder: Path, library: str, shape: tuple[int, ...]) -> Measure:
    """BatchNormalization and the learned op, two nodes, against the one fused node."""
    x, label = torch.randn(shape), "x".join(map(str, shape))
    norm = nn.BatchNorm2d(shape[1]) if len(shape) == 4 else nn.BatchNorm1d(shape[1])
    _random_statistics(norm)
    source = exported(nn.Sequential(norm, trained()), x, folder / f"norm_{label}.onnx")
    base = "BatchNormalization, learned op"
    files = {base: How(source, library), "fused": How(collapsed(source, "fused"), library)}
    return lambda: table(f"BatchNormalization absorbed, compiled kernels, {label}", "shape", base, files, {label: x})


def convolutions(folder: Path, library: str) -> Measure:
    """Twelve 3x3 convolutions of 64 channels: ReLU, HP-1 inside onnxruntime's blocked layout, and HP-1 outside."""

    def net(activation: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(12)]
        return nn.Sequential(*(part for layer in layers for part in (layer, activation())))

    x = torch.randn(2, 64, 32, 32)
    relu, hp1 = exported(net(nn.ReLU), x, folder / "relu.onnx"), exported(net(HP1), x, folder / "hp1.onnx")
    files = {"ReLU": How(relu), "HP-1, layout": How(hp1, library, layout=True), "HP-1, plain": How(hp1, library)}
    inputs = {str(n): torch.randn(n, 64, 32, 32) for n in (1, 8, 32)}
    return lambda: table("Twelve 3x3 convolutions, 64 channels, 32x32", "batch", "ReLU", files, inputs)


def preactivation(folder: Path, library: str) -> Measure:
    """A residual network that normalizes before it activates, as PreActResNet does: six blocks of 64 channels."""

    class Block(nn.Module):
        def __init__(self, activation: Callable[[], nn.Module]) -> None:
            super().__init__()
            self.norm, self.activation, self.layer = nn.BatchNorm2d(64), activation(), nn.Conv2d(64, 64, 3, padding=1)
            _random_statistics(self.norm)

        def forward(self, x: Tensor) -> Tensor:
            value: Tensor = x + self.layer(self.activation(self.norm(x)))
            return value

    def net(activation: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), *(Block(activation) for _ in range(6)))

    x = torch.randn(2, 64, 32, 32)
    relu, hp1 = exported(net(nn.ReLU), x, folder / "pre_relu.onnx"), exported(net(HP1), x, folder / "pre_hp1.onnx")
    one = collapsed(hp1, "fused")
    files = {
        "ReLU": How(relu), "HP-1, learned": How(hp1, library, layout=True),
        "HP-1, fused, layout": How(one, library, layout=True), "HP-1, fused, plain": How(one, library),
    }  # fmt: skip
    inputs = {str(n): torch.randn(n, 64, 32, 32) for n in (1, 8, 32)}
    return lambda: table("Pre-activation network, batch norms absorbed", "batch", "ReLU", files, inputs)


def _random_statistics(norm: Any) -> None:
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)


def _size(count: int) -> str:
    return f"{count >> 20} Mi" if count >= 2**20 else f"{count >> 10} Ki"


def markdown(report: dict[str, Any]) -> str:
    on = report["machine"]
    lines = [
        "# Collapsed models against what they came from", "",
        f"`{report['command']}`: {on['cpu']}, {on['cores']} cores, kernel {on['instruction_set']}; onnxruntime "
        f"{on['onnxruntime']}, {report['date']}; other programs used {report['others']} cores. Microseconds, medians of up to "
        f"{PLAN.rounds} turns; in brackets the ratio to the first column.",
    ]  # fmt: skip
    for part in report["tables"]:
        names = list(next(iter(part["rows"].values())))
        lines += ["", f"## {part['title']}", "", f"| {part['first']} | {' | '.join(names)} |"]
        lines.append(f"|{' --- |' * (len(names) + 1)}")
        for label, results in part["rows"].items():
            base = results[part["base"]]["median_s"]
            cells = [f"{r['median_s'] * 1e6:,.1f} ({r['median_s'] / base:.2f})" for r in results.values()]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    library, reason = machine.library()
    if library is None:
        raise SystemExit(f"the compiled library is needed: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OPAU_CACHE"] = str(folder / "cache")  # nothing that an older code decided
        measures = [make(folder, library) for make in (standard, fused, convolutions, preactivation)]
        measures += [normalized(folder, library, shape) for shape in ((16, 64, 32, 32), (1, 64, 128, 128), (4096, 256))]
        threads.share(threads.physical_cores())
        others = machine.Others()
        tables = [measure_one() for measure_one in measures]
    report = {
        "command": "python scripts/bench_collapse.py", "date": datetime.date.today().isoformat(), "machine": machine.describe(),
        "others": others.cores(), "tables": tables,
    }  # fmt: skip
    for suffix, text in (("json", json.dumps(report, indent=1) + "\n"), ("md", markdown(report))):
        with replacing(FOLDER / f"collapse.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    console().print(markdown(report), highlight=False, markup=False)


if __name__ == "__main__":
    main()
