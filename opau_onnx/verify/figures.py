"""The charts of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opau_onnx.compare.names import ORIGINAL, RUNTIMES
from opau_onnx.verify import charts
from opau_onnx.verify.charts import Chart, log10, padded, short

LEAST_ULP = 0.1
"""Errors below are drawn here: the scale has no zero."""
LEAST_SHARE = 1e-3
"""The same for shares of a tolerance."""
DECADES = 12
"""So many are drawn at most; an error or a bound beyond ends at the edge."""


def number(value: Any) -> float:
    """A number of a report, where infinities and NaN are strings."""
    return math.nan if value is None else float(value)


def style(runtime: str) -> str:
    """A runtime's class in the style sheet: the same colour everywhere."""
    names = (*RUNTIMES, ORIGINAL)
    return f"s{names.index(runtime)}" if runtime in names else "s8"


def error_histograms(file: dict[str, Any]) -> list[Chart]:
    """How often errors of each size occur: one chart for each output in each runtime, all with one scale."""
    pairs = [(run, output) for run in file["runtimes"] for output in run["outputs"] if _counted(output)]
    edges = [e for _, output in pairs for e in output["histogram"]["log10_edges"]]
    limits = [math.log10(t) for _, output in pairs if 0 < (t := _tolerance(output)) < math.inf]
    first = math.floor(min([*edges, *limits], default=-9))
    last = math.ceil(max([*edges, *limits], default=0))
    many = len({output["name"] for _, output in pairs}) > 1
    return [_error_histogram(run["name"], output, (first, max(last, first + 1)), many) for run, output in pairs]


def _counted(output: dict[str, Any]) -> int:
    found = output["histogram"]
    return int(sum(found["counts"]) + found["zeros"] + found["infinite"])


def _tolerance(output: dict[str, Any]) -> float:
    worst = output["worst"]
    return number(worst["atol"]) + number(worst["rtol"]) * abs(number(worst["expected"])) if worst else math.nan


def _error_histogram(runtime: str, output: dict[str, Any], span: tuple[int, int], many: bool) -> Chart:
    found, total = output["histogram"], _counted(output)
    room = (span[1] - span[0]) * 0.09
    low, high = span[0] - 2 * room, span[1] + (2 * room if found["infinite"] else 0)
    shares = [100 * n / total for n in found["counts"]]
    zeros, infinite = 100 * found["zeros"] / total, 100 * found["infinite"] / total
    top = max([*shares, zeros, infinite]) * 1.05
    name = f"{runtime}, {output['name']}" if many else runtime
    chart = Chart(
        f"{name}: errors of {total:,} numbers",
        f"The largest is {short(number(output['absolute']['max']))}; {short(zeros)} % are exactly 0; "
        f"{found['infinite']:,} are infinite or NaN on one side only.",
        (low, high), (0.0, top), 180, "absolute error", "% of the numbers",
    )  # fmt: skip
    chart.bar((low + 0.4 * room, low + 1.4 * room), zeros, "zero", f"exactly 0: {found['zeros']:,}")
    for share, count, first, last in zip(shares, found["counts"], found["log10_edges"], found["log10_edges"][1:], strict=False):
        text = f"{short(10**first)} to {short(10**last)}: {count:,}"
        chart.bar((first, last), share, style(runtime), text)
    marks = [(low + 0.9 * room, "0"), *charts.decades(*span, count=5)]
    if found["infinite"]:
        chart.bar((high - 1.4 * room, high - 0.4 * room), infinite, "bad", f"infinite or NaN: {found['infinite']:,}")
        marks.append((high - 0.9 * room, "∞"))
    chart.mark(marks, charts.ticks(0.0, top, 4))
    if 0 < (limit := _tolerance(output)) < math.inf:
        chart.vertical(math.log10(limit), "limit", f"tolerance where it is used most: {short(limit)}")
    return chart


@dataclass
class Row:
    """A place in the table of layers.

    Attributes:
        activation: the name of the layer; "" for the model's results.
        what: "input", "output", "isolated" or "result".
        place: as the report has it; {} for "isolated".
        comparisons: by runtime.
        first: runtimes whose error is beyond the tolerance here, and nowhere before.
    """

    activation: str
    what: str
    place: dict[str, Any]
    comparisons: dict[str, Any]
    first: list[str] = field(default_factory=list)


def layer_rows(layers: dict[str, Any]) -> list[Row]:
    """The places in order, each activation's own error after what it gives in the network."""
    rows = []
    for layer in layers["activations"]:
        rows += [Row(layer["node"], p["what"], p, p["runtimes"]) for p in layer["places"]]
        checks = {name: a["comparison"] for name, a in layer["checks"].items() if a["comparison"]}
        if checks:
            rows.append(Row(layer["node"], "isolated", {}, checks))
    rows += [Row("", "result", p, p["runtimes"]) for p in layers["results"]]
    beyond: set[str] = set()
    for row in (r for r in rows if r.what != "isolated"):
        new = [name for name, found in row.comparisons.items() if not found["equal"] and name not in beyond]
        row.first, beyond = new, beyond | set(new)
    return rows


def layer_chart(rows: Sequence[Row]) -> Chart | None:
    """The share of the tolerance that the error uses, from place to place."""
    rows = [row for row in rows if row.what != "isolated"]
    names = list(dict.fromkeys(name for row in rows for name in row.comparisons))
    if not names or len(rows) < 2:
        return None
    shares = {
        name: [number(c["tolerance_used"]) if (c := row.comparisons.get(name)) else math.nan for row in rows] for name in names
    }
    finite = [v for values in shares.values() for v in values if math.isfinite(v)]
    top = min(max(1.0, math.ceil(log10(max(finite, default=1.0), LEAST_SHARE) + 0.2)), math.log10(LEAST_SHARE) + DECADES)
    chart = Chart(
        "Share of the tolerance that the error uses, place by place",
        "At 1 the error is as large as rounding explains; where a line first crosses 1, a fault lies.",
        (0.5, len(rows) + 0.5), (math.log10(LEAST_SHARE), top), 270, "place (number in the table)", "share of the tolerance",
        width=charts.WIDE,
    )  # fmt: skip
    step = math.ceil(len(rows) / 20)
    marks = [(float(i + 1), str(i + 1)) for i in range(0, len(rows), step)]
    chart.mark(marks, charts.decades(math.log10(LEAST_SHARE), top))
    chart.horizontal(0.0, "limit", "tolerance")
    for name, values in shares.items():
        heights = [log10(v, LEAST_SHARE) if v < math.inf else top for v in values]
        chart.draw([i + 1.0 for i in range(len(rows))], heights, f"{style(name)} dots", name)
    return chart


def activation_charts(found: dict[str, Any]) -> list[Chart]:
    """The curve, the inputs below and the errors below these, on one axis; those of them that are known."""
    curve, inputs = found["curve"], found["inputs"]
    histogram = inputs["histogram"] if inputs else None
    if curve is None and histogram is None:
        return []
    at = [number(v) for v in (curve["x"] if curve else inputs["histogram"]["edges"])]
    span = (at[0], at[-1])
    made = [_curve(found["node"], curve, span)] if curve else []
    made += [_inputs(found["node"], inputs, span)] if histogram else []
    made += [_ulp(found["node"], curve, span)] if curve else []
    return made


def _curve(name: str, curve: dict[str, Any], span: tuple[float, float]) -> Chart:
    x = [number(v) for v in curve["x"]]
    groups = [[number(v) for v in group["y"]] for group in curve["groups"]]
    low, high = padded([v for values in groups for v in values])
    what = f"{len(groups)} groups" if len(groups) > 1 else "the learned function"
    chart = Chart(
        f"{name}: curve", f"{what} for x from {short(span[0])} to {short(span[1])}; values {short(low)} to {short(high)}.",
        span, (low, high), 200, "input x", "output",
    )  # fmt: skip
    chart.mark(charts.ticks(*span), charts.ticks(low, high, 5))
    for axis in (chart.vertical if span[0] < 0 < span[1] else None, chart.horizontal if low < 0 < high else None):
        if axis is not None:
            axis(0.0, "axis", "")
    for values in groups:
        chart.draw(x, values, "curve" if len(groups) == 1 else "curve thin")
    return chart


def _inputs(name: str, inputs: dict[str, Any], span: tuple[float, float]) -> Chart:
    found = inputs["histogram"]
    edges = [number(v) for v in found["edges"]]
    total = max(sum(found["counts"]) + found["below"] + found["above"], 1)
    shares = [100 * n / total for n in found["counts"]]
    top = max([*shares, 1e-9]) * 1.05
    chart = Chart(
        f"{name}: inputs that it really gets",
        f"{inputs['count']:,} inputs from {short(number(inputs['min']))} to {short(number(inputs['max']))}.",
        span, (0.0, top), 120, "input x", "% of inputs",
    )  # fmt: skip
    chart.mark(charts.ticks(*span), charts.ticks(0.0, top, 3))
    for share, count, first, last in zip(shares, found["counts"], edges, edges[1:], strict=False):
        chart.bar((first, last), share, "inputs", f"{short(first)} to {short(last)}: {count:,} of {total:,}")
    return chart


def _ulp(name: str, curve: dict[str, Any], span: tuple[float, float]) -> Chart:
    x, group = [number(v) for v in curve["x"]], _worst_group(curve["groups"])
    bound = [number(v) for v in group["bound_ulp"]]
    errors = {key: [number(v) for v in values] for key, values in group["ulp"].items()}
    finite = [v for values in (bound, *errors.values()) for v in values if math.isfinite(v)]
    low = math.log10(LEAST_ULP)
    top = min(max(math.ceil(log10(max(finite, default=1.0), LEAST_ULP)), low + 1), low + DECADES)
    which = f", group {group['group']}" if len(curve["groups"]) > 1 else ""
    chart = Chart(
        f"{name}: error in ULP{which}",
        "; ".join(f"{key} at most {short(max(values, default=0.0))}" for key, values in errors.items()),
        span, (low, top), 190, "input x", "error, ULP",
    )  # fmt: skip
    chart.mark(charts.ticks(*span), charts.decades(low, top, 5))
    chart.draw(x, _logs(bound, top), "limit", "proven bound")
    for key, values in errors.items():
        chart.draw(x, _logs(values, top), f"{style(key)} thin", key)
    return chart


def _logs(values: Iterable[float], top: float) -> list[float]:
    return [top if v == math.inf else log10(v, LEAST_ULP) for v in values]


def _worst_group(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """That in which an error comes nearest to its bound."""

    def used(group: dict[str, Any]) -> float:
        bound = [number(v) for v in group["bound_ulp"]]
        pairs = [(number(v), b) for values in group["ulp"].values() for v, b in zip(values, bound, strict=True)]
        return max((v / b for v, b in pairs if b > 0 and math.isfinite(v / b)), default=0.0)

    return max(groups, key=used)
