"""Findings in sentences: each names the file, the place and the runtime."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from opau_onnx.compare.isolated import IsolatedCheck
from opau_onnx.core.reports import Reported
from opau_onnx.graph.nodes import node_attributes
from opau_onnx.verify.activations import ActivationResult
from opau_onnx.verify.layers import Inside, Layer, Place
from opau_onnx.verify.runs import OutputErrors, Run
from opau_onnx.verify.weight_diff import Stored

NAMED = 4
"""So many operators are named in a sentence at most."""


@dataclass(frozen=True)
class Finding(Reported):
    """One fact.

    Attributes:
        kind: "coefficients", "configuration", "activation", "layer", "output", "labels", "weights" or "note".
        fails: whether it makes the file different; of the others, weights are suspects and notes are to be known.
        file: the file's name.
        where: the activation, layer, output or tensor.
        runtimes: none where it is true of the file whatever runs it.
        text: the sentence.
    """

    kind: str
    fails: bool
    file: str
    where: str
    runtimes: tuple[str, ...]
    text: str


def of_activation(file: str, found: ActivationResult) -> Iterator[Finding]:
    """Coefficients, configuration, and the activation alone."""
    where = found.site.node
    for stored in found.stored or ():
        if not stored.equal:
            yield Finding("coefficients", True, file, where, (), f"{where}: {_stored(f'the {stored.name}', stored)}")
    if not found.same_config:
        yield Finding("configuration", True, file, where, (), f"{where}: {_configuration(found)}")
    if failing := _failing(found.checks):
        worst = found.checks[failing[0]]
        assert worst.comparison is not None
        text = (
            f"{where} by itself gives {worst.comparison.actual:.9g} for x = {worst.input:.9g} in {' and '.join(failing)}, "
            f"PyTorch {worst.comparison.expected:.9g}: {worst.tolerance_used:.3g} times the tolerance"
        )
        yield Finding("activation", True, file, where, failing, text)
    if losing := tuple(name for name, a in found.checks.items() if a.nan_kept is False and a.nan_counts):
        text = f"{where} gives a number for NaN in {' and '.join(losing)}; PyTorch gives NaN"
        yield Finding("activation", True, file, where, losing, text)
    for runtime, checks in found.checks.items():
        if checks.comparison is None:
            text = f"{where} was not run isolated in {runtime}: {checks.reason}"
            yield Finding("note", False, file, where, (runtime,), text)
    if found.site.approximation is not None:
        yield Finding("note", False, file, where, (), f"{where} was {found.site.approximation}")
    if found.reason:
        yield Finding("note", False, file, where, (), f"{where}: {found.reason}")


def _failing(checks: Mapping[str, IsolatedCheck]) -> tuple[str, ...]:
    """Runtimes in which an activation differs, the worst first."""
    names = [name for name, a in checks.items() if a.comparison is not None and not a.comparison.equal]
    return tuple(sorted(names, key=lambda name: -checks[name].tolerance_used))


def of_nan(file: str, activations: Sequence[ActivationResult]) -> Iterator[Finding]:
    """Runtimes whose own arithmetic loses NaN, each once."""
    losing: dict[str, list[str]] = {}
    for found in activations:
        for runtime, checks in found.checks.items():
            if checks.nan_kept is False and not checks.nan_counts:
                losing.setdefault(runtime, []).append(found.site.node)
    for runtime, nodes in losing.items():
        text = f"{runtime} gives a number for NaN where PyTorch gives NaN, in {', '.join(nodes)}"
        yield Finding("note", False, file, nodes[0], (runtime,), text)


def _stored(name: str, stored: Stored) -> str:
    note = f" ({stored.note})" if stored.note else ""
    if math.isinf(stored.max_abs_error) and not stored.index:
        return f"{name} differs from the model's{note}"
    place = f"[{', '.join(map(str, stored.index))}]" if stored.index else ""
    return f"{name} differs from the model's{note}: {stored.name}{place} is {stored.file:.9g}, in the model {stored.model:.9g}"


def _configuration(found: ActivationResult) -> str:
    config, said = found.config, found.site.config
    if said is None or config is None:
        return f"its attributes cannot be read; the model has {config}"
    pairs = [(k, v, node_attributes(config)[k]) for k, v in node_attributes(said).items() if v != node_attributes(config)[k]]
    return "; ".join(f"its {name} is {file!r}, in the model {model!r}" for name, file, model in pairs)


def of_run(file: str, run: Run, least: float | None, reference: str) -> Iterator[Finding]:
    """The outputs and the labels in one runtime; ``reference`` names what they are compared with."""
    for output in run.outputs:
        if not output.equal and output.worst is not None:
            text = f"{output.name} in {run.name} {_worst(output, reference)}"
            yield Finding("output", True, file, output.name, (run.name,), text)
    if run.labels is not None and not run.agrees(least):
        first = run.labels.different[0]
        text = (
            f"{run.name} decides otherwise than {reference} for {run.labels.differing:,} of {run.labels.samples:,} samples "
            f"(agreement {run.labels.agreement:.6g}), first for {first.sample}: {first.runtime} instead of {first.expected}, "
            f"margin {first.expected_margin:.3g}"
        )
        yield Finding("labels", True, file, f"sample {first.sample}", (run.name,), text)


def _worst(output: OutputErrors, reference: str) -> str:
    worst = output.worst
    assert worst is not None
    if not worst.worst_index and math.isnan(worst.expected) and math.isinf(worst.tolerance_used):
        return worst.name.removeprefix(f"{output.name}, ")  # another shape
    at = f"sample {output.sample}, index {list(worst.worst_index[1:])}"
    at = at if output.sample is not None else f"{output.batch}, index {list(worst.worst_index)}"
    used = f"{worst.tolerance_used:.3g} times the tolerance"
    return f"is {worst.actual:.9g} at {at}; {reference} gives {worst.expected:.9g}: {used}"


def of_layers(file: str, inside: Inside, known: Collection[tuple[str, str]], *, fails: bool) -> Iterator[Finding]:
    """The first place beyond its tolerance in each runtime, and activations that err on PyTorch's own input.

    Args:
        file: its name.
        inside: what was seen.
        known: (activation, runtime) that differ by themselves on the grid already.
        fails: whether a place beyond its tolerance makes the file different.
    """
    beyond: dict[str, tuple[str, list[str]]] = {}
    for runtime in dict.fromkeys(name for place in inside.places for name in place.runtimes):
        found = inside.first_beyond(runtime)
        if found is not None:
            where, text = _beyond(*found, matched=any(layer.places for layer in inside.activations))
            error = found[1].runtimes[runtime]
            size = f"{error.max_abs_error:.3g}, {error.tolerance_used:.3g} times what rounding explains"
            beyond.setdefault(text, (where, []))[1].append(f"{runtime} ({size})")
    for text, (where, parts) in beyond.items():
        runtimes = tuple(part.partition(" ")[0] for part in parts)
        sentence = f"the error first grows beyond its tolerance {text}: {', '.join(parts)}"
        yield Finding("layer", fails, file, where, runtimes, sentence)
    for layer in inside.activations:
        failing = tuple(name for name in _failing(layer.checks) if (layer.node, name) not in known)
        if failing:
            worst = layer.checks[failing[0]]
            error_text = f"{worst.comparison.max_abs_error:.3g}" if worst.comparison else ""
            text = (
                f"{layer.node}, fed with PyTorch's own input, errs by {error_text} in {' and '.join(failing)}: "
                f"{worst.tolerance_used:.3g} times the tolerance"
            )
            yield Finding("activation", True, file, layer.node, failing, text)
    for runtime, reason in inside.not_run.items():
        yield Finding("note", False, file, "", (runtime,), f"{runtime} could not be looked into: {reason}")


def _beyond(layer: Layer | None, place: Place, *, matched: bool) -> tuple[str, str]:
    """(where, in words)."""
    within = f", in {_shortly(place.between)}" if place.between else ""
    if layer is None:
        return place.name, ("after the last activation" if matched else "somewhere, as no names inside match") + within
    if place.what == "input":
        return layer.node, f"before {layer.node}{within}"
    return layer.node, f"in {layer.node} itself"


def _shortly(nodes: list[str]) -> str:
    """Those with constants first, in the order of the graph."""
    likely = [name for name in nodes if name.endswith(")")] or nodes
    shown = likely[-NAMED:]
    more = len(nodes) - len(shown)
    return "; ".join(shown) + (f" or {more} more operator{'s' if more > 1 else ''}" if more else "")


def of_weights(file: str, weights: list[Stored]) -> Iterator[Finding]:
    """Tensors that differ: suspects, where the file is different."""
    for stored in weights:
        if not stored.equal:
            yield Finding("weights", False, file, stored.name, (), f"suspect: {_stored(stored.name, stored)}")
