"""Running a module of another library, to make sure of what it computes."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx.core import oracle
from opau_onnx.nn.copying import copy_module
from opau_onnx.nn.peers import Reading

POINTS = 4001
"""Inputs on which a module is compared with what it is taken for."""
SLACK = 8.0
"""How many times the oracle's rounding bound the two may differ: the libraries sum in other orders, some with pow."""


class Found(NamedTuple):
    """Result of running a module: on how many inputs, the largest error, the worst place; or the reason why it did not run."""

    equal: bool
    points: int = 0
    error: float = 0.0
    x: float = 0.0
    theirs: float = 0.0
    expected: float = 0.0
    reason: str = ""


def probe(module: nn.Module, reading: Reading) -> Found:
    """A module's own code, on the CPU, against the oracle on the reading's function."""
    reason = ""
    for dtype in (torch.float64, torch.float32):
        x = _inputs(reading, dtype)
        try:
            theirs = _run(module, x, dtype)
        except (Exception, SystemExit) as error:  # the library's own code; one of them calls exit
            reason = reason or f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            continue
        c, d = (v.detach().double().cpu().numpy() for v in (reading.numerator, reading.denominator))
        known = oracle.evaluate(reading.config, x.double().numpy(), c, d)
        unit = torch.finfo(dtype).eps / 2
        # Close to a pole, or to the jump of a clamped denominator, rounding alone may change everything.
        steady = np.isfinite(known.value) & (known.bound * unit <= 0.01 * np.maximum(np.abs(known.value), 1e-30))
        with np.errstate(all="ignore"):
            difference = np.where(steady, np.abs(theirs - known.value), 0.0)
            used = np.where(np.isnan(difference), np.inf, difference / np.maximum(SLACK * known.bound * unit, 1e-300))
        worst = np.unravel_index(int(np.argmax(used)), used.shape)
        at = (float(x.double().numpy()[worst]), float(theirs[worst]), float(known.value[worst]))
        if not steady.any():
            return Found(False, reason="its values are all lost to rounding")
        return Found(bool(used[worst] <= 1.0), int(steady.sum()), float(difference.max()), *at)
    return Found(False, reason=reason)


def _run(module: nn.Module, x: Tensor, dtype: torch.dtype) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        clone = copy_module(module).cpu().eval()
        clone = clone.double() if dtype == torch.float64 else clone.float()  # not to(dtype): some overload it and fail
        y: Tensor = clone(x)
    if y.shape != x.shape:
        raise ValueError(f"it returned the shape {tuple(y.shape)} for {tuple(x.shape)}")
    return y.double().numpy()


def _inputs(reading: Reading, dtype: torch.dtype) -> Tensor:
    """Dense in [-8, 8], and in float64 up to 10,000; every group of channels sees every value."""
    count = max(POINTS // reading.config.groups, 201)
    values = torch.linspace(-8.0, 8.0, count, dtype=torch.float64)
    if dtype == torch.float64:
        large = torch.logspace(1, 4, 13, dtype=torch.float64)
        values = torch.cat([values, large, -large])
    values = values.to(dtype)
    if reading.rank == 1:
        return values
    rows = values[:, None].expand(-1, reading.config.groups)
    return (rows[None] if reading.rank == 3 else rows.t()[None, :, :, None]).contiguous()
