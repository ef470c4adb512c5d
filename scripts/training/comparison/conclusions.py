"""Conclusions from the differences, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from training.comparison.figures import BASE, LEVEL, Difference, Summary, holm, width

NAMES = {
    "relu": "ReLU", "leaky_relu": "Leaky ReLU", "prelu": "PReLU", "elu": "ELU", "softplus": "Softplus", "silu": "Swish",
    "gelu": "GELU", "mish": "Mish", "tanhsoft": "TanhSoft", "eis": "EIS", "hp1": "HP-1", "hp2": "HP-2",
    "opau_chebyshev": "OPAU Chebyshev T", "opau_chebyshev_u": "OPAU Chebyshev U", "opau_laguerre": "OPAU Laguerre",
    "opau_legendre": "OPAU Legendre", "pau_a": "PAU (F2)", "pau_b": "PAU (F3)",
}  # fmt: skip
"""Display names of activations; others keep their names of models/activations.py."""
Compared = dict[str, tuple[Summary, Difference]]


def conclusions(found: Sequence[Summary], inference: Mapping[str, Any]) -> list[str]:
    """Paragraphs.

    Args:
        found: all activations.
        inference: activation -> its time, as :func:`opau_onnx.bench.figures.summary` gives it; may be empty.
    """
    compared = {s.activation: (s, s.difference) for s in found if s.difference is not None and s.difference.seeds > 1}
    if not compared:
        return ["No activation shares two seeds with ReLU, so differences cannot be assessed."]
    return [_verdicts(compared), _multiplicity(compared), _hermite(compared), _costs(found, inference)]


def name(summary: Summary) -> str:
    """Display name of an activation."""
    return NAMES.get(summary.activation, summary.activation)


def plus_minus(mean: float, half: float, *, sign: bool = False) -> str:
    """E.g. "91.20 ± 0.13", or the mean alone where the rest is not known."""
    first = f"{mean:+.2f}" if sign else f"{mean:.2f}"
    return f"{first} ± {half:.2f}" if math.isfinite(half) else first


def difference(value: Difference | None) -> str:
    """With half its interval; "" where there is none."""
    return "" if value is None else plus_minus(value.mean, value.half, sign=True)


def _verdicts(compared: Compared) -> str:
    better, worse, open_ = (
        ", ".join(name(s) for s, d in compared.values() if d.verdict == verdict)
        for verdict in ("yes, better", "yes, worse", "no")
    )
    rest = f"No significant difference from ReLU: {open_}." if open_ else "All differences are significant."
    return (
        f"At the {LEVEL:.0%} level, without correction for multiple comparisons: better than ReLU: {better or 'none'}; worse "
        f"than ReLU: {worse or 'none'}. {rest}"
    )


def _multiplicity(compared: Compared) -> str:
    raised = holm({key: d.p for key, (_, d) in compared.items()})
    left = ", ".join(name(compared[key][0]) for key, p in raised.items() if p < 1 - LEVEL)
    seeds = min(d.seeds for _, d in compared.values())
    return (
        f"Of {len(compared)} comparisons without a true difference, one in twenty is expected to appear significant by chance. "
        f"Significant after Holm's correction: {left or 'none'}. With only {seeds} seeds the confidence interval extends "
        f"{width(seeds):.1f} standard errors to either side. It covers the variance of training, not that of the test set, "
        "which is the same for all runs."
    )


def _hermite(compared: Compared) -> str:
    return " ".join(
        f"{name(s)} compared with ReLU: {difference(d)} points; significant: {d.verdict}."
        for s, d in compared.values()
        if s.activation in ("hp1", "hp2")
    )


def _costs(found: Sequence[Summary], inference: Mapping[str, Any]) -> str:
    by_name = {s.activation: s for s in found}
    lines = []
    for key in ("hp1", "hp2"):
        if key in by_name and BASE in by_name:
            ratio = by_name[key].epoch_seconds / by_name[BASE].epoch_seconds
            line = f"A training epoch with {NAMES[key]} takes {ratio:.2f} times as long as with ReLU"
            if key in inference and BASE in inference:
                line += f", inference {inference[key]['median_s'] / inference[BASE]['median_s']:.2f} times as long"
            lines.append(f"{line}.")
    return " ".join(lines)
