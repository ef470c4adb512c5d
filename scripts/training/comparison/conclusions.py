"""Conclusions from the differences, in words."""

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
"""Of activations, for readers; what is not here is called as it is in models/activations.py."""
Compared = dict[str, tuple[Summary, Difference]]


def conclusions(found: Sequence[Summary], inference: Mapping[str, Any]) -> list[str]:
    """Paragraphs.

    Args:
        found: all activations.
        inference: activation -> its time, as :func:`opau_onnx.bench.figures.summary` gives it; may be empty.
    """
    compared = {s.activation: (s, s.difference) for s in found if s.difference is not None and s.difference.seeds > 1}
    if not compared:
        return ["ReLU and another activation have no two seeds in common: nothing can be said of differences."]
    return [_verdicts(compared), _multiplicity(compared), _hermite(compared), _costs(found, inference)]


def name(summary: Summary) -> str:
    """For readers."""
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
    rest = f"{open_} cannot be told from ReLU by these runs." if open_ else "None is left undecided."
    return (
        "By more than the uncertainty of the difference, each activation taken by itself: better than ReLU: "
        f"{better or 'none'}; worse than ReLU: {worse or 'none'}. {rest}"
    )


def _multiplicity(compared: Compared) -> str:
    raised = holm({key: d.p for key, (_, d) in compared.items()})
    left = ", ".join(name(compared[key][0]) for key, p in raised.items() if p < 1 - LEVEL)
    seeds = min(d.seeds for _, d in compared.values())
    return (
        f"{len(compared)} comparisons were made: if no activation differed from ReLU, one in twenty would still seem to. With "
        f"Holm's correction for that, differ at {LEVEL:.0%}: {left or 'none'}. {seeds} seeds are few: an interval from them "
        f"reaches {width(seeds):.1f} standard errors to either side. It tells how training varies, not how test images do: all "
        "were tested on the same."
    )


def _hermite(compared: Compared) -> str:
    return " ".join(
        f"{name(s)} against ReLU: {difference(d)} points; larger than the uncertainty: {d.verdict}."
        for s, d in compared.values()
        if s.activation in ("hp1", "hp2")
    )


def _costs(found: Sequence[Summary], inference: Mapping[str, Any]) -> str:
    by_name = {s.activation: s for s in found}
    lines = []
    for key in ("hp1", "hp2"):
        if key in by_name and BASE in by_name:
            ratio = by_name[key].epoch_seconds / by_name[BASE].epoch_seconds
            line = f"An epoch with {NAMES[key]} takes {ratio:.2f} times ReLU's"
            if key in inference and BASE in inference:
                line += f", inference {inference[key]['median_s'] / inference[BASE]['median_s']:.2f} times"
            lines.append(f"{line}.")
    return " ".join(lines)
