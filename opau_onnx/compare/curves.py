"""Curve data of an activation: its curve where its inputs really are, and the error of each implementation on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from opau_onnx.compare.grids import LARGEST
from opau_onnx.compare.isolated import Function, IsolatedCheck
from opau_onnx.compare.policies import rounding_bound
from opau_onnx.compare.sketches import InputSketch
from opau_onnx.compare.tensors import distances, spacing

POINTS, EACH = 201, 10
"""Points of a curve, and inputs around each of which the largest error is drawn (fewer where many channels see them)."""
GROUPS = 8
"""So many groups are drawn at most."""
USUAL = (-4.0, 4.0)
"""The range that is drawn at least."""


def span(sketch: InputSketch | None) -> tuple[float, float]:
    """(low, high), wider than where nearly all real inputs are."""
    low, high = USUAL
    if sketch is not None and sketch.sample.size:
        first, last = (float(v) for v in np.quantile(sketch.sample, (0.0005, 0.9995)))
        room = 0.1 * (last - first)
        low, high = min(low, first - room), max(high, last + room)
    return low, high


def points(sketch: InputSketch | None, channels: int) -> Tensor:
    """The inputs of a curve, a multiple of POINTS."""
    low, high = span(sketch)
    each = min(max(LARGEST // (2 * POINTS * channels), 1), EACH)
    return torch.linspace(low, high, POINTS * each, dtype=torch.float64)


def drawn(function: Function, count: int, x: Tensor, checks: dict[str, IsolatedCheck]) -> dict[str, Any]:
    """The curve as plain data.

    Args:
        function: the activation.
        count: how many of the first inputs are the curve's.
        x: what was fed.
        checks: runtime -> what it gave for ``x``.
    """
    exact = function.oracle(x)
    unit = spacing(np.where(np.isfinite(exact.value), exact.value, 0.0), function.kind)
    errors = {"torch": distances(exact.value, function.torch(x)) / unit}
    for key, found in checks.items():
        if found.values is not None and found.values.shape == exact.value.shape:
            errors[key] = distances(exact.value, found.values) / unit
    bound = rounding_bound(exact, function.kind) / (2 * unit)
    wide = x.double().numpy()
    places = _places(function, wide.shape, count)
    return {
        "x": _short(_middles(wide[places[0][1]])),
        "groups": [
            {
                "group": group,
                "y": _short(_middles(exact.value[place])),
                "bound_ulp": _short(_largest(bound[place])),
                "ulp": {key: _short(_largest(values[place])) for key, values in errors.items()},
            }
            for group, place in places
        ],
        "groups_left_out": function.config.groups - len(places),
    }


def _places(function: Function, shape: tuple[int, ...], count: int) -> list[tuple[int, tuple[Any, ...]]]:
    """(group, where its curve's inputs are)."""
    config = function.config
    if config.groups == 1:
        return [(0, (slice(count),))]
    axis = config.axis % len(shape)
    along = 0 if axis else len(shape) - 1
    found = []
    for group in sorted({int(g) for g in np.linspace(0, config.groups - 1, min(GROUPS, config.groups))}):
        place: list[Any] = [0] * len(shape)
        place[axis], place[along] = group * (shape[axis] // config.groups), slice(count)
        found.append((group, tuple(place)))
    return found


def _middles(values: Any) -> Any:
    rows = values.reshape(POINTS, -1)
    return rows[:, rows.shape[1] // 2]


def _largest(values: Any) -> Any:
    return values.reshape(POINTS, -1).max(axis=1)


def _short(values: Any) -> list[float]:
    """Six digits: enough to draw."""
    return [float(f"{v:.6g}") for v in values]
