"""Models with activations of other libraries: exported as ours, said so, and compared with what they were."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.export import app
from opau_onnx.io import source
from opau_onnx.nn import OrthogonalPade
from tests.nn.peer_modules import KAT_Group, Rational


def run_file(path: Path, x: Tensor) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": x.numpy()})[0]


def real_network() -> nn.Module:
    """Every version of the package itself, with functions of different shapes, one of them at two places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in its docstrings
        package = pytest.importorskip("rational.torch", reason="rational-activations is not installed (it pins torch 1.7.1)")
    torch.manual_seed(0)
    shared = package.RecurrentRational("leaky_relu", version="B", cuda=False)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), package.Rational("leaky_relu", version="A", cuda=False),
        nn.Conv2d(4, 4, 3), package.Rational("tanh", version="C", cuda=False), nn.Flatten(),
        nn.Linear(256, 16), package.Rational("sigmoid", version="D", cuda=False),
        nn.Linear(16, 16), package.Rational("tanh", version="N", cuda=False), shared(), nn.Linear(16, 10), shared(),
    )  # fmt: skip


def test_a_network_of_the_package_itself(tmp_path: Path) -> None:
    """After a step of training, so that no coefficient is the package's own any more."""
    net = real_network().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    net(x).square().mean().backward()
    optimizer.step()
    net.eval()
    result = opau_onnx.export_model(net, tmp_path / "net.onnx", x)
    assert result.equal, result.as_dict()
    with torch.no_grad():
        want = net(x)
    assert type(net[1]).__module__ == "rational.torch.rationals"  # the model itself was left alone
    got = run_file(result.path, x)
    assert np.abs(got - want.numpy()).max() <= 1e-6
    kinds = [record["kind"] for record in result.as_dict()["adopted"]]
    assert kinds == [f"rational-activations, version {v}" for v in "ACDNBB"]
    assert "the original ones" in result.validation.reference
    names = [c.name for c in result.validation.outputs if "original modules" in c.name]
    assert len(names) == len(result.validation.outputs) / 2


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), Rational("A", **options), nn.Linear(16, 3), Rational("C", **options)).eval()


def plant(monkeypatch: pytest.MonkeyPatch, change: float) -> None:
    """A fault in what is made of the first activation."""
    made = source.adopted_copy

    def faulty(model: nn.Module) -> Any:
        done = made(model)
        ours: Any = next(m for m in done.model.modules() if isinstance(m, OrthogonalPade))
        ours.numerator.data[1] += change
        return done

    monkeypatch.setattr(source, "adopted_copy", faulty)


def test_a_planted_difference_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and adopted modules agree with each other; the original modules' own outputs tell."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    plant(monkeypatch, 1e-3)
    result = opau_onnx.export_model(network(), tmp_path / "net.onnx", x)
    assert result.equal is False
    assert [p.name for p in tmp_path.iterdir()] == ["net.rejected.onnx"]
    wrong = [c.name for c in result.validation.outputs if not c.equal]
    assert wrong
    assert all("of the original modules" in name for name in wrong)
    assert all(c.equal for c in result.validation.activations)
    monkeypatch.undo()
    again = opau_onnx.validate_model(network(), tmp_path / "net.rejected.onnx", x)
    assert again.equal is False
    assert [c.equal for c in again.validation.activations] == [False, True]


def test_originals_that_cannot_run_are_said_to_be_so(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 16), KAT_Group(path="cuda")).eval()
    result = opau_onnx.export_model(net, tmp_path / "net.onnx", torch.randn(2, 5, 6))
    assert result.equal
    assert result.validation.reference.endswith("the original ones could not run here (RuntimeError: 0 active drivers)")
    assert not [c for c in result.validation.outputs if "original" in c.name]
    assert "0 active drivers" in result.as_dict()["adopted"][0]["not_run"]


def test_where_the_original_gives_nan(tmp_path: Path) -> None:
    """Powers overflow, ours do not: these outputs say nothing about the file, and are counted."""
    net = nn.Sequential(Rational()).eval()
    x = torch.tensor([[1.0, 1e30, -2e37, 0.5]])
    assert net(x).isnan().any()
    result = opau_onnx.export_model(net, tmp_path / "net.onnx", x)
    assert result.equal, result.as_dict()
    assert "the original ones (not on" in result.validation.reference
    assert np.isfinite(run_file(result.path, x)).all()


COPY = """
import torch
from torch import nn

class Rational(nn.Module):
    def __init__(self, version="A"):
        super().__init__()
        self.version = version
        self.numerator = nn.Parameter(torch.tensor([0.02, 0.6, 1.6, 2.9, 0.95, 0.23]))
        self.denominator = nn.Parameter(torch.tensor([0.5, 4.2, 0.38, 0.32]))

    def forward(self, x):
        p = [x**i for i in range(6)]
        terms = [b * p[j] for j, b in enumerate(self.denominator, 1)]
        bottom = sum(t.abs() for t in terms) if self.version == "A" else sum(terms).abs()
        return sum(a * p[i] for i, a in enumerate(self.numerator)) / (1 + bottom)

def build():
    return nn.Sequential(nn.Linear(4, 5), Rational("A"), nn.Linear(5, 3), Rational("B"))

def unlike():
    net = build()
    net[1].version = "N"
    return net

def refused():
    Rational.__module__ = "rational.torch.rationals"
    net = build()
    net[3].version = "E"
    return net
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state_dict beside a copy of the library's class."""
    name = f"copied_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(COPY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    torch.manual_seed(0)
    path = tmp_path / f"{name}.pt"
    torch.save(module.build().state_dict(), path)
    torch.save(module.build(), tmp_path / "whole.pt")
    return path


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_says_what_it_adopted(weights: Path, tmp_path: Path) -> None:
    factory = ["--model", f"{weights.stem}:build", "--input-shape", "2,4"]
    done = command(weights, "net.onnx", *factory, "--report", "report.json")
    assert done.exit_code == 0, done.output
    assert "adopted: 1 (rational-activations, version A): power, abs_terms, degrees (5, 4); equal to its own" in done.output
    assert "adopted: 3 (rational-activations, version B): power, abs_sum" in done.output
    assert "output of the original modules, example input" in done.output
    found = json.loads((tmp_path / "report.json").read_text())
    assert [a["module"] for a in found["adopted"]] == ["1", "3"]
    assert [a["module"] for a in found["activations"]] == ["1", "3"]
    assert command(weights, "net.onnx", *factory, "--validate-only").exit_code == 0
    whole = command("whole.pt", "whole.onnx", "--allow-pickle", "--input-shape", "2,4")
    assert whole.exit_code == 0, whole.output
    assert "adopted: 1" in whole.output
    plain = command(weights, "plain.onnx", *factory, "--collapse", "standard")
    assert plain.exit_code == 0, plain.output
    assert "adopted: 3" in plain.output


def test_the_command_finds_a_planted_difference(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, 1e-3)
    done = command(weights, "net.onnx", "--model", f"{weights.stem}:build", "--input-shape", "2,4")
    assert done.exit_code == 1, done.output
    assert "NOT EQUAL" in done.output


def test_what_cannot_be_represented_ends_the_command(weights: Path, tmp_path: Path) -> None:
    done = command(weights, "net.onnx", "--model", f"{weights.stem}:refused", "--input-shape", "2,4")
    assert done.exit_code == 2
    assert f"{weights.name}: 3 (rational.torch.rationals.Rational) cannot become an OrthogonalPade: it" in done.output
    assert "is of version 'E'; known are A, B, C, D, N" in done.output
    assert not (tmp_path / "net.onnx").exists()


def test_what_only_looks_like_it_is_left_and_said_so(weights: Path) -> None:
    done = command(weights, "net.onnx", "--model", f"{weights.stem}:unlike", "--input-shape", "2,4")
    assert done.exit_code == 0, done.output
    assert "1 learned activation\n" in done.output
    assert f"not adopted: 1 ({weights.stem}.Rational) was left as it is: it does not compute" in done.output.replace("\n", " ")
