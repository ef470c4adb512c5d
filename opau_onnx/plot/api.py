"""``plot_model``: the learned activations of a model as a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opau_onnx.errors import ValidationError
from opau_onnx.io.atomic import replacing

if TYPE_CHECKING:
    from torch import nn

    from opau_onnx.io.samples import Samples
    from opau_onnx.io.source import Source
    from opau_onnx.plot.subjects import Subjects

KINDS = ("png", "svg")
MOST = 64
"""So many activations are drawn on one sheet at most."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class PlotResult:
    """Result of :func:`plot_model`.

    Attributes:
        path: the picture.
        drawn: names of the activations on it.
        left_out: how many found no room.
        inputs: what the activations were fed with, in words; "" where nothing ran.
        notes: what is not drawn, and why.
    """

    path: Path
    drawn: tuple[str, ...]
    left_out: int
    inputs: str
    notes: tuple[str, ...]


def plot_model(
    model: nn.Module | Source | str | Path,
    output: str | Path,
    inputs: Any = None,
    *,
    data: Samples | str | Path | None = None,
    samples: int = 1000,
    layers: str | None = None,
    progress: Progress = lambda step: None,
) -> PlotResult:
    """Draw all learned activations of a model on one sheet.

    Each with its curve, its derivative, what it was fitted to before training (where the model knows that) and the inputs that
    it really gets.

    Args:
        model: a module in evaluation mode, a file that :func:`opau_onnx.load` reads without further arguments, its result, or
            an .onnx file.
        output: the picture to write, .png or .svg.
        inputs: example inputs of a module; files bring their own.
        data: real inputs, see :func:`opau_onnx.io.samples.read_samples`. Default: the example input, where there is one.
        samples: how many of them are taken, the first ones.
        layers: a shell pattern; only activations whose name it matches are drawn.
        progress: called with a short text before each step.

    Raises:
        LoadError, ExportError: the model or the data cannot be read.
        ValidationError: there is no activation, the model cannot run on the data, or matplotlib is not installed.
    """
    path = Path(output)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise ValidationError(f"{path} is neither a .png nor an .svg file, which are what can be drawn")
    if not path.parent.is_dir():
        raise ValidationError(f"cannot write {path}: the folder {path.parent} does not exist")
    if samples < 1:
        raise ValidationError(f"samples is {samples}; expected at least 1")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValidationError("matplotlib, which draws, is not installed: pip install 'opau-onnx[plot]'")
    progress("loading PyTorch")
    from opau_onnx.plot import sheet

    name, found = _subjects(model, inputs, data, samples, progress)
    found = _matching(found, layers)
    left_out = len(found.found) - MOST
    if left_out > 0:
        note = f"the first {MOST} of {len(found.found)} activations; draw others with --layers"
        found = replace(found, found=found.found[:MOST], notes=(note, *found.notes))
    progress("drawing")
    with replacing(path) as temporary:
        sheet.draw(f"Learned activations of {name}", found, temporary, kind)
    return PlotResult(path, tuple(s.name for s in found.found), max(left_out, 0), found.inputs, found.notes)


def _subjects(
    model: Any, inputs: Any, data: Samples | str | Path | None, samples: int, progress: Progress
) -> tuple[str, Subjects]:
    from opau_onnx.io.source import as_source
    from opau_onnx.plot import onnx_files, subjects

    if isinstance(model, (str, Path)) and Path(model).suffix.lower() == ".onnx":
        progress(f"reading {model}")
        return Path(model).name, onnx_files.of_file(Path(model), data, samples)
    source = as_source(model, inputs)
    progress("running the model")
    return source.name, subjects.of_source(source, data, samples)


def _matching(found: Subjects, layers: str | None) -> Subjects:
    if layers is None:
        return found
    chosen = [s for s in found.found if fnmatchcase(s.name, layers)]
    if not chosen:
        names = ", ".join(s.name for s in found.found[:20])
        raise ValidationError(f"no activation's name matches {layers!r}; the model has {names}")
    return replace(found, found=chosen)
