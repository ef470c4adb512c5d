"""What collapsing saves at inference; writes docs/benchmarks/collapse.{json,md}.

HP-1 with the coefficients of the shipped LeNet's first activation, float32, on the CPU. In each table the subjects take turns
in one process and one pool of threads (opau_onnx.bench.timing); medians, and ratios within the run.
"""

from __future__ import annotations

import datetime
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx import Comparing, collapse_model, export_model
from opau_onnx.bench import machine, threads
from opau_onnx.bench.figures import summary
from opau_onnx.bench.sessions import Memory, Session, described
from opau_onnx.bench.timing import Plan, Subject, measure
from opau_onnx.cli.common import console
from opau_onnx.files import replacing
from opau_onnx.nn import HP1
from opau_onnx.reading import load

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "benchmarks"
CHECKPOINT = ROOT / "models" / "lenet_hp1_fashion_mnist.pt"
PLAN = Plan(rounds=15, subject_seconds=3.0)
TOLERANCE = 1e-3
FLOAT = 1
"""TensorProto.FLOAT."""
Table = dict[str, Any]


def trained() -> HP1:
    """The first activation of the shipped LeNet."""
    module = load(CHECKPOINT).model.get_submodule("conv1_activation")
    assert isinstance(module, HP1)
    return module


def exported(net: nn.Module, x: Tensor, path: Path, **options: Any) -> Path:
    return export_model(net.eval(), path, x, validate=False, **options).path


def collapsed(source: Path, form: str, **options: Any) -> Path:
    name = f"{source.stem}_{form}{'_within' if options else ''}.onnx"
    return collapse_model(source, source.with_name(name), form, comparing=Comparing(skip=True), **options).path


def turns(sessions: dict[str, Session], x: Tensor, shape: tuple[int, ...]) -> dict[str, Any]:
    """Times of each session on one input."""
    y = torch.zeros(shape)
    one, two = (Memory(t.data_ptr(), tuple(t.shape), FLOAT, t) for t in (x, y))
    subjects = [Subject(key, key, described(s.nodes()), "onnxruntime", s.prepare(one, two)) for key, s in sessions.items()]
    return {key: summary(times) for key, times in measure(subjects, PLAN).items()}


def table(title: str, first: str, base: str, sessions: Any, inputs: dict[str, Tensor], shape: Callable[[Tensor], Any]) -> Table:
    rows = {label: turns(sessions(x), x, shape(x)) for label, x in inputs.items()}
    return {"title": title, "first": first, "base": base, "rows": rows}


def standard(folder: Path) -> Table:
    """Function body against the standard form, exact and within a tolerance, in plain onnxruntime."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 2.0
    source = exported(nn.Sequential(trained()), x, folder / "one.onnx")
    np.savez(folder / "data.npz", x=x.numpy())
    files = {
        "function body": source, "standard": collapsed(source, "standard"),
        f"standard, within {TOLERANCE:g}": collapsed(source, "standard", tolerance=TOLERANCE, data=folder / "data.npz"),
    }  # fmt: skip
    sessions = {name: Session(str(path), "cpu") for name, path in files.items()}
    inputs = {_size(n): torch.randn(n) * 2.0 for n in (2**12, 2**16, 2**20, 2**23)}
    title = "Standard form, onnxruntime without our library"
    return table(title, "elements", "function body", lambda _: sessions, inputs, _same)


def fused(folder: Path, library: str) -> Table:
    """The learned op's kernel against the fused one's."""
    source = exported(nn.Sequential(trained()), torch.randn(64), folder / "learned.onnx")
    files = {"learned op": source, "fused": collapsed(source, "fused")}
    sessions = {name: Session(str(path), "cpu", library) for name, path in files.items()}
    inputs = {_size(2**n): torch.randn(2**n) * 2.0 for n in range(10, 25, 2)}
    return table("Fused form, compiled kernels", "elements", "learned op", lambda _: sessions, inputs, _same)


def normalized(folder: Path, library: str) -> Table:
    """BatchNormalization and the learned op, two nodes, against the one fused node; 1 Mi elements."""
    shapes = ((16, 64, 32, 32), (1, 64, 128, 128), (4096, 256))
    inputs = {"x".join(map(str, shape)): torch.randn(shape) for shape in shapes}
    made: dict[tuple[int, ...], dict[str, Session]] = {}
    for label, x in inputs.items():
        norm = nn.BatchNorm2d(x.shape[1]) if x.dim() == 4 else nn.BatchNorm1d(x.shape[1])
        _random_statistics(norm)
        source = exported(nn.Sequential(norm, trained()), x, folder / f"norm_{label}.onnx")
        files = {"BatchNormalization, learned op": source, "fused": collapsed(source, "fused")}
        made[tuple(x.shape)] = {name: Session(str(path), "cpu", library) for name, path in files.items()}
    title = "BatchNormalization absorbed, compiled kernels, 1 Mi elements"
    return table(title, "shape", "BatchNormalization, learned op", lambda x: made[tuple(x.shape)], inputs, _same)


def convolutions(folder: Path, library: str) -> Table:
    """Twelve 3x3 convolutions of 64 channels: ReLU, HP-1 inside onnxruntime's blocked layout, and HP-1 outside."""

    def net(activation: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(12)]
        return nn.Sequential(*(part for layer in layers for part in (layer, activation())))

    x = torch.randn(2, 64, 32, 32)
    relu, hp1 = exported(net(nn.ReLU), x, folder / "relu.onnx"), exported(net(HP1), x, folder / "hp1.onnx")
    sessions = {
        "ReLU": Session(str(relu), "cpu"), "HP-1, layout": Session(str(hp1), "cpu", library, optimize=True),
        "HP-1, plain": Session(str(hp1), "cpu", library),
    }  # fmt: skip
    inputs = {str(n): torch.randn(n, 64, 32, 32) for n in (1, 8, 32)}
    return table("Twelve 3x3 convolutions, 64 channels, 32x32", "batch", "ReLU", lambda _: sessions, inputs, _same)


def preactivation(folder: Path, library: str) -> Table:
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
    sessions = {
        "ReLU": Session(str(relu), "cpu"), "HP-1, learned": Session(str(hp1), "cpu", library, optimize=True),
        "HP-1, fused, layout": Session(str(one), "cpu", library, optimize=True),
        "HP-1, fused, plain": Session(str(one), "cpu", library),
    }  # fmt: skip
    inputs = {str(n): torch.randn(n, 64, 32, 32) for n in (1, 8, 32)}
    return table("Pre-activation network, batch norms absorbed", "batch", "ReLU", lambda _: sessions, inputs, _same)


def _random_statistics(norm: Any) -> None:
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)


def _same(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


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
    threads.share(threads.physical_cores())
    others = machine.Others()
    library, reason = machine.library()
    if library is None:
        raise SystemExit(f"the compiled library is needed: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [standard(folder), *(make(folder, library) for make in (fused, normalized, convolutions, preactivation))]
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
