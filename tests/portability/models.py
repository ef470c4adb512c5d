"""What is run everywhere: networks with PyTorch's outputs, and single activations of every basis and form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import opau_onnx
from opau_onnx import ValidationConfig, collapse_model, export_model
from opau_onnx.compare.batches import SCALES
from opau_onnx.compare.tensors import Comparison, compare
from opau_onnx.compare.torch_reference import TorchReference
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.io.samples import read_samples
from tests.export import nets, single

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet_hp1_fashion_mnist.pt"
FILES = ("exported", "standard", "fused")
"""The file with model-local functions, and what opau-collapse makes of it. No library of ours is registered anywhere here."""
KINDS = FILES[:2]
"""Those of single activations."""
NETWORKS = ("lenet", "few", "zoo")
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e38, -1e38)
MEASURED = 1000
"""The tolerance is measured on so many rows: LeNet's images are alike in that."""


@dataclass(frozen=True, eq=False)
class Network:
    """A trained or hard network in each of :data:`FILES`.

    Attributes:
        name: one of :data:`NETWORKS`.
        x: float32 inputs.
        what: they are, in words.
        expected: PyTorch's outputs in float32.
        tolerance: of each row; as opau-export's own check measures it.
        files: by name of the kind.
    """

    name: str
    x: Any
    what: str
    expected: Any
    tolerance: Any
    files: dict[str, Path]

    def compare(self, outputs: Any, where: Any = slice(None)) -> Comparison:
        """The outputs of another runtime on the rows ``where``."""
        return compare(self.name, self.expected[where], outputs, "float32", atol=self.tolerance[where])

    def row(self, runtime: str, kind: str, found: Comparison, outputs: Any) -> str:
        """A line of the table in docs/portability.md."""
        if self.name != "lenet":
            return f"| {runtime} | {self.name}, {kind} | {found.tolerance_used:.2f} of the tolerance | |"
        count = len(outputs)
        return f"| {runtime} | LeNet HP-1, {kind}, {count:,} images | {found.max_abs_error:.1e} | {self.labels(outputs)} |"

    def labels(self, outputs: Any) -> int:
        """How many of the first rows have another class."""
        return int((self.expected[: len(outputs)].argmax(1) != outputs.argmax(1)).sum())


Networks = Callable[[str], Network]
"""Makes the one of that name, when it is first asked for."""


def network(name: str, folder: Path) -> Network:
    """Export and collapse it into ``folder``."""
    files = {kind: folder / f"{name}-{kind}.onnx" for kind in FILES}
    if name == "lenet":
        source, module = LENET, opau_onnx.load(LENET).model
        samples = read_samples("fashion-mnist", ["images"])
        blocks, what = [samples.inputs[0]], samples.source
        export_model(source, files["exported"], validate=False)
    else:
        module = {"few": nets.few, "zoo": nets.zoo}[name]()
        shape = nets.ZOO_INPUT if name == "zoo" else (2, 4)
        blocks, what = hard_rows(shape[1:]), "random and special rows"
        export_model(module, files["exported"], nets.example(*shape), validate=False)
    for kind in FILES[1:]:
        collapse_model(files["exported"], files[kind], kind, comparing=ValidationConfig(skip=True))
    expected, tolerance = zip(*(reference(module, block) for block in blocks), strict=True)
    return Network(name, np.concatenate(blocks), what, np.concatenate(expected), np.concatenate(tolerance), files)


def hard_rows(shape: tuple[int, ...]) -> list[Any]:
    """Random rows of three scales; then a row full of each special number."""
    rng = np.random.default_rng(0)
    blocks = [scale * rng.standard_normal((16, *shape)) for scale in SCALES]
    blocks += [np.full((1, *shape), value) for value in SPECIAL]
    return [block.astype(np.float32) for block in blocks]


def reference(module: nn.Module, block: Any) -> tuple[Any, Any]:
    """(PyTorch's outputs, the tolerance as a column)."""
    x = torch.from_numpy(block)
    (measured,) = TorchReference(module, torch.float32, seed=0).expect([x[:MEASURED]])
    with torch.no_grad():
        expected = torch.cat([module(part) for part in x.split(MEASURED)]).numpy()
    return expected, np.full((len(block), 1), np.max(measured.tolerance))


@dataclass(frozen=True, eq=False)
class Activation:
    """One activation by itself, on hard inputs.

    Attributes:
        case: which; its coefficients follow from its name.
        x: usual values, all magnitudes of the dtype, signed zeros, infinities, NaN.
        files: by name of the kind, of :data:`KINDS`.
    """

    case: single.Case
    x: Any
    files: dict[str, Path]

    def without_nan(self) -> Activation:
        """With 0 in the place of NaN."""
        return replace(self, x=np.where(np.isnan(self.x), np.zeros_like(self.x), self.x))

    def check(self, outputs: Any, label: str) -> float:
        """Hold another runtime's outputs against the oracle; the largest share of the bound."""
        return single.check(self.case, self.x, single.coefficients(self.case), single.wide(outputs), label)


DEGREES = ((5, 4), (4, 4), (0, 0), (10, 9))
CASES = {f"{b}-{f}": [single.Case(Config(b, f, d)) for d in DEGREES] for b in BASES for f in FORMS}
"""Activations of every basis and form, and those of 16 and 64 bits."""
CASES |= {kind: [single.Case(Config(), kind), single.Case(Config("power", "plain"), kind)] for kind in ("float16", "float64")}
SHARED = {"channels": (["N", 6, 5], (70, 6, 5)), "open": (["N", "C", "L"], (70, 6, 5))}
"""Declared shape and shape of the input of activations in groups: constants that broadcast, and a Reshape to groups."""
ACTIVATIONS = (*CASES, *SHARED)


def activations(folder: Path, name: str) -> list[Activation]:
    """Those of one of :data:`ACTIVATIONS`, written into ``folder``."""
    if name in CASES:
        return [_activation(folder, name, case, ["N"], single.inputs(case, 400)) for case in CASES[name]]
    declared, shape = SHARED[name]
    case = single.Case(Config(groups=3), per_group=(True, True))
    return [_activation(folder, name, case, declared, np.resize(single.inputs(case, 400), shape))]


def _activation(folder: Path, name: str, case: single.Case, declared: Any, x: Any) -> Activation:
    files = {kind: folder / f"{name}-{case}-{kind}.onnx" for kind in KINDS}
    proto = single.model(case, declared, single.coefficients(case))
    files["exported"].write_bytes(proto.SerializeToString())
    collapse_model(files["exported"], files["standard"], comparing=ValidationConfig(skip=True))
    return Activation(case, x, files)
