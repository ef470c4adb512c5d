"""Plot data of a model: each learned activation, what it started from, and the inputs that it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opau_onnx.compare.batches import Batch, of_samples
from opau_onnx.compare.hooks import Call, activation_hooks
from opau_onnx.compare.sketches import SAMPLE, InputSketch
from opau_onnx.core import oracle
from opau_onnx.core.fitting import Fit
from opau_onnx.core.spec import Config
from opau_onnx.errors import ValidationError
from opau_onnx.io.samples import Samples, read_samples
from opau_onnx.io.source import Source
from opau_onnx.nn import OrthogonalPade
from opau_onnx.nn.casting import cast_inputs, input_names, model_dtype

Array = npt.NDArray[np.float64]
BATCH = 256
"""Samples in one run."""
RANDOM = ("state_dict", "pickled module")
"""Kinds of sources whose example inputs are made up: they tell nothing of real ones."""


@dataclass
class Subject:
    """One activation.

    Attributes:
        name: of its module, or of its node where that names none.
        config: what it computes.
        numerator, denominator: coefficients, shapes as ``config`` allows.
        start: the fit that it was initialised with; None where that is not known.
        target: name of what that fit imitates; "" where it is not known.
        note: what else is to be known.
        inputs: what it gets; None where nothing ran.
    """

    name: str
    config: Config
    numerator: Array
    denominator: Array
    start: Fit | None = None
    target: str = ""
    note: str = ""
    inputs: InputSketch | None = None

    @property
    def single(self) -> Config:
        """The configuration of one group."""
        return replace(self.config, groups=1, axis=1)

    def row(self, group: int) -> tuple[Array, Array]:
        """Coefficients of one group."""
        c, d = (v[group] if v.ndim == 2 else v for v in (self.numerator, self.denominator))
        return c, d

    def value(self, x: Array, group: int) -> Array:
        """f(x), exactly."""
        return oracle.evaluate(self.single, x, *self.row(group)).value

    def start_value(self, x: Array) -> Array | None:
        """Coefficients before training."""
        if self.start is None:
            return None
        return oracle.evaluate(self.single, x, self.start.numerator, self.start.denominator).value

    def slope(self, x: Array, group: int) -> Array:
        """f'(x), by the module's own backward pass in float64."""
        c, d = (torch.from_numpy(np.array(v)) for v in self.row(group))
        at = torch.from_numpy(np.array(x)).requires_grad_()
        OrthogonalPade.from_coefficients(c, d, self.single)(at).sum().backward()
        assert at.grad is not None
        return at.grad.numpy()


@dataclass(frozen=True)
class Subjects:
    """All activations of a model.

    Attributes:
        found: in the order of the model.
        inputs: what they were fed with, in words; "" where nothing ran.
        notes: what is left out, and why.
    """

    found: list[Subject]
    inputs: str
    notes: tuple[str, ...]


def of_source(source: Source, data: Samples | str | Path | None, samples: int) -> Subjects:
    """The activations of a PyTorch model.

    Raises:
        ValidationError: it has none, or cannot run on the data.
        LoadError: the data cannot be read.
    """
    notes = []
    if data is not None:
        chosen = read_data(data, input_names(source.model, len(source.inputs)), samples)
        parts, said = batches(chosen, None), f"{len(chosen):,} samples of {chosen.source}"
    elif source.kind in RANDOM:
        parts, said = [], ""
        notes.append(f"the range of real inputs is not known: a {source.kind} brings none, give --data")
    else:
        rows = next((x.shape[0] for x in source.inputs if x.dim()), 1)
        parts, said = [Batch("example", None, source.inputs)], f"the example input ({rows:,} rows)"
    calls, sketches = _watch(source, parts or [Batch("example", None, source.inputs)], keep=bool(parts))
    found = _modules(source, calls)
    if not found:
        raise ValidationError(f"{source.name} holds no learned activation (OrthogonalPade); there is nothing to draw")
    for subject in found:
        subject.inputs = sketches.get(subject.name)
        if parts and subject.inputs is None:
            subject.note = "never called with these inputs"
    if not all(s.start for s in found):
        notes.append("the start of some is not known: the model holds what was learned only")
    return Subjects(found, said, tuple(notes))


def _modules(source: Source, calls: dict[str, Call]) -> list[Subject]:
    if isinstance(source.model, torch.fx.GraphModule):
        return [Subject(name, c.config, _wide(c.numerator), _wide(c.denominator)) for name, c in calls.items()]
    named = [(name, m) for name, m in source.model.named_modules() if isinstance(m, OrthogonalPade)]
    return [_of_module(name or type(m).__name__, m) for name, m in named]


def _of_module(name: str, module: OrthogonalPade) -> Subject:
    start, target = getattr(module, "fit", None), getattr(module, "target", "")  # modules pickled long ago lack them
    return Subject(name, module.config, _wide(module.numerator), _wide(module.denominator), start, target)


def _wide(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


def read_data(data: Samples | str | Path, names: Sequence[str], samples: int) -> Samples:
    """The first samples of the data, for a model with inputs of these names."""
    found = data if isinstance(data, Samples) else read_samples(data, names)
    if len(found.inputs) != len(names):
        raise ValidationError(f"{found.source} has {len(found.inputs)} inputs, the model {len(names)}")
    return found.first(samples)


def batches(samples: Samples, fixed: int | None) -> Sequence[Batch]:
    """The samples in runs of a size that suits, or that a file fixes."""
    return of_samples(samples, {}, BATCH, fixed).parts


def _watch(source: Source, parts: Sequence[Batch], *, keep: bool) -> tuple[dict[str, Call], dict[str, InputSketch]]:
    """Run the model: the last call of each module, and what all its calls got."""
    calls: dict[str, Call] = {}
    sketches: dict[str, InputSketch] = {}
    add = sketcher(sketches, len(parts))

    def nameless(call: Call) -> str:
        """The model itself, or a call in a program that was exported without names."""
        kind = type(source.model).__name__
        return f"call {call.key[1]}" if isinstance(source.model, torch.fx.GraphModule) else kind

    def sink(call: Call) -> None:
        name = call.key[0] or nameless(call)
        calls[name] = call
        if keep:
            add(name, call.x.double().numpy())

    dtype = model_dtype(source.model)
    try:
        with torch.no_grad(), activation_hooks(source.model, sink):
            for part in parts:
                source.model(*cast_inputs(part.inputs, dtype))
    except Exception as error:  # the model's own code
        shapes = ", ".join(str(tuple(x.shape)) for x in parts[0].inputs)
        raise ValidationError(f"{source.name} cannot run on inputs of shape {shapes}: {error}") from None
    return calls, sketches


def sketcher(sketches: dict[str, InputSketch], batches: int) -> Callable[[str, Any], None]:
    """Function that adds the inputs of one call to the sketch of that name."""
    rng, room = np.random.default_rng(0), max(SAMPLE // max(batches, 1), 100)
    return lambda name, values: sketches.setdefault(name, InputSketch()).add(values, room, rng)
