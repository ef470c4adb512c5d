"""Each activation of a file: its stored numbers, its configuration, itself alone in every runtime, and what is drawn of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from opau_onnx.compare import curves, isolated
from opau_onnx.compare.hooks import Call, Key, activation_hooks
from opau_onnx.compare.isolated import Function, IsolatedCheck, Opener
from opau_onnx.compare.runtimes import runtime_class
from opau_onnx.compare.sketches import InputSketch
from opau_onnx.core.spec import Config
from opau_onnx.errors import ValidationError
from opau_onnx.graph.lookup import ActivationLocation
from opau_onnx.graph.nodes import node_attributes
from opau_onnx.io.source import Source
from opau_onnx.nn.casting import model_dtype, tensors_by_name
from opau_onnx.verify import weight_diff
from opau_onnx.verify.files import VerifiedFile
from opau_onnx.verify.weight_diff import Stored


@dataclass
class ActivationResult:
    """Verification of one activation.

    Attributes:
        site: where it is in the file.
        key: the call in PyTorch that it stands for; None where the names tell of none.
        reason: what could not be compared, and why.
        function: what PyTorch computes.
        stored: the coefficients; None where the file does not hold them as such.
        checks: by runtime.
        inputs: what it really gets.
        curve: what is drawn; None where nothing could be.
    """

    site: ActivationLocation
    key: Key | None
    reason: str
    function: Function | None = None
    stored: list[Stored] | None = None
    checks: dict[str, IsolatedCheck] = field(default_factory=dict)
    inputs: InputSketch | None = None
    curve: dict[str, Any] | None = None

    @property
    def config(self) -> Config | None:
        """Configuration of the module, else that in the file."""
        return self.function.config if self.function is not None else self.site.config

    @property
    def same_config(self) -> bool:
        """True where the file's attributes are those of the module; those of fixed ones were reduced and say less."""
        known = self.site.kind == "learned" and self.function is not None
        return not known or self.site.config == self.config

    @property
    def judged(self) -> bool:
        """True where anything could be compared; else ``reason`` holds the reason."""
        return bool(self.stored) or any(a.comparison for a in self.checks.values())

    @property
    def equal(self) -> bool:
        """The verdict; True where nothing could be compared."""
        stored = all(s.equal for s in self.stored or ())
        return stored and self.same_config and all(a.equal for a in self.checks.values())

    def as_dict(self) -> dict[str, Any]:
        """Content of which :func:`opau_onnx.core.reports.plain` makes JSON."""
        function = self.function
        return {
            "node": self.site.node,
            "module": self.site.module,
            "kind": self.site.kind,
            "matched": self.key is not None,
            "reason": self.reason,
            "equal": self.equal if self.judged else None,
            "approximation": self.site.approximation,
            "config": _config(self.config),
            "config_in_file": _config(self.site.config),
            "coefficients": None if function is None else {
                "numerator": function.numerator.double().tolist(), "denominator": function.denominator.double().tolist(),
            },
            "stored": self.stored,
            "checks": self.checks,
            "inputs": self.inputs,
            "curve": self.curve,
        }  # fmt: skip


def _config(config: Config | None) -> dict[str, Any] | None:
    return None if config is None else node_attributes(config) | {"denominator": config.denominator_form.formula}


def calls_of(source: Source) -> dict[Key, Call]:
    """Each call of an activation in the model, on its example inputs, with the coefficients in their own precision."""
    found: dict[Key, Call] = {}

    def keep(call: Call) -> None:
        found[call.key] = call

    dtype = model_dtype(source.model)
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in source.inputs]
    with torch.no_grad(), activation_hooks(source.model, keep):
        source.model(*inputs)
    return found


def openers(file: VerifiedFile) -> dict[str, Opener]:
    """Makers of the runtimes that ran the file, for parts of it."""
    return {run.name: _opener(runtime_class(run.name)) for run in file.ran}


def _opener(kind: type[Any]) -> Opener:
    return lambda part: kind(part, part=True)


def check_activations(
    file: VerifiedFile, calls: Mapping[Key, Call], sketches: Mapping[Key, InputSketch], *, loose: bool
) -> list[ActivationResult]:
    """Check each activation that names can match.

    Args:
        file: which has been run.
        calls: of the PyTorch model.
        sketches: of what each activation gets.
        loose: one that was approximated on purpose may differ by as much as the file says.
    """
    return [_check(file, site, key, why or site.reason, calls, sketches, loose) for site, key, why in file.matched]


def _check(
    file: VerifiedFile, site: ActivationLocation, key: Key | None, reason: str, calls: Mapping[Key, Call],
    sketches: Mapping[Key, InputSketch], loose: bool,
) -> ActivationResult:  # fmt: skip
    if key is None or key not in calls:
        text = reason or f"PyTorch calls the module {site.module!r} less often than the file"
        return ActivationResult(site, None, text)
    function, sketch = Function.of(calls[key], file.kind), sketches.get(key)
    found = ActivationResult(site, key, reason, function, weight_diff.coefficients(file.model, site, function), inputs=sketch)
    if site.x is None or site.y is None:
        return found
    shape = tuple(calls[key].x.shape)
    try:
        points = curves.points(sketch, isolated.channels(function, shape))
        x = isolated.inputs(function, shape, points)
    except ValidationError as error:
        found.reason = str(error)
        return found
    checks = isolated.check_isolated(site.node, function, file.model, site, x, openers(file), loose=loose)
    found.curve = curves.drawn(function, points.numel(), x, checks)
    found.checks = {name: replace(a, values=None) for name, a in checks.items()}
    return found


def check_weights(file: VerifiedFile, source: Source) -> list[Stored]:
    """The file's tensors that bear a name of the model's, but for the activations' coefficients."""
    ours = [v for site, _, _ in file.matched for v in site.coefficients]
    return weight_diff.weights(file.model, tensors_by_name(source.model), ours)
