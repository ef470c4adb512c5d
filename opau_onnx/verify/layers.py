"""Layer by layer: what each activation takes and gives in a runtime, against what it takes and gives in PyTorch.

The tolerance is measured at each place as it is for the model's outputs: by PyTorch's own rounding error there, and by how far
the values move when weights and inputs are nudged. Where an error is larger, something between the place before and this one
is not what PyTorch has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from opau_onnx.compare.grids import LARGEST
from opau_onnx.compare.hooks import Key, WithActivations
from opau_onnx.compare.isolated import Function, IsolatedCheck, Opener, check_isolated
from opau_onnx.compare.loop import compare_output
from opau_onnx.compare.policies import largest
from opau_onnx.compare.references import Expected
from opau_onnx.compare.tensors import Comparison
from opau_onnx.compare.torch_reference import TorchReference
from opau_onnx.config import ToleranceConfig
from opau_onnx.core.reports import Reported
from opau_onnx.errors import ValidationError
from opau_onnx.graph.lookup import ActivationLocation
from opau_onnx.graph.save import add_outputs
from opau_onnx.nn.casting import cast_inputs

ROOM = 2**21
"""So many values are looked at in one run at most, as long as the batch can be cut."""
LISTED = 12
"""So many operators are named between two places at most."""
Matched = Sequence[tuple[ActivationLocation, Key | None, str]]


@dataclass
class Place(Reported):
    """A tensor inside, on the batch where its error uses most of the tolerance.

    Attributes:
        what: "input" or "output" of an activation, or "result" of the model.
        name: of the value in the file.
        torch_rounding: PyTorch's own error there, its float32 against its float64 result.
        largest_value: the largest value there.
        between: the operators from the place before to this one, with their constants.
        runtimes: the comparison by runtime.
    """

    what: str
    name: str
    torch_rounding: float = 0.0
    largest_value: float = 0.0
    between: list[str] = field(default_factory=list)
    runtimes: dict[str, Comparison] = field(default_factory=dict)

    def add(self, runtime: str, expected: Expected, values: Any, kind: str, options: ToleranceConfig) -> None:
        """Compare a batch; the worse of this and those before is kept."""
        self.torch_rounding = max(expected.rounding, self.torch_rounding)  # NaN stays
        self.largest_value = max(self.largest_value, largest(np.abs(expected.values)))
        values = np.asarray(values, dtype=np.float64)
        new = compare_output(self.name, expected, values, kind, options)
        old = self.runtimes.get(runtime)
        if old is None or new.tolerance_used > old.tolerance_used:
            self.runtimes[runtime] = new


@dataclass
class Layer(Reported):
    """One activation.

    Attributes:
        node, module: its names.
        reason: what cannot be looked at, and why.
        places: its input and output, as far as the file holds them.
        checks: by runtime, fed with PyTorch's own input.
    """

    derived = ("growth",)

    node: str
    module: str
    reason: str
    places: list[Place] = field(default_factory=list)
    checks: dict[str, IsolatedCheck] = field(default_factory=dict)

    @property
    def growth(self) -> dict[str, float | None]:
        """By runtime, the error of its output over that of its input; None where one is not known or is 0."""
        found = {}
        for runtime in dict.fromkeys(r for p in self.places for r in p.runtimes):
            errors = [p.runtimes[runtime].max_abs_error for p in self.places if runtime in p.runtimes]
            found[runtime] = errors[1] / errors[0] if len(errors) == 2 and errors[0] > 0 else None
        return found


@dataclass(frozen=True)
class Inside(Reported):
    """Layer-wise comparison of one file.

    Attributes:
        activations: in the order of the graph.
        results: the model's outputs on the same batches.
        not_run: runtimes that could not be looked into, and why.
    """

    activations: list[Layer]
    results: list[Place]
    not_run: dict[str, str]

    @property
    def places(self) -> list[Place]:
        """All of them, in order."""
        return [place for layer in self.activations for place in layer.places] + self.results

    def first_beyond(self, runtime: str) -> tuple[Layer | None, Place] | None:
        """The first place whose error is beyond its tolerance, and the activation that it belongs to."""
        every = [(layer, place) for layer in self.activations for place in layer.places]
        for layer, place in (*every, *((None, place) for place in self.results)):
            if runtime in place.runtimes and not place.runtimes[runtime].equal:
                return layer, place
        return None


@dataclass(frozen=True)
class Subject:
    """Inputs of a layer-wise comparison.

    Attributes:
        source: the PyTorch model.
        path, model: the file and its contents.
        matched: its activations and the calls in PyTorch.
        functions: what each call has to compute.
        dtype: the file's.
        openers: makers of each runtime.
        options: seed of the nudges.
        cut: whether a batch may be shortened.
        loose: as :func:`opau_onnx.compare.isolated.check_isolated` takes it.
    """

    source: nn.Module
    path: Path
    model: ir.Model
    matched: Matched
    functions: Mapping[Key, Function]
    dtype: torch.dtype
    openers: Mapping[str, Opener]
    options: ToleranceConfig
    cut: bool
    loose: bool


def look_inside(subject: Subject, batches: Iterable[Sequence[Tensor]]) -> Inside:
    """Compare all that names can match, on each of the batches.

    Raises:
        ValidationError: nothing can be looked at: see :func:`opau_onnx.graph.save.add_outputs`.
    """
    model = ir.load(subject.path)
    layers = {site.node: Layer(site.node, site.module, reason or site.reason) for site, _, reason in subject.matched}
    results = [Place("result", str(v.name)) for v in model.graph.outputs]
    places, values, keys = _places(subject.matched, model, layers)
    _between(model, [*zip(values, places, strict=True), *zip(model.graph.outputs, results, strict=True)])
    tapped = add_outputs(model, values)
    reference = TorchReference(WithActivations(subject.source), subject.dtype, subject.options.seed)
    not_run: dict[str, str] = {}
    for batch in batches:
        inputs = _shortened(reference, cast_inputs(batch, subject.dtype), subject.cut)
        expected = reference.expect(inputs)
        inner = _by_key(reference, expected[len(results) :])
        wanted = [*expected[: len(results)], *(inner[key] for key in keys)]
        for name, opener in subject.openers.items():
            try:
                found = _run(opener, tapped, inputs)
            except ValidationError as error:
                not_run[name] = str(error)
                continue
            for place, want, got in zip((*results, *places), wanted, found, strict=True):
                place.add(name, want, got, reference.kind, ToleranceConfig(seed=subject.options.seed))
        _isolate(subject, layers, inner)
    return Inside(list(layers.values()), results, not_run)


def _places(
    matched: Matched, model: ir.Model, layers: dict[str, Layer]
) -> tuple[list[Place], list[ir.Value], list[tuple[Key, str]]]:
    """All that can be looked at, in the order of the graph: the place, the value, and what it is in PyTorch."""
    every = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    places: list[Place] = []
    values: list[ir.Value] = []
    keys: list[tuple[Key, str]] = []
    for site, key, _ in matched:
        for what, value in (("input", site.x), ("output", site.y)):
            if key is not None and value is not None:
                places.append(Place(what, str(value.name)))
                values.append(every[str(value.name)])
                keys.append((key, what))
                layers[site.node].places.append(places[-1])
    return places, values, keys


def _shortened(reference: TorchReference, inputs: tuple[Tensor, ...], cut: bool) -> tuple[Tensor, ...]:
    """As many rows as there is room for, which one row tells."""
    rows = next((int(x.shape[0]) for x in inputs if x.dim()), 0)
    if not cut or rows < 2:
        return inputs
    one = reference.expect(tuple(x[:1] for x in inputs))
    room = max(ROOM // max(sum(int(np.size(e.values)) for e in one), 1), 1)
    return tuple(x[:room] for x in inputs)


def _by_key(reference: TorchReference, taps: Sequence[Expected]) -> dict[tuple[Key, str], Expected]:
    single = reference.single
    assert isinstance(single, WithActivations)
    keys = [(key, what) for key in single.keys for what in ("input", "output")]
    return dict(zip(keys, taps, strict=True))


def _run(opener: Opener, tapped: bytes, inputs: Sequence[Tensor]) -> list[Any]:
    runtime = opener(tapped)
    try:
        return list(runtime.run(inputs))
    finally:
        runtime.close()


def _isolate(subject: Subject, layers: dict[str, Layer], inner: dict[tuple[Key, str], Expected]) -> None:
    """Feed each activation with what PyTorch's gets."""
    for site, key, _ in subject.matched:
        if key is None or site.x is None or site.y is None:
            continue
        values = np.asarray(inner[key, "input"].values)
        if values.ndim > 1:
            values = values[: max(LARGEST // max(values[:1].size, 1), 1)]
        function = subject.functions[key]
        layer, x = layers[site.node], torch.from_numpy(values).to(function.dtype)
        for name, new in check_isolated(
            site.node, function, subject.model, site, x, subject.openers, loose=subject.loose
        ).items():
            old = layer.checks.get(name)
            if (
                old is None
                or old.comparison is None
                or (new.comparison is not None and new.tolerance_used > old.tolerance_used)
            ):
                layer.checks[name] = replace(new, values=None)


def _between(model: ir.Model, places: Sequence[tuple[ir.Value, Place]]) -> None:
    """Name the operators that lead to each place from those before it."""
    known = {value for value, _ in places}
    made = {value for value, place in places if place.what == "output"}
    for value, place in places:
        if value in made:
            continue
        nodes: list[ir.Node] = []
        pending = [value]
        while pending:
            node = pending.pop().producer()
            if node is not None and node not in nodes:
                nodes.append(node)
                pending += [v for v in node.inputs if v is not None and v not in known]
        place.between = [_named(node) for node in reversed(nodes[:LISTED])]


def _named(node: ir.Node) -> str:
    constants = [str(v.name) for v in node.inputs if v is not None and v.is_initializer()]
    return f"{node.op_type} {node.name}" + (f" ({', '.join(constants)})" if constants else "")
