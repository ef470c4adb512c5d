"""An ONNX file that is verified: what it is, where its activations are, and the runtimes that it is opened in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from opau_onnx.compare.hooks import Key, match
from opau_onnx.compare.names import ORIGINAL
from opau_onnx.compare.names import TORCH as PYTORCH
from opau_onnx.compare.originals import OriginalModules
from opau_onnx.compare.runtime import NotRunError
from opau_onnx.compare.runtimes import runtime_class
from opau_onnx.errors import LoadError, ValidationError
from opau_onnx.graph.axes import Axes, open_axes
from opau_onnx.graph.dtypes import NAMES
from opau_onnx.graph.lookup import ActivationLocation, collapsed_form, find_activations
from opau_onnx.graph.whole import read_model
from opau_onnx.io.source import Source, sha256
from opau_onnx.nn.casting import DTYPES, dtype_name
from opau_onnx.verify.onnx_model import OnnxModel
from opau_onnx.verify.runs import Run


@dataclass
class VerifiedFile:
    """A file and what was found of it.

    Attributes:
        path, sha256: the file.
        model: its contents.
        dtype: of its weights and inputs.
        axes: its dynamic axes.
        outputs: their names.
        fixed: its batch where that is fixed.
        matched: each activation, the call in PyTorch that it stands for, and why there is none.
        runs: one for each runtime that was asked for.
    """

    path: Path
    sha256: str
    model: ir.Model
    dtype: torch.dtype
    axes: Axes
    outputs: list[str]
    fixed: int | None
    matched: list[tuple[ActivationLocation, Key | None, str]]
    runs: list[Run] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Name of the dtype."""
        return dtype_name(self.dtype)

    @property
    def ran(self) -> list[Run]:
        """The runtimes that ran it."""
        return [run for run in self.runs if not run.reason and run.name != ORIGINAL]

    def describe(self) -> dict[str, Any]:
        """Properties of the file, as plain data."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "dtype": self.kind,
            "opset": self.model.opset_imports.get("", 0),
            "collapsed": collapsed_form(self.model),
        }


def read_file(path: Path, source: Source | OnnxModel) -> VerifiedFile:
    """Read a file and match its activations with those of a PyTorch model.

    Raises:
        LoadError: it cannot be read.
        ValidationError: it is of another model.
    """
    model = read_model(path)
    names = [str(v.name) for v in model.graph.inputs]
    if len(names) != len(source.inputs):
        raise ValidationError(
            f"{path} has {len(names)} inputs ({', '.join(names)}), {source.name} has {len(source.inputs)}; is it of this model?"
        )
    axes = open_axes(model)
    found = [] if isinstance(source, OnnxModel) else match(find_activations(model), source.model)
    outputs = [str(v.name) for v in model.graph.outputs]
    return VerifiedFile(path, sha256(path), model, _dtype(path, model), axes, outputs, _fixed(model), found)


def _dtype(path: Path, model: ir.Model) -> torch.dtype:
    """As the file's metadata say, else that of its first floating input."""
    said = model.metadata_props.get("opau.dtype")
    if said is not None:
        if said not in DTYPES:
            raise LoadError(f"{path} says that it holds {said!r}; expected one of {', '.join(DTYPES)}")
        return DTYPES[said]
    return DTYPES[next((NAMES[v.dtype] for v in model.graph.inputs if v.dtype in NAMES), "float32")]


def _fixed(model: ir.Model) -> int | None:
    for value in model.graph.inputs:
        first = value.shape[0] if value.shape is not None and value.shape.rank() else None
        if isinstance(first, int):
            return first
    return None


def open_runs(file: VerifiedFile, source: Source | OnnxModel, names: Sequence[str], budget: float) -> None:
    """Open the file in each runtime; ``file.runs`` says of each what ran, or why not.

    Args:
        file: the file.
        source: the model; what it was before its activations were adopted is run too.
        names: of the runtimes; PyTorch among them is passed over.
        budget: seconds after which the slow evaluator stops.
    """
    for name in (n for n in names if n != PYTORCH):
        kind = runtime_class(name)
        reason = kind.unavailable()
        if reason is not None:
            file.runs.append(Run(name, file.outputs, reason=reason))
            continue
        try:
            runtime = kind(file.path)
        except NotRunError as error:
            file.runs.append(Run(name, file.outputs, reason=str(error), applicable=error.applicable))
            continue
        runtime.seconds = budget if name == "reference" else None
        file.runs.append(Run(name, file.outputs, runtime=runtime, record=runtime.record))
    if source.original is not None:
        before = OriginalModules(source.original)
        file.runs.append(Run(ORIGINAL, file.outputs, runtime=before, record=before.record))


def close_runs(file: VerifiedFile) -> None:
    """Give back all runtimes."""
    for run in file.runs:
        if run.runtime is not None:
            run.runtime.close()
            run.runtime = None
