"""From times to medians, ratios and what is read from them. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from opau_onnx.bench.timing import Times

BASES = ("relu", "gelu", "kernel")
"""Subjects that the others are divided by."""
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}

Case = dict[str, Any]


def summary(times: Times) -> dict[str, Any]:
    """Median, quartiles and the fastest turn, in seconds."""
    ordered = sorted(times.seconds)
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return {
        "median_s": quartiles[1],
        "q1_s": quartiles[0],
        "q3_s": quartiles[2],
        "min_s": ordered[0],
        "turns": len(ordered),
        "repeats": times.repeats,
    }


def bandwidth(result: dict[str, Any], elements: int, dtype: str) -> None:
    """Add rates. The bytes are the floor: every element read once and written once."""
    result["gelements_per_s"] = elements / result["median_s"] / 1e9
    result["gbytes_per_s"] = 2 * elements * ITEMSIZE[dtype] / result["median_s"] / 1e9


def ratios(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """base -> subject -> median of the subject over the base's, for each of :data:`BASES` that was measured."""
    return {
        base: {key: r["median_s"] / results[base]["median_s"] for key, r in results.items()}
        for base in BASES
        if base in results
    }


def per_byte(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Time for each byte over float32's, for each other dtype, size and subject that both were measured for."""
    single = {c["elements"]: c["results"] for c in cases if c["dtype"] == "float32"}
    return [
        {
            "dtype": case["dtype"],
            "elements": case["elements"],
            "subject": key,
            "ratio": result["median_s"] / single[case["elements"]][key]["median_s"] * 4 / ITEMSIZE[case["dtype"]],
        }
        for case in cases
        if case["dtype"] != "float32" and case["elements"] in single
        for key, result in case["results"].items()
        if key in single[case["elements"]]
    ]


def goals(cases: Sequence[Case], networks: Sequence[Case]) -> list[dict[str, Any]]:
    """The speeds that the compiled op was built for, each with what was measured and whether it is met (None: not measured)."""
    single = {c["elements"]: c["ratios"] for c in cases if c["dtype"] == "float32"}
    over_kernel = {n: r.get("kernel", {}) for n, r in single.items()}
    from_64ki = [v["gelu"] for n, v in over_kernel.items() if n >= 2**16 and "gelu" in v]
    halves = [r for r in per_byte(cases) if r["dtype"] == "float16" and r["subject"] == "kernel"]
    largest = max((r["ratio"] for r in halves if r["elements"] >= 2**16), default=None)
    batch = {n["batch"]: n["ratios"] for n in networks}
    return [
        _goal("float32, 1 Mi: function body over kernel", over_kernel.get(2**20, {}).get("function"), least=30.0),
        _goal("float32, 64 Ki: kernel over Relu", single.get(2**16, {}).get("relu", {}).get("kernel"), most=2.0),
        _goal("float32, 16 Mi: kernel over Relu", single.get(2**24, {}).get("relu", {}).get("kernel"), most=1.2),
        _goal("float32, 64 Ki and more: Gelu over kernel, least", min(from_64ki, default=None), least=2.0),
        _goal("float16 over float32 per byte, 64 Ki and more, most", largest, most=1.5),
        _goal("LeNet, batch 256: HP-1 over ReLU", batch.get(256, {}).get("relu", {}).get("kernel"), most=1.1),
    ]


def _goal(name: str, value: float | None, *, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    met = None if value is None else (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": value, "at_least": least, "at_most": most, "met": met}
