"""Result of :func:`opau_onnx.inspect_model`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opau_onnx._version import __version__
from opau_onnx.core.reports import plain
from opau_onnx.core.spec import Config

SCHEMA = "opau-inspect/1"
Extent = tuple[float, float]
KERNEL, FUNCTION, STANDARD = "kernel", "function body", "standard operators"
"""Ways to run an activation: the compiled library, the file's function, operators of ONNX's default domain or PyTorch's."""


@dataclass(frozen=True)
class InspectedActivation:
    """One activation.

    Attributes:
        name: of its module, or of its node where the file names no module.
        kind: "learned"; "fused" (fixed coefficients, one node); "operators" (standard ones, made by opau-collapse).
        config: what it computes; None where the file does not say.
        dtype: of the coefficients, e.g. "float32"; "" where the file holds none.
        numerator, denominator: smallest and largest coefficient; None where the file holds no constant ones.
        runs: "kernel", "function body" or "standard operators": what would run it here; "" where nothing can.
        notes: what else is to be known: why nothing runs it, what it holds besides, numbers that are not finite.
    """

    name: str
    kind: str
    config: Config | None
    dtype: str
    numerator: Extent | None
    denominator: Extent | None
    runs: str
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        config = self.config
        return {
            "name": self.name,
            "kind": self.kind,
            "basis": config and config.basis,
            "form": config and config.form,
            "degrees": config and list(config.degrees),
            "groups": config and config.groups,
            "axis": config.axis if config and config.groups > 1 else None,
            "dtype": self.dtype,
            "numerator": self.numerator,
            "denominator": self.denominator,
            "runs": self.runs,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class InspectResult:
    """Activations of a model.

    Attributes:
        name: the file's name without its folder, or the module's class.
        kind: "onnx", or as :class:`opau_onnx.io.source.Source` says.
        form: of a file that opau-collapse made; None for others.
        activations: in the order of the model.
        runtime: what was asked what would run them, in words.
        notes: what concerns all of them.
    """

    name: str
    kind: str
    form: str | None
    activations: tuple[InspectedActivation, ...]
    runtime: str
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data; its schema is in docs/inspect.md."""
        content = {
            "schema": SCHEMA,
            "opau_onnx": __version__,
            "model": self.name,
            "kind": self.kind,
            "form": self.form,
            "runtime": self.runtime,
            "activations": [a.as_dict() for a in self.activations],
            "notes": list(self.notes),
        }
        return dict(plain(content))


def extents(numerator: Any, denominator: Any) -> tuple[str, Extent | None, Extent | None, tuple[str, ...]]:
    """(dtype, smallest and largest numerator, likewise denominator, notes) of coefficients as numpy arrays."""
    found: list[Extent | None] = []
    notes = []
    for what, values in (("numerator", numerator), ("denominator", denominator)):
        wide = np.asarray(values).astype(np.float64)
        finite = wide[np.isfinite(wide)]
        if finite.size < wide.size:
            notes.append(f"{wide.size - finite.size} of {wide.size} coefficients of the {what} are NaN or infinite")
        found.append((float(finite.min()), float(finite.max())) if finite.size else None)
    return str(numerator.dtype), found[0], found[1], tuple(notes)


def named(path: Path) -> bool:
    """True for a file that is read as ONNX."""
    return path.suffix.lower() == ".onnx"
