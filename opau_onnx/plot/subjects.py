"""What is drawn of a model: each learned activation, what it started from, and the inputs that it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from opau_onnx import oracle
from opau_onnx.collapse.frozen import freeze
from opau_onnx.errors import CollapseError, LoadError, SpecError, ValidationError
from opau_onnx.export.function import read_config
from opau_onnx.export.graph import MODULE
from opau_onnx.export.program import cast_inputs, input_names, model_dtype
from opau_onnx.nn import OrthogonalPade
from opau_onnx.nn.fitting import Fit
from opau_onnx.parity.runtimes import Runtime, open_model
from opau_onnx.reading import Source
from opau_onnx.samples import Samples, read_samples
from opau_onnx.spec import DOMAIN, FIXED_OP_TYPE, OP_TYPES, Config
from opau_onnx.verify.batches import Batch, of_samples
from opau_onnx.verify.inputs import SAMPLE, InputSketch
from opau_onnx.verify.sites import collapsed_form, find_sites
from opau_onnx.verify.taps import Call, add_outputs, watching

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
        """What it was before training."""
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
        chosen = _read(data, input_names(source.model, len(source.inputs)), samples)
        parts, said = _batches(chosen, None), f"{len(chosen):,} samples of {chosen.source}"
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


def _read(data: Samples | str | Path, names: Sequence[str], samples: int) -> Samples:
    found = data if isinstance(data, Samples) else read_samples(data, names)
    if len(found.inputs) != len(names):
        raise ValidationError(f"{found.source} has {len(found.inputs)} inputs, the model {len(names)}")
    return found.first(samples)


def _batches(samples: Samples, fixed: int | None) -> Sequence[Batch]:
    return of_samples(samples, {}, BATCH, fixed).parts


def _watch(source: Source, parts: Sequence[Batch], *, keep: bool) -> tuple[dict[str, Call], dict[str, InputSketch]]:
    """Run the model: the last call of each module, and what all its calls got."""
    calls: dict[str, Call] = {}
    sketches: dict[str, InputSketch] = {}
    add = _sketcher(sketches, len(parts))

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
        with torch.no_grad(), watching(source.model, sink):
            for part in parts:
                source.model(*cast_inputs(part.inputs, dtype))
    except Exception as error:  # the model's own code
        shapes = ", ".join(str(tuple(x.shape)) for x in parts[0].inputs)
        raise ValidationError(f"{source.name} cannot run on inputs of shape {shapes}: {error}") from None
    return calls, sketches


def _sketcher(sketches: dict[str, InputSketch], batches: int) -> Callable[[str, Any], None]:
    rng, room = np.random.default_rng(0), max(SAMPLE // max(batches, 1), 100)
    return lambda name, values: sketches.setdefault(name, InputSketch()).add(values, room, rng)


def of_file(path: Path, data: Samples | str | Path | None, samples: int) -> Subjects:
    """The activations of an ONNX file, learned and fused ones.

    Raises:
        LoadError: the file or the data cannot be read.
        ValidationError: it has none, or cannot run on the data.
    """
    if not path.is_file():
        raise LoadError(f"{path} does not exist; expected a model")
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf's own types
        raise LoadError(f"{path} is not a readable ONNX file: {type(error).__name__}: {error}") from None
    nodes = [n for n in model.graph.all_nodes() if n.domain == DOMAIN and n.op_type in OP_TYPES]
    if not nodes:
        raise ValidationError(_nothing(path, model))
    found = [_of_node(path, node) for node in nodes]
    _distinguish(found, nodes)
    notes = ["the start is not known: an ONNX file holds what was learned only"]
    if data is None:
        notes.append("the range of real inputs is not known: an ONNX file brings none, give --data")
        return Subjects(found, "", tuple(notes))
    chosen = _read(data, [str(v.name) for v in model.graph.inputs], samples)
    _feed(model, nodes, found, _batches(chosen, _fixed(model)))
    return Subjects(found, f"{len(chosen):,} samples of {chosen.source}", tuple(notes))


def _nothing(path: Path, model: ir.Model) -> str:
    text = f"{path} holds no learned activation (OrthogonalPade or FixedOrthogonalPade)"
    form, sites = collapsed_form(model), find_sites(model)
    if form is None:
        return f"{text}; there is nothing to draw"
    return f"{text}: opau-collapse turned {len(sites)} into operators ({form} form). Draw the file that it was made from"


def _of_node(path: Path, node: ir.Node) -> Subject:
    name = node.metadata_props.get(MODULE, "") or str(node.name)
    try:
        if node.op_type == FIXED_OP_TYPE:
            values = [_attribute(node, key) for key in ("numerator", "denominator")]
            config = read_config(node)
            config.check_coefficients(values[0].shape, values[1].shape)
            note = "of scale · x + shift, absorbed into the node" if "scale" in node.attributes else ""
            return Subject(name, config, values[0], values[1], note=note)
        frozen = freeze(node)
    except CollapseError:
        raise ValidationError(
            f"the coefficients of {node.name} are computed at run time, or are no numbers that the definition allows; "
            f"{path} cannot be drawn"
        ) from None
    except (SpecError, KeyError, TypeError, ValueError) as error:
        raise ValidationError(f"{node.name} in {path} is not as the definition has it: {error}") from None
    return Subject(name, frozen.config, frozen.numerator, frozen.denominator)


def _attribute(node: ir.Node, name: str) -> Array:
    found = node.attributes.get(name)
    return np.zeros(0) if found is None else np.array(found.as_tensor().numpy(), dtype=np.float64)


def _distinguish(found: Sequence[Subject], nodes: Iterable[ir.Node]) -> None:
    """One module may stand at several nodes: then these are named too."""
    names = [s.name for s in found]
    for subject, node in zip(found, nodes, strict=True):
        if names.count(subject.name) > 1:
            subject.name = f"{subject.name} ({node.name})"


def _fixed(model: ir.Model) -> int | None:
    sizes = [v.shape[0] for v in model.graph.inputs if v.shape is not None and v.shape.rank()]
    return next((s for s in sizes if isinstance(s, int)), None)


def _feed(model: ir.Model, nodes: Sequence[ir.Node], found: Sequence[Subject], parts: Sequence[Batch]) -> None:
    """Run the file and keep what its activations get; those in branches and loops get no range."""
    dtypes = [v.dtype.numpy() if v.dtype is not None else None for v in model.graph.inputs]
    seen = [(n, s) for n, s in zip(nodes, found, strict=True) if n.graph is model.graph and n.inputs[0] is not None]
    for _, subject in (pair for pair in zip(nodes, found, strict=True) if pair not in seen):
        subject.note = "in a branch or loop, where its inputs cannot be looked at"
    outputs = len(model.graph.outputs)
    add_outputs(model, [n.inputs[0] for n, _ in seen if n.inputs[0] is not None])
    sketches: dict[str, InputSketch] = {}
    add = _sketcher(sketches, len(parts))
    runtime: Runtime | None = None
    for part in parts:
        inputs = [_cast(x, dtype) for x, dtype in zip(part.inputs, dtypes, strict=True)]
        runtime = runtime or open_model(model, inputs)
        for (node, subject), values in zip(seen, runtime.run(inputs)[outputs:], strict=True):
            add(subject.name, _argument(node, subject.config, np.asarray(values, dtype=np.float64)))
    for subject in found:
        subject.inputs = sketches.get(subject.name)


def _cast(x: Tensor, dtype: Any) -> Tensor:
    kind = getattr(torch, getattr(dtype, "name", ""), None)
    return x.to(kind) if isinstance(kind, torch.dtype) and kind.is_floating_point and x.is_floating_point() else x


def _argument(node: ir.Node, config: Config, x: Array) -> Array:
    """What the function itself gets: a fused node applies its affine first."""
    if "scale" not in node.attributes:
        return x
    scale, shift = (_attribute(node, name) for name in ("scale", "shift"))
    if config.groups > 1:
        axis = config.check_input(x.shape)
        shape = (-1, *(1,) * (x.ndim - axis - 1))
        scale, shift = (np.repeat(v, x.shape[axis] // config.groups).reshape(shape) for v in (scale, shift))
    return x * scale + shift
