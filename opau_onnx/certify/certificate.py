"""A certificate: what was swept, on what, and whether it passed."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opau_onnx import native
from opau_onnx._version import __version__
from opau_onnx.certify.activations import Activation
from opau_onnx.certify.sweep import CONDITION_LIMIT, SWEPT, Sweep, sweep
from opau_onnx.errors import LibraryError
from opau_onnx.native.library import build_info, get_library_path

SCHEMA = "opau_onnx.certificate/2"
MAX_ULP = {"float32": 64.0, "float16": 1.0, "bfloat16": 1.0}
"""Largest error allowed where the condition number is below CONDITION_LIMIT and the oracle's bound is 32 units at most; 0.5 is
correctly rounded. Everywhere else the bound alone says what is allowed."""
NOT_COVERED = (
    "float64 kernels: too many inputs to try",
    "CUDA kernels: their bits are compared with these on a GPU by `make gpu`",
    "instruction sets that this machine does not have",
    "coefficients other than these, and pairs of channels whose denominators differ",
    "training: gradients",
)
"""Of what the library holds. What a sweep itself left out is added to it."""
REPEATED = "scalar_fma"
"""The instruction set that stands in for the portable code on most float32 inputs: the same source, compiled with -mfma."""


@dataclass(frozen=True)
class Judged:
    """One activation, its sweeps, and why it does not pass (empty: it does)."""

    activation: Activation
    sweeps: tuple[Sweep, ...]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def certify(
    activation: Activation, dtypes: Sequence[str], *, threads: int, quick: bool = False, max_ulp: float | None = None,
    progress: Callable[[str, int], None] = lambda dtype, done: None,
) -> Judged:  # fmt: skip
    """Sweep one activation over several dtypes and judge it; raises as :func:`~opau_onnx.certify.sweep.sweep`."""
    sweeps = []
    for dtype in dtypes:
        found = sweep(activation, dtype, threads=threads, quick=quick, progress=lambda done, dtype=dtype: progress(dtype, done))  # type: ignore[misc]
        sweeps.append(found)
    reasons = [reason for found in sweeps for reason in judge(found, max_ulp)]
    return Judged(activation, tuple(sweeps), tuple(reasons))


def judge(found: Sweep, max_ulp: float | None = None) -> list[str]:
    """Why a sweep does not pass."""
    reasons = []
    limit = MAX_ULP[found.dtype] if max_ulp is None else max_ulp
    worst, share = found.worst_conditioned, found.share
    if share is None:
        reasons.append(f"{found.dtype}: there is no input of which the oracle's bound says something")
    elif found.beyond:
        reasons.append(
            f"{found.dtype}: {found.beyond} errors exceed the oracle's bound, the first at {found.first_beyond}, the largest "
            f"{share.ulp:.3g} times at x = {share.x!r} ({share.bits}): {share.y!r} for {share.value!r}"
        )
    if worst is not None and worst.ulp > limit:
        reasons.append(f"{found.dtype}: {worst.ulp:.2f} ULP at x = {worst.x!r} ({worst.bits}); {limit:g} allowed")
    if found.violations:
        reasons.append(f"{found.dtype}: {found.violations} inputs break the range policy, the first is {found.first_violation}")
    if found.differences:
        reasons.append(
            f"{found.dtype}: instruction sets differ for {found.differences} inputs, the first is {found.first_difference}"
        )
    for variant in found.variants:
        if variant.differences:
            reasons.append(
                f"{found.dtype}, {variant.name}: {variant.differences} results differ from those of one row, the first at "
                f"{variant.first_difference}"
            )
        elif not variant.compared:
            reasons.append(f"{found.dtype}, {variant.name}: nothing was compared")
    return reasons


def report(model: Path, judged: Sequence[Judged], *, quick: bool, command: str) -> dict[str, Any]:
    """The certificate as JSON's types."""
    library = Path(get_library_path())
    try:
        build: dict[str, Any] | None = build_info()
    except LibraryError:
        build = None
    return {
        "schema": SCHEMA,
        "certificate": not quick,
        "note": "a sample of the float32 inputs: no certificate" if quick else "every input of each dtype was tried",
        "passed": all(j.passed for j in judged),
        "model": {"file": model.name, "sha256": _sha256(model)},
        "library": {"file": library.name, "sha256": _sha256(library), "build": build},
        "instruction_sets": native.instruction_sets(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "opau_onnx": __version__,
        "condition_limit": CONDITION_LIMIT,
        "not_covered": _not_covered(judged, quick),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "activations": [_entry(j) for j in judged],
    }


def _not_covered(judged: Sequence[Judged], quick: bool) -> list[str]:
    found = ["float32 inputs outside the sample"] if quick else []
    for one in judged:
        for s in one.sweeps:
            if s.unjudged:
                found.append(
                    f"{one.activation.nodes[0]}, {s.dtype}: {s.unjudged} inputs of which the oracle's bound says nothing"
                )
    swept = {s.dtype for one in judged for s in one.sweeps}
    found += [f"{dtype}: not asked for" for dtype in SWEPT if dtype not in swept]
    if "float32" in swept and REPEATED in native.instruction_sets():
        found.append(f"float32 in the portable code: 63 of 64 inputs; the same source as {REPEATED} was tried on all")
    return [*found, *NOT_COVERED]


def _entry(judged: Judged) -> dict[str, Any]:
    a = judged.activation
    return {
        "nodes": list(a.nodes),
        "basis": a.config.basis,
        "form": a.config.form,
        "degrees": list(a.config.degrees),
        "safe": a.config.denominator_form.safe,
        "numerator": [float(v) for v in a.numerator],
        "denominator": [float(v) for v in a.denominator],
        "passed": judged.passed,
        "reasons": list(judged.reasons),
        "sweeps": judged.sweeps,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
